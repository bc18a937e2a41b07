//! Whole repositories made of mutated parts. Their ids, MACs and seals are right wherever the script does not say
//! otherwise: an attacker who holds the key, or a client with a bug, gets that far, and random damage never would.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_engine::check::{CheckSpec, ReadData, check};
use holdfast_engine::crypto::Key;
use holdfast_engine::format::compress::{Compression, Compressor};
use holdfast_engine::format::index_file::{IndexFile, IndexedPack};
use holdfast_engine::format::key_file::KeyFile;
use holdfast_engine::format::node::NodeType;
use holdfast_engine::format::pack::{self, BlobKind, PackedBlob};
use holdfast_engine::repository::InitOptions;
use holdfast_engine::restore::{Overwrite, Ownership, Reach, RestoreSpec, restore};
use holdfast_engine::store::{self, FileKind, FileName, Location, PutMode, StoreOptions};
use holdfast_engine::{Ctx, Error, ErrorKind, Id, Repository, browse};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery staple correct horse battery staple 123456";

/// How scenes ended, so that a run can show that its mutations got anywhere: sound and restored whole, restored in
/// part, refused.
pub static OUTCOMES: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

fn count(outcome: usize) {
    OUTCOMES[outcome].fetch_add(1, Ordering::Relaxed);
}

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
}

fn with_scene(work: impl FnOnce(&Scene)) {
    SCENE.with_borrow_mut(|scene| work(scene.get_or_insert_with(Scene::new)));
}

/// A repository whose parts are changed as the bytes say; checked, listed, and restored.
pub fn repository(data: &[u8]) {
    with_scene(|scene| {
        let steps: Vec<Step> = data.chunks_exact(6).take(24).map(Step::new).collect();
        scene.clear();
        let written = scene.build(&steps);
        scene.runtime.block_on(scene.use_it(&written));
    });
}

/// A path that is looked up in a sound snapshot.
pub fn paths(data: &[u8]) {
    with_scene(|scene| {
        scene.clear();
        scene.build(&[]);
        let path = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(data));
        scene.runtime.block_on(scene.look_up(&path));
    });
}

/// What a step changes.
#[derive(Clone, Copy, PartialEq)]
enum Layer {
    Inner,
    Root,
    Index,
    Snapshot,
    Header,
    Blob,
    SealedPack,
    SealedIndex,
    SealedSnapshot,
}

/// One change of one layer.
#[derive(Clone, Copy)]
struct Step {
    layer: Layer,
    operation: u8,
    place: usize,
    length: usize,
    value: u8,
}

/// What breaks parsers, put into the middle of files.
const TOKENS: [&[u8]; 20] = [
    b"\"",
    b"null",
    b"{}",
    b"[",
    b"-1",
    b"0",
    b"4294967295",
    b"4294967296",
    b"18446744073709551615",
    b"1e400",
    b"..",
    b"../../outside/file",
    b"/",
    b"\\\\x00",
    b"\"type\":\"symlink\",\"linktarget\":\"/etc\",",
    b"\"type\":\"dir\",",
    b"\"type\":\"dev\",\"device\":1,",
    b"\"mode\":4294967295,",
    b"\"size\":9223372036854775807,",
    b"\"links\":2,\"inode\":7,\"device_id\":3,",
];

