//! The main job's times on the test bed, beside those of K8up and Velero on the same bed with the same kind of data.
//! Prints a table; keeps nothing.
//!
//! Time is a client's: from before `kubectl apply` until `kubectl wait` returns.

#![expect(
    clippy::indexing_slicing,
    reason = "looking up a key in a JSON value gives null when it is absent; it never panics"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use holdfast_e2e::corpus::{self, Holds};
use holdfast_e2e::cost::{self, Cost, Sampler};
use holdfast_e2e::kubectl::{Failure, Result, phase, run};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};

/// Runs of the small claim that are counted.
const RUNS: usize = 7;
/// Runs of the big unchanged claim that are counted.
const BIG_RUNS: usize = 3;
/// How long the operator is left alone before it is called idle.
const REST: Duration = Duration::from_secs(15);

/// What the peers needed on this bed (two nodes, Kubernetes 1.36.3, versitygw 1.8.0, two cores shared by everything),
/// 31,685 files of 2,450,802,867 bytes and 100 files of 10 MB: K8up at commit 80a2ae8c with restic 0.19.1, Velero at
/// commit d2241adb with kopia. Best of the few runs that were made.
struct Row {
    what: &'static str,
    k8up: &'static str,
    velero: &'static str,
    /// Stock restic, measured beside ours.
    restic: String,
    ours: String,
    aim: &'static str,
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the measurement failed: {e}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    eprintln!("{text}");
}

fn measure() -> Result<()> {
    let small = small()?;
    let big = big()?;
    say("the operator rests");
    std::thread::sleep(REST);
    let operator = cost::operator_resident().ok_or_else(|| Failure("there is no operator process".into()))?;
    print(&small, &big, operator);
    Ok(())
}

/// Wall time and cost of one run.
#[derive(Debug, Clone, Copy)]
struct Run {
    seconds: f64,
    cost: Cost,
}

struct Small {
    first: Run,
    unchanged: Vec<Run>,
    changed: Vec<Run>,
}

struct Big {
    holds: Holds,
    first: Run,
    unchanged: Vec<Run>,
    restore: Run,
    repository: u64,
    /// None where it failed.
    restic: Option<Restic>,
}

/// What stock restic needs for the same files on the same machine, to the same server, without a cluster around it: what
/// makes figures of another machine comparable. K8up's pods run the same program.
struct Restic {
    first: Run,
    unchanged: Run,
    restore: Run,
    repository: u64,
}

/// A claim with a pod that has it mounted, and where its files are on this machine.
fn with_claim(story: &Story, claim: &str) -> Result<PathBuf> {
    story.apply(&format!(
        "{}{}",
        workload::claim(claim, "", "4Gi"),
        workload::keeper(&Keeper::deployment(claim, claim))
    ))?;
    mounted(story, claim)
}

/// Where the files of a claim are, seen from this machine through the first process of its pod's node.
fn mounted(story: &Story, claim: &str) -> Result<PathBuf> {
    let name = workload::ready_pod(&story.kubectl, &story.namespace, claim)?;
    let pod = story.kubectl.get(&story.namespace, &["pod", &name])?;
    let bound = story.kubectl.get(&story.namespace, &["pvc", claim])?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (node, uid) = (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["uid"]));
    let volume = text(&bound["spec"]["volumeName"]);
    let path = story
        .bed
        .node_root(&node)?
        .join("var/lib/kubelet/pods")
        .join(uid)
        .join("volumes/kubernetes.io~csi")
        .join(volume)
        .join("mount");
    if path.is_dir() { Ok(path) } else { Err(Failure(format!("{} is no directory", path.display()))) }
}

fn small() -> Result<Small> {
    let story = Story::begin("bench-small")?;
    let files = with_claim(&story, "data")?;
    corpus::small(&files, 0)?;
    say("small: 100 files, 10 MB");
    let first = timed(&story, "backup", "first", "{}")?;
    let (mut unchanged, mut changed) = (Vec::new(), Vec::new());
    for number in 1..=RUNS {
        unchanged.push(timed(&story, "backup", &format!("unchanged-{number}"), "{}")?);
        corpus::small(&files, number as u64)?;
        changed.push(timed(&story, "backup", &format!("changed-{number}"), "{}")?);
    }
    end(&story)?;
    Ok(Small { first, unchanged, changed })
}

