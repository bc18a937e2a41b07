//! Placement: a Job runs where its claim can be mounted.

use holdfast_e2e::kubectl::{Failure, Result};
use holdfast_e2e::story::Story;
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::together;

fn node_of(backup: &Value, component: &str) -> Option<String> {
    backup["status"]["components"].as_array()?.iter().find(|c| c["name"] == component)?["node"]
        .as_str()
        .map(str::to_owned)
}

/// Two claims on two nodes, each in use: each Job runs beside its pod; a cordoned node is no obstacle.
#[test]
fn each_claim_is_saved_on_the_node_that_has_it() {
    let _world = together();
    Story::tell("two-nodes", Story::begin, |story| {
        for (app, claim, class, node) in
            [("a", "one", "", "n1"), ("b", "two", "", "n2"), ("c", "disk", "csi-disk", "n2")]
        {
            story.apply(&format!(
                "{}{}",
                workload::claim(claim, class, "1Gi"),
                workload::keeper(&Keeper { node, ..Keeper::deployment(app, claim) })
            ))?;
        }
        for app in ["a", "b", "c"] {
            let pod = workload::ready_pod(&story.kubectl, &story.namespace, app)?;
            story.shell(&pod, &format!("echo {app} > /store/file"))?;
        }
        let backup = story.backup("run", "{}", "Succeeded")?;
        check(&backup, "volume/one", "n1")?;
        check(&backup, "volume/two", "n2")?;
        check(&backup, "volume/disk", "n2")?;
        story.nothing_left()
    });
}

fn check(backup: &Value, component: &str, node: &str) -> Result<()> {
    match node_of(backup, component) {
        Some(found) if found == node => Ok(()),
        other => Err(Failure(format!("{component} ran on {other:?}, its pod is on {node}"))),
    }
}

/// A claim that is bound and used by nobody is saved where its volume is.
#[test]
fn an_unused_claim_is_saved_too() {
    let _world = together();
    Story::tell("unused", Story::begin, |story| {
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "1Gi"),
            workload::keeper(&Keeper { node: "n2", ..Keeper::deployment("app", "data") })
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "echo data > /store/file")?;
        story.kubectl.run(&["-n", &story.namespace, "delete", "deployment/app"])?;
        workload::gone(&story.kubectl, &story.namespace, "app")?;
        check(&story.backup("run", "{}", "Succeeded")?, "volume/data", "n2")?;
        story.nothing_left()
    });
}