impl Step {
    fn new(bytes: &[u8]) -> Self {
        let [layer, operation, low, high, length, value] = *bytes else { unreachable!("chunks of six") };
        let layer = match layer % 12 {
            0 | 1 => Layer::Inner,
            2 | 3 => Layer::Root,
            4 | 5 => Layer::Index,
            6 => Layer::Snapshot,
            7 => Layer::Header,
            8 => Layer::Blob,
            9 => Layer::SealedPack,
            10 => Layer::SealedIndex,
            _ => Layer::SealedSnapshot,
        };
        let place = usize::from(u16::from_le_bytes([low, high]));
        Self { layer, operation: operation % 8, place, length: usize::from(length % 64) + 1, value }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let Some(place) = self.place.checked_rem(bytes.len()) else { return };
        let end = (place + self.length).min(bytes.len());
        match self.operation {
            0 => bytes[place] ^= 1 << (self.value % 8),
            1 => bytes[place] = self.value,
            2 => drop(bytes.drain(place..end)),
            3 => bytes.truncate(place),
            4 => {
                let copy = bytes[place..end].to_vec();
                bytes.splice(place..place, copy);
            }
            5 | 6 => {
                let token = TOKENS[usize::from(self.value) % TOKENS.len()];
                // In place of a value or between two fields, where a parser gets furthest.
                let comma = bytes[place..].iter().position(|b| matches!(b, b',' | b':' | b'{'));
                let at = comma.map_or(place, |distance| place + distance + 1);
                let until = if self.operation == 5 {
                    at
                } else {
                    let rest = bytes[at..].iter().position(|b| matches!(b, b',' | b'}' | b']'));
                    rest.map_or(at, |distance| at + distance)
                };
                bytes.splice(at..until, token.iter().copied());
            }
            _ => {
                let other = usize::from(self.value) % bytes.len();
                bytes.swap(place, other);
            }
        }
    }
}

struct Scene {
    dir: TempDir,
    runtime: tokio::runtime::Runtime,
    repo: Repository,
    key: Key,
}

