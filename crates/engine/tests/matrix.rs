//! Every client goes on where another left: Holdfast, three versions of restic and rustic initialise, back up one
//! after the other into the same repository, each with the other's snapshot as its parent, and all read what all
//! wrote. Then each forgets, prunes, adds a key and copies, and all others take what it left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod restoring;
mod stock;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use holdfast_engine::copy::copy as copy_snapshots;
use holdfast_engine::forget::{ForgetSpec, Selection, forget};
use holdfast_engine::lock::{Holder, LockGuard, LockMode, Locking};
use holdfast_engine::prune::{MaxUnused, PruneSpec, prune};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::{Ctx, Id, Repository};
use jiff::Timestamp;
use restoring::{back_up, check_all, files_below, init, open, run_clean, scratch, spec, store_at};
use stock::{PASSWORD, Restic, Rustic, assert_same_except, noise, settle};

/// Another key's.
const SECOND: &str = "another password another password another password another passw";

/// A snapshot, and what must come back of it.
struct Saved<'a> {
    id: Id,
    writer: Client,
    source: &'a Path,
    kept: &'a Path,
}

/// A program that writes this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Holdfast,
    Restic(&'static str),
    Rustic,
}

const CLIENTS: [Client; 5] = [
    Client::Holdfast,
    Client::Restic("0.14"),
    Client::Restic("0.18"),
    Client::Restic("0.19"),
    Client::Rustic,
];

impl Client {
    fn name(self) -> String {
        match self {
            Self::Holdfast => "holdfast".to_owned(),
            Self::Restic(version) => format!("restic-{version}"),
            Self::Rustic => "rustic".to_owned(),
        }
    }

    async fn init(self, at: &Path) {
        match self {
            Self::Holdfast => {
                init(at).await;
            }
            Self::Restic(version) => {
                Restic::new(version, at).run(["init", "--repository-version", "2"]);
            }
            Self::Rustic => {
                Rustic::new(at).run(["init"]);
            }
        }
    }

    /// Backs up; what of files is new and changed against the parent, where the client found one.
    async fn backup(self, at: &Path, source: &Path) -> Option<[u64; 2]> {
        let counts = |summary: &serde_json::Value| {
            ["files_new", "files_changed"]
                .map(|key| summary[key].as_u64().unwrap_or_else(|| panic!("{summary}")))
        };
        match self {
            Self::Holdfast => {
                let report = back_up(&open(at).await, source).await;
                assert_eq!(report.faults.first, []);
                report.parent.map(|_| [report.files_new, report.files_changed])
            }
            Self::Restic(version) => Some(counts(&Restic::new(version, at).backup(source, "test", &[]))),
            Self::Rustic => Some(counts(&Rustic::new(at).backup(source, "test")["summary"])),
        }
    }

    /// Reads everything and finds nothing wrong.
    async fn check(self, at: &Path) {
        match self {
            Self::Holdfast => {
                let report = check_all(&open(at).await).await;
                assert!(report.is_sound(), "{}: {:#?}", at.display(), report.findings);
            }
            Self::Restic(version) => Restic::new(version, at).check(),
            Self::Rustic => Rustic::new(at).check(),
        }
    }

    /// Restores what `writer` backed up, and compares it with what was there then.
    async fn restore(self, at: &Path, saved: &Saved<'_>, target: &Path, what: &str) {
        let what = format!("{what}, restored by {}", self.name());
        let Saved { id, writer, source, kept } = *saved;
        let restored: PathBuf = match self {
            Self::Holdfast => {
                run_clean(&open(at).await, &spec(id, source, target)).await;
                target.to_owned()
            }
            Self::Restic(version) => {
                Restic::new(version, at).restore(&id.to_hex(), target);
                target.join(source.strip_prefix("/").unwrap())
            }
            Self::Rustic => {
                // It leaves the target's own owner and time alone: the directory above is asked for.
                Rustic::new(at).restore(&id.to_hex(), source.parent().unwrap(), target);
                target.join(source.file_name().unwrap())
            }
        };
        // rustic saves no owner and no time of the directory that it is told to save.
        let lost: &[&str] = if writer == Self::Rustic { &[""] } else { &[] };
        assert_same_except(kept, &restored, lost, &what);
        fs::remove_dir_all(target).unwrap();
    }

    /// Whether the repository opens with this password, and which snapshots it has.
    async fn snapshots(self, at: &Path, password: &str) -> Vec<Id> {
        let ids = |json: &str| {
            // rustic groups them, in ways that differ with its version.
            let mut found = Vec::new();
            let mut pending = vec![serde_json::from_str::<serde_json::Value>(json).unwrap()];
            while let Some(value) = pending.pop() {
                match value {
                    serde_json::Value::Array(values) => pending.extend(values),
                    serde_json::Value::Object(mut fields) => {
                        match fields.get("id").and_then(|id| id.as_str()) {
                            Some(id) => found.push(id.parse::<Id>().unwrap()),
                            None => pending.extend(fields.remove("snapshots")),
                        }
                    }
                    _ => {}
                }
            }
            found
        };
        let mut found = match self {
            Self::Holdfast => {
                let secret = password.to_owned().into();
                let repo = Repository::open(store_at(at), &secret, &Ctx::default()).await.unwrap();
                repo.snapshots().await.unwrap().into_iter().map(|(id, _)| id).collect()
            }
            Self::Restic(version) => {
                ids(&Restic::new(version, at).with_password(password).run(["snapshots", "--json"]))
            }
            Self::Rustic => ids(&Rustic::new(at).with_password(password).run(["snapshots", "--json"])),
        };
        found.sort_unstable();
        found
    }

