use super::*;
use crate::repository::testing::{Fixture, fixture};
use crate::store::StoreOptions;
use crate::store::fault::{Fault, Operation, Trouble};

const QUICK: LockTimes = LockTimes {
    settle: Duration::from_millis(20),
    poll: (Duration::from_millis(20), Duration::from_millis(50)),
    reread: [Duration::from_millis(1); 3],
    refresh: Duration::from_millis(50),
    refresh_again: Duration::from_millis(20),
    lost_after: Duration::from_millis(300),
};

fn holder(job: Option<&str>) -> Holder {
    Holder {
        hostname: job.map_or_else(|| "laptop".to_owned(), |j| format!("holdfast-{j}")),
        username: "tester".to_owned(),
        pid: std::process::id(),
        cluster: Some("test".to_owned()),
        job_uid: job.map(str::to_owned),
    }
}

async fn lock(fixture: &Fixture, mode: LockMode, ctx: &Ctx) -> Result<LockGuard> {
    fixture.repo.lock_with(mode, &holder(None), Duration::ZERO, &[], ctx, QUICK).await
}

/// Writes a lock as another holder would have left it.
async fn leave(fixture: &Fixture, change: impl FnOnce(&mut Lock)) -> Id {
    let mut lock = Lock {
        time: OffsetTime::utc(Timestamp::now()),
        exclusive: true,
        hostname: "elsewhere".to_owned(),
        username: "other".to_owned(),
        pid: 1,
        uid: None,
        gid: None,
        holdfast: None,
    };
    change(&mut lock);
    fixture.repo.save_unpacked(FileKind::Lock, &serde_json::to_vec(&lock).unwrap()).await.unwrap()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

#[tokio::test]
async fn shared_locks_go_together_exclusive_ones_alone() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    let one = lock(&fixture, LockMode::Shared, &ctx).await.unwrap();
    let two = lock(&fixture, LockMode::Shared, &ctx).await.unwrap();
    let error = lock(&fixture, LockMode::Exclusive, &ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("tester@laptop"), "names the holder: {error}");
    one.release().await.unwrap();
    two.release().await.unwrap();
    let alone = lock(&fixture, LockMode::Exclusive, &ctx).await.unwrap();
    assert_eq!(lock(&fixture, LockMode::Shared, &ctx).await.unwrap_err().kind(), ErrorKind::Locked);
    alone.release().await.unwrap();
    assert_eq!(fixture.repo.locks().await.unwrap(), []);
}

