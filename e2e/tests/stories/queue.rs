//! The queue and the shape of runners' pods: limits hold, namespaces take turns, a PodConfig is applied.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_e2e::install::OPERATOR_NAMESPACE;
use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::{ENDED, RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use serde_json::Value;

use crate::crashes::runner;
use crate::repositories::repository_yaml;
use crate::{alone, together};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// One pod that writes a file to each of `count` claims, and the claims; on this node, if one is named, as its volumes are.
fn many_claims(count: usize, node: &str) -> String {
    let mut yaml = String::new();
    let (mut mounts, mut volumes, mut script) = (String::new(), String::new(), String::new());
    for n in 0..count {
        yaml.push_str(&workload::claim(&format!("c{n:03}"), "", "1Mi"));
        let _ = write!(mounts, "{{name: v{n}, mountPath: /store/{n}}}, ");
        let _ = write!(volumes, "{{name: v{n}, persistentVolumeClaim: {{claimName: c{n:03}}}}}, ");
        let _ = write!(script, "echo {n} > /store/{n}/file; ");
    }
    let node = if node.is_empty() {
        String::new()
    } else {
        format!("nodeSelector: {{kubernetes.io/hostname: {node}}}, ")
    };
    let _ = write!(
        yaml,
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: writer, labels: {{app: writer}}}}\nspec: {{{node}terminationGracePeriodSeconds: 1, containers: [{{name: app, image: '{}', command: [sh, -c, '{script} trap \"exit 0\" TERM; while :; do sleep 1; done'], volumeMounts: [{mounts}]}}], volumes: [{volumes}]}}\n",
        workload::tools()
    );
    yaml
}

