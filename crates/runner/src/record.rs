//! The files beside repositories by which a bucket describes itself: `metadata.yaml` at the root of a storage and
//! `repository.yaml` in each repository. Reads, writes once, and tells ours from a stranger's.

use bytes::Bytes;
use holdfast_engine::error::ErrorKind;
use holdfast_engine::store::{PutMode, Store};
use holdfast_protocol::RunSpec;
use holdfast_protocol::spec::RepositoryRecord;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Name of the storage's own description.
pub(crate) const METADATA: &str = "metadata.yaml";
/// Name of a repository's description.
pub(crate) const REPOSITORY: &str = "repository.yaml";
/// The version of both that this program writes and understands.
const FORMAT: u32 = 1;
/// Longer files are none of ours.
const MAX_LENGTH: usize = 64 * 1024;

/// `metadata.yaml`: says that a storage is Holdfast's, in which format, and who began it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    /// Version of this file and of the layout below it.
    pub(crate) version: u32,
    /// Name of the cluster that used the storage first.
    pub(crate) created_by: String,
    /// Uid of that cluster's `kube-system` namespace.
    pub(crate) cluster_uid: String,
    /// When, RFC 3339.
    pub(crate) created: String,
}

/// All that every version of `metadata.yaml` has: enough to tell what it is.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Makes sure that the storage has its `metadata.yaml` and that it is one that this program understands.
pub(crate) async fn ensure_metadata(
    store: &dyn Store,
    spec: &RunSpec,
    now: &str,
) -> Result<Metadata, Failure> {
    let ours = Metadata {
        version: FORMAT,
        created_by: spec.run.cluster.clone(),
        cluster_uid: spec.run.cluster_uid.clone(),
        created: now.to_owned(),
    };
    judge_metadata(store, &write_once(store, METADATA, &ours).await?)
}

/// Makes sure, without writing, that a `metadata.yaml` that is there is one that this program understands.
pub(crate) async fn look_at_metadata(store: &dyn Store) -> Result<(), Failure> {
    match store.get_extra(METADATA).await? {
        Some(text) => judge_metadata(store, &text).map(drop),
        None => Ok(()),
    }
}

fn judge_metadata(store: &dyn Store, text: &[u8]) -> Result<Metadata, Failure> {
    let place = format!("{METADATA} in {}", store.describe());
    let foreign = || {
        Failure::fatal(
            "ForeignContent",
            format!(
                "{place} was not written by Holdfast; use another bucket or prefix, or move that file away"
            ),
        )
    };
    let Versioned { version } = parse(text).ok_or_else(foreign)?;
    if version != FORMAT {
        return Err(Failure::fatal(
            "UnknownMetadata",
            format!(
                "{place} is of version {version} and this release understands version {FORMAT}; use a newer release"
            ),
        ));
    }
    parse(text).ok_or_else(foreign)
}

/// Makes sure that the repository has its `repository.yaml`; the result is what it says, `None` when that is
/// nothing that this program can read.
pub(crate) async fn ensure_record(
    store: &dyn Store,
    record: &RepositoryRecord,
) -> Result<Option<RepositoryRecord>, Failure> {
    Ok(parse(&write_once(store, REPOSITORY, record).await?))
}

/// Reads a repository's description; `None` when there is none or it cannot be read.
pub(crate) async fn read_record(
    store: &dyn Store,
    directory: &str,
) -> Result<Option<RepositoryRecord>, Failure> {
    let text = small_extra(store, &format!("{directory}/{REPOSITORY}")).await?;
    Ok(text.and_then(|text| parse(&text)))
}

/// Whether a directory holds a file `config`, which every repository does. One that is longer than any is somebody
/// else's: buckets are shared.
pub(crate) async fn has_config(store: &dyn Store, directory: &str) -> Result<bool, Failure> {
    Ok(small_extra(store, &format!("{directory}/config")).await?.is_some())
}

/// A file that may be ours; `None` also for one that is longer than any of ours.
async fn small_extra(store: &dyn Store, path: &str) -> Result<Option<Bytes>, Failure> {
    match store.get_extra(path).await {
        Err(e) if e.kind() == ErrorKind::Corrupt => Ok(None),
        other => Ok(other?),
    }
}

/// Writes the file unless it is there, and returns what is then there. Of several that write at once one wins and
/// all see its file.
async fn write_once<T: Serialize>(store: &dyn Store, name: &str, value: &T) -> Result<Bytes, Failure> {
    if let Some(text) = store.get_extra(name).await? {
        return Ok(text);
    }
    let text = serde_saphyr::to_string(value)
        .map_err(|e| Failure::fatal("Internal", format!("put {name} into words: {e}")))?;
    match store.put_extra(name, Bytes::from(text), PutMode::CreateNew).await {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyInitialized => {}
        Err(e) => return Err(e.into()),
    }
    // Read back rather than trusted: it proves that the store shows what it took.
    store.get_extra(name).await?.ok_or_else(|| {
        Failure::fatal(
            "Missing",
            format!("{name} was written to {} and is not there when read back", store.describe()),
        )
    })
}

/// What a description says, when this program can read it.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    serde_saphyr::from_slice(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_plain_yaml_and_read_back_equal() {
        let record = RepositoryRecord {
            version: 1,
            // Everything that YAML might take for something else.
            cluster: "no".into(),
            cluster_uid: "0123".into(),
            namespace: "shop: \"x\" # y".into(),
            name: "1e3".into(),
            created: "2026-11-20T02:00:00Z".into(),
        };
        let text = serde_saphyr::to_string(&record).unwrap();
        assert!(text.contains("clusterUid:"), "{text}");
        assert_eq!(parse::<RepositoryRecord>(text.as_bytes()).unwrap(), record);
    }

    #[test]
    fn yaml_that_is_deep_or_grows_is_no_record() {
        let name = |value: &str| format!("version: 1\ncreatedBy: {value}\nclusterUid: u\ncreated: t\n");
        assert!(parse::<Metadata>(name("c").as_bytes()).is_some());
        for open in ["[", "{a: ", "- ", "? "] {
            let deep = open.repeat((MAX_LENGTH - 100) / open.len());
            assert!(parse::<Metadata>(name(&deep).as_bytes()).is_none());
            assert!(parse::<Metadata>(format!("extra: {deep}").as_bytes()).is_none());
        }
        let level = |n: u32| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(10));
        let bomb = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}", (1..30).map(level).collect::<String>());
        // Written out it has ten to the thirtieth entries: whoever tries never comes to the end of it.
        let _ = parse::<Metadata>(format!("{bomb}{}", name("c")).as_bytes());
    }

    #[test]
    fn a_huge_or_binary_file_is_no_record() {
        assert!(parse::<Metadata>(&vec![b'a'; MAX_LENGTH + 1]).is_none());
        assert!(parse::<Metadata>(&[0xff, 0x00, 0x80]).is_none());
    }
}
