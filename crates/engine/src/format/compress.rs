//! zstd as the format uses it: one frame with its content size, no checksum, no dictionary.
//!
//! Contexts are kept by their threads; making one anew for each blob would cost more than a small blob's work.

use std::io::{Cursor, Read};

use zstd_safe::{CCtx, CParameter, DCtx};

use crate::error::{Error, ErrorKind, Result};

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all (directories and metadata still are: the format wants it).
    Off,
    /// zstd level 1.
    Fastest,
    /// Level 2 with a table that fits a core's own cache: sizes as restic's, or smaller (decision 30).
    #[default]
    Auto,
    /// zstd level 9.
    Better,
    /// zstd level 19.
    Max,
}

/// Largest window a frame may use, as a power of two: 8 MiB.
const MAX_WINDOW_LOG: u32 = 23;

/// The most that a frame of so many bytes can give: a block takes 4 bytes or more and gives 128 KiB at most (RFC 8878,
/// 3.1.1.2).
fn most_of(frame: usize) -> usize {
    (frame / 4).saturating_add(1).saturating_mul(128 << 10)
}

fn zstd_error(kind: ErrorKind, what: &str, code: usize) -> Error {
    Error::new(kind, format!("{what}: {}", zstd_safe::get_error_name(code)))
}

/// A reusable compressor.
pub struct Compressor {
    context: CCtx<'static>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Compressor {
    /// A compressor for indexes and other documents of JSON, most of whose bytes are ids that nothing repeats: the
    /// smallest table finds the rest, faster and in fewer bytes.
    pub(crate) fn for_documents() -> Result<Self> {
        let mut compressor = Self::new(Compression::Auto)?;
        compressor.set(CParameter::HashLog(13))?;
        Ok(compressor)
    }

    fn set(&mut self, parameter: CParameter) -> Result<()> {
        self.context
            .set_parameter(parameter)
            .map(drop)
            .map_err(|code| zstd_error(ErrorKind::Internal, "zstd refused a parameter", code))
    }

    /// A compressor of the given strength; `Off` counts as `Fastest` here, since the caller decides what stays raw.
    pub fn new(compression: Compression) -> Result<Self> {
        let mut compressor = Self { context: CCtx::create() };
        let level = match compression {
            Compression::Off | Compression::Fastest => 1,
            Compression::Auto => 2,
            Compression::Better => 9,
            Compression::Max => 19,
        };
        let mut parameters = vec![
            CParameter::CompressionLevel(level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ];
        if compression == Compression::Auto {
            parameters.extend([
                CParameter::Strategy(zstd_safe::Strategy::ZSTD_fast),
                CParameter::HashLog(15),
                CParameter::MinMatch(6),
            ]);
        }
        if compression == Compression::Max {
            parameters.push(CParameter::WindowLog(MAX_WINDOW_LOG));
        }
        for parameter in parameters {
            compressor.set(parameter)?;
        }
        Ok(compressor)
    }

    /// Appends the compressed form of `plain` to `out`; returns its length.
    pub fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        let start = out.len();
        out.reserve(zstd_safe::compress_bound(plain.len()));
        let mut cursor = Cursor::new(std::mem::take(out));
        cursor.set_position(start as u64);
        let written = self.context.compress2(&mut cursor, plain);
        *out = cursor.into_inner();
        written.map_err(|code| zstd_error(ErrorKind::Internal, "zstd could not compress", code))
    }
}

/// A reusable decompressor.
pub struct Decompressor {
    context: DCtx<'static>,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}

impl Decompressor {
    /// A new decompressor.
    pub fn new() -> Result<Self> {
        Ok(Self { context: DCtx::create() })
    }

    /// Decompresses a frame that must give exactly `length` bytes. `length` comes from a header or index;
    /// the caller has bounded it.
    pub fn exact(&mut self, frame: &[u8], length: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.exact_into(frame, length, &mut out)?;
        Ok(out)
    }

    /// As [`Decompressor::exact`], into a buffer whose allocation is reused; what it held is lost.
    pub fn exact_into(&mut self, frame: &[u8], length: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        // Whoever wrote the length may have written anything: no memory for what the frame cannot hold.
        if length > most_of(frame.len()) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "a compressed blob of {} bytes cannot give the {length} that were recorded",
                    frame.len()
                ),
            ));
        }
        out.reserve(length);
        let written = self
            .context
            .decompress(out, frame)
            .map_err(|code| zstd_error(ErrorKind::Corrupt, "a compressed blob is damaged", code))?;
        if written != length {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("a compressed blob gives {written} bytes where {length} were recorded"),
            ));
        }
        Ok(())
    }

    /// Decompresses a frame of unrecorded size, at most `limit` bytes.
    pub fn bounded(&mut self, frame: &[u8], limit: usize) -> Result<Vec<u8>> {
        use std::io::Write as _;
        let declared = zstd_safe::get_frame_content_size(frame).ok().flatten();
        if declared.is_some_and(|d| d > limit as u64) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("a compressed file claims more than {limit} bytes"),
            ));
        }
        if let Some(length) = declared {
            return self.exact(frame, usize::try_from(length).unwrap_or(limit));
        }
        // Go's zstd writer, when it streams, leaves the content size out.
        let mut out = Cursor::new(Vec::new());
        let mut input = zstd_safe::InBuffer::around(frame);
        let mut chunk = Vec::with_capacity(64 << 10);
        self.context.init().map_err(|code| zstd_error(ErrorKind::Internal, "zstd refused to start", code))?;
        loop {
            chunk.clear();
            let hint = {
                let mut output = zstd_safe::OutBuffer::around(&mut chunk);
                self.context
                    .decompress_stream(&mut output, &mut input)
                    .map_err(|code| zstd_error(ErrorKind::Corrupt, "a compressed file is damaged", code))?
            };
            if out.get_ref().len() + chunk.len() > limit {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("a compressed file gives more than {limit} bytes"),
                ));
            }
            out.write_all(&chunk)
                .map_err(|e| Error::with_source(ErrorKind::Internal, "memory could not be written", e))?;
            if hint == 0 {
                return Ok(out.into_inner());
            }
            if input.pos() >= frame.len() && chunk.is_empty() {
                return Err(Error::new(ErrorKind::Corrupt, "a compressed file ends in its middle"));
            }
        }
    }
}