/// The runners' pods that are at work, of one moment: a Job is told to be over somewhat later than its container ends, and the
/// next may begin in between.
fn runners_at_work(story: &Story) -> Result<Vec<Value>> {
    let pods = story.kubectl.run(&[
        "get",
        "pods",
        "--all-namespaces",
        "-l",
        "holdfast.dev/task in (Backup,Restore,Plan)",
        "-o",
        "json",
    ])?;
    let mut pods: Value =
        serde_json::from_str(&pods).map_err(|e| Failure(format!("no JSON of pods: {e}")))?;
    let runs = |pod: &Value| {
        let ended = pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object();
        !ended && matches!(text(&pod["status"]["phase"]), "Pending" | "Running")
    };
    let mut all = pods["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    all.retain(runs);
    Ok(all)
}

/// Names of those in these namespaces.
fn at_work(story: &Story, namespaces: &[&str]) -> Result<BTreeSet<String>> {
    let all = runners_at_work(story)?;
    let of = |pod: &&Value| namespaces.contains(&text(&pod["metadata"]["namespace"]));
    Ok(all.iter().filter(of).map(|pod| text(&pod["metadata"]["name"]).to_owned()).collect())
}

/// A storage with one place, 16 claims in one namespace, and one claim in another: the one has its turn at once, at no
/// time are two Jobs at work, and all come to their end.
#[test]
fn one_claim_is_not_held_up_by_many_of_another_namespace() {
    let Some(_world) = together() else { return };
    Story::tell("turns", Story::begin, |story| {
        let other = story.another_namespace("other")?;
        let own = story.namespace.clone();
        story.patch(
            "backupstorage",
            "store",
            r#"{"spec":{"limits":{"concurrentJobs":1},"usagePolicy":{"allowedNamespaces":{"from":"All"}}}}"#,
        )?;
        story.kubectl.run(&["annotate", "namespace", &other, "holdfast.dev/allow-root-runner=true"])?;
        // All on one node. Other stories take places of the nodes too, and nobody holds one place while they wait for another:
        // on a node of its own the one claim would need that node's place and the storage's to come free at the same moment.
        // So each end of a Job of the sixteen frees both, and the turns alone say who takes them.
        story.apply(&many_claims(16, "n1"))?;
        let there = |yaml: &str| {
            story.kubectl.run_with(&["-n", &other, "apply", "-f", "-"], yaml.as_bytes()).map(drop)
        };
        there(&many_claims(1, "n1"))?;
        workload::ready_pod(&story.kubectl, &own, "writer")?;
        workload::ready_pod(&story.kubectl, &other, "writer")?;

        // Its repository is there before: what is looked at is the line.
        there(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: before}}\nspec: {{storageRef: {{name: store, namespace: {own}}}}}\n"
        ))?;
        story.kubectl.until(&other, "backup", "before", RUN, |o| (phase(o) == "Succeeded").then_some(()))?;
        story.start_backup("big", "{}")?;
        story.until("backup", "big", |o| (phase(o) == "Running").then_some(()))?;
        there(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: small}}\nspec: {{storageRef: {{name: store, namespace: {own}}}}}\n"
        ))?;
        let deadline = Instant::now() + 3 * RUN;
        let (mut queued, mut done_before) = (BTreeSet::new(), None);
        loop {
            let jobs = at_work(story, &[&own, &other])?;
            if jobs.len() > 1 {
                return Err(Failure(format!("more than one Job at work: {jobs:?}")));
            }
            let small = story.kubectl.get(&other, &["backup", "small"])?;
            let big = story.kubectl.get(&own, &["backup", "big"])?;
            if phase(&small) == "Queued" {
                queued.insert(text(&small["status"]["message"]).to_owned());
            }
            let has_begun = ["Running", "Finishing", "Succeeded"].contains(&phase(&small));
            if has_begun && done_before.is_none() {
                let components = big["status"]["components"].as_array().cloned().unwrap_or_default();
                done_before = Some(components.iter().filter(|c| c["phase"] == "Succeeded").count());
            }
            if phase(&small) == "Succeeded" && phase(&big) == "Succeeded" {
                break;
            }
            if ["Failed", "PartiallyFailed", "Skipped"]
                .iter()
                .any(|p| phase(&small) == *p || phase(&big) == *p)
            {
                return Err(Failure(format!("small: {}, big: {}", small["status"], big["status"])));
            }
            if Instant::now() > deadline {
                return Err(Failure(format!(
                    "not at their end: small {}, big {}",
                    small["status"], big["status"]
                )));
            }
            sleep(Duration::from_millis(250));
        }
        // Its repository is made first, which takes a Job or two of the other's.
        match done_before {
            Some(done) if done < 8 => {}
            other => {
                return Err(Failure(format!("the one claim was saved when {other:?} of the sixteen were")));
            }
        }
        // Runs of other stories may take all places of the node as well. That comes first then, and stays told until the
        // next look: which of the two it was is not this story's.
        let of_storage = |message: &String| {
            message.contains(&format!("waits for a free place at BackupStorage {own}/store"))
        };
        let of_node = |message: &String| message.contains("waits for a free place on node");
        if queued.iter().any(|message| !of_storage(message) && !of_node(message)) {
            return Err(Failure(format!("it does not say what it waits for: {queued:?}")));
        }
        story.nothing_left()
    });
}

/// What the operator may have resident while many claims wait, in bytes: its limit in the chart is four times as much.
const OPERATOR: u64 = 64 << 20;

