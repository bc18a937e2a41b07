//! Reading ahead of the lock: a backup begins to read while its lock settles.
//!
//! Taking a lock costs a store with latency some answers and the pause in which others' locks become visible, a third of
//! a second in which nothing else would be done. What is read in that time goes by an index that was read without a
//! lock, so it counts only if each index file of it is still there when the lock is held: a prune that was at work in
//! between has replaced those that name what it deleted. Until that is known nothing is sent to the store and no fault
//! is told. If it does not hold, or others' locks are in the way, what was read is dropped, and the backup begins anew
//! under its lock.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{BackupReport, BackupSpec, Begun, Source, conclude, from_files, perform, prepare};
use crate::error::{Class, Error, ErrorKind, Result};
use crate::event::{Ctx, Event, EventSink, FaultList};
use crate::id::Id;
use crate::lock::{Attempt, LockGuard, LockMode, LockTimes, Locking};
use crate::pipeline::{self, State};
use crate::repository::Repository;
use crate::store::FileKind;
use crate::write::withdraw;

/// Faults that are kept until it is known whether they count. More end the reading ahead; they are told at one go, so
/// that they are no more than those who listen have room for.
const MOST_WITHHELD: usize = FaultList::KEPT;

/// A backup that has its lock and has begun to read. Dropped, it reads no further.
pub struct Ahead<'a> {
    repository: &'a Repository,
    spec: &'a BackupSpec,
    paths: Vec<String>,
    ctx: &'a Ctx,
    reading: Option<Reading<'a>>,
}

/// What is being read, and how it is told that the lock is held.
struct Reading<'a> {
    run: BoxFuture<'a, Result<(Begun, Id)>>,
    state: Arc<State>,
    ctx: Ctx,
    held: oneshot::Sender<()>,
    gate: Arc<Gate>,
}

/// What became of the look whether what was read counts.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    refused: AtomicBool,
}

/// Takes a shared lock, as [`Repository::lock`] does, and begins to read `spec.roots` meanwhile.
///
/// # Errors
/// As [`Repository::lock`], and those of [`backup`](super::backup) that are known before anything is read.
pub fn lock_reading_ahead<'a>(
    repository: &'a Repository,
    locking: &'a Locking,
    spec: &'a BackupSpec,
    ctx: &'a Ctx,
) -> BoxFuture<'a, Result<(LockGuard, Ahead<'a>)>> {
    Box::pin(async move {
        let times = LockTimes::default();
        let Locking { holder, wait, dead_holders } = locking;
        let (paths, source) = from_files(spec)?;
        let reading = begin(repository, spec, paths.clone(), source, ctx);
        let taking = repository.try_lock(LockMode::Shared, holder, dead_holders, ctx, times);
        let (attempt, reading) = beside(taking, reading).await;
        let (guard, reading) = match attempt? {
            Attempt::Held(guard) => (guard, reading),
            Attempt::Busy(_) => {
                // Others may be at work for long: what is read now would be old by then.
                drop(reading);
                let mode = LockMode::Shared;
                (repository.lock_with(mode, holder, *wait, dead_holders, ctx, times).await?, None)
            }
        };
        Ok((guard, Ahead { repository, spec, paths, ctx, reading }))
    })
}

/// Does the one, and the other as far as it comes meanwhile. One that has ended before there was a lock has met
/// something that may be otherwise under the lock.
async fn beside<T>(taking: impl Future<Output = T>, mut reading: Reading<'_>) -> (T, Option<Reading<'_>>) {
    let mut taking = std::pin::pin!(taking);
    tokio::select! {
        biased;
        taken = &mut taking => return (taken, Some(reading)),
        read = &mut reading.run => {
            let why = read.err().map(|e| e.chain());
            tracing::debug!(why, "reading ahead of the lock has failed");
        }
    }
    drop(reading);
    (taking.await, None)
}

