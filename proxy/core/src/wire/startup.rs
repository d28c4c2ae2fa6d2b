//! The first packet of a connection: no type byte, a length, a code.

/// Longest first packet accepted, as in PostgreSQL (`MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_LENGTH_MAX: usize = 10_000;

const CODE_CANCEL: u32 = 80_877_102;
const CODE_SSL: u32 = 80_877_103;
const CODE_GSSENC: u32 = 80_877_104;

/// What a client's first packet asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// SSLRequest: answer one byte, `S` or `N`.
    Ssl,
    /// GSSENCRequest: answer `N`.
    Gssenc,
    /// CancelRequest.
    Cancel(CancelKey),
    /// StartupMessage of protocol 3.
    Startup(StartupParameters),
}

/// The key of a CancelRequest: process id and secret, as BackendKeyData gave them.
///
/// 8 bytes in protocol 3.0, 8 to 260 in 3.2. Debug shows the length alone: who
/// knows the key can cancel the query.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey(Box<[u8]>);

impl CancelKey {
    /// Makes a key; `None` unless it has 8 to 260 bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (8..=260).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The bytes as sent in BackendKeyData.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({} bytes)", self.0.len())
    }
}

/// Name and value pairs of a StartupMessage, in the order sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartupParameters {
    /// Minor version of the protocol asked for: 3.`minor`.
    pub minor: u16,
    pairs: Vec<(String, String)>,
}

impl StartupParameters {
    /// The last value sent under `name`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All pairs in the order sent.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Why a first packet cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// TLS without the request for it: `sslnegotiation=direct` of libpq 17.
    #[error("first packet is a TLS ClientHello, expected an SSLRequest before it")]
    DirectTls,
    /// The length field is impossible.
    #[error("first packet has length {0}, expected 8 to {STARTUP_LENGTH_MAX}")]
    Length(i64),
    /// Neither protocol 3 nor a known request code.
    #[error("unsupported protocol {major}.{minor}, expected 3.0 to 3.2")]
    Protocol {
        /// High 16 bits of the code.
        major: u16,
        /// Low 16 bits of the code.
        minor: u16,
    },
    /// A request whose size does not fit its code.
    #[error("{what} of {length} bytes, expected {expected}")]
    Size {
        /// The request's name.
        what: &'static str,
        /// The length field as read.
        length: usize,
        /// What would be right.
        expected: &'static str,
    },
    /// The parameters do not end where the packet ends.
    #[error("startup packet is malformed: {0}")]
    Malformed(&'static str),
}

impl StartupError {
    /// What the client's side can do about it, in a sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DirectTls => {
                "TLS without negotiation is not supported: connect with sslnegotiation=postgres."
            }
            Self::Length(_) | Self::Protocol { .. } | Self::Size { .. } | Self::Malformed(_) => {
                "This port speaks PostgreSQL's protocol, version 3."
            }
        }
    }
}

/// Reads the packet at the start of `bytes`: the packet and its size, or `None`
/// while it is incomplete. At most [`STARTUP_LENGTH_MAX`] bytes are ever needed.
///
/// # Errors
/// See [`StartupError`].
pub fn first_packet(bytes: &[u8]) -> Result<Option<(FirstPacket, usize)>, StartupError> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    // A handshake record of TLS: as a length far beyond the longest.
    if length.starts_with(&[0x16, 0x03]) {
        return Err(StartupError::DirectTls);
    }
    let length = u32::from_be_bytes(*length);
    if !(8..=STARTUP_LENGTH_MAX as u32).contains(&length) {
        return Err(StartupError::Length(i64::from(length.cast_signed())));
    }
    let length = length as usize;
    let Some(packet) = bytes.get(..length) else {
        return Ok(None);
    };
    let code = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    let body = &packet[8..];
    let first = match code {
        CODE_SSL if body.is_empty() => FirstPacket::Ssl,
        CODE_GSSENC if body.is_empty() => FirstPacket::Gssenc,
        CODE_SSL | CODE_GSSENC => {
            return Err(StartupError::Size {
                what: "encryption request",
                length,
                expected: "8",
            });
        }
        CODE_CANCEL => FirstPacket::Cancel(CancelKey::new(body).ok_or(StartupError::Size {
            what: "cancel request",
            length,
            expected: "16 to 268",
        })?),
        _ => FirstPacket::Startup(startup_parameters(code, body)?),
    };
    Ok(Some((first, length)))
}

fn startup_parameters(code: u32, body: &[u8]) -> Result<StartupParameters, StartupError> {
    let [major, minor] = [(code >> 16) as u16, (code & 0xffff) as u16];
    if major != 3 {
        return Err(StartupError::Protocol { major, minor });
    }
    let mut pairs = Vec::new();
    let mut rest = body;
    loop {
        let (name, after) = super::cstr(rest).ok_or(StartupError::Malformed("no final zero"))?;
        if name.is_empty() {
            if !after.is_empty() {
                return Err(StartupError::Malformed("bytes after the final zero"));
            }
            return Ok(StartupParameters { minor, pairs });
        }
        let (value, after) =
            super::cstr(after).ok_or(StartupError::Malformed("a parameter has no value"))?;
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec())
                .map_err(|_| StartupError::Malformed("a parameter is not UTF-8"))
        };
        pairs.push((text(name)?, text(value)?));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn startup_reads_back_what_was_written() {
        let bytes = wire::startup(&[("user", "ann"), ("database", "shop")]);
        let (packet, used) = first_packet(&bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        let FirstPacket::Startup(parameters) = packet else {
            panic!("{packet:?}");
        };
        assert_eq!(parameters.value("user"), Some("ann"));
        assert_eq!(parameters.value("database"), Some("shop"));
        assert_eq!(parameters.value("options"), None);
    }

    #[test]
    fn every_cut_is_incomplete_not_wrong() {
        let bytes = wire::startup(&[("user", "ann")]);
        for cut in 0..bytes.len() {
            assert_eq!(first_packet(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn tls_that_was_not_asked_for_is_refused_by_name() {
        let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00];
        let error = first_packet(&hello).unwrap_err();
        assert_eq!(error, StartupError::DirectTls);
        assert!(error.hint().contains("sslnegotiation=postgres"));
    }

    #[test]
    fn garbage_is_refused_by_name() {
        assert_eq!(
            first_packet(b"GET / HTTP/1.1\r\n"),
            Err(StartupError::Length(0x4745_5420))
        );
        assert_eq!(
            first_packet(&[0x7f, 0xff, 0xff, 0xff]),
            Err(StartupError::Length(0x7fff_ffff))
        );
        assert_eq!(
            first_packet(&[0, 0, 0, 8, 0, 2, 0, 0]),
            Err(StartupError::Protocol { major: 2, minor: 0 })
        );
    }
}
