//! The PROXY protocol's header, version 2: whose connection a balancer relays.
//!
//! ```text
//! 12 bytes signature · version and command · family · length (2)
//! source and destination addresses and ports, by family
//! 0xE0, length 8: bootId of the balancer
//! 0xE1, length 40: Unix time in ms (8), HMAC-SHA-256 (32); always last
//! ```
//!
//! The proof covers every byte before it but the time, which it covers as such.
//! Integers are big endian. Source: HAProxy's
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, 2.2; types
//! 0xE0 to 0xEF are for the application's own use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::shared_key::{PROOF_LENGTH, ProofError, Purpose, SharedKey};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_LENGTH: usize = 16;
/// Longest header read, its first 16 bytes apart.
const REST_LENGTH_MAX: usize = 2048;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const BOOT_ID: u8 = 0xE0;
const PROOF: u8 = 0xE1;
const PROOF_TLV_LENGTH: usize = 8 + PROOF_LENGTH;

/// A header as it was read; nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader<'a> {
    /// The client; `None` where the sender speaks for itself, as in a check.
    pub client: Option<SocketAddr>,
    /// The balancer's bootId.
    pub boot_id: Option<u64>,
    /// Its length: what follows is the client's.
    pub length: usize,
    proof: Option<Proof<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof<'a> {
    said: &'a [u8],
    at_ms: u64,
    mac: [u8; PROOF_LENGTH],
}

/// Why a header cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It only begins like one.
    #[error("first packet is neither a PROXY header of version 2 nor of PostgreSQL's protocol")]
    Signature,
    /// Another version or command.
    #[error("PROXY header has version and command {0:#04x}, expected 0x20 or 0x21")]
    Command(u8),
    /// Not TCP.
    #[error("PROXY header has address family {0:#04x}, expected TCP over IPv4 or IPv6")]
    Family(u8),
    /// Too long.
    #[error("PROXY header is {0} bytes long, at most {REST_LENGTH_MAX} expected")]
    Length(usize),
    /// The parts do not end where the header ends.
    #[error("PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

/// Why a header's proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VouchError {
    /// There is none.
    #[error("it has no proof")]
    Unproven,
    /// There is one, of no use.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// Whether a connection that begins like this begins with a header, and not with
/// a packet of PostgreSQL's protocol, whose first byte is 0.
#[must_use]
pub fn begins_proxy_header(bytes: &[u8]) -> bool {
    bytes.first() == SIGNATURE.first()
}

/// The header of a connection from `client`, which connected to `local`; with a
/// proof made by `key` at `at_ms`, in Unix milliseconds, where there is a key.
#[must_use]
pub fn proxy_header(
    client: SocketAddr,
    local: SocketAddr,
    boot_id: u64,
    key: Option<(&SharedKey, u64)>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(SIGNATURE);
    bytes.push(PROXY);
    let (client_ip, local_ip) = (client.ip().to_canonical(), local.ip().to_canonical());
    let (family, addresses) = match (client_ip, local_ip) {
        (IpAddr::V4(client), IpAddr::V4(local)) => {
            (TCP4, [client.octets(), local.octets()].concat())
        }
        (client, local) => (TCP6, [v6(client).octets(), v6(local).octets()].concat()),
    };
    bytes.push(family);
    let proof_length = match key {
        Some(_) => 3 + PROOF_TLV_LENGTH,
        None => 0,
    };
    let length = addresses.len() + 4 + 3 + 8 + proof_length;
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend(addresses);
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend([BOOT_ID, 0, 8]);
    bytes.extend(boot_id.to_be_bytes());
    if let Some((key, at_ms)) = key {
        bytes.extend([PROOF, 0, PROOF_TLV_LENGTH as u8]);
        let mac = key.prove(Purpose::Proxy, at_ms, &bytes);
        bytes.extend(at_ms.to_be_bytes());
        bytes.extend(mac);
    }
    bytes
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Reads the header at the beginning of `bytes`; `None` if more are needed.
///
/// # Errors
/// See [`ProxyHeaderError`].
pub fn read_proxy_header(bytes: &[u8]) -> Result<Option<ProxyHeader<'_>>, ProxyHeaderError> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(ProxyHeaderError::Signature);
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_LENGTH) else {
        return Ok(None);
    };
    let (command, family) = (fixed[12], fixed[13]);
    if !matches!(command, LOCAL | PROXY) {
        return Err(ProxyHeaderError::Command(command));
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > REST_LENGTH_MAX {
        return Err(ProxyHeaderError::Length(length));
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let mut header = ProxyHeader {
        client: None,
        boot_id: None,
        length: FIXED_LENGTH + length,
        proof: None,
    };
    let (client, mut fields) = match (command, family) {
        (_, TCP4) => tcp::<4>(rest, |octets| Ipv4Addr::from(octets).into())?,
        (_, TCP6) => tcp::<16>(rest, |octets| Ipv6Addr::from(octets).into())?,
        // Whatever follows is to be passed over.
        (LOCAL, _) => return Ok(Some(header)),
        (_, family) => return Err(ProxyHeaderError::Family(family)),
    };
    if command == PROXY {
        header.client = Some(client);
    }
    while let Some((kind, value, after)) = field(fields)? {
        match kind {
            BOOT_ID => header.boot_id = Some(number(value)?),
            PROOF => {
                if !after.is_empty() {
                    return Err(ProxyHeaderError::Malformed("something follows the proof"));
                }
                header.proof = Some(proof(value, &bytes[..header.length])?);
            }
            _ => {}
        }
        fields = after;
    }
    Ok(Some(header))
}

impl ProxyHeader<'_> {
    /// Checks the proof with `key`, at `now_ms` in Unix milliseconds.
    ///
    /// # Errors
    /// See [`VouchError`].
    pub fn vouched(&self, key: &SharedKey, now_ms: u64) -> Result<(), VouchError> {
        let proof = self.proof.as_ref().ok_or(VouchError::Unproven)?;
        key.check(Purpose::Proxy, proof.at_ms, proof.said, &proof.mac, now_ms)?;
        Ok(())
    }
}

