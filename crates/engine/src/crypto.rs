//! Sealing and opening: AES-256-CTR with a Poly1305-AES MAC over the ciphertext, and keys from passwords.
//!
//! The scheme is the restic format's ("Keys, Encryption and MAC"). Not here: where keys are stored
//! (`repository::keys`), what is sealed.

use std::num::NonZero;

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use data_encoding::BASE64;
use holdfast_simd::scrypt::{ro_mix, ro_mix_two};
use poly1305::Poly1305;
use poly1305::universal_hash::UniversalHash;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of the initialisation vector in front of the ciphertext.
pub const IV_LENGTH: usize = 16;
/// Bytes of the MAC behind the ciphertext.
pub const MAC_LENGTH: usize = 16;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = IV_LENGTH + MAC_LENGTH;

/// The raw bytes of a key; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
struct RawKey {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

/// A key that seals and opens: the repository's master key, or one derived from a password.
pub struct Key {
    raw: RawKey,
    cipher: EncryptingKey,
    mac_cipher: Aes128,
}

/// The master key's JSON inside a key file.
#[derive(Serialize, Deserialize)]
struct StoredKey {
    mac: StoredMac,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct StoredMac {
    k: String,
    r: String,
}

impl Zeroize for StoredKey {
    fn zeroize(&mut self) {
        self.mac.k.zeroize();
        self.mac.r.zeroize();
        self.encrypt.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(secret)")
    }
}

fn corrupt(text: &str) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}

fn internal(text: &str) -> Error {
    Error::new(ErrorKind::Internal, text)
}

impl Key {
    fn new(raw: RawKey) -> Result<Self> {
        let unbound =
            UnboundCipherKey::new(&AES_256, &raw.encrypt).map_err(|_| internal("AES refused its key"))?;
        let cipher = EncryptingKey::ctr(unbound).map_err(|_| internal("AES-CTR refused its key"))?;
        let mac_cipher = Aes128::new(&raw.mac_k.into());
        Ok(Self { raw, cipher, mac_cipher })
    }

    /// A new random key.
    pub fn generate() -> Result<Self> {
        let mut raw = RawKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        random(&mut raw.encrypt)?;
        random(&mut raw.mac_k)?;
        random(&mut raw.mac_r)?;
        Self::new(raw)
    }

    /// The key of 64 bytes that the password derivation gives: 32 to encrypt, 16 `k`, 16 `r`.
    fn from_derived(bytes: &[u8; 64]) -> Result<Self> {
        let mut raw = RawKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        let (encrypt, mac) = bytes.split_at(32);
        let (k, r) = mac.split_at(16);
        raw.encrypt.copy_from_slice(encrypt);
        raw.mac_k.copy_from_slice(k);
        raw.mac_r.copy_from_slice(r);
        Self::new(raw)
    }

