//! The compression function with the SHA extensions of x86-64 ("Intel SHA Extensions", Intel 2013).

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_set_epi8, _mm_set_epi32,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use super::{BLOCK, State};

/// The constants of the rounds (FIPS 180-4, 4.2.2), four to a step.
const K: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// One message on its way: the state as the instructions want it, and the last 16 words of its schedule.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
    words: [__m128i; 4],
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) fn compress<const N: usize>(states: [&mut State; N], blocks: [&[[u8; BLOCK]]; N]) {
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    let mut lanes: [Lane; N] =
        core::array::from_fn(|at| load(states.get(at).map_or(&[0; 8], |state| &**state)));
    for number in 0..count {
        let before = lanes;
        for (lane, blocks) in lanes.iter_mut().zip(&blocks) {
            lane.words = blocks.get(number).map_or(lane.words, |block| words(block));
        }
        // Written out, because only then the words' places are known to the compiler.
        macro_rules! steps {
            ($($step:literal)*) => { $( step::<N, $step>(&mut lanes); )* };
        }
        steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for (lane, before) in lanes.iter_mut().zip(&before) {
            lane.abef = _mm_add_epi32(lane.abef, before.abef);
            lane.cdgh = _mm_add_epi32(lane.cdgh, before.cdgh);
        }
    }
    for (state, lane) in states.into_iter().zip(&lanes) {
        store(lane, state);
    }
}

/// Four rounds of each lane, the lanes in turns.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
#[inline]
fn step<const N: usize, const STEP: usize>(lanes: &mut [Lane; N]) {
    let constants = K.get(STEP).map_or_else(|| vector([0; 4]), |words| vector(*words));
    let mut sums = [constants; N];
    for (lane, sum) in lanes.iter_mut().zip(&mut sums) {
        if STEP >= 4 {
            let [first, second, third, fourth] = lane.words;
            let part =
                _mm_add_epi32(_mm_sha256msg1_epu32(first, second), _mm_alignr_epi8::<4>(fourth, third));
            lane.words = [second, third, fourth, _mm_sha256msg2_epu32(part, fourth)];
        }
        let [first, second, third, fourth] = lane.words;
        let now = match STEP {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        };
        *sum = _mm_add_epi32(now, constants);
    }
    for (lane, sum) in lanes.iter_mut().zip(&sums) {
        lane.cdgh = _mm_sha256rnds2_epu32(lane.cdgh, lane.abef, *sum);
    }
    for (lane, sum) in lanes.iter_mut().zip(&sums) {
        lane.abef = _mm_sha256rnds2_epu32(lane.abef, lane.cdgh, _mm_shuffle_epi32::<0x0e>(*sum));
    }
}

#[target_feature(enable = "sse2")]
#[inline]
fn vector([a, b, c, d]: [u32; 4]) -> __m128i {
    _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
}

/// The 16 words of a block, which are big-endian.
#[target_feature(enable = "sse2,ssse3")]
#[inline]
fn words(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let order = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    let mut words = [vector([0; 4]); 4];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
        let halves = u128::from_le_bytes(*bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the halves of a vector")]
        let loaded = core::arch::x86_64::_mm_set_epi64x(
            ((halves >> 64) as u64).cast_signed(),
            (halves as u64).cast_signed(),
        );
        *word = _mm_shuffle_epi8(loaded, order);
    }
    words
}

#[target_feature(enable = "sse2,ssse3,sse4.1")]
#[inline]
#[expect(clippy::many_single_char_names, reason = "the standard's names")]
fn load([a, b, c, d, e, f, g, h]: &State) -> Lane {
    Lane { abef: vector([*f, *e, *b, *a]), cdgh: vector([*h, *g, *d, *c]), words: [vector([0; 4]); 4] }
}

#[target_feature(enable = "sse2,ssse3,sse4.1")]
#[inline]
fn store(lane: &Lane, state: &mut State) {
    // a, b, e, f from the high words down, and the same for c, d, g, h.
    let feba = _mm_shuffle_epi32::<0x1b>(lane.abef);
    let dchg = _mm_shuffle_epi32::<0xb1>(lane.cdgh);
    let abcd = _mm_blend_epi16::<0xf0>(feba, dchg);
    let efgh = _mm_alignr_epi8::<8>(dchg, feba);
    let (low, high) = state.split_at_mut(4);
    for (words, vector) in [(low, abcd), (high, efgh)] {
        let lanes = [
            core::arch::x86_64::_mm_extract_epi32::<0>(vector),
            core::arch::x86_64::_mm_extract_epi32::<1>(vector),
            core::arch::x86_64::_mm_extract_epi32::<2>(vector),
            core::arch::x86_64::_mm_extract_epi32::<3>(vector),
        ];
        for (word, lane) in words.iter_mut().zip(lanes) {
            *word = lane.cast_unsigned();
        }
    }
}
