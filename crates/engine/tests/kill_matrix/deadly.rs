//! A store and an event sink that kill their own process at a point that has a name.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::store::{Entry, FileKind, FileName, PutMode, PutPayload, Store};
use holdfast_engine::{Event, EventSink, Result};

use crate::restoring::store_at;
use crate::versitygw;

pub(crate) fn die() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

/// Where to die: `before put pack 1`, `within put pack 1` (half of the file is written), `after put pack 1`,
/// `after delete index 2`, `phase commit`, `progress 3`. No point: nobody dies, and what is changed is noted.
pub(crate) struct Point {
    wanted: String,
    counts: Mutex<HashMap<String, u32>>,
    changes: Mutex<Vec<String>>,
}

impl Point {
    pub(crate) fn new(wanted: &str) -> Arc<Self> {
        Arc::new(Self { wanted: wanted.to_owned(), counts: Mutex::default(), changes: Mutex::default() })
    }

    /// All changes that were begun, in their order.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.changes.lock().unwrap().clone()
    }

    /// Counts one more of `what` and says whether this is the one.
    fn reached(&self, what: &str) -> bool {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(what.to_owned()).or_default();
        *count += 1;
        self.wanted == format!("{what} {count}")
    }

    fn pass(&self, what: &str) {
        if self.reached(what) {
            die();
        }
    }
}

impl EventSink for Point {
    fn event(&self, event: Event) {
        match event {
            Event::Phase(name) if self.wanted == format!("phase {name}") => die(),
            Event::Progress(_) => self.pass("progress"),
            _ => {}
        }
    }
}

/// Dies before, within or after a call.
pub(crate) struct DeadlyStore {
    inner: Arc<dyn Store>,
    at: PathBuf,
    point: Arc<Point>,
}

/// What is in the place of a directory for a repository at a server: its location, and its authority's certificate.
pub(crate) fn at_a_server(location: &str, ca: &Path) -> PathBuf {
    format!("{location}#{}", ca.display()).into()
}

fn of_a_server(at: &Path) -> Option<(&str, &str)> {
    at.to_str().and_then(|at| at.split_once('#'))
}

fn name_of(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Config => "config",
        FileKind::Key => "key",
        FileKind::Lock => "lock",
        FileKind::Snapshot => "snapshot",
        FileKind::Index => "index",
        FileKind::Pack => "pack",
    }
}

impl DeadlyStore {
    /// Of a repository in a directory, or of one at an S3 server ([`at_a_server`]).
    pub(crate) fn on(at: &Path, point: &Arc<Point>) -> Arc<dyn Store> {
        let inner = match of_a_server(at) {
            Some((location, ca)) => versitygw::store_at(location, Path::new(ca)),
            None => store_at(at),
        };
        Arc::new(Self { inner, at: at.to_owned(), point: Arc::clone(point) })
    }

    /// Dies in the middle of a write. At a server nobody knows in the middle of what.
    async fn tear(&self, path: &Path, body: &[u8], write: impl Future<Output = Result<()>>) -> Result<()> {
        if of_a_server(&self.at).is_none() {
            tear(path, body);
        }
        tokio::select! {
            done = write => done.map(|()| die()),
            () = tokio::time::sleep(Duration::from_millis(3)) => die(),
        }
    }

    async fn around<T>(&self, call: &str, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let call = format!("{call} {what}");
        self.point.pass(&format!("before {call}"));
        let result = work.await;
        self.point.pass(&format!("after {call}"));
        result
    }

    async fn change<T>(&self, call: &str, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.point.changes.lock().unwrap().push(format!("{call} {what}"));
        self.around(call, what, work).await
    }

    fn path(&self, name: FileName) -> PathBuf {
        let hex = name.id.to_hex();
        match name.kind {
            FileKind::Config => self.at.join("config"),
            FileKind::Pack => self.at.join("data").join(&hex[..2]).join(hex),
            kind => self.at.join(kind.directory()).join(hex),
        }
    }
}

/// What a kill in the middle of a write leaves on a disk: a temporary file beside the name, half written.
fn tear(path: &Path, body: &[u8]) -> ! {
    let name = path.file_name().unwrap().to_string_lossy();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path.with_file_name(format!("{name}-tmp-0011223344556677")), &body[..body.len() / 2]).unwrap();
    die()
}

#[async_trait::async_trait]
impl Store for DeadlyStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        self.around("list", name_of(kind), self.inner.list(kind)).await
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        self.around("get", name_of(name.kind), self.inner.get(name, range)).await
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        self.around("get", name_of(name.kind), self.inner.get_suffix(name, len)).await
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        self.inner.size(name).await
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        if self.point.reached(&format!("within put {}", name_of(name.kind))) {
            let bytes = Bytes::from(body.clone());
            return self.tear(&self.path(name), &bytes, self.inner.put(name, body, mode)).await;
        }
        self.change("put", name_of(name.kind), self.inner.put(name, body, mode)).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        self.change("delete", name_of(name.kind), self.inner.delete(name)).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.inner.is_empty().await
    }

    async fn prepare(&self) -> Result<()> {
        self.change("make", "directories", self.inner.prepare()).await
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        self.inner.get_extra(path).await
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        if self.point.reached("within put extra") {
            tear(&self.at.join(path), &body);
        }
        self.change("put", "extra", self.inner.put_extra(path, body, mode)).await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.change("delete", "extra", self.inner.delete_extra(path)).await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        self.inner.list_extra(directory, limit).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<u64> {
        self.around("remove", "unfinished", self.inner.remove_unfinished(age)).await
    }

    async fn lists_at_once(&self) -> bool {
        self.inner.lists_at_once().await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
