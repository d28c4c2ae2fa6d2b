//! A balancer's check of a target, on the data port.
//!
//! The request is a StartupMessage with the protocol option
//! `_pq_.poolkeeper_check`, which any server that knows the protocol accepts: a
//! Poolkeeper pooler answers a ParameterStatus named `poolkeeper_report` whose
//! value is a [`TargetReport`] as JSON, before TLS, HBA and limits, and closes;
//! a PostgreSQL or PgBouncer answers NegotiateProtocolVersion or an
//! authentication request, which says no more than that it serves.
//!
//! Source of the option mechanism:
//! <https://www.postgresql.org/docs/17/protocol-message-formats.html>, StartupMessage.

use std::{fmt::Write, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ErrorFields, StartupParameters, backend, build, cstr, header};
use crate::{
    saturation::SaturationReport,
    shared_key::{PROOF_LENGTH, ProofError, Purpose, SharedKey},
    upstream::UpstreamReport,
};

const OPTION: &str = "_pq_.poolkeeper_check";
const DRAIN: &str = "_pq_.poolkeeper_drain";
const REPORT: &str = "poolkeeper_report";
/// Longest answer read: a target is not trusted to be brief.
const REPLY_LENGTH_MAX: usize = 16 * 1024;

/// What a balancer tells a target when it checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckRequest {
    /// Time between two checks; a draining pooler goes on accepting for two of them.
    pub interval: Duration,
    /// The balancer is about to end.
    pub drain: Option<DrainOrder>,
}

/// A balancer's order to end its sessions: those whose PROXY header named its
/// bootId. Written `BOOTID:WITHIN_MS:AT_MS:PROOF`, numbers decimal but for the
/// bootId and the proof, which are hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    /// The balancer's bootId.
    pub boot_id: u64,
    /// Their ends are to be spread over so long, each at a transaction boundary.
    pub within: Duration,
    at_ms: u64,
    proof: [u8; PROOF_LENGTH],
}

impl DrainOrder {
    /// An order, proven by `key` at `at_ms` in Unix milliseconds.
    #[must_use]
    pub fn new(boot_id: u64, within: Duration, key: &SharedKey, at_ms: u64) -> Self {
        Self {
            boot_id,
            within,
            at_ms,
            proof: key.prove(Purpose::Drain, at_ms, &said(boot_id, within)),
        }
    }

    /// Checks the proof with `key`, at `now_ms` in Unix milliseconds.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn check(&self, key: &SharedKey, now_ms: u64) -> Result<(), ProofError> {
        let said = said(self.boot_id, self.within);
        key.check(Purpose::Drain, self.at_ms, &said, &self.proof, now_ms)
    }

    fn format(&self) -> String {
        let mut proof = String::with_capacity(2 * PROOF_LENGTH);
        for byte in self.proof {
            // Writing to a String cannot fail.
            let _ = write!(proof, "{byte:02x}");
        }
        let (boot_id, within_ms) = (self.boot_id, self.within.as_millis());
        format!("{boot_id:016x}:{within_ms}:{}:{proof}", self.at_ms)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut part = || parts.next();
        let (boot_id, within_ms, at_ms, hex) = (part()?, part()?, part()?, part()?);
        if hex.len() != 2 * PROOF_LENGTH || !hex.is_ascii() || part().is_some() {
            return None;
        }
        let mut proof = [0; PROOF_LENGTH];
        for (index, byte) in proof.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self {
            boot_id: u64::from_str_radix(boot_id, 16).ok()?,
            within: Duration::from_millis(within_ms.parse().ok()?),
            at_ms: at_ms.parse().ok()?,
            proof,
        })
    }
}

fn said(boot_id: u64, within: Duration) -> [u8; 16] {
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let mut said = [0; 16];
    said[..8].copy_from_slice(&boot_id.to_be_bytes());
    said[8..].copy_from_slice(&within_ms.to_be_bytes());
    said
}