#[tokio::test]
async fn of_two_that_want_it_alone_at_once_never_both_get_it() {
    let fixture = fixture().await;
    for _ in 0..10 {
        let ctx = Ctx::default();
        let (a, b) = tokio::join!(
            lock(&fixture, LockMode::Exclusive, &ctx),
            lock(&fixture, LockMode::Exclusive, &ctx)
        );
        assert!(a.is_err() || b.is_err());
        for guard in [a, b].into_iter().flatten() {
            guard.release().await.unwrap();
        }
    }
    assert_eq!(fixture.repo.locks().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_listings_are_never_late_nobody_waits_and_never_two_get_it() {
    // Memory, on every Linux.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let location = crate::store::Location::Local(directory.path().to_owned());
    let store = crate::store::open(&location, &StoreOptions::default(), &Ctx::default()).unwrap();
    assert!(store.lists_at_once().await);
    let options = crate::repository::testing::options();
    let repo = Repository::init(store, &options, &Ctx::default()).await.unwrap();
    // Whoever waited would wait for the rest of the day.
    let times = LockTimes { settle: Duration::from_hours(24), ..QUICK };
    for _ in 0..50 {
        let (repo, ctx) = (&repo, Ctx::default());
        let holder = holder(None);
        let take = || repo.lock_with(LockMode::Exclusive, &holder, Duration::ZERO, &[], &ctx, times);
        let all = futures::future::join_all([take(), take(), take()]);
        let guards: Vec<LockGuard> = tokio::time::timeout(Duration::from_mins(1), all)
            .await
            .unwrap()
            .into_iter()
            .filter_map(Result::ok)
            .collect();
        assert!(guards.len() <= 1);
        for guard in guards {
            guard.release().await.unwrap();
        }
    }
    let (holder, ctx) = (holder(None), Ctx::default());
    let alone = repo.lock_with(LockMode::Exclusive, &holder, Duration::ZERO, &[], &ctx, times);
    tokio::time::timeout(Duration::from_mins(1), alone).await.unwrap().unwrap().release().await.unwrap();
    assert_eq!(repo.locks().await.unwrap(), []);
}

#[tokio::test]
async fn waiting_ends_when_the_other_releases() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    let first = lock(&fixture, LockMode::Exclusive, &ctx).await.unwrap();
    let repo = fixture.repo.clone();
    let second = tokio::spawn(async move {
        repo.lock_with(LockMode::Shared, &holder(None), Duration::from_secs(20), &[], &Ctx::default(), QUICK)
            .await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!second.is_finished());
    first.release().await.unwrap();
    second.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn dead_holders_do_not_stop_anybody_but_strangers_do() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    let ours = |job: &'static str| {
        move |l: &mut Lock| {
            l.holdfast = Some(LockExtra { job_uid: Some(job.to_owned()), ..LockExtra::default() });
        }
    };
    // An earlier pod of the same Job; a Job that the caller has proved dead.
    leave(&fixture, ours("job-1")).await;
    leave(&fixture, ours("job-2")).await;
    let dead = ["job-2".to_owned()];
    let guard = fixture
        .repo
        .lock_with(LockMode::Exclusive, &holder(Some("job-1")), Duration::ZERO, &dead, &ctx, QUICK)
        .await
        .unwrap();
    assert_eq!(fixture.repo.locks().await.unwrap().len(), 1);
    guard.release().await.unwrap();
    // A process of this machine that is gone. Process ids end at 2^22.
    leave(&fixture, |l| {
        l.pid = 1 << 23;
        l.holdfast = Some(LockExtra { machine: machine(), ..LockExtra::default() });
    })
    .await;
    lock(&fixture, LockMode::Exclusive, &ctx).await.unwrap().release().await.unwrap();
    // Another Job, a foreign client, a living process: all stay.
    for change in [
        Box::new(ours("job-3")) as Box<dyn FnOnce(&mut Lock)>,
        Box::new(|_: &mut Lock| {}),
        Box::new(|l: &mut Lock| {
            l.pid = std::process::id();
            l.holdfast = Some(LockExtra { machine: machine(), ..LockExtra::default() });
        }),
        Box::new(|l: &mut Lock| {
            l.pid = 1 << 23;
            l.holdfast = Some(LockExtra { machine: Some("another boot".to_owned()), ..LockExtra::default() });
        }),
    ] {
        let id = leave(&fixture, change).await;
        assert_eq!(lock(&fixture, LockMode::Shared, &ctx).await.unwrap_err().kind(), ErrorKind::Locked);
        fixture.repo.store().delete(FileName { kind: FileKind::Lock, id }).await.unwrap();
    }
}

#[tokio::test]
async fn refreshing_replaces_the_file_and_keeps_one() {
    let fixture = fixture().await;
    let guard = lock(&fixture, LockMode::Shared, &Ctx::default()).await.unwrap();
    let first = guard.id();
    until("a refresh", async || guard.id() != first).await;
    until("the old file's removal", async || fixture.repo.locks().await.unwrap().len() == 1).await;
    guard.confirm().await.unwrap();
    guard.release().await.unwrap();
    assert_eq!(fixture.repo.locks().await.unwrap(), []);
}

/// While the new file is on its way to the store the old one is the lock.
#[tokio::test]
async fn a_lock_that_is_being_refreshed_is_not_lost() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    // As often as it goes, so that the looks fall into all moments of a refresh.
    let times = LockTimes { refresh: Duration::ZERO, lost_after: Duration::from_mins(1), ..QUICK };
    let guard = fixture
        .repo
        .lock_with(LockMode::Shared, &holder(None), Duration::ZERO, &[], &ctx, times)
        .await
        .unwrap();
    for _ in 0..50 {
        guard.confirm().await.unwrap();
    }
    guard.release().await.unwrap();
    assert_eq!(fixture.repo.locks().await.unwrap(), []);
}

#[tokio::test]
async fn a_lock_that_somebody_removed_cancels_the_operation() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    let guard = lock(&fixture, LockMode::Shared, &ctx).await.unwrap();
    fixture.repo.unlock(Unlock::All).await.unwrap();
    until("the loss", async || guard.lost()).await;
    assert!(ctx.cancel.is_cancelled());
    assert_eq!(guard.check().unwrap_err().kind(), ErrorKind::LockLost);
    guard.release().await.unwrap();
    assert_eq!(fixture.repo.locks().await.unwrap(), [], "nothing is written after the loss");
}

#[tokio::test]
async fn confirming_finds_a_loss_before_the_next_refresh() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    let times = LockTimes { refresh: Duration::from_hours(1), ..QUICK };
    let guard = fixture
        .repo
        .lock_with(LockMode::Shared, &holder(None), Duration::ZERO, &[], &ctx, times)
        .await
        .unwrap();
    guard.confirm().await.unwrap();
    fixture.repo.unlock(Unlock::All).await.unwrap();
    assert_eq!(guard.confirm().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(ctx.cancel.is_cancelled());
}

