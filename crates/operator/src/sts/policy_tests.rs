use super::*;

/// A run spec with this storage, directory and task, as YAML.
fn spec(storage: &str, directory: Option<&str>, rest: &str) -> RunSpec {
    let directory = directory.map_or(String::new(), |name| format!("directory: {}", serde_json::json!(name)));
    serde_saphyr::from_str(&format!(
        "
version: {}
run: {{kind: Backup, namespace: shop, name: b, uid: u, cluster: c, clusterUid: k}}
storage: {storage}
{directory}
{rest}
",
        holdfast_protocol::VERSION
    ))
    .unwrap()
}

const S3: &str = "{s3: {endpoint: 'https://s3', bucket: backups, prefix: prod, region: r}}";
const BARE: &str = "{s3: {endpoint: 'https://s3', bucket: backups, region: r}}";
const BACKUP: &str = "task: {type: backupVolume, component: volume/data, path: /data, host: shop, tags: [], identityTags: [], time: t, excludeCaches: true, onUnreadable: Fail}";
const RESTORE: &str = "task: {type: restoreVolume, component: volume/data, snapshotId: s, sourcePath: /data, target: /data, deleteExtra: false, verify: false, planOnly: PLAN, restoreOwners: false}";
const INIT: &str = "task: {type: initialize, record: {version: 1, cluster: c, clusterUid: k, namespace: shop, name: r, created: t}, mustExist: false}";
const SYNC: &str = "task: {type: sync}";
const UNLOCK: &str = "task: {type: unlock}";
const PROBE: &str = "task: {type: probe, scanLimit: 50}";
const DIRECTORY: &str = "c/shop/main-x7k2p";

fn policy(storage: &str, directory: Option<&str>, rest: &str) -> Result<Value, PolicyError> {
    session_policy(&spec(storage, directory, rest), "aws").map(|text| serde_json::from_str(&text).unwrap())
}

/// Whether a pattern of a policy covers a name: `*` is any number of characters.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).filter_map(|at| name.get(at..)).any(|name| covers(rest, name))
        }),
    }
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// What a service would decide: what is denied is denied, and what nobody allows as well.
fn may(policy: &Value, action: &str, resource: &str, prefix: Option<&str>) -> bool {
    let resource = format!("arn:aws:s3:::{resource}");
    let applies = |statement: &&Value| {
        let condition = statement.pointer("/Condition/StringLike/s3:prefix");
        texts(&statement["Action"]).contains(&action)
            && texts(&statement["Resource"]).iter().any(|pattern| covers(pattern, &resource))
            && condition.is_none_or(|like| {
                prefix.is_some_and(|prefix| texts(like).iter().any(|pattern| covers(pattern, prefix)))
            })
    };
    let found: Vec<&Value> =
        policy["Statement"].as_array().unwrap().iter().filter(applies).map(|s| &s["Effect"]).collect();
    !found.is_empty() && found.iter().all(|effect| **effect == "Allow")
}

fn tasks() -> Vec<(&'static str, String)> {
    vec![
        ("backup", BACKUP.to_owned()),
        ("restore", RESTORE.replace("PLAN", "false")),
        ("plan", RESTORE.replace("PLAN", "true")),
        ("initialize", INIT.to_owned()),
        ("open", INIT.replace("mustExist: false", "mustExist: true, readOnly: true")),
        ("sync", SYNC.to_owned()),
        ("unlock", UNLOCK.to_owned()),
    ]
}