    async fn add_key(self, at: &Path, password: &str, scratch: &Path) {
        let file = scratch.join("new password");
        fs::write(&file, password).unwrap();
        let file = file.to_str().unwrap();
        match self {
            Self::Holdfast => {
                open(at).await.add_key_for(&password.to_owned().into(), "u", "h").await.unwrap();
            }
            Self::Restic(version) => {
                Restic::new(version, at).run(["key", "add", "--new-password-file", file]);
            }
            Self::Rustic => {
                Rustic::new(at).run(["key", "add", "--new-password-file", file]);
            }
        }
    }

    async fn forget(self, at: &Path, id: Id) {
        match self {
            Self::Holdfast => {
                let repo = open(at).await;
                let lock = shared(&repo).await;
                let spec = ForgetSpec {
                    selection: Selection::Ids(vec![id]),
                    dry_run: false,
                    floor: 0,
                    known: Vec::new(),
                    now: Timestamp::now(),
                };
                assert_eq!(forget(&repo, &lock, &spec, &Ctx::default()).await.unwrap().forgotten.len(), 1);
                lock.release().await.unwrap();
            }
            Self::Restic(version) => {
                Restic::new(version, at).run(["forget", &id.to_hex()]);
            }
            Self::Rustic => {
                Rustic::new(at).run(["forget", &id.to_hex()]);
            }
        }
    }

    /// Frees the space of what no snapshot needs, at once.
    async fn prune(self, at: &Path) {
        match self {
            Self::Holdfast => {
                let locking =
                    Locking { holder: holder(), wait: Duration::from_secs(20), dead_holders: Vec::new() };
                let spec = PruneSpec {
                    max_unused: MaxUnused::Bytes(0),
                    instant: true,
                    allow_large: true,
                    ..PruneSpec::default()
                };
                prune(&open(at).await, &locking, &spec, &Ctx::default()).await.unwrap();
            }
            Self::Restic(version) => {
                Restic::new(version, at).run(["prune", "--max-unused", "0"]);
            }
            Self::Rustic => {
                Rustic::new(at).run([
                    "prune",
                    "--max-unused",
                    "0B",
                    "--max-repack",
                    "unlimited",
                    "--instant-delete",
                ]);
            }
        }
    }

    /// Copies everything into a repository that it makes.
    async fn copy(self, from: &Path, to: &Path, scratch: &Path) {
        match self {
            Self::Holdfast => {
                let source = open(from).await;
                let options = InitOptions {
                    password: PASSWORD.to_owned().into(),
                    recovery_password: None,
                    version: 2,
                    hostname: "test".to_owned(),
                    username: "test".to_owned(),
                };
                let target =
                    Repository::init_like(store_at(to), &options, &source, &Ctx::default()).await.unwrap();
                let locks = (shared(&source).await, shared(&target).await);
                let all = source.snapshots().await.unwrap();
                copy_snapshots(&source, &target, &locks.1, &all, &Ctx::default()).await.unwrap();
                locks.0.release().await.unwrap();
                locks.1.release().await.unwrap();
            }
            Self::Restic(version) => {
                let password = scratch.join("password");
                fs::write(&password, PASSWORD).unwrap();
                let from = [
                    "--from-repo",
                    from.to_str().unwrap(),
                    "--from-password-file",
                    password.to_str().unwrap(),
                ];
                let restic = Restic::new(version, to);
                restic.run(
                    ["init", "--repository-version", "2", "--copy-chunker-params"].into_iter().chain(from),
                );
                restic.run(["copy"].into_iter().chain(from));
            }
            Self::Rustic => Rustic::new(from).copy(to, scratch),
        }
    }
}

fn holder() -> Holder {
    Holder::this_process("test", "test")
}

async fn shared(repo: &Repository) -> LockGuard {
    repo.lock(LockMode::Shared, &holder(), Duration::from_secs(20), &[], &Ctx::default()).await.unwrap()
}

fn make_source(at: &Path) {
    fs::create_dir_all(at.join("sub/empty")).unwrap();
    fs::write(at.join("large"), noise(1, 1_500_000)).unwrap();
    fs::write(at.join("text"), "the same line again\n".repeat(4000)).unwrap();
    fs::write(at.join("umlaut \u{e4} \"quoted\"\n"), "x").unwrap();
    fs::hard_link(at.join("text"), at.join("sub/hard")).unwrap();
    std::os::unix::fs::symlink("../text", at.join("sub/link")).unwrap();
    settle(at);
}

