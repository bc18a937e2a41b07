//! `holdfast logs`: what the runners of a run say, from their pods while those live, else from its status.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _, pin_mut};
use holdfast_api::names::{ANNOTATION_COMPONENT, LABEL_RUN_UID};
use holdfast_api::{Backup, Restore};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object, watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connect::{Cluster, Connection};
use super::fault::{self, Fault};
use super::follow::tell;
use super::interrupt::Interrupt;
use super::names;
use super::run_view::{Run, RunView};
use super::target::{self, Kind};
use crate::exit;
use crate::failure::Result;
use crate::text::safe;
use crate::ui::print;

mod lines;

/// Lines on their way from the pods to the terminal.
const QUEUE: usize = 256;
/// How long lines may still come after a run has ended.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Command line of `logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run: backup/NAME or restore/NAME; the kind can be left out where the name is only one run's
    #[arg(value_name = "[KIND/]NAME")]
    run: String,
    /// Go on until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Only of this component, e.g. volume/data, or of this claim
    #[arg(long, value_name = "COMPONENT")]
    component: Option<String>,
    /// The lines as the runner writes them, which are JSON
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let cluster = args.connection.open().await?;
    if args.run.contains('/') {
        let target = target::parse(&args.run)?;
        return match target.kind {
            Kind::Backup => of(&cluster, cluster.get::<Backup>(&target.name).await?, &args).await,
            Kind::Restore => of(&cluster, cluster.get::<Restore>(&target.name).await?, &args).await,
            Kind::Snapshot | Kind::Storage | Kind::Repository => Err(names::usage(
                format!("{} is no run", args.run),
                "only Backups and Restores have logs; `holdfast describe` tells about the others",
            )),
        };
    }
    let (backup, restore) = tokio::join!(cluster.get::<Backup>(&args.run), cluster.get::<Restore>(&args.run));
    match (backup, restore) {
        (Ok(_), Ok(_)) => Err(names::usage(
            format!("there are a Backup and a Restore {}", args.run),
            format!("write backup/{0} or restore/{0}", args.run),
        )),
        (Ok(backup), Err(_)) => of(&cluster, backup, &args).await,
        (Err(_), Ok(restore)) => of(&cluster, restore, &args).await,
        (Err(failure), Err(_)) => Err(failure),
    }
}

async fn of<K: Run>(cluster: &Cluster, object: K, args: &Args) -> Result<u8> {
    let view = object.view();
    let only = args.component.as_ref().map(|typed| component(&view, typed)).transpose()?;
    let uid = object.uid().unwrap_or_default();
    let pods = Pods { selector: format!("{LABEL_RUN_UID}={uid}"), only: only.clone(), raw: args.raw };
    if args.follow && !view.ended {
        return followed(cluster, &object, &pods).await;
    }
    let mut found = cluster.list_where::<Pod>(false, &ListParams::default().labels(&pods.selector)).await?;
    found.retain(|pod| pods.wants(pod) && has_begun(pod));
    found.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
    if found.is_empty() {
        return remembered(&view, only.as_deref());
    }
    let several = found.len() > 1;
    for pod in &found {
        let mut voice = lines::Voice::new(several.then(|| label(pod)), args.raw);
        match cluster.api::<Pod>().logs(&pod.name_any(), &LogParams::default()).await {
            Ok(text) => text.lines().filter_map(|line| voice.say(line)).try_for_each(|line| print(&line))?,
            Err(e) if fault::sort(&e) == Fault::NotFound => {
                tell(&format!("the pod of {} has just been removed", safe(&label(pod))));
            }
            Err(e) => return Err(cluster.failed(&e, &format!("read the log of pod {}", pod.name_any()))),
        }
        if let Some(rest) = voice.rest() {
            print(&rest)?;
        }
    }
    Ok(exit::OK)
}

/// Which pods, and how their lines are written.
struct Pods {
    selector: String,
    only: Option<String>,
    raw: bool,
}

impl Pods {
    fn wants(&self, pod: &Pod) -> bool {
        self.only
            .as_ref()
            .is_none_or(|component| pod.annotations().get(ANNOTATION_COMPONENT) == Some(component))
    }
}

/// The component that is meant by its name, or by its claim's.
fn component(view: &RunView, typed: &str) -> Result<String> {
    let there: Vec<String> = view.components.iter().map(|c| c.name.clone()).collect();
    let of_claim = holdfast_api::names::volume_component(typed);
    match there.iter().find(|name| *name == typed || **name == of_claim) {
        Some(name) => Ok(name.clone()),
        None => Err(names::usage(
            format!("{} has no component {typed}", view.title()),
            names::advice(typed, &there, "`holdfast describe` lists them"),
        )),
    }
}