type Fields<'a> = (SocketAddr, &'a [u8]);

/// The source address, and what follows both addresses.
fn tcp<const N: usize>(
    rest: &[u8],
    ip: impl Fn([u8; N]) -> IpAddr,
) -> Result<Fields<'_>, ProxyHeaderError> {
    let (addresses, fields) = rest
        .split_at_checked(2 * N + 4)
        .ok_or(ProxyHeaderError::Malformed("its addresses are cut short"))?;
    let source: [u8; N] = addresses[..N].try_into().expect("N bytes");
    let port = u16::from_be_bytes([addresses[2 * N], addresses[2 * N + 1]]);
    Ok((SocketAddr::new(ip(source).to_canonical(), port), fields))
}

/// Type and value of the first field, and the fields after it.
#[allow(
    clippy::type_complexity,
    reason = "it is one triple, of a private function"
)]
fn field(fields: &[u8]) -> Result<Option<(u8, &[u8], &[u8])>, ProxyHeaderError> {
    let cut = ProxyHeaderError::Malformed("a field is cut short");
    let [kind, high, low, rest @ ..] = fields else {
        return match fields {
            [] => Ok(None),
            _ => Err(cut),
        };
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (value, after) = rest.split_at_checked(length).ok_or(cut)?;
    Ok(Some((*kind, value, after)))
}

fn number(value: &[u8]) -> Result<u64, ProxyHeaderError> {
    let bytes = value
        .try_into()
        .map_err(|_| ProxyHeaderError::Malformed("the bootId is not 8 bytes long"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn proof<'a>(value: &[u8], header: &'a [u8]) -> Result<Proof<'a>, ProxyHeaderError> {
    let wrong = ProxyHeaderError::Malformed("the proof is not 40 bytes long");
    let (at_ms, mac) = value.split_at_checked(8).ok_or(wrong.clone())?;
    Ok(Proof {
        said: &header[..header.len() - PROOF_TLV_LENGTH],
        at_ms: number(at_ms)?,
        mac: mac.try_into().map_err(|_| wrong)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn key() -> SharedKey {
        SharedKey::parse("0123456789abcdef").unwrap()
    }

    #[test]
    fn headers_read_back_from_any_cut() {
        let cases = [
            ("192.0.2.7:40000", "10.0.0.1:5432", "192.0.2.7:40000"),
            (
                "[2001:db8::7]:40000",
                "[fd00::1]:5432",
                "[2001:db8::7]:40000",
            ),
            ("[::ffff:192.0.2.7]:1", "10.0.0.1:5432", "192.0.2.7:1"),
            ("192.0.2.7:1", "[fd00::1]:5432", "192.0.2.7:1"),
        ];
        for (client, local, read) in cases {
            for proven in [false, true] {
                let key = key();
                let proof = proven.then_some((&key, NOW_MS));
                let (client, local) = (client.parse().unwrap(), local.parse().unwrap());
                let mut bytes = proxy_header(client, local, 0xB007, proof);
                assert!(begins_proxy_header(&bytes));
                for cut in 0..bytes.len() {
                    assert_eq!(read_proxy_header(&bytes[..cut]), Ok(None));
                }
                let length = bytes.len();
                bytes.extend(b"more");
                let header = read_proxy_header(&bytes).unwrap().unwrap();
                assert_eq!(header.client, Some(read.parse().unwrap()));
                assert_eq!((header.boot_id, header.length), (Some(0xB007), length));
                let vouched = header.vouched(&key, NOW_MS + 1_000);
                assert_eq!(vouched.is_ok(), proven, "{vouched:?}");
            }
        }
    }

    #[test]
    fn every_byte_is_proven() {
        let key = key();
        let (client, local) = (
            "192.0.2.7:4000".parse().unwrap(),
            "10.0.0.1:5432".parse().unwrap(),
        );
        let bytes = proxy_header(client, local, 7, Some((&key, NOW_MS)));
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            let header = read_proxy_header(&changed);
            let holds = match header {
                Ok(Some(header)) => header.vouched(&key, NOW_MS).is_ok(),
                _ => false,
            };
            assert!(!holds, "byte {index}");
        }
    }

    #[test]
    fn what_others_send_is_read_or_refused_with_a_reason() {
        let header = |command, family, rest: &[u8]| {
            let length = (rest.len() as u16).to_be_bytes();
            [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
        };
        let local = header(LOCAL, 0, b"anything");
        let read = read_proxy_header(&local).unwrap().unwrap();
        assert_eq!((read.client, read.length), (None, local.len()));
        // A field of another kind is passed over.
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x9C, 0x40, 0x15, 0x38];
        let other = header(PROXY, TCP4, &[&v4[..], &[0x04, 0, 1, 9]].concat());
        let read = read_proxy_header(&other).unwrap().unwrap();
        assert_eq!(read.client, Some("192.0.2.7:40000".parse().unwrap()));
        assert_eq!(read.vouched(&key(), NOW_MS), Err(VouchError::Unproven));

        for (bytes, error) in [
            (b"\r\nGET".to_vec(), ProxyHeaderError::Signature),
            (header(0x11, TCP4, &v4), ProxyHeaderError::Command(0x11)),
            (header(PROXY, 0x12, &v4), ProxyHeaderError::Family(0x12)),
            (
                header(PROXY, TCP4, &[0; 2049]),
                ProxyHeaderError::Length(2049),
            ),
            (
                header(PROXY, TCP4, &v4[1..]),
                ProxyHeaderError::Malformed("its addresses are cut short"),
            ),
            (
                header(PROXY, TCP4, &[&v4[..], &[0xE0, 0]].concat()),
                ProxyHeaderError::Malformed("a field is cut short"),
            ),
            (
                header(PROXY, TCP4, &[&v4[..], &[0xE0, 0, 1, 7]].concat()),
                ProxyHeaderError::Malformed("the bootId is not 8 bytes long"),
            ),
            (
                header(PROXY, TCP4, &[&v4[..], &[0xE1, 0, 1, 7]].concat()),
                ProxyHeaderError::Malformed("the proof is not 40 bytes long"),
            ),
        ] {
            assert_eq!(read_proxy_header(&bytes), Err(error));
        }
        let mut proven = proxy_header(
            "192.0.2.7:1".parse().unwrap(),
            "10.0.0.1:1".parse().unwrap(),
            7,
            Some((&key(), NOW_MS)),
        );
        proven[15] += 3;
        proven.extend([4, 0, 0]);
        assert_eq!(
            read_proxy_header(&proven),
            Err(ProxyHeaderError::Malformed("something follows the proof"))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(
            signed in any::<bool>(),
            command in prop_oneof![Just(PROXY), Just(LOCAL), any::<u8>()],
            family in prop_oneof![Just(TCP4), Just(TCP6), any::<u8>()],
            length in prop_oneof![0..200_u16, any::<u16>()],
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = match signed {
                true => SIGNATURE.to_vec(),
                false => vec![b'\r'],
            };
            bytes.extend([command, family]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(rest);
            if let Ok(Some(header)) = read_proxy_header(&bytes) {
                prop_assert!(header.length <= bytes.len());
                prop_assert!(header.vouched(&key(), NOW_MS).is_err());
            }
        }
    }
}