    /// Reads a master key's JSON.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let stored: Zeroizing<StoredKey> = Zeroizing::new(
            serde_json::from_slice(json)
                .map_err(|e| Error::with_source(ErrorKind::Corrupt, "the master key is not readable", e))?,
        );
        let mut raw = RawKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        let parts: [(&str, &mut [u8]); 3] = [
            (&stored.encrypt, &mut raw.encrypt),
            (&stored.mac.k, &mut raw.mac_k),
            (&stored.mac.r, &mut raw.mac_r),
        ];
        for (text, place) in parts {
            let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).unwrap_or_default());
            if bytes.len() != place.len() {
                return Err(corrupt("the master key has a part of the wrong length"));
            }
            place.copy_from_slice(&bytes);
        }
        Self::new(raw)
    }

    /// The master key's JSON, wiped when dropped.
    pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>> {
        let stored = Zeroizing::new(StoredKey {
            mac: StoredMac { k: BASE64.encode(&self.raw.mac_k), r: BASE64.encode(&self.raw.mac_r) },
            encrypt: BASE64.encode(&self.raw.encrypt),
        });
        serde_json::to_vec(&*stored)
            .map(Zeroizing::new)
            .map_err(|e| Error::with_source(ErrorKind::Internal, "the master key could not be written", e))
    }

    /// Seals the bytes of `buffer` from `start + IV_LENGTH` on, in place: the caller has left `IV_LENGTH` bytes
    /// free at `start`; the MAC is appended. Lets a compressor write straight into a pack.
    pub fn seal_tail(&self, buffer: &mut Vec<u8>, start: usize) -> Result<()> {
        let sealed =
            buffer.get_mut(start..).ok_or_else(|| internal("sealing begins behind the buffer's end"))?;
        let (iv, text) = sealed
            .split_first_chunk_mut::<IV_LENGTH>()
            .ok_or_else(|| internal("no room for the initialisation vector"))?;
        loop {
            random(iv)?;
            if *iv != [0; IV_LENGTH] {
                break;
            }
        }
        self.apply_keystream(*iv, text)?;
        let mac = self.mac(iv, text);
        buffer.extend_from_slice(&mac);
        Ok(())
    }

    /// Appends the sealed form of `plain` to `out`.
    pub fn seal_into(&self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.reserve(plain.len() + OVERHEAD);
        out.extend_from_slice(&[0; IV_LENGTH]);
        out.extend_from_slice(plain);
        self.seal_tail(out, start)
    }

    /// The sealed form of `plain`.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.seal_into(plain, &mut out)?;
        Ok(out)
    }

    /// Checks the MAC, then decrypts in place and returns the plain part of `sealed`.
    pub fn open_in_place<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let (iv, rest) = sealed
            .split_first_chunk_mut::<IV_LENGTH>()
            .ok_or_else(|| corrupt("sealed bytes are shorter than their frame"))?;
        let (text, mac) = rest
            .split_last_chunk_mut::<MAC_LENGTH>()
            .ok_or_else(|| corrupt("sealed bytes are shorter than their frame"))?;
        if *iv == [0; IV_LENGTH] {
            return Err(corrupt("sealed bytes have an all-zero initialisation vector"));
        }
        let expected = self.mac(iv, text);
        if !bool::from(expected.ct_eq(mac)) {
            return Err(corrupt("the MAC does not fit: the bytes were changed, or sealed with another key"));
        }
        self.apply_keystream(*iv, text)?;
        Ok(text)
    }

    /// Opens into a new buffer.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let mut buffer = sealed.to_vec();
        self.open_in_place(&mut buffer)?;
        buffer.truncate(buffer.len().saturating_sub(MAC_LENGTH));
        buffer.drain(..IV_LENGTH.min(buffer.len()));
        Ok(buffer)
    }

    fn apply_keystream(&self, iv: [u8; IV_LENGTH], text: &mut [u8]) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        // The IV is fresh and random for each message (sealing) or the stored one (opening).
        self.cipher
            .less_safe_encrypt(text, EncryptionContext::Iv128(FixedLength::from(iv)))
            .map(|_| ())
            .map_err(|_| internal("AES-CTR failed"))
    }

    fn mac(&self, iv: &[u8; IV_LENGTH], ciphertext: &[u8]) -> [u8; MAC_LENGTH] {
        let mut nonce = aes::Block::from(*iv);
        self.mac_cipher.encrypt_block(&mut nonce);
        let mut one_time = Zeroizing::new([0_u8; 32]);
        let (r, s) = one_time.split_at_mut(16);
        r.copy_from_slice(&self.raw.mac_r);
        s.copy_from_slice(&nonce);
        // Clamping of `r` happens inside.
        let mut state = Poly1305::new(&(*one_time).into());
        let (blocks, rest) = poly1305::Block::slice_as_chunks(ciphertext);
        state.update(blocks);
        state.compute_unpadded(rest).into()
    }
}

/// Fills `bytes` with random bytes fit for keys.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| internal("the system gave no random bytes"))
}

/// Cost of deriving a key from a password (scrypt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfParams {
    /// Work factor, a power of two; memory is 128·n·r bytes.
    pub n: u64,
    /// Block size.
    pub r: u32,
    /// Repetitions.
    pub p: u32,
}

impl KdfParams {
    /// For passwords of 256 random bits: 32 MiB once, less than 0.1 s.
    pub const RANDOM_PASSWORD: Self = Self { n: 1 << 15, r: 8, p: 1 };
    /// For passwords that people choose: about 0.25 s here (two repetitions at a time, 64 MiB), 0.5 s elsewhere.
    pub const CHOSEN_PASSWORD: Self = Self { n: 1 << 15, r: 8, p: 5 };
    /// Most memory a key file may ask for: scrypt takes 128·r·(n + p) bytes.
    pub const MAX_MEMORY: u64 = 256 << 20;
    /// Most work a key file may ask for, n·r·p: some three seconds.
    const MAX_WORK: u64 = 1 << 23;

