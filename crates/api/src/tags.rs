//! The restic tags of a component's snapshot: all that is needed to make the Snapshot object again from the
//! bucket alone. Fixed for ever: a tag may be added, but none renamed and no form changed.
//!
//! A tag is `holdfast.dev/<key>=<value>`. restic takes lists of tags separated by commas, so every byte of a
//! value outside `A-Z a-z 0-9 . _ ~ / : + @ -` is written as `%` and two hexadecimal digits of its UTF-8 form.
//!
//! | key | value |
//! |---|---|
//! | `format` | `1`; a version that a reader does not know is refused |
//! | `cluster`, `cluster-uid` | name of the cluster, uid of its namespace `kube-system` |
//! | `namespace`, `run`, `run-uid` | of the Backup |
//! | `run-start` | when the Backup began, `2026-11-20T02:00:00Z` |
//! | `component` | name of the component |
//! | `components`, `components-digest` | how many components the Backup has, and their digest ([`ComponentSet`]) |
//! | `unreadable` | number of files that could not be read; set by the runner, absent when there are none |
//! | `on-unreadable` | only of a Backup that has it so: `Ignore`, files that could not be read are no gap |
//! | `undo-of` | only on a safety snapshot: name of the Restore that was about to overwrite this; `run` and `run-uid` are that Restore's |
//! | `capacity`, `storage-class`, `access-modes`, `volume-mode` | of the claim; access modes joined by `+` |
//! | `labels`, `annotations` | of the claim: `<key>:<value>` joined by `+`, each value first escaped by itself as above, and its `:` and `+` too; of its annotations those that say how it is saved ([`crate::names::CLAIM_WISHES`]) |

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

const PREFIX: &str = "holdfast.dev/";
const FORMAT: &str = "1";
const IGNORE: &str = "Ignore";

/// What the tags of one component's snapshot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTags {
    /// Name of the cluster.
    pub cluster: String,
    /// Uid of the cluster's namespace `kube-system`.
    pub cluster_uid: String,
    /// Namespace of the Backup.
    pub namespace: String,
    /// Name of the Backup.
    pub run: String,
    /// Uid of the Backup.
    pub run_uid: String,
    /// When the Backup began, in whole seconds.
    pub run_start: Timestamp,
    /// Name of the component.
    pub component: String,
    /// All components of the Backup.
    pub components: ComponentSet,
    /// What the volume was like.
    pub volume: VolumeTags,
    /// Number of files and directories that could not be read. Known to the runner only: 0 in what it is told.
    pub unreadable: u64,
    /// Files that could not be read do not matter to the Backup: without them the component is whole.
    pub ignores_unreadable: bool,
    /// Of a safety snapshot: name of the Restore that was about to overwrite what it holds.
    pub undo_of: Option<String>,
}

/// Count and digest of the components of a Backup. A Snapshot lacks no component when the set made from those that
/// were found equals the set that each of them names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSet {
    /// How many components.
    pub count: usize,
    /// First 16 hexadecimal digits of the SHA-256 of the sorted names, each ended by a line feed.
    pub digest: String,
}

impl ComponentSet {
    /// The set of these components; neither order nor repetition matters.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let mut hasher = Sha256::new();
        for name in &names {
            hasher.update(name.as_bytes());
            hasher.update(b"\n");
        }
        let mut digest = HEXLOWER.encode(&hasher.finalize());
        digest.truncate(16);
        Self { count: names.len(), digest }
    }
}

/// What the volume of a component was like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeTags {
    /// Capacity, as a Kubernetes quantity.
    pub capacity: Option<String>,
    /// Storage class of the claim.
    pub storage_class: Option<String>,
    /// Access modes of the claim.
    pub access_modes: Vec<String>,
    /// Volume mode of the claim.
    pub volume_mode: Option<String>,
    /// Labels of the claim.
    pub labels: BTreeMap<String, String>,
    /// Those annotations of the claim that say whether and how it is saved.
    pub annotations: BTreeMap<String, String>,
}

/// No more of a claim's labels is kept than this, in bytes, and of its annotations, as they stand in the tag: there are
/// hundreds of claims in one Snapshot, and a whole object may have 1.5 MiB.
const MAX_LABELS: usize = 1024;
const MAX_ANNOTATIONS: usize = 2048;

