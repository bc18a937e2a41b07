//! Plans on small indexes made by hand.

use std::collections::HashMap;

use super::plan::{Fate, View, check_loss, orphans_to_mark, plan, plan_sweep};
use super::*;
use crate::format::index_file::{IndexFile, IndexedPack};
use crate::format::pack::{BlobKind, PackedBlob};
use crate::index::{Index, IndexBuilder};
use crate::store::Entry;

const BLOB: u32 = 1000;

/// A repository of packs; every blob is a letter, of a thousand bytes, and capital letters are needed.
struct Scene {
    index: Index,
    needed: BlobSet,
    marks: HashMap<Id, Timestamp>,
    listed: HashMap<Id, Entry>,
}

fn pack_id(number: usize) -> Id {
    Id::hash(&number.to_le_bytes())
}

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + hours * 3600).unwrap()
}

impl Scene {
    /// `marked` packs are so since hour 0.
    fn new(packs: &[&str], marked: &[usize]) -> Self {
        let mut builder = IndexBuilder::new();
        let blob_id = |letter: char| Id::hash(letter.to_ascii_lowercase().to_string().as_bytes());
        let packs_of_file: Vec<IndexedPack> = packs
            .iter()
            .enumerate()
            .map(|(number, letters)| IndexedPack {
                id: pack_id(number),
                blobs: letters
                    .chars()
                    .zip(0_u32..)
                    .map(|(letter, n)| PackedBlob {
                        kind: BlobKind::Data,
                        id: blob_id(letter),
                        offset: n * BLOB,
                        length: BLOB,
                        uncompressed: Some(5000),
                    })
                    .collect(),
                marked: false,
            })
            .collect();
        let marks: Vec<Id> = marked.iter().map(|number| pack_id(*number)).collect();
        builder.add(Id::hash(b"file"), IndexFile { packs: packs_of_file, marks: marks.clone() });
        let index = builder.finish();
        let needed = BlobSet::new(&index);
        for letter in packs.iter().flat_map(|p| p.chars()).filter(char::is_ascii_uppercase) {
            needed.insert(index.ordinal(BlobKind::Data, &blob_id(letter)).unwrap());
        }
        let listed = index
            .packs()
            .iter()
            .map(|p| (p.id, Entry { id: p.id, size: p.size, modified: Some(at(0).as_second()) }))
            .collect();
        Self { index, needed, marks: marks.into_iter().map(|id| (id, at(0))).collect(), listed }
    }

    fn view(&self) -> View<'_> {
        View { index: &self.index, needed: &self.needed, marks: &self.marks, listed: &self.listed }
    }

    /// The fate of each pack, in the order they were given.
    fn fates(&self, spec: &PruneSpec) -> Vec<Fate> {
        let planned = plan(&self.view(), spec).unwrap();
        (0..self.index.packs().len())
            .map(|number| {
                let position = self.index.packs().iter().position(|p| p.id == pack_id(number)).unwrap();
                planned.fates[position]
            })
            .collect()
    }

    fn moves(&self, spec: &PruneSpec) -> usize {
        plan(&self.view(), spec).unwrap().moves.len()
    }

    fn sweep(&self, hour: i64) -> (Vec<usize>, Vec<usize>) {
        let sweep = plan_sweep(&self.view(), SignedDuration::from_hours(24), at(hour)).unwrap();
        let numbers = |ids: &[Id]| {
            let mut numbers: Vec<usize> =
                ids.iter().map(|id| (0..99).find(|n| pack_id(*n) == *id).unwrap()).collect();
            numbers.sort_unstable();
            numbers
        };
        (numbers(&sweep.delete), numbers(&sweep.unmark))
    }
}

fn all_of_it() -> PruneSpec {
    PruneSpec { max_unused: MaxUnused::Bytes(0), ..PruneSpec::default() }
}

#[test]
fn unneeded_packs_are_marked_and_mixed_ones_moved() {
    let scene = Scene::new(&["ABC", "def", "Ghi"], &[]);
    assert_eq!(scene.fates(&all_of_it()), [Fate::Keep, Fate::Mark, Fate::Repack]);
    assert_eq!(scene.moves(&all_of_it()), 1);
    let unlimited =
        PruneSpec { max_unused: MaxUnused::Unlimited, repack_below: Some(1), ..PruneSpec::default() };
    assert_eq!(scene.fates(&unlimited), [Fate::Keep, Fate::Mark, Fate::Keep]);
    let bounded = PruneSpec { max_repack: Some(100), ..all_of_it() };
    assert_eq!(scene.fates(&bounded), [Fate::Keep, Fate::Mark, Fate::Keep]);
    let trees = PruneSpec { trees_only: true, ..all_of_it() };
    assert_eq!(scene.fates(&trees), [Fate::Keep, Fate::Mark, Fate::Keep]);
}

#[test]
fn the_most_wasteful_goes_first_and_moving_ends_when_little_waste_is_left() {
    let scene = Scene::new(&["ABCd", "Efgh", "IJKLMNOPQR"], &[]);
    // 4 of 18 are waste; 1 of 15 is below a tenth.
    let spec =
        PruneSpec { max_unused: MaxUnused::Percent(10.0), repack_below: Some(1), ..PruneSpec::default() };
    assert_eq!(scene.fates(&spec), [Fate::Keep, Fate::Repack, Fate::Keep]);
}

