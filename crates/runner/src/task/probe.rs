//! Probe: can the storage be used, is it ours, and which repositories lie in it.

use std::time::Duration;

use holdfast_engine::store::{self, Confinement};
use holdfast_protocol::spec::{FoundRepository, RepositoryRecord};
use holdfast_protocol::verdict::{KeyScope, Lifecycle};
use holdfast_protocol::{TaskResult, Verdict, attachment};

use super::{Job, count};
use crate::failure::{Failure, succeeded};
use crate::record;

/// How long the server may take to tell its rules.
const LIFECYCLE_PATIENCE: Duration = Duration::from_secs(15);
/// Most rules named, and most characters of each: a verdict is short.
const LIFECYCLE_RULES: usize = 3;
const LIFECYCLE_TEXT: usize = 300;
/// Levels of directories above a repository: `<cluster>/<namespace>/<name>`.
const LEVELS: usize = 3;
/// Most entries looked at in one directory of those levels.
const WIDTH: usize = 10_000;

impl Job {
    pub(super) async fn probe(&self, scan_limit: u32) -> Result<Verdict, Failure> {
        self.reporter.phase("probe");
        if self.spec.read_only {
            self.store.is_empty().await?;
            record::look_at_metadata(self.store.as_ref()).await?;
        } else {
            store::probe(self.store.as_ref()).await?;
            let now = jiff::Timestamp::now().to_string();
            record::ensure_metadata(self.store.as_ref(), &self.spec, &now).await?;
        }

        self.reporter.phase("scan");
        let limit = usize::try_from(scan_limit).unwrap_or(usize::MAX);
        let mut rows = attachment::Writer::default();
        let mut found = 0_usize;
        let mut more = false;
        // Depth first, so that what waits to be looked at stays short however many namespaces there are.
        let mut waiting = vec![(String::new(), 0_usize)];
        while let Some((directory, level)) = waiting.pop() {
            if level == LEVELS {
                if let Some(repository) = self.look_at(directory).await? {
                    if found == limit {
                        more = true;
                        break;
                    }
                    found = found.saturating_add(1);
                    let row = rows.row(&repository).map_err(|e| {
                        Failure::fatal("Internal", format!("put {} into a row: {e}", repository.directory))
                    })?;
                    self.reporter.row(row);
                }
                continue;
            }
            let below = self.store.list_extra(&directory, WIDTH.saturating_add(1)).await?;
            more |= below.len() > WIDTH;
            // The last is looked at first: reversed, the scan goes in the order of names.
            for name in below.iter().take(WIDTH).rev().filter_map(|name| name.strip_suffix('/')) {
                let path = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
                waiting.push((path, level.saturating_add(1)));
            }
        }

        let lifecycle = Some(self.lifecycle().await);
        let key_scope = self.key_scope().await;
        let mut verdict =
            succeeded(TaskResult::Probe { repositories: count(found), more, lifecycle, key_scope });
        verdict.attachment = Some(rows.seal());
        Ok(verdict)
    }

    /// Whether the service that exchanged this run's keys looked at what they are for. Some do not, and then every run can
    /// reach what all of them can.
    async fn key_scope(&self) -> Option<KeyScope> {
        self.spec.keys_end.as_ref()?;
        if self.spec.read_only {
            let why = "it would show by writing, and nothing is written to a storage for restores only";
            return Some(KeyScope::Unknown { why: why.to_owned() });
        }
        Some(match store::confinement(self.store.as_ref()).await {
            Ok(Confinement::Kept) => KeyScope::Kept,
            Ok(Confinement::Broken { left }) => KeyScope::Ignored { left },
            Err(error) => KeyScope::Unknown { why: error.to_string().chars().take(LIFECYCLE_TEXT).collect() },
        })
    }

    /// Whether the bucket's own rules delete or move what is stored in it. A storage works without the answer.
    async fn lifecycle(&self) -> Lifecycle {
        let short = |text: &str| text.chars().take(LIFECYCLE_TEXT).collect::<String>();
        let (location, options) = &self.place;
        match tokio::time::timeout(LIFECYCLE_PATIENCE, store::lifecycle(location, options)).await {
            Ok(store::Lifecycle::Harmless) => Lifecycle::Harmless,
            Ok(store::Lifecycle::Rules(rules)) => Lifecycle::Found {
                count: count(rules.len()),
                rules: rules
                    .iter()
                    .take(LIFECYCLE_RULES)
                    .map(|rule| short(&format!("{:?} {}", rule.id, rule.effect)))
                    .collect(),
            },
            Ok(store::Lifecycle::Unknown(why)) => Lifecycle::Unknown { why: short(&why) },
            Err(_) => {
                Lifecycle::Unknown { why: format!("no answer within {} s", LIFECYCLE_PATIENCE.as_secs()) }
            }
        }
    }

    /// What lies in a directory that may be a repository. Buckets are shared: what is none is passed over.
    async fn look_at(&self, directory: String) -> Result<Option<FoundRepository>, Failure> {
        let record = record::read_record(self.store.as_ref(), &directory).await?;
        if record.is_none() && !record::has_config(self.store.as_ref(), &directory).await? {
            return Ok(None);
        }
        Ok(Some(FoundRepository { directory, record: record.map(bounded) }))
    }
}

/// Longest text of a record that is told, in characters: as long as a name of Kubernetes can be. What lies in the bucket
/// anybody may have written, and all of it goes into one object's status.
const RECORD_TEXT: usize = 253;

fn bounded(record: RepositoryRecord) -> RepositoryRecord {
    let cut = |text: String| text.chars().take(RECORD_TEXT).collect();
    RepositoryRecord {
        version: record.version,
        cluster: cut(record.cluster),
        cluster_uid: cut(record.cluster_uid),
        namespace: cut(record.namespace),
        name: cut(record.name),
        created: cut(record.created),
    }
}
