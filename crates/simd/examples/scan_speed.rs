//! How fast each form of the scan is on this machine: `scan_speed [MEBIBYTES]`, on bytes that pass for random.
//!
//! Told in bytes a second of processor time, so that other load matters less, and over a buffer that stays in the
//! second cache, as one that was just read into does.

use std::time::{Duration, Instant};

use holdfast_simd::Variant;
use holdfast_simd::rabin::{Scanner, WINDOW};

/// Bytes that are scanned at a time.
const PIECE: usize = 256 << 10;

/// Processor time of this thread so far.
fn used() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0))
}

fn main() {
    let mebibytes: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2048);
    let mut state = 1_u64;
    let mut bytes = vec![0; PIECE + WINDOW];
    bytes.fill_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    for variant in Variant::ALL.into_iter().filter(|variant| variant.is_available()) {
        let begin = Instant::now();
        let scanner = Scanner::with_variant(0x3d_a335_8b4d_c173, variant);
        let prepared = begin.elapsed();
        let rounds = (mebibytes << 20) / PIECE;
        let begin = used();
        let cuts = (0..rounds).filter(|_| scanner.first_cut(std::hint::black_box(&bytes)).is_some()).count();
        let speed = (rounds * PIECE) as u128 * 1000 / used().saturating_sub(begin).as_nanos().max(1);
        println!("{}: {speed} MB/s, {cuts} pieces with a cut, ready after {prepared:?}", scanner.variant());
    }
}
