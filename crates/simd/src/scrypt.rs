//! scrypt's `ROMix` (RFC 7914, sections 3 to 5): the part of a password's derivation that takes the time and the
//! memory. Not here: PBKDF2 before and after it.
//!
//! A step waits for the one before it and for memory. What counts is that the 16 words of a block stay in four registers,
//! that the large table lies in large pages (with small ones a quarter of the time goes into making them and finding
//! them), and that a second block, where there is one, is mixed in the first one's waits.

#[cfg(target_arch = "x86_64")]
mod x86;

/// Mixes `block` (128·r bytes) in place with cost `n`, a power of two; takes 128·r·n bytes of memory meanwhile. `false`
/// with the block as it was where this processor has no fast form or gives wrong results with it, or for other lengths.
#[must_use]
pub fn ro_mix(block: &mut [u8], n: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86::ro_mix([block], n);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (block, n);
        false
    }
}

/// As [`ro_mix`] of each of two blocks of one length, in two thirds of the time and twice the memory.
#[must_use]
pub fn ro_mix_two(one: &mut [u8], other: &mut [u8], n: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86::ro_mix([one, other], n);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (one, other, n);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn it_gives_what_the_standard_says() {
        let mut block = x86::GIVEN;
        assert!(ro_mix(&mut block, 16));
        assert_eq!(block, x86::MIXED);
        assert!(x86::gives(|blocks| x86::plain(blocks, 16), |blocks| x86::plain(blocks, 16)));
    }

    /// A password's key file that such a processor made would open nowhere else, and there every time.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_processor_that_gives_wrong_results_is_not_used() {
        let right = |[block]: [&mut [u8]; 1]| x86::plain([block], 16);
        let wrong = |[block]: [&mut [u8]; 1]| {
            x86::plain([&mut *block], 16);
            block.swap(0, 1);
        };
        let wrong_other = |[one, other]: [&mut [u8]; 2]| {
            x86::plain([&mut *one, &mut *other], 16);
            other.swap(0, 1);
        };
        assert!(!x86::gives(wrong, |blocks| x86::plain(blocks, 16)));
        assert!(!x86::gives(right, wrong_other));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn each_form_gives_the_same_for_one_block_and_for_two() {
        for (length, n) in [(128, 2), (128, 64), (1024, 16), (1664, 128), (1024, 1 << 12)] {
            let block = |start: u8| -> Vec<u8> {
                (0..length)
                    .map(|i| start.wrapping_add(u8::try_from(i % 251).unwrap().wrapping_mul(37)))
                    .collect()
            };
            let (mut one, mut other) = (block(1), block(2));
            assert!(ro_mix(&mut one, n) && ro_mix(&mut other, n));
            assert_ne!(one, other);
            let (mut first, mut second) = (block(1), block(2));
            assert!(ro_mix_two(&mut first, &mut second, n));
            assert_eq!((&first, &second), (&one, &other), "two, {length} bytes, {n}");
            // What a processor without AVX-512 does.
            let mut alone = block(1);
            x86::plain([&mut alone[..]], n);
            assert_eq!(alone, one, "plain, {length} bytes, {n}");
            let (mut first, mut second) = (block(1), block(2));
            x86::plain([&mut first[..], &mut second[..]], n);
            assert_eq!((first, second), (one, other), "two, plain, {length} bytes, {n}");
        }
    }

    #[test]
    fn other_lengths_and_costs_are_left_alone() {
        for (length, n) in [(0, 16), (64, 16), (127, 16), (129, 16), (128, 0), (128, 1), (128, 12)] {
            let mut block = vec![7; length];
            assert!(!ro_mix(&mut block, n), "{length} bytes, {n}");
            assert_eq!(block, vec![7; length]);
        }
        let (mut short, mut long) = ([7; 128], [7; 256]);
        assert!(!ro_mix_two(&mut short, &mut long, 16));
        assert!((short, long) == ([7; 128], [7; 256]));
    }
}
