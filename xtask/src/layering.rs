//! Who may use whom: the table of the design, held against cargo's own knowledge.

use crate::Error;
use crate::workspace::{Metadata, Problem, Workspace};

/// A crate and the crates of the workspace that it may use. Arrows point down only: api, engine and protocol know
/// nothing of each other, the operator has no engine, the runner has no custom resources.
const MAY_USE: &[(&str, &[&str])] = &[
    ("holdfast-api", &[]),
    ("holdfast-engine", &["holdfast-pattern", "holdfast-simd"]),
    ("holdfast-pattern", &[]),
    ("holdfast-protocol", &[]),
    ("holdfast-simd", &[]),
    ("holdfast-testbed", &[]),
    ("holdfast-operator", &["holdfast-api", "holdfast-pattern", "holdfast-protocol"]),
    ("holdfast-runner", &["holdfast-engine", "holdfast-protocol"]),
    ("holdfast-cli", &["holdfast-api", "holdfast-engine", "holdfast-pattern", "holdfast-protocol"]),
    (
        "holdfast",
        &[
            "holdfast-api",
            "holdfast-cli",
            "holdfast-engine",
            "holdfast-operator",
            "holdfast-protocol",
            "holdfast-runner",
            // The allocator's setting is the process's.
            "holdfast-simd",
        ],
    ),
    (
        "holdfast-e2e",
        &[
            "holdfast-api",
            "holdfast-cli",
            "holdfast-engine",
            "holdfast-operator",
            "holdfast-protocol",
            "holdfast-runner",
            "holdfast-testbed",
        ],
    ),
    ("xtask", &["holdfast-api"]),
];

/// Crates of others that a crate must stay free of, and why.
const MUST_NOT_USE: &[(&str, &[&str], &str)] = &[
    ("holdfast-engine", &["kube", "k8s-openapi"], "the engine knows bytes, not Kubernetes"),
    ("holdfast-protocol", &["kube", "k8s-openapi", "tokio"], "the protocol is plain data"),
    ("holdfast-api", &["tokio", "kube-client", "kube-runtime"], "the kinds have no client"),
    ("holdfast-operator", &["object_store"], "the operator has no data path"),
];

/// Holds every crate of the workspace against the tables.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Problem>, Error> {
    let metadata = workspace.metadata()?;
    Ok(judge(&metadata, |package| workspace.name_of(&package.manifest_path)))
}

fn judge(metadata: &Metadata, place: impl Fn(&crate::workspace::Package) -> String) -> Vec<Problem> {
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let place = place(package);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == package.name) else {
            problems.push(Problem::new(
                &place,
                format!(
                    "{} is a new room: say in xtask/src/layering.rs which crates it may use",
                    package.name
                ),
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let ours = metadata.packages.iter().any(|other| other.name == dependency.name);
            if ours && !allowed.contains(&dependency.name.as_str()) {
                problems.push(Problem::new(
                    &place,
                    format!(
                        "{} must not use {} (see the table in ARCHITECTURE.md); it may use: {}",
                        package.name,
                        dependency.name,
                        if allowed.is_empty() { "none of ours".to_owned() } else { allowed.join(", ") },
                    ),
                ));
            }
            let forbidden = MUST_NOT_USE.iter().find(|(name, crates, _)| {
                *name == package.name && crates.contains(&dependency.name.as_str())
            });
            if let Some((_, _, why)) = forbidden
                && dependency.kind.as_deref() != Some("dev")
            {
                problems.push(Problem::new(
                    &place,
                    format!("{} must not use {}: {why}", package.name, dependency.name),
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(packages: &serde_json::Value) -> Vec<String> {
        let packages: Vec<serde_json::Value> = packages
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, dependencies)| {
                let dependencies: Vec<serde_json::Value> = dependencies
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|text| {
                        let text = text.as_str().unwrap();
                        let (name, kind) = text.split_once(' ').map_or((text, None), |(n, k)| (n, Some(k)));
                        serde_json::json!({"name": name, "kind": kind})
                    })
                    .collect();
                serde_json::json!({"name": name, "manifest_path": "Cargo.toml", "dependencies": dependencies})
            })
            .collect();
        let metadata = serde_json::from_value(serde_json::json!({"packages": packages})).unwrap();
        judge(&metadata, |package| package.name.clone()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn arrows_down_are_fine() {
        let fine = serde_json::json!({
            "holdfast-api": ["kube", "serde"],
            "holdfast-protocol": ["serde", "tokio dev"],
            "holdfast-operator": ["holdfast-api", "holdfast-protocol", "kube"],
            "xtask": ["holdfast-api"],
        });
        assert_eq!(problems(&fine), Vec::<String>::new());
    }

    #[test]
    fn arrows_up_and_sideways_are_named() {
        for (name, dependency) in [
            ("holdfast-api", "holdfast-protocol"),
            ("holdfast-operator", "holdfast-engine"),
            ("holdfast-operator", "holdfast-engine dev"),
            ("holdfast-runner", "holdfast-api"),
            ("holdfast-engine", "kube"),
            ("holdfast-protocol", "tokio"),
        ] {
            let mut packages =
                serde_json::json!({"holdfast-api": [], "holdfast-engine": [], "holdfast-protocol": []});
            packages[name] = serde_json::json!([dependency]);
            let found = problems(&packages);
            let other = dependency.split(' ').next().unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(name) && found[0].contains(other), "{found:?}");
        }
    }

    #[test]
    fn a_new_room_has_to_be_entered_in_the_table() {
        let found = problems(&serde_json::json!({"holdfast-new": []}));
        assert!(found.len() == 1 && found[0].contains("holdfast-new is a new room"), "{found:?}");
    }
}
