//! Restore and check over S3, against a real server: what was backed up into a bucket comes back from it, and what is
//! damaged there is named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

mod restoring;
mod stock;
mod versitygw;

use std::fs;

use holdfast_engine::restore::RestoreSpec;
use restoring::{back_up, check_all, files_below, init_in, run, run_clean, scratch, spec};
use stock::{assert_same, noise, settle};
use versitygw::Server;

#[tokio::test(flavor = "multi_thread")]
async fn what_went_into_a_bucket_comes_back_and_damage_in_it_is_named() {
    let server = Server::start(&["bucket"]);
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("small/deeper")).unwrap();
    // More than one pack, a file of many chunks, many of one, one without any.
    fs::write(source.join("large"), noise(1, 24 << 20)).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    for n in 0..200_u16 {
        let dir = if n % 2 == 0 { "small" } else { "small/deeper" };
        fs::write(source.join(dir).join(format!("f{n:03}")), noise(u64::from(n) + 2, 3000 + usize::from(n)))
            .unwrap();
    }
    settle(&source);
    let repo = init_in(server.store("bucket/repo")).await;
    let snapshot = back_up(&repo, &source).await.snapshot;

    let target = dir.path().join("target");
    let all = spec(snapshot, &source, &target);
    let report = run_clean(&repo, &all).await;
    assert_eq!((report.files_restored, report.files_unchanged), (202, 0));
    assert_same(&source, &target, "over S3");
    assert!(check_all(&repo).await.is_sound());

    // Again, with one file changed and one gone: nothing else is written.
    fs::write(target.join("small/f000"), b"changed").unwrap();
    fs::remove_file(target.join("small/f002")).unwrap();
    let report = run_clean(&repo, &RestoreSpec { verify: false, ..all.clone() }).await;
    assert_eq!((report.files_restored, report.files_unchanged), (2, 200));
    assert_same(&source, &target, "restored again");

    // One byte of the large file's content, in the bucket itself.
    let mut packs = files_below(&server.bucket("bucket").join("repo/data"));
    packs.sort_by_key(|p| std::cmp::Reverse(p.metadata().unwrap().len()));
    let mut bytes = fs::read(&packs[0]).unwrap();
    bytes[5000] ^= 4;
    fs::write(&packs[0], bytes).unwrap();
    fs::remove_dir_all(&target).unwrap();
    let report = run(&repo, &all).await.unwrap();
    assert_eq!(report.faults.total, 1, "{:?}", report.faults.first);
    assert_eq!(report.files_restored, 201);
    let lost = source.join(report.faults.first[0].path.strip_prefix("/").unwrap());
    assert!(lost.is_file() && !target.join(lost.strip_prefix(&source).unwrap()).exists());
    let found = check_all(&repo).await;
    let name = packs[0].file_name().unwrap().to_str().unwrap();
    assert!(!found.is_sound() && found.findings.iter().any(|f| f.object.contains(name)), "{found:?}");
}