fn begin<'a>(
    repository: &'a Repository,
    spec: &'a BackupSpec,
    paths: Vec<String>,
    source: Source,
    ctx: &Ctx,
) -> Reading<'a> {
    let cancel = ctx.cancel.child_token();
    let withheld = Arc::new(Withheld {
        events: Arc::clone(&ctx.events),
        faults: Mutex::new(Some(Vec::new())),
        give_up: cancel.clone(),
    });
    let ctx = Ctx { cancel, events: Arc::clone(&withheld) as Arc<dyn EventSink> };
    let state = Arc::new(State::new(&ctx, spec.unreadable.limit()));
    let (held, is_held) = oneshot::channel();
    let gate = Arc::new(Gate::default());
    let run = {
        let (state, ctx, gate) = (Arc::clone(&state), ctx.clone(), Arc::clone(&gate));
        async move {
            let prepared = prepare(repository, spec, &paths, source, spec.checkpoints, &state, &ctx).await?;
            let (begun, index, plan) = prepared;
            let opened = async {
                let refuse = |why| {
                    gate.refused.store(true, Ordering::SeqCst);
                    Err(Error::new(ErrorKind::LockLost, why))
                };
                if is_held.await.is_err() {
                    return refuse("there is no lock");
                }
                let listed = ctx.run(repository.store().list(FileKind::Index)).await?;
                let listed: HashSet<Id> = listed.into_iter().map(|entry| entry.id).collect();
                if !begun.known.iter().all(|id| listed.contains(id)) {
                    return refuse("the index has changed before the lock was held");
                }
                if !withheld.release() {
                    return refuse("too much could not be read before the lock was held");
                }
                gate.open.store(true, Ordering::SeqCst);
                Ok(())
            };
            state.phase("read");
            let tree = pipeline::run(repository, index, plan, &state, opened.boxed()).await?;
            Ok((begun, tree))
        }
    };
    Reading { run: run.boxed(), state, ctx, held, gate }
}

impl Ahead<'_> {
    /// Goes on to the end, as [`backup`](super::backup) does. `lock` is the one that came with it; it is kept.
    ///
    /// # Errors
    /// As [`backup`](super::backup).
    pub async fn finish(self, lock: &LockGuard) -> Result<BackupReport> {
        let Self { repository, spec, paths, ctx, reading } = self;
        if let Some(reading) = reading
            && let Some(done) = reading.finish(repository, spec, paths, lock).await
        {
            return done;
        }
        // Not a look at the source more, which may hang, after the lock is lost or nobody wants it.
        lock.check()?;
        ctx.check()?;
        let (paths, source) = from_files(spec)?;
        Box::pin(perform(repository, Some(lock), spec, paths, source, ctx)).await
    }
}

impl Reading<'_> {
    /// None where what was read does not count.
    async fn finish(
        self,
        repository: &Repository,
        spec: &BackupSpec,
        paths: Vec<String>,
        lock: &LockGuard,
    ) -> Option<Result<BackupReport>> {
        let Self { run, state, ctx, held, gate } = self;
        // Nobody hears it only where the reading has ended.
        let _ = held.send(());
        let done = match run.await {
            Ok((begun, tree)) => {
                Box::pin(conclude(repository, Some(lock), spec, paths, begun, tree, &state, &ctx)).await
            }
            Err(e) => {
                let refused = gate.refused.load(Ordering::SeqCst);
                let early = !gate.open.load(Ordering::SeqCst);
                // What the reading met before the lock was held may be otherwise under it. A store that does not answer
                // has been asked for long enough.
                if refused || (early && e.class() != Class::Retryable) {
                    tracing::debug!(why = e.chain(), "what was read ahead of the lock does not count");
                    return None;
                }
                Err(lock.blame(e).await)
            }
        };
        Some(match done {
            Err(e) => Err(withdraw(repository, &state.index_files(), e).await),
            done => done,
        })
    }
}

/// Keeps faults back until it is known whether what they are about counts.
struct Withheld {
    events: Arc<dyn EventSink>,
    /// None once all is told at once.
    faults: Mutex<Option<Vec<Event>>>,
    give_up: CancellationToken,
}

impl Withheld {
    /// Tells what was kept back, and keeps nothing back any more. False when there was too much of it.
    fn release(&self) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if self.give_up.is_cancelled() {
            return false;
        }
        for event in faults.take().into_iter().flatten() {
            self.events.event(event);
        }
        true
    }
}

impl EventSink for Withheld {
    fn event(&self, event: Event) {
        if matches!(event, Event::Fault(_) | Event::SnapshotLeftOut { .. } | Event::Progress(_)) {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(faults) = faults.as_mut() {
                if matches!(event, Event::Progress(_)) {
                    // The next one has it all.
                } else if faults.len() < MOST_WITHHELD {
                    faults.push(event);
                } else {
                    self.give_up.cancel();
                }
                return;
            }
        }
        self.events.event(event);
    }
}
