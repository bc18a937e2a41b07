//! Which volume claims there are, as far as metrics need to know: a watch of their metadata only.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use holdfast_api::wish::ClaimWish;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::watch;

/// Written by the volume controller when a claim has its volume.
const BOUND: &str = "pv.kubernetes.io/bind-completed";

/// A bound claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub namespace: String,
    pub name: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What its annotations say about whether it is saved.
    pub wish: ClaimWish,
}

/// The claims of the cluster, as the watch has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    known: Arc<RwLock<Known>>,
}

/// What is known of a bound claim.
#[derive(Debug, Clone, Copy)]
struct Bound {
    created: Option<Timestamp>,
    wish: ClaimWish,
}

#[derive(Debug, Default)]
struct Known {
    /// Absent until all were listed once.
    claims: Option<HashMap<(String, String), Bound>>,
    /// The list under way.
    listing: HashMap<(String, String), Bound>,
}

impl Claims {
    /// All of them; `None` until all were listed.
    pub(super) fn all(&self) -> Option<Vec<Claim>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let claims = known.claims.as_ref()?.iter().map(|((namespace, name), &Bound { created, wish })| {
            Claim { namespace: namespace.clone(), name: name.clone(), created, wish }
        });
        Some(claims.collect())
    }

    /// Follows the claims until told to stop.
    pub(super) async fn follow(self, client: Client, stop: CancellationToken) {
        watch::follow("volume claims", client, stop, |event| self.take(event)).await;
    }

    fn take(&self, event: Event<PartialObjectMeta<PersistentVolumeClaim>>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => known.listing.clear(),
            Event::InitApply(claim) => {
                if let Some((key, bound)) = bound(&claim) {
                    known.listing.insert(key, bound);
                }
            }
            Event::InitDone => known.claims = Some(std::mem::take(&mut known.listing)),
            Event::Apply(claim) => {
                let Some(claims) = &mut known.claims else { return };
                match bound(&claim) {
                    Some((key, bound)) => claims.insert(key, bound),
                    None => claims.remove(&key(&claim)),
                };
            }
            Event::Delete(claim) => {
                if let Some(claims) = &mut known.claims {
                    claims.remove(&key(&claim));
                }
            }
        }
    }
}

fn key(claim: &PartialObjectMeta<PersistentVolumeClaim>) -> (String, String) {
    (claim.namespace().unwrap_or_default(), claim.name_any())
}

/// A claim that has a volume and is to keep it.
fn bound(claim: &PartialObjectMeta<PersistentVolumeClaim>) -> Option<((String, String), Bound)> {
    let annotations = claim.annotations();
    if claim.metadata.deletion_timestamp.is_some()
        || annotations.get(BOUND).map(String::as_str) != Some("yes")
    {
        return None;
    }
    let created = claim.metadata.creation_timestamp.as_ref().map(|made| made.0);
    Some((key(claim), Bound { created, wish: ClaimWish::of(annotations) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, annotations: &str) -> PartialObjectMeta<PersistentVolumeClaim> {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-11-20T02:00:00Z', annotations: {{{annotations}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn bound_claims_are_known_once_all_were_listed_and_followed_from_there() {
        let claims = Claims::default();
        let yes = "pv.kubernetes.io/bind-completed: 'yes'";
        claims.take(Event::Init);
        claims.take(Event::InitApply(claim("data", yes)));
        claims.take(Event::InitApply(claim("waits", "")));
        assert_eq!(claims.all(), None, "half a list says nothing");
        claims.take(Event::InitDone);
        let created = Some("2026-11-20T02:00:00Z".parse().unwrap());
        let data = Claim { namespace: "shop".into(), name: "data".into(), created, wish: ClaimWish::Unsaid };
        assert_eq!(claims.all().unwrap(), std::slice::from_ref(&data));
        claims.take(Event::Apply(claim("data", &format!("{yes}, holdfast.dev/backup: 'false'"))));
        assert_eq!(
            claims.all().unwrap(),
            [Claim { wish: ClaimWish::Never("holdfast.dev/backup"), ..data.clone() }]
        );
        claims.take(Event::Apply(claim("data", yes)));
        assert_eq!(claims.all().unwrap(), [data]);
        // As a Backup reads it.
        claims.take(Event::Apply(claim("data", &format!("{yes}, k8up.io/backup: 'False'"))));
        assert_eq!(claims.all().unwrap()[0].wish, ClaimWish::Never("k8up.io/backup"));
        claims.take(Event::Delete(claim("data", yes)));
        assert_eq!(claims.all().unwrap(), []);
    }
}