impl VolumeTags {
    /// The same with what is to be kept of a claim's labels and annotations.
    #[must_use]
    pub fn with_marks(
        mut self,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        let (mut labels_room, mut room) = (MAX_LABELS, MAX_ANNOTATIONS);
        self.labels = labels
            .iter()
            .filter(|(key, value)| is_label(key, value) && fits(&mut labels_room, key, value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        self.annotations = BTreeMap::new();
        for key in crate::names::CLAIM_WISHES {
            let Some(value) = annotations.get(key) else { continue };
            // The ones after it count only where it is absent.
            if !fits(&mut room, key, value) {
                break;
            }
            self.annotations.insert(key.to_owned(), value.clone());
        }
        self
    }
}

/// Whether Kubernetes would take it as a label, as far as the joined form depends on it and a claim could not be made with
/// it: what stands in a bucket need not have come from a cluster.
fn is_label(key: &str, value: &str) -> bool {
    let name = |text: &str, most: usize| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        bytes.len() <= most
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    let (prefix, last) = key.split_once('/').map_or((None, key), |(prefix, last)| (Some(prefix), last));
    let is_domain = |text: &str| {
        let part =
            |part: &str| name(part, 253) && !part.contains(|c: char| c == '_' || c.is_ascii_uppercase());
        text.len() <= 253 && text.split('.').all(part)
    };
    prefix.is_none_or(is_domain) && name(last, 63) && (value.is_empty() || name(value, 63))
}

/// Takes the room of a pair; false, and none is taken, where there is not enough.
fn fits(room: &mut usize, key: &str, value: &str) -> bool {
    let left = room.checked_sub(key.len().saturating_add(escape(&escape(value)).len()));
    *room = left.unwrap_or(*room);
    left.is_some()
}

/// Pairs as one value; none of none. `:` and `+` are escaped within a value, and no key holds one.
fn join(pairs: &BTreeMap<String, String>) -> Option<String> {
    let one = |(key, value): (&String, &String)| {
        format!("{key}:{}", escape(value).replace(':', "%3A").replace('+', "%2B"))
    };
    (!pairs.is_empty()).then(|| pairs.iter().map(one).collect::<Vec<_>>().join("+"))
}

/// What [`join`] wrote. What cannot be read of it is passed over: no data depends on it.
fn split(joined: Option<&str>) -> BTreeMap<String, String> {
    let one = |pair: &str| {
        let (key, value) = pair.split_once(':')?;
        Some((key.to_owned(), unescape(value)?))
    };
    joined.into_iter().flat_map(|joined| joined.split('+')).filter_map(one).collect()
}

/// Tags that begin like ours and cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TagError {
    /// Written by a later version.
    #[error(
        "the snapshot was written in tag format {format:?}, and this version of Holdfast reads format 1: use a later version"
    )]
    UnknownFormat {
        /// The format that was found.
        format: String,
    },
    /// A tag is missing.
    #[error("the snapshot has Holdfast's tags, but lacks {PREFIX}{key}: someone has changed its tags")]
    Missing {
        /// The key of the tag.
        key: &'static str,
    },
    /// A tag is there twice with different values.
    #[error("the snapshot has the tag {PREFIX}{key} more than once: someone has changed its tags")]
    Ambiguous {
        /// The key of the tag.
        key: String,
    },
    /// A value cannot be read.
    #[error("the snapshot's tag {PREFIX}{key} has the value {value:?}, which is not {expected}")]
    Invalid {
        /// The key of the tag.
        key: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl RunTags {
    /// The tags, sorted. None of them holds a comma.
    pub fn to_tags(&self) -> Vec<String> {
        let Self {
            cluster,
            cluster_uid,
            namespace,
            run,
            run_uid,
            run_start,
            component,
            components,
            volume,
            unreadable,
            ignores_unreadable,
            undo_of,
        } = self;
        let VolumeTags { capacity, storage_class, access_modes, volume_mode, labels, annotations } = volume;
        let mut tags = vec![
            tag("format", FORMAT),
            tag("cluster", cluster),
            tag("cluster-uid", cluster_uid),
            tag("namespace", namespace),
            tag("run", run),
            tag("run-uid", run_uid),
            tag("run-start", &run_start.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            tag("component", component),
            tag("components", &components.count.to_string()),
            tag("components-digest", &components.digest),
        ];
        tags.extend(capacity.as_deref().map(|value| tag("capacity", value)));
        tags.extend(storage_class.as_deref().map(|value| tag("storage-class", value)));
        tags.extend(volume_mode.as_deref().map(|value| tag("volume-mode", value)));
        tags.extend(undo_of.as_deref().map(|value| tag("undo-of", value)));
        tags.extend((*unreadable > 0).then(|| tag("unreadable", &unreadable.to_string())));
        tags.extend(ignores_unreadable.then(|| tag("on-unreadable", IGNORE)));
        tags.extend(join(labels).map(|value| tag("labels", &value)));
        tags.extend(join(annotations).map(|value| tag("annotations", &value)));
        if !access_modes.is_empty() {
            tags.push(tag("access-modes", &access_modes.join("+")));
        }
        tags.sort_unstable();
        tags
    }

    /// Reads the tags of a snapshot. None: it was not made by Holdfast (by restic or K8up, say), and is left alone.
    /// Tags that we do not know are passed over: the user's own, and those of later versions.
    pub fn parse(tags: &[String]) -> Result<Option<Self>, TagError> {
        let mut values: BTreeMap<&str, String> = BTreeMap::new();
        for (key, raw) in tags.iter().filter_map(|tag| tag.strip_prefix(PREFIX)?.split_once('=')) {
            let value = unescape(raw).ok_or_else(|| TagError::Invalid {
                key: key.to_owned(),
                value: raw.to_owned(),
                expected: "percent-encoded UTF-8",
            })?;
            if values.get(key).is_some_and(|earlier| *earlier != value) {
                return Err(TagError::Ambiguous { key: key.to_owned() });
            }
            values.insert(key, value);
        }
        match values.remove("format") {
            None if values.is_empty() => return Ok(None),
            None => return Err(TagError::Missing { key: "format" }),
            Some(format) if format != FORMAT => return Err(TagError::UnknownFormat { format }),
            Some(_) => {}
        }
        let mut take = |key: &'static str| values.remove(key).ok_or(TagError::Missing { key });
        let run_start = take("run-start")?;
        let count = take("components")?;
        let tags = Self {
            cluster: take("cluster")?,
            cluster_uid: take("cluster-uid")?,
            namespace: take("namespace")?,
            run: take("run")?,
            run_uid: take("run-uid")?,
            component: take("component")?,
            run_start: run_start.parse().map_err(|_| TagError::Invalid {
                key: "run-start".to_owned(),
                value: run_start,
                expected: "a time such as 2026-11-20T02:00:00Z",
            })?,
            components: ComponentSet {
                digest: take("components-digest")?,
                count: count.parse().map_err(|_| TagError::Invalid {
                    key: "components".to_owned(),
                    value: count,
                    expected: "a number",
                })?,
            },
            volume: VolumeTags {
                capacity: values.remove("capacity"),
                storage_class: values.remove("storage-class"),
                volume_mode: values.remove("volume-mode"),
                access_modes: values
                    .remove("access-modes")
                    .map(|modes| modes.split('+').map(str::to_owned).collect())
                    .unwrap_or_default(),
                ..VolumeTags::default()
            }
            .with_marks(
                &split(values.remove("labels").as_deref()),
                &split(values.remove("annotations").as_deref()),
            ),
            // A count that cannot be read still says that there was something.
            unreadable: values.remove("unreadable").map_or(0, |count| count.parse().unwrap_or(1)),
            ignores_unreadable: values.remove("on-unreadable").is_some_and(|value| value == IGNORE),
            undo_of: values.remove("undo-of").filter(|name| !name.is_empty()),
        };
        Ok(Some(tags))
    }
}

/// Whether a tag is one of ours, so that a user's tag cannot pass for it.
pub fn is_reserved(tag: &str) -> bool {
    tag.starts_with(PREFIX)
}

fn tag(key: &str, value: &str) -> String {
    format!("{PREFIX}{key}={}", escape(value))
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"._~/:+@-".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            data_encoding::HEXUPPER.encode_append(&[byte], &mut escaped);
        }
    }
    escaped
}

