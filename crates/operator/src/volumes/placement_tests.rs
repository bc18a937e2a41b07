use super::*;

fn nodes() -> NodeStates {
    let nodes: Vec<Node> = serde_saphyr::from_str(
        r"
- {metadata: {name: n1, labels: {zone: a}}, status: {conditions: [{type: Ready, status: 'True'}]}}
- {metadata: {name: n2, labels: {zone: b}}, status: {conditions: [{type: Ready, status: 'True'}]}}
- {metadata: {name: dead, labels: {zone: c}}, status: {conditions: [{type: Ready, status: Unknown}]}}
- metadata: {name: cordoned, labels: {zone: d, size: '8'}}
  spec: {unschedulable: true, taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]}
  status: {conditions: [{type: Ready, status: 'True'}]}
- metadata: {name: kept, labels: {zone: e}}
  spec: {taints: [{key: for, value: databases, effect: NoSchedule}, {key: soft, effect: PreferNoSchedule}]}
  status: {conditions: [{type: Ready, status: 'True'}]}
",
    )
    .unwrap();
    NodeStates::new(&nodes)
}

/// Volumes `pv-a` to `pv-e`, each of its zone, and `pv-any`.
fn volumes() -> Vec<PersistentVolume> {
    let in_zone = |zone: &str| {
        format!(
            "- {{metadata: {{name: pv-{zone}}}, spec: {{nodeAffinity: {{required: {{nodeSelectorTerms: \
             [{{matchExpressions: [{{key: zone, operator: In, values: [{zone}]}}]}}]}}}}}}}}\n"
        )
    };
    let all: String = ["a", "b", "c", "d", "e"].into_iter().map(in_zone).collect();
    serde_saphyr::from_str(&format!(
        "{all}- {{metadata: {{name: pv-any}}, spec: {{}}}}\n- {{metadata: {{name: pv-dir}}, spec: {{hostPath: {{path: /x}}}}}}\n"
    ))
    .unwrap()
}

fn claim(name: &str, mode: &str, volume: &str) -> PersistentVolumeClaim {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: {name}}}, spec: {{accessModes: [{mode}], volumeName: {volume}}}, status: {{phase: Bound}}}}"
    ))
    .unwrap()
}

fn waiting(name: &str) -> PersistentVolumeClaim {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: {name}}}, spec: {{accessModes: [ReadWriteOnce]}}, status: {{phase: Pending}}}}"
    ))
    .unwrap()
}

fn pod(node: &str) -> Pod {
    serde_saphyr::from_str(&format!(
        r"
metadata: {{name: p}}
spec: {{nodeName: {node}, containers: [], tolerations: [{{key: gpu, operator: Exists}}]}}
status: {{phase: Running}}
"
    ))
    .unwrap()
}

fn attached(node: &str) -> VolumeAttachment {
    serde_saphyr::from_str(&format!(
        "{{metadata: {{name: a}}, spec: {{attacher: x, nodeName: {node}, source: {{persistentVolumeName: pv-any}}}}}}"
    ))
    .unwrap()
}

/// Where a claim on this volume is placed.
fn placed(
    mode: &str,
    volume: &str,
    pods: &[&Pod],
    attachments: &[VolumeAttachment],
) -> Result<Placement, NoPlace> {
    let (claim, volumes, nodes) = (claim("data", mode, volume), volumes(), nodes());
    let around = Surroundings { attachments, volumes: &volumes, claims: &[], nodes: &nodes };
    place(&ClaimView::new(&claim, &[]), pods, around)
}

fn keys(placement: &Placement) -> Vec<&str> {
    let tolerations = match placement {
        Placement::Anywhere => return Vec::new(),
        Placement::Node { tolerations, .. } | Placement::Like { tolerations, .. } => tolerations,
    };
    tolerations.iter().filter_map(|toleration| toleration.key.as_deref()).collect()
}

#[test]
fn a_volume_in_use_is_read_beside_its_pod_with_its_tolerations() {
    let placement = placed("ReadWriteOnce", "pv-any", &[&pod("n2")], &[attached("n1")]).unwrap();
    assert_eq!((node_name(&placement), keys(&placement)), (Some("n2"), vec!["gpu"]));
}

#[test]
fn a_shared_volume_is_read_anywhere() {
    assert_eq!(placed("ReadWriteMany", "pv-any", &[&pod("n2")], &[]).unwrap(), Placement::Anywhere);
}

