//! What is written to a store: the bytes of a file, in one piece or in several.
//!
//! A pack is put together in pieces while it is filled. Making one piece of them before it is sent would take as much
//! memory again as all packs on their way.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

/// The bytes of a file. Cheap to clone: the pieces are shared.
#[derive(Debug, Clone)]
pub struct Body {
    pieces: Arc<[Bytes]>,
    length: usize,
}

impl Body {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes, piece by piece.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// All bytes in one piece; copies them unless they are.
    pub fn in_one_piece(&self) -> Bytes {
        if let [only] = &*self.pieces {
            return only.clone();
        }
        let mut all = BytesMut::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        all.freeze()
    }

    /// For an HTTP request: its length is known, so it is told beforehand.
    pub(super) fn streamed(&self) -> Streamed {
        Streamed { pieces: self.pieces.iter().cloned().collect(), left: self.length as u64 }
    }
}

impl FromIterator<Bytes> for Body {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let pieces: Arc<[Bytes]> = pieces.into_iter().collect();
        let length = pieces.iter().map(Bytes::len).sum();
        Self { pieces, length }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::from_iter([bytes])
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl PartialEq<[u8]> for Body {
    fn eq(&self, other: &[u8]) -> bool {
        let mut rest = other;
        self.length == other.len()
            && self.pieces.iter().all(|piece| {
                let (begin, after) = rest.split_at(piece.len().min(rest.len()));
                rest = after;
                begin == &piece[..]
            })
    }
}

/// A body on its way through an HTTP client.
pub(super) struct Streamed {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.pieces.pop_front();
        if let Some(piece) = &next {
            self.left = self.left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_good_as_the_whole() {
        let whole = b"one two three";
        let body: Body = ["one ", "two", "", " three"].into_iter().map(Bytes::from).collect();
        assert_eq!((body.len(), body.is_empty()), (13, false));
        assert_eq!(body.in_one_piece(), &whole[..]);
        assert!(body == whole[..] && Body::from("one two three") == whole[..]);
        assert!(body != b"one two thr"[..] && body != b"one two threE"[..] && body != b""[..]);
    }
}
