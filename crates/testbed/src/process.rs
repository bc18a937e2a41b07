//! Daemons of the test bed: starting them detached, knowing them again by pid and start time, ending them.
//! Only a process whose start time is the recorded one is ever signalled.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::command::{self, SYSTEM_PATH};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};

/// A process is written down by the process itself before it becomes the program: a crash of ours between
/// starting it and recording it cannot leave a stranger behind. `$0` is the record, `$@` the program.
const RECORD_AND_BECOME: &str = r#"
read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ start _ < /proc/$$/stat
printf '%s %s\n' $$ "$start" > "$0.tmp" && mv "$0.tmp" "$0" && exec "$@"
"#;

/// Set for every daemon and inherited by what it starts; its value is the bed's state directory.
const MARK: &str = "HOLDFAST_TESTBED_DAEMON_OF";

/// The mark as it stands among a process's variables.
pub(crate) fn mark(layout: &Layout) -> String {
    format!("{MARK}={}", layout.run().display())
}

/// Marks a program that ends by itself, so that taking the bed down ends it too: a client whose caller was killed
/// would wait for its server long after the bed is gone.
pub(crate) fn set_mark(layout: &Layout, command: &mut std::process::Command) {
    command.env(MARK, layout.run());
}

/// Every process but this one that carries the mark, by program.
pub(crate) fn marked(layout: &Layout) -> Vec<(String, Process)> {
    let mark = mark(layout);
    layout::entries(Path::new("/proc"))
        .iter()
        .filter_map(|dir| {
            let pid = dir.file_name()?.to_str()?.parse().ok()?;
            // The start time is read first: were the pid given to another process meanwhile, it would not match.
            let process = Process::of_pid(pid)?;
            let variables = std::fs::read(dir.join("environ")).ok()?;
            let is_marked = variables.split(|b| *b == 0).any(|v| v == mark.as_bytes());
            let program = std::fs::read_link(dir.join("exe")).unwrap_or_default();
            (is_marked && pid.unsigned_abs() != std::process::id())
                .then(|| (program.display().to_string(), process))
        })
        .collect()
}

/// A process, known by its pid and by its start time (clock ticks since boot, `proc_pid_stat(5)` field 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    start: u64,
}

impl Process {
    /// The process that has this pid now.
    pub(crate) fn of_pid(pid: i32) -> Option<Self> {
        stat(pid).map(|(_, start)| Self { pid, start })
    }

    fn read(record: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(record).ok()?;
        let mut words = text.split_whitespace();
        Some(Self { pid: words.next()?.parse().ok()?, start: words.next()?.parse().ok()? })
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start && !matches!(state, 'Z' | 'X'))
    }

    /// Sends a signal, to this process or to none.
    pub(crate) fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        // The descriptor pins the process, so the check after it cannot be overtaken by a reused pid.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.is_alive() {
            let _ = pidfd_send_signal(descriptor, signal);
        }
    }

    /// Direct children, oldest first.
    pub(crate) fn children(self) -> Vec<Self> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|p| Self::of_pid(p.parse().ok()?)).collect()
    }
}

/// State letter and start time.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The second field is the program's name in parentheses and may hold anything, parentheses too.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

/// Every recorded process of the running bed, by name.
pub(crate) fn recorded(layout: &Layout) -> Vec<(String, Process)> {
    layout::entries(&layout.records())
        .iter()
        .filter_map(|path| {
            let temporary = path.extension().is_some_and(|e| e == "tmp");
            let name = path.file_name().filter(|_| !temporary)?.to_string_lossy().into_owned();
            Some((name, Process::read(path)?))
        })
        .collect()
}

/// The recorded process of that name.
pub(crate) fn find(layout: &Layout, name: &str) -> Option<Process> {
    Process::read(&layout.records().join(name))
}

/// A daemon to start: it goes on when we end, writes to `log/<name>.log` and records itself as `<name>`.
pub(crate) struct Daemon<'a> {
    pub(crate) layout: &'a Layout,
    /// `n1-kubelet`, `s3`, …
    pub(crate) name: &'a str,
    /// Pid of the node's first process if it runs in a node; it is then a child of the recorded `nsenter`.
    pub(crate) node: Option<i32>,
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

impl Daemon<'_> {
    pub(crate) fn log(&self) -> PathBuf {
        self.layout.logs().join(format!("{}.log", self.name))
    }

    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        args: &[S],
    ) -> Result<()> {
        layout::make_dir(&self.layout.records())?;
        layout::make_dir(&self.layout.logs())?;
        let path = self.log();
        let log =
            OpenOptions::new().append(true).create(true).open(&path).map_err(Error::file("write", &path))?;
        let copy = log.try_clone().map_err(Error::file("write", &path))?;
        let mut start = command::command("setsid", &["sh", "-c", RECORD_AND_BECOME]);
        start.arg(self.layout.records().join(self.name));
        if let Some(pid) = self.node {
            start.args(enter(pid));
        }
        // Nothing of the caller's environment: a bed is the same whoever starts it.
        start.env_clear().env("PATH", format!("{}:{SYSTEM_PATH}", self.layout.bin().display()));
        set_mark(self.layout, &mut start);
        start.envs(self.environment.iter().copied());
        start.arg(program).args(args).current_dir("/").stdin(Stdio::null()).stdout(log).stderr(copy);
        start.spawn().map(drop).map_err(|source| Error::Start { program: self.name.to_owned(), source })
    }
}

