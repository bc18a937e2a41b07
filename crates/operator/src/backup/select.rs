//! Which claims a Backup is about, and which files of them: by the user's wish alone, whatever can be mounted. Pure.
//!
//! | the claim's annotation | the Backup names claims or selectors | the namespace's default | saved |
//! |---|---|---|---|
//! | `false` | – | – | no |
//! | `true` | – | – | yes |
//! | none | yes | – | when it is named, or a selector matches it |
//! | none | no | `OptOut` | yes |
//! | none | no | `OptIn` | no |
//!
//! Anything else in the annotation is a slip of the pen. It counts as none, but where only its absence would leave the
//! claim out (`OptIn`) the claim is saved: leaving data out because of a slip would be silent loss.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::Reason;
use holdfast_api::backup::{Backup, ClaimsDefault, SkipReason};
use holdfast_api::names::{self, ANNOTATION_BACKUP, ANNOTATION_EXCLUDE, ANNOTATION_RESTIC_ARGS_K8UP};
use holdfast_api::wish::{ClaimWish, truth};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::validate::Refusal;

/// The wish.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    named: BTreeSet<&'a str>,
    selectors: Vec<Selector>,
    default: ClaimsDefault,
}

impl<'a> Wish<'a> {
    /// What a Backup asks for, in a namespace of an operator with this default. A selector that cannot be understood is
    /// refused: it would match nothing in silence.
    pub(super) fn of(
        backup: &'a Backup,
        namespace: &Namespace,
        default: ClaimsDefault,
    ) -> Result<Self, Refusal> {
        let volumes = &backup.spec.volumes;
        let selectors = volumes.selectors.iter().enumerate().map(|(number, selector)| {
            Selector::try_from(selector.clone()).map_err(|error| Refusal {
                reason: Reason::InvalidSpec,
                message: format!("spec.volumes.selectors[{number}] cannot be understood: {error}"),
            })
        });
        Ok(Self {
            named: volumes.claims.iter().map(String::as_str).collect(),
            selectors: selectors.collect::<Result<_, _>>()?,
            default: ClaimsDefault::of_namespace(namespace.annotations()).unwrap_or(default),
        })
    }

    /// The claims that are asked for by name.
    pub(super) fn named(&self) -> impl Iterator<Item = &'a str> {
        self.named.iter().copied()
    }

    /// Why a claim is left out; none when it is to be saved.
    pub(super) fn leaves_out(&self, claim: &PersistentVolumeClaim) -> Option<(SkipReason, String)> {
        let own = ClaimWish::of(claim.annotations());
        match own {
            ClaimWish::Never(key) => {
                let text = format!("the claim has the annotation {key}=false");
                return Some((SkipReason::ExcludedByAnnotation, text));
            }
            ClaimWish::Always => return None,
            ClaimWish::Slip | ClaimWish::Unsaid => {}
        }
        if self.named.is_empty() && self.selectors.is_empty() {
            return own.leaves_out(self.default).then(|| {
                let text = format!(
                    "only claims with the annotation {ANNOTATION_BACKUP}=true are saved here (the default for claims \
                     is OptIn)"
                );
                (SkipReason::NotOptedIn, text)
            });
        }
        let chosen = self.named.contains(claim.name_any().as_str())
            || self.selectors.iter().any(|selector| selector.matches(claim.labels()));
        (!chosen).then(|| {
            let text = match (self.named.is_empty(), self.selectors.is_empty()) {
                (_, true) => "spec.volumes.claims names other claims",
                (true, false) => "no selector of spec.volumes.selectors matches its labels",
                (false, false) => "neither spec.volumes.claims nor spec.volumes.selectors is about it",
            };
            (SkipReason::NotSelected, text.to_owned())
        })
    }
}

