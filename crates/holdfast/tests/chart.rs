//! The chart as helm renders it: every value comes to something, the program takes the arguments that it is given, and
//! Prometheus finds the metrics. `make test` says in `HOLDFAST_HELM` where helm is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not know for such"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const VALUES: &str = include_str!("../../../deploy/helm/holdfast/values.yaml");
const RELEASE_NAMESPACE: &str = "holdfast-system";

/// What helm makes of the chart with these values, each a path and JSON, on top of those that are required.
fn rendered(values: &[(&str, &str)]) -> String {
    let helm = std::env::var_os("HOLDFAST_HELM")
        .expect("set HOLDFAST_HELM to the path of helm (`make test` does), or leave this test out");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/holdfast");
    let mut command = Command::new(helm);
    command.args(["template", "release", "--namespace", RELEASE_NAMESPACE]).arg(chart);
    for (path, value) in
        [("clusterName", r#""lint""#), ("image.repository", r#""lint""#)].iter().chain(values)
    {
        command.arg("--set-json").arg(format!("{path}={value}"));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The only object of a kind.
fn object(text: &str, kind: &str) -> Value {
    let documents = text.split("\n---").map(|part| serde_saphyr::from_str::<Value>(part).unwrap());
    let mut found: Vec<Value> = documents.filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found.remove(0)
}

fn arguments(text: &str) -> Vec<String> {
    let deployment = object(text, "Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// Whether all of `part` is in `whole`.
fn is_within(part: &Value, whole: &Value) -> bool {
    let part = part.as_object().unwrap();
    assert!(!part.is_empty(), "it would select everything");
    part.iter().all(|(key, value)| whole.get(key) == Some(value))
}

/// A value: its path, what it is set to, the values without which it has no meaning, and what stands in the objects because
/// of it and did not before.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const WEB: &[(&str, &str)] = &[("webIdentity.enabled", "true")];
const MONITOR: &[(&str, &str)] = &[("metrics.serviceMonitor.enabled", "true")];
const RULES: &[(&str, &str)] = &[("metrics.rules.enabled", "true")];

const EVERY_VALUE: &[Row] = &[
    ("clusterName", r#""prod-eu""#, &[], &["- --cluster-name=prod-eu\n"]),
    ("image.repository", r#""reg/hf""#, &[], &["image: \"reg/hf:", "- --runner-image=reg/hf:"]),
    ("image.tag", r#""9.8.7""#, &[], &["image: \"lint:9.8.7\"", "- --runner-image=lint:9.8.7\n"]),
    (
        "image.pullPolicy",
        r#""Always""#,
        &[],
        &["imagePullPolicy: Always\n", "- --runner-image-pull-policy=Always\n"],
    ),
    ("imagePullSecrets", r#"[{"name": "own"}]"#, &[], &["imagePullSecrets:\n        - name: own\n"]),
    ("replicas", "3", &[], &["replicas: 3\n"]),
    ("logLevel", r#""debug""#, &[], &["value: \"debug\"\n"]),
    ("crds.enabled", "true", &[("crds.enabled", "false")], &["kind: CustomResourceDefinition\n"]),
    ("validationPeriod", r#""7m""#, &[], &["- --validation-period=7m\n"]),
    ("syncPeriod", r#""8m""#, &[], &["- --sync-period=8m\n"]),
    ("stuckAfter", r#""9m""#, &[], &["- --stuck-after=9m\n"]),
    ("defaults.claims", r#""OptIn""#, &[], &["- --claims-default=OptIn\n"]),
    ("limits.jobsPerNode", "7", &[], &["- --jobs-per-node=7\n"]),
    ("limits.jobsPerNamespace", "6", &[], &["- --jobs-per-namespace=6\n"]),
    (
        "webIdentity.enabled",
        "true",
        &[],
        &["- --web-identity=true\n", "serviceaccounts/token", "tokenreviews"],
    ),
    (
        "webIdentity.services",
        r#"[{"host": "minio.store.svc:9000", "audience": "minio"}]"#,
        WEB,
        &["--web-identity-service=minio.store.svc:9000=minio\""],
    ),
    ("webIdentity.serviceAccounts", r#"["backups"]"#, WEB, &["resourceNames:\n      - backups\n"]),
    (
        "webIdentity.caBundle",
        r#""PEM""#,
        WEB,
        &["- name: HOLDFAST_WEB_IDENTITY_CA\n              value: \"PEM\"\n"],
    ),
    ("metrics.service.enabled", "true", &[], &["kind: Service\n"]),
    ("metrics.serviceMonitor.enabled", "true", &[], &["kind: Service\n", "kind: ServiceMonitor\n"]),
    (
        "metrics.serviceMonitor.labels",
        r#"{"chosen": "by-prometheus"}"#,
        MONITOR,
        &["chosen: by-prometheus\n"],
    ),
    ("metrics.serviceMonitor.interval", r#""17s""#, MONITOR, &["interval: 17s\n"]),
    ("metrics.rules.enabled", "true", &[], &["kind: PrometheusRule\n"]),
    ("metrics.rules.labels", r#"{"chosen": "by-prometheus"}"#, RULES, &["chosen: by-prometheus\n"]),
    ("metrics.rules.maxAgeHours", "30", RULES, &["> 30 * 3600\n", "for: 30h\n", "--max-age 30h"]),
    (
        "metrics.rules.ignoredNamespaces",
        r#"["kube-.*", "scratch"]"#,
        RULES,
        &[
            "_timestamp_seconds{namespace!~\"kube-.*|scratch\"}",
            "{state=\"unprotected\",namespace!~\"kube-.*|scratch\"}",
            "{state=\"incomplete\",namespace!~\"kube-.*|scratch\"}",
        ],
    ),
    (
        "runner.imagePullSecrets",
        r#"[{"name": "a"}, {"name": "b"}]"#,
        &[],
        &["- --runner-image-pull-secret=a\n", "- --runner-image-pull-secret=b\n"],
    ),
    ("runner.resources.requests.cpu", r#""77m""#, &[], &["- --runner-cpu-request=77m\n"]),
    ("runner.resources.requests.memory", r#""177Mi""#, &[], &["- --runner-memory-request=177Mi\n"]),
    ("runner.resources.limits.memory", r#""3Gi""#, &[], &["- --runner-memory-limit=3Gi\n"]),
    ("resources.requests.cpu", r#""78m""#, &[], &["cpu: 78m\n"]),
    ("resources.requests.memory", r#""178Mi""#, &[], &["memory: 178Mi\n"]),
    ("resources.limits.memory", r#""578Mi""#, &[], &["memory: 578Mi\n"]),
    (
        "serviceAccount.name",
        r#""other""#,
        &[],
        &["serviceAccountName: other\n", "name: other\n    namespace: holdfast-system\n"],
    ),
    ("serviceAccount.annotations", r#"{"of.somebody/role": "r"}"#, &[], &["of.somebody/role: r\n"]),
    ("podLabels", r#"{"team": "storage"}"#, &[], &["team: storage\n"]),
    ("podAnnotations", r#"{"mesh": "off"}"#, &[], &["mesh: \"off\"\n"]),
    ("nodeSelector", r#"{"pool": "system"}"#, &[], &["nodeSelector:\n        pool: system\n"]),
    ("tolerations", r#"[{"key": "gpu"}]"#, &[], &["tolerations:\n        - key: gpu\n"]),
    ("affinity", r#"{"nodeAffinity": {}}"#, &[], &["affinity:\n        nodeAffinity: {}\n"]),
    ("priorityClassName", r#""high""#, &[], &["priorityClassName: high\n"]),
];

/// Paths of all values that are not made of others.
fn leaves(values: &Value, path: &str, found: &mut BTreeSet<String>) {
    match values.as_object().filter(|object| !object.is_empty()) {
        Some(object) => {
            for (key, value) in object {
                leaves(value, format!("{path}.{key}").trim_start_matches('.'), found);
            }
        }
        None => drop(found.insert(path.to_owned())),
    }
}

#[test]
fn no_value_of_the_chart_is_ignored() {
    let mut there_are = BTreeSet::new();
    leaves(&serde_saphyr::from_str(VALUES).unwrap(), "", &mut there_are);
    let tried: BTreeSet<String> = EVERY_VALUE.iter().map(|(path, ..)| (*path).to_owned()).collect();
    assert_eq!(tried, there_are, "a value without a row here, or a row of none");

    let mut without: BTreeMap<&[(&str, &str)], String> = BTreeMap::new();
    for (path, value, needed, expected) in EVERY_VALUE {
        let before = without.entry(needed).or_insert_with(|| rendered(needed));
        let mut values = needed.to_vec();
        values.push((path, value));
        let after = rendered(&values);
        for text in *expected {
            assert!(after.contains(text), "{path}={value}: no {text:?} in\n{after}");
            assert!(!before.contains(text), "{path}: {text:?} stands there without it, too");
        }
    }
}

/// Runs the program with these words; its exit code and all that it said.
fn holdfast(words: &[String]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast")).args(words).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// The words of a help that are flags.
fn flags(help: &str) -> BTreeSet<String> {
    let words = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    words.map(|line| format!("--{}", line.split([' ', '=']).next().unwrap())).collect()
}

#[test]
fn the_program_takes_what_the_chart_gives_it_and_the_chart_gives_all_that_it_takes() {
    let mut values: Vec<(&str, &str)> = EVERY_VALUE.iter().map(|(path, value, ..)| (*path, *value)).collect();
    let full = arguments(&rendered(&values));
    values.retain(|(path, _)| *path != "runner.resources.limits.memory");
    values.push(("runner.resources.limits.memory", r#""""#));
    values.push(("limits.jobsPerNode", r#""unlimited""#));
    let without_limits = arguments(&rendered(&values));
    for arguments in [arguments(&rendered(&[])), full.clone(), without_limits] {
        assert_eq!(arguments[0], "operator");
        // Arguments are looked at in their order, and after the last one nothing is begun.
        let (code, said) = holdfast(&[arguments.as_slice(), &["--version".to_owned()]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
    }
    let mistaken = ["operator", "--jobs-per-node=0", "--version"].map(str::to_owned);
    assert_eq!(holdfast(&mistaken).0, Some(2), "else the trial above would show nothing");

    let (_, help) = holdfast(&["operator", "--help"].map(str::to_owned));
    let given: BTreeSet<String> =
        full.iter().skip(1).map(|word| word.split('=').next().unwrap().to_owned()).collect();
    let left: Vec<String> = flags(&help).difference(&given).cloned().collect();
    // By their variables, or not for a chart.
    assert_eq!(left, ["--pod-name", "--sweep-period", "--web-identity-ca"]);
    let text = rendered(&values);
    for variable in ["HOLDFAST_POD_NAME", "HOLDFAST_WEB_IDENTITY_CA"] {
        assert!(text.contains(&format!("- name: {variable}\n")) && help.contains(variable), "{variable}");
    }
}

#[test]
fn prometheus_finds_the_metrics_of_every_replica() {
    let text = rendered(&[MONITOR, &[("podLabels", r#"{"team": "storage"}"#)]].concat());
    let [monitor, service, deployment] =
        ["ServiceMonitor", "Service", "Deployment"].map(|kind| object(&text, kind));
    let names = |ports: &Value| -> BTreeSet<String> {
        ports.as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap().to_owned()).collect()
    };

    assert!(is_within(&monitor["spec"]["selector"]["matchLabels"], &service["metadata"]["labels"]));
    assert_eq!(monitor["spec"]["namespaceSelector"]["matchNames"], serde_json::json!([RELEASE_NAMESPACE]));
    assert_eq!(service["metadata"]["namespace"], RELEASE_NAMESPACE);
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert!(names(&service["spec"]["ports"]).contains(endpoint["port"].as_str().unwrap()));
    assert_eq!(endpoint["path"], "/metrics");

    let pod = &deployment["spec"]["template"];
    assert!(is_within(&service["spec"]["selector"], &pod["metadata"]["labels"]));
    assert!(is_within(&deployment["spec"]["selector"]["matchLabels"], &pod["metadata"]["labels"]));
    let container = &pod["spec"]["containers"][0];
    let port = service["spec"]["ports"][0]["targetPort"].as_str().unwrap();
    let port = container["ports"].as_array().unwrap().iter().find(|known| known["name"] == port).unwrap();
    let address = format!("--metrics-address=0.0.0.0:{}", port["containerPort"]);
    assert!(arguments(&text).contains(&address), "{address}");
    for probe in ["livenessProbe", "readinessProbe"] {
        let port = container[probe]["httpGet"]["port"].as_str().unwrap();
        assert!(names(&container["ports"]).contains(port), "{probe}");
    }
}

#[test]
fn nothing_of_a_template_is_left_in_the_alerts() {
    let text = rendered(&[RULES, &[("metrics.rules.ignoredNamespaces", r#"["kube-.*"]"#)]].concat());
    let rules = object(&text, "PrometheusRule");
    let rules = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert!(!rules.is_empty());
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let balanced = |open, close| expression.matches(open).count() == expression.matches(close).count();
        assert!(balanced('(', ')') && balanced('{', '}'), "{expression}");
        assert!(!expression.contains("{{") && !expression.contains("no value"), "{expression}");
        assert!(rule["alert"].is_string() && rule["annotations"]["summary"].is_string(), "{rule}");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
    }
}