#[test]
fn a_directory_of_a_node_is_read_beside_its_pod_even_if_it_is_called_shared() {
    let placement = placed("ReadWriteMany", "pv-dir", &[&pod("n2")], &[]).unwrap();
    assert_eq!(node_name(&placement), Some("n2"));
    assert_eq!(placed("ReadWriteMany", "pv-dir", &[], &[]).unwrap(), Placement::Anywhere);
    let (volumes, nodes) = (volumes(), nodes());
    let around = Surroundings { attachments: &[], volumes: &volumes, claims: &[], nodes: &nodes };
    let doubt = |volume: &str, pods: &[&Pod]| {
        around.doubt(&ClaimView::new(&claim("data", "ReadWriteMany", volume), &[]), pods)
    };
    assert!(doubt("pv-dir", &[]).unwrap().contains("no pod on a node"));
    assert!(doubt("pv-dir", &[&pod("n1"), &pod("n2")]).unwrap().contains("several nodes"));
    assert!(doubt("pv-dir", &[&pod("dead")]).is_some());
    assert_eq!(
        (doubt("pv-dir", &[&pod("n2")]), doubt("pv-any", &[]), doubt("pv-a", &[])),
        (None, None, None)
    );
    let single = NodeStates::default();
    let alone = Surroundings { nodes: &single, ..around };
    let claim = claim("data", "ReadWriteOnce", "pv-dir");
    let view = ClaimView::new(&claim, &[]);
    assert_eq!(alone.doubt(&view, &[]), None);
    // All nodes may share it, so a dead one keeps nobody from it.
    assert_eq!(placed("ReadWriteMany", "pv-dir", &[&pod("dead")], &[]).unwrap(), Placement::Anywhere);
    // A restore goes on where it was planned, or began.
    let on = |node: Option<&str>| stay(Placement::Anywhere, node, &view, around);
    assert_eq!((node_name(&on(Some("kept"))), node_name(&on(Some("dead")))), (Some("kept"), Some("dead")));
    assert_eq!(on(None), Placement::Anywhere);
}

#[test]
fn a_volume_still_attached_is_read_where_it_is_whoever_the_node_is_kept_for() {
    let placement = placed("ReadWriteOnce", "pv-any", &[], &[attached("n1")]).unwrap();
    assert_eq!(node_name(&placement), Some("n1"));
    let placement = placed("ReadWriteOnce", "pv-any", &[], &[attached("kept")]).unwrap();
    assert_eq!((node_name(&placement), keys(&placement)), (Some("kept"), vec!["for"]));
}

/// A pod that was placed and waits for its volume.
fn starting(node: &str) -> Pod {
    let mut pod = pod(node);
    pod.status.get_or_insert_default().phase = Some("Pending".into());
    pod
}

#[test]
fn a_pod_that_waits_for_a_volume_attached_elsewhere_is_not_waited_with() {
    let at = |pods: &[&Pod], attachments: &[VolumeAttachment]| {
        placed("ReadWriteOnce", "pv-any", pods, attachments)
    };
    let placement = at(&[&starting("n2")], &[attached("n1")]).unwrap();
    assert_eq!((node_name(&placement), keys(&placement)), (Some("n1"), vec![]), "its node takes anybody");
    // The one that runs has it, whatever the order.
    let placement = at(&[&starting("n1"), &pod("n2")], &[attached("n2")]).unwrap();
    assert_eq!((node_name(&placement), keys(&placement)), (Some("n2"), vec!["gpu"]));
    // Its node is dead: the pod that is to take its place gets the volume when it is taken from there, and so does the
    // runner, which waits beside it.
    assert_eq!(node_name(&at(&[&pod("dead"), &starting("n1")], &[attached("dead")]).unwrap()), Some("n1"));
    // Attached to one and about to be to another: the one that has it.
    let mut has = attached("n2");
    has.status = Some(serde_saphyr::from_str("{attached: true}").unwrap());
    assert_eq!(node_name(&at(&[], &[attached("n1"), has]).unwrap()), Some("n2"));
    // A driver that attaches nothing: where the pod is about to start.
    assert_eq!(node_name(&at(&[&starting("n2")], &[]).unwrap()), Some("n2"));
    assert_eq!(node_name(&at(&[&pod("dead"), &starting("n1")], &[]).unwrap()), Some("n1"));
}

/// A pod that was told to end.
fn ending(node: &str) -> Pod {
    let mut pod = pod(node);
    pod.metadata.deletion_timestamp = serde_saphyr::from_str("'2026-11-20T02:00:30Z'").unwrap();
    pod
}

