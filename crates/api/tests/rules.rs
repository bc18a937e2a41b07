//! The rules in the schemas: each is evaluated here as the API server does it, on objects that keep and that break
//! it. Not the schemas' syntax, which only an API server can judge.

// Helpers of tests may panic as the tests do.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what went wrong by failing")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::{Value, json};

fn schema(kind: &str) -> Value {
    let crd = crd(kind);
    serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap())
        .unwrap()
}

fn crd(kind: &str) -> CustomResourceDefinition {
    holdfast_api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap()
}

/// The messages that creating an object with this spec gives (or, with `old`, changing it to this spec).
fn refused(kind: &str, spec: &Value, old: Option<&Value>) -> Vec<String> {
    let object = |spec: &Value| json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let old = old.map(object);
    match kube_cel::Validator::new().validate_with_defaults(&schema(kind), &object(spec), old.as_ref()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
    }
}

#[track_caller]
fn accepts(kind: &str, spec: &Value) {
    assert_eq!(refused(kind, spec, None), Vec::<String>::new(), "{spec}");
}

#[track_caller]
fn refuses(kind: &str, spec: &Value, old: Option<&Value>, message: &str) {
    let messages = refused(kind, spec, old);
    assert!(messages.iter().any(|m| m.contains(message)), "{spec} gave {messages:?}, not {message:?}");
}

fn s3() -> Value {
    json!({"bucket": "backups", "endpoint": "https://s3.example", "credentialsSecretRef": {"name": "key"}})
}

fn gcs() -> Value {
    json!({"bucket": "backups", "credentialsSecretRef": {"name": "key"}})
}

fn azure() -> Value {
    json!({"account": "acct", "container": "backups", "credentialsSecretRef": {"name": "key"}})
}

#[test]
fn a_storage_has_exactly_one_backend() {
    accepts("BackupStorage", &json!({"backend": {"s3": s3()}}));
    accepts("BackupStorage", &json!({"backend": {"gcs": gcs()}}));
    accepts("BackupStorage", &json!({"backend": {"azure": azure()}}));
    for backend in [
        json!({}),
        json!({"s3": s3(), "gcs": gcs()}),
        json!({"gcs": gcs(), "azure": azure()}),
        json!({"s3": s3(), "gcs": gcs(), "azure": azure()}),
    ] {
        refuses("BackupStorage", &json!({"backend": backend}), None, "exactly one backend");
    }
}

#[test]
fn no_store_is_reached_without_saying_with_what() {
    for (kind, store) in [("gcs", gcs()), ("azure", azure())] {
        let place = format!("/properties/spec/properties/backend/properties/{kind}/required");
        let required = schema("BackupStorage").pointer(&place).cloned().unwrap();
        assert!(required.as_array().unwrap().contains(&json!("credentialsSecretRef")), "{kind}: {required}");
        let mut keyless = store;
        keyless.as_object_mut().unwrap().remove("credentialsSecretRef");
        let spec = json!({"backend": {kind: keyless}});
        assert!(serde_json::from_value::<holdfast_api::BackupStorageSpec>(spec).is_err(), "{kind}");
    }
    let mut keyless = s3();
    keyless.as_object_mut().unwrap().remove("credentialsSecretRef");
    refuses(
        "BackupStorage",
        &json!({"backend": {"s3": keyless}}),
        None,
        "credentialsSecretRef, or webIdentity",
    );
}

