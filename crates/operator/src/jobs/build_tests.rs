use clap::Parser;

use super::*;
use crate::access::Credentials;
use crate::jobs::RunKind;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn settings() -> Options {
    let arguments = [
        "holdfast",
        "--cluster-name",
        "prod",
        "--namespace",
        "holdfast",
        "--runner-image",
        "registry/holdfast:1",
    ];
    Command::parse_from(arguments).options
}

fn plan(identity: Identity, placement: Placement) -> JobPlan {
    JobPlan {
        name: "daily-data-0a1b2c3d".into(),
        namespace: "shop".into(),
        owner: OwnerReference { name: "daily".into(), uid: "u1".into(), ..OwnerReference::default() },
        run: RunRef {
            kind: RunKind::Backup,
            namespace: "shop".into(),
            name: "daily".into(),
            uid: "u1".into(),
        },
        task: JobTask::Backup,
        component: Some("volume/data".into()),
        claim: Some(ClaimMount { claim: "data".into(), path: "/data/data".into(), read_only: true }),
        identity,
        placement,
        follows: false,
        pod_config: None,
        seat: None,
        retries: 2,
        dead_jobs: Vec::new(),
        deadline: Duration::from_hours(1),
    }
}

#[test]
fn keys_of_every_store_are_files_of_the_secret_and_nowhere_else() {
    let account = r#"{"type":"service_account","private_key":"HIDDEN1","private_key_id":"HIDDEN2","client_email":"HIDDEN3"}"#;
    let secret_of = |data: &[(&str, &str)]| Secret {
        data: Some(
            data.iter().map(|&(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec()))).collect(),
        ),
        ..Secret::default()
    };
    for (backend, keys) in [
        (
            "{s3: {bucket: b, credentialsSecretRef: {name: keys}}}",
            vec![
                ("AWS_ACCESS_KEY_ID", "HIDDEN"),
                ("AWS_SECRET_ACCESS_KEY", "HIDDEN"),
                ("AWS_SESSION_TOKEN", "HIDDEN"),
            ],
        ),
        (
            "{gcs: {bucket: b, credentialsSecretRef: {name: keys}}}",
            vec![("GOOGLE_SERVICE_ACCOUNT_JSON_KEY", account)],
        ),
        (
            "{azure: {account: acct, container: box, credentialsSecretRef: {name: keys}}}",
            vec![
                ("AZURE_CLIENT_ID", "HIDDEN"),
                ("AZURE_TENANT_ID", "HIDDEN"),
                ("AZURE_CLIENT_SECRET", "HIDDEN"),
            ],
        ),
    ] {
        let backend = serde_saphyr::from_str(backend).unwrap();
        let credentials = Credentials::of_store(&backend, &secret_of(&keys)).unwrap();
        let plan = plan(Identity::Unprivileged, Placement::Anywhere);
        let data = secret(&plan, "{}", &credentials.as_they_are().unwrap()).data.unwrap();
        assert_eq!(data.len(), keys.len() + 1, "the spec and each key");
        let job = job(&plan, &settings());
        assert!(!serde_json::to_string(&job).unwrap().contains("HIDDEN"));
        assert!(!format!("{credentials:?}").contains("HIDDEN"));
        let pod = spec_of(&job);
        assert_eq!((pod.automount_service_account_token, pod.service_account_name), (Some(false), None));
        assert!(
            pod.volumes.unwrap().iter().all(|volume| volume.projected.is_none()),
            "no token of the cluster"
        );
    }
}

fn spec_of(job: &Job) -> PodSpec {
    job.spec.clone().unwrap().template.spec.unwrap()
}

#[test]
fn a_source_is_mounted_so_that_nothing_can_be_written_and_no_owner_is_changed() {
    let workload = Identity::Workload {
        uid: 999,
        gid: Some(999),
        supplemental_groups: vec![5],
        fs_group: None,
        selinux_level: Some("s0:c1,c2".into()),
    };
    let pod = spec_of(&job(&plan(workload, Placement::Anywhere), &settings()));
    let claim = pod.volumes.unwrap().into_iter().find_map(|v| v.persistent_volume_claim).unwrap();
    assert_eq!((claim.claim_name.as_str(), claim.read_only), ("data", Some(true)));
    let container = &pod.containers[0];
    let mount =
        container.volume_mounts.as_ref().unwrap().iter().find(|m| m.mount_path == "/data/data").unwrap();
    assert_eq!(mount.read_only, Some(true));
    let security = pod.security_context.unwrap();
    assert_eq!(security.fs_group, None);
    assert_eq!(
        (security.run_as_user, security.run_as_group, security.run_as_non_root),
        (Some(999), Some(999), Some(true))
    );
    assert_eq!(security.supplemental_groups, Some(vec![5]));
    assert_eq!(security.se_linux_options.unwrap().level.as_deref(), Some("s0:c1,c2"));
}

