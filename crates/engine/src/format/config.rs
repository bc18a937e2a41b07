//! The repository's `config` file.

use serde::{Deserialize, Serialize};

use crate::chunk::Polynomial;
use crate::error::{Error, ErrorKind, Result};

/// What never changes about a repository. Fields we do not know are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Format version, 1 or 2.
    pub version: u32,
    /// Random identity, 64 hex digits.
    pub id: String,
    /// Irreducible polynomial of degree 53 over GF(2) that the chunker uses, in hex.
    pub chunker_polynomial: Polynomial,
    /// Set by rustic: nothing may be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_only: Option<bool>,
    /// Fields of other programs.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Config {
    /// The configuration of a new repository: random identity, random polynomial.
    pub fn generate(version: u32) -> Result<Self> {
        let mut id = [0_u8; 32];
        crate::crypto::random(&mut id)?;
        let config = Self {
            version,
            id: data_encoding::HEXLOWER.encode(&id),
            chunker_polynomial: Polynomial::random()?,
            append_only: None,
            other: serde_json::Map::new(),
        };
        config.check()?;
        Ok(config)
    }

    /// Reads and checks the configuration's plain JSON.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(json).map_err(|e| {
            Error::with_source(ErrorKind::Format, "the repository's config is not readable", e)
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if !(1..=2).contains(&self.version) {
            return Err(Error::new(
                ErrorKind::Format,
                format!("the repository has format version {}; this program knows 1 and 2", self.version),
            ));
        }
        // rustic can choose another chunker; cutting with the wrong one would silently end deduplication.
        if let Some(chunker) = self.other.get("chunker").and_then(|v| v.as_str())
            && chunker != "rabin"
        {
            return Err(Error::new(
                ErrorKind::Format,
                format!("the repository uses the chunker {chunker:?}; this program knows rabin only"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ones_are_read_back_and_differ() {
        let (a, b) = (Config::generate(2).unwrap(), Config::generate(2).unwrap());
        assert_eq!(Config::parse(&serde_json::to_vec(&a).unwrap()).unwrap(), a);
        assert_ne!(a.id, b.id);
        assert_ne!(a.chunker_polynomial, b.chunker_polynomial);
        assert_eq!(a.id.len(), 64);
        let json = serde_json::to_string(&a).unwrap();
        assert!(
            json.starts_with(&format!("{{\"version\":2,\"id\":\"{}\",\"chunker_polynomial\":\"", a.id)),
            "{json}"
        );
    }

    #[test]
    fn what_we_do_not_understand_is_refused() {
        for (json, kind) in [
            (r#"{"version":3,"id":"x","chunker_polynomial":"3DA3358B4DC173"}"#, ErrorKind::Format),
            (
                r#"{"version":2,"id":"x","chunker_polynomial":"3DA3358B4DC173","chunker":"fixed_size"}"#,
                ErrorKind::Format,
            ),
            (r#"{"version":2,"id":"x","chunker_polynomial":"3DA3358B4DC172"}"#, ErrorKind::Format),
            ("not json", ErrorKind::Format),
        ] {
            assert_eq!(Config::parse(json.as_bytes()).unwrap_err().kind(), kind, "{json}");
        }
        Config::parse(br#"{"version":1,"id":"x","chunker_polynomial":"3DA3358B4DC173"}"#).unwrap();
    }
}