impl CheckRequest {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let interval_ms = self.interval.as_millis().to_string();
        let drain = self.drain.as_ref().map(DrainOrder::format);
        let mut pairs = vec![
            ("user", "poolkeeper"),
            ("database", "poolkeeper"),
            (OPTION, &*interval_ms),
        ];
        pairs.extend(drain.as_deref().map(|drain| (DRAIN, drain)));
        build::startup(&pairs)
    }

    /// Recognises a check among start-up parameters.
    #[must_use]
    pub fn read(parameters: &StartupParameters) -> Option<Self> {
        let interval_ms = parameters.value(OPTION)?.parse().ok()?;
        Some(Self {
            interval: Duration::from_millis(interval_ms),
            // One that cannot be read is none: the check is answered all the same.
            drain: parameters.value(DRAIN).and_then(DrainOrder::parse),
        })
    }
}

/// What a pooler says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// Accepts connections and serves.
    Ready,
    /// Is about to end: no new connections, please.
    Draining,
    /// Accepts connections; queries wait (PAUSE).
    Paused,
}

/// A pooler's answer to a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// What it says of itself.
    pub state: TargetState,
    /// Random, new at each start of the process.
    pub boot_id: String,
    /// The name of its host; in a Pod, the Pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Version of the binary; absent of versions that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Opaque name of the configuration in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_revision: Option<String>,
    /// Clients connected.
    pub clients: u32,
    /// Clients waiting for a server.
    pub waiting: u32,
    /// Whether its PostgreSQL answers; absent while that is not known, and of
    /// versions that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamReport>,
    /// Whether it serves its clients in time; absent where that is not judged,
    /// and of versions that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturation: Option<SaturationReport>,
}

impl TargetReport {
    /// The bytes a pooler answers before it closes the connection.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("plain data serialises");
        build::parameter_status(REPORT, &json)
    }
}

/// What a check's answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckReply {
    /// More bytes are needed.
    Incomplete,
    /// A Poolkeeper pooler, with what it says of itself.
    Report(TargetReport),
    /// Something else that speaks the protocol and serves.
    Serves,
    /// The target refused: its SQLSTATE and text.
    Refused {
        /// SQLSTATE.
        code: String,
        /// The target's message.
        text: String,
    },
    /// Not PostgreSQL's protocol; says what was wrong.
    Garbage(String),
}

/// Reads a target's answer to a check.
#[must_use]
pub fn read_check_reply(bytes: &[u8]) -> CheckReply {
    let head = match header(bytes) {
        Ok(Some(head)) if head.total <= REPLY_LENGTH_MAX => head,
        Ok(Some(head)) => {
            return CheckReply::Garbage(format!(
                "answer of {} bytes, at most {REPLY_LENGTH_MAX} expected",
                head.total
            ));
        }
        Ok(None) => return CheckReply::Incomplete,
        Err(error) => return CheckReply::Garbage(error.to_string()),
    };
    match head.kind {
        backend::AUTHENTICATION | backend::NEGOTIATE_PROTOCOL_VERSION => CheckReply::Serves,
        backend::ERROR_RESPONSE | backend::PARAMETER_STATUS if bytes.len() < head.total => {
            CheckReply::Incomplete
        }
        backend::ERROR_RESPONSE => {
            let fields = ErrorFields::read(&bytes[5..head.total]);
            CheckReply::Refused {
                code: String::from_utf8_lossy(fields.code).into_owned(),
                text: String::from_utf8_lossy(fields.text).into_owned(),
            }
        }
        backend::PARAMETER_STATUS => read_report(&bytes[5..head.total]),
        kind => CheckReply::Garbage(format!(
            "answer of type {:?}, expected R, v, S or E",
            char::from(kind)
        )),
    }
}

