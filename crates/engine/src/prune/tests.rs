//! Plans on small indexes made by hand.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::plan::{Fate, Sweep, View, check_loss, orphans_to_mark, plan, plan_sweep};
use super::*;
use crate::format::index_file::{IndexFile, IndexedPack};
use crate::format::pack::{BlobKind, PackedBlob};
use crate::format::records::ForgottenRecord;
use crate::index::{Index, IndexBuilder};
use crate::lock::{Holder, Unlock};
use crate::repository::testing::{Fixture, fixture};
use crate::store::fault::{Fault, Operation, Trouble};
use crate::store::{Entry, FileName, PutMode};

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
        check_loss(&scene.view(), move |n, _| gone.contains(&packs[n as usize].id), |_| true, false).is_ok()
    };
    // Different content: a b c x, of which a and b lie in all three.
    assert!(go(&[0, 1]), "another copy of a and b is left");
    assert!(!go(&[0, 1, 2]));
    assert!(check_loss(&scene.view(), |_, _| true, |_| true, true).is_ok());
}

#[test]
fn what_no_index_lists_counts_as_well_and_hides_nothing() {
    // Of 4000 bytes in the index 1000 go, or 3000.
    for (needed, least) in [("ABCd", 1000), ("Abcd", 3000)] {
        let mut scene = Scene::new(&[needed], &[]);
        let check = |scene: &Scene, orphans: bool| {
            check_loss(&scene.view(), |_, needed| !needed, |_| orphans, false).map_err(|e| e.to_string())
        };
        assert_eq!(check(&scene, true).is_ok(), least == 1000);
        let orphan = pack_id(7);
        scene.listed.insert(orphan, Entry { id: orphan, size: 7000, modified: None });
        let lost = check(&scene, true).unwrap_err();
        assert_eq!(lost.contains("repair index"), least == 1000, "{lost}");
        assert_eq!(check(&scene, false).is_ok(), least == 1000, "what stays beside it makes it no smaller");
    }
}

#[test]
fn sizes_that_a_store_makes_up_overflow_nothing() {
    let mut scene = Scene::new(&["AB", "c"], &[]);
    for number in 7..10 {
        let id = pack_id(number);
        scene.listed.insert(id, Entry { id, size: u64::MAX - 1, modified: None });
        scene.marks.insert(id, at(0));
    }
    assert_eq!(plan(&scene.view(), &all_of_it()).unwrap().totals.unindexed_bytes, u64::MAX);
    let sweep = plan_sweep(&scene.view(), SignedDuration::ZERO, at(1)).unwrap();
    assert_eq!((sweep.orphans.len(), sweep.orphan_bytes), (3, u64::MAX));
    assert!(check_loss(&scene.view(), |_, _| false, |_| true, false).is_err());
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
    scene.marks.insert(orphan, at(2 + 25));
    assert_eq!(orphans_to_mark(&scene.view(), at(2), true).len(), 1, "by a clock that was far ahead");
    scene.marks.insert(orphan, at(1));
    assert!(sweep(&scene, 24).is_empty());
    assert_eq!(sweep(&scene, 25), [orphan]);
    // Where the store does not tell the age, it is only marked when nobody is at work.
    scene.marks.clear();
    scene.listed.insert(orphan, Entry { id: orphan, size: 9, modified: None });
    assert!(orphans_to_mark(&scene.view(), at(9), false).is_empty());
    assert_eq!(orphans_to_mark(&scene.view(), at(9), true).len(), 1);
}

