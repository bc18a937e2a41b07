//! Who may use a storage: its usage policy, and which one is the default. Pure.

use std::collections::BTreeMap;

use holdfast_api::BackupStorage;
use holdfast_api::backup_storage::{NamespacesFrom, StoragePhase};
use holdfast_api::conditions::{ConditionType, find_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

/// Why a storage does not admit a namespace with these labels; `None` when it does.
pub fn refusal(
    storage: &BackupStorage,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Option<String> {
    let home = storage.namespace().unwrap_or_default();
    if namespace == home {
        return None;
    }
    let policy = &storage.spec.usage_policy.allowed_namespaces;
    let admitted = match policy.from {
        NamespacesFrom::Same => false,
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => {
            policy.selector.as_ref().is_some_and(|selector| matches(selector, labels))
        }
    };
    (!admitted).then(|| {
        format!(
            "BackupStorage {home}/{} does not admit namespace {namespace}; its owner can change \
             spec.usagePolicy.allowedNamespaces",
            storage.name_any()
        )
    })
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    // A selector that cannot be understood admits nobody.
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

/// Why a storage cannot be used now, as somebody in this namespace may read it; none when it can. What a token service said of
/// the storage's account is for the storage's own namespace.
pub fn not_ready(storage: &BackupStorage, namespace: &str) -> Option<String> {
    let status = storage.status.as_ref();
    if status.and_then(|status| status.phase) == Some(StoragePhase::Ready) {
        return None;
    }
    let home = storage.namespace().unwrap_or_default();
    let ready = status.and_then(|status| find_condition(&status.conditions, ConditionType::Ready));
    let why = match ready {
        None => "it was not tried yet".to_owned(),
        Some(ready) if storage.spec.backend.has_keys_for_each_run() && namespace != home => {
            ready.reason.clone()
        }
        Some(ready) => format!("{}: {}", ready.reason, ready.message),
    };
    Some(format!("waits for BackupStorage {home}/{}: {why}", storage.name_any()))
}

/// Why nothing can be saved to a storage that is there for restores only.
pub fn closed(storage: &BackupStorage) -> Option<String> {
    storage.spec.is_read_only().then(|| {
        format!(
            "BackupStorage {}/{} is there for restores only (spec.accessMode: ReadOnly)",
            storage.namespace().unwrap_or_default(),
            storage.name_any()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(policy: &str) -> BackupStorage {
        serde_saphyr::from_str(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: BackupStorage
metadata: {{name: offsite, namespace: backup}}
spec:
  backend: {{s3: {{bucket: b, endpoint: 'https://s3.example', credentialsSecretRef: {{name: keys}}}}}}
  usagePolicy: {{allowedNamespaces: {policy}}}
"
        ))
        .unwrap()
    }

    #[test]
    fn what_a_token_service_said_is_for_the_storages_own_namespace() {
        let told = |backend: &str, namespace: &str| {
            let storage = serde_saphyr::from_str(&format!(
                "
metadata: {{name: offsite, namespace: backup}}
spec: {{backend: {{s3: {{bucket: b, endpoint: 'https://s3.example', credentialsSecretRef: {{name: keys}}{backend}}}}}}}
status:
  phase: Unavailable
  conditions:
  - {{type: Ready, status: 'False', reason: AssumeRoleFailed, message: account 123, lastTransitionTime: '2026-11-20T02:00:00Z'}}
"
            ));
            not_ready(&storage.unwrap(), namespace).unwrap()
        };
        let whole = "waits for BackupStorage backup/offsite: AssumeRoleFailed: account 123";
        assert_eq!(told("", "shop"), whole);
        let role = ", assumeRole: {roleArn: 'arn:aws:iam::123:role/r'}";
        assert_eq!(told(role, "backup"), whole);
        assert_eq!(told(role, "shop"), "waits for BackupStorage backup/offsite: AssumeRoleFailed");
    }

    #[test]
    fn the_policy_decides_and_the_storages_own_namespace_is_always_in() {
        let tenant = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        let none = BTreeMap::new();
        for policy in
            ["{from: Same}", "{from: All}", "{from: Selector, selector: {matchLabels: {tier: gold}}}"]
        {
            assert_eq!(refusal(&storage(policy), "backup", &none), None, "{policy}");
        }
        assert!(refusal(&storage("{from: Same}"), "shop", &tenant).unwrap().contains("backup/offsite"));
        assert_eq!(refusal(&storage("{from: All}"), "shop", &none), None);
        let gold = storage("{from: Selector, selector: {matchLabels: {tier: gold}}}");
        assert_eq!(refusal(&gold, "shop", &tenant), None);
        assert!(refusal(&gold, "shop", &none).is_some());
        let broken =
            storage("{from: Selector, selector: {matchExpressions: [{key: tier, operator: Nonsense}]}}");
        assert!(refusal(&broken, "shop", &tenant).is_some());
    }
}