/// A node is drained: the application waits elsewhere for a volume that is still attached there.
#[test]
fn a_volume_that_leaves_a_cordoned_node_is_not_kept_there() {
    let at = |pods: &[&Pod]| placed("ReadWriteOnce", "pv-any", pods, &[attached("cordoned")]).unwrap();
    let follows = at(&[&starting("n2")]);
    assert_eq!((node_name(&follows), keys(&follows)), (Some("n2"), vec!["gpu"]));
    assert_eq!(node_name(&at(&[&ending("cordoned"), &starting("n2")])), Some("n2"));
    assert_eq!(at(&[]), Placement::Anywhere, "nobody uses it: not where the node is being emptied");
    // Cordoned and not drained: the application is still there, or is started again there.
    assert_eq!(node_name(&at(&[&pod("cordoned")])), Some("cordoned"));
    assert_eq!(node_name(&at(&[&starting("cordoned")])), Some("cordoned"));
    // What no other node can have comes back to it.
    let mut of_node = attached("cordoned");
    of_node.spec.source.persistent_volume_name = Some("pv-d".into());
    let back = placed("ReadWriteOnce", "pv-d", &[&starting("n2")], std::slice::from_ref(&of_node)).unwrap();
    assert_eq!(node_name(&back), Some("cordoned"));
    assert_eq!(node_name(&placed("ReadWriteOnce", "pv-d", &[], &[]).unwrap()), Some("cordoned"));
}

/// What removes nodes does not always mark them as unschedulable.
#[test]
fn a_node_that_is_being_removed_is_left_as_one_that_is_cordoned() {
    let claim = claim("data", "ReadWriteOnce", "pv-any");
    for taint in OF_REMOVERS {
        let leaving: Vec<Node> = serde_saphyr::from_str(&format!(
            r"
- metadata: {{name: leaving}}
  spec: {{taints: [{{key: {taint}, effect: NoSchedule}}]}}
  status: {{conditions: [{{type: Ready, status: 'True'}}]}}
- {{metadata: {{name: n1}}, status: {{conditions: [{{type: Ready, status: 'True'}}]}}}}
"
        ))
        .unwrap();
        let (volumes, nodes) = (volumes(), NodeStates::new(&leaving));
        let attachments = [attached("leaving")];
        let around =
            Surroundings { attachments: &attachments, volumes: &volumes, claims: &[], nodes: &nodes };
        let at = |pods: &[&Pod]| place(&ClaimView::new(&claim, &[]), pods, around).unwrap();
        assert_eq!(node_name(&at(&[&starting("n1")])), Some("n1"), "{taint}");
        assert_eq!(at(&[]), Placement::Anywhere, "{taint}");
        assert_eq!(keys(&nodes.at("leaving")), Vec::<&str>::new(), "{taint}: nothing of ours bears it");
    }
}

/// A node that is kept for others can have it only by their leave.
#[test]
fn a_volume_stays_where_no_other_node_would_take_its_pods() {
    let nodes: Vec<Node> = serde_saphyr::from_str(
        r"
- {metadata: {name: cordoned}, spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: 'True'}]}}
- {metadata: {name: kept}, spec: {taints: [{key: for, value: it, effect: NoSchedule}]}, status: {conditions: [{type: Ready, status: 'True'}]}}
",
    )
    .unwrap();
    let (volumes, nodes) = (volumes(), NodeStates::new(&nodes));
    let attachments = [attached("cordoned")];
    let around = Surroundings { attachments: &attachments, volumes: &volumes, claims: &[], nodes: &nodes };
    let claim = claim("data", "ReadWriteOnce", "pv-any");
    let view = ClaimView::new(&claim, &[]);
    assert_eq!(node_name(&place(&view, &[], around).unwrap()), Some("cordoned"));
    assert!(!around.can_move(&view, None));
}

/// An old pod that finds no node hides none that was evicted a moment ago.
#[test]
fn the_pod_that_moved_last_is_the_one_that_is_waited_for() {
    let unplaced = |name: &str, hour: &str| -> Pod {
        let mut pod: Pod =
            serde_saphyr::from_str(&format!("{{metadata: {{name: {name}}}, status: {{phase: Pending}}}}"))
                .unwrap();
        pod.metadata.creation_timestamp =
            serde_saphyr::from_str(&format!("'2026-11-20T{hour}:00:00Z'")).unwrap();
        pod
    };
    let (volumes, nodes) = (volumes(), nodes());
    let around = Surroundings { attachments: &[], volumes: &volumes, claims: &[], nodes: &nodes };
    let claim = claim("data", "ReadWriteOnce", "pv-any");
    let (old, new) = (unplaced("a", "02"), unplaced("b", "09"));
    let found = around.moving(&ClaimView::new(&claim, &[]), &[&old, &new]).unwrap();
    assert_eq!(found.pod, "b");
}

