//! What becomes of claims that nobody speaks about, as far as metrics need to know: the operator's default, and what
//! namespaces say instead, by a watch of their metadata only.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use holdfast_api::backup::ClaimsDefault;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::watch;

/// What becomes of claims that nobody speaks about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    /// Where a namespace says nothing.
    pub operator: ClaimsDefault,
    /// What namespaces say; `None` until all were listed.
    pub namespaces: Option<BTreeMap<String, ClaimsDefault>>,
}

impl Defaults {
    /// For the claims of a namespace. As long as it is not known what namespaces say, every claim counts as one to be
    /// saved: one that is called left out is not missed by anybody.
    pub(super) fn of(&self, namespace: &str) -> ClaimsDefault {
        let Some(said) = &self.namespaces else { return ClaimsDefault::OptOut };
        said.get(namespace).copied().unwrap_or(self.operator)
    }
}

/// What the namespaces of the cluster say, as the watch has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Namespaces {
    known: Arc<RwLock<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Absent until all were listed once.
    said: Option<BTreeMap<String, ClaimsDefault>>,
    /// The list under way.
    listing: BTreeMap<String, ClaimsDefault>,
}

impl Namespaces {
    /// What they say; `None` until all were listed.
    pub(super) fn said(&self) -> Option<BTreeMap<String, ClaimsDefault>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).said.clone()
    }

    /// Follows them until told to stop.
    pub(super) async fn follow(self, client: Client, stop: CancellationToken) {
        watch::follow("namespaces", client, stop, |event| self.take(event)).await;
    }

    fn take(&self, event: Event<PartialObjectMeta<Namespace>>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Known { said, listing } = &mut *known;
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(namespace) => say(listing, &namespace),
            Event::InitDone => *said = Some(std::mem::take(listing)),
            Event::Apply(namespace) => {
                if let Some(said) = said {
                    say(said, &namespace);
                }
            }
            Event::Delete(namespace) => {
                if let Some(said) = said {
                    said.remove(&namespace.name_any());
                }
            }
        }
    }
}

fn say(said: &mut BTreeMap<String, ClaimsDefault>, namespace: &PartialObjectMeta<Namespace>) {
    match ClaimsDefault::of_namespace(namespace.annotations()) {
        Some(default) => said.insert(namespace.name_any(), default),
        None => said.remove(&namespace.name_any()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, annotations: &str) -> PartialObjectMeta<Namespace> {
        serde_saphyr::from_str(&format!("metadata: {{name: {name}, annotations: {{{annotations}}}}}"))
            .unwrap()
    }

    #[test]
    fn a_namespace_counts_before_the_operator_once_all_were_listed() {
        use ClaimsDefault::{OptIn, OptOut};
        let namespaces = Namespaces::default();
        let of = |name: &str| Defaults { operator: OptIn, namespaces: namespaces.said() }.of(name);
        namespaces.take(Event::Init);
        namespaces.take(Event::InitApply(namespace("all", "holdfast.dev/claims: OptOut")));
        namespaces.take(Event::InitApply(namespace("silent", "")));
        assert_eq!(of("silent"), OptOut, "half a list says nothing, and nothing is called left out");
        namespaces.take(Event::InitDone);
        assert_eq!((of("all"), of("silent")), (OptOut, OptIn));
        namespaces.take(Event::Apply(namespace("all", "")));
        namespaces.take(Event::Apply(namespace("silent", "holdfast.dev/claims: slip")));
        assert_eq!((of("all"), of("silent")), (OptIn, OptOut));
        namespaces.take(Event::Delete(namespace("silent", "")));
        assert_eq!(of("silent"), OptIn);
    }
}
