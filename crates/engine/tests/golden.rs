//! Repositories that other clients wrote, kept in the tree (`golden/`, made by `golden/make`): whatever changes in
//! ours, these come back. And damaged copies of one of them: what is found, what still opens, what still restores.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

mod restoring;
mod stock;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use holdfast_engine::crypto::KdfParams;
use holdfast_engine::{Ctx, ErrorKind, Id, Repository, Result};
use restoring::{check_all, check_structure, latest, run, run_clean, scratch, spec, store_at};
use stock::PASSWORD;

/// What the golden snapshots were taken of.
const SOURCE: &str = "/tmp/holdfast-golden/source";

/// Name, format version, snapshots.
const GOLDEN: [(&str, u32, usize); 4] = [("v1", 1, 1), ("v2", 2, 2), ("mixed", 2, 2), ("rustic", 2, 1)];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy that may be changed, with the empty directories that version control does not keep.
fn copy_of(name: &str, at: &Path) {
    for directory in ["data", "index", "keys", "locks", "snapshots"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    let from = golden(name);
    for file in restoring::files_below(&from) {
        let to = at.join(file.strip_prefix(&from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, fs::read(&file).unwrap()).unwrap();
    }
}

async fn open(at: &Path, password: &str) -> Result<Repository> {
    Repository::open(store_at(at), &password.to_owned().into(), &Ctx::default()).await
}

/// What `golden/make` writes of a directory, so that the two can be compared.
fn listing(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let found = path.symlink_metadata().unwrap();
            let (mut what, mut size) = ("-".to_owned(), 0);
            let kind = found.file_type();
            let kind = if kind.is_file() {
                size = found.len();
                what = Id::hash(&fs::read(&path).unwrap()).to_hex();
                "file"
            } else if kind.is_symlink() {
                what = HEXLOWER.encode(fs::read_link(&path).unwrap().as_os_str().as_bytes());
                "symlink"
            } else if kind.is_dir() {
                pending.push(path.clone());
                "dir"
            } else if kind.is_fifo() {
                "fifo"
            } else {
                what = format!("{}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
                "char"
            };
            let mode =
                if kind == "symlink" { "-".to_owned() } else { format!("{:o}", found.mode() & 0o7777) };
            let relative = HEXLOWER.encode(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
            let time = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
            let owner = format!("{}:{}", found.uid(), found.gid());
            let attributes = if kind == "symlink" { "-".to_owned() } else { attributes(&path) };
            lines.push((
                relative.clone(),
                format!("{relative} {kind} {mode} {owner} {time} {size} {what} {attributes}\n"),
            ));
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut names: Vec<&[u8]> = names[..length].split(|byte| *byte == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma}{}={}", String::from_utf8_lossy(name), HEXLOWER.encode(&value[..length]))
            .unwrap();
    }
    if text.is_empty() { "-".to_owned() } else { text.replace(' ', "_") }
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_repositories_are_sound_and_come_back_to_the_last_attribute() {
    let dir = scratch();
    for (name, version, snapshots) in GOLDEN {
        let at = dir.path().join(name);
        copy_of(name, &at);
        let repo = open(&at, PASSWORD).await.unwrap();
        assert_eq!((repo.version(), repo.snapshots().await.unwrap().len()), (version, snapshots), "{name}");
        let check = check_all(&repo).await;
        assert!(check.is_sound() && check.packs_read == check.packs, "{name}: {:#?}", check.findings);
        // Of rustic's, some packs wait to be deleted.
        let index = repo.load_index(&Ctx::default()).await.unwrap();
        assert_eq!(index.packs().iter().any(|pack| pack.marked), name == "rustic", "{name}");
        let target = dir.path().join(format!("{name} restored"));
        run_clean(&repo, &spec(latest(&repo).await, Path::new(SOURCE), &target)).await;
        let expected = fs::read_to_string(golden(&format!("{name}.listing"))).unwrap();
        let found = listing(&target);
        for (expected, found) in expected.lines().zip(found.lines()) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_into_each_golden_repository_leaves_it_sound_to_us_and_to_restic() {
    let dir = scratch();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("new"), stock::noise(1, 50_000)).unwrap();
    for (name, _, snapshots) in GOLDEN {
        let at = dir.path().join(name);
        copy_of(name, &at);
        for half in 0..=255 {
            fs::create_dir_all(at.join(format!("data/{half:02x}"))).unwrap();
        }
        let repo = open(&at, PASSWORD).await.unwrap();
        restoring::back_up(&repo, &source).await;
        assert_eq!(repo.snapshots().await.unwrap().len(), snapshots + 1, "{name}");
        assert!(check_all(&repo).await.is_sound(), "{name}");
        stock::Restic::newest(&at).check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_one_of_ten_passwords_opens_and_no_other_does() {
    let dir = scratch();
    let at = dir.path().join("repo");
    copy_of("v2", &at);
    let repo = open(&at, PASSWORD).await.unwrap();
    for number in 1..10 {
        let password = format!("password {number} of ten");
        repo.add_key(&password.into(), "me", "here", KdfParams::RANDOM_PASSWORD).await.unwrap();
    }
    assert_eq!(repo.keys().await.unwrap().len(), 10);
    for number in [1, 5, 9] {
        let again = open(&at, &format!("password {number} of ten")).await.unwrap();
        assert_eq!(again.snapshots().await.unwrap().len(), 2);
    }
    open(&at, PASSWORD).await.unwrap();
    for wrong in ["", "password 10 of ten", "password 1 of ten ", "Password 1 of ten"] {
        assert_eq!(open(&at, wrong).await.unwrap_err().kind(), ErrorKind::WrongPassword, "{wrong:?}");
    }
    // One damaged key is in nobody else's way.
    let key = restoring::files_below(&at.join("keys")).remove(3);
    fs::write(&key, "{\"kdf\":").unwrap();
    open(&at, PASSWORD).await.unwrap();
}

/// The packs of `v2` by what they hold: content of the first backup (most files), content and directories of the
/// second, directories of the first.
const DATA: &str = "data/0d/0dc8afc76246f1147d8ff23dc9323cce788dfc417e8a8cffbf7106bed2fb219c";
const NEW_DATA: &str = "data/86/86bfacbc4dc52c7b9ad6d3f4a95a8edec4a18ec0d52d8aedd680f73c9a92445c";
const NEW_TREES: &str = "data/35/35586a6c187f8d9ecd752708bdab047edff11958ce4a6ac43e314d4992c97ddd";
const OLD_TREES: &str = "data/e3/e3d0dcbbc78fbab20b03e8495cc0102e1d8cb111ab3edeb6f7ddac53f92100e3";
const OLD_INDEX: &str = "index/a3b6f159b80d45f3041a0bc08b21505bca1c8b719594dea4908d22c8d9dbe566";
const NEW_INDEX: &str = "index/611a2b291e7a03ebd835df82d2a7def1f749e6359c36fa4ddc4f3db3cb78e7f4";
const KEY: &str = "keys/cc129b3333931d5e700760e6b594f049a126bd23bf4752f452c2a0bbada7c766";

/// What becomes of the newest snapshot.
#[derive(Debug, PartialEq, Clone, Copy)]
enum Restores {
    /// As if nothing had happened.
    Whole,
    /// What is damaged is named, all else is there.
    Part,
    /// An error of this kind.
    Not(ErrorKind),
}

/// Damage: its name, the edit, errors of a check of the structure, whether a check of all data finds more, what the
/// findings name, and what a restore of the newest snapshot gives.
struct Damage {
    name: &'static str,
    edit: fn(&Path),
    structure: bool,
    data: bool,
    names: &'static [&'static str],
    restores: Restores,
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    let place = place % bytes.len();
    bytes[place] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// As `flip`, counted from the end.
fn flip_back(path: &Path, place: usize) {
    flip(path, fs::read(path).unwrap().len() - place);
}

fn cut(path: &Path, to: impl FnOnce(usize) -> usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..to(bytes.len())]).unwrap();
}

fn snapshots(at: &Path) -> Vec<PathBuf> {
    restoring::files_below(&at.join("snapshots"))
}

const DAMAGES: [Damage; 24] = [
    Damage {
        name: "a bit of a file's content",
        edit: |at| flip(&at.join(DATA), 1000),
        structure: false,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Part,
    },
    Damage {
        name: "a bit of a small blob",
        edit: |at| flip(&at.join(DATA), 24_060),
        structure: false,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Part,
    },
    Damage {
        name: "a bit of a pack's sealed header",
        edit: |at| flip_back(&at.join(DATA), 40),
        structure: false,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Whole,
    },
    Damage {
        name: "the length field of a pack",
        edit: |at| flip_back(&at.join(DATA), 2),
        structure: false,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Whole,
    },
    Damage {
        name: "a pack without its last byte",
        edit: |at| cut(&at.join(DATA), |length| length - 1),
        structure: true,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Whole,
    },
    Damage {
        name: "a pack cut to half",
        edit: |at| cut(&at.join(DATA), |length| length / 2),
        structure: true,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Part,
    },
    Damage {
        name: "a pack of no bytes",
        edit: |at| cut(&at.join(NEW_DATA), |_| 0),
        structure: true,
        data: true,
        names: &["pack 86bfacbc"],
        restores: Restores::Part,
    },
    Damage {
        name: "a pack with bytes behind its end",
        edit: |at| stock::append(&at.join(DATA), b"more"),
        structure: true,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Whole,
    },
    Damage {
        name: "a missing pack of file content",
        edit: |at| fs::remove_file(at.join(NEW_DATA)).unwrap(),
        structure: true,
        data: true,
        names: &["pack 86bfacbc", "snapshot 926b75da:/tmp/holdfast-golden/source/text"],
        restores: Restores::Part,
    },
    Damage {
        name: "a missing pack of directories",
        edit: |at| fs::remove_file(at.join(NEW_TREES)).unwrap(),
        structure: true,
        data: true,
        names: &["pack 35586a6c"],
        restores: Restores::Not(ErrorKind::Missing),
    },
    Damage {
        name: "a missing pack of directories that only the older snapshot needs whole",
        edit: |at| fs::remove_file(at.join(OLD_TREES)).unwrap(),
        structure: true,
        data: true,
        names: &["pack e3d0dcbb"],
        restores: Restores::Part,
    },
    Damage {
        name: "a bit of a directory",
        edit: |at| flip(&at.join(NEW_TREES), 1500),
        structure: true,
        data: true,
        names: &["pack 35586a6c"],
        restores: Restores::Not(ErrorKind::Corrupt),
    },
    Damage {
        name: "two packs in each other's place",
        edit: |at| {
            let (one, other) = (fs::read(at.join(DATA)).unwrap(), fs::read(at.join(NEW_DATA)).unwrap());
            fs::write(at.join(DATA), other).unwrap();
            fs::write(at.join(NEW_DATA), one).unwrap();
        },
        structure: true,
        data: true,
        names: &["pack 0dc8afc7", "pack 86bfacbc"],
        restores: Restores::Part,
    },
    Damage {
        name: "a pack of another repository under a name of ours",
        edit: |at| {
            let theirs = restoring::packs(&golden("mixed")).remove(0);
            fs::write(at.join(DATA), fs::read(theirs).unwrap()).unwrap();
        },
        structure: true,
        data: true,
        names: &["pack 0dc8afc7"],
        restores: Restores::Part,
    },
    Damage {
        name: "a pack that no index knows",
        edit: |at| {
            let theirs = restoring::packs(&golden("mixed")).remove(0);
            let name = theirs.file_name().unwrap().to_str().unwrap().to_owned();
            fs::create_dir_all(at.join("data").join(&name[..2])).unwrap();
            fs::copy(&theirs, at.join("data").join(&name[..2]).join(&name)).unwrap();
        },
        structure: false,
        data: false,
        names: &[],
        restores: Restores::Whole,
    },
    Damage {
        name: "a bit of the newer index",
        edit: |at| flip(&at.join(NEW_INDEX), 100),
        structure: true,
        data: true,
        names: &["index 611a2b29"],
        restores: Restores::Not(ErrorKind::Corrupt),
    },
    Damage {
        name: "an index of no bytes",
        edit: |at| cut(&at.join(OLD_INDEX), |_| 0),
        structure: true,
        data: true,
        names: &["index a3b6f159"],
        restores: Restores::Not(ErrorKind::Corrupt),
    },
    Damage {
        name: "a missing index",
        edit: |at| fs::remove_file(at.join(OLD_INDEX)).unwrap(),
        structure: true,
        data: true,
        names: &["snapshot 926b75da:/tmp/holdfast-golden/source/noise"],
        restores: Restores::Part,
    },
    Damage {
        name: "no index at all",
        edit: |at| restoring::files_below(&at.join("index")).iter().for_each(|f| fs::remove_file(f).unwrap()),
        structure: true,
        data: true,
        names: &[],
        restores: Restores::Not(ErrorKind::Missing),
    },
    Damage {
        name: "an index of another repository",
        edit: |at| {
            let theirs = restoring::files_below(&golden("mixed").join("index")).remove(0);
            fs::copy(&theirs, at.join("index").join(theirs.file_name().unwrap())).unwrap();
        },
        structure: true,
        data: true,
        names: &["index "],
        restores: Restores::Not(ErrorKind::Corrupt),
    },
    Damage {
        name: "a snapshot under another one's name",
        edit: |at| {
            let files = snapshots(at);
            fs::copy(&files[0], &files[1]).unwrap();
        },
        structure: true,
        data: true,
        names: &["snapshot 926b75da"],
        restores: Restores::Not(ErrorKind::Corrupt),
    },
    Damage {
        name: "a snapshot of no bytes",
        edit: |at| cut(&snapshots(at)[1], |_| 0),
        structure: true,
        data: true,
        names: &["snapshot 926b75da"],
        restores: Restores::Not(ErrorKind::Corrupt),
    },
    Damage {
        name: "names that are no ids, and what an interrupted write left",
        edit: |at| {
            fs::write(at.join("data/0d/notes.txt"), "mine").unwrap();
            fs::write(at.join("index/README"), "mine").unwrap();
            fs::write(at.join(format!("{DATA}-tmp-0123456789")), "half").unwrap();
            fs::write(at.join("snapshots/0123"), "").unwrap();
        },
        structure: false,
        data: false,
        names: &[],
        restores: Restores::Whole,
    },
    Damage {
        name: "a lock that nobody can read",
        edit: |at| fs::write(at.join("locks").join("ab".repeat(32)), "garbage").unwrap(),
        structure: false,
        data: false,
        names: &[],
        restores: Restores::Whole,
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_and_costs_no_more_than_it_must() {
    let expected = fs::read_to_string(golden("v2.listing")).unwrap();
    let dir = scratch();
    let newest: Id = "926b75dadbd362b5849068b31ea303d32ba0640834781c81d49ed3ad3cf92ff4".parse().unwrap();
    let mut problems = Vec::new();
    for (number, damage) in DAMAGES.iter().enumerate() {
        let at = dir.path().join(format!("{number}"));
        copy_of("v2", &at);
        (damage.edit)(&at);
        let what = damage.name;
        let repo = open(&at, PASSWORD).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        let mut wrong = |text: String| problems.push(format!("{what}: {text}"));
        let structure = check_structure(&repo).await;
        if structure.is_sound() == damage.structure {
            wrong(format!("structure: {:#?}", structure.findings));
        }
        let data = check_all(&repo).await;
        if data.is_sound() == damage.data {
            wrong(format!("data: {:#?}", data.findings));
        }
        for name in damage.names {
            if !data.findings.iter().any(|f| f.object.starts_with(name)) {
                wrong(format!("nothing says {name}: {:#?}", data.findings));
            }
        }
        let target = dir.path().join(format!("{number} restored"));
        let outcome = run(&repo, &spec(newest, Path::new(SOURCE), &target)).await;
        let found = match outcome {
            Ok(report) if report.faults.is_empty() => Restores::Whole,
            Ok(_) => Restores::Part,
            Err(e) => Restores::Not(e.kind()),
        };
        if found != damage.restores {
            wrong(format!("restores {found:?}, not {:?}", damage.restores));
        }
        if found == Restores::Whole {
            assert_eq!(listing(&target), expected, "{what}");
        } else if target.exists() {
            // Whatever carries a file's name is that file.
            let contents = |listing: &str| -> Vec<String> {
                listing
                    .lines()
                    .map(|line| line.split(' ').collect::<Vec<_>>())
                    .filter(|fields| fields[1] == "file")
                    .map(|fields| format!("{} {}", fields[0], fields[6]))
                    .collect()
            };
            let good = contents(&expected);
            for file in contents(&listing(&target)) {
                assert!(good.contains(&file), "{what}: {file} is there and wrong");
            }
        }
        fs::remove_dir_all(&at).unwrap();
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Config and keys: without them nothing opens, and the reason must be the right one.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_does_not_open_says_why() {
    type Case = (&'static str, fn(&Path), &'static [ErrorKind]);
    let cases: [Case; 10] = [
        ("no config", |at| fs::remove_file(at.join("config")).unwrap(), &[ErrorKind::NotARepository]),
        ("a config of no bytes", |at| cut(&at.join("config"), |_| 0), &[ErrorKind::Corrupt]),
        ("a bit of the config", |at| flip(&at.join("config"), 60), &[ErrorKind::Corrupt]),
        (
            "the config of another repository",
            |at| {
                let theirs = fs::read(golden("mixed").join("config")).unwrap();
                fs::write(at.join("config"), theirs).unwrap();
            },
            &[ErrorKind::Corrupt],
        ),
        ("no key", |at| fs::remove_file(at.join(KEY)).unwrap(), &[ErrorKind::Missing]),
        ("a key cut to half", |at| cut(&at.join(KEY), |length| length / 2), &[ErrorKind::Corrupt]),
        ("a key of no bytes", |at| cut(&at.join(KEY), |_| 0), &[ErrorKind::Corrupt]),
        (
            "the key of another repository with the same password",
            |at| {
                let theirs = restoring::files_below(&golden("mixed").join("keys")).remove(0);
                fs::copy(&theirs, at.join("keys").join(theirs.file_name().unwrap())).unwrap();
                fs::remove_file(at.join(KEY)).unwrap();
            },
            &[ErrorKind::Corrupt],
        ),
        (
            "a key that asks for more memory than any machine has",
            |at| {
                let text = fs::read_to_string(at.join(KEY)).unwrap();
                let changed = text.replace("\"N\":32768", "\"N\":1099511627776");
                assert_ne!(text, changed);
                // A file's name is its digest; that is looked at first.
                fs::remove_file(at.join(KEY)).unwrap();
                fs::write(at.join("keys").join(Id::hash(changed.as_bytes()).to_hex()), changed).unwrap();
            },
            &[ErrorKind::Format],
        ),
        ("an empty directory", |at| fs::remove_dir_all(at).unwrap(), &[ErrorKind::NotARepository]),
    ];
    let dir = scratch();
    for (number, (what, edit, expected)) in cases.into_iter().enumerate() {
        let at = dir.path().join(number.to_string());
        copy_of("v2", &at);
        edit(&at);
        let error = open(&at, PASSWORD).await.map(|_| ()).expect_err(what);
        assert!(expected.contains(&error.kind()), "{what}: {:?}, {}", error.kind(), error.chain());
    }
}