#[test]
fn no_runner_has_a_token_or_more_capabilities_than_its_task_needs() {
    let level = || None;
    let reader = Identity::RootReader { selinux_level: level() };
    let writer = Identity::RootWriter { selinux_level: level() };
    for (identity, expected) in [
        (Identity::Unprivileged, None),
        (reader, Some(vec!["DAC_OVERRIDE"])),
        (writer, Some(vec!["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"])),
    ] {
        let pod = spec_of(&job(&plan(identity, Placement::Anywhere), &settings()));
        assert_eq!(pod.automount_service_account_token, Some(false));
        let security = pod.containers[0].security_context.clone().unwrap();
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let capabilities = security.capabilities.unwrap();
        assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(capabilities.add, expected.map(|all| all.into_iter().map(str::to_owned).collect()));
    }
}

/// Runners of many backups at the same time must not fill the disk of a node, which stops everybody's pods on it.
#[test]
fn no_runner_has_anything_of_a_node_to_write_to() {
    for task in JobTask::ALL.iter().copied() {
        for claim in
            [None, Some(ClaimMount { claim: "data".into(), path: "/data/data".into(), read_only: false })]
        {
            let config = serde_saphyr::from_str("{priorityClassName: low, labels: {team: shop}}").unwrap();
            let config = PodConfig::new("big", config);
            let plan = JobPlan {
                task,
                claim: claim.clone(),
                pod_config: Some(config),
                ..plan(Identity::RootWriter { selinux_level: None }, Placement::Anywhere)
            };
            let pod = spec_of(&job(&plan, &settings()));
            assert_eq!(pod.priority_class_name.as_deref(), Some("low"));
            let volumes = pod.volumes.unwrap();
            let claims = volumes.iter().filter(|volume| volume.persistent_volume_claim.is_some()).count();
            assert_eq!(claims, usize::from(claim.is_some()), "{task:?}");
            for volume in &volumes {
                // Everything but these two, whatever kinds of volumes there will be.
                let known = Volume {
                    name: volume.name.clone(),
                    secret: volume.secret.clone(),
                    persistent_volume_claim: volume.persistent_volume_claim.clone(),
                    ..Volume::default()
                };
                assert_eq!(*volume, known, "{task:?}");
                assert!(volume.secret.is_some() != volume.persistent_volume_claim.is_some(), "{task:?}");
            }
            assert_eq!(
                (pod.init_containers, pod.ephemeral_containers, pod.containers.len()),
                (None, None, 1)
            );
            let container = &pod.containers[0];
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.read_only_root_filesystem, Some(true), "{task:?}");
            for mount in container.volume_mounts.iter().flatten() {
                assert_eq!(
                    mount.read_only == Some(true),
                    mount.name != CLAIM_VOLUME,
                    "{task:?}: {}",
                    mount.name
                );
            }
        }
    }
}

#[test]
fn a_runner_goes_to_the_node_of_its_volume_even_when_it_is_cordoned() {
    let toleration = Toleration { key: Some("dedicated".into()), ..Toleration::default() };
    let placement = Placement::Node { name: "n2".into(), tolerations: vec![toleration.clone()] };
    let pod = spec_of(&job(&plan(Identity::Unprivileged, placement), &settings()));
    let required = pod
        .affinity
        .unwrap()
        .node_affinity
        .unwrap()
        .required_during_scheduling_ignored_during_execution
        .unwrap();
    let field = &required.node_selector_terms[0].match_fields.as_ref().unwrap()[0];
    assert_eq!(
        (field.key.as_str(), field.values.as_deref()),
        ("metadata.name", Some(["n2".to_owned()].as_slice()))
    );
    let tolerations = pod.tolerations.unwrap();
    assert!(tolerations.contains(&toleration));
    assert!(tolerations.iter().any(|t| t.key.as_deref() == Some("node.kubernetes.io/unschedulable")));
}

#[test]
fn the_job_controller_is_told_what_to_try_again() {
    let plan = JobPlan { follows: true, ..plan(Identity::Unprivileged, Placement::Anywhere) };
    let spec = job(&plan, &settings()).spec.unwrap();
    assert_eq!((spec.backoff_limit, spec.active_deadline_seconds), (Some(2), Some(3600)));
    assert_eq!(spec.pod_replacement_policy.as_deref(), Some("Failed"));
    let rules = spec.pod_failure_policy.unwrap().rules;
    let actions: Vec<_> = rules.iter().map(|rule| rule.action.as_str()).collect();
    assert_eq!(actions, ["FailJob", "FailJob"]);
    let condition = &rules[0].on_pod_conditions.as_ref().unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.status.as_deref()), ("DisruptionTarget", Some("True")));
    assert_eq!(rules[1].on_exit_codes.as_ref().unwrap().values, [exit::FATAL]);
    assert_eq!(spec.template.spec.unwrap().restart_policy.as_deref(), Some("Never"));
}