/// Many claims of one namespace, chosen by a label, in one Backup: a claim of another namespace has its turn meanwhile, the
/// operator stays small, and every claim is in one complete Snapshot and in the repository.
fn many_in_one_run(name: &str, count: usize) {
    let Some(_world) = together() else { return };
    Story::tell(name, Story::begin, |story| {
        let (own, other) = (story.namespace.clone(), story.another_namespace("other")?);
        let patch = r#"{"spec":{"usagePolicy":{"allowedNamespaces":{"from":"All"}}}}"#;
        story.patch("backupstorage", "store", patch)?;
        story.kubectl.run(&["annotate", "namespace", &other, "holdfast.dev/allow-root-runner=true"])?;
        let labelled =
            many_claims(count, "").replace("metadata: {name: c", "metadata: {labels: {part: many}, name: c");
        story.apply(&format!("{labelled}---\n{}", workload::claim("left-out", "", "1Mi")))?;
        let there = |yaml: &str| {
            story.kubectl.run_with(&["-n", &other, "apply", "-f", "-"], yaml.as_bytes()).map(drop)
        };
        there(&many_claims(1, ""))?;
        // Five seconds a claim, for volumes and for runners, is patience enough.
        let patience = RUN + Duration::from_secs(5) * u32::try_from(count).unwrap_or(u32::MAX);
        story.kubectl.until_true("a pod with all the claims", patience, || {
            let pods = story.kubectl.list(&own, &["pods", "-l", "app=writer"])?;
            Ok(pods.iter().any(|pod| phase(pod) == "Running"))
        })?;
        workload::ready_pod(&story.kubectl, &own, "writer")?;
        workload::ready_pod(&story.kubectl, &other, "writer")?;

        story.start_backup("big", "{volumes: {selectors: [{matchLabels: {part: many}}]}}")?;
        story.until("backup", "big", |o| (phase(o) == "Running").then_some(()))?;
        there(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: small}}\nspec: {{storageRef: {{name: store, namespace: {own}}}}}\n"
        ))?;
        let deadline = Instant::now() + patience;
        let (mut resident, mut done_before) = (0, None);
        let big = loop {
            // None for a moment when another story has it start again.
            resident = resident.max(holdfast_e2e::cost::operator_resident().unwrap_or(0));
            let small = story.kubectl.get(&other, &["backup", "small"])?;
            let big = story.kubectl.get(&own, &["backup", "big"])?;
            if phase(&small) == "Succeeded" && done_before.is_none() {
                let components = big["status"]["components"].as_array().cloned().unwrap_or_default();
                done_before = Some(components.iter().filter(|c| c["phase"] == "Succeeded").count());
            }
            match (phase(&small), phase(&big)) {
                ("Succeeded", "Succeeded") => break big,
                ("Failed" | "PartiallyFailed" | "Skipped", _)
                | (_, "Failed" | "PartiallyFailed" | "Skipped") => {
                    return Err(Failure(format!("small: {}, big: {}", small["status"], big["status"])));
                }
                _ if Instant::now() > deadline => {
                    return Err(Failure(format!(
                        "not at their end: small {}, big {}",
                        small["status"], big["status"]
                    )));
                }
                _ => sleep(Duration::from_millis(500)),
            }
        };
        match done_before {
            // Before half of them: its repository is made first, and both have places for a few at a time.
            Some(done) if done <= count / 2 => {}
            other => {
                return Err(Failure(format!(
                    "the one claim had its turn when {other:?} of the {count} were saved"
                )));
            }
        }
        if resident == 0 {
            return Err(Failure("the operator's memory was never read".into()));
        }
        if resident > OPERATOR {
            return Err(Failure(format!("the operator had {resident} bytes resident")));
        }
        let all = |object: &Value| object["status"]["components"].as_array().map_or(0, Vec::len);
        let snapshot = story.kubectl.get(&own, &["snapshot", &Story::snapshot_of(&big)?])?;
        if all(&big) != count || all(&snapshot) != count || snapshot["status"]["complete"] != true {
            return Err(Failure(format!(
                "of {count} claims {} were saved and {} are in the Snapshot: {}",
                all(&big),
                all(&snapshot),
                snapshot["status"]["complete"]
            )));
        }
        // Each namespace has a repository of its own.
        let of_own = |path: &std::path::PathBuf| {
            path.parent().and_then(std::path::Path::file_name).is_some_and(|name| name == own.as_str())
        };
        let ours = story.repositories_on_disk().into_iter().find(of_own);
        let ours = ours.ok_or_else(|| Failure("the namespace has no repository in the bucket".into()))?;
        let listed = std::fs::read_dir(ours.join("snapshots"))
            .map_err(|e| Failure(format!("{} cannot be listed: {e}", ours.display())))?;
        let found = listed.flatten().filter(|entry| entry.file_name().len() == 64).count();
        if found != count {
            return Err(Failure(format!("the repository holds {found} snapshots of {count} claims")));
        }
        story.nothing_left()
    });
}

#[test]
fn forty_claims_in_one_run() {
    many_in_one_run("forty", 40);
}

#[test]
#[ignore = "takes a quarter of an hour on two cores; make scale runs it"]
fn two_hundred_claims_in_one_run() {
    many_in_one_run("two-hundred", 200);
}

/// The sum of a metric's rows.
fn total(metrics: &str, rows: &str) -> f64 {
    let of_row = |line: &str| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
    metrics.lines().filter(|line| line.starts_with(rows)).filter_map(of_row).sum()
}