    /// What deriving a key costs in time, n·r·p.
    pub fn work(&self) -> u64 {
        self.n.saturating_mul(self.r.into()).saturating_mul(self.p.into())
    }

    /// Refuses values that would eat the machine's memory or time; key files come from the store.
    pub fn check(&self) -> Result<()> {
        let blocks = self.n.saturating_add(self.p.into());
        let memory = blocks.saturating_mul(self.r.into()).saturating_mul(128);
        // The table, and the blocks that are mixed one after the other with it: a little more than a power of two.
        let fits = memory <= Self::MAX_MEMORY.saturating_add(Self::MAX_MEMORY >> 4);
        let quick = self.work() <= Self::MAX_WORK;
        if !fits || !quick || !self.n.is_power_of_two() || self.n < 2 || self.r == 0 || self.p == 0 {
            return Err(Error::new(
                ErrorKind::Format,
                format!(
                    "a key file asks for scrypt with N={}, r={}, p={}, which is out of bounds",
                    self.n, self.r, self.p
                ),
            ));
        }
        Ok(())
    }
}

/// Derives the key that opens a key file. Takes the time and memory that `params` say, on this thread.
pub fn derive_key(password: &SecretString, salt: &[u8], params: KdfParams) -> Result<Key> {
    params.check()?;
    let log_n = u8::try_from(params.n.trailing_zeros()).unwrap_or(u8::MAX);
    let scrypt_params = scrypt::Params::new(log_n, params.r, params.p).map_err(|e| {
        Error::with_source(ErrorKind::Format, "a key file asks for impossible scrypt costs", e)
    })?;
    let password = password.expose_secret().as_bytes();
    let mut derived = Zeroizing::new([0_u8; 64]);
    if !fast_scrypt(password, salt, params, &mut derived) {
        scrypt::scrypt(password, salt, &scrypt_params, &mut *derived)
            .map_err(|e| Error::with_source(ErrorKind::Internal, "scrypt failed", e))?;
    }
    Key::from_derived(&derived)
}

/// Most memory for mixing two blocks at a time, which is what makes five repetitions take the time of three: what two
/// tables of our own cost need, so that it stays below what a backup takes later.
const TWO_TABLES: usize = 64 << 20;