fn read_report(body: &[u8]) -> CheckReply {
    let report = cstr(body)
        .filter(|(name, _)| *name == REPORT.as_bytes())
        .and_then(|(_, rest)| cstr(rest))
        .ok_or_else(|| "ParameterStatus is not a report".to_owned())
        .and_then(|(json, _)| serde_json::from_slice(json).map_err(|error| error.to_string()));
    match report {
        Ok(report) => CheckReply::Report(report),
        Err(error) => CheckReply::Garbage(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        saturation,
        upstream::{Reach, Reason},
        wire::{FirstPacket, first_packet},
    };

    #[test]
    fn request_reads_back() {
        let key = SharedKey::parse("0123456789abcdef").unwrap();
        let order = DrainOrder::new(u64::MAX, Duration::from_secs(5), &key, 1_000_000);
        for drain in [None, Some(order)] {
            let request = CheckRequest {
                interval: Duration::from_secs(2),
                drain,
            };
            let bytes = request.encode();
            let Ok(Some((FirstPacket::Startup(parameters), _))) = first_packet(&bytes) else {
                panic!("not a startup packet");
            };
            assert_eq!(CheckRequest::read(&parameters), Some(request));
        }
    }

    #[test]
    fn an_order_to_drain_is_believed_with_its_proof_alone() {
        let key = SharedKey::parse("0123456789abcdef").unwrap();
        let order = DrainOrder::new(7, Duration::from_secs(5), &key, 1_000_000);
        let text = order.format();
        assert_eq!(DrainOrder::parse(&text), Some(order));
        assert_eq!(order.check(&key, 1_001_000), Ok(()));
        assert!(order.check(&key, 1_200_000).is_err(), "too old");
        for changed in [
            text.replacen('7', "8", 1),
            text.replacen("5000", "5001", 1),
            text.replacen("1000000", "1000001", 1),
        ] {
            let order = DrainOrder::parse(&changed).unwrap();
            assert_eq!(
                order.check(&key, 1_001_000),
                Err(ProofError::Wrong),
                "{changed}"
            );
        }
        for text in [
            "",
            "7:1:2",
            "7:1:2:ab",
            &format!("{text}:"),
            &text.replace("0000", "\u{e4}"),
        ] {
            assert_eq!(DrainOrder::parse(text), None, "{text}");
        }
    }

    #[test]
    fn report_reads_back_from_any_cut() {
        let report = TargetReport {
            state: TargetState::Draining,
            boot_id: "b1".into(),
            name: Some("shop-pooler-7d9f".into()),
            version: Some("0.1.0".into()),
            config_revision: Some("r7".into()),
            clients: 12,
            waiting: 3,
            upstream: Some(UpstreamReport {
                state: Reach::Unreachable,
                reason: Some(Reason::Refused),
                number: 4,
            }),
            saturation: Some(SaturationReport {
                reason: Some(saturation::Reason::MaxDbConnections),
                number: 7,
            }),
        };
        let bytes = report.encode();
        for cut in 0..bytes.len() {
            assert_eq!(read_check_reply(&bytes[..cut]), CheckReply::Incomplete);
        }
        assert_eq!(read_check_reply(&bytes), CheckReply::Report(report));
    }

    #[test]
    fn older_and_newer_poolers_are_understood() {
        let read = |json: &str| match read_check_reply(&build::parameter_status(REPORT, json)) {
            CheckReply::Report(report) => report.upstream,
            other => panic!("{json}: {other:?}"),
        };
        let older = r#"{"state":"ready","bootId":"b1","clients":1,"waiting":0}"#;
        assert_eq!(read(older), None);
        let newer = r#"{"state":"ready","bootId":"b1","clients":1,"waiting":0,"mood":"good",
            "upstream":{"state":"dreaming","reason":"late","number":2}}"#;
        let upstream = read(newer).unwrap();
        assert_eq!(
            (upstream.state, upstream.reason),
            (Reach::Unknown, Some(Reason::Unknown))
        );
    }

    #[test]
    fn postgresql_serves_and_an_error_refuses() {
        assert_eq!(
            read_check_reply(&build::authentication_md5([1, 2, 3, 4])),
            CheckReply::Serves
        );
        let refusal = super::super::error_response(
            super::super::Severity::Fatal,
            super::super::SqlState::CANNOT_CONNECT_NOW,
            "the database system is starting up",
            "",
        );
        assert_eq!(
            read_check_reply(&refusal),
            CheckReply::Refused {
                code: "57P03".into(),
                text: "the database system is starting up".into()
            }
        );
        assert!(matches!(
            read_check_reply(b"HTTP/1.1 400 Bad Request"),
            CheckReply::Garbage(_)
        ));
    }
}
