//! Locks: restic's lock files, which every client heeds, and the proof that their holders are gone.
//!
//! A lock that stays behind stops other clients for ever, so: every way out removes ours, and a next run of the
//! same Job, or on the same machine, removes one whose holder provably died. Age alone proves nothing.

mod guard;

use futures::future::BoxFuture;
use std::sync::LazyLock;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use rustix::process::{Pid, test_kill_process};

pub use crate::format::lock_file::{Lock, LockExtra};
pub use guard::LockGuard;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Ctx, Event};
use crate::format::time::OffsetTime;
use crate::id::Id;
use crate::repository::Repository;
use crate::store::{Entry, FileKind, FileName};

/// Who takes a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// `holdfast-<job uid>` in Jobs, the machine's name for people. restic calls a lock stale when it bears its
    /// own host name and the process is gone; all pods have a process 1, so their names must differ.
    pub hostname: String,
    /// Who runs it.
    pub username: String,
    /// Its process.
    pub pid: u32,
    /// The cluster of the Job.
    pub cluster: Option<String>,
    /// The Job.
    pub job_uid: Option<String>,
}

impl Holder {
    /// This process, which is no Job's.
    pub fn this_process(hostname: impl Into<String>, username: impl Into<String>) -> Self {
        let (hostname, username) = (hostname.into(), username.into());
        Self { hostname, username, pid: std::process::id(), cluster: None, job_uid: None }
    }
}

/// Who takes locks, and how long to wait for others' to go.
#[derive(Debug, Clone)]
pub struct Locking {
    /// Written into the locks.
    pub holder: Holder,
    /// How long to wait.
    pub wait: Duration,
    /// Jobs that are known to be finished, whose locks may be removed.
    pub dead_holders: Vec<String>,
}

/// Whether others may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Together with other shared locks.
    Shared,
    /// Alone.
    Exclusive,
}

/// Which locks to remove by force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlock {
    /// Every one. Only when nothing uses the repository.
    All,
    /// Those older than 30 minutes by the store's clock, and those whose process on this machine is gone.
    Stale,
    /// Those of these Jobs, which the caller knows to be finished.
    Jobs(Vec<String>),
}

/// Times that tests shorten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LockTimes {
    /// Between writing a lock and looking who else did, where listings may be late.
    settle: Duration,
    /// Shortest and longest pause while waiting for others.
    poll: (Duration, Duration),
    /// Pauses before an unreadable lock is read again.
    reread: [Duration; 3],
    /// Between two refreshes.
    pub(crate) refresh: Duration,
    /// After a failed refresh.
    pub(crate) refresh_again: Duration,
    /// Without a refresh for so long the lock counts as lost: other clients take it for stale after 30 minutes.
    pub(crate) lost_after: Duration,
}

impl Default for LockTimes {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(200),
            poll: (Duration::from_secs(5), Duration::from_mins(1)),
            reread: [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20)],
            refresh: Duration::from_mins(5),
            refresh_again: Duration::from_secs(30),
            lost_after: Duration::from_secs(22 * 60 + 30),
        }
    }
}

/// Age at which every client calls a lock stale.
const STALE_SECONDS: i64 = 30 * 60;

