//! Listening to running runners: the board with the last progress of each, and word to the reconcilers when
//! there is something new. Serves progress and signs of life only; no decision depends on a line having been
//! seen, for logs rotate and die with their pods.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt, Stream, StreamExt};
use holdfast_api::backup::Progress;
use holdfast_protocol::{Checkpoint, Event};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, LogParams};
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outcome::Running;
use super::{CONTAINER, JobState, JobView, RunKind, RunRef, logs};

use crate::errors::Chain;

/// Shortest time between two words about one run: what its status is written at most.
const WORD_PAUSE: Duration = Duration::from_secs(3);
/// Pause before a log that ended while its pod runs is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(2);
/// Most runners listened to at a time. The others show no progress; their logs are asked before they are called
/// stuck.
const LISTENERS: usize = 256;
/// Longest line taken, in bytes; the rest of it is passed over.
const LINE_LIMIT: usize = 64 << 10;
/// Words kept for a reconciler that is late; what it misses is only progress.
const WORDS: usize = 1024;

/// What a runner last told.
#[derive(Debug, Clone, PartialEq)]
pub struct Signs {
    /// When.
    pub last_seen: Timestamp,
    /// How far it is.
    pub progress: Option<Told>,
}

/// How far a runner is, in its own words.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// What it is doing.
    pub phase: String,
    /// Files finished.
    pub files_done: u64,
    /// Bytes finished.
    pub bytes_done: u64,
    /// Bytes expected, 0 while unknown.
    pub bytes_total: u64,
    /// Bytes a second, over the last half minute.
    pub bytes_per_second: Option<u64>,
}

impl Signs {
    /// As a status shows it.
    pub fn to_progress(&self) -> Progress {
        let mut shown = Progress { last_seen: Some(Time(self.last_seen)), ..Progress::default() };
        let Some(told) = &self.progress else { return shown };
        shown.bytes_done = told.bytes_done;
        shown.files_done = told.files_done;
        shown.bytes_per_second = told.bytes_per_second;
        if told.bytes_total > 0 {
            shown.bytes_total = Some(told.bytes_total);
            let percent = u128::from(told.bytes_done) * 100 / u128::from(told.bytes_total);
            shown.percent = Some(u32::try_from(percent).unwrap_or(100).min(100));
            shown.eta = told.bytes_per_second.filter(|rate| *rate > 0).map(|rate| {
                let left = told.bytes_total.saturating_sub(told.bytes_done) / rate;
                holdfast_api::Duration::from_secs(left)
            });
        }
        shown
    }
}

/// The last signs of all running runners.
#[derive(Clone)]
pub struct Board {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    stop: CancellationToken,
    listeners: Mutex<HashMap<String, Listener>>,
    words: broadcast::Sender<RunRef>,
}

struct Listener {
    run: RunRef,
    stop: CancellationToken,
    signs: Option<Signs>,
    /// The newest checkpoint, until it is handed on.
    checkpoint: Option<Checkpoint>,
    /// Bytes done at some moment within the last half minute, for the rate.
    mark: Option<(Instant, u64)>,
    last_word: Option<Instant>,
}

