//! `ROMix` with vectors of four words, which every x86-64 has.
//!
//! Written once for one block and for two: those of two lanes wait for other things, so the processor does both in hardly
//! more time than one. Compiled once for any x86-64 and once for AVX-512 (VL), whose registers hold both states and which
//! rotates words with one instruction instead of three.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_or_si128, _mm_set_epi32, _mm_setzero_si128,
    _mm_shuffle_epi32, _mm_slli_epi32, _mm_srli_epi32, _mm_xor_si128,
};
use std::sync::OnceLock;

/// 64 bytes; the words of Salsa20's square lie along its diagonals, so that each step works on whole vectors.
type Vectors = [__m128i; 4];

/// A cell of each lane's block, side by side.
type Cells<const LANES: usize> = [Vectors; LANES];

/// Where the words of a cell's vectors lie in the bytes.
const DIAGONALS: [[usize; 4]; 4] = [[0, 5, 10, 15], [4, 9, 14, 3], [8, 13, 2, 7], [12, 1, 6, 11]];

/// The block of RFC 7914, section 10, that is mixed with a cost of 16.
pub(super) const GIVEN: [u8; 128] = [
    0xf7, 0xce, 0x0b, 0x65, 0x3d, 0x2d, 0x72, 0xa4, 0x10, 0x8c, 0xf5, 0xab, 0xe9, 0x12, 0xff, 0xdd, 0x77,
    0x76, 0x16, 0xdb, 0xbb, 0x27, 0xa7, 0x0e, 0x82, 0x04, 0xf3, 0xae, 0x2d, 0x0f, 0x6f, 0xad, 0x89, 0xf6,
    0x8f, 0x48, 0x11, 0xd1, 0xe8, 0x7b, 0xcc, 0x3b, 0xd7, 0x40, 0x0a, 0x9f, 0xfd, 0x29, 0x09, 0x4f, 0x01,
    0x84, 0x63, 0x95, 0x74, 0xf3, 0x9a, 0xe5, 0xa1, 0x31, 0x52, 0x17, 0xbc, 0xd7, 0x89, 0x49, 0x91, 0x44,
    0x72, 0x13, 0xbb, 0x22, 0x6c, 0x25, 0xb5, 0x4d, 0xa8, 0x63, 0x70, 0xfb, 0xcd, 0x98, 0x43, 0x80, 0x37,
    0x46, 0x66, 0xbb, 0x8f, 0xfc, 0xb5, 0xbf, 0x40, 0xc2, 0x54, 0xb0, 0x67, 0xd2, 0x7c, 0x51, 0xce, 0x4a,
    0xd5, 0xfe, 0xd8, 0x29, 0xc9, 0x0b, 0x50, 0x5a, 0x57, 0x1b, 0x7f, 0x4d, 0x1c, 0xad, 0x6a, 0x52, 0x3c,
    0xda, 0x77, 0x0e, 0x67, 0xbc, 0xea, 0xaf, 0x7e, 0x89,
];
/// What it gives.
pub(super) const MIXED: [u8; 128] = [
    0x79, 0xcc, 0xc1, 0x93, 0x62, 0x9d, 0xeb, 0xca, 0x04, 0x7f, 0x0b, 0x70, 0x60, 0x4b, 0xf6, 0xb6, 0x2c,
    0xe3, 0xdd, 0x4a, 0x96, 0x26, 0xe3, 0x55, 0xfa, 0xfc, 0x61, 0x98, 0xe6, 0xea, 0x2b, 0x46, 0xd5, 0x84,
    0x13, 0x67, 0x3b, 0x99, 0xb0, 0x29, 0xd6, 0x65, 0xc3, 0x57, 0x60, 0x1f, 0xb4, 0x26, 0xa0, 0xb2, 0xf4,
    0xbb, 0xa2, 0x00, 0xee, 0x9f, 0x0a, 0x43, 0xd1, 0x9b, 0x57, 0x1a, 0x9c, 0x71, 0xef, 0x11, 0x42, 0xe6,
    0x5d, 0x5a, 0x26, 0x6f, 0xdd, 0xca, 0x83, 0x2c, 0xe5, 0x9f, 0xaa, 0x7c, 0xac, 0x0b, 0x9c, 0xf1, 0xbe,
    0x2b, 0xff, 0xca, 0x30, 0x0d, 0x01, 0xee, 0x38, 0x76, 0x19, 0xc4, 0xae, 0x12, 0xfd, 0x44, 0x38, 0xf2,
    0x03, 0xa0, 0xe4, 0xe1, 0xc4, 0x7e, 0xc3, 0x14, 0x86, 0x1f, 0x4e, 0x90, 0x87, 0xcb, 0x33, 0x39, 0x6a,
    0x68, 0x73, 0xe8, 0xf9, 0xd2, 0x53, 0x9a, 0x4b, 0x8e,
];

/// A table smaller than this gains nothing from large pages.
const LARGE: usize = 4 << 20;
/// A large page.
const PAGE: usize = 2 << 20;