/// Any repository: packs with blobs of both kinds in as many copies as there are, needed or not; marks with and without a
/// time; packs that are gone or of a wrong size.
#[derive(Debug, Clone)]
#[expect(clippy::option_option, reason = "without a mark, with one, and with one that says since when")]
struct Drawn {
    packs: Vec<Vec<u8>>,
    /// For each pack whether it is marked, and since which hour.
    marks: Vec<Option<Option<i64>>>,
    /// For each pack: gone, of a wrong size, else whole.
    state: Vec<u8>,
    needed: HashSet<u8>,
    /// Since which hour packs that no index lists are marked.
    orphans: Vec<Option<i64>>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let blobs = proptest::collection::hash_set(0_u8..16, 1..6);
    let mark = proptest::option::weighted(0.4, proptest::option::weighted(0.9, 0_i64..48));
    let pack = (blobs, mark, 0_u8..12);
    let needed = proptest::collection::hash_set(0_u8..16, 0..16);
    let orphans = proptest::collection::vec(proptest::option::of(0_i64..48), 0..3);
    (proptest::collection::vec(pack, 1..20), needed, orphans).prop_map(|(packs, needed, orphans)| {
        let (mut drawn, mut marks, mut state) = (Vec::new(), Vec::new(), Vec::new());
        for (blobs, mark, how) in packs {
            drawn.push(blobs.into_iter().collect());
            marks.push(mark);
            state.push(how);
        }
        Drawn { packs: drawn, marks, state, needed, orphans }
    })
}

fn drawn_spec() -> impl Strategy<Value = PruneSpec> {
    let unused = prop_oneof![
        Just(MaxUnused::Bytes(0)),
        (0_u64..9000).prop_map(MaxUnused::Bytes),
        (0_f64..99.0).prop_map(MaxUnused::Percent),
        Just(MaxUnused::Unlimited),
    ];
    let (most, below) = (proptest::option::of(0_u64..20_000), proptest::option::of(0_u64..6000));
    (unused, most, below, proptest::bool::ANY).prop_map(
        |(max_unused, max_repack, repack_below, trees_only)| PruneSpec {
            max_unused,
            max_repack,
            repack_below,
            trees_only,
            ..PruneSpec::default()
        },
    )
}

/// What a blob's number says of it.
fn drawn_blob(number: u8) -> (BlobKind, Id) {
    (if number.is_multiple_of(3) { BlobKind::Tree } else { BlobKind::Data }, Id::hash(&[number]))
}

impl Drawn {
    fn scene(&self) -> Scene {
        let packed = |(number, n): (&u8, u32)| {
            let (kind, id) = drawn_blob(*number);
            PackedBlob { kind, id, offset: n * BLOB, length: BLOB, uncompressed: Some(5000) }
        };
        let packs = self.packs.iter().enumerate().map(|(number, blobs)| IndexedPack {
            id: pack_id(number),
            blobs: blobs.iter().zip(0_u32..).map(packed).collect(),
            marked: false,
        });
        let marked = self.marks.iter().enumerate().filter(|(_, mark)| mark.is_some());
        let file =
            IndexFile { packs: packs.collect(), marks: marked.map(|(number, _)| pack_id(number)).collect() };
        let mut builder = IndexBuilder::new();
        builder.add(Id::hash(b"file"), file);
        let index = builder.finish();
        let needed = BlobSet::new(&index);
        for number in &self.needed {
            let (kind, id) = drawn_blob(*number);
            // What no pack has is found to be missing before there is a plan.
            if let Some(position) = index.ordinal(kind, &id) {
                needed.insert(position);
            }
        }
        let mut listed = HashMap::new();
        for (number, state) in self.state.iter().enumerate() {
            let id = pack_id(number);
            let size = index.packs().iter().find(|p| p.id == id).unwrap().size;
            if *state != 0 {
                listed.insert(id, Entry { id, size: size - u64::from(*state == 1), modified: None });
            }
        }
        let times = self.marks.iter().enumerate();
        let mut marks: HashMap<Id, Timestamp> =
            times.filter_map(|(number, mark)| Some((pack_id(number), at((*mark)??)))).collect();
        for (number, mark) in self.orphans.iter().enumerate() {
            let id = pack_id(1000 + number);
            listed.insert(id, Entry { id, size: 9, modified: None });
            marks.extend(mark.map(|hour| (id, at(hour))));
        }
        Scene { index, needed, marks, listed }
    }

