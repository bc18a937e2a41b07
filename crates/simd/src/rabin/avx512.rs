//! The scan with AVX-512 and GFNI: 64 stretches of the input side by side, one in each byte of the registers.
//!
//! Byte `k` of all 64 digests lies in register `k`. A step shifts each digest by a byte, which is a renaming of
//! registers; what falls out at the top, the byte that leaves and the byte that enters are each brought in by one
//! affine instruction a digest byte. The input comes in 64×64 bytes, transposed, so that one register holds the next
//! byte of each stretch.

use std::arch::x86_64::{
    __m512i, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_min_epu8, _mm512_or_si512,
    _mm512_set1_epi8, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_ternarylogic_epi64, _mm512_testn_epi8_mask, _mm512_unpackhi_epi8, _mm512_unpacklo_epi8,
    _mm512_xor_si512,
};

use super::field::Field;
use super::{BLOCK, DIGEST_BYTES, Images, WINDOW};

/// Stretches side by side.
pub(super) const LANES: usize = 64;

/// `a ^ b ^ c` as a truth table.
const XOR3: i32 = 0x96;
/// `a | (b & c)` as a truth table.
const OR_AND: i32 = 0xf8;

/// The linear maps as bit matrices, one a digest byte, in the form that the affine instruction takes.
pub(super) struct Maps {
    top: [i64; DIGEST_BYTES],
    leave: [i64; DIGEST_BYTES],
    /// An entering byte is shifted by three bits: it reaches the two lowest.
    enter: [i64; 2],
}

impl Maps {
    pub(super) fn new(field: Field) -> Self {
        let images = Images::new(field);
        Self {
            top: std::array::from_fn(|byte| matrix(&images.top, byte)),
            leave: std::array::from_fn(|byte| matrix(&images.leave, byte)),
            enter: std::array::from_fn(|byte| matrix(&images.enter, byte)),
        }
    }
}

/// The matrix that gives digest byte `byte`. Its rows are the bits of the result, the highest in the lowest byte
/// (Intel SDM, GF2P8AFFINEQB).
fn matrix(images: &[u64; 8], byte: usize) -> i64 {
    let mut rows = [0_u8; 8];
    for (bit, row) in rows.iter_mut().rev().enumerate() {
        for (from, image) in images.iter().enumerate() {
            *row |= u8::from(image >> (8 * byte + bit) & 1 == 1) << from;
        }
    }
    i64::from_le_bytes(rows)
}

/// Rows of input, one a step; each holds one byte of every lane.
type Rows = [__m512i; BLOCK];

/// Constants and digests of all lanes.
struct Lanes {
    top: [__m512i; DIGEST_BYTES],
    leave: [__m512i; DIGEST_BYTES],
    enter: [__m512i; 2],
    low: __m512i,
    digest: [__m512i; DIGEST_BYTES],
}

/// The first cut of `bytes`, which hold the window before and `LANES` stretches of `blocks` blocks.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
pub(super) fn first_cut(maps: &Maps, bytes: &[u8], blocks: usize) -> Option<usize> {
    let stretch = blocks * BLOCK;
    let zero = _mm512_setzero_si512();
    let (mut one, mut two) = ([zero; BLOCK], [zero; BLOCK]);
    let (mut before, mut now) = (&mut one, &mut two);
    let mut lanes = Lanes::new(maps);
    transpose(bytes, stretch, 0, before);
    for row in &*before {
        lanes.step(*row, zero);
    }
    let mut found = None;
    // Only lanes before the first one that has a cut can still have an earlier one.
    let mut open = u64::MAX;
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
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn new(maps: &Maps) -> Self {
        let zero = _mm512_setzero_si512();
        let mut lanes = Self {
            top: [zero; DIGEST_BYTES],
            leave: [zero; DIGEST_BYTES],
            enter: [zero; 2],
            // 23 bits of the digest are to be zero: two bytes and seven bits.
            low: _mm512_set1_epi8(0x7f),
            digest: [zero; DIGEST_BYTES],
        };
        for (register, matrix) in lanes.top.iter_mut().zip(maps.top) {
            *register = _mm512_set1_epi64(matrix);
        }
        for (register, matrix) in lanes.leave.iter_mut().zip(maps.leave) {
            *register = _mm512_set1_epi64(matrix);
        }
        for (register, matrix) in lanes.enter.iter_mut().zip(maps.enter) {
            *register = _mm512_set1_epi64(matrix);
        }
        lanes
    }

    /// Moves every lane by one byte.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    #[inline]
    fn step(&mut self, enter: __m512i, leave: __m512i) {
        let [d0, d1, d2, d3, d4, d5, top] = self.digest;
        let [t0, t1, t2, t3, t4, t5, t6] = self.top;
        let [l0, l1, l2, l3, l4, l5, l6] = self.leave;
        let [e0, e1] = self.enter;
        let from_enter = _mm512_gf2p8affine_epi64_epi8::<0>(enter, e1);
        self.digest = [
            add(
                _mm512_gf2p8affine_epi64_epi8::<0>(enter, e0),
                _mm512_gf2p8affine_epi64_epi8::<0>(top, t0),
                _mm512_gf2p8affine_epi64_epi8::<0>(leave, l0),
            ),
            _mm512_xor_si512(from_enter, bring_in(d0, top, t1, leave, l1)),
            bring_in(d1, top, t2, leave, l2),
            bring_in(d2, top, t3, leave, l3),
            bring_in(d3, top, t4, leave, l4),
            bring_in(d4, top, t5, leave, l5),
            bring_in(d5, top, t6, leave, l6),
        ];
    }

    /// The bits of each digest that are to be zero at a cut, not all in their places.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    #[inline]
    fn rest(&self) -> __m512i {
        let [d0, d1, d2, ..] = self.digest;
        _mm512_ternarylogic_epi64::<OR_AND>(_mm512_or_si512(d0, d1), d2, self.low)
    }

    /// Goes through a block; a bit for each lane that had a cut in it. No branch but for the loop, and that
    /// unrolled: here is where the time goes.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    #[inline]
    fn pass(&mut self, enter: &Rows, leave: &Rows) -> u64 {
        let mut least = _mm512_set1_epi8(-1);
        for (enter, leave) in enter.as_chunks::<4>().0.iter().zip(leave.as_chunks::<4>().0) {
            let ([e0, e1, e2, e3], [l0, l1, l2, l3]) = (enter, leave);
            self.step(*e0, *l0);
            least = _mm512_min_epu8(least, self.rest());
            self.step(*e1, *l1);
            least = _mm512_min_epu8(least, self.rest());
            self.step(*e2, *l2);
            least = _mm512_min_epu8(least, self.rest());
            self.step(*e3, *l3);
            least = _mm512_min_epu8(least, self.rest());
        }
        none_left(least)
    }
}

