//! How the annotations of a claim and of its namespace are read that say whether the claim is saved: in one way for
//! whoever saves it and whoever tells about it.

use std::collections::BTreeMap;

use crate::backup::ClaimsDefault;
use crate::names::{ANNOTATION_BACKUP, ANNOTATION_BACKUP_K8UP, ANNOTATION_CLAIMS};

/// What a claim says of itself: by [`ANNOTATION_BACKUP`], or by K8up's where that is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimWish {
    /// It is always saved.
    Always,
    /// It never is, by this annotation.
    Never(&'static str),
    /// Its annotation says neither: a slip of the pen, which leaves nothing out.
    Slip,
    /// It has no such annotation.
    Unsaid,
}

impl ClaimWish {
    /// What these annotations of a claim say.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let found = [ANNOTATION_BACKUP, ANNOTATION_BACKUP_K8UP]
            .into_iter()
            .find_map(|key| annotations.get(key).map(|value| (key, truth(value))));
        match found {
            Some((_, Some(true))) => Self::Always,
            Some((key, Some(false))) => Self::Never(key),
            Some((_, None)) => Self::Slip,
            None => Self::Unsaid,
        }
    }

    /// Whether the claim is left out by a Backup that names neither claims nor selectors, where this is the default.
    #[must_use]
    pub fn leaves_out(self, default: ClaimsDefault) -> bool {
        match self {
            Self::Always | Self::Slip => false,
            Self::Never(_) => true,
            Self::Unsaid => default == ClaimsDefault::OptIn,
        }
    }
}

impl ClaimsDefault {
    /// What these annotations of a namespace say instead of the operator's default. A slip of the pen leaves nothing out.
    #[must_use]
    pub fn of_namespace(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let value = annotations.get(ANNOTATION_CLAIMS)?;
        Some(Self::ALL.iter().copied().find(|default| default.as_str() == value).unwrap_or(Self::OptOut))
    }
}

/// A truth value in the forms that K8up takes, which are those of Go's `strconv.ParseBool`; none for any other text.
#[must_use]
pub fn truth(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn ours_counts_before_k8ups_and_both_take_the_same_forms() {
        let of = |all: &[(&str, &str)]| ClaimWish::of(&annotations(all));
        for value in ["0", "f", "F", "false", "False", "FALSE", " false "] {
            assert_eq!(of(&[("holdfast.dev/backup", value)]), ClaimWish::Never("holdfast.dev/backup"));
            assert_eq!(of(&[("k8up.io/backup", value)]), ClaimWish::Never("k8up.io/backup"), "{value}");
        }
        assert_eq!(of(&[("k8up.io/backup", "T")]), ClaimWish::Always);
        assert_eq!(of(&[("k8up.io/backup", "false"), ("holdfast.dev/backup", "1")]), ClaimWish::Always);
        assert_eq!(of(&[("k8up.io/backup", "false"), ("holdfast.dev/backup", "no")]), ClaimWish::Slip);
        assert_eq!(of(&[("k8up.io/exclude", "false")]), ClaimWish::Unsaid);
    }

    #[test]
    fn only_where_nobody_speaks_about_a_claim_the_default_counts() {
        use ClaimsDefault::{OptIn, OptOut};
        let left_out = |wish: ClaimWish| [OptOut, OptIn].map(|default| wish.leaves_out(default));
        assert_eq!(left_out(ClaimWish::Always), [false, false]);
        assert_eq!(left_out(ClaimWish::Never("k")), [true, true]);
        assert_eq!(left_out(ClaimWish::Slip), [false, false]);
        assert_eq!(left_out(ClaimWish::Unsaid), [false, true]);
        let namespace =
            |value: &str| ClaimsDefault::of_namespace(&annotations(&[("holdfast.dev/claims", value)]));
        assert_eq!(namespace("OptIn"), Some(OptIn));
        assert_eq!(namespace("OptOut"), Some(OptOut));
        assert_eq!(namespace("optin"), Some(OptOut), "a slip leaves nothing out");
        assert_eq!(ClaimsDefault::of_namespace(&annotations(&[])), None);
    }
}