    /// Packs of which a needed blob can be read, by the blob.
    fn copies(&self) -> Vec<(u8, Vec<usize>)> {
        let stored = |number: &u8| self.packs.iter().any(|blobs| blobs.contains(number));
        let mut needed: Vec<u8> = self.needed.iter().copied().filter(stored).collect();
        needed.sort_unstable();
        let whole = |number: u8| {
            let packs = self.packs.iter().zip(&self.state).enumerate();
            packs
                .filter(move |(_, (blobs, state))| **state > 1 && blobs.contains(&number))
                .map(|(pack, _)| pack)
        };
        needed.into_iter().map(|number| (number, whole(number).collect())).collect()
    }
}

/// Whatever goes, each needed blob stays readable in a pack without a mark, or one that loses it; and nothing goes before its
/// time.
fn assert_sweep_is_safe(drawn: &Drawn, scene: &Scene, grace: SignedDuration, now: Timestamp) {
    let sweep = plan_sweep(&scene.view(), grace, now).unwrap();
    let delete: HashSet<Id> = sweep.delete.iter().copied().collect();
    for (blob, copies) in drawn.copies() {
        let stays = copies.iter().any(|pack| {
            let id = pack_id(*pack);
            !delete.contains(&id) && (drawn.marks[*pack].is_none() || sweep.unmark.contains(&id))
        });
        assert!(stays, "blob {blob} in packs {copies:?} is lost: {sweep:?}");
    }
    for id in delete.iter().chain(&sweep.orphans) {
        let since = scene.marks.get(id).unwrap_or_else(|| panic!("{id} has no mark with a time"));
        assert!(since.checked_add(grace).unwrap() <= now, "{id} goes too early");
    }
    let indexed: HashSet<Id> = scene.index.packs().iter().map(|p| p.id).collect();
    assert!(sweep.orphans.iter().all(|id| !indexed.contains(id)));
    assert!(sweep.absent.iter().all(|id| !scene.listed.contains_key(id)));
    assert!(sweep.unmark.iter().all(|id| !delete.contains(id)));
}

proptest::proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_plan_loses_a_needed_blob(drawn in drawn(), spec in drawn_spec(), now in 0_i64..96) {
        let scene = drawn.scene();
        let copies = drawn.copies();
        let lost = copies.iter().any(|(_, packs)| packs.is_empty());
        let (now, day) = (at(now), SignedDuration::from_hours(24));
        let planned = match plan(&scene.view(), &spec) {
            Err(e) => {
                prop_assert_eq!(e.kind(), ErrorKind::Guard);
                prop_assert!(lost, "all that is needed is there: {}", e.chain());
                prop_assert!(plan_sweep(&scene.view(), day, now).is_err(), "nothing is swept then");
                return Ok(());
            }
            Ok(planned) => planned,
        };
        prop_assert!(!lost, "a needed blob is nowhere, and something is planned");
        let fate = |pack: usize| {
            let position = scene.index.packs().iter().position(|p| p.id == pack_id(pack)).unwrap();
            planned.fates[position]
        };
        let mut moved: HashMap<(BlobKind, Id), Id> = HashMap::new();
        for wanted in &planned.moves {
            let from = scene.index.packs()[wanted.place.pack as usize].id;
            prop_assert!(moved.insert((wanted.kind, wanted.id), from).is_none(), "it is moved twice");
        }
        for (blob, packs) in &copies {
            let stays = packs.iter().any(|pack| matches!(fate(*pack), Fate::Keep | Fate::NeededAgain));
            let from = moved.get(&drawn_blob(*blob));
            let moves = packs.iter().any(|p| from == Some(&pack_id(*p)) && fate(*p) == Fate::Repack);
            prop_assert!(stays || moves, "blob {} in packs {:?} neither stays nor moves: {:?}", blob, packs, planned);
        }
        prop_assert!(spec.max_repack.is_none_or(|most| planned.totals.repack_bytes <= most));

        assert_sweep_is_safe(&drawn, &scene, day, now);
        // What an instant prune does: the moved are in a new pack, what was planned has its mark, and all of it goes.
        let mut after = drawn.clone();
        for (pack, mark) in after.marks.iter_mut().enumerate() {
            if matches!(fate(pack), Fate::Mark | Fate::Repack) {
                *mark = Some(Some(0));
            }
        }
        let new = (0..16).filter(|number| moved.contains_key(&drawn_blob(*number))).collect::<Vec<u8>>();
        if !new.is_empty() {
            after.packs.push(new);
            after.marks.push(None);
            after.state.push(9);
        }
        assert_sweep_is_safe(&after, &after.scene(), SignedDuration::ZERO, at(96));
    }
}

