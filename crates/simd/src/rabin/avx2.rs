//! The scan with AVX2: 32 stretches of the input side by side, one in each byte of the registers.
//!
//! As `avx512`, with each linear map as two lookups of sixteen entries, one for each half of the byte.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8,
    _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_permute2x128_si256,
    _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16,
    _mm256_unpackhi_epi8, _mm256_unpacklo_epi8, _mm256_xor_si256,
};

use super::field::Field;
use super::{BLOCK, DIGEST_BYTES, Images, SCALE, WINDOW};

/// Stretches side by side.
pub(super) const LANES: usize = 32;

/// A linear map to one digest byte: of the lower and of the upper half of a byte.
type Halves = [[u8; 16]; 2];

/// The linear maps as lookups, one a digest byte.
pub(super) struct Maps {
    top: [Halves; DIGEST_BYTES],
    leave: [Halves; DIGEST_BYTES],
}

impl Maps {
    pub(super) fn new(field: Field) -> Self {
        let images = Images::new(field);
        Self {
            top: std::array::from_fn(|byte| halves(&images.top, byte)),
            leave: std::array::from_fn(|byte| halves(&images.leave, byte)),
        }
    }
}

fn halves(images: &[u64; 8], byte: usize) -> Halves {
    let mut halves = [[0; 16]; 2];
    for (shift, half) in [0_u32, 4].into_iter().zip(&mut halves) {
        for (value, entry) in (0_u8..16).zip(half) {
            let [.., wanted] = (Images::of(images, value << shift) >> (8 * byte) & 0xff).to_be_bytes();
            *entry = wanted;
        }
    }
    halves
}

/// Rows of input, one a step; each holds one byte of every lane.
type Rows = [__m256i; BLOCK];
/// A map's two lookups, each in both halves of a register.
type Lookup = [__m256i; 2];

/// Constants and digests of all lanes.
struct Lanes {
    top: [Lookup; DIGEST_BYTES],
    leave: [Lookup; DIGEST_BYTES],
    digest: [__m256i; DIGEST_BYTES],
}

/// The first cut of `bytes`, which hold the window before and `LANES` stretches of `blocks` blocks.
#[target_feature(enable = "avx2")]
pub(super) fn first_cut(maps: &Maps, bytes: &[u8], blocks: usize) -> Option<usize> {
    let stretch = blocks * BLOCK;
    let zero = _mm256_setzero_si256();
    let (mut one, mut two) = ([zero; BLOCK], [zero; BLOCK]);
    let (mut before, mut now) = (&mut one, &mut two);
    let mut lanes = Lanes::new(maps);
    transpose(bytes, stretch, 0, before);
    for row in &*before {
        lanes.step(*row, zero);
    }
    let mut found = None;
    // Only lanes before the first one that has a cut can still have an earlier one.
    let mut open = u32::MAX;
    for block in 0..blocks {
        transpose(bytes, stretch, WINDOW + block * BLOCK, now);
        let start = lanes.digest;
        if lanes.pass(now, before) & open != 0 {
            // Rare: go through the block again, one step at a time.
            lanes.digest = start;
            for (step, (enter, leave)) in now.iter().zip(&*before).enumerate() {
                lanes.step(*enter, *leave);
                let cuts = none_left(lanes.rest()) & open;
                if cuts != 0 {
                    let lane = cuts.trailing_zeros();
                    found = Some(lane as usize * stretch + block * BLOCK + step);
                    open = (1 << lane) - 1;
                }
            }
            if open == 0 {
                return found;
            }
        }
        std::mem::swap(&mut before, &mut now);
    }
    found
}

impl Lanes {
    #[target_feature(enable = "avx2")]
    fn new(maps: &Maps) -> Self {
        let zero = _mm256_setzero_si256();
        let mut lanes = Self {
            top: [[zero; 2]; DIGEST_BYTES],
            leave: [[zero; 2]; DIGEST_BYTES],
            digest: [zero; DIGEST_BYTES],
        };
        let entries = maps.top.iter().chain(&maps.leave).flatten();
        for (register, entries) in lanes.top.iter_mut().chain(&mut lanes.leave).flatten().zip(entries) {
            *register = _mm256_broadcastsi128_si256(load_16(entries));
        }
        lanes
    }