#[test]
fn an_evicted_runner_that_follows_no_volume_is_started_again_by_kubernetes() {
    let plan = plan(Identity::Unprivileged, Placement::Anywhere);
    let rules = job(&plan, &settings()).spec.unwrap().pod_failure_policy.unwrap().rules;
    assert_eq!(rules[0].action, "Ignore");
}

#[test]
fn the_run_is_found_again_from_job_pod_and_secret() {
    let plan = plan(Identity::Unprivileged, Placement::Anywhere);
    let job = job(&plan, &settings());
    let secret =
        secret(&plan, "{}", &Credentials::default().with_password(b"p".to_vec()).as_they_are().unwrap());
    let pod = pod(&job).unwrap();
    assert_eq!(RunRef::from_child(&job).as_ref(), Some(&plan.run));
    assert_eq!(RunRef::from_child(&pod).as_ref(), Some(&plan.run));
    assert_eq!(RunRef::from_child(&secret).as_ref(), Some(&plan.run));
    assert_eq!(crate::jobs::component_of(&job), Some("volume/data"));
    assert_eq!(secret.metadata.name, job.metadata.name);
    let data = secret.data.unwrap();
    assert_eq!(data.keys().map(String::as_str).collect::<Vec<_>>(), ["password", "spec.json"]);
    // Nothing secret stands in the Job, which more people may read.
    assert!(!serde_json::to_string(&job).unwrap().contains("password"));
}

#[test]
fn a_volume_that_is_yet_to_come_takes_selector_affinity_and_tolerations_of_its_workload() {
    let placement = Placement::Like {
        node_selector: BTreeMap::from([("disk".to_owned(), "fast".to_owned())]),
        node_affinity: Some(Box::default()),
        tolerations: vec![Toleration { key: Some("gpu".into()), ..Toleration::default() }],
    };
    let pod = spec_of(&job(&plan(Identity::Unprivileged, placement), &settings()));
    assert_eq!(pod.node_selector.unwrap().get("disk").map(String::as_str), Some("fast"));
    assert_eq!(pod.affinity.unwrap().node_affinity, Some(NodeAffinity::default()));
    assert_eq!(pod.tolerations.unwrap().len(), 1, "no cordoned node: nothing is there yet");
}

#[test]
fn only_a_fresh_volume_is_given_to_a_group() {
    let fresh = Identity::Workload {
        uid: 999,
        gid: Some(998),
        supplemental_groups: vec![],
        fs_group: Some(998),
        selinux_level: None,
    };
    let security = spec_of(&job(&plan(fresh, Placement::Anywhere), &settings())).security_context.unwrap();
    assert_eq!(security.fs_group, Some(998));
    assert_eq!(security.fs_group_change_policy.as_deref(), Some("OnRootMismatch"), "restored modes stay");
}

#[test]
fn secrets_to_pull_with_are_named_only_where_they_are_set() {
    let mut settings = settings();
    let secrets = |settings: &Options| {
        spec_of(&job(&plan(Identity::Unprivileged, Placement::Anywhere), settings)).image_pull_secrets
    };
    assert_eq!(secrets(&settings), None, "else those of the ServiceAccount would not count");
    settings.runner_image_pull_secrets = vec!["registry".into(), String::new()];
    let named: Vec<String> = secrets(&settings).unwrap().into_iter().map(|secret| secret.name).collect();
    assert_eq!(named, ["registry"]);
}

#[test]
fn all_attempts_at_a_component_find_the_checkpoint_of_the_one_before() {
    let name_in = |job: &Job| {
        let volumes = spec_of(job).volumes.unwrap();
        let secret = volumes.into_iter().find(|v| v.name == CHECKPOINT_VOLUME)?.secret?;
        assert_eq!(secret.optional, Some(true), "the first attempt has none");
        secret.secret_name
    };
    let first = plan(Identity::Unprivileged, Placement::Anywhere);
    let second = JobPlan { name: "another attempt".into(), ..first.clone() };
    let other = JobPlan { component: Some("volume/logs".into()), ..first.clone() };
    let restore = JobPlan { task: JobTask::Restore, ..first.clone() };
    let [first, second, other, restore] =
        [first, second, other, restore].map(|plan| name_in(&job(&plan, &settings())));
    assert!(first.is_some());
    assert_eq!(first, second);
    assert_ne!(first, other);
    assert_eq!(restore, None);
}