/// How many looks at Backups the operator took, and how many requests the API server refused because there were too many.
fn load(story: &Story) -> Result<(f64, f64)> {
    let looks = total(&story.metrics()?, "holdfast_reconciles_total{kind=\"Backup\"");
    let server = story.kubectl.run(&["get", "--raw", "/metrics"])?;
    Ok((looks, total(&server, "apiserver_flowcontrol_rejected_requests_total")))
}

/// Places at the storage of many namespaces: one fewer than its two nodes have together.
const PLACES: usize = 3;
/// Backups that the operator looks at side by side: those that come at once are put in line in whatever order it finishes.
const SIDE_BY_SIDE: usize = 32;
/// Looks at a Backup from its creation to its end, most of them for its Job and its pod. If each place that comes free woke
/// all who wait, a hundred Backups would take half as many again by that alone.
const LOOKS: f64 = 60.0;

/// Namespaces with a claim each, and a Backup in each of them at the same minute, as schedules make them: no more Jobs are at
/// work than there are places, whoever came first has the first turn, and who waits costs next to nothing.
fn at_the_same_minute(name: &str, count: usize) {
    let Some(_world) = together() else { return };
    Story::tell(name, Story::begin, |story| {
        let own = story.namespace.clone();
        story.patch(
            "backupstorage",
            "store",
            &format!(
                r#"{{"spec":{{"limits":{{"concurrentJobs":{PLACES}}},"usagePolicy":{{"allowedNamespaces":{{"from":"All"}}}}}}}}"#
            ),
        )?;
        let namespaces = story.many_namespaces(count)?;
        let names: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        let label = format!("story={own}");
        let all = |kind: &str| story.kubectl.list(&own, &[kind, "--all-namespaces", "-l", &label]);
        let patience = RUN + Duration::from_secs(10) * u32::try_from(count).unwrap_or(u32::MAX);

        // Pods that have ended take no memory while the rest goes on, and their volumes are bound.
        let (mut prepared, mut backups) = (String::new(), String::new());
        for namespace in &names {
            let metadata = |name: &str| {
                format!("metadata: {{name: {name}, namespace: {namespace}, labels: {{story: {own}}}}}")
            };
            let claim =
                workload::claim("data", "", "1Mi").replace("metadata: {name: data}", &metadata("data"));
            let _ = write!(
                prepared,
                "{claim}apiVersion: v1\nkind: Pod\n{}\nspec: {{restartPolicy: Never, containers: [{{name: app, image: '{}', command: [sh, -c, 'echo {namespace} > /store/file'], volumeMounts: [{{name: v, mountPath: /store}}]}}], volumes: [{{name: v, persistentVolumeClaim: {{claimName: data}}}}]}}\n---\napiVersion: holdfast.dev/v1alpha1\nkind: Repository\n{}\nspec: {{storageRef: {{name: store, namespace: {own}}}}}\n---\n",
                metadata("writer"),
                workload::tools(),
                metadata("main"),
            );
            let _ = write!(
                backups,
                "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\n{}\nspec: {{repositoryRef: {{name: main}}}}\n---\n",
                metadata("nightly"),
            );
        }
        story.kubectl.apply(&prepared)?;
        // Those that have ended are cleared away while others of a hundred have not begun.
        let mut written = std::collections::BTreeSet::new();
        story.kubectl.until_true("all pods Succeeded", patience, || {
            let done = all("pods")?.into_iter().filter(|pod| phase(pod) == "Succeeded");
            written.extend(done.map(|pod| text(&pod["metadata"]["namespace"]).to_owned()));
            Ok(written.len() == count)
        })?;
        story.kubectl.until_true("all repositories Ready", patience, || {
            Ok(all("repositories")?.iter().filter(|object| phase(object) == "Ready").count() == count)
        })?;

        let (looks, refused) = load(story)?;
        story.kubectl.apply(&backups)?;
        let (mut ended, mut most) = (Vec::new(), 0);
        story.kubectl.until_true("the end of all Backups", patience, || {
            let jobs = at_work(story, &names)?;
            most = most.max(jobs.len());
            if jobs.len() > PLACES {
                return Err(Failure(format!("more than {PLACES} Jobs at work: {jobs:?}")));
            }
            ended = all("backups")?;
            let wrong = |o: &&Value| ENDED.contains(&phase(o)) && phase(o) != "Succeeded";
            if let Some(wrong) = ended.iter().find(wrong) {
                return Err(Failure(format!("{}: {}", wrong["metadata"]["namespace"], wrong["status"])));
            }
            Ok(ended.iter().filter(|o| phase(o) == "Succeeded").count() == count)
        })?;
        let (looks, refused) = {
            let now = load(story)?;
            (now.0 - looks, now.1 - refused)
        };

        // To the second, as both are told.
        let second = |value: &Value| text(value).get(..19).unwrap_or_default().to_owned();
        let mut line: Vec<(String, &str, String)> = ended
            .iter()
            .map(|o| {
                let began = second(&o["status"]["components"][0]["startTime"]);
                (second(&o["metadata"]["creationTimestamp"]), text(&o["metadata"]["namespace"]), began)
            })
            .collect();
        line.sort();
        let overtaken = |n: usize| line[n + 1..].iter().filter(|later| later.2 < line[n].2).count();
        let worst = (0..line.len()).map(overtaken).max().unwrap_or_default();
        if worst > SIDE_BY_SIDE || line.iter().any(|(_, _, began)| began.is_empty()) {
            return Err(Failure(format!("one was overtaken by {worst} of those behind it: {line:?}")));
        }
        if most < 2 {
            return Err(Failure("never were two Jobs at work: the limit of them was not tried".into()));
        }
        let each = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if refused > 0.0 || looks > LOOKS * each {
            return Err(Failure(format!(
                "{looks} looks at {count} Backups, and the API server refused {refused} requests"
            )));
        }
        story.nothing_left()
    });
}

