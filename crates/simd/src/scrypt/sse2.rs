//! `ROMix` with the vectors that every x86-64 has.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_set_epi32, _mm_setzero_si128, _mm_shuffle_epi32,
    _mm_slli_epi32, _mm_srli_epi32, _mm_xor_si128,
};

/// 64 bytes; the words of Salsa20's square lie along its diagonals, so that each step works on whole vectors.
type Cell = [__m128i; 4];

/// Where the words of a cell's vectors lie in the bytes.
const DIAGONALS: [[usize; 4]; 4] = [[0, 5, 10, 15], [4, 9, 14, 3], [8, 13, 2, 7], [12, 1, 6, 11]];

/// A table smaller than this gains nothing from large pages.
const LARGE: usize = 4 << 20;
/// A large page.
const PAGE: usize = 2 << 20;

#[target_feature(enable = "sse2")]
pub(super) fn ro_mix(block: &mut [u8], n: usize) -> bool {
    let (cells, rest) = block.as_chunks_mut::<64>();
    let length = cells.len();
    if !rest.is_empty() || length == 0 || !length.is_multiple_of(2) || !n.is_power_of_two() || n < 2 {
        return false;
    }
    let mut now: Vec<Cell> = cells.iter().map(|bytes| load(bytes)).collect();
    let mut next = now.clone();
    let mut table = table(length * n);
    for _ in 0..n {
        table.extend_from_slice(&now);
        block_mix::<false>(&now, &now, &mut next);
        std::mem::swap(&mut now, &mut next);
    }
    for _ in 0..n {
        // The low bits of the first word of the last cell say which entry is next.
        let word = now.last().map_or(0, |[diagonal, ..]| _mm_cvtsi128_si32(*diagonal).cast_unsigned());
        let start = (word as usize & (n - 1)) * length;
        let entry = table.get(start..start + length).unwrap_or_default();
        block_mix::<true>(&now, entry, &mut next);
        std::mem::swap(&mut now, &mut next);
    }
    for (bytes, cell) in cells.iter_mut().zip(&now) {
        store(cell, bytes);
    }
    true
}

/// Room for so many cells, in large pages if the system has them to give.
fn table(cells: usize) -> Vec<Cell> {
    let mut table: Vec<Cell> = Vec::with_capacity(cells);
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

/// scryptBlockMix of `input`, with `other` added to it first if `MIX`: cell for cell as long as the input.
#[target_feature(enable = "sse2")]
fn block_mix<const MIX: bool>(input: &[Cell], other: &[Cell], output: &mut [Cell]) {
    let taken = |cell: &Cell, other: &Cell| if MIX { xor(*cell, other) } else { *cell };
    let zero = [_mm_setzero_si128(); 4];
    let mut state = taken(input.last().unwrap_or(&zero), other.last().unwrap_or(&zero));
    // The results of even cells come first, those of odd ones behind them.
    let (evens, odds) = output.split_at_mut(input.len() / 2);
    let pairs = input.as_chunks::<2>().0.iter().zip(other.as_chunks::<2>().0);
    for ((([a, b], [c, d]), even), odd) in pairs.zip(evens).zip(odds) {
        state = salsa(xor(state, &taken(a, c)));
        *even = state;
        state = salsa(xor(state, &taken(b, d)));
        *odd = state;
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn xor([a, b, c, d]: Cell, with: &Cell) -> Cell {
    let [with_a, with_b, with_c, with_d] = *with;
    [_mm_xor_si128(a, with_a), _mm_xor_si128(b, with_b), _mm_xor_si128(c, with_c), _mm_xor_si128(d, with_d)]
}

/// Salsa20/8.
#[inline]
#[target_feature(enable = "sse2")]
fn salsa(input: Cell) -> Cell {
    let [mut a, mut b, mut c, mut d] = input;
    for _ in 0..4 {
        b = step::<7, 25>(b, a, d);
        c = step::<9, 23>(c, b, a);
        d = step::<13, 19>(d, c, b);
        a = step::<18, 14>(a, d, c);
        // The same again for the rows: turned so that they lie where the columns were.
        b = _mm_shuffle_epi32::<0x93>(b);
        c = _mm_shuffle_epi32::<0x4e>(c);
        d = _mm_shuffle_epi32::<0x39>(d);
        d = step::<7, 25>(d, a, b);
        c = step::<9, 23>(c, d, a);
        b = step::<13, 19>(b, c, d);
        a = step::<18, 14>(a, b, c);
        b = _mm_shuffle_epi32::<0x39>(b);
        c = _mm_shuffle_epi32::<0x4e>(c);
        d = _mm_shuffle_epi32::<0x93>(d);
    }
    let [from_a, from_b, from_c, from_d] = input;
    [_mm_add_epi32(a, from_a), _mm_add_epi32(b, from_b), _mm_add_epi32(c, from_c), _mm_add_epi32(d, from_d)]
}

/// `to ^ rotate(x + y)`; the rotation in two shifts, which need not wait for each other.
#[inline]
#[target_feature(enable = "sse2")]
fn step<const LEFT: i32, const RIGHT: i32>(to: __m128i, x: __m128i, y: __m128i) -> __m128i {
    let sum = _mm_add_epi32(x, y);
    _mm_xor_si128(_mm_xor_si128(to, _mm_slli_epi32::<LEFT>(sum)), _mm_srli_epi32::<RIGHT>(sum))
}

#[target_feature(enable = "sse2")]
fn load(bytes: &[u8; 64]) -> Cell {
    let (words, _) = bytes.as_chunks::<4>();
    let word = |place: usize| words.get(place).map_or(0, |bytes| i32::from_le_bytes(*bytes));
    DIAGONALS.map(|[a, b, c, d]| _mm_set_epi32(word(d), word(c), word(b), word(a)))
}

#[target_feature(enable = "sse2")]
fn store(cell: &Cell, bytes: &mut [u8; 64]) {
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