#[tokio::test]
async fn nothing_more_is_deleted_once_the_lock_is_lost() {
    let fixture = fixture().await;
    let holder = Holder::this_process("h", "u");
    let ctx = Ctx::default();
    let repo = &fixture.repo;
    let lock = repo.lock(LockMode::Exclusive, &holder, Duration::ZERO, &[], &ctx).await.unwrap();
    let names = [1, 2].map(|number| FileName { kind: FileKind::Pack, id: pack_id(number) });
    for name in names {
        let body = bytes::Bytes::from_static(b"a pack");
        repo.store().put(name, body.into(), PutMode::ContentAddressed).await.unwrap();
    }
    let (first, second) = (names.into_iter().take(1), names.into_iter().skip(1));
    assert_eq!(sweep::delete_all(repo, &lock, first).await.unwrap(), [(names[0], None)]);
    repo.unlock(Unlock::All).await.unwrap();
    // As the one who keeps it fresh finds out, between two looks of the sweep.
    assert_eq!(lock.confirm().await.unwrap_err().kind(), ErrorKind::LockLost);
    let error = sweep::delete_all(repo, &lock, second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost);
    let left = repo.store().list(FileKind::Pack).await.unwrap();
    assert_eq!(left.into_iter().map(|entry| entry.id).collect::<Vec<_>>(), [names[1].id]);
}

async fn alone(repo: &Repository) -> LockGuard {
    let holder = Holder::this_process("h", "u");
    repo.lock(LockMode::Exclusive, &holder, Duration::ZERO, &[], &Ctx::default()).await.unwrap()
}

/// Writes an index file of these packs, by their numbers, with a blob for each letter.
async fn index_file(repo: &Repository, packs: &[(usize, &str)]) -> Id {
    let blob = |letter: char| PackedBlob {
        kind: BlobKind::Data,
        id: Id::hash(&[u8::try_from(letter).unwrap()]),
        offset: u32::from(letter) * BLOB,
        length: BLOB,
        uncompressed: Some(5000),
    };
    let listed = packs.iter().map(|(number, letters)| IndexedPack {
        id: pack_id(*number),
        blobs: letters.chars().map(blob).collect(),
        marked: false,
    });
    let json = IndexFile::to_json(&listed.collect::<Vec<_>>()).unwrap();
    repo.save_unpacked(FileKind::Index, &json).await.unwrap()
}

/// What the index lists of each pack, as [`index_file`] takes it.
async fn indexed(repo: &Repository) -> Vec<(usize, String)> {
    let index = repo.load_index(&Ctx::default()).await.unwrap();
    let by_pack = index.by_pack();
    let letter = |id: Id| ('a'..='z').find(|l| Id::hash(&[u8::try_from(*l).unwrap()]) == id).unwrap();
    let packs = (0_u32..).zip(index.packs()).map(|(number, pack)| {
        let letters = by_pack.blobs(number).iter().map(|blob| letter(blob.id)).collect();
        ((0..99).find(|n| pack_id(*n) == pack.id).unwrap(), letters)
    });
    let mut packs: Vec<(usize, String)> = packs.collect();
    packs.sort_unstable();
    packs
}

