//! A few seconds of every fuzz target: each seed as it is, and mutations of the seeds that are the same in every
//! run. Coverage-guided runs start from the same seeds (`cargo xtask fuzz`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "the room of a crate of its own, whose way to fail is a panic"
)]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

use targets::TARGETS;

/// What breaks parsers of these formats.
const TOKENS: [&[u8]; 24] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[[[[[[[[[",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\\xff",
    b"null",
    b"true",
    b"-1",
    b"4294967296",
    b"18446744073709551616",
    b"1e999",
    b"0.1",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x00",
    b"\xef\xbb\xbf",
    b"9999-12-31T23:59:59.999999999-23:59",
    b"../",
    b",",
];

/// Numbers that are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap()
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() % limit.max(1)
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let place = self.below(bytes.len() + 1);
            let end = (place + 1 + self.below(16)).min(bytes.len());
            match self.below(8) {
                0 if place < bytes.len() => bytes[place] ^= 1 << self.below(8),
                1 if place < bytes.len() => bytes[place] = u8::try_from(self.below(256)).unwrap(),
                2 => drop(bytes.drain(place.min(end)..end)),
                3 => bytes.truncate(place),
                4 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    let tail = other[from..].to_vec();
                    bytes.truncate(place);
                    bytes.extend(tail);
                }
                5 => {
                    let copy = bytes[place.min(end)..end].to_vec();
                    bytes.splice(place..place, copy);
                }
                6 => bytes.extend((0..self.below(24)).map(|_| u8::try_from(self.below(256)).unwrap())),
                _ => {
                    let token = TOKENS[self.below(TOKENS.len())];
                    let until = if self.below(2) == 0 { place } else { end.max(place) };
                    bytes.splice(place..until, token.iter().copied());
                }
            }
        }
        bytes.truncate(1 << 16);
        bytes
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&at)
        .unwrap_or_else(|e| panic!("{}: {e}", at.display()))
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no seeds", at.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn run(name: &str, mutations: usize) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no target {name}"));
    let seeds = seeds(name);
    for seed in &seeds {
        target(seed);
    }
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for number in 0..mutations {
        let input = numbers.mutate(&seeds);
        let outcome = std::panic::catch_unwind(|| target(&input));
        assert!(
            outcome.is_ok(),
            "target {name}, mutation {number}: put these bytes (hex) into fuzz/corpus/{name}: {}",
            data_encoding::HEXLOWER.encode(&input)
        );
    }
    // The largest seed claims exabytes; deriving a key takes 32 MiB.
    assert!(peak_memory() < 256 << 20, "{name} needed {} bytes", peak_memory());
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn mutated_repositories_end_in_every_way_there_is() {
    run("repository", 200);
    let ends = targets::OUTCOMES.each_ref().map(|count| count.load(std::sync::atomic::Ordering::Relaxed));
    assert!(ends.iter().all(|count| *count >= 15), "whole, in part, refused: {ends:?}");
}

macro_rules! short_runs {
    ($($name:ident: $mutations:expr,)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), $mutations);
        })*

        #[test]
        fn every_target_has_a_short_run_and_a_program() {
            let mut ran = vec!["repository", $(stringify!($name)),*];
            ran.sort_unstable();
            assert_eq!(ran, TARGETS.map(|(name, _)| name));
            for name in ran {
                let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
                let text = std::fs::read_to_string(&program).unwrap();
                assert!(text.contains(&format!("holdfast_engine_fuzz::{name}(data)")), "{}", program.display());
            }
        }
    };
}

short_runs! {
    config: 20_000,
    index: 20_000,
    key: 10_000,
    location: 20_000,
    lock: 20_000,
    pack_header: 50_000,
    paths: 200,
    sealed: 10_000,
    snapshot: 20_000,
    tree: 20_000,
    unquote: 50_000,
    zstd_frame: 20_000,
}
