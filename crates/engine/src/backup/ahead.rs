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
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event, EventSink};
use crate::fence;
use crate::id::Id;
use crate::lock::{Attempt, LockGuard, LockMode, LockTimes, Locking};
use crate::pipeline::{self, State};
use crate::repository::Repository;
use crate::store::FileKind;

/// Faults that are kept until it is known whether they count. More end the reading ahead.
const MOST_WITHHELD: usize = 10_000;

/// A backup that has its lock and has begun to read. Dropped, it reads no further.
pub struct Ahead<'a> {
    repository: &'a Repository,
    spec: &'a BackupSpec,
    paths: Vec<String>,
    ctx: &'a Ctx,
    reading: Option<Reading<'a>>,
}

/// What is being read, and how it is told that it may be stored.
struct Reading<'a> {
    run: BoxFuture<'a, Result<(Begun, Id)>>,
    state: Arc<State>,
    ctx: Ctx,
    open: oneshot::Sender<HashSet<Id>>,
    /// The index files that there were once the lock was held.
    listed: HashSet<Id>,
    counts: Arc<AtomicBool>,
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
        let taking = async {
            let attempt = repository.try_lock(LockMode::Shared, holder, dead_holders, ctx, times).await?;
            let Attempt::Held(guard) = attempt else { return Ok(None) };
            // Whether that can be listed decides only whether what was read counts.
            let listed = ctx.run(repository.store().list(FileKind::Index)).await.ok();
            Ok::<_, Error>(Some((guard, listed)))
        };
        let (taken, reading) = beside(taking, reading).await;
        let (guard, reading) = if let Some((guard, listed)) = taken? {
            let reading = listed.zip(reading).map(|(listed, reading)| Reading {
                listed: listed.into_iter().map(|entry| entry.id).collect(),
                ..reading
            });
            (guard, reading)
        } else {
            // Others may be at work for long: what is read now would be old by then.
            drop(reading);
            let mode = LockMode::Shared;
            (repository.lock_with(mode, holder, *wait, dead_holders, ctx, times).await?, None)
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
        _ = &mut reading.run => {}
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
    let (open, opened) = oneshot::channel::<HashSet<Id>>();
    let counts = Arc::new(AtomicBool::new(false));
    let run = {
        let (state, ctx, counts) = (Arc::clone(&state), ctx.clone(), Arc::clone(&counts));
        async move {
            let prepared = prepare(repository, spec, &paths, source, spec.checkpoints, &state, &ctx).await?;
            let (begun, index, plan) = prepared;
            let gate = async {
                let listed = opened.await.unwrap_or_default();
                if begun.known.iter().all(|id| listed.contains(id)) {
                    counts.store(true, Ordering::SeqCst);
                    withheld.release();
                    return Ok(());
                }
                Err(Error::new(ErrorKind::Listing, "the index has changed before the lock was held"))
            };
            state.phase("read");
            let tree = pipeline::run(repository, index, plan, &state, gate.boxed()).await?;
            Ok((begun, tree))
        }
    };
    Reading { run: run.boxed(), state, ctx, open, listed: HashSet::new(), counts }
}

impl Ahead<'_> {
    /// Goes on to the end, as [`backup`](super::backup) does. `lock` is the one that came with it; it is kept.
    ///
    /// # Errors
    /// As [`backup`](super::backup).
    pub async fn finish(self, lock: &LockGuard) -> Result<BackupReport> {
        let Self { repository, spec, paths, ctx, reading } = self;
        if let Some(Reading { run, state, ctx, open, listed, counts }) = reading {
            // Nobody hears it only where the reading has ended.
            let _ = open.send(listed);
            let read = run.await;
            if counts.load(Ordering::SeqCst) {
                let done = match read {
                    Ok((begun, tree)) => {
                        Box::pin(conclude(repository, Some(lock), spec, paths, begun, tree, &state, &ctx))
                            .await
                    }
                    // A lost lock cancels the run; that is the reason to name then.
                    Err(e) => Err(lock.check().err().unwrap_or(e)),
                };
                return match done {
                    Err(e) => Err(fence::withdraw(repository, &state.index_files(), e).await),
                    done => done,
                };
            }
            tracing::debug!("what was read ahead of the lock does not count, and is read again");
        }
        let (paths, source) = from_files(spec)?;
        Box::pin(perform(repository, Some(lock), spec, paths, source, ctx)).await
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
    fn release(&self) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        for event in faults.take().into_iter().flatten() {
            self.events.event(event);
        }
    }
}

impl EventSink for Withheld {
    fn event(&self, event: Event) {
        if matches!(event, Event::Fault(_) | Event::SnapshotLeftOut { .. }) {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(faults) = faults.as_mut() {
                if faults.len() < MOST_WITHHELD {
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
