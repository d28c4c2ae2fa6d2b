//! Ends a client's connection clearly, in PostgreSQL's own words.
//!
//! libpq discards an error that answers SSLRequest, so encryption is declined
//! first (`N`) and the error answers the StartupMessage that follows. A client
//! that insists on TLS sees the connection close.

use proxy_core::wire::{
    FirstPacket, STARTUP_LENGTH_MAX, Severity, SqlState, error_response, first_packet,
};

/// Bytes read from a client that is being refused: both encryption requests
/// and the longest StartupMessage.
const BYTES_MAX: usize = STARTUP_LENGTH_MAX + 16;

/// Why a client is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No target is up, or none that is took the connection.
    NoTarget {
        /// What is known of the targets, such as `2 down, 1 draining`.
        states: String,
        /// Targets that are up and could not be connected to.
        tried: usize,
    },
    /// max_connections is reached.
    Limit {
        /// Its value in force.
        connections_max: u32,
    },
    /// The balancer's host has no descriptor, port or memory for a connection.
    Exhausted,
}

/// A client being refused.
#[derive(Debug)]
pub struct Refusal {
    why: Why,
    received: Vec<u8>,
    taken: usize,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Read on.
    Read,
    /// Send this, then read on.
    Decline(u8),
    /// Send this, then close.
    Answer(Vec<u8>),
    /// Close: there is nothing to say, or nobody who would understand.
    Close,
}

impl Refusal {
    /// Nothing read yet.
    #[must_use]
    pub fn new(why: Why) -> Self {
        Self {
            why,
            received: Vec::new(),
            taken: 0,
        }
    }

    /// Takes what the client sent.
    pub fn take(&mut self, bytes: &[u8]) {
        self.taken += bytes.len();
        self.received.extend_from_slice(bytes);
    }

    /// Bytes that may still be read.
    #[must_use]
    pub fn room(&self) -> usize {
        BYTES_MAX.saturating_sub(self.taken)
    }

    /// What to do with what was taken; asked again after [`Step::Decline`].
    pub fn step(&mut self) -> Step {
        match first_packet(&self.received) {
            Ok(None) if self.room() == 0 => Step::Close,
            Ok(None) => Step::Read,
            Ok(Some((FirstPacket::Ssl | FirstPacket::Gssenc, length))) => {
                self.received.drain(..length);
                Step::Decline(b'N')
            }
            Ok(Some((FirstPacket::Startup(_), _))) => Step::Answer(self.answer()),
            // Nobody reads an answer to a CancelRequest.
            Ok(Some((FirstPacket::Cancel(_), _))) | Err(_) => Step::Close,
        }
    }

    fn answer(&self) -> Vec<u8> {
        match &self.why {
            Why::NoTarget { states, tried: 0 } => error_response(
                Severity::Fatal,
                SqlState::CANNOT_CONNECT_NOW,
                &format!("no pooler is up: {states}"),
                "Try again in a few seconds. The balancer's dashboard shows each pooler and why it is not up.",
            ),
            Why::NoTarget { states, tried } => error_response(
                Severity::Fatal,
                SqlState::CANNOT_CONNECT_NOW,
                &format!("no pooler takes connections: tried {tried}, {states}"),
                "Try again in a few seconds. The balancer's dashboard shows each pooler and its checks.",
            ),
            Why::Limit { connections_max } => error_response(
                Severity::Fatal,
                SqlState::TOO_MANY_CONNECTIONS,
                &format!("the balancer is at its limit of {connections_max} connections"),
                "Close connections that are not needed, raise max_connections or add a balancer.",
            ),
            Why::Exhausted => error_response(
                Severity::Fatal,
                SqlState::TOO_MANY_CONNECTIONS,
                "the balancer's host has no descriptor, port or memory left for a connection",
                "Lower max_connections, or raise the host's limits; the balancer's log names the one reached.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::wire::{ErrorFields, cancel_request, ssl_request, startup};

    use super::*;

    fn refusal() -> Refusal {
        Refusal::new(Why::NoTarget {
            states: "3 down".into(),
            tried: 0,
        })
    }

    #[track_caller]
    fn assert_answers(step: Step, code: &[u8], text: &[u8]) {
        let Step::Answer(bytes) = step else {
            panic!("{step:?}");
        };
        let fields = ErrorFields::read(&bytes[5..]);
        assert!(fields.ends_connection());
        assert_eq!((fields.code, fields.text), (code, text));
    }

    #[test]
    fn a_plain_client_is_told() {
        let mut refusal = refusal();
        let packet = startup(&[("user", "ann")]);
        for byte in &packet {
            assert_eq!(refusal.step(), Step::Read);
            refusal.take(&[*byte]);
        }
        assert_answers(refusal.step(), b"57P03", b"no pooler is up: 3 down");
    }

    #[test]
    fn encryption_is_declined_first() {
        let mut refusal = refusal();
        refusal.take(&ssl_request());
        assert_eq!(refusal.step(), Step::Decline(b'N'));
        assert_eq!(refusal.step(), Step::Read);
        refusal.take(&startup(&[("user", "ann")]));
        assert_answers(refusal.step(), b"57P03", b"no pooler is up: 3 down");
    }

    #[test]
    fn the_limit_is_named() {
        let mut refusal = Refusal::new(Why::Limit { connections_max: 7 });
        refusal.take(&startup(&[("user", "ann")]));
        assert_answers(
            refusal.step(),
            b"53300",
            b"the balancer is at its limit of 7 connections",
        );
    }

    #[test]
    fn others_see_a_close() {
        for bytes in [
            cancel_request(&[0; 8]),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00".to_vec(),
        ] {
            let mut refusal = refusal();
            refusal.take(&bytes);
            assert_eq!(refusal.step(), Step::Close);
        }
    }

    #[test]
    fn endless_requests_end() {
        let mut refusal = refusal();
        let mut declined = 0;
        while refusal.room() > 0 {
            let bytes = ssl_request();
            refusal.take(&bytes[..bytes.len().min(refusal.room())]);
            match refusal.step() {
                Step::Decline(_) => declined += 1,
                Step::Close => return,
                other => panic!("{other:?}"),
            }
        }
        assert!(declined <= BYTES_MAX / 8);
        assert_eq!(refusal.step(), Step::Close);
    }
}
