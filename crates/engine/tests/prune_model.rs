//! The protocol of a two-phase prune and the writer's fence as a model, explored through every order of steps and every
//! death: a snapshot that a writer has reported stays restorable. No locks and no clocks are in it: neither is needed
//! among Holdfast's own processes. And the same exploration finds the loss when a part of the protocol is left out, so
//! that it is known to look.
//!
//! One blob stands for everything a snapshot needs. It lies in a pack that was indexed before and that no snapshot
//! needs at first; writers may store it again in packs of their own. The pruner marks, and sweeps at any later moment.
//! What the code does in these steps is in `prune` and `fence`; `schedules.rs` walks through the code itself.
#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says what went wrong by failing"
)]

use std::collections::HashSet;

const PRESENT: u8 = 1;
const INDEXED: u8 = 2;
const MARKED: u8 = 4;
/// The first pack, and up to two of each of two writers.
const PACKS: usize = 5;
/// How often a writer saves the blob from marked packs before it gives up.
const RESCUES: u8 = 1;

type Packs = [u8; PACKS];

/// A part of the protocol that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Writers report right after their snapshot is written.
    Fence,
    /// The sweep goes by the snapshots that its marking run has seen.
    RelistOfSnapshots,
    /// Unindexed packs are swept without a mark.
    MarksOfUnindexed,
    /// Packs are deleted in the run that marks them, without another look.
    SecondLook,
    /// Writers rely on packs that are marked already.
    DistrustOfMarked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    LoadIndex,
    PutPack,
    PutIndex(u8),
    PutSnapshot,
    LookAtIndex,
    LookAtPacks,
    Rescue(u8),
    RescueIndex(u8),
    TakeBack,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct WriterState {
    at: Writer,
    /// What it saw of the index when it began, its own additions included.
    known: Packs,
    /// What it sees now.
    seen: Packs,
    rescues: u8,
    snapshot: bool,
    reported: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pruner {
    ListSnapshots,
    LoadIndex,
    ListPacks,
    Mark,
    SweepSnapshots,
    SweepIndex,
    SweepPacks,
    RewriteIndex,
    Delete,
    Unmark,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PrunerState {
    at: Pruner,
    needed: bool,
    seen: Packs,
    /// Packs to delete, and one to take the mark from.
    delete: [bool; PACKS],
    unmark: Option<u8>,
    runs: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    packs: Packs,
    used: u8,
    writers: [WriterState; 2],
    pruner: PrunerState,
}

impl State {
    fn start(writers: usize) -> Self {
        let writer = |live| WriterState {
            at: if live { Writer::LoadIndex } else { Writer::Ended },
            known: [0; PACKS],
            seen: [0; PACKS],
            rescues: 0,
            snapshot: false,
            reported: false,
        };
        let mut packs = [0; PACKS];
        packs[0] = PRESENT | INDEXED;
        Self {
            packs,
            used: 1,
            writers: [writer(true), writer(writers > 1)],
            pruner: PrunerState {
                at: Pruner::ListSnapshots,
                needed: false,
                seen: [0; PACKS],
                delete: [false; PACKS],
                unmark: None,
                runs: 2,
            },
        }
    }

    fn needed(&self) -> bool {
        self.writers.iter().any(|w| w.snapshot)
    }

    /// A reported snapshot can be restored: a pack with the blob is there and in the index.
    fn holds(&self) -> bool {
        let there = self.packs.iter().any(|p| p & (PRESENT | INDEXED) == PRESENT | INDEXED);
        self.writers.iter().all(|w| !w.reported || (w.snapshot && there))
    }

    /// What readers of the index see.
    fn index(&self) -> Packs {
        self.packs.map(|p| p & (INDEXED | MARKED))
    }

    fn next(&self, without: Without) -> Vec<Self> {
        let mut next = Vec::new();
        for number in 0..self.writers.len() {
            if self.writers[number].at != Writer::Ended {
                let mut dead = *self;
                dead.writers[number].at = Writer::Ended;
                next.push(dead);
                next.push(self.write(number, without));
            }
        }
        if self.pruner.at != Pruner::Ended {
            // It dies, and another begins from the start.
            let mut dead = *self;
            dead.pruner.again();
            next.push(dead);
            next.push(self.prune(without));
        }
        next
    }

    fn write(&self, number: usize, without: Without) -> Self {
        let mut s = *self;
        let mut w = s.writers[number];
        let fence = if without == Without::Fence { Writer::Ended } else { Writer::LookAtIndex };
        w.at = match w.at {
            Writer::LoadIndex => {
                w.known = s.index();
                // Only what is indexed and has no mark is relied on.
                let relied = |p: &u8| *p == INDEXED || (*p != 0 && without == Without::DistrustOfMarked);
                if w.known.iter().any(relied) { Writer::PutSnapshot } else { Writer::PutPack }
            }
            Writer::PutPack => {
                let pack = s.used;
                s.packs[usize::from(pack)] = PRESENT;
                s.used += 1;
                Writer::PutIndex(pack)
            }
            Writer::PutIndex(pack) => {
                s.packs[usize::from(pack)] |= INDEXED;
                w.known[usize::from(pack)] = INDEXED;
                Writer::PutSnapshot
            }
            Writer::PutSnapshot => {
                w.snapshot = true;
                w.reported = without == Without::Fence;
                fence
            }
            Writer::LookAtIndex => {
                w.seen = s.index();
                let known = w.known.iter().zip(&w.seen);
                // Nothing it knew is gone or has a mark now. Others' new packs and marks of theirs are no concern, but
                // the code looks closer for these too.
                if known.clone().all(|(k, n)| k == n) {
                    w.reported = true;
                    Writer::Ended
                } else {
                    Writer::LookAtPacks
                }
            }
            Writer::LookAtPacks => {
                let there = |wanted: u8| {
                    (0..PACKS).find(|i| w.seen[*i] == wanted && s.packs[*i] & PRESENT != 0).map(|i| i as u8)
                };
                if there(INDEXED).is_some() {
                    w.reported = true;
                    Writer::Ended
                } else if let Some(pack) = there(INDEXED | MARKED) {
                    if w.rescues == RESCUES { Writer::Ended } else { Writer::Rescue(pack) }
                } else {
                    Writer::TakeBack
                }
            }
            Writer::Rescue(from) => {
                if s.packs[usize::from(from)] & PRESENT == 0 {
                    Writer::TakeBack
                } else {
                    let pack = s.used;
                    s.packs[usize::from(pack)] = PRESENT;
                    s.used += 1;
                    w.rescues += 1;
                    Writer::RescueIndex(pack)
                }
            }
            Writer::RescueIndex(pack) => {
                s.packs[usize::from(pack)] |= INDEXED;
                w.known = w.seen;
                w.known[usize::from(pack)] = INDEXED;
                Writer::LookAtIndex
            }
            Writer::TakeBack => {
                w.snapshot = false;
                Writer::Ended
            }
            Writer::Ended => Writer::Ended,
        };
        s.writers[number] = w;
        s
    }

    fn prune(&self, without: Without) -> Self {
        let mut s = *self;
        let mut p = s.pruner;
        p.at = match p.at {
            Pruner::ListSnapshots => {
                p.needed = s.needed();
                Pruner::LoadIndex
            }
            Pruner::LoadIndex => {
                p.seen = s.index();
                Pruner::ListPacks
            }
            Pruner::ListPacks => {
                p.see_packs(s.packs);
                Pruner::Mark
            }
            Pruner::Mark => {
                let mut keep = p.needed;
                for number in 0..PACKS {
                    match p.seen[number] {
                        // One copy stays when the blob is needed; further ones are waste.
                        seen if seen == PRESENT | INDEXED && keep => keep = false,
                        seen if seen & (PRESENT | MARKED) == PRESENT => {
                            let unindexed = seen & INDEXED == 0;
                            if !(unindexed && without == Without::MarksOfUnindexed) {
                                s.packs[number] |= MARKED;
                            }
                            if without == Without::SecondLook {
                                p.delete[number] = true;
                            }
                        }
                        _ => {}
                    }
                }
                match without {
                    Without::SecondLook => Pruner::RewriteIndex,
                    Without::RelistOfSnapshots => Pruner::SweepIndex,
                    _ => Pruner::SweepSnapshots,
                }
            }
            Pruner::SweepSnapshots => {
                p.needed = s.needed();
                Pruner::SweepIndex
            }
            Pruner::SweepIndex => {
                p.seen = s.index();
                Pruner::SweepPacks
            }
            Pruner::SweepPacks => {
                p.see_packs(s.packs);
                p.decide(without)
            }
            Pruner::RewriteIndex => {
                for number in 0..PACKS {
                    if p.delete[number] {
                        s.packs[number] &= !INDEXED;
                    }
                }
                Pruner::Delete
            }
            Pruner::Delete => match p.delete.iter().position(|d| *d) {
                Some(number) => {
                    s.packs[number] &= !PRESENT;
                    p.delete[number] = false;
                    Pruner::Delete
                }
                None => Pruner::Unmark,
            },
            Pruner::Unmark => {
                if let Some(number) = p.unmark {
                    s.packs[usize::from(number)] &= !MARKED;
                }
                p.again();
                p.at
            }
            Pruner::Ended => Pruner::Ended,
        };
        s.pruner = p;
        s
    }
}

impl PrunerState {
    fn see_packs(&mut self, packs: Packs) {
        for (seen, pack) in self.seen.iter_mut().zip(packs) {
            *seen |= pack & PRESENT;
        }
    }

    fn decide(&mut self, without: Without) -> Pruner {
        let unmarked = self.seen.contains(&(PRESENT | INDEXED));
        let mut rescue = self.needed && !unmarked;
        for (number, seen) in self.seen.iter().enumerate() {
            if *seen == PRESENT | INDEXED | MARKED && rescue {
                self.unmark = Some(number as u8);
                rescue = false;
            } else if seen & (PRESENT | MARKED) == PRESENT | MARKED
                || (*seen == PRESENT && without == Without::MarksOfUnindexed)
            {
                self.delete[number] = true;
            }
        }
        if rescue {
            // A needed blob is nowhere: the guard refuses.
            self.again();
            return self.at;
        }
        Pruner::RewriteIndex
    }

    fn again(&mut self) {
        let runs = self.runs.saturating_sub(1);
        let at = if runs == 0 { Pruner::Ended } else { Pruner::ListSnapshots };
        *self = Self { at, needed: false, seen: [0; PACKS], delete: [false; PACKS], unmark: None, runs };
    }
}

/// States met, and the first in which a reported snapshot cannot be restored.
fn explore(writers: usize, without: Without) -> (HashSet<State>, Option<State>) {
    let mut met = HashSet::new();
    let mut open = vec![State::start(writers)];
    while let Some(state) = open.pop() {
        if !met.insert(state) {
            continue;
        }
        if !state.holds() {
            return (met, Some(state));
        }
        open.extend(state.next(without));
    }
    (met, None)
}

#[test]
fn reported_snapshots_stay_restorable_in_every_order_of_steps() {
    for writers in [1, 2] {
        let (met, lost) = explore(writers, Without::Nothing);
        assert_eq!(lost, None, "{writers} writers");
        // It went everywhere: reports with and without a rescue, snapshots taken back, packs deleted.
        let any =
            |what: &str, hit: &dyn Fn(&State) -> bool| assert!(met.iter().any(hit), "{writers}: no {what}");
        any("report", &|s| s.writers[0].reported && s.writers[0].rescues == 0);
        any("rescue", &|s| s.writers[0].reported && s.writers[0].rescues > 0);
        any("snapshot taken back", &|s| s.writers[0].at == Writer::TakeBack);
        any("deletion", &|s| s.packs[0] & PRESENT == 0);
        any("mark taken away", &|s| s.pruner.unmark.is_some());
        any("report after a deletion", &|s| s.writers[0].reported && s.packs[0] & PRESENT == 0);
    }
}

#[test]
fn each_part_of_the_protocol_is_needed() {
    for without in [
        Without::Fence,
        Without::RelistOfSnapshots,
        Without::DistrustOfMarked,
        Without::MarksOfUnindexed,
        Without::SecondLook,
    ] {
        assert!(
            explore(2, without).1.is_some(),
            "without {without:?} nothing is lost: the model does not look there"
        );
    }
}
