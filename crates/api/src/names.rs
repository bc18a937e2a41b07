//! Every name that Holdfast gives or reads: labels, annotations, finalizers, and the names of objects and
//! directories. Names are pure functions of what they name, so that a restart finds what it made before.
//!
//! # The shortening rule
//! Kubernetes takes 63 characters where a name becomes a label, and only `a-z`, `0-9` and `-` where it becomes a
//! host name. [`dns_label`] brings any text into that form: other characters become `-`, and whenever anything
//! was changed or cut, `-` and the first 10 hexadecimal digits of the SHA-256 of the whole text are appended, so
//! that two different texts never meet in one name. A text that already fits stays as it is.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::text::text_enum;

/// Longest name that is also a label value and a host name.
pub const MAX_NAME: usize = 63;

/// Label `app.kubernetes.io/managed-by` of everything that Holdfast makes.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`]; also the field manager of server-side apply.
pub const MANAGED_BY: &str = "holdfast";
/// Label: uid of the Backup or Restore that something belongs to.
pub const LABEL_RUN_UID: &str = "holdfast.dev/run-uid";
/// Label: kind of the run ([`RunKind`]).
pub const LABEL_RUN_KIND: &str = "holdfast.dev/run-kind";
/// Label: name of the run, as a label value ([`label_value`]).
pub const LABEL_RUN_NAME: &str = "holdfast.dev/run-name";
/// Label: hash of the component's name ([`component_label`]).
pub const LABEL_COMPONENT: &str = "holdfast.dev/component";
/// Label: what a Job does ([`Task`]).
pub const LABEL_TASK: &str = "holdfast.dev/task";
/// Label: name of the Repository that something belongs to, as a label value.
pub const LABEL_REPOSITORY: &str = "holdfast.dev/repository";
/// Label of a safety Snapshot: name of the Restore that was about to overwrite what it holds, as a label value.
pub const LABEL_UNDO_OF: &str = "holdfast.dev/undo-of";
/// Annotation: whole name of the component (a label value could not hold it).
pub const ANNOTATION_COMPONENT: &str = "holdfast.dev/component";

/// Annotation of a claim: `"true"` always saves it, `"false"` never does.
pub const ANNOTATION_BACKUP: &str = "holdfast.dev/backup";
/// K8up's annotation of a claim; honoured when [`ANNOTATION_BACKUP`] is absent.
pub const ANNOTATION_BACKUP_K8UP: &str = "k8up.io/backup";
/// Annotation of a namespace: what becomes of claims without an annotation there, `OptOut` or `OptIn`, instead of the
/// operator's default.
pub const ANNOTATION_CLAIMS: &str = "holdfast.dev/claims";
/// K8up's annotation of a claim: restic's arguments as a JSON list; those that leave files out are honoured when
/// [`ANNOTATION_EXCLUDE`] is absent.
pub const ANNOTATION_RESTIC_ARGS_K8UP: &str = "k8up.io/backup-restic-args";
/// Annotation of a claim: patterns of files to leave out, separated by commas.
pub const ANNOTATION_EXCLUDE: &str = "holdfast.dev/exclude";
/// The annotations of a claim that say whether and how it is saved, in the order in which they are kept with what is saved,
/// so that a claim that is made again is saved as before. The last counts only where the one before it is absent.
pub const CLAIM_WISHES: [&str; 4] =
    [ANNOTATION_BACKUP, ANNOTATION_BACKUP_K8UP, ANNOTATION_EXCLUDE, ANNOTATION_RESTIC_ARGS_K8UP];
