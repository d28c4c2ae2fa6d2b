//! What to send to one peer: spans of what was just read, and bytes of our own
//! between them. Nothing is copied until the socket takes it.

use std::ops::Range;

/// Pieces for one destination, in order. Reused from read to read.
#[derive(Debug, Default)]
pub struct Output {
    pieces: Vec<Piece>,
    own: Vec<u8>,
    gathered: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// Bytes `from..to` of what was read.
    Input { from: usize, to: usize },
    /// Bytes `from..to` of `own`.
    Own { from: usize, to: usize },
}

impl Piece {
    #[inline]
    fn of<'a>(self, input: &'a [u8], own: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Input { from, to } => &input[from..to],
            Self::Own { from, to } => &own[from..to],
        }
    }
}

impl Output {
    /// Forwards `span` of the input; adjoining spans become one.
    #[inline]
    pub fn span(&mut self, span: Range<usize>) {
        if span.is_empty() {
            return;
        }
        if let Some(Piece::Input { to, .. }) = self.pieces.last_mut()
            && *to == span.start
        {
            *to = span.end;
            return;
        }
        self.pieces.push(Piece::Input {
            from: span.start,
            to: span.end,
        });
    }

    /// Adds bytes of our own.
    pub fn own(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let from = self.own.len();
        self.own.extend_from_slice(bytes);
        let end = self.own.len();
        if let Some(Piece::Own { to, .. }) = self.pieces.last_mut() {
            *to = end;
            return;
        }
        self.pieces.push(Piece::Own { from, to: end });
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Everything in one span, where that costs no more than to send it in
    /// pieces: one piece as it is, a few bytes copied together.
    #[inline]
    pub fn contiguous<'a>(&'a mut self, input: &'a [u8]) -> Option<&'a [u8]> {
        match self.pieces[..] {
            [] => Some(&[]),
            [piece] => Some(piece.of(input, &self.own)),
            _ => self.gather(input),
        }
    }

    fn gather(&mut self, input: &[u8]) -> Option<&[u8]> {
        self.gathered.clear();
        for piece in &self.pieces {
            let slice = piece.of(input, &self.own);
            if self.gathered.len() + slice.len() > GATHERED_MAX {
                return None;
            }
            self.gathered.extend_from_slice(slice);
        }
        Some(&self.gathered)
    }

    /// The pieces in order, given the input they were made from.
    pub fn slices<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.pieces.iter().map(|piece| piece.of(input, &self.own))
    }

    /// All bytes in one, for tests and for peers that need a copy anyway.
    #[must_use]
    pub fn concat(&self, input: &[u8]) -> Vec<u8> {
        self.slices(input).flatten().copied().collect()
    }

    /// Forgets everything, keeps the room.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.own.clear();
        // A huge rewritten message must not pin its memory for ever.
        if self.own.capacity() > OWN_KEPT {
            self.own = Vec::new();
        }
    }
}

const OWN_KEPT: usize = 64 * 1024;
/// Up to so many bytes a copy costs less than what writev does more than send.
const GATHERED_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjoining_spans_are_one_piece() {
        let mut output = Output::default();
        output.span(0..2);
        output.span(2..4);
        output.own(b"-");
        output.own(b"+");
        output.span(4..5);
        output.span(7..7);
        assert_eq!(output.slices(b"abcdefg").count(), 3);
        assert_eq!(output.concat(b"abcdefg"), b"abcd-+e");
    }

    #[test]
    fn few_bytes_are_sent_in_one_span_and_many_in_pieces() {
        let mut output = Output::default();
        assert_eq!(output.contiguous(b"abc"), Some(&b""[..]));
        output.span(1..3);
        assert_eq!(output.contiguous(b"abc"), Some(&b"bc"[..]));
        output.own(b"-");
        assert_eq!(output.contiguous(b"abc"), Some(&b"bc-"[..]));
        let input = vec![b'x'; GATHERED_MAX];
        output.clear();
        output.span(0..GATHERED_MAX);
        assert_eq!(output.contiguous(&input), Some(&input[..]));
        output.own(b"-");
        assert_eq!(output.contiguous(&input), None);
        assert_eq!(output.concat(&input).len(), GATHERED_MAX + 1);
    }
}