#[test]
fn each_run_reads_its_directory_and_nothing_beside_it() {
    for (name, task) in tasks() {
        for (storage, top) in [(S3, "prod/"), (BARE, "")] {
            let policy = policy(storage, Some(DIRECTORY), &task).unwrap();
            let own = format!("{top}{DIRECTORY}");
            let get = |key: &str| may(&policy, "s3:GetObject", &format!("backups/{key}"), None);
            assert!(get(&format!("{own}/config")) && get(&format!("{own}/data/ab/cd")), "{name}");
            let list = |prefix: Option<&str>| may(&policy, "s3:ListBucket", "backups", prefix);
            assert!(list(Some(&format!("{own}/"))) && list(Some(&format!("{own}/locks/"))), "{name}");
            for beside in [
                format!("{own}-2"),
                format!("{top}c/shop/other"),
                format!("{top}c/bank/main-x7k2p"),
                "other/c/shop/main-x7k2p".to_owned(),
                "c".to_owned(),
            ] {
                assert!(!get(&format!("{beside}/config")), "{name} reads {beside}");
                assert!(!list(Some(&format!("{beside}/"))), "{name} lists {beside}");
                for action in ["s3:PutObject", "s3:DeleteObject"] {
                    let resource = format!("backups/{beside}/locks/x");
                    assert!(!may(&policy, action, &resource, None), "{name} may {action} {beside}");
                }
            }
            assert!(!get("metadata.yaml") && !get(&own) && !list(None) && !list(Some("")), "{name}");
            let another = format!("backups-2/{own}/config");
            assert!(!may(&policy, "s3:GetObject", &another, None), "{name} reads another bucket");
        }
    }
}

#[test]
fn each_task_writes_and_removes_what_it_must() {
    let all = [
        "config",
        "keys/k",
        "repository.yaml",
        "data/ab/p",
        "index/i",
        "snapshots/s",
        "locks/l",
        "unreadable/s",
    ];
    let expected = |name: &str| match name {
        "backup" => ("data/ab/p index/i snapshots/s locks/l unreadable/s", "snapshots/s locks/l"),
        "restore" => ("locks/l", "locks/l"),
        "initialize" => (
            "config keys/k repository.yaml data/ab/p index/i snapshots/s locks/l unreadable/s",
            "keys/k locks/l",
        ),
        "unlock" => ("", "locks/l"),
        _ => ("", ""),
    };
    for (name, task) in tasks() {
        let allowed = |policy: &Value, action: &str| {
            let may = |key: &&&str| may(policy, action, &format!("backups/prod/{DIRECTORY}/{key}"), None);
            all.iter().filter(may).copied().collect::<Vec<_>>().join(" ")
        };
        let written = policy(S3, Some(DIRECTORY), &task).unwrap();
        let (write, remove) = expected(name);
        assert_eq!(allowed(&written, "s3:PutObject"), write, "{name}");
        assert_eq!(allowed(&written, "s3:DeleteObject"), remove, "{name}");
        let silent = policy(S3, Some(DIRECTORY), &format!("readOnly: true\n{task}")).unwrap();
        assert_eq!(allowed(&silent, "s3:PutObject") + &allowed(&silent, "s3:DeleteObject"), "", "{name}");
    }
}

#[test]
fn a_probe_tries_the_storage_and_leaves_repositories_alone() {
    for (storage, top) in [(S3, "prod/"), (BARE, "")] {
        let policy = policy(storage, None, PROBE).unwrap();
        let may = |action: &str, key: &str| may(&policy, action, &format!("backups/{top}{key}"), None);
        assert!(may("s3:PutObject", "holdfast-probe/x") && may("s3:DeleteObject", "holdfast-probe/x"));
        assert!(
            may("s3:PutObject", "metadata.yaml") && may("s3:GetObject", "c/shop/main-x7k2p/repository.yaml")
        );
        for key in ["c/shop/main-x7k2p/config", "c/shop/main-x7k2p/data/ab/p", "metadata.yaml/x"] {
            assert!(!may("s3:PutObject", key) && !may("s3:DeleteObject", key), "{key}");
        }
        assert!(super::tests::may(&policy, "s3:GetLifecycleConfiguration", "backups", None));
        let list = |prefix| super::tests::may(&policy, "s3:ListBucket", "backups", prefix);
        assert!(list(Some("prod/")) && list(Some("prod/c/shop/")));
        assert_eq!(list(Some("other/")), top.is_empty());
    }
    assert_eq!(policy(S3, Some(DIRECTORY), PROBE), Err(PolicyError::NoDirectory));
    assert_eq!(policy(S3, None, SYNC), Err(PolicyError::NoDirectory));
}

#[test]
fn a_directory_of_keys_is_not_taken_for_a_repositorys() {
    let policy = policy(S3, Some("keys/shop/main"), BACKUP).unwrap();
    let put = |key: &str| may(&policy, "s3:PutObject", &format!("backups/prod/keys/shop/main/{key}"), None);
    assert!(put("data/ab/p") && put("locks/l") && !put("keys/k") && !put("config"));
}