impl Board {
    /// An empty board; everything ends when `stop` is cancelled.
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        let (words, _) = broadcast::channel(WORDS);
        Self { shared: Arc::new(Shared { client, stop, listeners: Mutex::default(), words }) }
    }

    /// Listens to a running runner from now on, unless it is listened to already.
    pub fn follow(&self, run: &RunRef, namespace: &str, running: &Running) {
        let stop = self.shared.stop.child_token();
        {
            let mut listeners = self.shared.lock();
            if listeners.contains_key(&running.pod_uid) || listeners.len() >= LISTENERS {
                return;
            }
            let listener = Listener {
                run: run.clone(),
                stop: stop.clone(),
                signs: None,
                checkpoint: None,
                mark: None,
                last_word: None,
            };
            listeners.insert(running.pod_uid.clone(), listener);
        }
        let shared = Arc::clone(&self.shared);
        let (namespace, pod, uid) = (namespace.to_owned(), running.pod.clone(), running.pod_uid.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = listen(&shared, &namespace, &pod, &uid) => {}
            }
            shared.lock().remove(&uid);
        });
    }

    /// What the runner in this pod last told.
    pub fn signs(&self, pod_uid: &str) -> Option<Signs> {
        self.shared.lock().get(pod_uid)?.signs.clone()
    }

    /// The newest checkpoint of the runner in this pod that was not handed on yet.
    pub fn checkpoint(&self, pod_uid: &str) -> Option<Checkpoint> {
        self.shared.lock().get(pod_uid)?.checkpoint.clone()
    }

    /// This checkpoint was handed on.
    pub fn handed_on(&self, pod_uid: &str, checkpoint: &Checkpoint) {
        if let Some(listener) = self.shared.lock().get_mut(pod_uid)
            && listener.checkpoint.as_ref() == Some(checkpoint)
        {
            listener.checkpoint = None;
        }
    }

    /// Stops listening to all runners of a run.
    pub fn forget(&self, run: &RunRef) {
        for listener in self.shared.lock().values().filter(|listener| listener.run.uid == run.uid) {
            listener.stop.cancel();
        }
    }

    /// A word for each run of this kind that has something new to tell: wakes its reconciler.
    pub fn words(&self, kind: RunKind) -> impl Stream<Item = RunRef> + Send + 'static {
        let receiver = self.shared.words.subscribe();
        futures::stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(run) => return Some((run, receiver)),
                    // Missed words are only progress, and the next ones come soon.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .filter(move |run| futures::future::ready(run.kind == kind))
    }

    /// How long a Job's runner has been silent, if that is longer than the settings allow. Asks the log itself
    /// before it says so, since this operator may not have listened.
    pub async fn silence(&self, view: &JobView, now: Timestamp, allowed: Duration) -> Silence {
        let JobState::Running(running) = &view.state else { return Silence::Alive { look_again: allowed } };
        let seen = self.signs(&running.pod_uid).map(|signs| signs.last_seen);
        let mut last = seen.into_iter().chain(running.since).max().unwrap_or(now);
        if until(last, now, allowed).is_none() {
            let written = logs::last_line_at(&self.shared.client, view.namespace(), &running.pod).await;
            last = written.into_iter().chain([last]).max().unwrap_or(last);
        }
        match until(last, now, allowed) {
            Some(rest) => Silence::Alive { look_again: rest },
            None => Silence::Stuck { since: last },
        }
    }
}

/// Whether a runner is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// It gave a sign of life not too long ago.
    Alive {
        /// When it will have been silent for too long, unless it speaks before.
        look_again: Duration,
    },
    /// It gave none for longer than allowed.
    Stuck {
        /// Its last sign of life.
        since: Timestamp,
    },
}

/// What is left of `allowed` since `last`; `None` when it is over.
fn until(last: Timestamp, now: Timestamp, allowed: Duration) -> Option<Duration> {
    let silent = now.duration_since(last);
    let silent = Duration::try_from(silent).unwrap_or_default();
    allowed.checked_sub(silent).filter(|rest| !rest.is_zero())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one line in, and gives word when it is time.
    fn heard(&self, pod_uid: &str, line: &str, now: Timestamp, at: Instant) {
        let mut listeners = self.lock();
        let Some(listener) = listeners.get_mut(pod_uid) else { return };
        listener.hear(line, now, at);
        let due = listener.last_word.is_none_or(|last| at.duration_since(last) >= WORD_PAUSE);
        if due {
            listener.last_word = Some(at);
            // Nobody listening is fine: the reconcilers are not up yet, or are going down.
            let _unheard = self.words.send(listener.run.clone()).is_err();
        }
    }
}

impl Listener {
    fn hear(&mut self, line: &str, now: Timestamp, at: Instant) {
        let mut signs = self.signs.take().unwrap_or(Signs { last_seen: now, progress: None });
        signs.last_seen = now;
        match Event::from_line(line) {
            Some(Event::Progress { phase, files_done, bytes_done, bytes_total, .. }) => {
                let bytes_per_second = self.rate(bytes_done, at);
                signs.progress = Some(Told { phase, files_done, bytes_done, bytes_total, bytes_per_second });
            }
            Some(Event::Checkpoint(checkpoint)) => self.checkpoint = Some(checkpoint),
            _ => {}
        }
        self.signs = Some(signs);
    }

    fn rate(&mut self, bytes_done: u64, at: Instant) -> Option<u64> {
        let Some((since, bytes)) = self.mark else {
            self.mark = Some((at, bytes_done));
            return None;
        };
        let elapsed = at.duration_since(since);
        if elapsed > Duration::from_secs(30) || bytes_done < bytes {
            self.mark = Some((at, bytes_done));
        }
        let millis = u64::try_from(elapsed.as_millis()).ok().filter(|millis| *millis > 0)?;
        Some(bytes_done.saturating_sub(bytes).saturating_mul(1000) / millis)
    }
}