fn change(layer: Layer, steps: &[Step], bytes: &mut Vec<u8>) {
    for step in steps.iter().filter(|step| step.layer == layer) {
        step.apply(bytes);
    }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("outside")).expect("a directory");
        std::fs::write(dir.path().join("outside/file"), "untouched").expect("a file");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let options = InitOptions {
            password: PASSWORD.to_owned().into(),
            recovery_password: None,
            version: 2,
            hostname: "fuzz".to_owned(),
            username: "fuzz".to_owned(),
        };
        let (repo, key) = runtime.block_on(async {
            let mut patience = StoreOptions::default();
            patience.retry.deadline = std::time::Duration::ZERO;
            let location = Location::Local(dir.path().join("repo"));
            let store = store::open(&location, &patience, &Ctx::default()).expect("a store");
            let repo = Repository::init(store, &options, &Ctx::default()).await.expect("a repository");
            let entry = repo.store().list(FileKind::Key).await.expect("a listing")[0];
            let name = FileName { kind: FileKind::Key, id: entry.id };
            let file = repo.store().get(name, None).await.expect("the key file");
            let file = KeyFile::parse(&file).expect("our key file");
            let key = file.open(&PASSWORD.to_owned().into()).expect("our key file").expect("our password");
            (repo, key)
        });
        Self { dir, runtime, repo, key }
    }

    fn clear(&self) {
        let remove = |directory: &Path| {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    std::fs::remove_file(entry.path()).expect("our own file");
                }
            }
        };
        let at = self.dir.path().join("repo");
        for directory in ["index", "snapshots", "locks"] {
            remove(&at.join(directory));
        }
        for directory in std::fs::read_dir(at.join("data")).into_iter().flatten().flatten() {
            remove(&directory.path());
        }
        let target = self.dir.path().join("target");
        if target.exists() {
            std::fs::remove_dir_all(&target).expect("what was restored can be removed");
        }
    }

    fn put(&self, kind: FileKind, body: Vec<u8>) -> Id {
        let id = Id::hash(&body);
        let put = self.repo.store().put(FileName { kind, id }, body.into(), PutMode::ContentAddressed);
        self.runtime.block_on(put).expect("our own disk");
        id
    }

    /// Seals blobs into a pack, with what the steps say about header and file, and returns its index entry.
    fn pack(&self, blobs: &[(BlobKind, Id, Vec<u8>)], steps: &[Step]) -> IndexedPack {
        let mut compressor = Compressor::new(Compression::Fastest).expect("a compressor");
        let (mut body, mut entries) = (Vec::new(), Vec::new());
        for (kind, id, plain) in blobs {
            let mut stored = Vec::new();
            compressor.append(plain, &mut stored).expect("compression");
            let raw = *kind == BlobKind::Data && stored.len() >= plain.len();
            let sealed = self.key.seal(if raw { plain } else { &stored }).expect("sealing");
            entries.push(PackedBlob {
                kind: *kind,
                id: *id,
                offset: u32::try_from(body.len()).expect("small"),
                length: u32::try_from(sealed.len()).expect("small"),
                uncompressed: (!raw).then(|| u32::try_from(plain.len()).expect("small")),
            });
            body.extend_from_slice(&sealed);
        }
        let mut header = pack::encode_header(&entries);
        change(Layer::Header, steps, &mut header);
        let header = self.key.seal(&header).expect("sealing");
        body.extend_from_slice(&header);
        body.extend_from_slice(&u32::try_from(header.len()).expect("small").to_le_bytes());
        change(Layer::SealedPack, steps, &mut body);
        IndexedPack { id: self.put(FileKind::Pack, body), blobs: entries, marked: false }
    }

    /// Writes two packs, an index and a snapshot; returns the snapshot's id.
    fn build(&self, steps: &[Step]) -> Id {
        let node = |name: &str, rest: &str| {
            format!(
                "{{\"name\":\"{name}\",{rest},\"mtime\":\"2024-05-06T07:08:09.123Z\",\
                 \"atime\":\"2024-05-06T07:08:09.123Z\",\"ctime\":\"2024-05-06T07:08:09.123Z\",\"uid\":0,\"gid\":0"
            )
        };
        let (text, zeros) = (b"the content of a file\n".repeat(40), vec![0; 70_000]);
        let (text_id, zeros_id) = (Id::hash(&text), Id::hash(&zeros));
        let mut damaged = text.clone();
        change(Layer::Blob, steps, &mut damaged);
        let file = "\"type\":\"file\",\"mode\":420";
        let mut inner = format!(
            "{{\"nodes\":[{},\"inode\":7,\"device_id\":3,\"size\":880,\"links\":2,\"content\":[\"{text_id}\"]}},\
             {},\"inode\":7,\"device_id\":3,\"size\":880,\"links\":2,\"content\":[\"{text_id}\"]}},\
             {},\"size\":70880,\"extended_attributes\":[{{\"name\":\"user.a\",\"value\":\"MQ==\"}}],\
             \"content\":[\"{zeros_id}\",\"{text_id}\"]}}]}}\n",
            node("a", file),
            node("b", file),
            node("c\\\\u00e4", file),
        )
        .into_bytes();
        change(Layer::Inner, steps, &mut inner);
        let inner_id = Id::hash(&inner);
        let mut root = format!(
            "{{\"nodes\":[{},\"content\":null,\"subtree\":\"{inner_id}\"}},{},\"content\":null}},{},\"content\":[]}},\
             {},\"linktarget\":\"dir/a\",\"links\":1,\"content\":null}}]}}\n",
            node("dir", "\"type\":\"dir\",\"mode\":2147484141"),
            node("fifo", "\"type\":\"fifo\",\"mode\":33554852"),
            node("file", file),
            node("link", "\"type\":\"symlink\",\"mode\":134218239"),
        )
        .into_bytes();
        change(Layer::Root, steps, &mut root);
        let root_id = Id::hash(&root);
        let data = [(BlobKind::Data, text_id, damaged), (BlobKind::Data, zeros_id, zeros)];
        let trees = [(BlobKind::Tree, inner_id, inner), (BlobKind::Tree, root_id, root)];
        let packs = [self.pack(&data, steps), self.pack(&trees, &[])];
        let mut index = IndexFile::to_json(&packs).expect("an index");
        change(Layer::Index, steps, &mut index);
        let mut index = self.key.seal(&index).expect("sealing");
        change(Layer::SealedIndex, steps, &mut index);
        self.put(FileKind::Index, index);
        let mut snapshot = format!(
            "{{\"time\":\"2026-01-02T03:04:05.678+02:00\",\"tree\":\"{root_id}\",\"paths\":[\"/x\"],\
             \"hostname\":\"h\",\"tags\":[\"t\"]}}"
        )
        .into_bytes();
        change(Layer::Snapshot, steps, &mut snapshot);
        let mut snapshot = self.key.seal(&snapshot).expect("sealing");
        change(Layer::SealedSnapshot, steps, &mut snapshot);
        self.put(FileKind::Snapshot, snapshot)
    }

    async fn use_it(&self, snapshot: &Id) {
        let ctx = Ctx::default();
        let spec = CheckSpec { read_data: ReadData::All };
        let checked = check(&self.repo, None, &spec, &ctx).await;
        let sound = match &checked {
            Ok(report) => report.errors == 0,
            Err(e) => {
                no_bug(e);
                false
            }
        };
        self.look_up(Path::new("dir/a")).await;
        let target = self.dir.path().join("target");
        let spec = RestoreSpec {
            snapshot: *snapshot,
            subpath: None,
            target,
            include: Vec::new(),
            exclude: Vec::new(),
            include_any_case: Vec::new(),
            exclude_any_case: Vec::new(),
            overwrite: Overwrite::Always,
            delete_extra: true,
            spare_left_out: true,
            reach: Reach::Undo,
            spare_caches: true,
            verify: true,
            dry_run: false,
            ownership: Ownership::Restore,
            sparse: true,
            allow_empty: true,
        };
        match restore(&self.repo, None, &spec, &ctx).await {
            Ok(report) => {
                assert!(
                    !sound || report.faults.is_empty(),
                    "check found nothing, restore {:?}",
                    report.faults
                );
                count(usize::from(!report.faults.is_empty()));
            }
            // A size that no disk has, in a directory that is honest otherwise.
            Err(e) if e.kind() == ErrorKind::TargetFull => count(2),
            Err(e) => {
                count(2);
                no_bug(&e);
                assert!(!sound, "check found nothing, restore says {}", e.chain());
            }
        }
        let left = std::fs::read_to_string(self.dir.path().join("outside/file"));
        assert!(left.is_ok_and(|text| text == "untouched"), "a restore left its target");
        let mut around: Vec<_> = std::fs::read_dir(self.dir.path())
            .expect("our own directory")
            .map(|entry| entry.expect("our own directory").file_name())
            .collect();
        around.retain(|name| name != "target");
        assert_eq!(around.len(), 2, "a restore left its target: {around:?}");
    }

    async fn look_up(&self, path: &Path) {
        let ctx = Ctx::default();
        let outcome: Result<(), Error> = async {
            let snapshots = self.repo.snapshots().await?;
            let index = self.repo.load_index(&ctx).await?;
            for (_, snapshot) in snapshots {
                let view = browse::View::new(&self.repo, &index, snapshot.clone())?;
                if let Some(node) = view.stat(path).await?
                    && node.kind == NodeType::File
                {
                    view.read_range(&node, 3, 1 << 20).await?;
                }
                let text = path.to_string_lossy();
                let mut entries = 0;
                let each = |_: &Path, _: &_| {
                    entries += 1;
                    assert!(entries < 10_000, "more entries than the directories can hold");
                    Ok(())
                };
                browse::ls(&self.repo, &index, &snapshot, &text, true, each).await?;
            }
            Ok(())
        }
        .await;
        if let Err(e) = outcome {
            no_bug(&e);
        }
    }
}

/// Whatever is in a repository: it is a failure with a reason, never our own mistake.
fn no_bug(error: &Error) {
    assert_ne!(error.kind(), ErrorKind::Internal, "{}", error.chain());
}
