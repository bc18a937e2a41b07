use super::self_test::{Noise, plant};
use super::*;
use proptest::prelude::*;

/// Polynomials of restic's own documents and tests.
const KNOWN: [u64; 3] = [0x25_b468_838d_cb75, 0x3d_a335_8b4d_c173, 0x3a_bc9b_ff07_d9e5];

fn variants() -> Vec<Variant> {
    Variant::ALL.into_iter().filter(|variant| variant.is_available()).collect()
}

/// All cuts by long hand: each window's hash on its own, from nothing, for short inputs.
fn plain_cuts(polynomial: u64, bytes: &[u8]) -> Vec<usize> {
    let field = Field::new(polynomial);
    bytes
        .windows(WINDOW)
        .skip(1)
        .enumerate()
        .filter(|(_, window)| field.hash(window) & SPLIT_MASK == 0)
        .map(|(position, _)| position)
        .collect()
}

/// As `plain_cuts`, by the recurrence, still a bit at a time.
fn rolled_cuts(polynomial: u64, bytes: &[u8]) -> Vec<usize> {
    let field = Field::new(polynomial);
    let leaving: Vec<u64> = (0..=255).map(|byte| field.leaving(byte)).collect();
    let mut hash = field.hash(&bytes[..WINDOW]);
    let mut cuts = Vec::new();
    for (position, pair) in bytes[WINDOW..].iter().zip(bytes).enumerate() {
        hash = field.append(hash, *pair.0) ^ leaving[usize::from(*pair.1)];
        if hash & SPLIT_MASK == 0 {
            cuts.push(position);
        }
    }
    cuts
}

/// All cuts that a scanner finds, each looked for from behind the one before; at most `limit`.
fn scanned_cuts(scanner: &Scanner, bytes: &[u8], limit: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = scanner.first_cut(&bytes[from..]) {
        found.push(from + at);
        from += at + 1;
        if found.len() == limit {
            break;
        }
    }
    found
}

/// Plants a cut every `apart` bytes, and a near miss before each.
fn with_cuts(polynomial: u64, mut bytes: Vec<u8>, apart: usize) -> Vec<u8> {
    let field = Field::new(polynomial);
    for (number, end) in (0_u32..).zip((WINDOW + 1..=bytes.len()).step_by(apart)) {
        if apart > 8 {
            plant(field, &mut bytes, end - 4, 1 << (number % 20));
        }
        plant(field, &mut bytes, end, (number % 16) << 20);
    }
    bytes
}

#[test]
fn every_form_passes_its_own_comparison() {
    for variant in variants() {
        for polynomial in KNOWN {
            let scanner = Scanner::with_variant(polynomial, variant);
            assert_eq!((scanner.variant(), scanner.distrusted()), (variant, None));
        }
    }
}

#[test]
fn the_comparison_notices_other_maps() {
    for variant in variants().into_iter().filter(|variant| *variant != Variant::Portable) {
        let field = Field::new(KNOWN[0]);
        // One bit of the polynomial differs: what a broken instruction might amount to.
        let kernel = Kernel::new(Field::new(KNOWN[0] ^ 1 << 30), variant);
        let scanner = Scanner { tables: Tables::new(field), kernel, distrusted: None };
        assert!(!self_test::agrees(&scanner, field), "{variant}");
    }
}

#[test]
fn a_form_that_the_machine_lacks_is_replaced_by_the_portable_one() {
    for variant in Variant::ALL {
        let scanner = Scanner::with_variant(KNOWN[0], variant);
        let expected = if variant.is_available() { variant } else { Variant::Portable };
        assert_eq!(scanner.variant(), expected);
    }
}

#[test]
fn the_recurrence_is_the_hash_of_each_window() {
    let bytes = with_cuts(KNOWN[1], Noise(5).bytes(3000), 97);
    let cuts = plain_cuts(KNOWN[1], &bytes);
    assert!(cuts.len() >= 30, "{cuts:?}");
    assert_eq!(rolled_cuts(KNOWN[1], &bytes), cuts);
}