#[tokio::test]
async fn of_a_pack_that_two_index_files_list_no_blob_is_lost() {
    let fixture = fixture().await;
    let (repo, ctx) = (&fixture.repo, Ctx::default());
    // Whichever is read first, the other one has a blob more; so has the second listing in one file.
    for files in [[(1, "ab"), (9, "x")], [(1, "ac"), (9, "x")]] {
        index_file(repo, &files).await;
    }
    index_file(repo, &[(2, "d"), (2, "de"), (9, "x")]).await;
    let lock = alone(repo).await;
    let facts = facts::load(repo, &[], &ctx).await.unwrap();
    let drop = HashSet::from([pack_id(9)]);
    let left = sweep::rewrite_index(repo, &lock, &facts, &drop, &ctx).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(indexed(repo).await, [(1, "abc".to_owned()), (2, "de".to_owned())]);
    assert_eq!(repo.store().list(FileKind::Index).await.unwrap().len(), 1);
    lock.release().await.unwrap();
}

/// Sweeps what is left of the packs 8 and 9, while the store refuses so many deletions of index files; the numbers of the
/// packs that stay, and how many index files there are.
async fn sweep_beside_refusals(fixture: &Fixture, refused: u32) -> (Vec<usize>, usize) {
    let (repo, ctx) = (&fixture.repo, Ctx::default());
    let trouble = Trouble::Fail(ErrorKind::AccessDenied);
    let fault = Fault::once(Operation::Delete, FileKind::Index, trouble);
    fixture.faults.add(Fault { times: refused, ..fault });
    let lock = alone(repo).await;
    let facts = facts::load(repo, &[], &ctx).await.unwrap();
    let due = [8, 9].map(pack_id).into_iter().filter(|id| facts.listed.contains_key(id));
    let plan = Sweep { delete: due.collect(), ..Sweep::default() };
    let swept = sweep::carry_out(repo, &lock, &facts, &plan, &HashSet::new(), false, &ctx).await.unwrap();
    fixture.faults.heal();
    lock.release().await.unwrap();
    let listed = repo.store().list(FileKind::Pack).await.unwrap();
    let mut left: Vec<usize> =
        listed.iter().map(|e| (0..99).find(|n| pack_id(*n) == e.id).unwrap()).collect();
    left.sort_unstable();
    assert_eq!(usize::try_from(swept.packs).unwrap() + swept.retained.len(), plan.delete.len());
    (left, repo.store().list(FileKind::Index).await.unwrap().len())
}

#[tokio::test]
async fn an_index_file_that_has_to_stay_keeps_its_packs_alone_and_is_written_anew_once() {
    let fixture = fixture().await;
    let repo = &fixture.repo;
    for number in [1, 2, 8, 9] {
        let name = FileName { kind: FileKind::Pack, id: pack_id(number) };
        let body = bytes::Bytes::from_static(b"a pack");
        repo.store().put(name, body.into(), PutMode::ContentAddressed).await.unwrap();
    }
    index_file(repo, &[(1, "a"), (8, "x")]).await;
    index_file(repo, &[(2, "b"), (9, "y")]).await;
    let (left, files) = sweep_beside_refusals(&fixture, 1).await;
    assert!(left == [1, 2, 8] || left == [1, 2, 9], "{left:?}");
    assert_eq!(files, 2, "the one that stays, and the new one");
    for _ in 0..2 {
        assert_eq!(sweep_beside_refusals(&fixture, 1).await, (left.clone(), 2), "nothing changes");
    }
    assert_eq!(sweep_beside_refusals(&fixture, 0).await, (vec![1, 2], 1));
    assert_eq!(indexed(repo).await, [(1, "a".to_owned()), (2, "b".to_owned())]);
}