#[test]
fn a_dozen_namespaces_at_the_same_minute() {
    at_the_same_minute("dozen", 12);
}

#[test]
#[ignore = "takes a quarter of an hour on two cores; make scale runs it"]
fn a_hundred_namespaces_at_the_same_minute() {
    at_the_same_minute("same-minute", 100);
}

/// A repository with one place: the second volume of the run that has it, and another run, wait for it and say so, while a
/// Backup into another repository of the same storage comes to its end.
#[test]
fn a_repository_with_one_place_holds_up_no_other_repository() {
    let Some(_world) = together() else { return };
    Story::tell("one-place", Story::begin, |story| {
        let own = story.namespace.clone();
        story.apply(&many_claims(3, ""))?;
        // So much, and so slowly, that the first is still at it when it is stopped.
        let writer = workload::ready_pod(&story.kubectl, &own, "writer")?;
        story.shell(
            &writer,
            "for n in 0 1; do dd if=/dev/urandom of=/store/$n/noise bs=1M count=40 2>/dev/null; done",
        )?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"uploadBytesPerSecond":"1Mi"}}}"#)?;
        let narrow =
            repository_yaml("narrow", "", "").replace("spec: {", "spec: {limits: {concurrentJobs: 1}, ");
        story.apply(&format!("{narrow}---\n{}", repository_yaml("wide", "", "")))?;
        for name in ["narrow", "wide"] {
            story.until("repository", name, |o| (phase(o) == "Ready").then_some(()))?;
        }
        let directory =
            story.until("repository", "narrow", |o| o["status"]["directory"].as_str().map(str::to_owned))?;
        let expected =
            format!("waits for a free place at the repository {directory} ({own}/store) (1 of 1 in use), ");
        let waits = |message: &Value| text(message).contains(&expected);

        story.start_backup("first", "{repositoryRef: {name: narrow}, volumes: {claims: [c000, c001]}}")?;
        let pod = runner(story, "first")?;
        story.bed.signal_container(&pod, "SIGSTOP")?;
        // The Jobs after it are not slow.
        story.patch("backupstorage", "store", r#"{"spec":{"limits":null}}"#)?;
        let told = (|| {
            story.until("backup", "first", |o| {
                let components = o["status"]["components"].as_array()?;
                components.iter().any(|c| c["reason"] == "Queued" && waits(&c["message"])).then_some(())
            })?;
            story.start_backup("second", "{repositoryRef: {name: narrow}, volumes: {claims: [c002]}}")?;
            story.until("backup", "second", |o| {
                (phase(o) == "Queued" && waits(&o["status"]["message"])).then_some(())
            })?;
            story.backup("beside", "{repositoryRef: {name: wide}, volumes: {claims: [c002]}}", "Succeeded")
        })();
        // Whatever came of it.
        story.bed.signal_container(&pod, "SIGCONT")?;
        told?;
        let ended = |name: &str| -> Result<bool> {
            Ok(ENDED.contains(&phase(&story.kubectl.get(&own, &["backup", name])?)))
        };
        story.kubectl.until_true("the end of both", RUN, || {
            let jobs = at_work(story, &[&own])?;
            if jobs.len() > 1 {
                return Err(Failure(format!("more than one Job of the repository at work: {jobs:?}")));
            }
            Ok(ended("first")? && ended("second")?)
        })?;
        for name in ["first", "second"] {
            story.expect_end("backup", name, "Succeeded")?;
        }
        story.nothing_left()
    });
}

