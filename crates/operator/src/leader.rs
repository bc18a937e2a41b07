//! Leader election by a Lease: one replica works, the others stand by. Not a lock on repositories.
//!
//! A Lease is taken when nobody holds it, when we held it before, or when it was not renewed for as long as its
//! holder promised. That time is measured on our own clock from when we saw the last change, so that two clocks
//! that differ do no harm. Every write goes under the resourceVersion that was read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::errors::Chain;

/// Name of the Lease.
const LEASE: &str = "holdfast-operator";
/// How long a holder that falls silent keeps the others waiting.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews.
const RENEW: Duration = Duration::from_secs(4);
/// After so long without a renewal the holder stops working: well before the others take over.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Longest time that the work of a holder that has lost the Lease may take to end: others take over a second later.
pub const WIND_DOWN_WHEN_LOST: Duration =
    DURATION.saturating_sub(GIVE_UP).saturating_sub(Duration::from_secs(1));
/// How often a replica that stands by looks.
const LOOK: Duration = Duration::from_secs(2);

/// Our part in the election.
pub struct Election {
    leases: Api<Lease>,
    identity: String,
}

/// What a replica does when it looks at the Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Take,
    Wait,
}

/// What was last seen of a Lease that another replica holds, and when.
struct Seen {
    resource_version: Option<String>,
    at: Instant,
}

impl Election {
    /// A candidate of this name in this namespace.
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), identity }
    }

    /// Waits until this replica is the leader; false when it is to stop before that.
    pub async fn win(&self, stop: &CancellationToken) -> bool {
        let mut seen: Option<Seen> = None;
        loop {
            match self.try_once(&mut seen).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(
                        error = %Chain(&error),
                        "the Lease cannot be read or written"
                    );
                }
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn try_once(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(LEASE).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() },
                spec: Some(self.held(0)),
            };
            return won(self.leases.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone();
        let last = match seen {
            Some(last) if last.resource_version == version => last,
            _ => seen.insert(Seen { resource_version: version, at: Instant::now() }),
        };
        if step(&spec, &self.identity, last.at.elapsed()) == Step::Wait {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        let taken_over = spec.holder_identity.as_deref() != Some(self.identity.as_str());
        lease.spec = Some(self.held(if taken_over { transitions.saturating_add(1) } else { transitions }));
        won(self.leases.replace(LEASE, &PostParams::default(), &lease).await)
    }

    fn held(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Renews until told to stop, or until leadership is lost; false when it is lost.
    pub async fn keep(&self, stop: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return true,
                // Never past the moment of giving up.
                () = tokio::time::sleep(RENEW.min(GIVE_UP.saturating_sub(renewed.elapsed()))) => {}
            }
            // The others count from the write, which may be long before its answer.
            let asked = Instant::now();
            let left = GIVE_UP.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => {
                    tracing::error!("another replica has taken the Lease");
                    return false;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %Chain(&error), "the Lease cannot be renewed");
                }
                Err(_) => {}
            }
            if renewed.elapsed() >= GIVE_UP {
                tracing::error!("the Lease could not be renewed in time");
                return false;
            }
        }
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(LEASE).await? else { return Ok(false) };
        let Some(spec) = lease.spec.as_mut() else { return Ok(false) };
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(false);
        }
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        match self.leases.replace(LEASE, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            // Somebody wrote in between; the next look tells whether it was a takeover.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Lets go, so that another replica takes over at once. That it fails is no harm: the Lease runs out.
    pub async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.leases.get_opt(LEASE).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
            if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.leases.replace(LEASE, &PostParams::default(), &lease).await.map(drop)
        };
        match tokio::time::timeout(Duration::from_secs(5), release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "the Lease could not be released");
            }
            Err(_) => tracing::warn!("the Lease could not be released in time"),
        }
    }
}

/// A write that another replica's write forestalled is no error: it won, and we did not.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn step(spec: &LeaseSpec, me: &str, unchanged_for: Duration) -> Step {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let promised = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    if holder.is_empty() || holder == me || unchanged_for > Duration::from_secs(promised) {
        Step::Take
    } else {
        Step::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_free_ours_or_run_out() {
        let held = |by: &str| LeaseSpec {
            holder_identity: Some(by.into()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let short = Duration::from_secs(1);
        assert_eq!(step(&LeaseSpec::default(), "a", short), Step::Take);
        assert_eq!(step(&held(""), "a", short), Step::Take);
        assert_eq!(step(&held("a"), "a", short), Step::Take);
        assert_eq!(step(&held("b"), "a", short), Step::Wait);
        assert_eq!(step(&held("b"), "a", Duration::from_secs(15)), Step::Wait);
        assert_eq!(step(&held("b"), "a", Duration::from_secs(16)), Step::Take);
    }

    #[test]
    fn the_holder_stops_before_others_take_over() {
        assert!(GIVE_UP < DURATION && RENEW < GIVE_UP);
        assert!(!WIND_DOWN_WHEN_LOST.is_zero() && GIVE_UP + WIND_DOWN_WHEN_LOST < DURATION);
    }
}
