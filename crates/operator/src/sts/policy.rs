//! What the keys of a run may do: a session policy from its run spec. Pure.
//!
//! Sources: AWS, "IAM JSON policy elements" and "Actions, resources, and condition keys for Amazon S3"; the length is
//! that of `Policy` in the reference of `AssumeRole`, which `MinIO` has as well.

use holdfast_protocol::spec::StorageAccess;
use holdfast_protocol::{RunSpec, Task};
use serde_json::{Value, json};

/// Most characters of a session policy.
const LONGEST: usize = 2048;

/// Why there is no policy for a run. Nothing is given to it then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Only S3 has such policies.
    #[error("keys are exchanged for storages on S3 only")]
    NotS3,
    /// A task on a repository names none.
    #[error("the run names no directory, so its keys cannot be held to one")]
    NoDirectory,
    /// A name would mean more than itself in a policy, or something else in the store.
    #[error(
        "the {what} {name:?} cannot stand in a policy: *, ?, $ and empty or dotted parts would let the keys reach more \
         than one directory; use another one"
    )]
    Unsafe {
        /// `bucket` or `directory`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// It would be refused.
    #[error(
        "the policy for the directory {place} has {length} characters and servers take {LONGEST}: use a shorter prefix \
         or directory"
    )]
    TooLong {
        /// The directory with the storage's prefix.
        place: String,
        /// Characters of the policy.
        length: usize,
    },
}

/// The policy, as JSON. `partition` is the first part of the names of AWS's resources: `aws`, `aws-cn`, `aws-us-gov`.
pub fn session_policy(spec: &RunSpec, partition: &str) -> Result<String, PolicyError> {
    let StorageAccess::S3 { endpoint, bucket, prefix, .. } = &spec.storage else {
        return Err(PolicyError::NotS3);
    };
    check("bucket", bucket)?;
    let mut parts = Vec::new();
    if !prefix.is_empty() {
        check("directory", prefix)?;
        parts.push(prefix.as_str());
    }
    match (&spec.task, &spec.directory) {
        // The storage as a whole.
        (Task::Probe { .. }, None) => {}
        (Task::Probe { .. }, Some(_)) | (_, None) => return Err(PolicyError::NoDirectory),
        (_, Some(directory)) => {
            check("directory", directory)?;
            parts.push(directory);
        }
    }
    let place = Place { partition, bucket, path: parts.join("/") };
    let mut all = statements(spec, &place);
    all.extend(encryption(endpoint));
    let policy = json!({"Version": "2012-10-17", "Statement": all}).to_string();
    if policy.len() > LONGEST {
        return Err(PolicyError::TooLong { place: place.path, length: policy.len() });
    }
    Ok(policy)
}

/// Refuses what has a meaning in patterns of policies, and paths of which a store or a client could think differently.
fn check(what: &'static str, name: &str) -> Result<(), PolicyError> {
    let bad = |c: char| matches!(c, '*' | '?' | '$' | '\\') || c.is_control();
    let dubious = name.split('/').any(|part| matches!(part, "" | "." | ".."));
    if name.contains(bad) || dubious || (what == "bucket" && name.contains('/')) {
        return Err(PolicyError::Unsafe { what, name: name.chars().take(100).collect() });
    }
    Ok(())
}

/// Where the run works.
struct Place<'a> {
    partition: &'a str,
    bucket: &'a str,
    /// Empty: the whole bucket.
    path: String,
}

impl Place<'_> {
    /// What lies below the place, as the store names it.
    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    fn object(&self, name: &str) -> String {
        format!("arn:{}:s3:::{}/{}", self.partition, self.bucket, self.below(name))
    }

    fn bucket(&self) -> String {
        format!("arn:{}:s3:::{}", self.partition, self.bucket)
    }

    /// Any object whose key ends like this: enough for what is forbidden beside a right that ends at the place.
    fn ending(&self, name: &str) -> String {
        format!("arn:{}:s3:::*/{name}", self.partition)
    }
}