/// Jobs that the operator starts on a node at most, as the chart set it.
fn places_of_a_node(story: &Story) -> Result<usize> {
    let operators = story.kubectl.list(OPERATOR_NAMESPACE, &["deployments"])?;
    let args =
        operators.iter().filter_map(|o| o["spec"]["template"]["spec"]["containers"][0]["args"].as_array());
    let mut set = args.flatten().filter_map(|arg| text(arg).strip_prefix("--jobs-per-node="));
    set.next()
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| Failure("the operator is told no number of Jobs a node".into()))
}

/// More claims on a node than it has places: never are more Jobs at work there, and who waits names the node. Alone: a runner that
/// the scheduler finds a node for, as that of a Restore, counts on it only when it has come there.
#[test]
fn a_node_never_has_more_jobs_than_places() {
    let Some(_world) = alone() else { return };
    Story::tell("one-node", Story::begin, |story| {
        let own = story.namespace.clone();
        let places = places_of_a_node(story)?;
        story.apply(&many_claims(3 * places, "n2"))?;
        workload::ready_pod(&story.kubectl, &own, "writer")?;
        let told = format!("waits for a free place on node n2 ({places} of {places} in use), ");
        let on_node = |pod: &&Value| {
            // One that is stopped may be told to be over before it is.
            pod["spec"]["nodeName"] == "n2" && pod["metadata"]["deletionTimestamp"].is_null()
        };
        story.start_backup("run", "{}")?;
        let (mut most, mut says) = (0, false);
        story.kubectl.until_true("the end of the Backup", RUN, || {
            let all = runners_at_work(story)?;
            let jobs: Vec<_> = all.iter().filter(on_node).map(|pod| text(&pod["metadata"]["name"])).collect();
            if jobs.len() > places {
                return Err(Failure(format!("more than {places} Jobs at work on the node: {jobs:?}")));
            }
            most = most.max(jobs.len());
            let run = story.kubectl.get(&own, &["backup", "run"])?;
            says |= run["status"].to_string().contains(&told);
            Ok(ENDED.contains(&phase(&run)))
        })?;
        story.expect_end("backup", "run", "Succeeded")?;
        if most < places || !says {
            return Err(Failure(format!("at most {most} Jobs were at work; the node was named: {says}")));
        }
        story.nothing_left()
    });
}

