//! A storage without keys: tokens of a ServiceAccount are exchanged for keys of each run at minio's
//! `AssumeRoleWithWebIdentity`, with the cluster's own API server as the issuer.

use holdfast_e2e::kubectl::{Failure, Result, condition};
use holdfast_e2e::story::{RUN, Story};
use holdfast_testbed::{WEB_IDENTITY_AUDIENCE, WEB_IDENTITY_ROLE};

use crate::scoped_keys::{FirstRun, share};
use crate::together;

/// How every token of the cluster, and every session token of minio, begins.
const TOKEN: &str = "eyJhbGci";

/// Nothing is exchanged before administrator and namespace have agreed. Then a tenant's runs save and restore with keys to
/// their own directory alone, and no token is seen anywhere.
#[test]
fn a_storage_without_keys_serves_tenants_with_keys_to_their_own_directory() {
    let Some(_world) = together() else { return };
    Story::tell("web", Story::bare, |story| {
        let tenant = story.namespace.clone();
        let keeper = story.another_namespace("keeper")?;
        story.allow_root()?;
        let server = story.bed.second_s3(&story.bucket)?;
        story.bed.second_s3_web_identity(&keeper, "backups", &story.bucket)?;
        let storage = |identity: &str| -> Result<()> {
            let (bed, bucket) = (story.bed, &story.bucket);
            let yaml = story
                .storage_with("store", bucket, "no-key", "no-secret", Some(&bed.ca_pem))
                .replace(&bed.s3_endpoint, &server.endpoint)
                .replace("credentialsSecretRef: {name: store-s3}", &format!("webIdentity: {{{identity}}}"));
            if !yaml.contains("webIdentity") {
                return Err(Failure(format!("the storage still has keys:\n{yaml}")));
            }
            share(story, &keeper, &yaml)
        };
        let until = |wanted: &str, word: &str| {
            story.kubectl.until(&keeper, "backupstorage", "store", RUN, |o| {
                let (_, reason, message) = condition(o, "Ready")?;
                let (warns, scope, _) = condition(o, "CredentialsNotScoped")?;
                let proved = wanted != "Validated" || scope == "PolicyKept";
                (reason == wanted && message.contains(word) && warns != "True" && proved).then_some(())
            })
        };
        let account = |name: &str, annotation: &str| -> Result<()> {
            let metadata = format!("{{name: {name}, annotations: {{{annotation}: '{WEB_IDENTITY_ROLE}'}}}}");
            let yaml = format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {metadata}\n");
            story.kubectl.run_with(&["-n", &keeper, "apply", "-f", "-"], yaml.as_bytes()).map(drop)
        };
        let good =
            format!("serviceAccountName: backups, audience: {WEB_IDENTITY_AUDIENCE}, sessionDuration: 15m");

        // What the administrator has not listed, and what the namespace has not agreed to.
        storage(&good.replace(WEB_IDENTITY_AUDIENCE, "https://kubernetes.default.svc.cluster.local"))?;
        until("WebIdentityNotAllowed", "webIdentity.services")?;
        storage(&format!("{good}, stsEndpoint: '{}'", server.endpoint.replace(":9001", ":9000")))?;
        until("WebIdentityNotAllowed", "webIdentity.services")?;
        storage(&good)?;
        until("ServiceAccountNotFound", "create it")?;
        account("backups", "eks.amazonaws.com/role-arn")?;
        until("ServiceAccountInvalid", "holdfast.dev/role-arn")?;
        account("backups", "holdfast.dev/role-arn")?;
        until("Validated", "")?;

        // A role is for whom its policy names: minio itself gives it to every ServiceAccount of the cluster.
        account("another", "holdfast.dev/role-arn")?;
        storage(&good.replace("backups", "another"))?;
        until("AccessDenied", "")?;
        storage(&good)?;
        until("Validated", "")?;

        let FirstRun { pod, keys, directory: own, backup: first } = FirstRun::to_storage_of(story, &keeper)?;
        keys.expect(story, &server, &own, &["snapshots"], None)?;
        for beside in [format!("{own}-2"), "testbed/other/main-x7k2p".to_owned()] {
            keys.expect(story, &server, &beside, &["init"], Some("AccessDenied"))?;
        }

        let snapshot = Story::snapshot_of(&first)?;
        story.the_file_comes_back(&pod, &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"))?;

        for namespace in [&tenant, &keeper] {
            let what = "events,jobs,pods,backups,restores,repositories,backupstorages,serviceaccounts";
            let objects = story.kubectl.run(&["-n", namespace, "get", what, "-o", "yaml"])?;
            if objects.contains(TOKEN) || objects.contains(&keys.secret) {
                return Err(Failure("a token or a key shows in the cluster's objects".into()));
            }
        }
        let operator = story.bed.operator_namespace();
        let log = story.kubectl.run(&["-n", operator, "logs", "deployment/holdfast", "--tail=-1"])?;
        if log.contains(TOKEN) || log.contains(&keys.secret) {
            return Err(Failure("a token or a key shows in the operator's log".into()));
        }
        story.nothing_left()
    });
}