fn big() -> Result<Big> {
    let story = Story::begin("bench-big")?;
    let files = with_claim(&story, "data")?;
    say("big: copying the files into the claim");
    let holds = corpus::big(&files, &story.bed.programs()?)?;
    run(&mut Command::new("sync"), b"")?;
    say(&format!("big: {} files, {} bytes", holds.files, holds.bytes));
    let first = timed(&story, "backup", "first", "{}")?;
    let unchanged = (1..=BIG_RUNS)
        .map(|number| timed(&story, "backup", &format!("unchanged-{number}"), "{}"))
        .collect::<Result<_>>()?;
    let repository = story.repositories_on_disk().iter().map(|dir| size(dir)).sum();
    let to = "{from: {latestOf: {claim: data}}, volumes: [{component: volume/data, to: {newClaim: {name: copy}}}]}";
    let restore = timed(&story, "restore", "back", to)?;
    story.apply(&workload::keeper(&Keeper::deployment("copy", "copy")))?;
    let restored = mounted(&story, "copy")?;
    say("big: comparing");
    run(Command::new("diff").arg("-rq").arg(&files).arg(&restored), b"")?;
    let restic = restic(&story, &files).inspect_err(|e| say(&format!("restic alone: {e}"))).ok();
    end(&story)?;
    Ok(Big { holds, first, unchanged, restore, repository, restic })
}

fn restic(story: &Story, files: &Path) -> Result<Restic> {
    const DIRECTORY: &str = "restic-alone";
    // Its cache is its own, as that of K8up's pods, and stays for the next run.
    let place = std::env::temp_dir().join("holdfast-restic-alone");
    let _ = std::fs::remove_dir_all(&place);
    let (cache, target) = (place.join("cache"), place.join("restored"));
    let (mounts, directory) = in_its_node(files)?;
    let timed = |what: &str, args: &[&str]| {
        let restic = story.restic_at("0.19.1", DIRECTORY)?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={}", mounts.display()))
            .args(["--", "env", "--chdir"])
            .arg(&directory)
            .arg(restic.get_program())
            .args(restic.get_args())
            .envs(restic.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("RESTIC_PASSWORD", "restic alone")
            .arg("--cache-dir")
            .arg(&cache)
            .args(args);
        let (wall, cost) = cost::of_command(&mut command)?;
        let run = Run { seconds: wall.as_secs_f64(), cost };
        say(&format!("  restic alone, {what}: {}, {} MB resident", with_cpu(&run), megabytes(cost.resident)));
        Ok(run)
    };
    timed("init", &["init"])?;
    let first = timed("first", &["backup", "."])?;
    let unchanged = timed("unchanged", &["backup", "."])?;
    let repository = size(&story.bed.bucket_directory(&story.bucket)?.join(DIRECTORY));
    let restored = timed("restore", &["restore", "latest", "--target", &target.to_string_lossy()]);
    // Whatever it came to: it may fill the disk.
    let _ = std::fs::remove_dir_all(&place);
    Ok(Restic { first, unchanged, restore: restored?, repository })
}

/// Where a directory that is seen through a node's first process is within that node, and the file of its mount namespace:
/// restic asks for the name of the directory that it works in, and outside of that namespace it has none.
fn in_its_node(files: &Path) -> Result<(PathBuf, PathBuf)> {
    let split = || {
        let mut names = files.strip_prefix("/proc").ok()?.components();
        let process = Path::new("/proc").join(names.next()?);
        let inside = names.as_path().strip_prefix("root").ok()?;
        Some((process.join("ns/mnt"), Path::new("/").join(inside)))
    };
    split().ok_or_else(|| Failure(format!("{} is not seen through a process", files.display())))
}

fn end(story: &Story) -> Result<()> {
    story.nothing_left()?;
    story.kubectl.run(&["delete", "namespace", &story.namespace, "--wait=false"]).map(drop)
}

/// One run, from before it is created until a watching client sees that it succeeded.
fn timed(story: &Story, kind: &str, name: &str, spec: &str) -> Result<Run> {
    // What an earlier run still has to clear away is not this run's.
    story.nothing_left()?;
    let sampler = Sampler::start();
    let begun = Instant::now();
    match kind {
        "restore" => story.start_restore(name, spec)?,
        _ => story.start_backup(name, spec)?,
    }
    let limit = format!("--timeout={}s", RUN.as_secs());
    let until = "--for=jsonpath={.status.phase}=Succeeded";
    let waited = story.kubectl.run(&["-n", &story.namespace, "wait", kind, name, until, &limit]);
    let seconds = begun.elapsed().as_secs_f64();
    let cost = sampler.stop();
    if let Err(e) = waited {
        let object = story.kubectl.get(&story.namespace, &[kind, name])?;
        return Err(Failure(format!("{kind} {name} is {}: {}; {e}", phase(&object), object["status"])));
    }
    say(&format!(
        "  {kind} {name}: {seconds:.2} s, {:.2} CPU-s, {} MB resident, {} MB anonymous, {} pods",
        cost.cpu.as_secs_f64(),
        megabytes(cost.resident),
        megabytes(cost.anonymous),
        cost.pods
    ));
    Ok(Run { seconds, cost })
}

/// The run in the middle.
fn median(runs: &[Run]) -> Option<Run> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    sorted.get(sorted.len() / 2).copied()
}