#[test]
fn zeros_are_cut_everywhere_and_ones_nowhere() {
    for variant in variants() {
        let scanner = Scanner::with_variant(KNOWN[2], variant);
        let zeros = vec![0; 20_000];
        assert_eq!(scanned_cuts(&scanner, &zeros, 300), (0..300).collect::<Vec<_>>());
        assert_eq!(scanner.kernel.first_cut(&scanner.tables, &zeros), Some(0), "{variant}");
        let ones = vec![1; 300_000];
        assert_eq!(scanner.first_cut(&ones), rolled_cuts(KNOWN[2], &ones[..200]).first().copied());
    }
}

#[test]
fn a_cut_anywhere_in_the_lanes_is_found() {
    // Around the borders of stretches, blocks, and of the last part, which overlaps what lies before it.
    let length = WINDOW + 300_000;
    let noise = Noise(11).bytes(length);
    let borders = [0, 1, 63, 64, 2111, 2112, 4095, 4096, 67_583, 67_584, 135_167, 135_168, 135_231, 270_336];
    let around = borders.into_iter().flat_map(|border: usize| border.saturating_sub(2)..border + 3);
    let scanners: Vec<_> = variants().into_iter().map(|v| Scanner::with_variant(KNOWN[0], v)).collect();
    let before = rolled_cuts(KNOWN[0], &noise);
    for position in around.chain(length - WINDOW - 3..length - WINDOW) {
        let mut bytes = noise.clone();
        plant(Field::new(KNOWN[0]), &mut bytes, WINDOW + position + 1, 0);
        let expected = before.first().copied().filter(|at| at + WINDOW < position).unwrap_or(position);
        for scanner in &scanners {
            let found = scanner.first_cut(&bytes);
            assert_eq!(found, Some(expected), "{} at {position}", scanner.variant());
        }
    }
}

#[test]
fn too_short_an_input_has_no_cut() {
    for variant in variants() {
        let scanner = Scanner::with_variant(KNOWN[0], variant);
        for length in [0, 1, WINDOW - 1, WINDOW] {
            assert_eq!(scanner.first_cut(&vec![0; length]), None);
        }
        assert_eq!(scanner.first_cut(&[0; WINDOW + 1]), Some(0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any polynomial of the right degree, so any irreducible one: noise with planted cuts, near misses, zeros and
    /// repeats, of any length, also cut into two pieces anywhere.
    #[test]
    fn every_form_finds_what_the_description_says(
        polynomial in prop_oneof![
            prop::sample::select(KNOWN.to_vec()),
            any::<u64>().prop_map(|bits| (bits & ((1 << DEGREE) - 1)) | 1 << DEGREE | 1),
        ],
        seed in 1..u64::MAX,
        length in prop_oneof![WINDOW..WINDOW + 200, WINDOW..20_000, 60_000..300_000_usize],
        apart in prop_oneof![3..70_usize, 70..5000_usize, 5000..100_000_usize],
        zeros in 0..300_000_usize,
        run in 0..5000_usize,
        period in 1..9000_usize,
        split in 0..=1000_usize,
    ) {
        let mut bytes = with_cuts(polynomial, Noise(seed).bytes(length), apart);
        let repeated: Vec<u8> = bytes.iter().copied().take(period).cycle().take(length).collect();
        for byte in bytes.iter_mut().skip(zeros).take(run) {
            *byte = 0;
        }
        for bytes in [bytes, repeated] {
            let all = rolled_cuts(polynomial, &bytes);
            // Two pieces: the second begins with the window before its first position.
            let middle = WINDOW + (bytes.len() - WINDOW) * split / 1000;
            for variant in variants() {
                let scanner = Scanner::with_variant(polynomial, variant);
                prop_assert_eq!(scanner.variant(), variant);
                let limit = 60;
                let found = scanned_cuts(&scanner, &bytes, limit);
                prop_assert_eq!(&found[..], &all[..all.len().min(limit)], "{}", variant);
                let first = scanner.first_cut(&bytes[..middle]);
                prop_assert_eq!(first, all.first().copied().filter(|at| WINDOW + at < middle));
                let second = scanner.first_cut(&bytes[middle - WINDOW..]).map(|at| at + middle - WINDOW);
                prop_assert_eq!(second, all.iter().copied().find(|at| WINDOW + at >= middle));
            }
        }
    }
}
