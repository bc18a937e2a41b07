//! Backing up a stream (a dump's output): where it comes from, and what must hold before it may become a snapshot.
//!
//! A dump that breaks off looks like a shorter dump. So the end of the bytes is never taken for success: whoever
//! makes them has to say how it ended, and what arrived has to pass the checks. Not resumable: a producer cannot be
//! rewound, and a second run of it is another state. Not here: cutting and storing (`pipeline::stream`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Bytes of the end that a tail check sees.
pub const TAIL: usize = 4096;

/// A stream of unknown length that becomes one file of a snapshot.
pub struct StreamSource {
    /// The file's absolute path in the snapshot, and the snapshot's only path.
    pub path: String,
    /// The bytes. Read only as fast as they can be stored.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// How their producer ended. Awaited after the last byte; dropped when the backup ends before.
    pub outcome: Pin<Box<dyn Future<Output = ProducerOutcome> + Send>>,
    /// What else has to hold.
    pub checks: StreamChecks,
}

/// How the producer of a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProducerOutcome {
    /// It says that it has written everything.
    Done {
        /// How many bytes, where it tells.
        bytes: Option<u64>,
        /// Their SHA-256, where it tells.
        sha256: Option<Id>,
    },
    /// It failed, e.g. with `exit status 3`; what arrived is worth nothing.
    Failed(String),
}

/// Looks at the last bytes of a stream, at most [`TAIL`]; says what is wrong with them.
pub type TailCheck = Arc<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// What has to hold before a stream becomes a snapshot.
#[derive(Clone)]
pub struct StreamChecks {
    /// At least so many bytes. 1 by default: a producer that wrote nothing has hardly done its work.
    pub min_size: u64,
    /// It begins with one of these, e.g. `PGDMP`; any beginning will do when empty.
    pub head: Vec<Vec<u8>>,
    /// Looks at its end.
    pub tail: Option<TailCheck>,
    /// Not smaller than so many percent of the newest snapshot of the same host and path.
    pub min_share: Option<u8>,
    /// Longest time without a byte, and longest time between the last byte and the producer's end.
    pub idle_timeout: Option<Duration>,
    /// Longest time from the first look to the producer's end.
    pub total_timeout: Option<Duration>,
    /// Digests the stream, to be compared with what the producer tells. Costs CPU, so only on demand.
    pub digest: bool,
}

impl Default for StreamChecks {
    fn default() -> Self {
        Self {
            min_size: 1,
            head: Vec::new(),
            tail: None,
            min_share: None,
            idle_timeout: None,
            total_timeout: None,
            digest: false,
        }
    }
}

/// What has been seen of a stream so far.
pub(crate) struct Seen {
    checks: StreamChecks,
    /// Plain bytes.
    pub(crate) size: u64,
    /// As much of the beginning as the longest expected one has.
    head: Vec<u8>,
    head_wanted: usize,
    tail: Vec<u8>,
    digest: Option<aws_lc_rs::digest::Context>,
}

impl Seen {
    pub(crate) fn new(checks: StreamChecks) -> Self {
        let head_wanted = checks.head.iter().map(Vec::len).max().unwrap_or(0);
        let digest = checks.digest.then(|| aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256));
        Self { checks, size: 0, head: Vec::new(), head_wanted, tail: Vec::new(), digest }
    }

    /// Takes in the next bytes; an error as soon as the beginning is known to be another one.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        if self.checks.tail.is_some() {
            let last = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or(bytes);
            self.tail.extend_from_slice(last);
            self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        }
        let missing = self.head_wanted.saturating_sub(self.head.len());
        if missing > 0 {
            self.head.extend(bytes.iter().take(missing));
            if self.head.len() == self.head_wanted {
                self.check_head()?;
            }
        }
        Ok(())
    }

    fn check_head(&self) -> Result<()> {
        let heads = &self.checks.head;
        if heads.is_empty() || heads.iter().any(|head| self.head.starts_with(head)) {
            return Ok(());
        }
        let wanted: Vec<_> =
            heads.iter().map(|head| format!("{:?}", String::from_utf8_lossy(head))).collect();
        Err(refused(format!(
            "it begins with {:?} and not with {}",
            String::from_utf8_lossy(&self.head),
            wanted.join(" or ")
        )))
    }

    /// Whether all that arrived, and what its producer says, may become a snapshot. `previous` is the size that the
    /// newest snapshot has.
    pub(crate) fn judge(self, outcome: ProducerOutcome, previous: Option<u64>) -> Result<()> {
        let (bytes, sha256) = match outcome {
            ProducerOutcome::Done { bytes, sha256 } => (bytes, sha256),
            ProducerOutcome::Failed(how) => {
                return Err(refused(format!("its producer failed after {} bytes ({how})", self.size)));
            }
        };
        if let Some(told) = bytes.filter(|told| *told != self.size) {
            return Err(refused(format!("its producer wrote {told} bytes, but {} arrived", self.size)));
        }
        if self.size < self.checks.min_size {
            return Err(refused(format!(
                "it has {} bytes, and {} are the least that is accepted",
                self.size, self.checks.min_size
            )));
        }
        self.check_head()?;
        if let Some(tail) = &self.checks.tail {
            tail(&self.tail).map_err(|why| refused(format!("its end is not as expected: {why}")))?;
        }
        if let (Some(digest), Some(told)) = (self.digest, sha256) {
            let found = digest.finish();
            if found.as_ref() != told.as_bytes() {
                return Err(refused("what arrived is not what its producer wrote: the SHA-256 differs"));
            }
        }
        if let (Some(share), Some(previous)) = (self.checks.min_share, previous)
            && u128::from(self.size) * 100 < u128::from(previous) * u128::from(share)
        {
            return Err(Error::new(
                ErrorKind::Guard,
                format!(
                    "the stream has {} bytes, less than {share} % of the {previous} of the newest snapshot; there is \
                     no new snapshot. If that is right, back up once without this limit",
                    self.size
                ),
            ));
        }
        Ok(())
    }
}

