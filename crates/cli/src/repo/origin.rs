//! What the tags that Holdfast itself gives a snapshot say to people. In a table they would be fourteen lines a
//! snapshot, of which a person needs two or three words.

use holdfast_api::tags::RunTags;
use holdfast_engine::format::snapshot::Snapshot;
use holdfast_protocol::spec::UNREADABLE_TAG;

use crate::text::{counted, safe};

/// Where a snapshot comes from, as far as it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The run that made it, and what is to be known of it; empty when no run of a cluster did.
    pub(super) run: Vec<String>,
    /// The part of the run that it holds, such as `volume/data`.
    pub(super) component: String,
    /// The tags that are not told by the others: a user's, a hold, those of a later version.
    pub(super) tags: Vec<String>,
}

impl Origin {
    /// Reads the tags. Those that cannot be read are all shown.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let Ok(Some(run)) = RunTags::parse(&snapshot.tags) else {
            return Self { tags: snapshot.tags.clone(), ..Self::default() };
        };
        let told = run.to_tags();
        let unreadable = |tag: &String| {
            let (key, number) = tag.split_once('=')?;
            (key == UNREADABLE_TAG).then(|| number.parse::<u64>().ok()).flatten()
        };
        let mut about = vec![match &run.undo_of {
            Some(restore) => format!("before Restore {restore}"),
            None => run.run.clone(),
        }];
        about.extend(
            snapshot
                .tags
                .iter()
                .find_map(unreadable)
                .map(|number| format!("{} NOT read", counted(number, "file", "files"))),
        );
        let tags = snapshot.tags.iter().filter(|tag| !told.contains(tag) && unreadable(tag).is_none());
        Self { run: about, component: run.component, tags: tags.cloned().collect() }
    }

    /// As it is without looking: every tag.
    pub(super) fn verbose(snapshot: &Snapshot) -> Self {
        Self { tags: snapshot.tags.clone(), ..Self::of(snapshot) }
    }
}

/// One a line, harmless to a terminal.
pub(super) fn lines(values: &[String]) -> String {
    values.iter().map(|value| safe(value)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
pub(super) fn tagged(tags: &[&str]) -> Snapshot {
    let ours = "holdfast.dev/cluster-uid=u holdfast.dev/cluster=prod holdfast.dev/component=volume/data \
                holdfast.dev/components-digest=2642d32a41e4e095 holdfast.dev/components=1 holdfast.dev/format=1 \
                holdfast.dev/namespace=shop holdfast.dev/run-start=2026-11-20T02:00:00Z holdfast.dev/run-uid=x \
                holdfast.dev/run=daily-1";
    let all: Vec<&str> = ours.split_whitespace().chain(tags.iter().copied()).collect();
    serde_json::from_value(serde_json::json!({
        "time": "2026-11-20T02:00:00Z",
        "tree": "00".repeat(32),
        "paths": ["/data/data"],
        "hostname": "shop",
        "tags": all,
    }))
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_says_by_itself_is_folded_and_nothing_else() {
        let plain = Origin::of(&tagged(&["release-42", "holdfast.dev/from-the-future=1"]));
        assert_eq!((plain.run, plain.component.as_str()), (vec!["daily-1".to_owned()], "volume/data"));
        assert_eq!(plain.tags, ["release-42", "holdfast.dev/from-the-future=1"]);
        let gaps = Origin::of(&tagged(&["holdfast.dev/unreadable=3"]));
        assert_eq!((gaps.run, gaps.tags.len()), (vec!["daily-1".into(), "3 files NOT read".into()], 0));
        let safety = Origin::of(&tagged(&["holdfast.dev/undo-of=put-back"]));
        assert_eq!(safety.run, ["before Restore put-back"]);
    }

    #[test]
    fn tags_that_cannot_be_read_are_all_shown() {
        let mut odd = tagged(&[]);
        odd.tags.retain(|tag| !tag.contains("run-uid"));
        assert_eq!(Origin::of(&odd), Origin { tags: odd.tags.clone(), ..Origin::default() });
        let mut others = tagged(&[]);
        others.tags = vec!["one".into(), "two".into()];
        assert_eq!(Origin::of(&others).tags, ["one", "two"]);
        assert!(Origin::of(&others).run.is_empty());
        assert_eq!(Origin::verbose(&tagged(&["mine"])).tags.len(), 11);
    }
}