#[test]
fn one_copy_of_each_needed_blob_stays() {
    // A repack that died left copies: the pack of copies alone is kept, and the old one is waste as a whole.
    let scene = Scene::new(&["Abc", "A"], &[]);
    assert_eq!(scene.fates(&all_of_it()), [Fate::Mark, Fate::Keep]);
    // Whatever is chosen, it is moved or kept once.
    let scene = Scene::new(&["ABx", "AyB"], &[]);
    assert_eq!(scene.moves(&all_of_it()), 2);
}

#[test]
fn ten_small_packs_become_one_and_nine_are_left_alone() {
    let letters: Vec<String> = ('A'..='J').map(String::from).collect();
    let packs: Vec<&str> = letters.iter().map(String::as_str).collect();
    assert_eq!(Scene::new(&packs[..9], &[]).moves(&all_of_it()), 0);
    assert_eq!(Scene::new(&packs, &[]).moves(&all_of_it()), 10);
}

#[test]
fn marked_packs_wait_go_or_are_needed_again() {
    let scene = Scene::new(&["AB", "AB", "cd", "E", "f"], &[1, 2, 3]);
    let fates = scene.fates(&all_of_it());
    assert_eq!(fates, [Fate::Keep, Fate::Waits, Fate::Waits, Fate::NeededAgain, Fate::Mark]);
    assert_eq!(scene.sweep(23), (vec![], vec![3]));
    assert_eq!(scene.sweep(24), (vec![1, 2], vec![3]));
    // Two marked copies of a needed blob: one loses its mark, and the other may go.
    let scene = Scene::new(&["A", "A"], &[0, 1]);
    let (gone, kept) = scene.sweep(24);
    assert_eq!((gone.len(), kept.len()), (1, 1));
}

#[test]
fn a_needed_blob_that_is_missing_stops_everything() {
    let mut scene = Scene::new(&["AB", "c"], &[]);
    let entry = scene.listed.remove(&pack_id(0)).unwrap();
    assert_eq!(plan(&scene.view(), &all_of_it()).unwrap_err().kind(), ErrorKind::Guard);
    // A pack of another size than the index says is as good as missing.
    scene.listed.insert(entry.id, Entry { size: entry.size - 1, ..entry });
    assert_eq!(plan(&scene.view(), &all_of_it()).unwrap_err().kind(), ErrorKind::Guard);
    assert!(plan_sweep(&scene.view(), SignedDuration::ZERO, at(99)).is_err());
    // Nobody needs this one: its entries are all there is to remove.
    let mut scene = Scene::new(&["AB", "c"], &[]);
    scene.listed.remove(&pack_id(1));
    assert_eq!(scene.fates(&all_of_it()), [Fate::Keep, Fate::Absent]);
    let sweep = plan_sweep(&scene.view(), SignedDuration::ZERO, at(99)).unwrap();
    assert_eq!((sweep.absent, sweep.delete), (vec![pack_id(1)], vec![]));
}

#[test]
fn losing_more_than_half_needs_to_be_allowed() {
    let scene = Scene::new(&["abc", "AB", "ABx"], &[]);
    let go = |list: &'static [usize]| {
        let gone: Vec<Id> = list.iter().map(|n| pack_id(*n)).collect();
        let packs = scene.index.packs().to_vec();
        check_loss(&scene.view(), move |n| gone.contains(&packs[n as usize].id), false).is_ok()
    };
    // Different content: a b c x, of which a and b lie in all three.
    assert!(go(&[0, 1]), "another copy of a and b is left");
    assert!(!go(&[0, 1, 2]));
    assert!(check_loss(&scene.view(), |_| true, true).is_ok());
}

#[test]
fn unindexed_packs_are_marked_when_they_are_old_and_go_by_their_mark() {
    let mut scene = Scene::new(&["A"], &[]);
    let orphan = pack_id(7);
    scene.listed.insert(orphan, Entry { id: orphan, size: 9, modified: Some(at(0).as_second()) });
    assert!(orphans_to_mark(&scene.view(), at(0), true).is_empty(), "young");
    assert_eq!(orphans_to_mark(&scene.view(), at(1), false).len(), 1);
    let sweep = |scene: &Scene, hour| {
        plan_sweep(&scene.view(), SignedDuration::from_hours(24), at(hour)).unwrap().orphans
    };
    assert!(sweep(&scene, 1000).is_empty(), "without a mark it stays, however old");
    scene.marks.insert(orphan, at(1));
    assert!(orphans_to_mark(&scene.view(), at(2), true).is_empty(), "marked already");
    assert!(sweep(&scene, 24).is_empty());
    assert_eq!(sweep(&scene, 25), [orphan]);
    // Where the store does not tell the age, it is only marked when nobody is at work.
    scene.marks.clear();
    scene.listed.insert(orphan, Entry { id: orphan, size: 9, modified: None });
    assert!(orphans_to_mark(&scene.view(), at(9), false).is_empty());
    assert_eq!(orphans_to_mark(&scene.view(), at(9), true).len(), 1);
}