/// As [`super::ro_mix`], for blocks of one length.
pub(super) fn ro_mix<const LANES: usize>(blocks: [&mut [u8]; LANES], n: usize) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let length = blocks.first().map_or(0, |block| block.len());
    let even = length > 0 && length.is_multiple_of(128) && blocks.iter().all(|block| block.len() == length);
    if !even || !n.is_power_of_two() || n < 2 {
        return false;
    }
    let works = WORKS.get_or_init(|| gives(|blocks| best(blocks, 16), |blocks| best(blocks, 16)));
    if *works {
        best(blocks, n);
    }
    *works
}

/// Whether these mix the standard's block to what they shall with a cost of 16, in each lane.
pub(super) fn gives(one: impl FnOnce([&mut [u8]; 1]), two: impl FnOnce([&mut [u8]; 2])) -> bool {
    let (mut alone, mut first, mut second) = (GIVEN, GIVEN, GIVEN);
    one([&mut alone]);
    two([&mut first, &mut second]);
    [alone, first, second].iter().all(|block| *block == MIXED)
}

/// The quickest form that this processor has.
fn best<const LANES: usize>(blocks: [&mut [u8]; LANES], n: usize) {
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vl") {
        #[allow(unsafe_code, reason = "the call of code for certain instructions")]
        // SAFETY: The processor, and the system on it, have them: it was asked just now.
        unsafe {
            avx512::mix(blocks, n);
        }
    } else {
        plain(blocks, n);
    }
}

/// The form for any x86-64.
pub(super) fn plain<const LANES: usize>(blocks: [&mut [u8]; LANES], n: usize) {
    #[allow(unsafe_code, reason = "the call of code for certain instructions")]
    // SAFETY: Every x86-64 has SSE2.
    unsafe {
        sse2::mix(blocks, n);
    }
}

/// Room for so many cells of each lane, in large pages if the system has them to give.
fn table<const LANES: usize>(cells: usize) -> Vec<Cells<LANES>> {
    let mut table: Vec<Cells<LANES>> = Vec::with_capacity(cells);
    let room = table.spare_capacity_mut();
    let length = size_of_val(room);
    if length >= LARGE {
        let skipped = room.as_ptr().cast::<u8>().align_offset(PAGE);
        let whole = length.saturating_sub(skipped) / PAGE * PAGE;
        if whole > 0 {
            let start = room.as_mut_ptr().cast::<u8>().wrapping_add(skipped);
            // A refusal only means small pages.
            #[allow(unsafe_code, reason = "advice about memory takes a pointer")]
            // SAFETY: The stretch lies within the vector's own spare room, and the advice changes no byte of it.
            let _ = unsafe { rustix::mm::madvise(start.cast(), whole, rustix::mm::Advice::LinuxHugepage) };
        }
    }
    table
}

