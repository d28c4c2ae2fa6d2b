//! Sessions with a server, whose bytes come in every way that a network may
//! bring them.

use std::io::{Read, Write};

use rustls::{
    ServerConnection, SupportedProtocolVersion,
    crypto::ring,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

use super::*;
use crate::pooler::io::READ_SIZE;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Both ends of a connection.
struct Pair {
    server: ServerConnection,
    ours: Tls,
    /// What we have decrypted.
    plain: Vec<u8>,
}

impl Pair {
    /// Before any byte has been sent.
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes());
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let mut trusted = rustls::RootCertStore::empty();
        trusted.add(made.cert.der().clone()).unwrap();
        let ours = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        Self {
            server: ServerConnection::new(Arc::new(config)).unwrap(),
            ours: Tls::connect(Arc::new(ours), name).unwrap(),
            plain: Vec::new(),
        }
    }

    /// After a handshake whose bytes came in pieces of that length.
    fn shaken(version: &'static SupportedProtocolVersion, pieces: usize) -> Self {
        let mut pair = Self::new(version);
        pair.receive(&[]).unwrap();
        while !pair.ours.is_established() || pair.server.is_handshaking() {
            let bytes = pair.sent();
            assert!(!bytes.is_empty(), "nobody has anything to say");
            for piece in bytes.chunks(pieces) {
                pair.receive(piece).unwrap();
            }
        }
        pair
    }

    /// What the server sends.
    fn sent(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// One read of ours, as `Io` does it; our answer goes to the server.
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut cipher = vec![0; 2 * READ_SIZE];
        let pending = self.ours.take_pending(&mut cipher);
        let length = pending + bytes.len();
        cipher[pending..length].copy_from_slice(bytes);
        let mut out = Vec::new();
        let cipher = &mut cipher[..length];
        let received = self.ours.receive(cipher, &mut self.plain, &mut out);
        self.reach_server(&out);
        received
    }

    fn reach_server(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.server.read_tls(&mut bytes).unwrap();
            // An alert is an error of its own.
            let _ = self.server.process_new_packets();
        }
    }

    /// Whether the server can read what we send.
    fn can_send(&mut self) -> bool {
        let mut out = Vec::new();
        self.ours.send(b"SELECT 1", &mut out).unwrap();
        self.reach_server(&out);
        let mut read = [0; 8];
        self.server.reader().read_exact(&mut read).is_ok() && &read == b"SELECT 1"
    }
}

/// Messages of which one needs several records.
fn messages() -> Vec<u8> {
    let long: Vec<u8> = (0..40_000_u32).map(|index| index as u8).collect();
    [b"one".to_vec(), long, b"three".to_vec()].concat()
}

#[test]
fn sessions_come_about_however_their_bytes_are_cut() {
    for version in VERSIONS {
        for pieces in [1, 2, 3, 5, 7, 64, 1_000, READ_SIZE] {
            let mut pair = Pair::shaken(version, pieces);
            pair.server.writer().write_all(&messages()).unwrap();
            for piece in pair.sent().chunks(pieces) {
                pair.receive(piece).unwrap();
            }
            assert!(
                pair.plain == messages(),
                "{version:?} in pieces of {pieces}"
            );
            assert_eq!(pair.ours.pending_len(), 0);
            assert!(pair.can_send());
        }
    }
}

#[test]
fn records_are_put_together_wherever_they_are_cut() {
    for version in VERSIONS {
        let mut pair = Pair::shaken(version, READ_SIZE);
        for cut in 1..80 {
            pair.plain.clear();
            pair.server.writer().write_all(b"first").unwrap();
            let mut bytes = pair.sent();
            pair.server.writer().write_all(b"second").unwrap();
            bytes.extend(pair.sent());
            let (one, other) = bytes.split_at(cut.min(bytes.len()));
            pair.receive(one).unwrap();
            pair.receive(other).unwrap();
            assert_eq!(pair.plain, b"firstsecond", "{version:?} cut at {cut}");
        }
    }
}

/// PostgreSQL waits for our start-up packet, but nothing says that a server must.
#[test]
fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        pair.receive(&[]).unwrap();
        while pair.server.is_handshaking() {
            let bytes = pair.sent();
            pair.receive(&bytes).unwrap();
        }
        // With TLS 1.2 the server's Finished is still to be sent.
        pair.server.writer().write_all(b"early").unwrap();
        let bytes = pair.sent();
        pair.receive(&bytes).unwrap();
        assert!(pair.ours.is_established());
        assert_eq!(pair.plain, b"early", "{version:?}");
        assert!(pair.can_send());
    }
}

#[test]
fn keys_are_renewed_in_the_middle_of_a_session() {
    let mut pair = Pair::shaken(&TLS13, READ_SIZE);
    for round in 0..3 {
        pair.server.writer().write_all(b"before").unwrap();
        pair.server.refresh_traffic_keys().unwrap();
        pair.server.writer().write_all(b"after").unwrap();
        let bytes = pair.sent();
        pair.plain.clear();
        for piece in bytes.chunks(round + 1) {
            pair.receive(piece).unwrap();
        }
        assert_eq!(pair.plain, b"beforeafter");
        assert!(pair.can_send(), "with the new keys");
    }
}

#[test]
fn a_goodbye_takes_nothing_away_that_came_before_it() {
    for version in VERSIONS {
        let mut pair = Pair::shaken(version, READ_SIZE);
        pair.server.writer().write_all(b"last").unwrap();
        pair.server.send_close_notify();
        let bytes = pair.sent();
        pair.receive(&bytes).unwrap();
        assert_eq!(pair.plain, b"last");
        assert!(pair.ours.is_closed());
    }
}

/// Bytes in clear where records are due, and records that were changed on the way.
#[test]
fn what_nobody_vouches_for_is_refused() {
    for version in VERSIONS {
        // Before the server's hello (CVE-2021-23222).
        let mut pair = Pair::new(version);
        pair.receive(&[]).unwrap();
        let hello = pair.sent();
        assert!(pair.receive(&[forged(), hello].concat()).is_err());
        assert!(!pair.ours.is_established() && pair.plain.is_empty());

        let mut pair = Pair::shaken(version, READ_SIZE);
        assert!(pair.receive(&forged()).is_err());
        assert!(pair.plain.is_empty());

        let mut pair = Pair::shaken(version, READ_SIZE);
        pair.server.writer().write_all(b"true").unwrap();
        let mut bytes = pair.sent();
        *bytes.last_mut().unwrap() ^= 1;
        assert!(pair.receive(&bytes).is_err());
        assert!(pair.plain.is_empty());
    }
}

/// An error of PostgreSQL's in clear.
fn forged() -> Vec<u8> {
    let code = proxy_core::wire::SqlState::PROTOCOL_VIOLATION;
    proxy_core::wire::error_response(proxy_core::wire::Severity::Fatal, code, "forged", "")
}