impl Repository {
    /// Takes a lock, waiting up to `wait` for others to end. `Locked` names the holders.
    ///
    /// Locks of an earlier pod of the same Job, of Jobs in `dead_holders` (which the caller has proved to be
    /// finished or gone) and of dead processes of this very machine are removed on the way.
    pub fn lock<'a>(
        &'a self,
        mode: LockMode,
        holder: &'a Holder,
        wait: Duration,
        dead_holders: &'a [String],
        ctx: &'a Ctx,
    ) -> BoxFuture<'a, Result<LockGuard>> {
        Box::pin(
            async move { self.lock_with(mode, holder, wait, dead_holders, ctx, LockTimes::default()).await },
        )
    }

    pub(crate) async fn lock_with(
        &self,
        mode: LockMode,
        holder: &Holder,
        wait: Duration,
        dead_holders: &[String],
        ctx: &Ctx,
        times: LockTimes,
    ) -> Result<LockGuard> {
        let end = tokio::time::Instant::now() + wait;
        let mut pause = times.poll.0;
        loop {
            let attempt = self.try_lock(mode, holder, dead_holders, ctx, times).await?;
            let holders = match attempt {
                Attempt::Held(guard) => return Ok(guard),
                Attempt::Busy(holders) => holders,
            };
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::Locked,
                    format!(
                        "{} is locked by {holders}; wait for it, or remove the lock with unlock if that is gone",
                        self.store().describe()
                    ),
                ));
            }
            ctx.events.event(Event::WaitingForLock { holder: holders });
            let mut random = [128_u8];
            crate::crypto::random(&mut random)?;
            let [random] = random;
            let jittered = pause.mul_f64(0.5 + f64::from(random) / 512.0).min(left);
            ctx.run(async {
                tokio::time::sleep(jittered).await;
                Ok(())
            })
            .await?;
            pause = (pause * 2).min(times.poll.1);
        }
    }

    /// One try. Whoever is in the way is not waited for.
    pub(crate) async fn try_lock(
        &self,
        mode: LockMode,
        holder: &Holder,
        dead_holders: &[String],
        ctx: &Ctx,
        times: LockTimes,
    ) -> Result<Attempt> {
        LazyLock::force(&FIRST_LOCK);
        let here = machine();
        let is_dead = |lock: &Lock| provably_dead(lock, holder, dead_holders, here.as_deref());
        let mut others = ctx.run(self.read_locks(times.reread, None)).await?.0;
        let mut living = Vec::new();
        for (entry, lock) in others.drain(..) {
            if is_dead(&lock) {
                tracing::info!(lock = %entry.id, holder = %describe(&lock), "removing the lock of a dead holder");
                match self.store().delete(FileName { kind: FileKind::Lock, id: entry.id }).await {
                    // The store keeps it for a while; its holder is dead all the same.
                    Err(e) if e.kind() == ErrorKind::Retained => {}
                    other => other?,
                }
            } else {
                living.push((entry, lock));
            }
        }
        if let Some(holders) = conflict(&living, mode) {
            return Ok(Attempt::Busy(holders));
        }
        let lock = Lock {
            time: OffsetTime::utc(Timestamp::now()),
            exclusive: mode == LockMode::Exclusive,
            hostname: holder.hostname.clone(),
            username: holder.username.clone(),
            pid: holder.pid,
            uid: Some(rustix::process::getuid().as_raw()),
            gid: Some(rustix::process::getgid().as_raw()),
            holdfast: Some(LockExtra {
                cluster: holder.cluster.clone(),
                job_uid: holder.job_uid.clone(),
                machine: here.clone(),
            }),
        };
        // From here on the guard's drop removes the lock on every way out.
        let mut guard = LockGuard::write(self.clone(), lock, ctx.clone(), times).await?;
        let looked = ctx
            .run(async {
                // Of two that write and then look, one at least sees the other, if what is written is seen at once.
                if !self.store().lists_at_once().await {
                    tokio::time::sleep(times.settle).await;
                }
                self.read_locks(times.reread, Some(guard.id())).await
            })
            .await;
        let (looked, seen) = match looked {
            // Dead ones that the store keeps for a while are in nobody's way.
            Ok((mut looked, seen)) => {
                looked.retain(|(_, lock)| !is_dead(lock));
                (looked, seen)
            }
            Err(e) => {
                guard.abandon().await;
                return Err(e);
            }
        };
        if let Some(holders) = conflict(&looked, mode) {
            guard.abandon().await;
            return Ok(Attempt::Busy(holders));
        }
        if !seen {
            guard.abandon().await;
            return Err(Error::new(
                ErrorKind::LockLost,
                format!("a lock just written to {} is not in its listing", self.store().describe()),
            ));
        }
        guard.keep();
        Ok(Attempt::Held(guard))
    }

    /// All locks. One that vanishes meanwhile is left out; one that stays unreadable is an error, since nobody
    /// can say what it forbids.
    pub async fn locks(&self) -> Result<Vec<(Id, Lock)>> {
        let (read, _) = self.read_locks(LockTimes::default().reread, None).await?;
        Ok(read.into_iter().map(|(entry, lock)| (entry.id, lock)).collect())
    }

    /// All locks but `ours`, and whether that one is listed.
    async fn read_locks(
        &self,
        reread: [Duration; 3],
        ours: Option<Id>,
    ) -> Result<(Vec<(Entry, Lock)>, bool)> {
        let mut listed = self.store().list(FileKind::Lock).await?;
        let all = listed.len();
        listed.retain(|entry| Some(entry.id) != ours);
        let seen = listed.len() < all;
        let mut locks: Vec<(Entry, Lock)> = stream::iter(listed)
            .map(|entry| async move {
                let mut pauses = reread.into_iter();
                loop {
                    match self.read_lock(&entry.id).await {
                        Ok(lock) => return Ok(Some((entry, lock))),
                        Err(e) if e.kind() == ErrorKind::Missing => return Ok(None),
                        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Format) => match pauses.next() {
                            Some(pause) => tokio::time::sleep(pause).await,
                            None => {
                                return Err(Error::with_source(
                                    ErrorKind::Locked,
                                    format!("lock {} cannot be read, so nobody knows what it forbids; if nothing uses \
                                        the repository, remove all locks", entry.id),
                                    e,
                                ));
                            }
                        },
                        Err(e) => return Err(e),
                    }
                }
            })
            .buffer_unordered(8)
            .try_filter_map(|found| async move { Ok::<_, Error>(found) })
            .try_collect()
            .await?;
        locks.sort_by_key(|(entry, lock)| (lock.time.timestamp, entry.id));
        Ok((locks, seen))
    }

    async fn read_lock(&self, id: &Id) -> Result<Lock> {
        let json = self.load_unpacked(FileKind::Lock, id).await?;
        serde_json::from_slice(&json)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, format!("lock {id} is not readable"), e))
    }

    /// Removes locks by force and says which. Locks that cannot be read are removed by `All` only; their entry
    /// is not in the answer.
    pub fn unlock(&self, which: Unlock) -> BoxFuture<'_, Result<Vec<(Id, Lock)>>> {
        Box::pin(async move { self.unlock_with(which, LockTimes::default()).await })
    }

    pub(crate) async fn unlock_with(&self, which: Unlock, times: LockTimes) -> Result<Vec<(Id, Lock)>> {
        let mut removed = Vec::new();
        match &which {
            Unlock::All => {
                for entry in self.store().list(FileKind::Lock).await? {
                    let lock = self.read_lock(&entry.id).await.ok();
                    self.store().delete(FileName { kind: FileKind::Lock, id: entry.id }).await?;
                    removed.extend(lock.map(|l| (entry.id, l)));
                }
            }
            Unlock::Stale => {
                let machine = machine();
                let now = self.store_time().await?;
                for (entry, lock) in self.read_locks(times.reread, None).await?.0 {
                    // A holder whose clock is wrong still touches the file: the younger of the two counts.
                    let age = |since: i64| now.saturating_sub(since);
                    let written = entry.modified.map_or(i64::MAX, age);
                    let claimed = age(lock.time.timestamp.as_second());
                    let old = match entry.modified {
                        Some(_) => written > STALE_SECONDS,
                        None => claimed > STALE_SECONDS,
                    };
                    if old || dead_here(&lock, machine.as_deref()) {
                        self.store().delete(FileName { kind: FileKind::Lock, id: entry.id }).await?;
                        removed.push((entry.id, lock));
                    }
                }
            }
            Unlock::Jobs(jobs) => {
                for (entry, lock) in self.read_locks(times.reread, None).await?.0 {
                    if job_of(&lock).is_some_and(|job| jobs.iter().any(|j| j == job)) {
                        self.store().delete(FileName { kind: FileKind::Lock, id: entry.id }).await?;
                        removed.push((entry.id, lock));
                    }
                }
            }
        }
        Ok(removed)
    }

    /// Now, in seconds since 1970, by the clock that stamps the store's files; ours where the store has none.
    async fn store_time(&self) -> Result<i64> {
        let holder = Lock {
            time: OffsetTime::utc(Timestamp::now()),
            exclusive: false,
            hostname: "holdfast-unlock".to_owned(),
            username: String::new(),
            pid: std::process::id(),
            uid: None,
            gid: None,
            holdfast: Some(LockExtra { machine: machine(), ..LockExtra::default() }),
        };
        let mut guard = LockGuard::write(self.clone(), holder, Ctx::default(), LockTimes::default()).await?;
        let listed = self.store().list(FileKind::Lock).await;
        let id = guard.id();
        guard.abandon().await;
        let stamped = listed?.into_iter().find(|e| e.id == id).and_then(|e| e.modified);
        Ok(stamped.unwrap_or_else(|| Timestamp::now().as_second()))
    }
}

