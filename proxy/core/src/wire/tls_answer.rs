//! What a server answers to SSLRequest: one byte.

/// The answer to an SSLRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsAnswer {
    /// `S`: begin the handshake.
    Yes,
    /// `N`: go on without, or go away.
    No,
    /// `E`: an error, whose text nobody has vouched for and which is not told on
    /// (CVE-2024-10977). PostgreSQL sends it when it cannot start a process.
    Error,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsAnswerError {
    /// Neither `S` nor `N` nor `E`.
    #[error("it answered an SSLRequest with byte {0:#04x}, expected S or N: is it PostgreSQL?")]
    Unknown(u8),
    /// Anybody on the way may have put it there (CVE-2021-23222).
    #[error("it sent {0} bytes in clear after its answer to an SSLRequest, expected none")]
    Trailing(usize),
}

impl TlsAnswer {
    /// Reads the bytes that came, at least one.
    ///
    /// # Errors
    /// See [`TlsAnswerError`]; the connection is of no further use.
    pub fn read(bytes: &[u8]) -> Result<Self, TlsAnswerError> {
        let (&first, rest) = bytes.split_first().ok_or(TlsAnswerError::Unknown(0))?;
        match first {
            b'E' => Ok(Self::Error),
            b'S' | b'N' if !rest.is_empty() => Err(TlsAnswerError::Trailing(rest.len())),
            b'S' => Ok(Self::Yes),
            b'N' => Ok(Self::No),
            other => Err(TlsAnswerError::Unknown(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_and_no_more() {
        assert_eq!(TlsAnswer::read(b"S"), Ok(TlsAnswer::Yes));
        assert_eq!(TlsAnswer::read(b"N"), Ok(TlsAnswer::No));
        assert_eq!(TlsAnswer::read(b"SR"), Err(TlsAnswerError::Trailing(1)));
        assert_eq!(TlsAnswer::read(b"NR.."), Err(TlsAnswerError::Trailing(3)));
        assert_eq!(TlsAnswer::read(b"Efork\0"), Ok(TlsAnswer::Error));
        assert_eq!(TlsAnswer::read(b"H"), Err(TlsAnswerError::Unknown(b'H')));
        assert_eq!(TlsAnswer::read(b""), Err(TlsAnswerError::Unknown(0)));
    }
}