/// Which files of a claim are left out.
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
pub(super) fn excludes(backup: &Backup, claim: &PersistentVolumeClaim) -> Excludes {
    let volumes = &backup.spec.volumes;
    let mut all =
        Excludes { patterns: volumes.exclude.clone(), caches: volumes.exclude_caches, warnings: Vec::new() };
    let annotations: &BTreeMap<String, String> = claim.annotations();
    if let Some(ours) = annotations.get(ANNOTATION_EXCLUDE) {
        let patterns = ours.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        all.patterns.extend(patterns.map(str::to_owned));
    } else if let Some(k8ups) = annotations.get(ANNOTATION_RESTIC_ARGS_K8UP) {
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
                    match from_the_root(claim, &pattern) {
                        Some(found) if any_case => all.patterns.push(in_any_case(&found)),
                        Some(found) => all.patterns.push(found),
                        None => all.warnings.push(format!(
                            "{claim}: {pattern} in the annotation {ANNOTATION_RESTIC_ARGS_K8UP} leaves out nothing: it means \
                             no path below {}, where K8up mounts the claim; {ANNOTATION_EXCLUDE} has paths from the \
                             volume's root",
                            names::data_path(claim)
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

/// A pattern for absolute paths, of which K8up's runner knows the claim's as `/data/<claim>`, as one from the volume's root.
/// `None` when it means nothing on this claim, or where the claim itself is, which would leave out everything.
fn from_the_root(claim: &str, pattern: &str) -> Option<String> {
    let Some(absolute) = pattern.strip_prefix('/') else {
        // At any depth, as here.
        return Some(pattern.to_owned());
    };
    let names: Vec<&str> = absolute.split('/').filter(|name| !name.is_empty()).collect();
    match names.as_slice() {
        ["**", rest @ ..] | ["data", "**", rest @ ..] if !rest.is_empty() => {
            Some(format!("/**/{}", rest.join("/")))
        }
        ["data", name, rest @ ..] if (*name == claim || *name == "*") && !rest.is_empty() => {
            Some(format!("/{}", rest.join("/")))
        }
        _ => None,
    }
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

    fn backup(volumes: &str) -> Backup {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: b, namespace: shop}}, spec: {{volumes: {volumes}}}}}"
        ))
        .unwrap()
    }

    fn namespace(annotations: &str) -> Namespace {
        serde_saphyr::from_str(&format!("{{metadata: {{name: shop, annotations: {annotations}}}}}")).unwrap()
    }

    fn claims() -> Vec<PersistentVolumeClaim> {
        serde_saphyr::from_str(
            "
- {metadata: {name: db, labels: {app: db, tier: gold}}}
- {metadata: {name: files, labels: {app: web}}}
- {metadata: {name: in, annotations: {holdfast.dev/backup: 'true'}}}
- {metadata: {name: k8up-in, annotations: {k8up.io/backup: 'True'}}}
- {metadata: {name: k8up-out, labels: {app: db}, annotations: {k8up.io/backup: '0'}}}
- {metadata: {name: out, labels: {app: db}, annotations: {holdfast.dev/backup: 'false', k8up.io/backup: 'true'}}}
- {metadata: {name: slip, annotations: {holdfast.dev/backup: 'yes'}}}
",
        )
        .unwrap()
    }

    /// Names of the claims that are saved.
    fn chosen(volumes: &str, default: ClaimsDefault, annotations: &str) -> Vec<String> {
        let (backup, namespace) = (backup(volumes), namespace(annotations));
        let wish = Wish::of(&backup, &namespace, default).unwrap();
        let claims = claims();
        claims.iter().filter(|claim| wish.leaves_out(claim).is_none()).map(ResourceExt::name_any).collect()
    }

    #[test]
    fn the_default_decides_where_nobody_says_anything() {
        let all = ["db", "files", "in", "k8up-in", "slip"];
        assert_eq!(chosen("{}", ClaimsDefault::OptOut, "{}"), all);
        assert_eq!(
            chosen("{}", ClaimsDefault::OptIn, "{}"),
            ["in", "k8up-in", "slip"],
            "a slip loses nothing"
        );
        let annotated = |value: &str| format!("{{holdfast.dev/claims: {value}}}");
        assert_eq!(chosen("{}", ClaimsDefault::OptIn, &annotated("OptOut")), all);
        assert_eq!(chosen("{}", ClaimsDefault::OptOut, &annotated("OptIn")), ["in", "k8up-in", "slip"]);
        assert_eq!(chosen("{}", ClaimsDefault::OptIn, &annotated("optin")), all, "a slip loses nothing");
    }

    #[test]
    fn names_and_selectors_add_up_and_a_claim_counts_once() {
        let select = |volumes: &str| chosen(volumes, ClaimsDefault::OptIn, "{}");
        assert_eq!(select("{selectors: [{matchLabels: {app: db}}]}"), ["db", "in", "k8up-in"]);
        let two =
            "{selectors: [{matchLabels: {app: db}}, {matchLabels: {tier: gold}}, {matchLabels: {app: web}}]}";
        assert_eq!(select(two), ["db", "files", "in", "k8up-in"], "one of several is enough");
        assert_eq!(
            select("{claims: [slip], selectors: [{matchLabels: {app: web}}]}"),
            ["files", "in", "k8up-in", "slip"]
        );
        let by_expression = "{selectors: [{matchExpressions: [{key: app, operator: NotIn, values: [db]}, {key: app, operator: Exists}]}]}";
        assert_eq!(select(by_expression), ["files", "in", "k8up-in"]);
        assert_eq!(select("{selectors: [{matchLabels: {app: none}}]}"), ["in", "k8up-in"]);
    }

    #[test]
    fn what_is_left_out_says_why() {
        let why = |volumes: &str, default: ClaimsDefault, name: &str| {
            let (backup, namespace) = (backup(volumes), namespace("{}"));
            let wish = Wish::of(&backup, &namespace, default).unwrap();
            let claims = claims();
            wish.leaves_out(claims.iter().find(|claim| claim.name_any() == name).unwrap())
        };
        let (reason, message) = why("{}", ClaimsDefault::OptIn, "db").unwrap();
        assert!(reason.is_harmless() && message.contains("holdfast.dev/backup=true"), "{message}");
        assert_eq!(reason, SkipReason::NotOptedIn);
        let (reason, _) =
            why("{selectors: [{matchLabels: {app: db}}]}", ClaimsDefault::OptOut, "files").unwrap();
        assert_eq!(reason, SkipReason::NotSelected);
        let (reason, message) = why("{claims: [k8up-out]}", ClaimsDefault::OptOut, "k8up-out").unwrap();
        assert_eq!(reason, SkipReason::ExcludedByAnnotation);
        assert!(message.contains("k8up.io/backup"), "{message}");
    }

    #[test]
    fn a_selector_that_cannot_be_understood_is_refused() {
        let broken = backup("{selectors: [{}, {matchExpressions: [{key: app, operator: Like}]}]}");
        let refusal = Wish::of(&broken, &namespace("{}"), ClaimsDefault::OptOut).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidSpec);
        assert!(refusal.message.contains("selectors[1]"), "{}", refusal.message);
    }

    fn rules(volumes: &str, annotations: &str) -> Excludes {
        let claim: PersistentVolumeClaim =
            serde_saphyr::from_str(&format!("{{metadata: {{name: data, annotations: {annotations}}}}}"))
                .unwrap();
        excludes(&backup(volumes), &claim)
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
        for (pattern, expected) in [
            ("/data/shop/cache", Some("/cache")),
            ("/data/shop/a/*.o", Some("/a/*.o")),
            ("/data/*/cache/", Some("/cache")),
            ("/data/**/cache", Some("/**/cache")),
            ("/**/cache", Some("/**/cache")),
            ("cache/x", Some("cache/x")),
            // All of the claim, another claim, and what is no claim at all.
            ("/data/shop", None),
            ("/data/*", None),
            ("/data/**", None),
            ("/**", None),
            ("/data", None),
            ("/data/other/cache", None),
            ("/var/cache", None),
        ] {
            assert_eq!(from_the_root("shop", pattern).as_deref(), expected, "{pattern}");
        }
        let told = rules("{}", r#"{k8up.io/backup-restic-args: '["--exclude=/var/cache"]'}"#);
        let [only] = told.warnings.as_slice() else { panic!("{told:?}") };
        assert!(told.patterns.is_empty() && only.contains("/data/data"), "{only}");
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
