//! Writing Snapshot objects. The only writer.

use holdfast_api::{Repository, Snapshot, SnapshotStatus};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::build;
use super::validate::{self, Changes, Namesake, RecoveryPoint};
use crate::errors::Chain;
use crate::kubernetes::{self, Created, RequestError};

/// Makes the Snapshot of a recovery point, or brings the one that is there up to date. It is in the namespace of
/// its Repository. `None` when another Repository has the same data and mirrors it already.
pub async fn publish(
    client: &Client,
    repository: &Repository,
    point: &RecoveryPoint,
) -> Result<Option<Snapshot>, RequestError> {
    let wanted = build::snapshot(repository, point);
    let namespace = wanted.namespace().unwrap_or_default();
    let mut refusal = None;
    let made = match kubernetes::create(client, &wanted).await {
        // A quota or a rule speaks first, also where nothing would be made.
        Err(error) if error.is_refused() => {
            match kubernetes::get(client, &namespace, &wanted.name_any()).await? {
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
            let other = kubernetes::get::<Repository>(client, &namespace, other).await?;
            match validate::namesake(&snapshot, &wanted, other.is_some()) {
                Namesake::Ours => snapshot,
                Namesake::Theirs => return Ok(None),
                Namesake::Outdated => {
                    // What may not be made again is better outdated than gone.
                    if let Some(refusal) = refusal {
                        return Err(refusal);
                    }
                    let (name, uid) = (snapshot.name_any(), snapshot.uid());
                    kubernetes::delete::<Snapshot>(client, &namespace, &name, uid.as_deref()).await?;
                    kubernetes::create(client, &wanted).await?.into_inner()
                }
            }
        }
    };
    let status = build::status(point, snapshot.status.as_ref());
    if let Some(written) = write_status(client, &snapshot, &status).await? {
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
    fn pass_over(&mut self, error: RequestError) -> Result<(), RequestError> {
        if !error.is_refused() || error.namespace_is_terminating() {
            return Err(error);
        }
        self.refused.push(Chain(&error).to_string());
        Ok(())
    }
}

/// Brings the Snapshot objects of a repository in line with what it holds. One that is refused keeps no other from it.
pub async fn mirror(
    client: &Client,
    repository: &Repository,
    changes: &Changes,
) -> Result<Mirrored, RequestError> {
    let mut all = Mirrored { total: changes.total, refused: Vec::new() };
    for point in &changes.publish {
        match publish(client, repository, point).await {
            Ok(Some(_)) => {}
            Ok(None) => all.total = all.total.saturating_sub(1),
            Err(error) => {
                // Of one that is there, what it says of its content was refused.
                let lacks = usize::from(error.verb == "create");
                all.pass_over(error)?;
                all.total = all.total.saturating_sub(lacks);
            }
        }
    }
    for (snapshot, status) in &changes.damaged {
        if let Err(error) = write_status(client, snapshot, status).await {
            all.pass_over(error)?;
        }
    }
    for snapshot in &changes.remove {
        let namespace = snapshot.namespace().unwrap_or_default();
        let (name, uid) = (snapshot.name_any(), snapshot.uid());
        if let Err(error) = kubernetes::delete::<Snapshot>(client, &namespace, &name, uid.as_deref()).await {
            all.pass_over(error)?;
            all.total = all.total.saturating_add(1);
        }
    }
    Ok(all)
}

/// Writes the status, unless it is there already. Content and condition are written by different hands, so each
/// write goes under the version that was read.
pub async fn write_status(
    client: &Client,
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
    Api::<Snapshot>::namespaced(client.clone(), &namespace)
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

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::{Arc, Mutex};

    use holdfast_api::snapshot::BackupId;
    use http::{Method, Request, Response};
    use jiff::Timestamp;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    fn repository() -> Repository {
        serde_saphyr::from_str(
            "{metadata: {name: main, namespace: shop, uid: r1}, spec: {storageRef: {name: s}}}",
        )
        .unwrap()
    }

    fn point(run: &str) -> RecoveryPoint {
        RecoveryPoint {
            backup: BackupId { name: run.into(), uid: format!("uid-{run}") },
            cluster: "prod".into(),
            namespace: "shop".into(),
            time: Timestamp::UNIX_EPOCH,
            components: Vec::new(),
            complete: true,
            missing: 0,
            undo_of: None,
        }
    }

    /// An API server that takes no new Snapshot whose Backup is called `unwanted`, has the one of `outdated`, and which
    /// refuses the removal of what is called `stuck`. And the requests that it got.
    fn server() -> (Client, Arc<Mutex<Vec<String>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let server = tower::service_fn(move |request: Request<Body>| {
            let seen = Arc::clone(&seen);
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let sent: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let path = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
                let of = sent["spec"]["backup"]["name"].as_str().unwrap_or_default().to_owned();
                seen.lock().unwrap().push(format!("{} {path} {of}", parts.method));
                let refused = |code: u16| {
                    (
                        code,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not wanted", "reason": if code == 404 { "NotFound" } else { "Forbidden" }, "code": code}),
                    )
                };
                let (code, answer) = match (parts.method, path.as_str()) {
                    (Method::POST, _) if of == "wanted" => (201, sent),
                    (Method::POST, _) => refused(403),
                    (Method::GET, path) if path.starts_with("outdated") => {
                        let mut there = build::snapshot(&repository(), &point("outdated"));
                        there.spec.repository_ref.name = "gone".into();
                        (200, serde_json::to_value(there).unwrap())
                    }
                    (Method::GET, _) => refused(404),
                    (Method::DELETE, path) if path.starts_with("stuck") => refused(403),
                    (Method::PATCH, _) => {
                        (200, serde_json::to_value(build::snapshot(&repository(), &point("wanted"))).unwrap())
                    }
                    (_, _) => (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
                };
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                ready(Response::builder().status(code).body(body).map_err(std::io::Error::other)).await
            }
        });
        (Client::new(server, "shop"), requests)
    }

    #[tokio::test]
    async fn one_that_is_refused_keeps_no_other_back_and_none_is_deleted_for_one_that_may_not_be_made() {
        let (client, requests) = server();
        let named = |name: &str| {
            let mut snapshot = build::snapshot(&repository(), &point(name));
            snapshot.metadata.name = Some(name.to_owned());
            snapshot
        };
        let changes = Changes {
            publish: vec![point("unwanted"), point("outdated"), point("wanted")],
            remove: vec![named("stuck"), named("forgotten")],
            total: 3,
            ..Changes::default()
        };
        let all = mirror(&client, &repository(), &changes).await.unwrap();
        assert_eq!((all.total, all.refused.len()), (2, 3), "{:?}", all.refused);
        let requests = requests.lock().unwrap().clone();
        let removed: Vec<_> = requests.iter().filter(|request| request.starts_with("DELETE")).collect();
        assert_eq!(removed, ["DELETE stuck ", "DELETE forgotten "], "{requests:?}");
        assert!(requests.iter().any(|request| request.starts_with("PATCH")), "{requests:?}");
    }
}