#[tokio::test]
async fn records_are_spread_over_files_that_can_be_read_and_no_other_is_written() {
    let since = at(0);
    let mark = |number: usize| Mark { pack: pack_id(number), since, by: String::new() };
    let record = |number: usize, bytes: usize| ForgottenRecord {
        snapshot: pack_id(number),
        at: since,
        sealed: vec![0; bytes],
    };
    let count = |records: &Records| -> Vec<(usize, usize)> {
        sweep::parts(records).map(|part| (part.marks.len(), part.forgotten.len())).collect()
    };
    let large = Records { forgotten: (0..3).map(|n| record(n, 40 << 20)).collect(), ..Records::default() };
    assert_eq!(count(&large), [(0, 1), (0, 1), (0, 1)]);
    let marks = (0..=sweep::MARKS_A_FILE).map(mark).collect();
    let many = Records { marks, forgotten: (0..10).map(|n| record(n, 500)).collect() };
    assert_eq!(count(&many), [(sweep::MARKS_A_FILE, 10), (1, 0)]);
    assert_eq!(count(&Records::default()), []);

    let fixture = fixture().await;
    let (repo, ctx) = (&fixture.repo, Ctx::default());
    let lots = Records { marks: vec![mark(1)], forgotten: (0..1001).map(|n| record(n, 50)).collect() };
    sweep::save_records(repo, &lots).await.unwrap();
    let facts = facts::load(repo, &[], &ctx).await.unwrap();
    let found: Vec<usize> = facts.records.iter().map(|(_, records)| records.forgotten.len()).collect();
    assert_eq!((found.iter().max(), found.iter().sum::<usize>()), (Some(&1000), 1001));

    // Locks stand for all that are not snapshots, since theirs are the shortest files.
    let mut noise = vec![0_u8; 2 << 20];
    crate::crypto::random(&mut noise).unwrap();
    let json = serde_json::to_vec(&data_encoding::BASE64.encode(&noise)).unwrap();
    let json = [b"[".as_slice(), &json, b"]"].concat();
    let error = crate::pipeline::save(repo, FileKind::Lock, &json).await.unwrap_err();
    assert!(error.chain().contains("none is read that has more than"), "{}", error.chain());
    assert!(repo.store().list(FileKind::Lock).await.unwrap().is_empty(), "it was not written");
}

/// Somebody takes the lock of a sweep away and prunes, after the sweep has read the index and before it writes it.
#[tokio::test]
async fn a_sweep_that_lost_its_lock_leaves_no_word_of_packs_that_another_deleted() {
    let fixture = fixture().await;
    let (repo, ctx) = (&fixture.repo, Ctx::default());
    let pack = |number| FileName { kind: FileKind::Pack, id: pack_id(number) };
    for number in [1, 2, 9] {
        let body = bytes::Bytes::from_static(b"a pack");
        repo.store().put(pack(number), body.into(), PutMode::ContentAddressed).await.unwrap();
    }
    let old = index_file(repo, &[(1, "a"), (2, "b"), (9, "x")]).await;
    let lock = alone(repo).await;
    let facts = facts::load(repo, &[], &ctx).await.unwrap();
    let puts = fixture.faults.count(Operation::Put, FileKind::Index);
    let late = Trouble::Delay(Duration::from_millis(500));
    fixture.faults.add(Fault::once(Operation::Put, FileKind::Index, late));
    let another = async {
        while fixture.faults.count(Operation::Put, FileKind::Index) == puts {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        repo.unlock(Unlock::All).await.unwrap();
        let at_work = alone(repo).await;
        repo.store().delete(FileName { kind: FileKind::Index, id: old }).await.unwrap();
        repo.store().delete(pack(2)).await.unwrap();
        at_work
    };
    let drop = HashSet::from([pack_id(9)]);
    let (swept, at_work) = tokio::join!(sweep::rewrite_index(repo, &lock, &facts, &drop, &ctx), another);
    assert_eq!(swept.unwrap_err().kind(), ErrorKind::LockLost);
    assert_eq!(indexed(repo).await, [(1, "a".to_owned())]);
    let index = repo.load_index(&ctx).await.unwrap();
    assert!(index.packs().iter().all(|pack| !pack.marked), "it would be all of the repository");
    at_work.release().await.unwrap();
}