/// None when the text is not what [`escape`] writes for any value.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.extend(data_encoding::HEXUPPER_PERMISSIVE.decode(digits).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> RunTags {
        RunTags {
            cluster: "prod".into(),
            cluster_uid: "5b1f6d0c-6f0e-4d65-9a0e-0d6a1c9b3e11".into(),
            namespace: "shop".into(),
            run: "daily-20261120t020000z-x7k2p".into(),
            run_uid: "0b6c5c0e-6a1d-4c5b-9c57-2f6a5f2f7c11".into(),
            run_start: "2026-11-20T02:00:00Z".parse().unwrap(),
            component: "volume/data".into(),
            components: ComponentSet::of(["volume/data", "volume/logs"]),
            volume: VolumeTags {
                capacity: Some("10Gi".into()),
                storage_class: Some("fast".into()),
                access_modes: vec!["ReadWriteOnce".into(), "ReadOnlyMany".into()],
                volume_mode: Some("Filesystem".into()),
                ..VolumeTags::default()
            },
            unreadable: 0,
            ignores_unreadable: false,
            undo_of: None,
        }
    }

    /// These stand in buckets. A change here makes old snapshots unreadable: do not adapt the test.
    #[test]
    fn the_form_that_is_fixed_for_ever() {
        let expected = [
            "holdfast.dev/access-modes=ReadWriteOnce+ReadOnlyMany",
            "holdfast.dev/capacity=10Gi",
            "holdfast.dev/cluster-uid=5b1f6d0c-6f0e-4d65-9a0e-0d6a1c9b3e11",
            "holdfast.dev/cluster=prod",
            "holdfast.dev/component=volume/data",
            "holdfast.dev/components-digest=2642d32a41e4e095",
            "holdfast.dev/components=2",
            "holdfast.dev/format=1",
            "holdfast.dev/namespace=shop",
            "holdfast.dev/run-start=2026-11-20T02:00:00Z",
            "holdfast.dev/run-uid=0b6c5c0e-6a1d-4c5b-9c57-2f6a5f2f7c11",
            "holdfast.dev/run=daily-20261120t020000z-x7k2p",
            "holdfast.dev/storage-class=fast",
            "holdfast.dev/volume-mode=Filesystem",
        ];
        assert_eq!(example().to_tags(), expected);
    }

    #[test]
    fn every_value_is_read_back_and_no_tag_holds_a_comma() {
        let mut odd = example();
        odd.component = "volume/a,b%2C=c d\n\u{1F980}".into();
        odd.volume = VolumeTags { storage_class: Some(String::new()), ..VolumeTags::default() };
        let safety = RunTags { undo_of: Some("put-back".into()), ..example() };
        assert!(safety.to_tags().contains(&"holdfast.dev/undo-of=put-back".to_owned()));
        let gaps = RunTags { unreadable: 5, ignores_unreadable: true, ..example() };
        assert!(gaps.to_tags().contains(&"holdfast.dev/on-unreadable=Ignore".to_owned()));
        for tags in [example(), odd, safety, gaps] {
            let mut list = tags.to_tags();
            assert!(list.iter().all(|tag| !tag.contains([',', ' ', '\n'])), "{list:?}");
            list.push("release-42".into());
            list.push("holdfast.dev/from-the-future=1".into());
            list.reverse();
            assert_eq!(RunTags::parse(&list).unwrap().unwrap(), tags);
        }
    }

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_claims_marks_come_back_and_no_others() {
        let labels = pairs(&[("app.kubernetes.io/name", "db"), ("tier", "")]);
        let annotations =
            pairs(&[("holdfast.dev/backup", "true"), ("holdfast.dev/exclude", "a:b+c/*, %25 \u{e9}")]);
        let marked = RunTags { volume: example().volume.with_marks(&labels, &annotations), ..example() };
        let tags = marked.to_tags();
        assert!(tags.contains(&"holdfast.dev/labels=app.kubernetes.io/name:db+tier:".to_owned()), "{tags:?}");
        let raw = "holdfast.dev/annotations=holdfast.dev/backup:true+holdfast.dev/exclude:a%253Ab%252Bc/%252A%252C%2520%252525%2520%25C3%25A9";
        assert!(tags.contains(&raw.to_owned()), "{tags:?}");
        let read = RunTags::parse(&tags).unwrap().unwrap();
        assert_eq!((&read.volume.labels, &read.volume.annotations), (&labels, &annotations));
        assert_eq!(read, marked);
        let others =
            pairs(&[("pv.kubernetes.io/bind-completed", "yes"), ("holdfast.dev/exclude", &"x".repeat(2029))]);
        let kept = VolumeTags::default()
            .with_marks(&pairs(&[("no key", "x"), ("x", "no value!"), ("_", "")]), &others);
        assert_eq!(
            kept,
            VolumeTags::default(),
            "neither what is not ours, nor too long, nor what no claim could have"
        );
        let k8ups = [("holdfast.dev/exclude", "é".repeat(250)), ("k8up.io/backup-restic-args", "[]".into())];
        let mut k8ups: BTreeMap<String, String> = k8ups.map(|(key, value)| (key.to_owned(), value)).into();
        k8ups.insert("k8up.io/backup".into(), "true".into());
        let kept = VolumeTags::default().with_marks(&BTreeMap::new(), &k8ups).annotations;
        assert_eq!(
            kept,
            pairs(&[("k8up.io/backup", "true")]),
            "what counts only where it is absent stays away"
        );
        let mut tags = example().to_tags();
        tags.push("holdfast.dev/labels=tier:a+:+b+Up.Per/x:y+tier%3Bx:y".into());
        let read = RunTags::parse(&tags).unwrap().unwrap();
        assert_eq!(read.volume.labels, pairs(&[("tier", "a")]), "a bucket's text makes no claim impossible");
    }

    #[test]
    fn what_the_runner_could_not_read_is_known_from_its_tag() {
        let with = |more: &[&str]| {
            let theirs = more.iter().map(|&tag| tag.to_owned());
            let tags: Vec<String> = example().to_tags().into_iter().chain(theirs).collect();
            let tags = RunTags::parse(&tags).unwrap().unwrap();
            (tags.unreadable, tags.ignores_unreadable)
        };
        assert_eq!(with(&[]), (0, false));
        assert_eq!(with(&["holdfast.dev/unreadable=5"]), (5, false));
        assert_eq!(with(&["holdfast.dev/unreadable=many"]), (1, false), "it says that there was something");
        let others = ["holdfast.dev/unreadable=5", "holdfast.dev/on-unreadable=Other"];
        assert_eq!(with(&others), (5, false), "a value of a later version is no leave");
    }

    #[test]
    fn snapshots_of_others_are_not_ours() {
        assert_eq!(RunTags::parse(&[]), Ok(None));
        assert_eq!(RunTags::parse(&["daily".into(), "k8up.io/x=1".into()]), Ok(None));
    }

    #[test]
    fn damaged_tags_are_refused_with_the_tag_in_the_message() {
        let without = |key: &str| -> Vec<String> {
            example().to_tags().into_iter().filter(|t| !t.starts_with(&format!("{PREFIX}{key}="))).collect()
        };
        let with = |key: &str, value: &str| {
            let mut tags = without(key);
            tags.push(format!("{PREFIX}{key}={value}"));
            tags
        };
        for key in [
            "format",
            "cluster",
            "cluster-uid",
            "namespace",
            "run",
            "run-uid",
            "run-start",
            "component",
            "components",
            "components-digest",
        ] {
            let error = RunTags::parse(&without(key)).unwrap_err();
            assert!(error.to_string().contains(&format!("holdfast.dev/{key}")), "{error}");
        }
        for (key, value) in
            [("format", "2"), ("run-start", "today"), ("components", "-1"), ("run", "%2"), ("run", "%FF")]
        {
            RunTags::parse(&with(key, value)).unwrap_err();
        }
        let mut twice = example().to_tags();
        twice.push("holdfast.dev/run=another".into());
        assert_eq!(RunTags::parse(&twice), Err(TagError::Ambiguous { key: "run".into() }));
    }

    #[test]
    fn a_set_knows_its_members_only() {
        let set = ComponentSet::of(["volume/b", "volume/a"]);
        assert_eq!(set, ComponentSet::of(["volume/a", "volume/b", "volume/a"]));
        assert_eq!(set.count, 2);
        assert_ne!(set, ComponentSet::of(["volume/a"]));
        assert_ne!(ComponentSet::of(["ab"]).digest, ComponentSet::of(["a", "b"]).digest);
    }
}
