//! The alerts of the chart, and the page about metrics, speak of what the operator exports: an alert about a name that is
//! not there never fires, and nobody notices.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::conditions::ConditionType;

use super::claims::Claim;
use super::tests::{REPOSITORY, all, backup, scraped, snapshot, storage, yaml};
use super::*;

const CHART: &str = include_str!("../../../../deploy/helm/holdfast/templates/metrics.yaml");
const PAGE: &str = include_str!("../../../../docs/metrics.md");

/// Of each metric its labels, and of each label the values that it has in a cluster with one of everything.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// One of everything, as a scrape tells it.
fn exported() -> Exported {
    let conditions: Vec<String> = ConditionType::ALL
        .iter()
        .map(|kind| {
            format!(
                "{{type: {}, status: 'True', reason: R, message: '', lastTransitionTime: '2026-11-20T02:00:00Z'}}",
                kind.as_str()
            )
        })
        .collect();
    let storage = storage(&format!(
        "{{phase: Ready, lastValidationTime: '2026-11-20T02:00:00Z', repositoryCount: 7, conditions: [{}]}}",
        conditions.join(", ")
    ));
    let ended = backup("repositoryRef: {name: main},", "2026-11-20T02:10:00Z", "Succeeded");
    let claim = Claim {
        namespace: "shop".into(),
        name: "data".into(),
        created: None,
        wish: holdfast_api::wish::ClaimWish::Unsaid,
    };
    let objects = Objects {
        storages: all(&[&storage]),
        repositories: all(&[REPOSITORY]),
        snapshots: all(&[&snapshot("prod", "2026-11-20T03:00:00Z", true)]),
        backups: all(&[&ended]),
        restores: Some(Vec::new()),
        claims: Some(vec![claim]),
        ..Objects::default()
    };
    let metrics = Metrics::new("prod", ClaimsDefault::OptOut);
    metrics.leads(true);
    metrics.look::<Backup>().ended_well();
    drop(metrics.look::<Backup>());
    metrics.watch_interrupted("Backup");
    metrics.seen(&yaml::<Backup>(&backup("", "2026-11-20T02:10:00Z", "Running")));
    metrics.seen(&yaml::<Backup>(&ended));

    let mut found = Exported::new();
    let text = scraped(&objects) + &metrics.answer("/metrics").text;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let known = found.entry(name.to_owned()).or_default();
        for (label, _, value) in matchers(labels.trim_end_matches('}')) {
            known.entry(label).or_default().insert(value);
        }
    }
    found
}

/// Label, operator, value.
type Matcher = (String, String, String);

/// What stands between the braces of a series or a selector.
fn matchers(text: &str) -> Vec<Matcher> {
    let mut rest = text;
    let mut all = Vec::new();
    while let Some((before, after)) = rest.split_once('"') {
        let (value, after) = after.split_once('"').unwrap();
        let before = before.trim_start_matches([',', ' ']);
        let label = before.trim_end_matches(['=', '~', '!']);
        all.push((label.to_owned(), before[label.len()..].to_owned(), value.to_owned()));
        rest = after;
    }
    assert_eq!(rest.trim_matches([',', ' ']), "", "{text}");
    all
}

/// An expression's metrics with their matchers, and the labels by which it groups or joins.
#[derive(Debug, Default, PartialEq)]
struct Expression {
    metrics: Vec<(String, Vec<Matcher>)>,
    groups: Vec<Vec<String>>,
}

fn read(expression: &str) -> Expression {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Expression::default();
    let mut rest = expression;
    while let Some(at) = rest.find(is_of_word) {
        let word: &str = &rest[at..];
        let word = &word[..word.find(|c| !is_of_word(c)).unwrap_or(word.len())];
        rest = &rest[at + word.len()..];
        if word.starts_with("holdfast_") {
            let selector = rest.strip_prefix('{').map(|inner| inner.split_once('}').unwrap());
            found
                .metrics
                .push((word.to_owned(), selector.map(|(inner, _)| matchers(inner)).unwrap_or_default()));
            rest = selector.map_or(rest, |(_, after)| after);
        } else if ["by", "on", "without", "ignoring"].contains(&word) {
            assert!(["by", "on"].contains(&word), "not looked after here: {expression}");
            let (inner, after) = rest.trim_start().strip_prefix('(').unwrap().split_once(')').unwrap();
            found.groups.push(inner.split(',').map(|label| label.trim().to_owned()).collect());
            rest = after;
        }
    }
    found
}

/// The chart's text with one namespace that is left out, and something in the place of each other value.
fn filled_in(template: &str) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (action, after) = part.split_once("}}").unwrap();
        let action = action.trim();
        if action.starts_with('$') || action.starts_with(".Values") {
            text.push_str("26");
        } else if action.ends_with("quote") {
            text.push_str("\"given\"");
        }
        text.push_str(after);
    }
    text
}

/// Name, expression and everything else of each alert.
fn alerts() -> Vec<(String, String, String)> {
    let rules = CHART.split_once("        - alert: ").unwrap().1;
    rules
        .split("        - alert: ")
        .map(|rule| {
            let (name, rest) = rule.split_once('\n').unwrap();
            let begin = rest.find("expr:").unwrap() + "expr:".len();
            let end = rest.find("\n          for:").or(rest.find("\n          labels:")).unwrap();
            let expression = filled_in(rest[begin..end].trim().trim_start_matches(">-"));
            (name.to_owned(), expression, rest[end..].to_owned())
        })
        .collect()
}

#[test]
fn every_alert_is_about_what_the_operator_exports() {
    let exported = exported();
    let alerts = alerts();
    assert_eq!(alerts.len(), CHART.matches("alert: ").count());
    for (name, text, rest) in alerts {
        let expression = read(&text);
        assert!(!expression.metrics.is_empty(), "{name}: {text}");
        for (metric, matchers) in &expression.metrics {
            let labels = exported.get(metric).unwrap_or_else(|| panic!("{name}: nobody exports {metric}"));
            for (label, operator, value) in matchers {
                // Every replica says it of itself; of which namespace it is, Prometheus knows from where it scrapes.
                if metric == "holdfast_leader" && label == "namespace" {
                    continue;
                }
                let values = labels.get(label).unwrap_or_else(|| panic!("{name}: {metric} has no {label}"));
                if operator.starts_with('=') {
                    for value in value.split('|') {
                        assert!(
                            values.contains(value),
                            "{name}: {label} of {metric} is never {value}: {values:?}"
                        );
                    }
                }
            }
            for label in expression.groups.iter().flatten() {
                assert!(labels.contains_key(label), "{name}: {metric} has no label {label}: {text}");
            }
        }
        // What the text of an alert speaks of is still there after grouping.
        let left = expression.groups.first().cloned().unwrap_or_default();
        for label in rest.split("$labels.").skip(1) {
            let label = label.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            assert!(left.iter().any(|known| known == label), "{name}: {label} is none of {left:?}");
        }
    }
}

#[test]
fn the_page_about_metrics_names_those_that_there_are_and_all_of_them() {
    // A histogram is known by its name without the ends of its series.
    let family = |name: &str| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let exported: BTreeSet<String> = exported().keys().map(|name| family(name)).collect();
    let told = |metric: &&str| metric.starts_with("holdfast_") || metric.starts_with("process_");
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")).filter(told);
    let named: BTreeSet<String> = rows
        .flat_map(|row| row.split('|').next().unwrap().split('`'))
        .filter(told)
        .map(str::to_owned)
        .collect();
    assert_eq!(named, exported);
}
