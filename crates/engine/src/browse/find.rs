//! Finding entries by name or time.

use futures::future::BoxFuture;
use holdfast_pattern::{Pattern, fold, lower_pattern, names};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::walk::Walk;
use crate::error::Result;
use crate::event::Ctx;
use crate::format::node::{Node, NodeType};
use crate::format::snapshot::Snapshot;
use crate::format::time::Time;
use crate::index::Index;
use crate::read::TreeReader;
use crate::repository::Repository;

/// What to look for.
#[derive(Debug, Clone, Default)]
pub struct FindSpec {
    /// Patterns as restic has them; an entry that matches any of them, or lies in a directory that does, is found.
    pub patterns: Vec<String>,
    /// Capital and small letters are the same.
    pub ignore_case: bool,
    /// Not changed before this time.
    pub oldest: Option<Time>,
    /// Not changed after this time.
    pub newest: Option<Time>,
}

/// Looks through snapshots; keeps the directories it has read.
pub struct Finder {
    trees: Arc<TreeReader>,
    patterns: Vec<Pattern>,
    ignore_case: bool,
    oldest: Option<Time>,
    newest: Option<Time>,
}

impl Finder {
    /// Parses the patterns; a malformed one is `ErrorKind::Usage`.
    pub fn new(repo: &Repository, index: &Arc<Index>, spec: &FindSpec) -> Result<Self> {
        let parse = |pattern: &String| {
            if spec.ignore_case { Pattern::parse(&lower_pattern(pattern)) } else { Pattern::parse(pattern) }
        };
        Ok(Self {
            trees: Arc::new(TreeReader::new(repo.clone(), Arc::clone(index))?),
            patterns: spec.patterns.iter().map(parse).collect::<Result<_, _>>()?,
            ignore_case: spec.ignore_case,
            oldest: spec.oldest,
            newest: spec.newest,
        })
    }

    /// Gives what is found in one snapshot to `each`, with its path, in the order of a listing. Ends with the first error of
    /// `each`.
    pub fn find<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        ctx: &'a Ctx,
        each: &'a mut (dyn FnMut(&Path, &Node) -> Result<()> + Send),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut walk = Walk::new(Arc::clone(&self.trees), PathBuf::from("/"), snapshot.tree);
            while let Some((path, node)) = ctx.run(walk.next()).await? {
                let folded;
                let names = names(if self.ignore_case {
                    folded = fold(&path);
                    &folded
                } else {
                    &path
                });
                if node.kind == NodeType::Dir && !self.patterns.iter().any(|p| p.may_match_below(&names)) {
                    walk.skip();
                }
                if self.patterns.iter().any(|p| p.matches(&names)) && self.in_time(&node) {
                    each(&path, &node)?;
                }
            }
            Ok(())
        })
    }

    fn in_time(&self, node: &Node) -> bool {
        self.oldest.is_none_or(|oldest| node.mtime >= oldest)
            && self.newest.is_none_or(|newest| node.mtime <= newest)
    }
}
