//! When to try again after a server could not be opened.
//!
//! An unreachable PostgreSQL costs nothing to ask again, and its return must be
//! noticed within a second; one that rejects the login fills its log and may
//! lock the account, so the pause grows to `server_login_retry`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::Moment;

/// Why a server could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFailure {
    /// No connection, connection lost, or the server says it cannot serve now
    /// (57P03, 53300): waiting helps.
    Unreachable,
    /// The server rejected the login: waiting alone will not help.
    Rejected,
}

/// Longest pause between attempts while PostgreSQL is unreachable.
pub const RETRY_UNREACHABLE_MAX: Duration = Duration::from_millis(400);

const RETRY_FIRST: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Retry(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// The last one.
    failure: Option<OpenFailure>,
    next: Moment,
}

impl Retry {
    pub(super) fn succeeded(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::default();
    }

    pub(super) fn failed(&self, failure: OpenFailure, longest: Duration, now: Moment) -> u32 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        state.failure = Some(failure);
        let doubled = RETRY_FIRST.saturating_mul(1 << (state.failures - 1).min(16));
        let cap = match failure {
            OpenFailure::Unreachable => RETRY_UNREACHABLE_MAX.min(longest),
            OpenFailure::Rejected => longest,
        }
        .max(RETRY_FIRST);
        state.next = now + doubled.min(cap);
        state.failures
    }

    /// Whether the last attempt was rejected.
    pub(super) fn is_rejected(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failure == Some(OpenFailure::Rejected)
    }

    /// `None`: a server may be opened now. `Some(Some(moment))`: not before
    /// then. `Some(None)`: not while another attempt is under way, for after a
    /// failure they are made one at a time.
    pub(super) fn not_before(
        &self,
        now: Moment,
        attempt_under_way: bool,
    ) -> Option<Option<Moment>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failures == 0 {
            return None;
        }
        if attempt_under_way {
            return Some(None);
        }
        (now < state.next).then_some(Some(state.next))
    }
}
