//! `repo find --blob`, `--tree` and `--pack`: in which files and directories of which snapshots objects are used.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_engine::browse::{FoundObject, ObjectFinder, ObjectSpec};
use holdfast_engine::format::pack::BlobKind;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_engine::id::Id;
use holdfast_engine::index::Index;
use holdfast_engine::repository::Repository;
use serde_json::{Value, json};

use super::session::Session;
use crate::exit;
use crate::failure::Result;
use crate::text::{local_time, safe};

/// Flags of `repo find` for objects.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// The patterns are ids of blobs, whole or their first 8 digits or more: find the files they are part of
    #[arg(long, conflicts_with_all = ["tree", "pack"])]
    blob: bool,
    /// The patterns are ids of trees: find the directories they are
    #[arg(long, conflicts_with = "pack")]
    tree: bool,
    /// The patterns are ids of packs: find the files and directories that need what is in them
    #[arg(long)]
    pack: bool,
    /// With these: also name the packs that hold what was found
    #[arg(long)]
    show_pack_id: bool,
}

impl Flags {
    /// What they make of the patterns; none where these are names of files.
    pub(super) fn spec(&self, patterns: &[String]) -> Option<ObjectSpec> {
        let patterns = || patterns.to_vec();
        match (self.blob, self.tree, self.pack) {
            (true, ..) => Some(ObjectSpec::Blobs(patterns())),
            (_, true, _) => Some(ObjectSpec::Trees(patterns())),
            (.., true) => Some(ObjectSpec::Packs(patterns())),
            _ => None,
        }
    }
}

/// Looks through these snapshots, in their order.
pub(super) async fn run(
    session: &Session<'_>,
    repository: &Repository,
    index: &Arc<Index>,
    snapshots: &[(Id, Snapshot)],
    spec: &ObjectSpec,
    flags: &Flags,
) -> Result<u8> {
    let finder = session.bound(ObjectFinder::new(repository, index, spec, &session.ctx)).await?;
    let mut rows = Vec::new();
    let mut met: BTreeSet<(BlobKind, Id)> = BTreeSet::new();
    for (id, snapshot) in snapshots {
        let found = session.bound(finder.find(snapshot, &session.ctx)).await?;
        for object in &found {
            met.insert((object.kind, object.id));
            if session.ui.json() {
                rows.push(to_json(id, snapshot, object));
                continue;
            }
            for line in describe(id, snapshot, object) {
                session.ui.print(&line)?;
            }
        }
    }
    session.ui.close();
    if session.ui.json() {
        session.ui.print(&Value::from(rows).to_string())?;
        return Ok(exit::OK);
    }
    if met.is_empty() {
        session.ui.say(format!("nothing found in {} snapshots", snapshots.len()));
    }
    if flags.show_pack_id {
        for line in met.iter().flat_map(|(kind, id)| packs(index, *kind, id)) {
            session.ui.print(&line)?;
        }
    }
    Ok(exit::OK)
}

/// restic's word for a kind in this command.
fn kind(kind: BlobKind) -> &'static str {
    match kind {
        BlobKind::Data => "blob",
        BlobKind::Tree => "tree",
    }
}

fn to_json(id: &Id, snapshot: &Snapshot, object: &FoundObject) -> Value {
    let mut value = json!({
        "object_type": kind(object.kind),
        "id": object.id,
        "path": object.path.to_string_lossy(),
        "snapshot": id,
        "time": snapshot.time,
    });
    if let (Some(parent), Value::Object(fields)) = (object.parent, &mut value) {
        fields.insert("parent_tree".to_owned(), json!(parent));
    }
    value
}

fn describe(id: &Id, snapshot: &Snapshot, object: &FoundObject) -> Vec<String> {
    let path = safe(&object.path.to_string_lossy());
    let mut lines = vec![format!("Found {} {}", kind(object.kind), object.id)];
    match object.parent {
        Some(parent) => {
            lines.push(format!(" ... in file {path}"));
            lines.push(format!("     (tree {parent})"));
        }
        None => lines.push(format!(" ... path {path}")),
    }
    lines.push(format!(" ... in snapshot {} ({})", id.short(), local_time(snapshot.time.timestamp)));
    lines
}

fn packs(index: &Index, kind: BlobKind, id: &Id) -> Vec<String> {
    let word = kind.as_str();
    let mut lines = Vec::new();
    for place in index.lookup(kind, id) {
        let plain = place.uncompressed.map(|n| format!(", uncompressed length {n}")).unwrap_or_default();
        lines.push(format!("Object belongs to pack {}", place.pack));
        lines.push(format!(
            " ... Pack {}: <Blob ({word}) {}, offset {}, length {}{plain}>",
            place.pack.short(),
            id.short(),
            place.offset,
            place.length
        ));
    }
    if lines.is_empty() {
        lines.push(format!("Object {} with type {word} not found in the index", id.short()));
    }
    lines
}
