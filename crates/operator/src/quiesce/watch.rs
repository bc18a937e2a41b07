//! Wakes a run when pods of its namespace come or go, for as long as it waits for that. Only namespaces with such
//! a run are watched: a watch on all pods of a cluster would carry every heartbeat of every pod.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{Lookup, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::task::AbortHandle;

/// Watches pods on behalf of runs of the kind `K`.
pub struct PodWatch<K: Lookup<DynamicType = ()> + 'static> {
    watches: Mutex<HashMap<String, AbortHandle>>,
    wake: mpsc::Sender<ObjectRef<K>>,
}

/// Wake-ups waiting to be taken; beyond that a watch waits.
const WAITING: usize = 16;

impl<K: Lookup<DynamicType = ()> + 'static> PodWatch<K> {
    /// The watch, and the stream of runs to wake.
    pub fn new() -> (Self, mpsc::Receiver<ObjectRef<K>>) {
        let (wake, woken) = mpsc::channel(WAITING);
        (Self { watches: Mutex::default(), wake }, woken)
    }

    /// Wakes the run `object` whenever a pod of its namespace changes that uses one of the claims.
    /// Does nothing when that is already so.
    pub fn start(
        &self,
        client: &Client,
        namespace: &str,
        uid: &str,
        object: ObjectRef<K>,
        claims: Vec<String>,
    ) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if watches.contains_key(uid) {
            return;
        }
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let mut wake = self.wake.clone();
        let task = tokio::spawn(async move {
            let mut events = watcher(pods, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                let matters = match event {
                    Ok(
                        watcher::Event::Apply(pod)
                        | watcher::Event::InitApply(pod)
                        | watcher::Event::Delete(pod),
                    ) => uses_any(&pod, &claims),
                    Ok(watcher::Event::Init | watcher::Event::InitDone) => true,
                    Err(_) => false,
                };
                if matters && wake.send(object.clone()).await.is_err() {
                    return;
                }
            }
        });
        watches.insert(uid.to_owned(), task.abort_handle());
    }

    /// Stops waking a run.
    pub fn stop(&self, uid: &str) {
        if let Some(task) = self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(uid) {
            task.abort();
        }
    }
}

impl<K: Lookup<DynamicType = ()> + 'static> Drop for PodWatch<K> {
    fn drop(&mut self) {
        for task in self.watches.lock().unwrap_or_else(PoisonError::into_inner).values() {
            task.abort();
        }
    }
}

fn uses_any(pod: &Pod, claims: &[String]) -> bool {
    let name = pod.metadata.name.as_deref();
    pod.spec
        .as_ref()
        .is_some_and(|spec| claims.iter().any(|claim| crate::volumes::uses_claim(spec, name, claim)))
}
