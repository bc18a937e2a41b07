//! What runs of Holdfast cost: processor time and memory of its runner pods, seen from the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::kubectl::{Failure, Result};

/// How often pods are looked at. The processor time of the last moment before a pod's cgroup goes may be missed.
const LOOK: Duration = Duration::from_millis(50);

/// What all runner pods of some time took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Pods.
    pub pods: usize,
    /// Processor time of all of them, user and system, of the pods' cgroups.
    pub cpu: Duration,
    /// The most that one runner had resident, in bytes: the kernel's high-water mark (`VmHWM`), its program's pages
    /// included.
    pub resident: u64,
    /// The most anonymous memory that one pod's cgroup was seen with, in bytes; page cache is not in it.
    pub anonymous: u64,
}

/// Watches until it is stopped.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Cost>,
}

impl Sampler {
    /// Begins to watch for runners.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut watch = Watch::default();
            while !stopped.load(Ordering::Relaxed) {
                watch.look();
                thread::sleep(LOOK);
            }
            watch.look();
            watch.cost()
        });
        Self { stop, thread }
    }

    /// What was seen.
    pub fn stop(self) -> Cost {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Runs a program that is no pod's, and gives its wall time and what it took.
pub fn of_command(command: &mut Command) -> Result<(Duration, Cost)> {
    let program = command.get_program().to_owned();
    let failed = |e: &dyn std::fmt::Display| Failure(format!("{}: {e}", program.display()));
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|e| failed(&e))?;
    let (mut resident, mut cpu) = (0, Duration::ZERO);
    // It is there, with its times, until it was waited for.
    while let Some((state, time)) = state_and_time(child.id()) {
        resident = resident.max(status(child.id(), "VmHWM:").unwrap_or_default());
        cpu = time;
        if state == "Z" {
            break;
        }
        thread::sleep(LOOK);
    }
    let wall = begun.elapsed();
    let status = child.wait().map_err(|e| failed(&e))?;
    if !status.success() {
        return Err(failed(&status));
    }
    Ok((wall, Cost { pods: 0, cpu, resident, anonymous: 0 }))
}

/// State of a process, and its processor time, user and system, of all its threads (proc(5)).
fn state_and_time(pid: u32) -> Option<(String, Duration)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the program's name, which may hold anything, the state is the first field, `utime` the 12th.
    let (_, rest) = stat.rsplit_once(')')?;
    let state = rest.split_whitespace().next()?.to_owned();
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Some((state, Duration::from_millis(ticks * 10)))
}

/// Bytes that the operator's process has resident now.
pub fn operator_resident() -> Option<u64> {
    processes().into_iter().find(|pid| is_holdfast(*pid, "operator")).and_then(|pid| status(pid, "VmRSS:"))
}

#[derive(Default)]
struct Watch {
    /// Processes that are something else.
    others: BTreeSet<u32>,
    runners: BTreeMap<u32, Runner>,
    pods: BTreeMap<PathBuf, Pod>,
}

struct Runner {
    resident: u64,
}

#[derive(Default)]
struct Pod {
    memory: PathBuf,
    cpu: Duration,
    anonymous: u64,
}

impl Watch {
    fn look(&mut self) {
        for pid in processes() {
            if self.others.contains(&pid) || self.runners.contains_key(&pid) {
                continue;
            }
            let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
            if is_command(&command, "run") {
                if let Some((cpu, memory)) = pod_cgroup(pid) {
                    self.pods.entry(cpu).or_default().memory = memory;
                }
                self.runners.insert(pid, Runner { resident: 0 });
            } else if !could_become_a_runner(&command) {
                self.others.insert(pid);
            }
        }
        for (pid, runner) in &mut self.runners {
            runner.resident = runner.resident.max(status(*pid, "VmHWM:").unwrap_or_default());
        }
        for (cgroup, pod) in &mut self.pods {
            pod.cpu = pod.cpu.max(processor_time(cgroup).unwrap_or_default());
            pod.anonymous = pod.anonymous.max(anonymous(&pod.memory).unwrap_or_default());
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            pods: self.pods.len(),
            cpu: self.pods.values().map(|pod| pod.cpu).sum(),
            resident: self.runners.values().map(|runner| runner.resident).max().unwrap_or_default(),
            anonymous: self.pods.values().map(|pod| pod.anonymous).max().unwrap_or_default(),
        }
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn is_holdfast(pid: u32, role: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| is_command(&command, role))
}

/// `holdfast ROLE …`, as `/proc/PID/cmdline` has it.
fn is_command(command: &[u8], role: &str) -> bool {
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    program.rsplit(|byte| *byte == b'/').next() == Some(b"holdfast") && words.next() == Some(role.as_bytes())
}

/// A container's first process belongs to the runtime until it becomes the program.
fn could_become_a_runner(command: &[u8]) -> bool {
    command.is_empty() || command.windows(4).any(|part| part == b"runc")
}

/// The pod's cgroups (the parent of its container's) for processor time and for memory, of either version.
fn pod_cgroup(pid: u32) -> Option<(PathBuf, PathBuf)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of = |controller: &str| pod_of(&text, controller);
    match (of("cpuacct"), of("memory")) {
        (Some(cpu), Some(memory)) => Some((cpu, memory)),
        _ => of("").map(|unified| (unified.clone(), unified)),
    }
}

