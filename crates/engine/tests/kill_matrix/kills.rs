//! Killing an operation at each of its points, each time on a copy of the repository.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use holdfast_engine::Ctx;

use crate::deadly::{DeadlyStore, Point};
use crate::restoring::store_at;
use crate::scene::copy_of;

/// Says in the child's environment what to do, where to die, in which repository and with what, divided by `|`.
pub(crate) const ORDER: &str = "HOLDFAST_KILL_ORDER";

/// Starts the process and demands that it died at the point, not of anything else.
pub(crate) fn killed_at(point: &str, what: &str, at: &Path, with: &[&str]) {
    let order = [&[what, point, at.to_str().unwrap()][..], with].concat().join("|");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_one_that_is_killed", "--ignored", "--nocapture"])
        .env(ORDER, order)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        output.status.signal(),
        Some(9),
        "{what} {point}: it was not reached: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Does it undisturbed, as whoever finds that it was killed.
pub(crate) async fn again(what: &str, at: &Path, with: &[&str], place: &str) {
    let done = crate::run(what, store_at(at), with, &Ctx::default()).await;
    done.unwrap_or_else(|e| panic!("{place}, done again: {}", e.chain()));
}

/// Kills it at every point of its changes, each time in a copy of the repository `template`; `demand` looks at what is
/// left there, and is told the point.
///
/// `changes` are all that the operation makes when nobody disturbs it, in their order. When it makes others, the test
/// fails: at those nobody would die.
pub(crate) async fn at_every_point(
    what: &str,
    template: &Path,
    with: &[&str],
    changes: &[&str],
    demand: impl AsyncFn(&Path, &str),
) {
    let undisturbed = copy_of(template);
    let point = Point::new("");
    let store = DeadlyStore::on(&undisturbed, &point);
    let done = crate::run(what, store, with, &Ctx::default()).await;
    done.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
    assert_eq!(point.changes(), changes, "{what}");
    demand(&undisturbed, &format!("{what}, undisturbed")).await;
    fs::remove_dir_all(&undisturbed).unwrap();
    for point in points(changes) {
        let at = copy_of(template);
        killed_at(&point, what, &at, with);
        demand(&at, &format!("{what}, killed {point}")).await;
        fs::remove_dir_all(&at).unwrap();
    }
}

/// After each change, and within what is written. Before it only where that is another moment than after the last one: at
/// the beginning, and where several of a sort may be under way at once.
fn points(changes: &[&str]) -> Vec<String> {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    let (mut points, mut last) = (Vec::new(), None);
    for change in changes {
        let count = counts.entry(*change).or_default();
        *count += 1;
        if last.replace(*change).is_none_or(|last| last == *change) {
            points.push(format!("before {change} {count}"));
        }
        if change.starts_with("put ") {
            points.push(format!("within {change} {count}"));
        }
        points.push(format!("after {change} {count}"));
    }
    points
}