fn spread(runs: &[Run]) -> String {
    let all = runs.iter().map(|run| run.seconds);
    let (least, most) = all.fold((f64::MAX, 0.0_f64), |(a, b), s| (a.min(s), b.max(s)));
    let middle = median(runs).map_or(0.0, |run| run.seconds);
    format!("{middle:.2} s, median of {} ({least:.2} to {most:.2})", runs.len())
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

fn with_cpu(run: &Run) -> String {
    format!("{:.1} s ({:.1} CPU-s)", run.seconds, run.cost.cpu.as_secs_f64())
}

fn gigabytes(bytes: u64) -> String {
    format!("{}.{:02} GB", bytes / 1_000_000_000, bytes / 10_000_000 % 100)
}

fn memory(cost: &Cost) -> String {
    format!("{} MB (anonymous {})", megabytes(cost.resident), megabytes(cost.anonymous))
}

fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn print(small: &Small, big: &Big, operator: u64) {
    let alone = |what, k8up, velero, restic, ours, aim| Row { what, k8up, velero, restic, ours, aim };
    let row = |what, k8up, velero, ours, aim| alone(what, k8up, velero, String::new(), ours, aim);
    let restic = |cell: fn(&Restic) -> String| big.restic.as_ref().map_or(String::new(), cell);
    let rows = [
        row("small, first", "10.2 s", "7.9 s", format!("{:.2} s", small.first.seconds), ""),
        row("small, unchanged", "10.20 s", "5.84 s", spread(&small.unchanged), "< 3 s"),
        row("small, all of it new", "", "", spread(&small.changed), ""),
        alone(
            "big, first",
            "50.3 s (65 CPU-s)",
            "42.1 s (21 CPU-s, not compressed)",
            restic(|r| with_cpu(&r.first)),
            with_cpu(&big.first),
            "≤ 20 s, ≤ 20 CPU-s",
        ),
        alone(
            "big, unchanged",
            "10.2 s",
            "5.7 s",
            restic(|r| with_cpu(&r.unchanged)),
            spread(&big.unchanged),
            "≤ 4 s",
        ),
        alone(
            "big, restore to a new claim",
            "25.3 s",
            "80.4 s (53 CPU-s)",
            restic(|r| with_cpu(&r.restore)),
            with_cpu(&big.restore),
            "≤ 15 s",
        ),
        alone(
            "big, repository",
            "1.12 GB",
            "2.39 GB",
            restic(|r| gigabytes(r.repository)),
            gigabytes(big.repository),
            "",
        ),
        alone(
            "runner resident, backup",
            "241 MB",
            "228 MB",
            restic(|r| format!("{} MB", megabytes(r.first.cost.resident))),
            memory(&big.first.cost),
            "≤ 120 MB",
        ),
        alone(
            "runner resident, restore",
            "352 MB",
            "273 MB",
            restic(|r| format!("{} MB", megabytes(r.restore.cost.resident))),
            memory(&big.restore.cost),
            "≤ 150 MB",
        ),
        row(
            "operator resident, idle",
            "45 MB",
            "266 MB, and 77 MB a node",
            format!("{} MB", megabytes(operator)),
            "≤ 25 MB",
        ),
    ];
    println!("small: 100 files, 10,000,000 bytes; big: {} files, {} bytes", big.holds.files, big.holds.bytes);
    println!("(the peers: {} files, {} bytes)\n", corpus::FILES, corpus::BYTES);
    println!("| | K8up | Velero | restic alone, here | Holdfast, here | aim |\n|---|---|---|---|---|---|");
    for Row { what, k8up, velero, restic, ours, aim } in rows {
        println!("| {what} | {k8up} | {velero} | {restic} | {ours} | {aim} |");
    }
}
