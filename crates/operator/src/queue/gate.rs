//! The queue itself: who waits, which places are taken, and word to those whose turn it is. One lock around it all.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use tokio::time::Instant;

use super::plan::{Answer, Key, Place, Scope, Waiting, plan};
use super::{Limits, Seat, is_over, place_of};
use crate::jobs::{RunKind, RunRef};

/// How long a place is kept for a Job that is not there yet, after its run was last looked at.
const KEPT: Duration = Duration::from_mins(2);
/// How long a place is kept for a run that was told that it is its turn, and does not come.
const CALLED: Duration = Duration::from_mins(1);

/// Who asks for places.
#[derive(Debug, Clone)]
pub struct Asker<'a> {
    /// The run.
    pub run: &'a RunRef,
    /// When it was made.
    pub since: Timestamp,
}

/// A Job that is to be started.
#[derive(Debug, Clone)]
pub struct Demand {
    /// Its component.
    pub component: String,
    /// What it takes a place of.
    pub seat: Seat,
    /// What limits it, but for what the operator's settings say.
    pub limits: Limits,
}

/// The queue.
pub struct Queue {
    inner: Mutex<Inner>,
    per_node: Option<NonZeroU32>,
    per_namespace: Option<NonZeroU32>,
    words: BTreeMap<&'static str, UnboundedSender<RunRef>>,
    heard: Mutex<BTreeMap<&'static str, UnboundedReceiver<RunRef>>>,
}

#[derive(Default)]
struct Inner {
    /// The Jobs at work are known.
    listed: bool,
    /// The Jobs, by namespace and name.
    jobs: HashMap<(String, String), AtWork>,
    /// Places kept for Jobs that are not there yet.
    kept: BTreeMap<Key, Kept>,
    /// Those who wait.
    waiting: BTreeMap<Key, InLine>,
    /// What those who wait were told last.
    answers: BTreeMap<Key, Answer>,
    /// When each namespace last got a place. Forgotten at a restart, but for what the Jobs tell.
    served: BTreeMap<String, Timestamp>,
}

struct AtWork {
    place: Place,
    over: bool,
    /// When it was put down by whoever started it, which a list may not show yet.
    started: Option<Instant>,
}

struct Kept {
    place: Place,
    until: Instant,
}

struct InLine {
    run: RunRef,
    waiting: Waiting,
    called: Option<Instant>,
}

impl Queue {
    /// An empty queue, in which nobody starts before the Jobs are listed.
    pub fn new(per_node: Option<NonZeroU32>, per_namespace: Option<NonZeroU32>) -> Self {
        let mut words = BTreeMap::new();
        let mut heard = BTreeMap::new();
        for kind in [RunKind::Backup, RunKind::Restore] {
            let (sender, receiver) = unbounded();
            words.insert(kind.as_str(), sender);
            heard.insert(kind.as_str(), receiver);
        }
        Self { inner: Mutex::default(), per_node, per_namespace, words, heard: Mutex::new(heard) }
    }