/// The command that enters all of a node's namespaces.
pub(crate) fn enter(pid: i32) -> Vec<String> {
    let mut words: Vec<String> = ["nsenter", "-t"].map(String::from).to_vec();
    words.push(pid.to_string());
    words.extend(["-m", "-n", "-p", "-u", "-i", "--"].map(String::from));
    words
}

/// A daemon that was killed, with what it takes to start it again as it was.
#[derive(Debug)]
#[must_use = "it stays away until it is started"]
pub struct Halted {
    layout: Layout,
    name: String,
    program: String,
    args: Vec<String>,
    node: String,
}

/// Kills a daemon that runs in a node, with what it started in its own process group.
pub(crate) fn halt(layout: &Layout, name: &str) -> Result<Halted> {
    let recorded = find(layout, name).filter(|p| p.is_alive());
    let Some(entered) = recorded else { return Err(Error::NotUp { root: layout.root().to_owned() }) };
    let text = |file: &str| std::fs::read(format!("/proc/{}/{file}", entered.pid)).unwrap_or_default();
    let words = |file: &str| -> Vec<String> {
        let bytes = text(file);
        let words = bytes.split(|b| *b == 0).filter(|w| !w.is_empty());
        words.map(|w| String::from_utf8_lossy(w).into_owned()).collect()
    };
    let (command, environment) = (words("cmdline"), words("environ"));
    let Some((program, args)) = command.split_first() else {
        return Err(Error::Unsupported(format!("{name} ended while it was to be killed")));
    };
    let node = environment.iter().find_map(|v| v.strip_prefix("NODE_NAME=")).unwrap_or_default();
    // The recorded process only entered the node; the daemon is its child.
    let mut all: Vec<_> = entered.children().into_iter().map(|child| (name.to_owned(), child)).collect();
    all.push((name.to_owned(), entered));
    kill_all(&all, Duration::from_secs(20))?;
    layout::remove(&layout.records().join(name))?;
    Ok(Halted {
        layout: layout.clone(),
        name: name.to_owned(),
        program: program.clone(),
        args: args.to_vec(),
        node: node.to_owned(),
    })
}

impl Halted {
    /// Starts it again with the arguments that it had.
    pub fn start(self) -> Result<()> {
        // The command enters the node by itself.
        let environment = [("NODE_NAME", self.node.as_str())];
        Daemon { layout: &self.layout, name: &self.name, node: None, environment: &environment }
            .start(&self.program, &self.args)
    }
}

/// Kills and waits until all are gone.
pub(crate) fn kill_all(processes: &[(String, Process)], limit: Duration) -> Result<()> {
    for (_, process) in processes {
        process.signal(Signal::KILL);
    }
    let alive = || -> Vec<&str> {
        processes.iter().filter(|(_, p)| p.is_alive()).map(|(name, _)| name.as_str()).collect()
    };
    command::wait_until("the end of the killed processes", limit, "see `ps` for processes in state D", || {
        Ok(alive().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_program_name() {
        let line = "42 (a) R 1 (b) S 1 42 42 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 1 0 98765 1000 5 0";
        assert_eq!(parse_stat(line), Some(('S', 98765)));
    }

    #[test]
    fn a_daemon_records_itself_and_is_told_apart_from_a_later_process_with_its_pid() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).unwrap();
        let daemon = Daemon { layout: &layout, name: "sleeper", node: None, environment: &[] };
        daemon.start("sleep", &["600"]).unwrap();
        let limit = Duration::from_secs(10);
        command::wait_until("the record", limit, "", || Ok(find(&layout, "sleeper").is_some())).unwrap();
        let process = find(&layout, "sleeper").unwrap();
        assert!(process.is_alive());
        let variables = std::fs::read_to_string(format!("/proc/{}/environ", process.pid)).unwrap();
        assert!(variables.split('\0').any(|v| v == mark(&layout)), "{variables:?}");

        let impostor = Process { pid: process.pid, start: process.start + 1 };
        assert!(!impostor.is_alive());
        impostor.signal(Signal::KILL);
        std::thread::sleep(Duration::from_millis(50));
        assert!(process.is_alive(), "a process with another start time was signalled");

        kill_all(&recorded(&layout), limit).unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_client_that_outlived_its_caller_is_found_by_its_mark() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).unwrap();
        let mut client = command::command("sleep", &["600"]);
        set_mark(&layout, &mut client);
        let mut client = client.spawn().unwrap();
        let found: Vec<i32> = marked(&layout).iter().map(|(_, p)| p.pid).collect();
        let another = Layout::at(dir.path().join("another")).unwrap();
        assert_eq!(marked(&another), []);
        client.kill().unwrap();
        client.wait().unwrap();
        assert_eq!(found.iter().map(|p| p.unsigned_abs()).collect::<Vec<_>>(), [client.id()]);
    }
}
