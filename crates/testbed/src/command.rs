//! Running other programs to their end and turning their failures into errors. Daemons are in `process`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::layout;

/// The PATH of everything we start: sbin is missing in many users' PATH.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many lines of a log an error shows.
const TAIL_LINES: usize = 25;

/// A command with arguments and no input.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
    program: impl AsRef<std::ffi::OsStr>,
    args: &[S],
) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", if path.is_empty() { SYSTEM_PATH.into() } else { format!("{path}:{SYSTEM_PATH}") });
    command
}

/// The command line as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs to the end; whatever the exit status, the output is returned.
pub(crate) fn try_output(command: &mut Command) -> Result<Output> {
    command.output().map_err(|source| Error::Start { program: describe(command), source })
}

/// Runs to the end and returns stdout, without the last line break.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = try_output(command)?;
    checked(command, &output)
}

/// Runs with the given input and returns stdout.
pub(crate) fn output_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let start = |source, command: &Command| Error::Start { program: describe(command), source };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| start(e, command))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why in its status; the broken pipe says nothing more.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|e| start(e, command))?;
    checked(command, &output)
}

fn checked(command: &Command, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = if stderr.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { stderr };
    Err(Error::Command {
        command: describe(command),
        status: output.status.to_string(),
        output: last_lines(&said, TAIL_LINES),
    })
}

/// Runs a step whose output goes to a log file, which the error names and quotes.
pub(crate) fn logged(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    if let Some(parent) = log.parent() {
        layout::make_dir(parent)?;
    }
    let open =
        || std::fs::OpenOptions::new().append(true).create(true).open(log).map_err(Error::file("write", log));
    let mut file = open()?;
    writeln!(file, "$ {}", describe(command)).map_err(Error::file("write", log))?;
    let status = command
        .stdout(open()?)
        .stderr(open()?)
        .status()
        .map_err(|source| Error::Start { program: describe(command), source })?;
    if status.success() { Ok(()) } else { Err(log_error(what, &status.to_string(), log)) }
}

/// An error that quotes the end of a log.
pub(crate) fn log_error(what: &str, status: &str, log: &Path) -> Error {
    let text = std::fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    Error::Logged {
        what: what.to_owned(),
        status: status.to_owned(),
        log: log.to_owned(),
        tail: last_lines(&text, TAIL_LINES),
    }
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines.iter().skip(lines.len().saturating_sub(count)).copied().collect::<Vec<_>>().join("\n")
}

/// SHA-256 of a text, in hexadecimal.
pub(crate) fn sha256(text: &[u8]) -> Result<String> {
    let said = output_with_input(&mut command("sha256sum", &["-"]), text)?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let said = output(command("sha256sum", &["-b", "--"]).arg(path))?;
    Ok(said.trim_start_matches('\\').split_whitespace().next().unwrap_or_default().to_owned())
}

/// Asks again until `ready` says yes; the first question is asked at once.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    hint: &str,
    mut ready: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        if ready()? {
            return Ok(());
        }
        if started.elapsed() >= limit {
            return Err(Error::Timeout {
                what: what.to_owned(),
                seconds: limit.as_secs(),
                hint: hint.to_owned(),
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(300));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_its_status_and_what_it_said() {
        let error = output(&mut command("sh", &["-c", "echo about to; echo no such bridge >&2; exit 3"]))
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no such bridge"), "{text}");
    }

    #[test]
    fn a_failed_step_quotes_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("sub/step.log");
        let mut step = command("sh", &["-c", "seq 100; echo boom >&2; exit 1"]);
        let text = logged("the step", &mut step, &log).unwrap_err().to_string();
        assert!(
            text.ends_with("100\nboom") && text.contains("step.log") && !text.contains("\n50\n"),
            "{text}"
        );
    }

    #[test]
    fn sha256_of_text_and_file_agree_with_the_known_value() {
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").unwrap(), known);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("odd\nname");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(sha256_of(&file).unwrap(), known);
    }

    #[test]
    fn waiting_ends_with_the_hint() {
        let error = wait_until("rain", Duration::from_millis(1), "look outside", || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("look outside"));
    }
}