fn allow(actions: &[&str], resources: &[String]) -> Value {
    json!({"Effect": "Allow", "Action": actions, "Resource": resources})
}

/// On AWS, objects may be encrypted with a key that the bucket's owner manages. Who reads or writes them needs that key,
/// through S3 in the same account or another; which key it is stays the role's to say. No other server is told of a
/// service that it does not have.
///
/// Source: Amazon S3 User Guide, "Using server-side encryption with AWS KMS keys", and AWS KMS Developer Guide,
/// `kms:ViaService`.
fn encryption(endpoint: &str) -> Option<Value> {
    let host = endpoint.split_once("://")?.1;
    let services = [".amazonaws.com", ".amazonaws.com.cn"];
    let domain = services.into_iter().find(|domain| host.ends_with(domain))?;
    let via = format!("s3.*{domain}");
    let mut keys = allow(&["kms:GenerateDataKey", "kms:Decrypt"], &["*".to_owned()]);
    keys.as_object_mut()?.insert("Condition".to_owned(), json!({"StringLike": {"kms:ViaService": via}}));
    Some(keys)
}

/// All read and list; what they write and remove differs.
fn statements(spec: &RunSpec, place: &Place<'_>) -> Vec<Value> {
    let mut list = allow(&["s3:ListBucket"], &[place.bucket()]);
    if let (false, Some(list)) = (place.path.is_empty(), list.as_object_mut()) {
        list.insert("Condition".to_owned(), json!({"StringLike": {"s3:prefix": place.below("*")}}));
    }
    let mut all = vec![list];
    let everything = [place.object("*")];
    let read = || allow(&["s3:GetObject"], &everything);
    let locks = [place.object("locks/*")];
    let silent = spec.read_only;
    match &spec.task {
        Task::Probe { .. } => {
            all.push(allow(&["s3:GetLifecycleConfiguration"], &[place.bucket()]));
            all.push(read());
            if !silent {
                all.push(allow(&["s3:PutObject", "s3:DeleteObject"], &[place.object("holdfast-probe/*")]));
                all.push(allow(&["s3:PutObject"], &[place.object("metadata.yaml")]));
            }
        }
        Task::Initialize { read_only, .. } if !silent && !read_only => {
            all.push(allow(&["s3:GetObject", "s3:PutObject"], &everything));
            // Keys of a second maker, which came too late.
            all.push(allow(&["s3:DeleteObject"], &[place.object("keys/*"), place.object("locks/*")]));
        }
        Task::Unlock if !silent => {
            all.push(read());
            let is_id = |id: &&String| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let snapshots =
                spec.discard.iter().filter(is_id).map(|id| place.object(&format!("snapshots/{id}")));
            let removed: Vec<String> = locks.iter().cloned().chain(snapshots).collect();
            all.push(allow(&["s3:DeleteObject"], &removed));
        }
        Task::BackupVolume(_) if !silent => {
            all.push(allow(&["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], &everything));
            // Overwriting them would lose all that is there, and no backup does it.
            let is_ambiguous = place.path.split('/').any(|part| part == "keys");
            let keys = if is_ambiguous { place.object("keys/*") } else { place.ending("keys/*") };
            let never = [place.ending("config"), keys, place.ending("repository.yaml")];
            all.push(json!({"Effect": "Deny", "Action": "s3:PutObject", "Resource": never}));
            // A snapshot whose data may have gone meanwhile is taken back.
            all.push(allow(&["s3:DeleteObject"], &[place.object("locks/*"), place.object("snapshots/*")]));
        }
        Task::RestoreVolume(restore) if !silent && !restore.plan_only => {
            all.push(read());
            all.push(allow(&["s3:PutObject", "s3:DeleteObject"], &locks));
        }
        _ => all.push(read()),
    }
    all
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