    /// A word for each run of this kind whose turn it is: wakes its reconciler. Whoever asks first gets it.
    pub fn words(&self, kind: RunKind) -> impl Stream<Item = RunRef> + Send + use<> {
        use futures::StreamExt;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.remove(kind.as_str()).map_or_else(|| futures::stream::pending().boxed(), StreamExt::boxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a place for each of these Jobs; what the run asked for before and does not any more is forgotten. A
    /// place that is given is kept until [`Self::started`] or [`Self::give_back`], or until the run is not looked at
    /// any more.
    pub fn ask(&self, asker: &Asker<'_>, demands: &[Demand]) -> BTreeMap<String, Answer> {
        let (namespace, uid) = (&asker.run.namespace, &asker.run.uid);
        let mut inner = self.lock();
        let now = Instant::now();
        inner.waiting.retain(|key, _| key.run != *uid);
        let wanted = |component: &str| demands.iter().any(|demand| demand.component == component);
        inner.kept.retain(|key, _| key.run != *uid || wanted(&key.component));
        for demand in demands {
            let key = Key { run: uid.clone(), component: demand.component.clone() };
            let place = demand.seat.place(namespace, uid);
            if let Some(kept) = inner.kept.get_mut(&key).filter(|kept| kept.place == place) {
                kept.until = now + KEPT;
                continue;
            }
            // It is to run elsewhere by now.
            inner.kept.remove(&key);
            let limits =
                Limits { per_node: self.per_node, per_namespace: self.per_namespace, ..demand.limits };
            let waiting = Waiting {
                key: key.clone(),
                urgent: asker.run.kind == RunKind::Restore,
                since: asker.since,
                limits: limits.of(&demand.seat, namespace, uid),
                place,
            };
            inner.waiting.insert(key, InLine { run: asker.run.clone(), waiting, called: None });
        }
        self.settle(&mut inner, Some(uid));
        Self::answers_of(&inner, uid, demands.iter().map(|demand| demand.component.as_str()))
    }

    /// The answers to what a run asked before, when it asked for all of these and has a place for none: then there is
    /// no need to find out anew what it would need.
    pub fn all_wait(&self, run: &RunRef, components: &[&str]) -> Option<BTreeMap<String, Answer>> {
        let mut inner = self.lock();
        let key = |component: &&str| Key { run: run.uid.clone(), component: (*component).to_owned() };
        if !components.iter().all(|component| inner.waiting.contains_key(&key(component))) {
            return None;
        }
        let answers = Self::answers_of(&inner, &run.uid, components.iter().copied());
        if answers.values().any(|answer| *answer == Answer::Go) {
            return None;
        }
        for component in components {
            // It came, whether or not it is still its turn.
            if let Some(one) = inner.waiting.get_mut(&key(component)) {
                one.called = None;
            }
        }
        Some(answers)
    }

    /// The Job for which a place was kept is there.
    pub fn started(&self, run: &RunRef, component: &str, job: &Job) {
        let mut inner = self.lock();
        inner.kept.remove(&Key { run: run.uid.clone(), component: component.to_owned() });
        let Some((_, place)) = place_of(job) else { return };
        let entry = AtWork { place, over: is_over(job), started: Some(Instant::now()) };
        inner.jobs.insert(place_key(job), entry);
    }

    /// No Job came of a place.
    pub fn give_back(&self, run: &RunRef, component: &str) {
        let mut inner = self.lock();
        if inner.kept.remove(&Key { run: run.uid.clone(), component: component.to_owned() }).is_some() {
            self.settle(&mut inner, None);
        }
    }

    /// The places kept for a run stay its own for a while more, without its asking anew.
    pub fn keep(&self, run: &RunRef) {
        let until = Instant::now() + KEPT;
        let mut inner = self.lock();
        for (_, kept) in inner.kept.iter_mut().filter(|(key, _)| key.run == run.uid) {
            kept.until = until;
        }
    }

    /// The runner of a Job has ended; the Job itself will say so a moment later.
    pub fn over(&self, job: &Job) {
        let mut inner = self.lock();
        let Some(entry) = inner.jobs.get_mut(&place_key(job)).filter(|entry| !entry.over) else { return };
        entry.over = true;
        self.settle(&mut inner, None);
    }

    /// A Job that could run anywhere runs on this node.
    pub fn is_on(&self, job: &Job, node: &str) {
        let mut inner = self.lock();
        let Some(entry) = inner.jobs.get_mut(&place_key(job)) else { return };
        if !entry.place.scopes.iter().any(|scope| matches!(scope, Scope::Node(_))) {
            entry.place.scopes.push(Scope::Node(node.to_owned()));
        }
    }

    /// The run waits for nothing here any more, and starts nothing.
    pub fn forget(&self, run_uid: &str) {
        let mut inner = self.lock();
        let before = inner.kept.len().saturating_add(inner.waiting.len());
        inner.kept.retain(|key, _| key.run != run_uid);
        inner.waiting.retain(|key, _| key.run != run_uid);
        if inner.kept.len().saturating_add(inner.waiting.len()) != before {
            self.settle(&mut inner, None);
        }
    }

    /// Takes in what the watch says of one Job.
    pub(super) fn seen(&self, job: &Job) {
        let Some((_, place)) = place_of(job) else { return };
        let created = job.creation_timestamp().map(|time| time.0);
        let mut inner = self.lock();
        if let Some(created) = created {
            let last = inner.served.entry(place.namespace.clone()).or_insert(created);
            *last = created.max(*last);
        }
        let over = is_over(job);
        let came_free = if let Some(entry) = inner.jobs.get_mut(&place_key(job)) {
            let came_free = over && !entry.over;
            entry.over |= over;
            came_free
        } else {
            inner.jobs.insert(place_key(job), AtWork { place, over, started: None });
            false
        };
        if came_free {
            self.settle(&mut inner, None);
        }
    }

    /// A Job is gone.
    pub(super) fn gone(&self, job: &Job) {
        let mut inner = self.lock();
        if inner.jobs.remove(&place_key(job)).is_some_and(|entry| !entry.over) {
            self.settle(&mut inner, None);
        }
    }

    /// The Jobs of a list that began at `since` are all there are, but for those that were started meanwhile.
    pub(super) fn all_listed(&self, names: &[(String, String)], since: Instant) {
        let mut inner = self.lock();
        inner.jobs.retain(|name, entry| {
            names.contains(name) || entry.started.is_some_and(|started| started >= since)
        });
        inner.listed = true;
        self.settle(&mut inner, None);
    }

    /// Looks for places that nobody came for.
    pub(super) fn tick(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.kept.retain(|_, kept| kept.until > now);
        inner.waiting.retain(|_, one| one.called.is_none_or(|called| called + CALLED > now));
        // Those whose Jobs are gone for long have no turn to lose.
        if inner.served.len() > 10_000 {
            inner.served.clear();
        }
        self.settle(&mut inner, None);
    }

    /// Plans anew. The places of `asker` are kept for it; every other run whose turn it is gets word.
    fn settle(&self, inner: &mut Inner, asker: Option<&String>) {
        if !inner.listed {
            return;
        }
        inner.answers = Self::answers(inner);
        let now = Instant::now();
        let Inner { answers, waiting, kept, served, .. } = inner;
        for (key, _) in answers.iter().filter(|(_, answer)| **answer == Answer::Go) {
            if asker == Some(&key.run) {
                let Some(one) = waiting.remove(key) else { continue };
                served.insert(one.waiting.place.namespace.clone(), Timestamp::now());
                kept.insert(key.clone(), Kept { place: one.waiting.place, until: now + KEPT });
            } else if let Some(one) = waiting.get_mut(key).filter(|one| one.called.is_none()) {
                one.called = Some(now);
                if let Some(words) = self.words.get(one.run.kind.as_str()) {
                    // Fails when the controllers are going down.
                    let _unheard = words.unbounded_send(one.run.clone()).is_err();
                }
            }
        }
    }

    fn answers(inner: &Inner) -> BTreeMap<Key, Answer> {
        let at_work = inner.jobs.values().filter(|entry| !entry.over).map(|entry| entry.place.clone());
        let taken: Vec<Place> = at_work.chain(inner.kept.values().map(|kept| kept.place.clone())).collect();
        let waiting: Vec<Waiting> = inner.waiting.values().map(|one| one.waiting.clone()).collect();
        plan(&taken, &waiting, &inner.served)
    }

    fn answers_of<'c>(
        inner: &Inner,
        uid: &str,
        components: impl Iterator<Item = &'c str>,
    ) -> BTreeMap<String, Answer> {
        let answer = |component: &str| {
            let key = Key { run: uid.to_owned(), component: component.to_owned() };
            let kept = inner.kept.contains_key(&key).then_some(Answer::Go);
            kept.or_else(|| inner.answers.get(&key).cloned()).unwrap_or(Answer::NotKnown)
        };
        components.map(|component| (component.to_owned(), answer(component))).collect()
    }
}

fn place_key(job: &Job) -> (String, String) {
    (job.namespace().unwrap_or_default(), job.name_any())
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