/// Annotation of a Deployment, StatefulSet or ReplicaSet: who holds it at 0 replicas ([`crate::quiesce`]).
pub const ANNOTATION_QUIESCE: &str = "holdfast.dev/quiesce";
/// Annotation of a namespace: `"true"` lets runners be Root there. Set by an administrator.
pub const ANNOTATION_ALLOW_ROOT_RUNNER: &str = "holdfast.dev/allow-root-runner";
/// Annotation of a namespace: names of the namespaces, separated by commas, that may restore from its Snapshots; `*`
/// for all. Set by an administrator.
pub const ANNOTATION_RESTORE_TO: &str = "holdfast.dev/restore-to";
/// Annotation of a `ServiceAccount`: the role that storages of its namespace may assume with it.
pub const ANNOTATION_ROLE_ARN: &str = "holdfast.dev/role-arn";
/// The annotation by which EKS gives pods a role. It is not taken for the other.
pub const ANNOTATION_ROLE_ARN_EKS: &str = "eks.amazonaws.com/role-arn";
/// Annotation of a claim: uid of the Restore that made it.
pub const ANNOTATION_MADE_BY_RESTORE: &str = "holdfast.dev/made-by-restore";
/// Annotation of a Repository that a dry run made to look into a directory: it goes with the dry run, unless somebody
/// uses it by then, and nothing is written into the repository meanwhile.
pub const ANNOTATION_FOR_DRY_RUN: &str = "holdfast.dev/for-dry-run";
/// Annotation of a Repository: any new value asks for a sync now.
pub const ANNOTATION_SYNC_NOW: &str = "holdfast.dev/sync-now";
/// Annotation of a password Secret: the location whose repository it opens.
pub const ANNOTATION_LOCATION: &str = "holdfast.dev/location";

/// How the names of Secrets with generated repository passwords begin.
pub const REPOSITORY_PASSWORD_SECRET_PREFIX: &str = "holdfast-repo-";

/// Finalizer of Backups and Restores: workloads are scaled back, locks and Secrets removed before they go.
pub const FINALIZER_CLEANUP: &str = "holdfast.dev/cleanup";

text_enum! {
    /// The kinds of runs.
    pub enum RunKind {
        /// A Backup.
        Backup,
        /// A Restore.
        Restore,
    }
}

text_enum! {
    /// What a Job does.
    pub enum Task {
        /// Tries a storage.
        Probe,
        /// Opens or makes a repository.
        Init,
        /// Lists the snapshots of a repository.
        Sync,
        /// Removes the locks that a run left.
        Unlock,
        /// Saves a component.
        Backup,
        /// Finds out what a restore would do.
        Plan,
        /// Restores a component.
        Restore,
    }
}

/// A Backup or a Restore, as far as names need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Its kind.
    pub kind: RunKind,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

/// The text as a DNS label of at most 63 characters, by the shortening rule of this module.
pub fn dns_label(text: &str) -> String {
    let cleaned = cleaned(text);
    if cleaned == text && (1..=MAX_NAME).contains(&cleaned.len()) {
        return cleaned;
    }
    with_suffix(&cleaned, &hash(&[text], 10))
}

/// Any text as a label value: as it is when it is one, else by the shortening rule.
pub fn label_value(text: &str) -> String {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = text.len() <= MAX_NAME
        && text.chars().all(inside)
        && edge(text.chars().next())
        && edge(text.chars().next_back());
    if fits || text.is_empty() { text.to_owned() } else { dns_label(text) }
}

/// Value of [`LABEL_COMPONENT`]: the first 16 hexadecimal digits of the SHA-256 of the component's name.
pub fn component_label(component: &str) -> String {
    hash(&[component], 16)
}

/// Name of the component that saves a claim: `volume/<claim>`.
pub fn volume_component(claim: &str) -> String {
    format!("volume/{claim}")
}

/// The claim of a component `volume/<claim>`; none for components of other kinds.
pub fn claim_of_component(component: &str) -> Option<&str> {
    component.strip_prefix("volume/").filter(|claim| !claim.is_empty())
}

/// Path under which a claim is mounted into a runner, and under which its files stand in the repository. The same
/// as K8up's, so that its snapshots serve as parents.
pub fn data_path(claim: &str) -> String {
    format!("/data/{claim}")
}

/// Name of the Job for one component of a run: `<run>-<component>-<8 hexadecimal digits>`. The digits are from
/// everything that tells Jobs apart (kind and uid of the run, task, component, attempt), so a Backup and a Restore
/// of one name, a run made again under its old name, and a second attempt each get their own. A
/// Secret made for the Job has the same name.
pub fn job_name(run: Run<'_>, task: Task, component: &str, attempt: u32) -> String {
    let tail = component.rsplit('/').next().unwrap_or(component);
    let unique = hash(&[run.kind.as_str(), run.uid, task.as_str(), component, &attempt.to_string()], 8);
    with_suffix(&cleaned(&format!("{}-{tail}", run.name)), &unique)
}

