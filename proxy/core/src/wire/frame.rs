//! Message framing: a type byte, then a big-endian length that counts itself
//! and what follows it, but not the type byte.

/// Type and size of a message, read from its first five bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type byte, see [`super::frontend`] and [`super::backend`].
    pub kind: u8,
    /// Bytes of the whole message: type byte, length field and body. At least 5.
    pub total: usize,
}

/// A length field that no message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message of type {:?} has length {length}, expected {min} to {max}", char::from(*.kind))]
pub struct FrameError {
    /// The type byte.
    pub kind: u8,
    /// The length field as read (it counts itself).
    pub length: i64,
    /// Smallest length allowed.
    pub min: i64,
    /// Largest length allowed.
    pub max: i64,
}

/// The largest value of a length field that PostgreSQL itself accepts
/// (`PQ_LARGE_MESSAGE_LIMIT`, 1 GiB - 1).
const LENGTH_MAX: u32 = 0x3fff_ffff;

/// Reads the header at the start of `bytes`; `None` if fewer than five bytes are there.
///
/// # Errors
/// A length below 4 or above PostgreSQL's own limit of 1 GiB - 1.
#[inline]
pub fn header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some(head) = bytes.first_chunk::<5>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if !(4..=LENGTH_MAX).contains(&length) {
        return Err(FrameError {
            kind: head[0],
            length: i64::from(length.cast_signed()),
            min: 4,
            max: i64::from(LENGTH_MAX),
        });
    }
    Ok(Some(Header {
        kind: head[0],
        total: length as usize + 1,
    }))
}

/// A whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type byte.
    pub kind: u8,
    /// What follows the length field.
    pub body: &'a [u8],
}

/// Iterates over the whole messages at the start of `bytes` and stops, without
/// an error, at the first that is cut or malformed.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = header(rest).ok()??;
        let whole = rest.get(..head.total)?;
        rest = &rest[head.total..];
        Some(Frame {
            kind: head.kind,
            body: &whole[5..],
        })
    })
}

/// Length of the zero-terminated string at the start of `bytes`, without its
/// zero; `None` if there is no zero.
#[inline]
#[must_use]
pub fn cstr_len(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == 0)
}

/// Splits a zero-terminated string off the front: (string without its zero, what follows).
#[inline]
#[must_use]
pub fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = cstr_len(bytes)?;
    Some((&bytes[..len], &bytes[len + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_needs_five_bytes() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert_eq!(
            header(b"Q\0\0\0\x05x"),
            Ok(Some(Header {
                kind: b'Q',
                total: 6
            }))
        );
    }

    #[test]
    fn header_refuses_lengths_that_no_message_has() {
        for length in [0u32, 3, 0x4000_0000, 0x7fff_ffff, 0xffff_ffff] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert!(header(&bytes).is_err(), "{length} was accepted");
        }
    }

    #[test]
    fn messages_stop_at_a_cut() {
        let mut bytes = crate::wire::sync().to_vec();
        bytes.extend(b"Q\0\0\0\x09ab");
        let kinds: Vec<u8> = messages(&bytes).map(|frame| frame.kind).collect();
        assert_eq!(kinds, [b'S']);
    }
}
