//! Which claims a Backup is about (which files of them, `excludes`): by the user's wish alone, whatever can be mounted. Pure.
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

use std::collections::BTreeSet;

use holdfast_api::Reason;
use holdfast_api::backup::{Backup, ClaimsDefault, SkipReason};
use holdfast_api::names::ANNOTATION_BACKUP;
use holdfast_api::wish::ClaimWish;
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

    /// The places, from 0, of the selectors that match none of these claims. In a namespace without claims no selector is
    /// wrong.
    pub(super) fn idle_selectors(&self, claims: &[PersistentVolumeClaim]) -> Vec<usize> {
        let is_idle = |selector: &Selector| {
            !claims.is_empty() && !claims.iter().any(|claim| selector.matches(claim.labels()))
        };
        self.selectors
            .iter()
            .enumerate()
            .filter(|(_, selector)| is_idle(selector))
            .map(|(place, _)| place)
            .collect()
    }

    /// Whether the claims are chosen by these selectors alone.
    pub(super) fn is_by(&self, selectors: &[usize]) -> bool {
        self.named.is_empty() && !selectors.is_empty() && selectors.len() == self.selectors.len()
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
}
