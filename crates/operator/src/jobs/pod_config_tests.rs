use super::*;

fn config(spec: &str) -> PodConfig {
    serde_saphyr::from_str(&format!("{{metadata: {{name: big, namespace: shop}}, spec: {spec}}}")).unwrap()
}

fn template(yaml: &str) -> PodTemplateSpec {
    serde_saphyr::from_str(yaml).unwrap()
}

const RUNNER: &str = r"
metadata:
  labels: {holdfast.dev/run-uid: u, team: ours}
  annotations: {holdfast.dev/run: shop/b}
spec:
  securityContext: {runAsNonRoot: true}
  nodeSelector: {disk: fast}
  tolerations: [{key: gpu, operator: Exists}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n2]}]}]
  containers:
    - name: runner
      resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 2Gi}}
";

fn shaped(spec: &str) -> PodTemplateSpec {
    let mut template = template(RUNNER);
    apply(&mut template, &config(spec));
    template
}

#[test]
fn what_holdfast_set_stays_and_the_rest_is_added() {
    let shaped = shaped(
        "{labels: {team: theirs, cost: backup}, annotations: {a: b}, nodeSelector: {disk: slow, pool: backup}, \
         tolerations: [{key: gpu, operator: Exists}, {key: backup, operator: Exists}], priorityClassName: low, \
         runtimeClassName: kata, imagePullSecrets: [{name: registry}]}",
    );
    let metadata = shaped.metadata.unwrap();
    let labels = metadata.labels.unwrap();
    assert_eq!(labels["team"], "ours");
    assert_eq!((labels["cost"].as_str(), labels["holdfast.dev/run-uid"].as_str()), ("backup", "u"));
    let annotations = metadata.annotations.unwrap();
    assert_eq!((annotations["a"].as_str(), annotations["holdfast.dev/run"].as_str()), ("b", "shop/b"));
    assert_eq!(annotations[ANNOTATION_POD_CONFIG], "big");
    let spec = shaped.spec.unwrap();
    let selector = spec.node_selector.unwrap();
    assert_eq!((selector["disk"].as_str(), selector["pool"].as_str()), ("fast", "backup"));
    let keys: Vec<_> =
        spec.tolerations.unwrap().into_iter().filter_map(|toleration| toleration.key).collect();
    assert_eq!(keys, ["gpu", "backup"]);
    assert_eq!(spec.priority_class_name.as_deref(), Some("low"));
    assert_eq!(spec.runtime_class_name.as_deref(), Some("kata"));
    assert_eq!(spec.image_pull_secrets.unwrap()[0].name, "registry");
    assert_eq!(spec.security_context.unwrap().run_as_non_root, Some(true));
}

/// A runner that left the node of its volume could never mount it.
#[test]
fn the_node_of_the_volume_has_to_match_besides_every_rule_of_the_user() {
    let shaped = shaped(
        "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [\
         {matchExpressions: [{key: zone, operator: In, values: [a]}]}, {matchExpressions: [{key: zone, operator: In, values: [b]}]}]}, \
         preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {}}]}, \
         podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}}",
    );
    let affinity = shaped.spec.unwrap().affinity.unwrap();
    assert!(affinity.pod_anti_affinity.is_some());
    let nodes = affinity.node_affinity.unwrap();
    assert_eq!(nodes.preferred_during_scheduling_ignored_during_execution.unwrap().len(), 1);
    let terms = nodes.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
    assert_eq!(terms.len(), 2);
    for (term, zone) in terms.iter().zip(["a", "b"]) {
        assert_eq!(
            term.match_fields.as_ref().unwrap()[0].values.as_deref(),
            Some(["n2".to_owned()].as_slice())
        );
        assert_eq!(
            term.match_expressions.as_ref().unwrap()[0].values.as_deref(),
            Some([zone.to_owned()].as_slice())
        );
    }
}

#[test]
fn of_request_and_limit_that_do_not_fit_the_users_counts() {
    let of = |resources: &str| {
        let spec = shaped(&format!("{{resources: {resources}}}")).spec.unwrap();
        let ResourceRequirements { requests, limits, .. } = spec.containers[0].resources.clone().unwrap();
        let text = |map: Option<BTreeMap<String, Quantity>>| {
            let all: Vec<String> =
                map.unwrap_or_default().into_iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
            all.join(",")
        };
        format!("{} {}", text(requests), text(limits))
    };
    assert_eq!(of("{}"), "cpu=50m,memory=128Mi memory=2Gi");
    assert_eq!(of("{limits: {memory: 8Gi}}"), "cpu=50m,memory=128Mi memory=8Gi");
    assert_eq!(of("{limits: {memory: 64Mi}}"), "cpu=50m,memory=64Mi memory=64Mi");
    assert_eq!(of("{requests: {memory: 4Gi}}"), "cpu=50m,memory=4Gi memory=4Gi");
    assert_eq!(of("{limits: {cpu: 20m}}"), "cpu=20m,memory=128Mi cpu=20m,memory=2Gi");
}

#[test]
fn keys_that_are_not_the_users_are_refused_by_name() {
    for (spec, key) in [
        ("{labels: {holdfast.dev/run-uid: x}}", "holdfast.dev/run-uid"),
        ("{labels: {app.kubernetes.io/managed-by: x}}", "app.kubernetes.io/managed-by"),
        ("{annotations: {container.apparmor.security.beta.kubernetes.io/runner: unconfined}}", "apparmor"),
        ("{annotations: {x.k8s.io/y: z}}", "x.k8s.io/y"),
        ("{labels: {cluster-autoscaler.kubernetes.io/safe-to-evict: 'false'}}", "safe-to-evict"),
        ("{resources: {limits: {nvidia.com/gpu: '1'}}}", "nvidia.com/gpu"),
        ("{resources: {requests: {memory: lots}}}", "lots"),
    ] {
        let said = refusal(&config(spec)).unwrap_or_else(|| panic!("{spec} was accepted"));
        assert!(said.contains(key) && said.contains("shop/big"), "{said}");
    }
    for spec in [
        "{}",
        "{labels: {team: a, example.com/notkubernetes.io: b, mykubernetes.io/x: c}}",
        "{annotations: {cluster-autoscaler.kubernetes.io/safe-to-evict: 'false'}}",
        "{resources: {requests: {cpu: 500m}, limits: {ephemeral-storage: 1Gi}}}",
    ] {
        assert_eq!(refusal(&config(spec)), None, "{spec}");
    }
}