/// Name of a Job that works for a storage or a repository: `hf-<task>-<owner>-<8 hexadecimal digits>`. `occasion`
/// tells one Job from the next for the same owner (a generation, a time slot, the value of an annotation).
/// A Secret made for the Job has the same name.
pub fn task_job_name(task: Task, owner_name: &str, owner_uid: &str, occasion: &str) -> String {
    let unique = hash(&[task.as_str(), owner_uid, occasion], 8);
    with_suffix(&cleaned(&format!("hf-{}-{owner_name}", task.as_str())), &unique)
}

/// Name of the Snapshot that a Backup makes: `<backup>-<8 hexadecimal digits of the uid's hash>`. Sync makes the
/// same name from the tags alone.
pub fn snapshot_name(backup_name: &str, backup_uid: &str) -> String {
    with_suffix(&cleaned(backup_name), &hash(&[backup_uid], 8))
}

/// Name of the Repository that a namespace's Backups to a storage share, when none is named: that of the storage;
/// with 8 hexadecimal digits when the storage is in another namespace, since two of those may have one name.
pub fn default_repository_name(namespace: &str, storage_namespace: &str, storage_name: &str) -> String {
    if namespace == storage_namespace {
        dns_label(storage_name)
    } else {
        with_suffix(&cleaned(storage_name), &hash(&[storage_namespace, storage_name], 8))
    }
}

/// Name of the Repository that a Restore makes to read a directory of a storage: the directory's last part, and 8
/// hexadecimal digits of what leads to it.
pub fn found_repository_name(storage_namespace: &str, storage_name: &str, directory: &str) -> String {
    let last = directory.rsplit('/').next().unwrap_or(directory);
    with_suffix(&cleaned(last), &hash(&[storage_namespace, storage_name, directory], 8))
}

/// Name of the Secret with a generated repository password, in the storage's namespace:
/// `holdfast-repo-<20 hexadecimal digits of the location's hash>`. See
/// [`Backend::location`](crate::backend::Backend::location).
pub fn repository_password_secret_name(location: &str) -> String {
    format!("{REPOSITORY_PASSWORD_SECRET_PREFIX}{}", hash(&[location], 20))
}

/// Directory of a new repository: `<cluster>/<namespace>/<name>-<suffix>`, where `suffix` is from
/// [`random_suffix`].
pub fn repository_directory(cluster: &str, namespace: &str, name: &str, suffix: &str) -> String {
    format!("{cluster}/{namespace}/{name}-{suffix}")
}

/// Whether a directory lies where a Repository of `namespace` may keep its data when the storage is in another
/// namespace.
pub fn directory_belongs_to(directory: &str, cluster: &str, namespace: &str) -> bool {
    let mut parts = directory.split('/');
    parts.next() == Some(cluster)
        && parts.next() == Some(namespace)
        && parts.next().is_some_and(|name| !name.is_empty())
}

/// Five characters from five random bytes, without vowels and look-alikes, as Kubernetes does.
pub fn random_suffix(random: [u8; 5]) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    random
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()))
        .map(|byte| char::from(*byte))
        .collect()
}

/// Lower case, with `-` for everything that a DNS label cannot hold, and none at the ends.
fn cleaned(text: &str) -> String {
    let mapped: String = text
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    mapped.trim_matches('-').to_owned()
}

/// `stem` (ASCII only) and `suffix`, joined by `-`; the stem is cut so that both fit into 63 characters.
fn with_suffix(stem: &str, suffix: &str) -> String {
    let room = MAX_NAME.saturating_sub(suffix.len() + 1);
    let stem: String = stem.chars().take(room).collect();
    let stem = stem.trim_end_matches('-');
    if stem.is_empty() { format!("x-{suffix}") } else { format!("{stem}-{suffix}") }
}