/// scrypt (RFC 7914, section 6) with this processor's own form of its core; `false` when there is none.
fn fast_scrypt(password: &[u8], salt: &[u8], params: KdfParams, out: &mut [u8; 64]) -> bool {
    let (Ok(n), Ok(r), Ok(p)) =
        (usize::try_from(params.n), usize::try_from(params.r), usize::try_from(params.p))
    else {
        return false;
    };
    let once = NonZero::<u32>::MIN;
    let length = 128 * r;
    let mut blocks = Zeroizing::new(vec![0_u8; length * p]);
    pbkdf2::derive(PBKDF2_HMAC_SHA256, once, salt, password, &mut blocks);
    let by_two = 2_usize.saturating_mul(length).saturating_mul(n) <= TWO_TABLES;
    for two in blocks.chunks_mut(2 * length) {
        let mixed = match two.split_at_mut(length) {
            (left, []) => ro_mix(left, n),
            (left, right) if by_two => ro_mix_two(left, right, n),
            (left, right) => ro_mix(left, n) && ro_mix(right, n),
        };
        if !mixed {
            return false;
        }
    }
    pbkdf2::derive(PBKDF2_HMAC_SHA256, once, &blocks, password, out);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_and_open_are_inverse_and_hide_nothing_else() {
        let key = Key::generate().unwrap();
        for length in [0, 1, 15, 16, 17, 31, 32, 63, 64, 65, 1000, 100_003] {
            let plain: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let sealed = key.seal(&plain).unwrap();
            assert_eq!(sealed.len(), plain.len() + OVERHEAD);
            assert_eq!(key.open(&sealed).unwrap(), plain);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = Key::generate().unwrap();
        let sealed = key.seal(b"some bytes of a directory").unwrap();
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(key.open(&changed).unwrap_err().kind(), ErrorKind::Corrupt, "byte {place}");
        }
        for length in 0..sealed.len() {
            assert!(key.open(&sealed[..length]).is_err(), "cut at {length}");
        }
        assert!(Key::generate().unwrap().open(&sealed).is_err());
    }

    #[test]
    fn a_zero_iv_is_refused_even_with_a_fitting_mac() {
        let key = Key::generate().unwrap();
        let mut sealed = vec![0; IV_LENGTH];
        sealed.extend_from_slice(b"text");
        let mac = key.mac(&[0; 16], b"text");
        sealed.extend_from_slice(&mac);
        assert!(key.open(&sealed).is_err());
    }

    #[test]
    fn counter_carries_over_64_bits() {
        // CTR counts all 128 bits, big-endian: with an IV of all ones the second block's counter is 0.
        let key = Key::generate().unwrap();
        let mut two = [0_u8; 32];
        key.apply_keystream([0xff; 16], &mut two).unwrap();
        let mut one = [0_u8; 16];
        key.apply_keystream([0; 16], &mut one).unwrap();
        assert_eq!(two[16..], one);
    }

    #[test]
    fn master_key_json_round_trips_in_the_formats_shape() {
        let key = Key::generate().unwrap();
        let json = key.to_json().unwrap();
        let text = String::from_utf8(json.to_vec()).unwrap();
        assert!(text.starts_with("{\"mac\":{\"k\":\"") && text.contains("\"},\"encrypt\":\""), "shape");
        let again = Key::from_json(&json).unwrap();
        assert_eq!(again.open(&key.seal(b"x").unwrap()).unwrap(), b"x");
        assert!(Key::from_json(b"{\"mac\":{\"k\":\"AA==\",\"r\":\"AA==\"},\"encrypt\":\"AA==\"}").is_err());
    }

    #[test]
    fn poly1305_aes_matches_bernsteins_test_vector() {
        // D. J. Bernstein, "The Poly1305-AES message-authentication code", appendix B, second example.
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.replace(' ', "").as_bytes()).unwrap();
        let mut raw = RawKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        raw.mac_r.copy_from_slice(&hex("a0f3080000f46400d0c7e9076c834403"));
        raw.mac_k.copy_from_slice(&hex("75deaa25c09f208e1dc4ce6b5cad3fbf"));
        let key = Key::new(raw).unwrap();
        let nonce: [u8; 16] = hex("61ee09218d29b0aaed7e154a2c5509cc").try_into().unwrap();
        assert_eq!(key.mac(&nonce, b"").to_vec(), hex("dd3fab2251f11ac759f0887129cc2ee7"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn our_form_of_scrypt_gives_what_the_crate_gives() {
        let long = [b'p'; 200];
        for (n, r, p) in
            [(2, 1, 1), (16, 1, 1), (1024, 8, 16), (256, 3, 2), (1 << 15, 8, 3), (64, 13, 5), (1 << 16, 8, 2)]
        {
            for (password, salt) in [(&b""[..], &b""[..]), (b"password", b"NaCl"), (&long, &[9; 64])] {
                let mut ours = [0; 64];
                assert!(fast_scrypt(password, salt, KdfParams { n, r, p }, &mut ours));
                let log_n = u8::try_from(n.trailing_zeros()).unwrap();
                let mut theirs = [0; 64];
                scrypt::scrypt(password, salt, &scrypt::Params::new(log_n, r, p).unwrap(), &mut theirs)
                    .unwrap();
                assert_eq!(ours, theirs, "{n} {r} {p}");
            }
        }
    }

    #[test]
    fn scrypt_costs_from_a_key_file_are_bounded() {
        for params in [
            KdfParams { n: 1 << 18, r: 8, p: 1 + 64 },
            KdfParams { n: 1 << 30, r: 8, p: 1 },
            KdfParams { n: u64::MAX, r: u32::MAX, p: 1 },
            KdfParams { n: 1000, r: 8, p: 1 },
            KdfParams { n: 1 << 15, r: 0, p: 1 },
            KdfParams { n: 1 << 15, r: 8, p: 0 },
            // 8 GiB of blocks beside a table of 256 MiB; a minute's work in a table of that size.
            KdfParams { n: 2, r: 1 << 20, p: 64 },
            KdfParams { n: 1 << 18, r: 8, p: 64 },
            KdfParams { n: 2, r: 1, p: u32::MAX },
        ] {
            assert!(params.check().is_err(), "{params:?}");
        }
        for params in [
            KdfParams::RANDOM_PASSWORD,
            KdfParams::CHOSEN_PASSWORD,
            KdfParams { n: 1 << 17, r: 8, p: 1 },
            KdfParams { n: 1 << 18, r: 8, p: 1 },
            KdfParams { n: 1 << 15, r: 8, p: 32 },
        ] {
            params.check().unwrap();
        }
    }
}
