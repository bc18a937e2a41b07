//! Finds restic's cut points: where Rabin's rolling hash over the last 64 bytes ends in 20 zero bits.
//!
//! The hash is the window's bytes as a polynomial over GF(2), modulo the repository's polynomial of degree 53.
//! Everything about it is linear: shifting by a byte, taking the oldest byte out, putting the next one in. So a
//! whole register of positions can be worked on at once, each with 8×8 bit matrices (`avx512`, `avx2`), or a few
//! of them with lookup tables (`portable`). Not here: smallest and largest chunks, which the engine chooses.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod field;
mod portable;
mod self_test;
#[cfg(test)]
mod tests;

use crate::Variant;
use field::Field;
use portable::Tables;

/// Bytes that the rolling hash depends on.
pub const WINDOW: usize = 64;
/// Degree of the polynomial.
pub const DEGREE: u32 = 53;
/// A cut is where these bits of the hash are all zero: one position in 2^20.
pub const SPLIT_MASK: u64 = (1 << 20) - 1;

/// Bytes that the digest takes in the vector forms: it is kept multiplied by x³, so that 53 bits fill seven bytes.
#[cfg(target_arch = "x86_64")]
const DIGEST_BYTES: usize = 7;
/// What the digest is multiplied by, as a shift.
#[cfg(target_arch = "x86_64")]
const SCALE: u32 = 3;
/// Steps between two looks at the input, in the vector forms: as many as the window has bytes, so that the bytes
/// that leave it are the ones that entered in the block before.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = WINDOW;
/// Blocks that one lane goes through before the lanes are laid out anew. More waste work behind a cut, fewer spend
/// more on warming up. Odd, so that the lanes' beginnings do not share the first cache's sets.
#[cfg(target_arch = "x86_64")]
const MAX_BLOCKS: usize = 33;

/// Scans for cuts with one polynomial.
pub struct Scanner {
    tables: Tables,
    kernel: Kernel,
    distrusted: Option<Variant>,
}

/// The form that is used, with its constants.
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Maps),
    #[cfg(target_arch = "x86_64")]
    Avx2(Box<avx2::Maps>),
    Portable,
}

impl Scanner {
    /// The fastest form that this machine has, after a comparison with the portable one that takes about a
    /// millisecond. `polynomial` has degree 53; with another the cuts mean nothing.
    pub fn new(polynomial: u64) -> Self {
        Self::with_variant(polynomial, Variant::best())
    }

    /// As [`Scanner::new`] with a form of one's choice; the portable one where the machine does not have it.
    pub fn with_variant(polynomial: u64, variant: Variant) -> Self {
        let field = Field::new(polynomial);
        let mut scanner =
            Self { tables: Tables::new(field), kernel: Kernel::new(field, variant), distrusted: None };
        if scanner.variant() != Variant::Portable && !self_test::agrees(&scanner, field) {
            scanner.distrusted = Some(scanner.variant());
            scanner.kernel = Kernel::Portable;
        }
        scanner
    }

    /// The form that is used.
    pub fn variant(&self) -> Variant {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(_) => Variant::Avx512,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => Variant::Avx2,
            Kernel::Portable => Variant::Portable,
        }
    }

    /// A form that the machine has, but that disagreed with the portable one and is not used. Something is wrong
    /// with this machine or with us: say so.
    pub fn distrusted(&self) -> Option<Variant> {
        self.distrusted
    }

    /// The first position that is a cut. The first [`WINDOW`] bytes are only looked back at: position `i` is behind
    /// byte `WINDOW + i`, so that a cut at `i` makes `WINDOW + i + 1` bytes of `bytes` belong to what lies before.
    pub fn first_cut(&self, bytes: &[u8]) -> Option<usize> {
        // In zeros, which are common, every position is a cut: found without setting up the lanes.
        if let Some(first) = bytes.get(..=WINDOW)
            && self.tables.first_cut(first).is_some()
        {
            return Some(0);
        }
        self.kernel.first_cut(&self.tables, bytes)
    }
}

