//! Which files of a claim are left out: what the Backup says, what the claim says, and what is said of K8up's annotation. What a
//! pattern matches is the engine's affair.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::Reason;
use holdfast_api::backup::Backup;
use holdfast_api::names::{self, ANNOTATION_EXCLUDE, ANNOTATION_RESTIC_ARGS_K8UP};
use holdfast_api::wish::truth;
use holdfast_pattern::Pattern;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use super::validate::Refusal;

/// Which files of a claim are left out, and what is to be said of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Excludes {
    /// Patterns, as restic has them; a leading `/` means the volume's root.
    pub(super) patterns: Vec<String>,
    /// What lies beside a `CACHEDIR.TAG`.
    pub(super) caches: bool,
    /// What the claim asks for and is not done.
    pub(super) warnings: Vec<String>,
}

/// The Backup's rules, and those of the claim: ours, else K8up's.
pub(super) fn left_out(backup: &Backup, claim: &PersistentVolumeClaim) -> Excludes {
    let volumes = &backup.spec.volumes;
    let mut all =
        Excludes { patterns: volumes.exclude.clone(), caches: volumes.exclude_caches, warnings: Vec::new() };
    let annotations: &BTreeMap<String, String> = claim.annotations();
    let ours = annotations.get(ANNOTATION_EXCLUDE);
    let patterns =
        ours.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|pattern| !pattern.is_empty());
    all.patterns.extend(patterns.map(str::to_owned));
    all.warnings = doubts(&claim.name_any(), &all.patterns);
    if let (None, Some(k8ups)) = (ours, annotations.get(ANNOTATION_RESTIC_ARGS_K8UP)) {
        let claim = claim.name_any();
        match serde_json::from_str::<Vec<String>>(k8ups) {
            Ok(args) => k8up(&claim, &args, &mut all),
            Err(error) => all.warnings.push(format!(
                "{claim}: the annotation {ANNOTATION_RESTIC_ARGS_K8UP} is no JSON list of texts ({error}): nothing is \
                 left out for it"
            )),
        }
    }
    all
}

/// Why a Backup's own patterns cannot be used: nothing could be saved with them, so nothing is started. A claim's annotation
/// is the affair of its own volume.
pub(super) fn malformed(backup: &Backup) -> Option<Refusal> {
    let malformed = backup.spec.volumes.exclude.iter().find_map(|text| Pattern::parse_rule(text).err())?;
    Some(Refusal { reason: Reason::InvalidSpec, message: format!("spec.volumes.exclude: {malformed}") })
}

/// restic's arguments as K8up hands them on.
fn k8up(claim: &str, args: &[String], all: &mut Excludes) {
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (flag, value) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        match flag {
            "--exclude" | "-e" | "--iexclude" => {
                if let Some(pattern) = value.or_else(|| rest.next().cloned()) {
                    let any_case = flag == "--iexclude";
                    match from_the_root(claim, &pattern, any_case) {
                        Ok(found) if any_case => {
                            all.patterns.extend(found.iter().map(|pattern| in_any_case(pattern)));
                        }
                        Ok(found) => all.patterns.extend(found),
                        Err(why) => all.warnings.push(format!(
                            "{claim}: {pattern} in the annotation {ANNOTATION_RESTIC_ARGS_K8UP} {}; {ANNOTATION_EXCLUDE} has \
                             patterns from the volume's root",
                            match why {
                                NotTaken::NoPath => format!(
                                    "is left aside: it means no path below {}, where K8up mounts the claim, or the whole claim",
                                    names::data_path(claim)
                                ),
                                NotTaken::Unknown => "cannot be taken over".to_owned(),
                            }
                        )),
                    }
                }
            }
            "--exclude-caches" => all.caches = value.is_none_or(|value| truth(&value) != Some(false)),
            // It is always so.
            "--one-file-system" | "-x" => {}
            _ => all.warnings.push(format!(
                "{claim}: {arg} in the annotation {ANNOTATION_RESTIC_ARGS_K8UP} is not done; what can be left out is \
                 said by {ANNOTATION_EXCLUDE}"
            )),
        }
    }
}

/// Why nothing is made of a pattern of K8up's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotTaken {
    /// It means no path below the claim, or all of them.
    NoPath,
    /// Whether it means the claim is not decided here.
    Unknown,
}