#[tokio::test]
async fn a_store_that_is_away_too_long_costs_the_lock_a_short_gap_does_not() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    let guard = lock(&fixture, LockMode::Shared, &ctx).await.unwrap();
    let first = guard.id();
    for trouble in [Trouble::Fail(ErrorKind::Unreachable), Trouble::StoreButFail(ErrorKind::Unreachable)] {
        fixture.faults.add(Fault::once(Operation::Put, FileKind::Lock, trouble));
    }
    until("a refresh after two failures", async || guard.id() != first && !guard.lost()).await;
    fixture.faults.add(Fault::always(Operation::Put, FileKind::Lock, Trouble::Fail(ErrorKind::Unreachable)));
    until("the loss", async || guard.lost()).await;
    assert!(ctx.cancel.is_cancelled());
    fixture.faults.heal();
    guard.release().await.unwrap();
    assert_eq!(fixture.repo.locks().await.unwrap(), [], "what failed refreshes left is removed too");
}

#[tokio::test]
async fn a_dropped_guard_removes_its_lock() {
    let fixture = fixture().await;
    drop(lock(&fixture, LockMode::Exclusive, &Ctx::default()).await.unwrap());
    until("the removal", async || fixture.repo.locks().await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_failed_or_cancelled_attempt_leaves_nothing() {
    let fixture = fixture().await;
    fixture.faults.add(Fault {
        after: 1,
        ..Fault::once(Operation::List, FileKind::Lock, Trouble::Fail(ErrorKind::Listing))
    });
    assert_eq!(
        lock(&fixture, LockMode::Shared, &Ctx::default()).await.unwrap_err().kind(),
        ErrorKind::Listing
    );
    fixture.faults.add(Fault::once(
        Operation::Put,
        FileKind::Lock,
        Trouble::StoreButFail(ErrorKind::Unreachable),
    ));
    assert_eq!(
        lock(&fixture, LockMode::Shared, &Ctx::default()).await.unwrap_err().kind(),
        ErrorKind::Unreachable
    );
    until("the removal", async || fixture.repo.locks().await.unwrap().is_empty()).await;
    let ctx = Ctx::default();
    fixture.faults.add(Fault { after: 1, ..Fault::once(Operation::List, FileKind::Lock, Trouble::Hang) });
    let (result, ()) = tokio::join!(lock(&fixture, LockMode::Shared, &ctx), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ctx.cancel.cancel();
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(fixture.repo.locks().await.unwrap(), []);
}

#[tokio::test]
async fn an_unreadable_lock_stops_everybody() {
    let fixture = fixture().await;
    let id = Id::hash(b"whatever");
    let name = FileName { kind: FileKind::Lock, id };
    fixture.repo.store().put(name, "noise".into(), crate::store::PutMode::ContentAddressed).await.unwrap();
    let error = lock(&fixture, LockMode::Shared, &Ctx::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    fixture.repo.unlock(Unlock::All).await.unwrap();
    lock(&fixture, LockMode::Shared, &Ctx::default()).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn unlock_removes_what_it_is_told_to() {
    let fixture = fixture().await;
    let young = leave(&fixture, |_| {}).await;
    let job = leave(&fixture, |l| {
        l.holdfast = Some(LockExtra { job_uid: Some("j".to_owned()), ..LockExtra::default() });
    })
    .await;
    let old = leave(&fixture, |l| l.username = "old".to_owned()).await;
    fixture.age(FileName { kind: FileKind::Lock, id: old }, 31 * 60);
    // The holder's clock is an hour behind, but the store saw the file a moment ago.
    let behind =
        leave(&fixture, |l| l.time = OffsetTime::utc(Timestamp::now() - jiff::SignedDuration::from_hours(1)))
            .await;
    let ids = |removed: Vec<(Id, Lock)>| removed.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(fixture.repo.unlock_with(Unlock::Stale, QUICK).await.unwrap()), [old]);
    assert_eq!(
        ids(fixture.repo.unlock_with(Unlock::Jobs(vec!["j".to_owned()]), QUICK).await.unwrap()),
        [job]
    );
    let mut rest = ids(fixture.repo.unlock_with(Unlock::All, QUICK).await.unwrap());
    rest.sort();
    let mut expected = [young, behind];
    expected.sort();
    assert_eq!(rest, expected);
}

/// A killed pod's lock, written in a process namespace whose number the next pod of the Job got again: the same boot,
/// the same namespace, the same process number 1.
#[tokio::test]
async fn an_earlier_pod_is_told_from_ourselves_although_its_namespace_has_our_number() {
    let fixture = fixture().await;
    let ctx = Ctx::default();
    let left = leave(&fixture, |l| {
        l.time = OffsetTime::utc(Timestamp::now() - jiff::SignedDuration::from_mins(1));
        l.pid = std::process::id();
        l.holdfast =
            Some(LockExtra { job_uid: Some("j".to_owned()), machine: machine(), ..LockExtra::default() });
    })
    .await;
    let guard = fixture
        .repo
        .lock_with(LockMode::Shared, &holder(Some("j")), Duration::ZERO, &[], &ctx, QUICK)
        .await
        .unwrap();
    let there = fixture.repo.locks().await.unwrap();
    assert!(there.iter().all(|(id, _)| *id != left), "the earlier pod's lock is still there");
    guard.release().await.unwrap();
}
