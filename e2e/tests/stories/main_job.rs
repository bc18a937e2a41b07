//! The main job: an application's volumes are saved, lost, and put back.

use holdfast_e2e::kubectl::{Failure, Result};
use holdfast_e2e::story::Story;
use holdfast_e2e::{tree, workload};

use crate::anywhere;

/// Files are saved with everything they are, the claim is destroyed, and all of it comes back; stock restic agrees.
#[test]
fn a_lost_volume_comes_back_as_it_was() {
    let _world = anywhere();
    Story::tell("main-job", Story::begin, |story| {
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "2Gi"),
            workload::keeper(&workload::Keeper::deployment("app", "data"))
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.fill(&pod, 1500)?;
        let before = tree::describe(&story.kubectl, &story.namespace, &pod, "/store")?;

        let backup = story.backup("first", "{}", "Succeeded")?;
        let snapshot = Story::snapshot_of(&backup)?;
        story.until("snapshot", &snapshot, |o| (o["status"]["complete"] == true).then_some(()))?;
        story.nothing_left()?;
        for version in story.restics() {
            story.restic(version, &["check", "--read-data"])?;
        }

        // An unchanged second run reads nothing again.
        let second = story.backup("second", "{}", "Succeeded")?;
        let component = &second["status"]["components"][0];
        if component["filesNew"] != 0 || component["filesChanged"] != 0 || component["filesUnmodified"] == 0 {
            return Err(Failure(format!("the second run did not find its parent: {component}")));
        }

        // Everything is lost: application, claim and data.
        story.kubectl.run(&[
            "-n",
            &story.namespace,
            "delete",
            "deployment/app",
            "pvc/data",
            "--wait=true",
        ])?;
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "2Gi"),
            workload::keeper(&workload::Keeper::deployment("app", "data"))
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        if !story.shell(&pod, "ls -A /store")?.trim().is_empty() {
            return Err(Failure("the new claim is not empty: the story proves nothing".into()));
        }
        story.restore("back", &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}}}"), "Succeeded")?;
        story.nothing_left()?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        tree::same(&before, &tree::describe(&story.kubectl, &story.namespace, &pod, "/store")?)
    });
}

/// The application keeps running with the counts it had, whatever they were, and files made since are kept or
/// removed as asked.
#[test]
fn a_restore_in_place_gives_back_files_and_replicas() {
    let _world = anywhere();
    Story::tell("in-place", Story::begin, |story| {
        let node = story.one_node()?;
        let three =
            workload::Keeper { replicas: 3, node: &node, ..workload::Keeper::deployment("app", "data") };
        story.apply(&format!("{}{}", workload::claim("data", "", "1Gi"), workload::keeper(&three)))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; mkdir d; for i in 1 2 3; do echo $i > d/$i; done; echo keep > same")?;
        let before = tree::describe(&story.kubectl, &story.namespace, &pod, "/store")?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "cd /store; echo changed > d/1; rm d/2; chmod 777 d/3; echo new > since")?;

        // Without deleteExtra a file made since stays.
        let from = format!("from: {{snapshotRef: {{name: {snapshot}}}}}");
        story.restore("merge", &format!("{{{from}}}"), "Succeeded")?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        if story.shell(&pod, "cat /store/since /store/d/1 /store/d/2")? != "new\n1\n2\n" {
            return Err(Failure("merge restored something else".into()));
        }
        // With it, the volume is as it was.
        story.restore(
            "exact",
            &format!("{{{from}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: data}}}}, deleteExtra: true}}]}}"),
            "Succeeded",
        )?;
        let replicas = story.until("deployment", "app", |o| {
            (o["status"]["readyReplicas"] == 3).then(|| o["spec"]["replicas"].clone())
        })?;
        if replicas != 3 {
            return Err(Failure(format!("the Deployment has {replicas} replicas, not the 3 it had")));
        }
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        tree::same(&before, &tree::describe(&story.kubectl, &story.namespace, &pod, "/store")?)?;
        story.nothing_left()
    });
}

/// A dry run says what a restore would do and does nothing.
#[test]
fn a_dry_run_plans_and_changes_nothing() {
    let _world = anywhere();
    Story::tell("dry-run", Story::begin, |story| {
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "1Gi"),
            workload::keeper(&workload::Keeper::deployment("app", "data"))
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        story.shell(&pod, "cd /store; for i in 1 2 3 4; do echo $i > $i; done")?;
        let snapshot = Story::snapshot_of(&story.backup("first", "{}", "Succeeded")?)?;
        story.shell(&pod, "cd /store; rm 1; echo changed-much > 2; echo extra > extra")?;
        let before = tree::describe(&story.kubectl, &story.namespace, &pod, "/store")?;
        let plan = story.restore(
            "plan",
            &format!("{{dryRun: true, from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/data, to: {{existingClaim: {{name: data}}}}, deleteExtra: true}}]}}"),
            "Planned",
        )?;
        let volume = &plan["status"]["plan"]["volumes"][0];
        for (field, expected) in [("create", 1), ("change", 1), ("delete", 1)] {
            if volume[field] != expected {
                return Err(Failure(format!("{field} should be {expected}: {volume}")));
            }
        }
        if plan["status"]["compatibility"]["compatible"] != true
            || !volume["consumers"].to_string().contains("app")
        {
            return Err(Failure(format!("verdict or consumers missing: {}", plan["status"])));
        }
        let same_pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
        if same_pod != pod {
            return Err(Failure("the dry run restarted the application".into()));
        }
        tree::same(&before, &tree::describe(&story.kubectl, &story.namespace, &pod, "/store")?)?;
        story.nothing_left()
    });
}

/// A database whose files are saved while it is stopped has every row after the restore.
#[test]
fn postgresql_has_its_rows_again() {
    let _world = anywhere();
    Story::tell("postgres", Story::begin, |story| {
        story.apply(&format!("{}{}", workload::claim("pg", "", "1Gi"), workload::postgres("db", "pg")))?;
        workload::ready_pod(&story.kubectl, &story.namespace, "db")?;
        let sql = |statement: &str| workload::sql(&story.kubectl, &story.namespace, "db-0", statement);
        sql(
            "create table orders as select i as id, md5(i::text) as item, now() as at from generate_series(1, 50000) i",
        )?;
        let question =
            "select count(*), sum(id), md5(string_agg(item || at::text, ',' order by id)) from orders";
        let rows = sql(question)?;
        scale(story, "statefulset/db", 0)?;
        workload::gone(&story.kubectl, &story.namespace, "db")?;
        let snapshot = Story::snapshot_of(&story.backup("cold", "{}", "Succeeded")?)?;
        scale(story, "statefulset/db", 1)?;
        workload::ready_pod(&story.kubectl, &story.namespace, "db")?;
        sql("drop table orders")?;
        story.restore(
            "back",
            &format!("{{from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: [{{component: volume/pg, to: {{existingClaim: {{name: pg}}}}, deleteExtra: true}}]}}"),
            "Succeeded",
        )?;
        workload::ready_pod(&story.kubectl, &story.namespace, "db")?;
        let again = sql(question)?;
        if rows != again {
            return Err(Failure(format!("rows before: {rows}, after: {again}")));
        }
        story.nothing_left()
    });
}

fn scale(story: &Story, what: &str, replicas: u32) -> Result<()> {
    story.kubectl.run(&["-n", &story.namespace, "scale", what, &format!("--replicas={replicas}")]).map(drop)
}