/// A stream that must not become a snapshot.
fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Source, format!("the stream was not backed up, there is no new snapshot: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> ProducerOutcome {
        ProducerOutcome::Done { bytes: None, sha256: None }
    }

    fn judged(checks: StreamChecks, pieces: &[&[u8]], outcome: ProducerOutcome) -> Result<()> {
        let mut seen = Seen::new(checks);
        for piece in pieces {
            seen.take(piece)?;
        }
        seen.judge(outcome, Some(100))
    }

    #[test]
    fn only_a_producer_that_ended_well_is_believed() {
        let checks = StreamChecks { digest: true, ..StreamChecks::default() };
        let told = |bytes, sha256| ProducerOutcome::Done { bytes, sha256 };
        let right = Id::hash(b"abcdef");
        let judged = |outcome| judged(checks.clone(), &[b"abc", b"def"], outcome);
        assert!(judged(done()).is_ok());
        assert!(judged(told(Some(6), Some(right))).is_ok());
        for wrong in [
            told(Some(7), None),
            told(None, Some(Id::hash(b"abc"))),
            ProducerOutcome::Failed("exit status 3".into()),
        ] {
            assert_eq!(judged(wrong.clone()).unwrap_err().kind(), ErrorKind::Source, "{wrong:?}");
        }
    }

    #[test]
    fn nothing_is_not_a_dump_unless_it_may_be() {
        assert!(judged(StreamChecks::default(), &[], done()).is_err());
        assert!(judged(StreamChecks { min_size: 0, ..StreamChecks::default() }, &[], done()).is_ok());
        let least = StreamChecks { min_size: 4, ..StreamChecks::default() };
        assert!(judged(least.clone(), &[b"abc"], done()).is_err());
        assert!(judged(least, &[b"abcd"], done()).is_ok());
    }

    #[test]
    fn the_beginning_is_known_before_all_is_read() {
        let checks =
            StreamChecks { head: vec![b"PGDMP".to_vec(), b"\x1f\x8b".to_vec()], ..StreamChecks::default() };
        assert!(judged(checks.clone(), &[b"PG", b"DMP more"], done()).is_ok());
        assert!(judged(checks.clone(), &[b"\x1f\x8b"], done()).is_ok(), "shorter than the longest");
        assert!(judged(checks.clone(), &[b"PGD"], done()).is_err());
        let mut seen = Seen::new(checks);
        seen.take(b"ERRO").unwrap();
        let error = seen.take(b"R: no such database").unwrap_err();
        assert!(error.to_string().contains("\"ERROR\""), "{error}");
    }

    #[test]
    fn the_end_is_seen_across_pieces() {
        let complete: TailCheck = Arc::new(|tail| {
            if tail.ends_with(b"-- Dump completed\n") { Ok(()) } else { Err("no completion line".into()) }
        });
        let checks = StreamChecks { tail: Some(complete), ..StreamChecks::default() };
        let long = vec![b'x'; 3 * TAIL];
        assert!(judged(checks.clone(), &[&long, b"-- Dump ", b"completed\n"], done()).is_ok());
        let error = judged(checks, &[&long, b"-- Dump "], done()).unwrap_err();
        assert!(error.to_string().contains("no completion line"), "{error}");
    }

    #[test]
    fn a_dump_that_shrank_is_held() {
        let checks = StreamChecks { min_share: Some(50), ..StreamChecks::default() };
        assert!(judged(checks.clone(), &[&[0; 50]], done()).is_ok());
        assert_eq!(judged(checks, &[&[0; 49]], done()).unwrap_err().kind(), ErrorKind::Guard);
    }
}