/// Of a pattern that restic would hold against the paths of K8up's runner, which are `/data/<claim>/…`, the patterns that mean the
/// same from the volume's root: what is left of it when those two names are taken off its beginning, in each way in which they can
/// be. A way that leaves nothing would leave out the whole claim, and is none.
fn from_the_root(claim: &str, pattern: &str, any_case: bool) -> Result<Vec<String>, NotTaken> {
    let (back, text) = pattern.strip_prefix('!').map_or(("", pattern), |rest| ("!", rest));
    let mut parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !text.starts_with('/') {
        // At any depth.
        parts.insert(0, "**");
    }
    // Where in the pattern one can be after each name; `**` stands for any number of them.
    let reach = |places: &mut BTreeSet<usize>, mut place: usize| {
        places.insert(place);
        while parts.get(place) == Some(&"**") {
            place += 1;
            places.insert(place);
        }
    };
    let mut places = BTreeSet::new();
    reach(&mut places, 0);
    for name in ["data", claim] {
        let mut after = BTreeSet::new();
        for place in places {
            match parts.get(place) {
                Some(&"**") => reach(&mut after, place),
                // Of the last one nothing would be left.
                Some(part) if place + 1 < parts.len() && is_name(part, name, any_case)? => {
                    reach(&mut after, place + 1);
                }
                _ => {}
            }
        }
        places = after;
    }
    let mut found = Vec::new();
    for place in &places {
        let is_behind_many = place.checked_sub(1).is_some_and(|above| parts.get(above) == Some(&"**"));
        let rest = parts.get(*place..).unwrap_or_default();
        // What stands behind `**` is in what begins with it.
        if (is_behind_many && places.contains(&(place - 1))) || rest.iter().all(|part| *part == "**") {
            continue;
        }
        match rest {
            ["**", rest @ ..] => found.push(format!("{back}{}", rest.join("/"))),
            rest => found.push(format!("{back}/{}", rest.join("/"))),
        }
    }
    if found.is_empty() { Err(NotTaken::NoPath) } else { Ok(found) }
}

/// Whether a part of a pattern means this name, which has no letter that a pattern could mean by something else.
fn is_name(part: &str, name: &str, any_case: bool) -> Result<bool, NotTaken> {
    if part.contains(['[', '\\']) {
        return Err(NotTaken::Unknown);
    }
    let part = if any_case { part.to_lowercase() } else { part.to_owned() };
    Ok(holdfast_pattern::means(&part, name.as_bytes()).unwrap_or(false))
}

/// What somebody should know of patterns that are ours, and were meant otherwise.
fn doubts(claim: &str, patterns: &[String]) -> Vec<String> {
    let place = names::data_path(claim);
    let doubt = |pattern: &String| {
        let text = pattern.strip_prefix('!').unwrap_or(pattern);
        let mut parts = text.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        let is_whole = parts.peek().is_none() || parts.all(|part| part == "*" || part == "**");
        if is_whole && !pattern.starts_with('!') {
            return Some(format!("{claim}: the pattern {pattern} leaves out everything"));
        }
        let below = text.strip_prefix(&place)?;
        (below.is_empty() || below.starts_with('/')).then(|| {
            format!(
                "{claim}: the pattern {pattern} means {text} on the volume, and not where a runner mounts it: patterns \
                 count from the volume's root"
            )
        })
    };
    patterns.iter().filter_map(doubt).collect()
}