/// The first `digits` hexadecimal digits of the SHA-256 of the parts. Each part but the last ends with a zero
/// byte, which no name holds, so that moving a character from one part to the next changes the hash.
fn hash(parts: &[&str], digits: usize) -> String {
    let mut text = HEXLOWER.encode(&Sha256::digest(parts.join("\0")));
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_dns_label(text: &str) -> bool {
        let bytes = text.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    }

    #[test]
    fn shortening_keeps_what_fits_and_tells_apart_what_does_not() {
        assert_eq!(dns_label("daily-data"), "daily-data");
        assert_eq!(dns_label(&"a".repeat(63)), "a".repeat(63));
        let long =
            [format!("{}x", "a".repeat(80)), format!("{}y", "a".repeat(80)), "a.b".into(), "a_b".into()];
        let mut names: Vec<_> = long.iter().map(|text| dns_label(text)).collect();
        assert!(names.iter().all(|name| is_dns_label(name)), "{names:?}");
        names.push(dns_label("a-b"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn strange_texts_still_give_names() {
        for text in ["", "-", "...", "ÄÖÜ", "-a-", "A", "x/y", &"-".repeat(200), &"é".repeat(200)] {
            assert!(is_dns_label(&dns_label(text)), "{text:?} -> {:?}", dns_label(text));
        }
        for text in ["", "a", "A_b.c", "daily-20261120t020000z", "a b", "-a", &"a.".repeat(100)] {
            let value = label_value(text);
            assert!(value.len() <= 63 && !value.contains(' ') && !value.starts_with('-'), "{value:?}");
        }
        assert_eq!(label_value("A_b.c"), "A_b.c");
    }

    #[test]
    fn jobs_of_different_work_have_different_names() {
        let backup = Run { kind: RunKind::Backup, name: "daily", uid: "u1" };
        let mut names = vec![
            job_name(backup, Task::Backup, "volume/data", 0),
            job_name(backup, Task::Backup, "volume/data", 1),
            job_name(backup, Task::Backup, "volume/logs", 0),
            job_name(Run { uid: "u2", ..backup }, Task::Backup, "volume/data", 0),
            job_name(Run { kind: RunKind::Restore, ..backup }, Task::Restore, "volume/data", 0),
            job_name(Run { kind: RunKind::Restore, ..backup }, Task::Plan, "volume/data", 0),
            task_job_name(Task::Probe, "daily", "u1", "1"),
            task_job_name(Task::Probe, "daily", "u1", "2"),
        ];
        assert!(names[0].starts_with("daily-data-"), "{}", names[0]);
        assert!(names.iter().all(|name| is_dns_label(name)), "{names:?}");
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
        let long = "n".repeat(253);
        let name = job_name(Run { name: &long, ..backup }, Task::Backup, &volume_component(&long), 0);
        assert!(is_dns_label(&name), "{name}");
    }

    /// These stand in clusters and buckets. A change here orphans passwords and snapshots: do not adapt the test.
    #[test]
    fn names_that_are_fixed_for_ever() {
        assert_eq!(
            repository_password_secret_name("s3:https://s3.example/backups/prod/shop/main-x7k2p"),
            "holdfast-repo-0e6f6a3874d669d38fcd"
        );
        assert_eq!(snapshot_name("daily", "0b6c5c0e-6a1d-4c5b-9c57-2f6a5f2f7c11"), "daily-ae1540cc");
        assert_eq!(default_repository_name("shop", "shop", "offsite"), "offsite");
        assert_eq!(default_repository_name("shop", "holdfast-system", "offsite"), "offsite-b325cfa1");
        assert_eq!(found_repository_name("shop", "offsite", "prod/shop/main-x7k2p"), "main-x7k2p-98424841");
        assert_eq!(repository_directory("prod", "shop", "main", "x7k2p"), "prod/shop/main-x7k2p");
        assert_eq!(dns_label("shop.example"), "shop-example-0f59463c60");
        assert_eq!(component_label("volume/data"), "73df6da6e88c775f");
        assert_eq!(data_path("data"), "/data/data");
        assert_eq!(volume_component("data"), "volume/data");
    }

    #[test]
    fn directories_of_other_namespaces_are_told_apart() {
        assert!(directory_belongs_to("prod/shop/main-x7k2p", "prod", "shop"));
        for directory in
            ["prod/shop", "prod/shop/", "prod/shop2/main", "other/shop/main", "/prod/shop/main", ""]
        {
            assert!(!directory_belongs_to(directory, "prod", "shop"), "{directory}");
        }
    }

    #[test]
    fn small_helpers() {
        assert_eq!(random_suffix([0, 26, 27, 255, 13]).len(), 5);
        assert_eq!(random_suffix([0, 1, 26, 27, 2]), "bc9bd");
        assert_eq!(claim_of_component("volume/data"), Some("data"));
        assert_eq!(claim_of_component("volume/"), None);
        assert_eq!(claim_of_component("command/x"), None);
    }
}