/// A bit for each byte that is zero.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn none_left(rest: __m512i) -> u64 {
    _mm512_testn_epi8_mask(rest, rest)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn add(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<XOR3>(a, b, c)
}

/// A digest byte from the one below it, the byte that fell out at the top and the one that leaves the window.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
#[inline]
fn bring_in(below: __m512i, top: __m512i, by_top: __m512i, leave: __m512i, by_leave: __m512i) -> __m512i {
    add(
        below,
        _mm512_gf2p8affine_epi64_epi8::<0>(top, by_top),
        _mm512_gf2p8affine_epi64_epi8::<0>(leave, by_leave),
    )
}

/// Reads 64 bytes of each lane, at `at` of its stretch, and lays them out by step.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
#[allow(
    clippy::indexing_slicing,
    reason = "all indices are below the arrays' lengths by the constants alone"
)]
fn transpose(bytes: &[u8], stretch: usize, at: usize, rows: &mut Rows) {
    let zero = _mm512_setzero_si512();
    let mut groups = [[zero; 16]; 4];
    for (number, group) in groups.iter_mut().enumerate() {
        for (lane, row) in group.iter_mut().enumerate() {
            *row = load(bytes, at + (16 * number + lane) * stretch);
        }
        // Four times the same shuffle turns 16×16 bytes within each quarter of the registers: it rotates the eight
        // bits of (row, column) by one.
        for _ in 0..4 {
            let from = *group;
            for pair in 0..8 {
                group[2 * pair] = _mm512_unpacklo_epi8(from[pair], from[pair + 8]);
                group[2 * pair + 1] = _mm512_unpackhi_epi8(from[pair], from[pair + 8]);
            }
        }
    }
    // The quarters, four by four.
    let [first, second, third, fourth] = &groups;
    for column in 0..16 {
        let (a, b, c, d) = (first[column], second[column], third[column], fourth[column]);
        let low_ab = _mm512_shuffle_i32x4::<0x44>(a, b);
        let low_cd = _mm512_shuffle_i32x4::<0x44>(c, d);
        let high_ab = _mm512_shuffle_i32x4::<0xee>(a, b);
        let high_cd = _mm512_shuffle_i32x4::<0xee>(c, d);
        rows[column] = _mm512_shuffle_i32x4::<0x88>(low_ab, low_cd);
        rows[16 + column] = _mm512_shuffle_i32x4::<0xdd>(low_ab, low_cd);
        rows[32 + column] = _mm512_shuffle_i32x4::<0x88>(high_ab, high_cd);
        rows[48 + column] = _mm512_shuffle_i32x4::<0xdd>(high_ab, high_cd);
    }
}

/// 64 bytes from `at` on; zeros where there are not so many, which the caller's layout excludes.
#[target_feature(enable = "avx512f")]
#[inline]
#[allow(unsafe_code, reason = "a vector load takes a pointer")]
fn load(bytes: &[u8], at: usize) -> __m512i {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<64>()) {
        // SAFETY: the reference is valid for 64 bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) },
        None => _mm512_setzero_si512(),
    }
}