/// What each client finds changed since the one before.
fn change(source: &Path, client: &str) {
    let new = source.join("sub").join(client);
    fs::write(&new, noise(client.len() as u64, 5000)).unwrap();
    settle(&new);
    stock::append(&source.join("text"), client.as_bytes());
}

fn duplicate(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// The snapshot that was not there before.
async fn newest(at: &Path, written: &[Id]) -> Id {
    let snapshots = open(at).await.snapshots().await.unwrap();
    snapshots.into_iter().map(|(id, _)| id).find(|id| !written.contains(id)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reads_and_goes_on_with_what_every_other_wrote() {
    let dir = scratch();
    let target = dir.path().join("target");
    for first in CLIENTS {
        let made = first.name();
        let source = dir.path().join("source");
        make_source(&source);
        let at = dir.path().join(format!("repo of {made}"));
        first.init(&at).await;
        let kept = |writer: Client| dir.path().join(format!("kept by {} in {made}", writer.name()));
        let mut written = Vec::new();
        for writer in CLIENTS {
            let what = format!("made by {made}, written by {}", writer.name());
            change(&source, &writer.name());
            let counts = writer.backup(&at, &source).await;
            if !written.is_empty() {
                // A new file, and one that grew under its two names. rustic takes one more for changed, whoever made
                // the parent.
                let expected = if writer == Client::Rustic { [1, 3] } else { [1, 2] };
                assert_eq!(counts, Some(expected), "{what}");
            }
            let id = newest(&at, &written).await;
            written.push(id);
            duplicate(&source, &kept(writer));
            Client::Holdfast.check(&at).await;
            let saved = Saved { id, writer, source: &source, kept: &kept(writer) };
            Client::Holdfast.restore(&at, &saved, &target, &what).await;
        }
        for reader in CLIENTS.into_iter().filter(|c| *c != Client::Holdfast) {
            reader.check(&at).await;
            // All that all wrote in our own repository, the last of all in the others'.
            let oldest = if first == Client::Holdfast { 0 } else { written.len() - 1 };
            for (writer, id) in CLIENTS.into_iter().zip(&written).skip(oldest) {
                let what = format!("made by {made}, written by {}", writer.name());
                let saved = Saved { id: *id, writer, source: &source, kept: &kept(writer) };
                reader.restore(&at, &saved, &target, &what).await;
            }
        }
        fs::remove_dir_all(&source).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_takes_what_every_other_left_after_keys_forgetting_pruning_and_copies() {
    let dir = scratch();
    let target = dir.path().join("target");
    for (number, client) in CLIENTS.into_iter().enumerate() {
        let name = client.name();
        let source = dir.path().join("source");
        make_source(&source);
        let at = dir.path().join(format!("repo for {name}"));
        // Made and written by others, so that it works on what is not its own.
        let others = [CLIENTS[(number + 1) % CLIENTS.len()], CLIENTS[(number + 2) % CLIENTS.len()]];
        others[0].init(&at).await;
        fs::write(source.join("gone"), noise(99, 900_000)).unwrap();
        settle(&source.join("gone"));
        others[0].backup(&at, &source).await;
        let first = newest(&at, &[]).await;
        fs::remove_file(source.join("gone")).unwrap();
        change(&source, &name);
        others[1].backup(&at, &source).await;
        let second = newest(&at, &[first]).await;
        let kept = dir.path().join(format!("kept for {name}"));
        duplicate(&source, &kept);

        client.add_key(&at, SECOND, dir.path()).await;
        let mut both = vec![first, second];
        both.sort_unstable();
        for reader in CLIENTS {
            assert_eq!(reader.snapshots(&at, SECOND).await, both, "{name}'s key, {}", reader.name());
        }

        client.forget(&at, first).await;
        for reader in CLIENTS {
            assert_eq!(reader.snapshots(&at, PASSWORD).await, [second], "{name} forgot, {}", reader.name());
        }

        let bytes = || files_below(&at.join("data")).iter().map(|p| p.metadata().unwrap().len()).sum::<u64>();
        let before = bytes();
        client.prune(&at).await;
        assert!(bytes() + 800_000 < before, "{name} pruned {before} bytes to {}", bytes());
        for reader in CLIENTS {
            reader.check(&at).await;
            let saved = Saved { id: second, writer: others[1], source: &source, kept: &kept };
            reader.restore(&at, &saved, &target, &format!("pruned by {name}")).await;
        }

        let to = dir.path().join(format!("copy of {name}"));
        client.copy(&at, &to, dir.path()).await;
        let copied = newest(&to, &[]).await;
        for reader in CLIENTS {
            reader.check(&to).await;
            let saved = Saved { id: copied, writer: others[1], source: &source, kept: &kept };
            reader.restore(&to, &saved, &target, &format!("copied by {name}")).await;
        }
        // Whoever comes next goes on in it.
        change(&source, "afterwards");
        let next = CLIENTS[(number + 3) % CLIENTS.len()];
        next.backup(&to, &source).await;
        Client::Holdfast.check(&to).await;
        fs::remove_dir_all(&source).unwrap();
    }
}
