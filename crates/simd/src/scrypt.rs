//! scrypt's `ROMix` (RFC 7914, sections 3 to 5): the part of a password's derivation that takes the time and the
//! memory. Not here: PBKDF2 before and after it.
//!
//! A step waits for the one before it and for memory, so there is nothing to do side by side. What counts is that the
//! 16 words of a block stay in four registers, and that the large table lies in large pages: with small ones a quarter
//! of the time goes into making them and finding them.

#[cfg(target_arch = "x86_64")]
mod sse2;

/// Mixes `block` (128·r bytes) in place with cost `n`, a power of two; takes 128·r·n bytes of memory meanwhile. `false`
/// with the block as it was where this processor has no fast form, or for other lengths.
#[must_use]
pub fn ro_mix(block: &mut [u8], n: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "the call of code for certain instructions")]
    // SAFETY: Every x86-64 has SSE2.
    return unsafe { sse2::ro_mix(block, n) };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (block, n);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7914, section 10.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn it_gives_what_the_standard_says() {
        let bytes = |text: &str| -> Vec<u8> {
            let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
            let digit = |b: u8| u8::try_from(char::from(b).to_digit(16).unwrap()).unwrap();
            digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
        };
        let mut block = bytes(
            "f7ce0b653d2d72a4108cf5abe912ffdd777616dbbb27a70e8204f3ae2d0f6fad
             89f68f4811d1e87bcc3bd7400a9ffd29094f0184639574f39ae5a1315217bcd7
             894991447213bb226c25b54da86370fbcd984380374666bb8ffcb5bf40c254b0
             67d27c51ce4ad5fed829c90b505a571b7f4d1cad6a523cda770e67bceaaf7e89",
        );
        assert!(ro_mix(&mut block, 16));
        assert_eq!(
            block,
            bytes(
                "79ccc193629debca047f0b70604bf6b62ce3dd4a9626e355fafc6198e6ea2b46
                 d58413673b99b029d665c357601fb426a0b2f4bba200ee9f0a43d19b571a9c71
                 ef1142e65d5a266fddca832ce59faa7cac0b9cf1be2bffca300d01ee387619c4
                 ae12fd4438f203a0e4e1c47ec314861f4e9087cb33396a6873e8f9d2539a4b8e",
            )
        );
    }

    #[test]
    fn other_lengths_and_costs_are_left_alone() {
        for (length, n) in [(0, 16), (64, 16), (127, 16), (129, 16), (128, 0), (128, 1), (128, 12)] {
            let mut block = vec![7; length];
            assert!(!ro_mix(&mut block, n), "{length} bytes, {n}");
            assert_eq!(block, vec![7; length]);
        }
    }
}