/// The code, for processors with these features: what is inlined where is the compiler's choice, and each function has to
/// say for itself what it may use.
macro_rules! form {
    ($features:literal) => {
        use super::*;

        /// `ROMix` of a block in each lane, all of the same length.
        #[target_feature(enable = $features)]
        pub(in super::super) fn mix<const LANES: usize>(mut blocks: [&mut [u8]; LANES], n: usize) {
            let length = blocks.first().map_or(0, |block| block.len() / 64);
            let mut now: Vec<Cells<LANES>> = vec![[[_mm_setzero_si128(); 4]; LANES]; length];
            for (lane, block) in blocks.iter().enumerate() {
                for (cells, bytes) in now.iter_mut().zip(block.as_chunks::<64>().0) {
                    if let Some(cell) = cells.get_mut(lane) {
                        *cell = load(bytes);
                    }
                }
            }
            let mut next = now.clone();
            let mut table = table(length * n);
            for _ in 0..n {
                table.extend_from_slice(&now);
                block_mix::<LANES, false>(&now, [&[]; LANES], &mut next);
                std::mem::swap(&mut now, &mut next);
            }
            for _ in 0..n {
                let mut entries: [&[Cells<LANES>]; LANES] = [&[]; LANES];
                for (lane, entry) in entries.iter_mut().enumerate() {
                    // The low bits of the first word of the last cell say which entry is next.
                    let last = now.last().and_then(|cells| cells.get(lane));
                    let word = last.map_or(0, |[diagonal, ..]| _mm_cvtsi128_si32(*diagonal).cast_unsigned());
                    let start = (word as usize & (n - 1)) * length;
                    *entry = table.get(start..start + length).unwrap_or_default();
                }
                block_mix::<LANES, true>(&now, entries, &mut next);
                std::mem::swap(&mut now, &mut next);
            }
            for (lane, block) in blocks.iter_mut().enumerate() {
                for (cells, bytes) in now.iter().zip(block.as_chunks_mut::<64>().0) {
                    if let Some(cell) = cells.get(lane) {
                        store(cell, bytes);
                    }
                }
            }
        }

        /// scryptBlockMix of each lane's `input`, with the lane's own entry of `others` added to it first if `MIX`: cell for cell
        /// as long as the input.
        #[inline]
        #[target_feature(enable = $features)]
        fn block_mix<const LANES: usize, const MIX: bool>(
            input: &[Cells<LANES>],
            others: [&[Cells<LANES>]; LANES],
            output: &mut [Cells<LANES>],
        ) {
            let taken = |place: usize| {
                let mut cells = input.get(place).copied().unwrap_or([[_mm_setzero_si128(); 4]; LANES]);
                if MIX {
                    for (lane, (cell, entry)) in cells.iter_mut().zip(others).enumerate() {
                        if let Some(other) = entry.get(place).and_then(|cells| cells.get(lane)) {
                            *cell = xor(*cell, *other);
                        }
                    }
                }
                cells
            };
            let mut state = taken(input.len().saturating_sub(1));
            let mut add = |place: usize| {
                for (cell, added) in state.iter_mut().zip(taken(place)) {
                    *cell = xor(*cell, added);
                }
                state = salsa(state);
                state
            };
            // The results of even cells come first, those of odd ones behind them.
            let (evens, odds) = output.split_at_mut(input.len() / 2);
            for (pair, (even, odd)) in evens.iter_mut().zip(odds).enumerate() {
                *even = add(2 * pair);
                *odd = add(2 * pair + 1);
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn xor([a, b, c, d]: Vectors, [e, f, g, h]: Vectors) -> Vectors {
            [_mm_xor_si128(a, e), _mm_xor_si128(b, f), _mm_xor_si128(c, g), _mm_xor_si128(d, h)]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sum([a, b, c, d]: Vectors, [e, f, g, h]: Vectors) -> Vectors {
            [_mm_add_epi32(a, e), _mm_add_epi32(b, f), _mm_add_epi32(c, g), _mm_add_epi32(d, h)]
        }

        /// Salsa20/8 of each lane, step by step in turns.
        #[inline]
        #[target_feature(enable = $features)]
        fn salsa<const LANES: usize>(input: Cells<LANES>) -> Cells<LANES> {
            let mut state = input;
            for _ in 0..4 {
                // What comes of a column's step is needed by the next: the other lane's fills the wait.
                for [a, b, _, d] in &mut state {
                    *b = step::<7, 25>(*b, *a, *d);
                }
                for [a, b, c, _] in &mut state {
                    *c = step::<9, 23>(*c, *b, *a);
                }
                for [_, b, c, d] in &mut state {
                    *d = step::<13, 19>(*d, *c, *b);
                }
                for [a, _, c, d] in &mut state {
                    *a = step::<18, 14>(*a, *d, *c);
                }
                // The same again for the rows: turned so that they lie where the columns were.
                for [_, b, c, d] in &mut state {
                    *b = _mm_shuffle_epi32::<0x93>(*b);
                    *c = _mm_shuffle_epi32::<0x4e>(*c);
                    *d = _mm_shuffle_epi32::<0x39>(*d);
                }
                for [a, b, _, d] in &mut state {
                    *d = step::<7, 25>(*d, *a, *b);
                }
                for [a, _, c, d] in &mut state {
                    *c = step::<9, 23>(*c, *d, *a);
                }
                for [_, b, c, d] in &mut state {
                    *b = step::<13, 19>(*b, *c, *d);
                }
                for [a, b, c, _] in &mut state {
                    *a = step::<18, 14>(*a, *b, *c);
                }
                for [_, b, c, d] in &mut state {
                    *b = _mm_shuffle_epi32::<0x39>(*b);
                    *c = _mm_shuffle_epi32::<0x4e>(*c);
                    *d = _mm_shuffle_epi32::<0x93>(*d);
                }
            }
            for (cell, from) in state.iter_mut().zip(input) {
                *cell = sum(*cell, from);
            }
            state
        }

        /// `to ^ rotate(x + y)`. The two shifts need not wait for each other, and are one rotation where there is such an
        /// instruction.
        #[inline]
        #[target_feature(enable = $features)]
        fn step<const LEFT: i32, const RIGHT: i32>(to: __m128i, x: __m128i, y: __m128i) -> __m128i {
            let sum = _mm_add_epi32(x, y);
            _mm_xor_si128(to, _mm_or_si128(_mm_slli_epi32::<LEFT>(sum), _mm_srli_epi32::<RIGHT>(sum)))
        }

        #[target_feature(enable = $features)]
        fn load(bytes: &[u8; 64]) -> Vectors {
            let (words, _) = bytes.as_chunks::<4>();
            let word = |place: usize| words.get(place).map_or(0, |bytes| i32::from_le_bytes(*bytes));
            DIAGONALS.map(|[a, b, c, d]| _mm_set_epi32(word(d), word(c), word(b), word(a)))
        }

        #[target_feature(enable = $features)]
        fn store(cell: &Vectors, bytes: &mut [u8; 64]) {
            let (words, _) = bytes.as_chunks_mut::<4>();
            for (vector, places) in cell.iter().zip(DIAGONALS) {
                let mut vector = *vector;
                for place in places {
                    if let Some(word) = words.get_mut(place) {
                        *word = _mm_cvtsi128_si32(vector).to_le_bytes();
                    }
                    vector = _mm_shuffle_epi32::<0x39>(vector);
                }
            }
        }
    };
}

mod sse2 {
    form!("sse2");
}

mod avx512 {
    form!("avx512f,avx512vl");
}
