//! What is known about a Snapshot beside itself. The only reader.

use holdfast_api::{Repository, Snapshot};
use kube::ResourceExt;

use crate::context::Ctx;
use crate::kubernetes::{self, RequestError};

pub(super) async fn repository(ctx: &Ctx, snapshot: &Snapshot) -> Result<Option<Repository>, RequestError> {
    let namespace = snapshot.namespace().unwrap_or_default();
    kubernetes::get(&ctx.client, &namespace, &snapshot.spec.repository_ref.name).await
}