/// A frame's plain bytes as a stream, for files that need not be held whole. Has its own context, whose window goes
/// with it.
pub struct FrameReader<'a> {
    context: DCtx<'static>,
    input: zstd_safe::InBuffer<'a>,
    length: usize,
    /// Plain bytes it may still give.
    left: usize,
    ended: bool,
}

impl<'a> FrameReader<'a> {
    /// Gives an error instead of more than `limit` plain bytes.
    pub fn new(frame: &'a [u8], limit: usize) -> Self {
        Self {
            context: DCtx::create(),
            input: zstd_safe::InBuffer::around(frame),
            length: frame.len(),
            left: limit,
            ended: false,
        }
    }
}

impl std::fmt::Debug for FrameReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameReader")
    }
}

impl Read for FrameReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            let mut output = zstd_safe::OutBuffer::around(&mut *out);
            let hint = self.context.decompress_stream(&mut output, &mut self.input).map_err(|code| {
                std::io::Error::new(std::io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
            })?;
            let given = output.pos();
            let all_read = self.input.pos() >= self.length;
            self.ended = hint == 0 && all_read;
            self.left = self.left.checked_sub(given).ok_or_else(|| {
                std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    "it gives more bytes than any such file has",
                )
            })?;
            if given > 0 {
                return Ok(given);
            }
            if all_read && !self.ended {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let text = b"a line that comes again and again\n".repeat(3000);
        let noise: Vec<u8> =
            (0..50_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        vec![Vec::new(), b"x".to_vec(), text, noise]
    }

    #[test]
    fn every_strength_round_trips_behind_what_is_there() {
        for compression in
            [Compression::Off, Compression::Fastest, Compression::Auto, Compression::Better, Compression::Max]
        {
            let mut compressor = Compressor::new(compression).unwrap();
            let mut decompressor = Decompressor::new().unwrap();
            for plain in samples() {
                let mut out = b"before".to_vec();
                let written = compressor.append(&plain, &mut out).unwrap();
                assert_eq!(out.len(), 6 + written);
                assert_eq!(&out[..6], b"before");
                assert_eq!(decompressor.exact(&out[6..], plain.len()).unwrap(), plain);
                assert_eq!(decompressor.bounded(&out[6..], plain.len()).unwrap(), plain);
                assert_eq!(zstd_safe::get_frame_content_size(&out[6..]).unwrap(), Some(plain.len() as u64));
            }
        }
    }

    #[test]
    fn frames_are_streamed_whole_or_not_at_all() {
        for plain in samples() {
            let mut frame = Vec::new();
            Compressor::new(Compression::Auto).unwrap().append(&plain, &mut frame).unwrap();
            let read = |frame: &[u8], limit| {
                let mut out = Vec::new();
                FrameReader::new(frame, limit).read_to_end(&mut out).map(|_| out).ok()
            };
            assert_eq!(read(&frame, plain.len()), Some(plain.clone()));
            assert_eq!(read(&frame[..frame.len() - 1], plain.len()), None);
            assert_eq!(read(&[&frame[..], b"more"].concat(), plain.len()), None);
            if let Some(less) = plain.len().checked_sub(1) {
                assert_eq!(read(&frame, less), None);
            }
        }
    }

    #[test]
    fn wrong_lengths_are_corrupt_not_memory() {
        let mut frame = Vec::new();
        Compressor::new(Compression::Auto).unwrap().append(&vec![0; 1 << 20], &mut frame).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        for length in [0, 1, (1 << 20) - 1, (1 << 20) + 1] {
            assert_eq!(decompressor.exact(&frame, length).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(decompressor.bounded(&frame, 1000).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(
            decompressor.bounded(&frame[..frame.len() - 1], 1 << 20).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        // More than there is address space for, unless the frame is asked first.
        assert_eq!(decompressor.exact(&frame, usize::MAX >> 1).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut out = Vec::new();
        let claimed = decompressor.exact_into(&frame, 2 << 30, &mut out).unwrap_err();
        assert_eq!((claimed.kind(), out.capacity()), (ErrorKind::Corrupt, 0), "no memory for a mere claim");
        assert_eq!(decompressor.exact(b"no frame", 8).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn frames_without_a_content_size_are_read_within_the_limit() {
        let plain = b"streamed without knowing its end ".repeat(10_000);
        let mut context = CCtx::create();
        context.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
        let mut frame = Vec::with_capacity(1 << 20);
        context.compress2(&mut frame, &plain).unwrap();
        assert_eq!(zstd_safe::get_frame_content_size(&frame).unwrap(), None);
        let mut decompressor = Decompressor::new().unwrap();
        assert_eq!(decompressor.bounded(&frame, plain.len()).unwrap(), plain);
        assert!(decompressor.bounded(&frame, plain.len() - 1).is_err());
        assert!(decompressor.bounded(&frame[..frame.len() / 2], plain.len()).is_err());
    }
}
