//! Writing Snapshot objects. The only writer.

use holdfast_api::{Repository, Snapshot, SnapshotStatus};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::build;
use super::validate::{self, Changes, Namesake, RecoveryPoint};
use crate::context::Ctx;
use crate::errors::Chain;
use crate::kubernetes::{self, Created, RequestError};

/// Makes the Snapshot of a recovery point, or brings the one that is there up to date. It is in the namespace of
/// its Repository. `None` when another Repository has the same data and mirrors it already.
pub async fn publish(
    ctx: &Ctx,
    repository: &Repository,
    point: &RecoveryPoint,
) -> Result<Option<Snapshot>, RequestError> {
    let wanted = build::snapshot(repository, point);
    let namespace = wanted.namespace().unwrap_or_default();
    let mut refusal = None;
    let made = match kubernetes::create(&ctx.client, &wanted).await {
        // A quota or a rule speaks first, also where nothing would be made.
        Err(error) if error.is_refused() => {
            match kubernetes::get(&ctx.client, &namespace, &wanted.name_any()).await? {
                Some(there) => {
                    refusal = Some(error);
                    Created::Existing(there)
                }
                None => return Err(error),
            }
        }
        made => made?,
    };
    let mut snapshot = match made {
        Created::New(snapshot) => snapshot,
        Created::Existing(snapshot) => {
            let other = &snapshot.spec.repository_ref.name;
            let other = kubernetes::get::<Repository>(&ctx.client, &namespace, other).await?;
            match validate::namesake(&snapshot, &wanted, other.is_some()) {
                Namesake::Ours => snapshot,
                Namesake::Theirs => return Ok(None),
                Namesake::Outdated => {
                    // What may not be made again is better outdated than gone.
                    if let Some(refusal) = refusal {
                        return Err(refusal);
                    }
                    let (name, uid) = (snapshot.name_any(), snapshot.uid());
                    kubernetes::delete::<Snapshot>(&ctx.client, &namespace, &name, uid.as_deref()).await?;
                    kubernetes::create(&ctx.client, &wanted).await?.into_inner()
                }
            }
        }
    };
    let status = build::status(point, snapshot.status.as_ref());
    if let Some(written) = write_status(ctx, &snapshot, &status).await? {
        snapshot = written;
    }
    Ok(Some(snapshot))
}

/// What became of the Snapshot objects of a repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// How many there are.
    pub total: usize,
    /// Why the API server would not have some of them, or not what they say.
    pub refused: Vec<String>,
}

impl Mirrored {
    /// Goes on after what the API server will not have; any other failure ends it.
    fn refused(&mut self, error: RequestError) -> Result<(), RequestError> {
        if !error.is_refused() || error.namespace_is_terminating() {
            return Err(error);
        }
        self.refused.push(Chain(&error).to_string());
        Ok(())
    }
}

/// Brings the Snapshot objects of a repository in line with what it holds. One that is refused keeps no other from it.
pub async fn mirror(ctx: &Ctx, repository: &Repository, changes: &Changes) -> Result<Mirrored, RequestError> {
    let mut all = Mirrored { total: changes.total, refused: Vec::new() };
    for point in &changes.publish {
        match publish(ctx, repository, point).await {
            Ok(Some(_)) => {}
            Ok(None) => all.total = all.total.saturating_sub(1),
            Err(error) => {
                // Of one that is there, what it says of its content was refused.
                let lacks = usize::from(error.verb == "create");
                all.refused(error)?;
                all.total = all.total.saturating_sub(lacks);
            }
        }
    }
    for (snapshot, status) in &changes.damaged {
        if let Err(error) = write_status(ctx, snapshot, status).await {
            all.refused(error)?;
        }
    }
    for snapshot in &changes.remove {
        let namespace = snapshot.namespace().unwrap_or_default();
        let (name, uid) = (snapshot.name_any(), snapshot.uid());
        if let Err(error) =
            kubernetes::delete::<Snapshot>(&ctx.client, &namespace, &name, uid.as_deref()).await
        {
            all.refused(error)?;
            all.total = all.total.saturating_add(1);
        }
    }
    Ok(all)
}

/// Writes the status, unless it is there already. Content and condition are written by different hands, so each
/// write goes under the version that was read.
pub async fn write_status(
    ctx: &Ctx,
    snapshot: &Snapshot,
    status: &SnapshotStatus,
) -> Result<Option<Snapshot>, RequestError> {
    if snapshot.status.as_ref() == Some(status) {
        return Ok(None);
    }
    let (namespace, name) = (snapshot.namespace().unwrap_or_default(), snapshot.name_any());
    let body = json!({
        "apiVersion": format!("{}/{}", holdfast_api::GROUP, holdfast_api::VERSION),
        "kind": "Snapshot",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": snapshot.uid(),
            "resourceVersion": snapshot.resource_version(),
        },
        "status": status,
    });
    Api::<Snapshot>::namespaced(ctx.client.clone(), &namespace)
        .patch_status(&name, &PatchParams::apply(kubernetes::MANAGER).force(), &Patch::Apply(&body))
        .await
        .map(Some)
        .map_err(|source| RequestError {
            verb: "write the status of",
            kind: "Snapshot".into(),
            namespace,
            name,
            source: Box::new(source),
        })
}