/// A pattern that matches whatever the case of the letters: each becomes a class of its two forms. Classes stay as they
/// were written.
fn in_any_case(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len() * 4);
    let (mut in_class, mut escaped) = (false, false);
    for c in pattern.chars() {
        let plain = escaped || in_class;
        match c {
            '[' if !plain => in_class = true,
            ']' if in_class && !escaped => in_class = false,
            _ => {}
        }
        if c.is_ascii_alphabetic() && !plain {
            text.extend(['[', c.to_ascii_lowercase(), c.to_ascii_uppercase(), ']']);
        } else {
            text.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(volumes: &str, annotations: &str) -> Excludes {
        let claim: PersistentVolumeClaim =
            serde_saphyr::from_str(&format!("{{metadata: {{name: data, annotations: {annotations}}}}}"))
                .unwrap();
        let backup: Backup = serde_saphyr::from_str(&format!(
            "{{metadata: {{name: b, namespace: shop}}, spec: {{volumes: {volumes}}}}}"
        ))
        .unwrap();
        left_out(&backup, &claim)
    }

    #[test]
    fn a_pattern_of_the_backup_that_cannot_be_used_is_named() {
        let refused = |exclude: &str| {
            let backup = serde_saphyr::from_str(&format!(
                "{{metadata: {{name: b, namespace: shop}}, spec: {{volumes: {{exclude: {exclude}}}}}}}"
            ));
            malformed(&backup.unwrap()).map(|refusal| refusal.message)
        };
        assert_eq!(refused("['*.tmp', '!keep.tmp', /, 'a[!b]', '\\\\!name']"), None);
        for (bad, why) in
            [("'*.[ch'", "ends inside"), ("'!../x'", ".."), ("'!!x'", "leading !"), ("''", "empty")]
        {
            let message = refused(&format!("['*.tmp', {bad}]")).unwrap();
            assert!(
                message.starts_with("spec.volumes.exclude: ") && message.contains(why),
                "{bad}: {message}"
            );
        }
    }

    #[test]
    fn k8ups_rules_count_where_ours_are_absent() {
        let args = r#"'["--exclude=*.tmp", "-e", "/data/data/cache", "--exclude-caches", "-x"]'"#;
        let k8ups = format!("k8up.io/backup-restic-args: {args}");
        let found = rules("{exclude: [a], excludeCaches: false}", &format!("{{{k8ups}}}"));
        assert_eq!(found.patterns, ["a", "*.tmp", "/cache"]);
        assert!(found.caches && found.warnings.is_empty(), "{found:?}");
        let both = rules("{}", &format!("{{{k8ups}, holdfast.dev/exclude: 'b, c'}}"));
        assert_eq!(both.patterns, ["b", "c"], "ours replace them");
    }

    #[test]
    fn k8ups_absolute_patterns_are_those_of_the_volume() {
        let of = |pattern: &str| from_the_root("shop", pattern, false);
        for (pattern, expected) in [
            ("/data/shop/cache", &["/cache"][..]),
            ("/data/shop/a/*.o", &["/a/*.o"]),
            ("/data/*/cache/", &["/cache"]),
            ("/data/sh?p/cache", &["/cache"]),
            ("/*/s*/cache", &["/cache"]),
            ("/data/**/cache", &["cache"]),
            ("/**/cache", &["cache"]),
            ("/**/shop/cache", &["shop/cache", "/cache"]),
            ("*.tmp", &["*.tmp"]),
            ("data", &["data"]),
            ("cache/x", &["cache/x"]),
            ("*/cache", &["*/cache", "/cache"]),
            ("shop/cache", &["shop/cache", "/cache"]),
            ("data/shop/cache", &["data/shop/cache", "/cache"]),
            // What is taken back in.
            ("!/data/shop/logs/audit", &["!/logs/audit"]),
            ("!*.sql", &["!*.sql"]),
        ] {
            assert_eq!(of(pattern).unwrap(), expected, "{pattern}");
        }
        // All of the claim, another claim, and what is no claim at all.
        let none = [
            "/data/shop",
            "/data/*",
            "/data",
            "/data/**",
            "/**",
            "/",
            "/data/other/cache",
            "/var/cache",
            "!/srv/x",
        ];
        for pattern in none {
            assert_eq!(of(pattern), Err(NotTaken::NoPath), "{pattern}");
        }
        assert_eq!(of("/data/[s]hop/x"), Err(NotTaken::Unknown));
        assert_eq!(from_the_root("shop", "/DATA/Shop/X", true).unwrap(), ["/X"]);
        let told = rules("{}", r#"{k8up.io/backup-restic-args: '["--exclude=/var/cache"]'}"#);
        let [only] = told.warnings.as_slice() else { panic!("{told:?}") };
        assert!(told.patterns.is_empty() && only.contains("/data/data"), "{only}");
    }

    #[test]
    fn patterns_that_were_meant_otherwise_are_told() {
        let told =
            rules("{exclude: [/data/data/x, '!/data/data', /data/database, '*.x', data]}", "{}").warnings;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|warning| warning.contains("volume's root")), "{told:?}");
        for all in ["/", "'*'", "'**'", "/**", "/*"] {
            let told = rules(&format!("{{exclude: [{all}]}}"), "{}").warnings;
            assert!(told.len() == 1 && told[0].contains("everything"), "{all}: {told:?}");
        }
    }

    #[test]
    fn what_is_not_done_for_k8up_is_told() {
        let odd =
            rules("{}", r#"{k8up.io/backup-restic-args: '["--files-from=/x", "--iexclude", "Tmp.[o-q]"]'}"#);
        assert_eq!(odd.patterns, ["[tT][mM][pP].[o-q]"]);
        let [only] = odd.warnings.as_slice() else { panic!("{odd:?}") };
        assert!(only.contains("--files-from=/x") && only.contains("data"), "{only}");
        let broken = rules("{}", "{k8up.io/backup-restic-args: '--exclude x'}");
        assert!(broken.patterns.is_empty() && broken.warnings.len() == 1, "{broken:?}");
    }
}
