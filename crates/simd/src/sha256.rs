//! SHA-256 (FIPS 180-4) of two messages side by side.
//!
//! With the processor's own instructions each round waits for the one before it, and the unit that does them is idle half
//! of the time. A second message, whose rounds wait for other ones, fills the gaps: both together take hardly longer than
//! one. Not here: processors without these instructions, for which one message after the other is as good.

#[cfg(target_arch = "x86_64")]
mod sha_ni;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

/// Bytes of a block.
const BLOCK: usize = 64;

/// The eight words of the state.
type State = [u32; 8];

/// The state before the first block (FIPS 180-4, 5.3.3).
const START: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A message that comes piece by piece.
#[derive(Clone)]
pub struct Hasher {
    state: State,
    /// What does not fill a block yet.
    rest: [u8; BLOCK],
    rest_length: usize,
    /// Bytes so far.
    length: u64,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher({} bytes)", self.length)
    }
}

impl Hasher {
    /// A hasher of nothing yet; `None` where the processor lacks the instructions, or gives wrong results with them.
    pub fn new() -> Option<Self> {
        static WORKS: OnceLock<bool> = OnceLock::new();
        let new = Self { state: START, rest: [0; BLOCK], rest_length: 0, length: 0 };
        let works = || is_available() && new.clone().gives_what_it_shall();
        (*WORKS.get_or_init(works)).then_some(new)
    }

    /// Whether the text of FIPS 180-4's example of two blocks gives what it shall, on both sides.
    fn gives_what_it_shall(self) -> bool {
        const TEXT: &[u8] = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        const DIGEST: [u8; 32] = [
            0x24, 0x8d, 0x6a, 0x61, 0xd2, 0x06, 0x38, 0xb8, 0xe5, 0xc0, 0x26, 0x93, 0x0c, 0x3e, 0x60, 0x39,
            0xa3, 0x3c, 0xe4, 0x59, 0x64, 0xff, 0x21, 0x67, 0xf6, 0xec, 0xed, 0xd4, 0x19, 0xdb, 0x06, 0xc1,
        ];
        let (mut a, mut b) = (self.clone(), self);
        Self::update_two(&mut a, TEXT, &mut b, TEXT);
        a.finish() == DIGEST && b.finish() == DIGEST
    }

    /// Adds to the message.
    pub fn update(&mut self, data: &[u8]) {
        let (blocks, rest) = self.begin(data).as_chunks();
        compress([&mut self.state], [blocks]);
        self.keep(rest);
    }

    /// Adds to two messages at once.
    pub fn update_two(a: &mut Self, to_a: &[u8], b: &mut Self, to_b: &[u8]) {
        let (blocks_a, rest_a) = a.begin(to_a).as_chunks();
        let (blocks_b, rest_b) = b.begin(to_b).as_chunks();
        let both = blocks_a.len().min(blocks_b.len());
        let ((first_a, more_a), (first_b, more_b)) = (blocks_a.split_at(both), blocks_b.split_at(both));
        compress([&mut a.state, &mut b.state], [first_a, first_b]);
        compress([&mut a.state], [more_a]);
        compress([&mut b.state], [more_b]);
        a.keep(rest_a);
        b.keep(rest_b);
    }

    /// The message's digest.
    pub fn finish(mut self) -> [u8; 32] {
        let bits = self.length.wrapping_mul(8).to_be_bytes();
        let after = BLOCK - self.rest_length;
        // One bit, zeros, and the length at the end of a block: this one if it has room for nine bytes.
        let mut end = [0_u8; 2 * BLOCK];
        let padding = if after > bits.len() { after } else { after + BLOCK };
        if let Some(end) = end.get_mut(..padding) {
            end.fill(0);
            if let Some(first) = end.first_mut() {
                *first = 0x80;
            }
            if let Some(last) = end.last_chunk_mut() {
                *last = bits;
            }
        }
        self.update(end.get(..padding).unwrap_or_default());
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }

    /// Counts the data, and fills up the block that is begun; what is left of the data then.
    fn begin<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        self.length = self.length.wrapping_add(data.len() as u64);
        if self.rest_length == 0 {
            return data;
        }
        let (now, later) = data.split_at((BLOCK - self.rest_length).min(data.len()));
        if let Some(room) = self.rest.get_mut(self.rest_length..self.rest_length + now.len()) {
            room.copy_from_slice(now);
        }
        self.rest_length += now.len();
        if self.rest_length == BLOCK {
            self.rest_length = 0;
            compress([&mut self.state], [&[self.rest]]);
        }
        later
    }

    /// Keeps what fills no block.
    fn keep(&mut self, rest: &[u8]) {
        // Otherwise nothing is new: a block that is begun takes all there was.
        if let Some(room) = self.rest.get_mut(..rest.len()).filter(|room| !room.is_empty()) {
            room.copy_from_slice(rest);
            self.rest_length = rest.len();
        }
    }
}

fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sha")
        && std::arch::is_x86_feature_detected!("ssse3")
        && std::arch::is_x86_feature_detected!("sse4.1");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Takes as many blocks into each state as the shortest message has.
fn compress<const N: usize>(states: [&mut State; N], blocks: [&[[u8; BLOCK]]; N]) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "the call of code for certain instructions")]
    // SAFETY: Nobody has a hasher unless the processor was found to have the instructions.
    unsafe {
        sha_ni::compress(states, blocks);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (states, blocks);
}
