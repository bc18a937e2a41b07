//! Standard input or a command's output as the source of a backup.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holdfast_engine::backup::absolute;
use holdfast_engine::stream::{ProducerOutcome, StreamChecks, StreamSource, TAIL};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::access::duration;
use crate::failure::{Failure, Result};

/// Bytes that are taken from a pipe at a time.
const PIECE: usize = 256 * 1024;
/// Pieces that wait for the engine; more keep the producer waiting.
const WAITING: usize = 4;

/// The part of `repo backup`'s command line that is about streams.
// A group has its struct's name, and that of `repo backup` is the same.
#[derive(Debug, clap::Args)]
#[group(id = "Stream")]
pub(super) struct Args {
    /// Back up what comes on standard input, as one file
    #[arg(long, conflicts_with = "stdin_from_command")]
    stdin: bool,
    /// Run the arguments as a command and back up its output; no snapshot unless it exits with 0
    #[arg(long)]
    stdin_from_command: bool,
    /// Name of that file in the snapshot; may hold directories
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    stdin_filename: PathBuf,
    /// No snapshot unless the stream begins with this text
    #[arg(long, value_name = "TEXT")]
    stdin_head: Option<String>,
    /// No snapshot unless the stream's last 4 KiB hold this text, e.g. a dump's completion line
    #[arg(long, value_name = "TEXT")]
    stdin_tail: Option<String>,
    /// No snapshot when the stream has less than so many percent of the newest snapshot's bytes
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    stdin_min_share: Option<u8>,
    /// Give up, with no snapshot, when nothing comes for so long, e.g. `10m`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stdin_idle_timeout: Option<Duration>,
    /// Give up, with no snapshot, when it takes longer than this, e.g. `2h`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stdin_timeout: Option<Duration>,
}

impl Args {
    /// Whether a stream is to be backed up, and no files.
    pub(super) fn wanted(&self) -> bool {
        self.stdin || self.stdin_from_command
    }

    /// Refuses what makes no sense; `arguments` are the command's.
    pub(super) fn check(&self, arguments: &[PathBuf]) -> Result<()> {
        if self.stdin && !arguments.is_empty() {
            return Err(Failure::usage(
                "--stdin takes no paths: the stream is all that is backed up",
                "leave the paths out, or back them up with a command of their own",
            ));
        }
        if self.stdin_from_command && arguments.is_empty() {
            return Err(Failure::usage(
                "--stdin-from-command needs a command",
                "put it behind `--`, e.g. `-- pg_dump shop`",
            ));
        }
        let checks = self.stdin_head.is_some()
            || self.stdin_tail.is_some()
            || self.stdin_min_share.is_some()
            || self.stdin_idle_timeout.is_some()
            || self.stdin_timeout.is_some();
        if checks && !self.wanted() {
            return Err(Failure::usage(
                "a condition for a stream was given, but no stream",
                "add --stdin or --stdin-from-command",
            ));
        }
        if self.wanted() {
            self.path()?;
        }
        Ok(())
    }

    /// Path of the file in the snapshot.
    fn path(&self) -> Result<String> {
        let path = absolute(Path::new("/"), &self.stdin_filename);
        match path.to_str() {
            Some(text) if text != "/" => Ok(text.to_owned()),
            _ => Err(Failure::usage(
                format!("{} is no name for a file in a snapshot", self.stdin_filename.display()),
                "give another --stdin-filename",
            )),
        }
    }

    /// Begins: the command is running when this returns, and ends with what is returned.
    pub(super) fn start(&self, arguments: &[PathBuf]) -> Result<StreamSource> {
        let path = self.path()?;
        let tail = self.stdin_tail.clone().map(|text| {
            let check: holdfast_engine::stream::TailCheck = Arc::new(move |tail: &[u8]| {
                let wanted = text.as_bytes();
                if tail.windows(wanted.len().max(1)).any(|part| part == wanted) || wanted.is_empty() {
                    return Ok(());
                }
                Err(format!("{text:?} is not among its last {TAIL} bytes"))
            });
            check
        });
        let checks = StreamChecks {
            head: self.stdin_head.iter().map(|text| text.as_bytes().to_vec()).collect(),
            tail,
            min_share: self.stdin_min_share,
            idle_timeout: self.stdin_idle_timeout,
            total_timeout: self.stdin_timeout,
            ..StreamChecks::default()
        };
        if !self.stdin_from_command {
            // Nobody tells how the program before the pipe ended; its output is all there is to go by.
            let outcome = std::future::ready(ProducerOutcome::Done { bytes: None, sha256: None });
            let reader = Piped::new(std::io::stdin())?;
            return Ok(StreamSource { path, reader: Box::new(reader), outcome: Box::pin(outcome), checks });
        }
        let mut producer = Producer::start(arguments)?;
        let output = producer.0.stdout.take().ok_or_else(|| broken("its output is not there"))?;
        let reader = Piped::new(output)?;
        let outcome = async move {
            match producer.end().await {
                Ok(status) if status.success() => ProducerOutcome::Done { bytes: None, sha256: None },
                Ok(status) => ProducerOutcome::Failed(describe(status)),
                Err(e) => ProducerOutcome::Failed(format!("its end cannot be learned: {e}")),
            }
        };
        Ok(StreamSource { path, reader: Box::new(reader), outcome: Box::pin(outcome), checks })
    }
}

fn broken(why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("the stream cannot be read: {why}"), "nothing was stored; try again")
}

/// A command that runs; killed when dropped before its end.
struct Producer(Child);

impl Producer {
    fn start(arguments: &[PathBuf]) -> Result<Self> {
        let mut words = arguments.iter().map(|word| OsString::from(word.as_os_str()));
        let program = words.next().unwrap_or_default();
        let spawned = Command::new(&program).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        spawned.map(Self).map_err(|e| {
            Failure::usage(
                format!("{} cannot be run: {e}", Path::new(&program).display()),
                "check the command; nothing was stored",
            )
        })
    }

    async fn end(&mut self) -> std::io::Result<ExitStatus> {
        // Listened for before the first look, so that no end is missed between the two.
        let mut ends = signal(SignalKind::child())?;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            ends.recv().await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Fails when it has ended, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// A blocking source as an asynchronous one: a thread of its own reads ahead by a few pieces.
struct Piped {
    pieces: mpsc::Receiver<std::io::Result<Vec<u8>>>,
    current: Vec<u8>,
    used: usize,
}

impl Piped {
    fn new(mut from: impl Read + Send + 'static) -> Result<Self> {
        let (to, pieces) = mpsc::channel(WAITING);
        let read = move || {
            loop {
                let mut piece = vec![0; PIECE];
                let piece = match from.read(&mut piece) {
                    Ok(0) => return,
                    Ok(count) => {
                        piece.truncate(count);
                        Ok(piece)
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(e) => Err(e),
                };
                let last = piece.is_err();
                if to.blocking_send(piece).is_err() || last {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("stream".to_owned()).spawn(read).map_err(broken)?;
        Ok(Self { pieces, current: Vec::new(), used: 0 })
    }
}

impl AsyncRead for Piped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.used == self.current.len() {
            match ready!(self.pieces.poll_recv(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(e)) => return Poll::Ready(Err(e)),
                Some(Ok(piece)) => {
                    self.current = piece;
                    self.used = 0;
                }
            }
        }
        let left = self.current.get(self.used..).unwrap_or_default();
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..count).unwrap_or_default());
        self.used += count;
        Poll::Ready(Ok(()))
    }
}