/// Whether the container has run, so that there is a log to ask for.
fn has_begun(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    statuses.filter_map(|s| s.state.as_ref()).any(|s| s.running.is_some() || s.terminated.is_some())
}

fn label(pod: &Pod) -> String {
    pod.annotations().get(ANNOTATION_COMPONENT).cloned().unwrap_or_else(|| pod.name_any())
}

/// The last lines that the status keeps of failed Jobs.
fn remembered(view: &RunView, only: Option<&str>) -> Result<u8> {
    let wanted = || view.components.iter().filter(|c| only.is_none_or(|only| c.name == only));
    if !view.ended && wanted().all(|c| c.log_tail.is_empty()) {
        tell(&format!("no runner of {} has begun yet; -f waits for it", view.title()));
        return Ok(exit::OK);
    }
    let mut any = false;
    for component in wanted().filter(|c| !c.log_tail.is_empty()) {
        if !any {
            tell("the pods are gone; these are the last lines that the status keeps");
        }
        any = true;
        for line in &component.log_tail {
            print(&format!("[{}] {}", safe(&component.name), safe(line)))?;
        }
    }
    if !any {
        tell(&format!(
            "the pods of {} are gone, and of runs that did not fail no lines are kept; `holdfast describe` tells what came of it",
            view.title()
        ));
    }
    Ok(exit::OK)
}

/// Streams the logs of all pods, also of those that come, until the run ends.
async fn followed<K: Run>(cluster: &Cluster, object: &K, pods: &Pods) -> Result<u8> {
    let mut interrupt = Interrupt::listen();
    let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
    let mut streams = JoinSet::new();
    let mut seen = BTreeSet::new();
    let runs = watch_object(cluster.api::<K>(), &object.name_any()).default_backoff();
    let events = watcher(cluster.api::<Pod>(), watcher::Config::default().labels(&pods.selector))
        .default_backoff()
        .applied_objects();
    pin_mut!(runs);
    pin_mut!(events);
    let mut ended = false;
    let mut alone = false;
    loop {
        tokio::select! {
            () = interrupt.next() => {
                tell(&format!("no longer following: {} goes on", object.view().title()));
                return Ok(exit::INTERRUPTED);
            }
            Some(line) = lines.recv() => print(&line)?,
            run = runs.next(), if !ended => match run {
                Some(Ok(Some(now))) => ended = now.view().ended,
                Some(Ok(None)) | None => ended = true,
                Some(Err(e)) => alone = complain_once(alone, &e.to_string()),
            },
            pod = events.next() => match pod {
                Some(Ok(pod)) if pods.wants(&pod) && has_begun(&pod) && seen.insert(pod.uid()) => {
                    let api = Api::namespaced(cluster.client.clone(), &cluster.namespace);
                    streams.spawn(stream(api, pod, pods.raw, sender.clone()));
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => alone = complain_once(alone, &e.to_string()),
                None => ended = true,
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
        }
        if ended {
            break;
        }
    }
    drop(sender);
    // The rest of what the pods wrote; one that hangs does not hold us for long.
    while let Ok(Some(line)) = tokio::time::timeout(LAST_LINES, lines.recv()).await {
        print(&line)?;
    }
    if let Ok(now) = cluster.api::<K>().get(&object.name_any()).await {
        let view = now.view();
        tell(&format!("{}: {}", view.title(), view.phase));
    }
    Ok(exit::OK)
}

/// Says once that the API server is away.
fn complain_once(already: bool, error: &str) -> bool {
    if !already {
        tell(&format!("the API server is away: {}; trying again", safe(error)));
    }
    true
}

async fn stream(api: Api<Pod>, pod: Pod, raw: bool, lines: mpsc::Sender<String>) {
    let mut voice = lines::Voice::new(Some(label(&pod)), raw);
    let parameters = LogParams { follow: true, ..LogParams::default() };
    let log = match api.log_stream(&pod.name_any(), &parameters).await {
        Ok(log) => log,
        Err(e) => {
            tell(&format!("[{}] its log cannot be read: {}", safe(&label(&pod)), safe(&e.to_string())));
            return;
        }
    };
    let mut log = Box::pin(log).lines();
    while let Ok(Some(line)) = log.try_next().await {
        if let Some(line) = voice.say(&line)
            && lines.send(line).await.is_err()
        {
            return;
        }
    }
    if let Some(rest) = voice.rest() {
        let _ = lines.send(rest).await;
    }
}