/// What came of one try to take a lock.
pub(crate) enum Attempt {
    Held(LockGuard),
    /// Who is in the way.
    Busy(String),
}

/// The holders that `mode` cannot go together with.
fn conflict(locks: &[(Entry, Lock)], mode: LockMode) -> Option<String> {
    let holders: Vec<String> = locks
        .iter()
        .filter(|(_, lock)| mode == LockMode::Exclusive || lock.exclusive)
        .map(|(_, lock)| describe(lock))
        .collect();
    (!holders.is_empty()).then(|| holders.join(" and "))
}

/// A lock's holder, for people.
fn describe(lock: &Lock) -> String {
    let mode = if lock.exclusive { "exclusively" } else { "for shared use" };
    let job = job_of(lock).map(|j| format!(" (Job {j})")).unwrap_or_default();
    format!("{}@{}, process {}{job}, {mode}, since {}", lock.username, lock.hostname, lock.pid, lock.time)
}

fn job_of(lock: &Lock) -> Option<&str> {
    lock.holdfast.as_ref()?.job_uid.as_deref()
}

/// When this process first set out to take a lock.
static FIRST_LOCK: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

fn provably_dead(lock: &Lock, holder: &Holder, dead_holders: &[String], machine: Option<&str>) -> bool {
    let extra = lock.holdfast.as_ref();
    // Process namespaces get the numbers of ended ones again, and the first process of each has number 1: only a
    // lock that is no older than this process can be its own.
    let itself = extra.is_some_and(|e| e.machine.as_deref() == machine && machine.is_some())
        && lock.pid == holder.pid
        && lock.time.timestamp >= *FIRST_LOCK;
    let job = job_of(lock);
    // A Job runs one pod at a time: another pod of our own Job is an earlier one.
    let earlier_pod = job.is_some() && job == holder.job_uid.as_deref() && !itself;
    let proved = job.is_some_and(|j| dead_holders.iter().any(|d| d == j));
    earlier_pod || proved || dead_here(lock, machine)
}

/// The lock's process ran on this boot, in this process namespace, and is gone.
fn dead_here(lock: &Lock, machine: Option<&str>) -> bool {
    let same = machine.is_some() && lock.holdfast.as_ref().and_then(|e| e.machine.as_deref()) == machine;
    let pid = i32::try_from(lock.pid).ok().and_then(Pid::from_raw);
    same && pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// Names this boot and process namespace: the only place where a process id means what it says.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
}

#[cfg(test)]
mod tests;