impl Kernel {
    fn new(field: Field, variant: Variant) -> Self {
        #[cfg(target_arch = "x86_64")]
        if variant.is_available() {
            return match variant {
                Variant::Avx512 => Self::Avx512(avx512::Maps::new(field)),
                Variant::Avx2 => Self::Avx2(Box::new(avx2::Maps::new(field))),
                Variant::Portable => Self::Portable,
            };
        }
        let _ = (field, variant);
        Self::Portable
    }

    #[allow(unsafe_code, reason = "calls code for instructions that this processor was found to have")]
    fn first_cut(&self, tables: &Tables, bytes: &[u8]) -> Option<usize> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(maps) if bytes.len() >= WINDOW + avx512::LANES * BLOCK => {
                by_lanes(bytes, avx512::LANES, |part, blocks| {
                    // SAFETY: `Kernel::new` makes this variant only where `is_available` found the instructions.
                    unsafe { avx512::first_cut(maps, part, blocks) }
                })
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(maps) if bytes.len() >= WINDOW + avx2::LANES * BLOCK => {
                by_lanes(bytes, avx2::LANES, |part, blocks| {
                    // SAFETY: as above.
                    unsafe { avx2::first_cut(maps, part, blocks) }
                })
            }
            _ => tables.first_cut(bytes),
        }
    }
}

/// Lays `lanes` stretches of the same length over `bytes`, again and again, and lets `scan` find the first cut in
/// them. `bytes` is long enough for one block a lane; where the last stretches do not fit any more, they overlap
/// what was scanned before, which costs less than going through the rest one by one.
#[cfg(target_arch = "x86_64")]
fn by_lanes(bytes: &[u8], lanes: usize, scan: impl Fn(&[u8], usize) -> Option<usize>) -> Option<usize> {
    let unit = lanes * BLOCK;
    let positions = bytes.len().saturating_sub(WINDOW);
    let mut next = 0;
    while next < positions {
        let fit = ((positions - next) / unit).min(MAX_BLOCKS);
        // An even number of blocks would lay the lanes over the same sets of the cache.
        let blocks = if fit > 1 && fit.is_multiple_of(2) { fit - 1 } else { fit.max(1) };
        let from = next.min(positions.saturating_sub(blocks * unit));
        let part = bytes.get(from..from + WINDOW + blocks * unit)?;
        if let Some(at) = scan(part, blocks) {
            return Some(from + at);
        }
        next = from + blocks * unit;
    }
    None
}

/// The matrices and tables that the vector forms are made from: where each bit of a byte ends up in the digest.
#[cfg(target_arch = "x86_64")]
struct Images {
    /// Of the byte that a shift pushes out at the top, reduced.
    top: [u64; 8],
    /// Of the byte that leaves the window.
    leave: [u64; 8],
    /// Of the byte that enters it.
    enter: [u64; 8],
}

#[cfg(target_arch = "x86_64")]
impl Images {
    fn new(field: Field) -> Self {
        let scaled = |value: u64| value << SCALE;
        let powers = || (0..8_u32).map(|bit| 1_u8 << bit);
        let mut images = Self { top: [0; 8], leave: [0; 8], enter: [0; 8] };
        for (bit, byte) in powers().enumerate() {
            if let (Some(top), Some(leave), Some(enter)) =
                (images.top.get_mut(bit), images.leave.get_mut(bit), images.enter.get_mut(bit))
            {
                *top = scaled(field.above(byte));
                *leave = scaled(field.leaving(byte));
                *enter = scaled(u64::from(byte));
            }
        }
        images
    }

    /// What a whole byte contributes: the sum of its bits' images.
    fn of(images: &[u64; 8], byte: u8) -> u64 {
        images
            .iter()
            .enumerate()
            .filter(|(bit, _)| byte >> bit & 1 == 1)
            .fold(0, |sum, (_, image)| sum ^ image)
    }
}