    /// Moves every lane by one byte.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn step(&mut self, enter: __m256i, leave: __m256i) {
        let [d0, d1, d2, d3, d4, d5, top] = self.digest;
        let [t0, t1, t2, t3, t4, t5, t6] = self.top;
        let [l0, l1, l2, l3, l4, l5, l6] = self.leave;
        let (top, leave) = (split(top), split(leave));
        // An entering byte is shifted by three bits: it reaches the two lowest bytes.
        let low_bits = _mm256_set1_epi8(0xff_u8.wrapping_shl(SCALE).cast_signed());
        let high_bits = _mm256_set1_epi8((0xff_u8 >> (8 - SCALE)).cast_signed());
        let low = _mm256_and_si256(_mm256_slli_epi16::<{ SCALE.cast_signed() }>(enter), low_bits);
        let high = _mm256_and_si256(_mm256_srli_epi16::<{ 8 - SCALE.cast_signed() }>(enter), high_bits);
        self.digest = [
            bring_in(low, top, t0, leave, l0),
            _mm256_xor_si256(high, bring_in(d0, top, t1, leave, l1)),
            bring_in(d1, top, t2, leave, l2),
            bring_in(d2, top, t3, leave, l3),
            bring_in(d3, top, t4, leave, l4),
            bring_in(d4, top, t5, leave, l5),
            bring_in(d5, top, t6, leave, l6),
        ];
    }

    /// The bits of each digest that are to be zero at a cut, not all in their places: two bytes and seven bits.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rest(&self) -> __m256i {
        let [d0, d1, d2, ..] = self.digest;
        _mm256_or_si256(_mm256_or_si256(d0, d1), _mm256_and_si256(d2, _mm256_set1_epi8(0x7f)))
    }

    /// Goes through a block; a bit for each lane that had a cut in it. No branch but for the loop: here is where
    /// the time goes.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pass(&mut self, enter: &Rows, leave: &Rows) -> u32 {
        let mut least = _mm256_set1_epi8(-1);
        for (enter, leave) in enter.iter().zip(leave) {
            self.step(*enter, *leave);
            least = _mm256_min_epu8(least, self.rest());
        }
        none_left(least)
    }
}

/// A bit for each byte that is zero.
#[target_feature(enable = "avx2")]
#[inline]
fn none_left(rest: __m256i) -> u32 {
    _mm256_movemask_epi8(_mm256_cmpeq_epi8(rest, _mm256_setzero_si256())).cast_unsigned()
}

/// The lower and the upper half of each byte.
#[target_feature(enable = "avx2")]
#[inline]
fn split(bytes: __m256i) -> [__m256i; 2] {
    let half = _mm256_set1_epi8(0x0f);
    [_mm256_and_si256(bytes, half), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half)]
}

/// A digest byte from the one below it, the byte that fell out at the top and the one that leaves the window.
#[target_feature(enable = "avx2")]
#[inline]
fn bring_in(
    below: __m256i,
    top: [__m256i; 2],
    by_top: Lookup,
    leave: [__m256i; 2],
    by_leave: Lookup,
) -> __m256i {
    let look_up = |table: Lookup, [low, high]: [__m256i; 2]| {
        let [of_low, of_high] = table;
        _mm256_xor_si256(_mm256_shuffle_epi8(of_low, low), _mm256_shuffle_epi8(of_high, high))
    };
    _mm256_xor_si256(below, _mm256_xor_si256(look_up(by_top, top), look_up(by_leave, leave)))
}

/// Reads 64 bytes of each lane, at `at` of its stretch, and lays them out by step.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(
    clippy::indexing_slicing,
    reason = "all indices are below the arrays' lengths by the constants alone"
)]
fn transpose(bytes: &[u8], stretch: usize, at: usize, rows: &mut Rows) {
    let zero = _mm256_setzero_si256();
    for (half, rows) in rows.chunks_exact_mut(32).enumerate() {
        let mut groups = [[zero; 16]; 2];
        for (number, group) in groups.iter_mut().enumerate() {
            for (lane, row) in group.iter_mut().enumerate() {
                *row = load(bytes, at + 32 * half + (16 * number + lane) * stretch);
            }
            // Four times the same shuffle turns 16×16 bytes within each half of the registers: it rotates the eight
            // bits of (row, column) by one.
            for _ in 0..4 {
                let from = *group;
                for pair in 0..8 {
                    group[2 * pair] = _mm256_unpacklo_epi8(from[pair], from[pair + 8]);
                    group[2 * pair + 1] = _mm256_unpackhi_epi8(from[pair], from[pair + 8]);
                }
            }
        }
        let [first, second] = &groups;
        for column in 0..16 {
            rows[column] = _mm256_permute2x128_si256::<0x20>(first[column], second[column]);
            rows[16 + column] = _mm256_permute2x128_si256::<0x31>(first[column], second[column]);
        }
    }
}

/// 32 bytes from `at` on; zeros where there are not so many, which the caller's layout excludes.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(unsafe_code, reason = "a vector load takes a pointer")]
fn load(bytes: &[u8], at: usize) -> __m256i {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
        // SAFETY: the reference is valid for 32 bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    }
}

#[target_feature(enable = "avx2")]
#[inline]
#[allow(unsafe_code, reason = "a vector load takes a pointer")]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference is valid for 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}
