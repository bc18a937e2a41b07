//! Measures, on the test bed, how long a user waits: `Backup` created → `Succeeded`, for a 10 MB claim on a Ready
//! repository. Peers on the same bed are in the research that the README's figures name; no claim is made here.

// Looking up a key in a JSON value gives null when it is absent; it never panics.
#![allow(clippy::indexing_slicing)]

use std::process::ExitCode;
use std::time::Instant;

use holdfast_e2e::kubectl::{Result, phase};
use holdfast_e2e::story::{RUN, Story};
use holdfast_e2e::workload::{self, Keeper};

/// Runs that are counted, after one that is not.
const RUNS: usize = 7;

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the measurement failed: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let story = Story::begin("latency")?;
    story.apply(&format!(
        "{}{}",
        workload::claim("data", "", "1Gi"),
        workload::keeper(&Keeper::deployment("app", "data"))
    ))?;
    let pod = workload::ready_pod(&story.kubectl, &story.namespace, "app")?;
    story.shell(
        &pod,
        "cd /store; for i in $(seq 1 100); do dd if=/dev/urandom of=f$i bs=1000 count=100 2>/dev/null; done",
    )?;
    // Makes the repository; not counted.
    story.backup("warm-up", "{}", "Succeeded")?;

    let mut unchanged = Vec::new();
    let mut changed = Vec::new();
    for run in 0..RUNS {
        unchanged.push(one(&story, &format!("unchanged-{run}"))?);
        story.shell(
            &pod,
            "cd /store; for i in $(seq 1 100); do dd if=/dev/urandom of=f$i bs=1000 count=100 2>/dev/null; done",
        )?;
        changed.push(one(&story, &format!("changed-{run}"))?);
    }
    println!("Backup created -> Succeeded, claim of 10 MB in 100 files, Ready repository, seconds");
    println!("| | runs | min | median | max |\n|---|---|---|---|---|");
    for (name, mut times) in [("all of it new", changed), ("unchanged", unchanged)] {
        times.sort_by(f64::total_cmp);
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        println!(
            "| {name} | {} | {:.2} | {:.2} | {:.2} |",
            times.len(),
            at(0),
            at(times.len() / 2),
            at(times.len() - 1)
        );
    }
    story.kubectl.run(&["delete", "namespace", &story.namespace, "--wait=false"])?;
    Ok(())
}

/// Seconds from before the create call until the phase is seen as Succeeded by a watching client.
fn one(story: &Story, name: &str) -> Result<f64> {
    let begun = Instant::now();
    story.start_backup(name, "{}")?;
    let limit = format!("--timeout={}s", RUN.as_secs());
    let waited = story.kubectl.run(&[
        "-n",
        &story.namespace,
        "wait",
        "backup",
        name,
        "--for=jsonpath={.status.phase}=Succeeded",
        &limit,
    ]);
    let seconds = begun.elapsed().as_secs_f64();
    if waited.is_err() {
        let object = story.kubectl.get(&story.namespace, &["backup", name])?;
        eprintln!("{name} is {}", phase(&object));
    }
    waited.map(|_| seconds)
}