#[test]
fn web_identity_stands_for_keys_and_is_sent_where_nobody_reads_it() {
    let with = |endpoint: Option<&str>, identity: Value| {
        let mut s3 = json!({"bucket": "backups", "webIdentity": identity});
        if let Some(endpoint) = endpoint {
            s3["endpoint"] = json!(endpoint);
        }
        json!({"backend": {"s3": s3}})
    };
    let account = json!({"serviceAccountName": "backups"});
    accepts("BackupStorage", &with(None, account.clone()));
    accepts("BackupStorage", &with(Some("https://minio:9000"), account.clone()));
    refuses("BackupStorage", &with(Some("http://s3"), account.clone()), None, "https endpoint");
    let own = json!({"serviceAccountName": "backups", "stsEndpoint": "https://sts:8443"});
    accepts("BackupStorage", &with(Some("http://s3"), own));
    let mut both = with(None, account.clone());
    both["backend"]["s3"]["credentialsSecretRef"] = json!({"name": "key"});
    refuses("BackupStorage", &both, None, "credentialsSecretRef, or webIdentity");
    let mut roles = with(Some("https://minio:9000"), account.clone());
    roles["backend"]["s3"]["assumeRole"] = json!({});
    refuses("BackupStorage", &roles, None, "set one of them");
    for (good, is_good) in [("15m", true), ("12h", true), ("14m59s", false), ("12h1s", false)] {
        let spec = with(None, json!({"serviceAccountName": "backups", "sessionDuration": good}));
        assert_eq!(refused("BackupStorage", &spec, None).is_empty(), is_good, "{good}");
    }
    let spec: holdfast_api::BackupStorageSpec = serde_json::from_value(with(None, account)).unwrap();
    let identity = spec.backend.web_identity().unwrap();
    assert_eq!(identity.audience, "sts.amazonaws.com");
    assert_eq!(identity.session_duration, holdfast_api::Duration::from_hours(1));
    assert!(spec.backend.credentials().is_none() && spec.backend.has_keys_for_each_run());
    // What the patterns refuse, which an API server checks and this test's validator may not.
    let properties = "/properties/spec/properties/backend/properties/s3/properties/webIdentity/properties";
    let pattern = schema("BackupStorage").pointer(&format!("{properties}/stsEndpoint/pattern")).cloned();
    assert_eq!(pattern, Some(json!(r"^https://[^/?#@\s]+/?$")), "neither http nor a user before the host");
}

#[test]
fn a_bucket_in_the_hosts_name_needs_a_host_with_a_name() {
    let with = |endpoint: &str, addressing: &str| {
        let mut s3 = s3();
        s3["endpoint"] = json!(endpoint);
        s3["addressing"] = json!(addressing);
        json!({"backend": {"s3": s3}})
    };
    for address in ["https://10.0.0.7:9000", "http://10.0.0.7/", "https://[fd00::1]:9000"] {
        refuses("BackupStorage", &with(address, "VirtualHost"), None, "no IP address");
        accepts("BackupStorage", &with(address, "Path"));
    }
    for name in ["https://s3.example", "https://10.example:9000/"] {
        accepts("BackupStorage", &with(name, "VirtualHost"));
    }
    let mut aws = with("", "VirtualHost");
    aws["backend"]["s3"].as_object_mut().unwrap().remove("endpoint");
    accepts("BackupStorage", &aws);
}

#[test]
fn keys_are_exchanged_where_nobody_reads_them_and_for_a_time_that_servers_grant() {
    let with = |endpoint: Option<&str>, role: Value| {
        let mut s3 = s3();
        s3.as_object_mut().unwrap().remove("endpoint");
        if let Some(endpoint) = endpoint {
            s3["endpoint"] = json!(endpoint);
        }
        s3["assumeRole"] = role;
        json!({"backend": {"s3": s3}})
    };
    let minio = Some("https://minio:9000");
    accepts("BackupStorage", &with(minio, json!({})));
    accepts("BackupStorage", &with(None, json!({"roleArn": "arn:aws:iam::123456789012:role/backups"})));
    accepts("BackupStorage", &with(Some("http://s3"), json!({"stsEndpoint": "https://sts"})));
    refuses("BackupStorage", &with(None, json!({})), None, "roleArn");
    refuses("BackupStorage", &with(Some("http://s3"), json!({})), None, "https endpoint");
    for good in ["15m", "1h30m", "12h", "900s"] {
        accepts("BackupStorage", &with(minio, json!({"sessionDuration": good})));
    }
    for bad in ["14m59s", "12h1s", "0s"] {
        refuses("BackupStorage", &with(minio, json!({"sessionDuration": bad})), None, "15m to 12h");
    }
    let spec: holdfast_api::BackupStorageSpec = serde_json::from_value(with(minio, json!({}))).unwrap();
    let role = spec.backend.s3.unwrap().assume_role.unwrap();
    assert_eq!(role.session_duration, holdfast_api::Duration::from_hours(1));
}

#[test]
fn an_azure_account_has_one_address() {
    let with = |field: &str, value: &str| {
        let mut azure = azure();
        azure[field] = json!(value);
        azure
    };
    let suffix = with("endpointSuffix", "core.chinacloudapi.cn");
    accepts("BackupStorage", &json!({"backend": {"azure": suffix}}));
    let mut both = with("endpoint", "https://host:10000/acct");
    accepts("BackupStorage", &json!({"backend": {"azure": both}}));
    both["endpointSuffix"] = json!("core.windows.net");
    refuses("BackupStorage", &json!({"backend": {"azure": both}}), None, "exclude each other");
}

