//! The demo: an application's volumes are saved on a real cluster, destroyed, put back, and compared to the last byte.

#![expect(
    clippy::indexing_slicing,
    reason = "looking up a key in a JSON value gives null when it is absent; it never panics"
)]

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use holdfast_e2e::current::{Current, Place};
use holdfast_e2e::install::Bed;
use holdfast_e2e::kubectl::{Failure, Result, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};
use holdfast_e2e::{install, tree};
use serde_json::Value;

/// Small files in the file application, beside its odd ones.
const FILES: u32 = 20_000;

fn main() -> ExitCode {
    // `hack/on-current` cleans up with the same hands that looked.
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("look-at-bucket") => return report(look_at_bucket()),
        Some("empty-bucket") => return report(empty_bucket()),
        Some(other) => return report(Err(Failure(format!("there is no argument {other:?}")))),
    }
    let mut teller = Teller::new();
    match tell(&mut teller) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nThe demo failed: {e}");
            ExitCode::FAILURE
        }
    }
}

fn report(done: Result<String>) -> ExitCode {
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the bucket answers, and the prefix of this run is not in use.
fn look_at_bucket() -> Result<String> {
    let place = Place::from_env()?;
    let found = place.objects()?.len();
    if found > 0 {
        return Err(Failure(format!("{found} objects are below {}/{} already", place.bucket, place.prefix)));
    }
    Ok(match place.versioned() {
        Some(true) => "it is versioned: old versions of what is removed stay, as its rules say".into(),
        Some(false) => "it answers, and nothing is there".into(),
        None => "it answers, and nothing is there; it does not say whether it keeps old versions".into(),
    })
}

/// Removes what is below the prefix of this run.
fn empty_bucket() -> Result<String> {
    let place = Place::from_env()?;
    let removed = place.remove()?;
    Ok(format!("{removed} objects removed, none is left below {}/{}", place.bucket, place.prefix))
}

/// Prints the story as it goes.
struct Teller {
    begun: Instant,
    colour: bool,
    chapter: u32,
}

impl Teller {
    fn new() -> Self {
        Self { begun: Instant::now(), colour: std::io::stdout().is_terminal(), chapter: 0 }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let at = self.begun.elapsed().as_secs();
        println!("\n{}", self.paint("1;36", &format!("{}. {title}  [{at} s]", self.chapter)));
    }

    fn good(&self, text: &str) {
        println!("   {} {text}", self.paint("32", "ok"));
    }

    /// A command's output as a user would see it.
    fn show(&self, story: &Story, args: &[&str]) -> Result<()> {
        say(&self.paint("2", &format!("$ kubectl {}", args.join(" "))));
        let mut all = vec!["-n", story.namespace.as_str()];
        all.extend(args);
        say(&story.kubectl.run(&all)?);
        Ok(())
    }
}

/// Prints text, indented.
fn say(text: &str) {
    for line in text.trim_end().lines() {
        println!("   {line}");
    }
}

/// Files and database as a user would deploy them.
fn applications(bed: &Bed) -> String {
    let keeper = Keeper::deployment("web", "files");
    let web = match bed.current() {
        None => Keeper { node: "n1", replicas: WEB_REPLICAS, ..keeper },
        // Nobody knows on which node two pods could share a volume there.
        Some(_) => keeper,
    };
    let (files, data) = (workload::claim("files", "", "4Gi"), workload::claim("database", "", "2Gi"));
    format!("{files}{}{data}{}", workload::keeper(&web), workload::postgres("db", "database"))
}

/// Replicas of the web server, where two pods can share a volume.
const WEB_REPLICAS: u32 = 2;

/// What the database is asked before and after.
const QUESTION: &str = "select count(*) || ' orders, sum ' || sum(amount) || ', digest ' || md5(string_agg(item || at::text, ',' order by id)) from orders";

fn ready(story: &Story) -> Result<String> {
    workload::ready_pod(&story.kubectl, &story.namespace, "db")?;
    workload::ready_pod(&story.kubectl, &story.namespace, "web")
}

fn seconds(object: &Value) -> String {
    let time = |field: &str| object["status"][field].as_str().unwrap_or_default().to_owned();
    format!("{} → {}", time("startTime"), time("completionTime"))
}

#[expect(clippy::too_many_lines, reason = "a story is told in one go")]
fn tell(t: &mut Teller) -> Result<()> {
    println!("{}", t.paint("1", "Holdfast: back up a namespace's volumes, lose them, get them back."));
    if !Current::wanted() {
        t.chapter("A real Kubernetes of two nodes, a real S3 server with TLS, Holdfast from its Helm chart");
    }
    let bed = install::bed()?;
    if let Some(current) = bed.current() {
        t.chapter(&format!(
            "The cluster of context {}, a prefix of bucket {}",
            current.context, current.place.bucket
        ));
    }
    let story = Story::bare("shop")?;
    story.allow_root()?;
    t.show(&story, &["get", "nodes"])?;
    t.show(&story, &["-n", bed.operator_namespace(), "get", "pods"])?;

    t.chapter("An application: PostgreSQL, and a web server with 20,000 files of all sorts");
    story.apply(&applications(bed))?;
    let web = ready(&story)?;
    if !story.fill(&web, FILES)? {
        say(&format!(
            "left out: extended attributes, for {} has no setfattr and getfattr",
            workload::tools()
        ));
    }
    workload::sql(
        &story.kubectl,
        &story.namespace,
        "db-0",
        "create table orders as select i as id, md5(i::text) as item, i * 7 % 1000 as amount, now() - i * interval '1 minute' as at from generate_series(1, 200000) i",
    )?;
    let files = tree::describe(&story.kubectl, &story.namespace, &web, "/store")?;
    let rows = workload::sql(&story.kubectl, &story.namespace, "db-0", QUESTION)?;
    say(&format!(
        "files: {} lines describe content, owners, modes, times, links and attributes",
        files.lines().count()
    ));
    say(&format!("database: {rows}"));

    t.chapter("A place for backups: one Secret, one BackupStorage");
    story.apply(&story.storage_yaml("store"))?;
    story.storage_ready("store")?;
    t.show(&story, &["get", "backupstorage"])?;

    t.chapter("Back up");
    say(
        "The database is scaled to 0 for the copy, by this demo: consistent dumps of running databases come later.",
    );
    story.kubectl.run(&["-n", &story.namespace, "scale", "statefulset/db", "--replicas=0"])?;
    workload::gone(&story.kubectl, &story.namespace, "db")?;
    story.start_backup("before-the-disaster", "{}")?;
    follow(&story, "backup", "before-the-disaster")?;
    let backup = story.expect_end("backup", "before-the-disaster", "Succeeded")?;
    let snapshot = Story::snapshot_of(&backup)?;
    t.show(&story, &["get", "backup,snapshot.holdfast.dev"])?;
    t.good(&format!("each claim was saved beside its pod; {}", seconds(&backup)));
    story.nothing_left()?;
    t.good("no lock, Secret or pod is left");

    t.chapter("Disaster: applications, claims and all data are deleted");
    story.kubectl.run(&[
        "-n",
        &story.namespace,
        "delete",
        "deployment/web",
        "statefulset/db",
        "pvc/files",
        "pvc/database",
        "--wait=true",
    ])?;
    t.show(&story, &["get", "pods,pvc"])?;

    t.chapter("The applications are deployed again: empty");
    story.apply(&applications(bed))?;
    let web = ready(&story)?;
    let empty = story.shell(&web, "ls -A /store | wc -l")?;
    say(&format!("files on the new volume: {}", empty.trim()));
    if empty.trim() != "0" {
        return Err(Failure("the new volume is not empty; the demo would prove nothing".into()));
    }

    t.chapter("Restore: seen as a plan first, then done");
    let volumes = "[{component: volume/files, to: {existingClaim: {name: files}}, deleteExtra: true}, {component: volume/database, to: {existingClaim: {name: database}}, deleteExtra: true}]";
    let spec = |dry: bool| {
        format!("{{dryRun: {dry}, from: {{snapshotRef: {{name: {snapshot}}}}}, volumes: {volumes}}}")
    };
    let plan = story.restore("look-first", &spec(true), "Planned")?;
    for volume in plan["status"]["plan"]["volumes"].as_array().into_iter().flatten() {
        say(&format!(
            "plan for {}: create {}, change {}, delete {}, write {} bytes; will be stopped meanwhile: {}",
            volume["claim"],
            volume["create"],
            volume["change"],
            volume["delete"],
            volume["bytesToWrite"],
            volume["consumers"]
        ));
    }
    story.start_restore("get-it-back", &spec(false))?;
    follow(&story, "restore", "get-it-back")?;
    let restore = story.expect_end("restore", "get-it-back", "Succeeded")?;
    t.show(&story, &["get", "restore"])?;
    t.good(&format!("restored and read back; {}", seconds(&restore)));

    t.chapter("Nothing is missing");
    let web = ready(&story)?;
    let replicas = if bed.current().is_some() { 1 } else { WEB_REPLICAS };
    story.until("deployment", "web", |o| (o["status"]["readyReplicas"] == replicas).then_some(()))?;
    t.good(&format!(
        "the web server runs with the replicas that it had ({replicas}), the database with its 1"
    ));
    tree::same(&files, &tree::describe(&story.kubectl, &story.namespace, &web, "/store")?)?;
    t.good("every file is as it was: content, owner, mode, time to the nanosecond, links, attributes it had, holes");
    let again = workload::sql(&story.kubectl, &story.namespace, "db-0", QUESTION)?;
    if again != rows {
        return Err(Failure(format!("the database answers {again}, before it was {rows}")));
    }
    t.good(&format!("the database answers as before: {}", again.trim()));

    let restic_ran = stock_restic(t, &story)?;
    story.nothing_left()?;

    summary(t, &story, &backup, &restore, restic_ran)?;
    if bed.current().is_some() {
        // `hack/on-current` removes it, with all the rest.
    } else if std::env::var_os("HOLDFAST_DEMO_KEEP").is_none() {
        story.kubectl.run(&["delete", "namespace", &story.namespace, "--wait=false"])?;
    } else {
        say(&format!("kept for you: namespace {}; `{}`", story.namespace, bed.hint()));
    }
    Ok(())
}

/// Stock restic on the bucket: of three versions on the test bed, the one that is installed elsewhere. Whether it ran.
fn stock_restic(t: &mut Teller, story: &Story) -> Result<bool> {
    t.chapter("Stock restic reads the bucket, without Holdfast");
    let versions = story.restics();
    if versions.is_empty() {
        say("left out: there is no restic in PATH on this machine");
        return Ok(false);
    }
    for version in versions {
        let said = story.restic(version, &["check", "--read-data"])?;
        t.good(&format!("restic {version} check --read-data: {}", said.lines().last().unwrap_or_default()));
    }
    Ok(true)
}

/// Shows the phase and progress of a run until it ends.
fn follow(story: &Story, kind: &str, name: &str) -> Result<()> {
    let begun = Instant::now();
    let mut last = String::new();
    while begun.elapsed() < RUN {
        let object = story.kubectl.get(&story.namespace, &[kind, name])?;
        let mut line = phase(&object).to_owned();
        for component in object["status"]["components"].as_array().into_iter().flatten() {
            let done = component["progress"]["percent"].as_u64().map_or(String::new(), |p| format!(" {p} %"));
            let text = |field: &str| component[field].as_str().unwrap_or_default();
            for part in ["  ", text("name"), ": ", text("phase"), &done] {
                line.push_str(part);
            }
        }
        if line != last {
            say(&format!("{:>5.1} s  {line}", begun.elapsed().as_secs_f64()));
            last = line;
        }
        if matches!(phase(&object), "Succeeded" | "PartiallyFailed" | "Failed" | "Skipped") {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

fn summary(t: &Teller, story: &Story, backup: &Value, restore: &Value, restic_ran: bool) -> Result<()> {
    let sum = |object: &Value, field: &str| -> u64 {
        object["status"]["components"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c[field].as_u64())
            .sum()
    };
    let mib = |bytes: u64| format!("{}.{} MiB", bytes / (1 << 20), bytes % (1 << 20) * 10 / (1 << 20));
    let stored: u64 = match story.bed.current() {
        None => story.repositories_on_disk().iter().map(|dir| directory_size(dir)).sum(),
        Some(current) => current.place.objects()?.iter().map(|object| object.size).sum(),
    };
    println!(
        "\n{}",
        t.paint("1;32", "   ── What you have seen ──────────────────────────────────────────────")
    );
    say(&format!("saved      {} files, {}", sum(backup, "filesNew"), mib(sum(backup, "bytesProcessed"))));
    say(&format!("stored     {} in the bucket (compressed, deduplicated, encrypted)", mib(stored)));
    say("lost       everything");
    say(&format!(
        "restored   {} files, {}, read back and compared",
        sum(restore, "filesRestored"),
        mib(sum(restore, "bytesWritten"))
    ));
    let restic = if restic_ran { ", stock restic" } else { "" };
    // What an image of somebody's could not make was said when it was left out.
    let attributes = if story.bed.current().is_none() { ", attributes" } else { "" };
    say(&format!("proved     checksums, owners, modes, times, links{attributes}, database rows{restic}"));
    say(&format!("in all     {} s", t.begun.elapsed().as_secs()));
    Ok(())
}

/// Bytes of all files below a directory.
fn directory_size(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => directory_size(&entry.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