#[test]
fn a_pod_that_leaves_a_cordoned_node_is_waited_for_where_its_volume_can_go_with_it() {
    let moving = |mode: &str, volume: &str, pods: &[&Pod]| {
        let (volumes, nodes) = (volumes(), nodes());
        let around = Surroundings { attachments: &[], volumes: &volumes, claims: &[], nodes: &nodes };
        around.moving(&ClaimView::new(&claim("data", mode, volume), &[]), pods)
    };
    let found = moving("ReadWriteOnce", "pv-any", &[&ending("cordoned")]).unwrap();
    assert_eq!((found.pod.as_str(), found.node.as_deref()), ("p", Some("cordoned")));
    assert!(found.to_string().contains("the pod p leaves the cordoned node cordoned"), "{found}");
    // Its replacement is made at once, and placed when a node has room.
    let mut unplaced: Pod =
        serde_saphyr::from_str("{metadata: {name: next}, status: {phase: Pending}}").unwrap();
    unplaced.metadata.creation_timestamp = serde_saphyr::from_str("'2026-11-20T02:00:00Z'").unwrap();
    let next = moving("ReadWriteOnce", "pv-any", &[&unplaced]).unwrap();
    assert_eq!((next.pod.as_str(), &next.node), ("next", &None));
    assert!(next.is_awaited("2026-11-20T02:04:59Z".parse().unwrap()));
    assert!(!next.is_awaited("2026-11-20T02:05:00Z".parse().unwrap()), "it is down anyway");
    assert_eq!(moving("ReadWriteOnce", "pv-d", &[&unplaced]), None);
    assert_eq!(moving("ReadWriteOnce", "pv-a", &[&unplaced]), None, "it can come to one node only");
    for (mode, volume, pods) in [
        ("ReadWriteOnce", "pv-any", vec![ending("n1")]),
        ("ReadWriteOnce", "pv-any", vec![pod("cordoned")]),
        ("ReadWriteOnce", "pv-any", vec![ending("cordoned"), pod("n1")]),
        ("ReadWriteOnce", "pv-any", vec![ending("cordoned"), starting("n1")]),
        ("ReadWriteOnce", "pv-any", vec![]),
        ("ReadWriteMany", "pv-any", vec![ending("cordoned")]),
        ("ReadWriteOnce", "pv-d", vec![ending("cordoned")]),
        ("ReadWriteOnce", "pv-dir", vec![ending("cordoned")]),
    ] {
        let pods: Vec<&Pod> = pods.iter().collect();
        assert_eq!(moving(mode, volume, &pods), None, "{mode} {volume} {}", pods.len());
    }
}

#[test]
fn a_volume_that_nobody_uses_is_left_to_the_scheduler_unless_its_nodes_are_closed() {
    let at = |volume: &str| placed("ReadWriteOnce", volume, &[], &[]);
    assert_eq!(at("pv-any").unwrap(), Placement::Anywhere);
    assert_eq!(at("pv-b").unwrap(), Placement::Anywhere, "the scheduler knows the volume's zone");
    let cordoned = at("pv-d").unwrap();
    assert_eq!((node_name(&cordoned), keys(&cordoned)), (Some("cordoned"), vec![]));
    let kept = at("pv-e").unwrap();
    assert_eq!((node_name(&kept), keys(&kept)), (Some("kept"), vec!["for"]), "a soft taint needs none");
    let error = at("pv-c").unwrap_err();
    assert_eq!(error, NoPlace::NoNode { volume: "pv-c".into(), wanted: "zone=c".into() });
    assert!(error.to_string().ends_with("its node affinity wants zone=c"), "{error}");
}

#[test]
fn the_nodes_that_a_volume_wants_are_told_as_kubectl_takes_them() {
    let selector = serde_saphyr::from_str(
        "{nodeSelectorTerms: [\
         {matchExpressions: [{key: zone, operator: In, values: [a, b]}, {key: disk, operator: Exists}]}, \
         {matchExpressions: [{key: zone, operator: NotIn, values: [c]}, {key: old, operator: DoesNotExist}], \
          matchFields: [{key: metadata.name, operator: In, values: [n1]}]}]}",
    )
    .unwrap();
    assert_eq!(described(&selector), "zone in (a, b),disk or zone!=c,!old,metadata.name=n1");
}

