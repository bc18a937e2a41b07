//! Taking a bed down, whatever state it is in, and proving that the machine is as it was.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::command::{command, output, try_output, wait_until};
use crate::debian;
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::node;
use crate::process;
use crate::progress::Progress;
use crate::state::{Census, State};

/// The machine as it was before the last bed, to be compared later; beside `run/`, which is thrown away.
const BEFORE: &str = "before.json";

/// Takes the bed down; nothing to do if none is up.
pub fn down(layout: &Layout, progress: &Progress) -> Result<()> {
    if !layout.run().exists() {
        progress.say("no bed is up");
        return Ok(());
    }
    debian::require_root()?;
    let _lock =
        layout.lock("run", || progress.say("waiting for another caller that brings the bed up or down"))?;
    take_down(layout)?;
    progress.say("the bed is down");
    Ok(())
}

/// Fails unless the machine is as it was before the last bed came up.
pub fn verify(layout: &Layout) -> Result<()> {
    let path = layout.root().join(BEFORE);
    let Ok(text) = fs::read_to_string(&path) else {
        return Err(Error::Unsupported(
            "no bed was ever taken down here: there is nothing to compare with".into(),
        ));
    };
    if layout.run().exists() {
        return Err(Error::Leftovers(vec![format!("  a bed is up in {}", layout.root().display())]));
    }
    let before: Census = serde_json::from_str(&text).map_err(|source| Error::State { path, source })?;
    // The kernel ends namespaces and their links some moments after their last process.
    let mut left = Vec::new();
    let clean = || {
        left = before.left(&Census::take(layout)?);
        Ok(left.is_empty())
    };
    match wait_until("a clean machine", Duration::from_secs(15), "", clean) {
        Err(Error::Timeout { .. }) => Err(Error::Leftovers(left)),
        other => other,
    }
}

/// With the lock held.
pub(crate) fn take_down(layout: &Layout) -> Result<()> {
    // A journal that cannot be read must not keep a bed up for ever.
    let state = State::load(layout).ok().flatten();
    if let Some(state) = &state {
        let path = layout.root().join(BEFORE);
        let text = serde_json::to_string_pretty(&state.before)
            .map_err(|source| Error::State { path: path.clone(), source })?;
        layout::write(&path, text)?;
    }
    if state.as_ref().is_none_or(State::is_of_this_boot) {
        // While the nodes live the kernel can still say what their devices show.
        let loops = loop_devices(layout)?;
        let mut processes = process::recorded(layout);
        // The first process of a node is waited for too: it ends when all of the node's processes have.
        let first: Vec<_> = processes
            .iter()
            .filter(|(name, _)| name.ends_with("-sandbox"))
            .flat_map(|(name, process)| process.children().into_iter().map(move |c| (name.clone(), c)))
            .collect();
        processes.extend(first);
        process::kill_all(&processes, Duration::from_secs(20))?;
        // Only now: as long as daemons lived they could start others.
        process::kill_all(&process::marked(layout), Duration::from_secs(20))?;
        node::delete_host_link()?;
        detach(layout, loops)?;
        node::remove_cgroups()?;
    }
    if let Some(state) = &state {
        state.undo()?;
    }
    keep_logs(layout)?;
    remove_run(layout)
}

/// Loop devices that show a file of the bed's volumes, directly or through another of them.
fn loop_devices(layout: &Layout) -> Result<BTreeSet<String>> {
    let volumes: Vec<String> = layout
        .volumes()
        .iter()
        .flat_map(|d| layout::entries(&d.join("volumes")))
        .filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let table = output(&mut command("losetup", &["-n", "-O", "NAME,BACK-FILE"]))?;
    Ok(select_loops(&table, &layout.run(), &volumes))
}

/// The kubelet stacks a device of its own on a block volume's; its path holds the volume's name or is the other
/// device's.
fn select_loops(table: &str, run: &Path, volumes: &[String]) -> BTreeSet<String> {
    let rows: Vec<(&str, &str)> = table
        .lines()
        .filter_map(|l| l.trim().split_once(char::is_whitespace))
        .map(|(name, file)| (name, file.trim().trim_end_matches(" (deleted)")))
        .collect();
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (name, file) in &rows {
            let path = Path::new(file);
            let of_volume = || path.components().any(|c| volumes.iter().any(|v| c.as_os_str() == v.as_str()));
            let of_device = || {
                let device = path.file_name().unwrap_or_default();
                found.iter().any(|f: &String| Path::new(f).file_name() == Some(device))
            };
            if path.starts_with(run) || of_volume() || of_device() {
                found.insert((*name).to_owned());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Detaches devices until the kernel has let go of all of them; most go by themselves with their last mount.
fn detach(layout: &Layout, mut loops: BTreeSet<String>) -> Result<()> {
    wait_until("the end of the bed's loop devices", Duration::from_secs(15), "see `losetup`", || {
        loops.extend(loop_devices(layout)?);
        loops.retain(|l| is_attached(l));
        for device in &loops {
            // An upper device holds the one below it: the next round gets that.
            try_output(command("losetup", &["-d"]).arg(device))?;
        }
        Ok(loops.is_empty())
    })
}

fn is_attached(device: &str) -> bool {
    let name = Path::new(device).file_name().unwrap_or_default();
    Path::new("/sys/block").join(name).join("loop/backing_file").exists()
}

fn keep_logs(layout: &Layout) -> Result<()> {
    let (logs, last) = (layout.logs(), layout.last_logs());
    if logs.exists() {
        layout::remove(&last)?;
        if let Some(parent) = last.parent() {
            layout::make_dir(parent)?;
        }
        fs::rename(&logs, &last).map_err(Error::file("keep", logs))?;
    }
    Ok(())
}

fn remove_run(layout: &Layout) -> Result<()> {
    let run = layout.run();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below =
        mounts.lines().filter_map(|l| l.split_whitespace().nth(4)).find(|m| Path::new(m).starts_with(&run));
    // Removing a tree through a mount would remove what is mounted there.
    if let Some(mount) = below {
        return Err(Error::Leftovers(vec![format!("  something is mounted on {mount}; unmount it first")]));
    }
    // Gone at once for everybody else, however long the disk takes to forget it.
    let trash = layout.root().join("run.removed");
    layout::remove(&trash)?;
    match fs::rename(&run, &trash) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("move", run)(error)),
        _ => layout::remove(&trash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_of_the_beds_volumes_are_detached_also_stacked_ones() {
        let table = "/dev/loop0 /bed/run/csi-hostpath/volumes/pvc-1/image\n\
            /dev/loop1 /home/someone/pvc-1-copy.img\n\
            /dev/loop2 /var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-2/uid\n\
            /dev/loop3 /loop4\n\
            /dev/loop4 /bed/run/csi-disk/volumes/pvc-3/block (deleted)\n\
            /dev/loop5 /snap/loop9\n";
        let volumes = ["pvc-1".to_owned(), "pvc-2".to_owned()];
        let found = select_loops(table, Path::new("/bed/run"), &volumes);
        let expected = ["/dev/loop0", "/dev/loop2", "/dev/loop3", "/dev/loop4"];
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}