/// The pod's directory for a controller; the unified hierarchy has none in its line.
fn pod_of(text: &str, controller: &str) -> Option<PathBuf> {
    let (controllers, path) = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some((controllers, path))
    })?;
    let pod = Path::new(path.trim_start_matches('/')).parent()?;
    let root = Path::new("/sys/fs/cgroup");
    // In version 1 each set of controllers is mounted by its name.
    Some(if controllers.is_empty() { root.join(pod) } else { root.join(controllers).join(pod) })
}

fn processor_time(cgroup: &Path) -> Option<Duration> {
    if let Ok(text) = fs::read_to_string(cgroup.join("cpuacct.usage")) {
        return text.trim().parse().ok().map(Duration::from_nanos);
    }
    field(&fs::read_to_string(cgroup.join("cpu.stat")).ok()?, "usage_usec").map(Duration::from_micros)
}

fn anonymous(cgroup: &Path) -> Option<u64> {
    let text = fs::read_to_string(cgroup.join("memory.stat")).ok()?;
    field(&text, "total_rss").or_else(|| field(&text, "anon"))
}

/// A field in kB of `/proc/PID/status`, in bytes.
fn status(pid: u32, name: &str) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name).map(|kib| kib * 1024)
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_told_from_other_programs() {
        assert!(is_command(b"/usr/bin/holdfast\0run\0", "run"));
        assert!(!is_command(b"/usr/bin/holdfast\0operator\0--x\0", "run"));
        assert!(!is_command(b"/usr/bin/holdfast-e2e\0run\0", "run"));
        assert!(could_become_a_runner(b"runc\0init\0") && !could_become_a_runner(b"sleep\0"));
    }

    #[test]
    fn the_pods_cgroup_is_found_in_both_versions() {
        let one = "5:cpu,cpuacct:/testbed/n1/kubepods/podu/c\n4:memory:/testbed/n1/kubepods/podu/c\n0::/x\n";
        let path = |text| pod_of(text, "cpuacct").map(|p| p.display().to_string());
        assert_eq!(path(one).as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct/testbed/n1/kubepods/podu"));
        let two = "0::/testbed/n1/kubepods/podu/c\n";
        assert_eq!(path(two), None);
        assert_eq!(pod_of(two, ""), Some("/sys/fs/cgroup/testbed/n1/kubepods/podu".into()));
    }

    #[test]
    fn a_programs_time_is_its_own() {
        let (wall, cost) =
            of_command(Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]))
                .unwrap_or_default();
        assert!(cost.cpu > Duration::from_millis(20) && cost.cpu <= wall * 2, "{cost:?} in {wall:?}");
        assert!(cost.resident > 100_000, "{cost:?}");
        assert!(of_command(Command::new("sh").args(["-c", "exit 3"])).is_err());
    }

    #[test]
    fn fields_are_read_by_their_whole_name() {
        let text = "rss 5\ntotal_rss 7\n";
        assert_eq!(
            (field(text, "total_rss"), field(text, "rss"), field(text, "anon")),
            (Some(7), Some(5), None)
        );
        assert!(status(std::process::id(), "VmHWM:").is_some_and(|bytes| bytes > 100_000));
    }
}
