//! Key files: how to derive a key from a password, and the master key sealed with it.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::time::OffsetTime;
use crate::crypto::{self, KdfParams, Key};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of salt.
pub const SALT_LENGTH: usize = 64;

/// A key file. It is plain JSON; only `data` is sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyFile {
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<OffsetTime>,
    /// Who made it.
    #[serde(default)]
    pub username: String,
    /// Where it was made.
    #[serde(default)]
    pub hostname: String,
    /// Always `scrypt`.
    pub kdf: String,
    /// scrypt's work factor.
    #[serde(rename = "N")]
    pub n: u64,
    /// scrypt's block size.
    pub r: u32,
    /// scrypt's repetitions.
    pub p: u32,
    /// Salt, base64.
    pub salt: String,
    /// The sealed master key, base64.
    pub data: String,
}

impl KeyFile {
    /// Seals `master` for `password`.
    pub fn create(
        master: &Key,
        password: &SecretString,
        params: KdfParams,
        username: &str,
        hostname: &str,
        created: OffsetTime,
    ) -> Result<Self> {
        let mut salt = [0_u8; SALT_LENGTH];
        crypto::random(&mut salt)?;
        let key = crypto::derive_key(password, &salt, params)?;
        let data = key.seal(&master.to_json()?)?;
        Ok(Self {
            created: Some(created),
            username: username.to_owned(),
            hostname: hostname.to_owned(),
            kdf: "scrypt".to_owned(),
            n: params.n,
            r: params.r,
            p: params.p,
            salt: data_encoding::BASE64.encode(&salt),
            data: data_encoding::BASE64.encode(&data),
        })
    }

    /// Reads a key file.
    pub fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "a key file is not readable", e))
    }

    /// What trying a password on it costs.
    pub fn params(&self) -> KdfParams {
        KdfParams { n: self.n, r: self.r, p: self.p }
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::with_source(ErrorKind::Internal, "a key file could not be written", e))
    }

    /// The master key, if `password` opens this file; `None` if it is the wrong one. Takes scrypt's time.
    pub fn open(&self, password: &SecretString) -> Result<Option<Key>> {
        if self.kdf != "scrypt" {
            return Err(Error::new(
                ErrorKind::Format,
                format!("a key file uses the key derivation {:?}; only scrypt is known", self.kdf),
            ));
        }
        let decode = |text: &str| {
            data_encoding::BASE64.decode(text.as_bytes()).map_err(|e| {
                Error::with_source(ErrorKind::Corrupt, "a key file holds bytes that are not base64", e)
            })
        };
        let salt = decode(&self.salt)?;
        if salt.len() != SALT_LENGTH {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("a key file has a salt of {} bytes", salt.len()),
            ));
        }
        let mut data = zeroize::Zeroizing::new(decode(&self.data)?);
        let key = crypto::derive_key(password, &salt, self.params())?;
        match key.open_in_place(&mut data) {
            Ok(json) => Key::from_json(json).map(Some),
            Err(_) => Ok(None),
        }
    }
}