/// A Backup in line says so, and leaves nothing when it is deleted.
#[test]
fn a_queued_backup_says_what_it_waits_for_and_can_be_deleted() {
    let Some(_world) = together() else { return };
    Story::tell("in-line", Story::begin, |story| {
        let own = story.namespace.clone();
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "1Gi"),
            workload::keeper(&Keeper { node: "n1", ..Keeper::deployment("app", "data") })
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &own, "app")?;
        story.shell(&pod, "echo data > /store/file; head -c 90000000 /dev/urandom > /store/large")?;
        // One place, and a rate at which the first takes a while.
        story.patch(
            "backupstorage",
            "store",
            r#"{"spec":{"limits":{"concurrentJobs":1,"uploadBytesPerSecond":"3M"}}}"#,
        )?;
        let begin = Instant::now();
        story.start_backup("first", "{}")?;
        story.until("backup", "first", |o| (phase(o) == "Running").then_some(()))?;
        story.start_backup("second", "{}")?;
        let expected =
            format!("waits for a free place at BackupStorage {own}/store (1 of 1 in use), 1st in line");
        // Runs of other stories may take the node's places as well: the storage's limit is told before.
        story.until("backup", "second", |o| {
            (phase(o) == "Queued" && text(&o["status"]["message"]) == expected).then_some(())
        })?;
        story.kubectl.run(&["-n", &own, "delete", "backup", "second", "--timeout=60s"])?;
        story.expect_end("backup", "first", "Succeeded")?;
        let took = begin.elapsed();
        // 90 MB of noise at 3 MB a second; the last pack goes as fast as it can.
        if took < Duration::from_secs(12) {
            return Err(Failure(format!("the rate was not kept: {took:?}")));
        }
        if story.kubectl.find(&own, "backup", "second")?.is_some() {
            return Err(Failure("the deleted Backup is still there".into()));
        }
        story.nothing_left()
    });
}