async fn listen(shared: &Shared, namespace: &str, pod: &str, uid: &str) {
    let api = Api::<Pod>::namespaced(shared.client.clone(), namespace);
    let mut since: Option<Timestamp> = None;
    loop {
        let params = LogParams {
            container: Some(CONTAINER.into()),
            follow: true,
            since_time: since,
            ..LogParams::default()
        };
        match api.log_stream(pod, &params).await {
            Ok(log) => {
                let mut log = std::pin::pin!(log);
                while let Some(line) = next_line(&mut log).await {
                    shared.heard(uid, &line, Timestamp::now(), Instant::now());
                }
            }
            Err(error) => {
                tracing::debug!(
                    error = %Chain(&error),
                    namespace,
                    pod,
                    "a log cannot be followed"
                );
            }
        }
        // The stream ends with the container, but also when the log is rotated or a connection breaks.
        since = Some(Timestamp::now());
        match api.get_opt(pod).await {
            Ok(Some(found)) if is_running(&found, uid) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(
                    error = %Chain(&error),
                    namespace,
                    pod,
                    "a pod cannot be read"
                );
            }
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

fn is_running(pod: &Pod, uid: &str) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let running = statuses.into_iter().flatten().any(|container| {
        container.name == CONTAINER && container.state.as_ref().is_some_and(|state| state.running.is_some())
    });
    running && pod.metadata.uid.as_deref() == Some(uid)
}

/// The next line, without its end; `None` at the end of the log or when the connection broke. Never keeps more
/// than the limit in memory, however long the line is.
async fn next_line<R: AsyncBufRead + Unpin>(reader: &mut R) -> Option<String> {
    let mut line = Vec::new();
    let mut any = false;
    loop {
        let (used, ended) = {
            let chunk = reader.fill_buf().await.ok()?;
            if chunk.is_empty() {
                return any.then(|| String::from_utf8_lossy(&line).into_owned());
            }
            any = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let content = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            let room = LINE_LIMIT.saturating_sub(line.len()).min(content.len());
            line.extend_from_slice(content.get(..room).unwrap_or_default());
            (end.map_or(chunk.len(), |end| end + 1), end.is_some())
        };
        reader.consume_unpin(used);
        if ended {
            return Some(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(bytes_done: u64) -> String {
        Event::Progress { phase: "read".into(), files_done: 1, bytes_done, files_total: 2, bytes_total: 1000 }
            .to_line()
    }

    fn listener() -> Listener {
        let run = RunRef { kind: RunKind::Backup, namespace: "a".into(), name: "b".into(), uid: "c".into() };
        let stop = CancellationToken::new();
        Listener { run, stop, signs: None, checkpoint: None, mark: None, last_word: None }
    }

    #[test]
    fn progress_becomes_percent_rate_and_time_left() {
        let mut listener = listener();
        let (now, at) = (Timestamp::UNIX_EPOCH, Instant::now());
        listener.hear(&progress(0), now, at);
        listener.hear(&progress(250), now, at + Duration::from_secs(5));
        let shown = listener.signs.as_ref().unwrap().to_progress();
        assert_eq!((shown.percent, shown.bytes_per_second), (Some(25), Some(50)));
        assert_eq!(shown.eta.map(|eta| eta.to_string()), Some("15s".into()));
        assert_eq!(shown.last_seen, Some(Time(now)));
    }

    #[test]
    fn any_line_is_a_sign_of_life_and_keeps_the_progress() {
        let mut listener = listener();
        let (now, at) = (Timestamp::UNIX_EPOCH, Instant::now());
        listener.hear(&progress(10), now, at);
        let later = Timestamp::from_second(60).unwrap();
        listener.hear("some line", later, at);
        let signs = listener.signs.unwrap();
        assert_eq!(signs.last_seen, later);
        assert_eq!(signs.progress.unwrap().bytes_done, 10);
    }

    #[test]
    fn the_newest_checkpoint_is_kept_until_it_is_handed_on() {
        let mut listener = listener();
        let (now, at) = (Timestamp::UNIX_EPOCH, Instant::now());
        let checkpoint =
            |tree: &str| Checkpoint { tree: tree.into(), started: "2026-11-20T02:00:00Z".into() };
        for tree in ["a", "b"] {
            listener.hear(&Event::Checkpoint(checkpoint(tree)).to_line(), now, at);
        }
        listener.hear(&progress(10), now, at);
        assert_eq!(listener.checkpoint, Some(checkpoint("b")));
    }

    #[test]
    fn silence_is_over_at_the_limit_and_not_before() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let allowed = Duration::from_mins(15);
        assert_eq!(until(at(0), at(899), allowed), Some(Duration::from_secs(1)));
        assert_eq!(until(at(0), at(900), allowed), None);
        // A runner's clock that is ahead of ours.
        assert_eq!(until(at(100), at(0), allowed), Some(allowed));
    }

    #[test]
    fn long_lines_are_cut_and_the_next_one_is_whole() {
        let text = format!("{}\nnext\nlast", "x".repeat(LINE_LIMIT * 2));
        let mut reader = futures::io::BufReader::with_capacity(1000, text.as_bytes());
        let lines = futures::executor::block_on(async {
            let mut lines = Vec::new();
            while let Some(line) = next_line(&mut reader).await {
                lines.push(line);
            }
            lines
        });
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LINE_LIMIT, 4, 4]);
    }
}