#[test]
fn hostile_names_get_no_policy_at_all() {
    for name in [
        "c/*",
        "c/sh?p/main",
        "*",
        "c/${aws:username}/main",
        "c/$/x",
        "c/../bank",
        "c/./x",
        "c//x",
        "/c",
        "c/",
        "",
        "..",
        "c\\shop",
        "c/\u{0}x",
        "c/\nx",
        "${*}",
    ] {
        let error = policy(S3, Some(name), BACKUP).unwrap_err();
        assert!(matches!(error, PolicyError::Unsafe { what: "directory", .. }), "{name:?} gave {error}");
        if !name.is_empty() {
            let prefixed = S3.replace("prefix: prod", &format!("prefix: {}", serde_json::json!(name)));
            assert!(policy(&prefixed, Some(DIRECTORY), BACKUP).is_err(), "prefix {name:?}");
        }
    }
    for bucket in ["*", "b?", "a/b", "${x}", "."] {
        let storage = S3.replace("bucket: backups", &format!("bucket: {}", serde_json::json!(bucket)));
        assert!(policy(&storage, Some(DIRECTORY), BACKUP).is_err(), "bucket {bucket:?}");
    }
    // What ends a text in JSON stays text.
    let quoted = policy(S3, Some("c/a\",\"Resource\":\"x"), SYNC).unwrap();
    assert_eq!(quoted["Statement"].as_array().unwrap().len(), 2);
    assert!(quoted.to_string().contains("Resource\\\":\\\"x"));
}

#[test]
fn other_stores_and_endless_names_are_told() {
    assert_eq!(policy("{gcs: {bucket: b}}", Some(DIRECTORY), SYNC), Err(PolicyError::NotS3));
    let long = "a".repeat(600);
    let error = policy(S3, Some(&long), BACKUP).unwrap_err();
    assert!(matches!(error, PolicyError::TooLong { length: 2048.., .. }), "{error}");
    // The longest names that Kubernetes and S3 allow have their policy.
    let [cluster, namespace] = [63, 63].map(|length| "n".repeat(length));
    let name = format!("{cluster}/{namespace}/{}-x7k2p", "r".repeat(63));
    let storage = S3.replace("bucket: backups", &format!("bucket: {}", "b".repeat(63)));
    for (task, text) in tasks() {
        assert!(policy(&storage, Some(&name), &text).is_ok(), "{task}");
    }
}

#[test]
fn resources_are_named_in_the_roles_part_of_the_world() {
    let text = session_policy(&spec(S3, Some(DIRECTORY), BACKUP), "aws-cn").unwrap();
    assert!(text.contains("arn:aws-cn:s3:::backups/prod/c/shop/main-x7k2p/*") && !text.contains("arn:aws:"));
}

#[test]
fn keys_of_the_bucket_are_used_through_s3_only_and_on_aws_only() {
    let keys = |endpoint: &str| {
        let storage = S3.replace("https://s3'", &format!("{endpoint}'"));
        let policy = policy(&storage, Some(DIRECTORY), BACKUP).unwrap();
        let all = policy["Statement"].as_array().unwrap().clone();
        let mut of_keys =
            all.into_iter().filter(|s| texts(&s["Action"]).iter().any(|a| a.starts_with("kms:")));
        let found = of_keys.next();
        assert!(of_keys.next().is_none());
        found
    };
    for (endpoint, via) in [
        ("https://s3.eu-central-1.amazonaws.com", "s3.*.amazonaws.com"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "s3.*.amazonaws.com.cn"),
    ] {
        let statement = keys(endpoint).unwrap();
        assert_eq!(texts(&statement["Action"]), ["kms:GenerateDataKey", "kms:Decrypt"]);
        assert_eq!(statement["Condition"], serde_json::json!({"StringLike": {"kms:ViaService": via}}));
    }
    for other in [
        "https://s3",
        "https://minio.example:9000",
        "https://amazonaws.com.example",
        "https://s3.amazonaws.com:9000",
    ] {
        assert_eq!(keys(other), None, "{other}");
    }
}