/// A storage as release 0.1 could be given one, without what came later.
#[test]
fn a_storage_of_an_older_release_means_the_same() {
    let old = json!({"backend": {"s3": s3()}});
    let spec: holdfast_api::BackupStorageSpec = serde_json::from_value(old).unwrap();
    let s3 = spec.backend.s3.as_ref().unwrap();
    assert_eq!(s3.addressing, holdfast_api::backend::Addressing::Path);
    assert_eq!((s3.url().as_str(), s3.region.as_str()), ("https://s3.example", "us-east-1"));
    assert_eq!(spec.backend.location("c/n/r"), "s3:https://s3.example/backups/c/n/r");
}

/// All that an example says is understood, and nothing that a field's name is misspelled for.
#[test]
fn the_examples_of_storages_are_accepted_whole() {
    fn within(given: &Value, read: &Value, at: &str) {
        match (given, read) {
            (Value::Object(given), Value::Object(read)) => {
                for (key, value) in given {
                    within(value, read.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"));
                }
            }
            (given, read) => assert_eq!(given, read, "{at}"),
        }
    }
    let mut kinds = Vec::new();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let documents = text.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
        for document in documents.filter(|document| document["kind"] == "BackupStorage") {
            let spec = &document["spec"];
            accepts("BackupStorage", spec);
            let read: holdfast_api::BackupStorageSpec = serde_json::from_value(spec.clone()).unwrap();
            within(spec, &serde_json::to_value(&read).unwrap(), &path.display().to_string());
            kinds.extend(spec["backend"].as_object().unwrap().keys().cloned());
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["azure", "gcs", "s3", "s3", "s3"]);
}

#[test]
fn namespaces_are_selected_by_a_selector_and_by_nothing_else() {
    let policy = |namespaces: Value| json!({"backend": {"s3": s3()}, "usagePolicy": {"allowedNamespaces": namespaces}});
    let selector = json!({"matchLabels": {"team": "a"}});
    for fine in [
        json!({"from": "Same"}),
        json!({"from": "All"}),
        json!({"from": "Selector", "selector": selector}),
        json!({}),
    ] {
        accepts("BackupStorage", &policy(fine));
    }
    for wrong in [json!({"from": "Selector"}), json!({"from": "All", "selector": selector})] {
        refuses("BackupStorage", &policy(wrong), None, "selector must be set when from is Selector");
    }
}

#[test]
fn a_storage_may_change_and_a_repository_may_not_move() {
    let (old, mut new) = (json!({"backend": {"s3": s3()}}), json!({"backend": {"s3": s3()}}));
    new["backend"]["s3"]["endpoint"] = json!("https://other.example");
    assert_eq!(refused("BackupStorage", &new, Some(&old)), Vec::<String>::new());

    let chosen = json!({"storageRef": {"name": "offsite"}});
    let named = json!({"storageRef": {"name": "offsite"}, "directory": "prod/shop/main-x7k2p"});
    let moved = json!({"storageRef": {"name": "offsite"}, "directory": "prod/shop/other"});
    let elsewhere = json!({"storageRef": {"name": "offsite", "namespace": "backup"}});
    accepts("Repository", &chosen);
    accepts("Repository", &named);
    for (old, new) in [(&chosen, &named), (&named, &chosen), (&named, &moved)] {
        refuses("Repository", new, Some(old), "directory is chosen once");
    }
    refuses("Repository", &elsewhere, Some(&chosen), "storageRef cannot be changed");
    let mut other_password = named.clone();
    other_password["passwordSecretRef"] = json!({"name": "rotated", "key": "password"});
    assert_eq!(refused("Repository", &other_password, Some(&named)), Vec::<String>::new());
}

#[test]
fn a_backup_goes_to_one_place_and_stays_as_it_is() {
    accepts("Backup", &json!({}));
    accepts("Backup", &json!({"storageRef": {"name": "offsite"}}));
    accepts("Backup", &json!({"repositoryRef": {"name": "main"}}));
    let both = json!({"storageRef": {"name": "offsite"}, "repositoryRef": {"name": "main"}});
    refuses("Backup", &both, None, "exclude each other");
    refuses("Backup", &json!({"tags": ["a"]}), Some(&json!({})), "cannot be changed");
    accepts("Backup", &json!({"tags": ["rewrite-1", "daily"]}));
    for word in ["rewrite", "repaired"] {
        refuses("Backup", &json!({"tags": ["daily", word]}), None, "choose other words");
    }
}

#[test]
fn a_restore_says_from_where_and_to_where() {
    let from = json!({"snapshotRef": {"name": "daily-1"}});
    let volume = |component: &str| json!({"component": component, "to": {"existingClaim": {"name": "data"}}});
    accepts("Restore", &json!({"from": from}));
    accepts("Restore", &json!({"from": from, "volumes": [volume("volume/data")]}));
    accepts(
        "Restore",
        &json!({"from": from, "components": ["volume/data"], "volumes": [volume("volume/data")]}),
    );
    refuses("Restore", &json!({"from": {}}), None, "exactly one source");
    for source in [
        json!({"latestOf": {}}),
        json!({"latestOf": {"namespace": "shop", "claim": "data", "repositoryRef": {"name": "main"}}}),
        json!({"pointInTime": {"time": "2026-11-19T14:00:00Z"}}),
        json!({"repository": {"storageRef": {"name": "offsite"}, "passwordSecretRef": {"name": "recovery"}}}),
    ] {
        accepts("Restore", &json!({"from": source, "missingClaims": "Create"}));
        let mut two = source;
        two["snapshotRef"] = json!({"name": "daily-1"});
        refuses("Restore", &json!({"from": two}), None, "exactly one source");
    }
    let to = |target: Value| json!({"from": from, "volumes": [{"component": "volume/data", "to": target}]});
    let new =
        json!({"name": "data-2", "capacity": "2Gi", "accessModes": ["ReadWriteOnce"], "onFailure": "Delete"});
    accepts("Restore", &to(json!({"newClaim": new})));
    let both = json!({"newClaim": new, "existingClaim": {"name": "data"}});
    refuses("Restore", &to(both), None, "exactly one target");
    refuses(
        "Restore",
        &json!({"from": from, "volumes": [{"component": "volume/data", "to": {}}]}),
        None,
        "exactly one target",
    );
    refuses(
        "Restore",
        &json!({"from": from, "components": ["volume/logs"], "volumes": [volume("volume/data")]}),
        None,
        "every entry of volumes must name a component that is restored",
    );
    refuses(
        "Restore",
        &json!({"from": from, "dryRun": true}),
        Some(&json!({"from": from})),
        "cannot be changed",
    );
}

#[test]
fn a_snapshot_says_what_is_and_cannot_be_changed() {
    let spec = |cluster: &str| {
        json!({"repositoryRef": {"name": "main"}, "time": "2026-11-20T02:00:00Z", "cluster": cluster,
            "namespace": "shop", "backup": {"name": "daily", "uid": "u"}})
    };
    accepts("Snapshot", &spec("prod"));
    refuses("Snapshot", &spec("other"), Some(&spec("prod")), "cannot be changed");
}

/// Fields whose types are Kubernetes' own.
const FOREIGN: [&str; 3] = ["affinity", "conditions", "selector"];
/// Lists of such.
const FOREIGN_ITEMS: [&str; 2] = [".selectors", ".tolerations"];

fn walk(place: &str, props: &JSONSchemaProps, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
    visit(place, props);
    for (name, inner) in props.properties.iter().flatten() {
        if !FOREIGN.contains(&name.as_str()) {
            walk(&format!("{place}.{name}"), inner, visit);
        }
    }
    if FOREIGN_ITEMS.iter().any(|list| place.ends_with(list)) {
        return;
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &props.items {
        walk(&format!("{place}[]"), items, visit);
    }
}

#[test]
fn everything_a_user_writes_is_bounded_and_every_field_is_explained() {
    for crd in holdfast_api::crds() {
        let root = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        for part in ["spec", "status"] {
            let place = format!("{}.{part}", crd.spec.names.kind);
            let Some(props) = root.properties.as_ref().unwrap().get(part) else { continue };
            walk(&place, props, &mut |place, props| {
                let kind = props.type_.as_deref();
                if kind == Some("array") {
                    assert!(
                        props.max_items.is_some() || place.contains(".status."),
                        "{place} has no maxItems"
                    );
                }
                let closed = props.enum_.is_some() || props.format.as_deref() == Some("date-time");
                if part == "spec" && kind == Some("string") && !closed {
                    assert!(props.max_length.is_some(), "{place} has no maxLength");
                }
                assert!(place.ends_with("[]") || props.description.is_some(), "{place} has no description");
                assert_eq!(props.nullable, None, "{place} is nullable");
                let format = props.format.as_deref().unwrap_or("int64");
                assert!(["int32", "int64", "double", "date-time"].contains(&format), "{place}: {format}");
            });
        }
    }
}

#[test]
fn defaults_are_in_the_schema() {
    let at = |kind: &str, path: &str| schema(kind).pointer(path).cloned();
    for (kind, field, default) in [
        ("Backup", "activeDeadline", json!("12h")),
        ("Backup", "runAs", json!("Auto")),
        ("Backup", "volumes", json!({"excludeCaches": true})),
        ("Backup", "failurePolicy", json!({"retries": 2, "onUnreadableFile": "PartiallyFail"})),
        ("Restore", "quiesce", json!("Auto")),
        ("Restore", "retries", json!(2)),
        ("Restore", "dryRun", json!(false)),
        ("BackupStorage", "default", json!(false)),
        ("BackupStorage", "accessMode", json!("ReadWrite")),
        ("BackupStorage", "usagePolicy", json!({"allowedNamespaces": {"from": "Same"}})),
    ] {
        let found = at(kind, &format!("/properties/spec/properties/{field}/default"));
        assert_eq!(found, Some(default), "{kind}.spec.{field}");
    }
    for (kind, default) in
        [("Backup", Some(json!({}))), ("Restore", None), ("BackupStorage", None), ("Repository", None)]
    {
        assert_eq!(at(kind, "/properties/spec/default"), default, "{kind}.spec");
    }
    let s3 = "/properties/spec/properties/backend/properties/s3/properties";
    assert_eq!(at("BackupStorage", &format!("{s3}/region/default")), Some(json!("us-east-1")));
    assert_eq!(
        at("BackupStorage", &format!("{s3}/caBundleRef/properties/key/default")),
        Some(json!("ca.crt"))
    );
}

#[test]
fn what_is_left_out_reads_as_the_schemas_default() {
    let backup: holdfast_api::BackupSpec = serde_json::from_value(json!({})).unwrap();
    assert_eq!(backup, holdfast_api::BackupSpec::default());
    assert!(backup.volumes.exclude_caches);
    let restore: holdfast_api::RestoreSpec = serde_json::from_value(
        json!({"from": {"snapshotRef": {"name": "a"}}, "volumes": [{"component": "volume/a", "to": {"existingClaim": {"name": "a"}}}]}),
    )
    .unwrap();
    assert_eq!(restore.volumes, [holdfast_api::restore::RestoreVolume::back_to("volume/a", "a")]);
    let status: holdfast_api::BackupStatus = serde_json::from_value(json!({})).unwrap();
    assert_eq!(serde_json::to_value(&status).unwrap(), json!({}), "an empty status owns no field");
}

#[test]
fn definitions_outlive_the_chart() {
    for crd in holdfast_api::crds() {
        assert_eq!(crd.metadata.annotations.unwrap()["helm.sh/resource-policy"], "keep");
        assert_eq!(crd.spec.names.categories.unwrap(), ["holdfast"]);
        // A PodConfig is only read; there is nothing to tell about it.
        let told = crd.spec.versions[0].subresources.as_ref().is_some_and(|s| s.status.is_some());
        assert_eq!(told, crd.spec.names.kind != "PodConfig", "{}", crd.spec.names.kind);
    }
}

#[test]
fn a_pod_config_keeps_its_hands_off_what_is_not_the_users() {
    accepts("PodConfig", &json!({}));
    accepts(
        "PodConfig",
        &json!({"labels": {"team": "a", "example.com/x": "b"}, "annotations": {"c": "d"}, "priorityClassName": "low"}),
    );
    for key in ["holdfast.dev/run-uid", "kubernetes.io/x", "k8s.io/x"] {
        refuses("PodConfig", &json!({"labels": {key: "x"}}), None, "not the user's to set");
        refuses("PodConfig", &json!({"annotations": {key: "x"}}), None, "not the user's to set");
    }
}