#[test]
fn a_volume_held_by_a_dead_node_is_an_error_that_names_it() {
    let dead = NoPlace::HeldByDeadNode { node: "dead".into() };
    assert_eq!(placed("ReadWriteOnce", "pv-any", &[&pod("dead")], &[]).unwrap_err(), dead);
    assert_eq!(placed("ReadWriteOnce", "pv-any", &[], &[attached("dead")]).unwrap_err(), dead);
}

/// Where the writer to the claim `data`, which has no volume yet, is placed.
fn writer(model: &str, claims: &[PersistentVolumeClaim]) -> Placement {
    let model: Pod = serde_saphyr::from_str(model).unwrap();
    let (volumes, nodes) = (volumes(), nodes());
    let around = Surroundings { attachments: &[], volumes: &volumes, claims, nodes: &nodes };
    place_writer(&ClaimView::new(&waiting("data"), &[]), &[], Some(&model), around).unwrap()
}

/// The nodes that a placement's affinity lets it run on.
fn open_to(placement: &Placement) -> Vec<String> {
    let Placement::Like { node_affinity: Some(affinity), .. } = placement else { panic!("{placement:?}") };
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref().unwrap();
    nodes()
        .0
        .iter()
        .filter(|(name, node)| selects(required, name, &node.labels))
        .map(|(n, _)| n.clone())
        .collect()
}

const SIMPLE: &str =
    "{spec: {containers: [], nodeSelector: {disk: fast}, tolerations: [{key: gpu, operator: Exists}]}}";

#[test]
fn a_volume_that_is_yet_to_come_is_made_where_its_workload_can_run() {
    let placement = writer(SIMPLE, &[]);
    let Placement::Like { node_selector, node_affinity, .. } = &placement else { panic!("placed anywhere") };
    assert_eq!(node_selector.get("disk").map(String::as_str), Some("fast"));
    assert_eq!((keys(&placement), node_affinity), (vec!["gpu"], &None));

    let model: Pod = serde_saphyr::from_str(SIMPLE).unwrap();
    let (volumes, nodes) = (volumes(), nodes());
    let around = Surroundings { attachments: &[], volumes: &volumes, claims: &[], nodes: &nodes };
    let bound = claim("data", "ReadWriteOnce", "pv-any");
    let placement = place_writer(&ClaimView::new(&bound, &[]), &[], Some(&model), around).unwrap();
    assert_eq!(placement, Placement::Anywhere, "a volume knows its node itself");
}

/// A pod whose two volumes lie in two zones never starts again.
#[test]
fn a_new_volume_is_made_in_the_zone_of_the_other_volumes_of_its_pod() {
    let with = |affinity: &str| {
        format!(
            "{{spec: {{containers: [], {affinity} volumes: [{{name: d, persistentVolumeClaim: {{claimName: data}}}}, \
             {{name: l, persistentVolumeClaim: {{claimName: logs}}}}]}}}}"
        )
    };
    let claims =
        [claim("logs", "ReadWriteOnce", "pv-b"), claim("others", "ReadWriteOnce", "pv-a"), waiting("data")];
    assert_eq!(open_to(&writer(&with(""), &claims)), ["n2"]);
    let two_zones = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: \
                     [{matchExpressions: [{key: zone, operator: In, values: [a]}]}, {matchExpressions: [{key: zone, \
                     operator: NotIn, values: [a, c, e]}]}]}}},";
    assert_eq!(open_to(&writer(&with(two_zones), &[])), ["cordoned", "n1", "n2"]);
    assert_eq!(open_to(&writer(&with(two_zones), &claims)), ["n2"], "both have to hold");
}

#[test]
fn node_selectors_mean_what_kubernetes_means() {
    let selected = |term: &str| {
        let selector: NodeSelector =
            serde_saphyr::from_str(&format!("{{nodeSelectorTerms: [{term}]}}")).unwrap();
        let nodes = nodes();
        let found = nodes.0.iter().filter(|(name, node)| selects(&selector, name, &node.labels));
        found.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(selected("{}"), [""; 0], "a term without requirements selects nothing");
    assert_eq!(selected("{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}"), ["n1"]);
    assert_eq!(selected("{matchExpressions: [{key: size, operator: Gt, values: ['7']}]}"), ["cordoned"]);
    assert_eq!(selected("{matchExpressions: [{key: size, operator: Lt, values: ['8']}]}"), [""; 0]);
    assert_eq!(selected("{matchExpressions: [{key: size, operator: Exists}]}"), ["cordoned"]);
    let both = "{matchExpressions: [{key: size, operator: DoesNotExist}, {key: zone, operator: In, values: [a, d]}]}";
    assert_eq!(selected(both), ["n1"]);
}