/// A quota that leaves no room for the Secrets of runners is told; with room for one at a time the run comes to its end,
/// since the Secret of a Job that is done goes at once.
#[test]
fn a_quota_on_secrets_is_told_and_room_for_one_is_enough() {
    let Some(_world) = together() else { return };
    Story::tell("few-secrets", Story::begin, |story| {
        let own = story.namespace.clone();
        story.apply(&many_claims(2, ""))?;
        workload::ready_pod(&story.kubectl, &own, "writer")?;
        // With it comes the repository, which has a Secret that stays.
        story.backup("first", "{}", "Succeeded")?;
        let staying = story.kubectl.list(&own, &["secrets", "-l", "!holdfast.dev/run-uid"])?.len();
        story.kubectl.run(&[
            "-n",
            &own,
            "create",
            "quota",
            "few",
            &format!("--hard=count/secrets={staying}"),
        ])?;
        story.start_backup("second", "{}")?;
        story.until("backup", "second", |o| {
            let components = o["status"]["components"].as_array()?;
            let waits = components.iter().any(|c| {
                c["phase"] == "Pending" && c["reason"] == "Failed" && text(&c["message"]).contains("quota")
            });
            (waits && text(&o["status"]["message"]).contains("quota")).then_some(())
        })?;
        story.patch(
            "resourcequota",
            "few",
            &format!(r#"{{"spec":{{"hard":{{"count/secrets":"{}"}}}}}}"#, staying + 1),
        )?;
        story.expect_end("backup", "second", "Succeeded")?;
        story.nothing_left()
    });
}

/// What a PodConfig says stands on the pods of runners, of a Backup and of a Restore; without it, the run waits and goes on by
/// itself.
#[test]
fn a_pod_config_shapes_the_runner() {
    let Some(_world) = together() else { return };
    Story::tell("shaped", Story::begin, |story| {
        let own = story.namespace.clone();
        let class = format!("{own}-low");
        story.apply(&format!(
            "{}{}",
            workload::claim("data", "", "1Gi"),
            workload::keeper(&Keeper { node: "n2", ..Keeper::deployment("app", "data") })
        ))?;
        let pod = workload::ready_pod(&story.kubectl, &own, "app")?;
        story.shell(&pod, "head -c 30000000 /dev/urandom > /store/file")?;
        story.patch("backupstorage", "store", r#"{"spec":{"limits":{"uploadBytesPerSecond":"2M"}}}"#)?;
        story.kubectl.run(&["create", "priorityclass", &class, "--value=-10"])?;
        let result = shaped(story, &own, &class);
        story.kubectl.run(&["delete", "priorityclass", &class])?;
        result?;
        story.nothing_left()
    });
}

fn shaped(story: &Story, own: &str, class: &str) -> Result<()> {
    story.start_backup("run", "{podConfigRef: {name: big}}")?;
    waits_for_pod_config(story, "backup", "run", "big")?;
    let refused = story.apply(
        "apiVersion: holdfast.dev/v1alpha1\nkind: PodConfig\nmetadata: {name: bad}\nspec: {labels: {holdfast.dev/task: x}}\n",
    );
    if refused.is_ok() {
        return Err(Failure("a PodConfig with a label of Holdfast was accepted".into()));
    }
    let pod_config = |name: &str| {
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: PodConfig\nmetadata: {{name: {name}}}\nspec: {{resources: {{requests: {{cpu: 60m}}, limits: {{memory: 3Gi}}}}, priorityClassName: {class}, labels: {{team: shop}}, nodeSelector: {{kubernetes.io/os: linux}}, tolerations: [{{key: backup, operator: Exists}}]}}\n"
        )
    };
    story.apply(&pod_config("big"))?;
    has_shape(story, "run", "Backup", class)?;
    let saved = story.expect_end("backup", "run", "Succeeded")?;

    // The pod that saves what is overwritten is a runner of the Restore as well.
    let from = format!("from: {{snapshotRef: {{name: {}}}}}", Story::snapshot_of(&saved)?);
    story.start_restore("back", &format!("{{{from}, podConfigRef: {{name: later}}}}"))?;
    waits_for_pod_config(story, "restore", "back", "later")?;
    let held = story.kubectl.get(own, &["deployment", "app"])?;
    if held["spec"]["replicas"] != 1 {
        return Err(Failure(format!(
            "the application is held while the run waits: {}",
            held["spec"]["replicas"]
        )));
    }
    story.apply(&pod_config("later"))?;
    has_shape(story, "back", "Backup", class)?;
    has_shape(story, "back", "Restore", class)?;
    story.expect_end("restore", "back", "Succeeded")?;

    // A class that is not there fails the run with what Kubernetes says.
    story.apply(
        "apiVersion: holdfast.dev/v1alpha1\nkind: PodConfig\nmetadata: {name: wrong}\nspec: {priorityClassName: no-such-class}\n",
    )?;
    let failed = story.backup("wrong", "{podConfigRef: {name: wrong}}", "Failed")?;
    if !failed["status"].to_string().contains("PriorityClass") {
        return Err(Failure(format!("the denial is not named: {}", failed["status"])));
    }
    Ok(())
}

/// Waits until a run says that it waits for this PodConfig, which is not there.
fn waits_for_pod_config(story: &Story, kind: &str, run: &str, name: &str) -> Result<()> {
    let message = story.until(kind, run, |o| {
        let message = text(&o["status"]["message"]);
        (phase(o) == "Pending" && message.contains("PodConfig")).then(|| message.to_owned())
    })?;
    if message.contains(&format!("PodConfig {}/{name} does not exist", story.namespace)) {
        return Ok(());
    }
    Err(Failure(format!("it does not say what is missing: {message}")))
}

/// Waits for a pod of a run's Job that does this task, which must be as the PodConfig says, and on the node of the volume. A
/// Restore has scaled down the pod that is there, so the scheduler finds the node by the volume.
fn has_shape(story: &Story, run: &str, task: &str, class: &str) -> Result<()> {
    let selector = format!("holdfast.dev/run-name={run},holdfast.dev/task={task}");
    let mut seen = None;
    story.kubectl.until_true("a runner's pod", RUN, || {
        let mut pods = story.kubectl.list(&story.namespace, &["pods", "-l", &selector])?.into_iter();
        seen = pods.find(|pod| pod["spec"]["nodeName"].is_string());
        Ok(seen.is_some())
    })?;
    let pod = seen.unwrap_or_default();
    let spec = &pod["spec"];
    let resources = &spec["containers"][0]["resources"];
    let tolerates =
        spec["tolerations"].as_array().is_some_and(|all| all.iter().any(|t| t["key"] == "backup"));
    for (what, holds) in [
        ("priority", spec["priorityClassName"] == class && spec["priority"] == -10),
        ("label", pod["metadata"]["labels"]["team"] == "shop"),
        ("node selector", spec["nodeSelector"]["kubernetes.io/os"] == "linux"),
        ("tolerations", tolerates),
        ("resources", resources["requests"]["cpu"] == "60m" && resources["limits"]["memory"] == "3Gi"),
        ("the operator's own request", resources["requests"]["memory"] == "128Mi"),
        ("the node of the volume", spec["nodeName"] == "n2"),
    ] {
        if !holds {
            return Err(Failure(format!("{what} is not as it should be: {pod}")));
        }
    }
    Ok(())
}
