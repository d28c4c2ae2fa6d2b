//! Whether PostgreSQL answers, from what poolers say of it.
//!
//! False as soon as one pooler that is up cannot reach it: part of the
//! connections suffers. Which part is the reason's word. Poolers have their own
//! hysteresis, so that none is wanted here; who says nothing has no vote.

use std::collections::BTreeMap;

use proxy_core::upstream::{Reach, Reason as Cause, UpstreamReport};

use super::{Meaning, Observed, reason::Reason};
use crate::api::{Component, EndpointState, EndpointStatus, EndpointUpstream, UpstreamState};

/// How many addresses a message names.
const ADDRESSES_MAX: usize = 3;

impl EndpointUpstream {
    /// What a pooler says, as the status has it; `None` if it says nothing that
    /// is understood.
    #[must_use]
    pub fn of(report: UpstreamReport) -> Option<Self> {
        let state = match report.state {
            Reach::Reachable => UpstreamState::Reachable,
            Reach::Partly => UpstreamState::Partly,
            Reach::Unreachable => UpstreamState::Unreachable,
            Reach::Unknown => return None,
        };
        let cause = report.reason.unwrap_or(Cause::Unknown);
        let reason = (state != UpstreamState::Reachable).then(|| reason(cause).word().to_owned());
        Some(Self { state, reason })
    }
}

/// The condition's reason for what a pooler says.
const fn reason(cause: Cause) -> Reason {
    match cause {
        Cause::NameNotFound => Reason::HostNotFound,
        Cause::Refused => Reason::ConnectionRefused,
        Cause::Timeout => Reason::NoAnswer,
        Cause::Lost => Reason::ConnectionLost,
        Cause::NotPostgres => Reason::NotPostgreSQL,
        Cause::Tls => Reason::TlsFailed,
        Cause::NotAccepting => Reason::NotAccepting,
        Cause::TooManyConnections => Reason::TooManyConnections,
        Cause::Credentials => Reason::CredentialsRefused,
        Cause::Unknown => Reason::Unreachable,
    }
}

/// A reason in the middle of a sentence.
const fn said(reason: Reason) -> &'static str {
    match reason {
        Reason::HostNotFound => "the host's name is not found",
        Reason::ConnectionRefused => "connection refused",
        Reason::NoAnswer => "no answer",
        Reason::ConnectionLost => "connection lost",
        Reason::NotPostgreSQL => "what answers is not PostgreSQL",
        Reason::TlsFailed => "no TLS as it is asked for",
        Reason::NotAccepting => "it starts or stops",
        Reason::TooManyConnections => "it has no connection left",
        Reason::CredentialsRefused => "user or password refused",
        _ => "for a reason that this operator does not know",
    }
}

/// What is said of PostgreSQL by all poolers that are up.
pub(super) enum Verdict {
    /// Nothing.
    NotReported,
    /// All that know say that it answers.
    Reachable(String),
    /// Some cannot use it, or not all of it.
    Partly(String),
    /// None can use it.
    Unreachable(Reason, String),
}

pub(super) fn verdict(observed: &Observed<'_>) -> Verdict {
    let poolers: Vec<&EndpointStatus> = observed
        .endpoints
        .iter()
        .filter(|one| one.component == Component::Pooler && one.state == EndpointState::Up)
        .collect();
    let told: Vec<&EndpointUpstream> = poolers
        .iter()
        .filter_map(|pooler| pooler.upstream.as_ref())
        .collect();
    let bad = |one: &&&EndpointUpstream| one.state != UpstreamState::Reachable;
    let bad: Vec<&&EndpointUpstream> = told.iter().filter(bad).collect();
    let place = place(observed.meaning);
    if told.is_empty() {
        return Verdict::NotReported;
    }
    if bad.is_empty() {
        let (told, all) = (told.len(), poolers.len());
        return Verdict::Reachable(format!("{told} of {all} poolers reach {place}"));
    }
    let mut causes: BTreeMap<Reason, usize> = BTreeMap::new();
    for one in &bad {
        let word = one.reason.as_deref().and_then(Reason::of);
        *causes
            .entry(word.unwrap_or(Reason::Unreachable))
            .or_default() += 1;
    }
    let all_of_it = |one: &EndpointUpstream| one.state == UpstreamState::Unreachable;
    let part = match bad.iter().all(|one| all_of_it(one)) {
        true => "",
        false => "all of ",
    };
    let words: Vec<&str> = causes.keys().map(|reason| said(*reason)).collect();
    let message = format!(
        "{} of {} poolers cannot use {part}{place}: {}",
        bad.len(),
        poolers.len(),
        words.join("; ")
    );
    let commonest = causes.iter().max_by_key(|(_, count)| **count);
    match commonest {
        Some((reason, _)) if told.iter().all(|one| all_of_it(one)) => {
            Verdict::Unreachable(*reason, message)
        }
        _ => Verdict::Partly(message),
    }
}

/// PostgreSQL by its addresses, as far as they are known.
fn place(meaning: Option<&Meaning>) -> String {
    let addresses = meaning.map_or(&[][..], |meaning| &meaning.upstreams);
    let mut named = addresses[..addresses.len().min(ADDRESSES_MAX)].join(", ");
    match addresses.len() {
        0 => return "PostgreSQL".to_owned(),
        count if count > ADDRESSES_MAX => {
            named.push_str(&format!(" and {} more", count - ADDRESSES_MAX));
        }
        _ => {}
    }
    format!("PostgreSQL at {named}")
}
