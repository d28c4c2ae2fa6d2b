//! Judges a target from what its checks observed.
//!
//! ```text
//!             first good check
//!   Unknown ───────────────────> Up <─────────────────┐
//!      │                         │ │                  │ `rise` good checks
//!      │ `fall` bad checks       │ └─────────┐        │ in a row
//!      │          `fall` bad     │  it says  │        │
//!      v          checks         v  so       v        │
//!    Down <──────────────────── Down     Draining ────┤
//!      │                                     │        │
//!      │       connection refused: it ended  │        │
//!      │ <────────────────────────(at once)──┘        │
//!      └──────────────────────────────────────────────┘
//! ```
//!
//! A target that was discovered begins Down and takes one good check to be Up.
//! A target that says it drains is Draining at once, from any state. Each
//! change is a [`Change`]; a new process behind an unchanged state is one too,
//! unless it was announced by a drain.

use jiff::Timestamp;

pub use crate::status::Health;
use crate::wire::{TargetReport, TargetState};

/// The reason of a discovered target that no check has told of yet.
pub const NOT_CHECKED: &str = "discovered, not checked yet";

/// How many checks in a row change a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Good checks until a target is up again, at least 1.
    pub rise: u32,
    /// Bad checks until a target is down, at least 1.
    pub fall: u32,
}

/// What one check saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The target answered and serves.
    Passed {
        /// What it says of itself, if it is a pooler of ours.
        report: Option<TargetReport>,
    },
    /// The target did not answer as it should.
    Failed {
        /// In which way.
        failure: Failure,
        /// The check's own words, such as `connection refused`.
        reason: String,
    },
}

/// In which way a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The host answered that nobody listens.
    Refused,
    /// Nothing came: a timeout, no route.
    Silent,
    /// Something came that says the target does not serve: an error, garbage,
    /// a close.
    Answered,
}

/// A target's judgement and what the next one depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The judgement.
    pub health: Health,
    /// Since when.
    pub since: Timestamp,
    /// Why, in the check's own words.
    pub reason: String,
    /// Good checks in a row.
    pub passed: u32,
    /// Bad checks in a row.
    pub failed: u32,
    /// bootId that the target reported last.
    pub boot_id: Option<String>,
    /// Said that it drains, and has not been up since: its end is no outage
    /// and the process after it no restart.
    drained: bool,
    /// A new process answered that nobody has been told of yet.
    restarted: bool,
    /// Discovered, and no check has passed: nobody was told that it is Down, and
    /// the first success makes it Up.
    untried: bool,
}

impl State {
    /// A target that no check has seen yet.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            health: Health::Unknown,
            since: now,
            reason: "not checked yet".to_owned(),
            passed: 0,
            failed: 0,
            boot_id: None,
            drained: false,
            restarted: false,
            untried: false,
        }
    }

    /// A target that was found rather than configured: Down until its first
    /// success, which is its first transition. Whether it ever was to serve,
    /// nobody has said.
    #[must_use]
    pub fn discovered(now: Timestamp) -> Self {
        Self {
            health: Health::Down,
            reason: NOT_CHECKED.to_owned(),
            untried: true,
            ..Self::new(now)
        }
    }
}

/// A change of a target's judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// State before.
    pub from: Health,
    /// State after; equal to `from` for a restart alone.
    pub to: Health,
    /// A new process answers that was not announced by a drain.
    pub restarted: bool,
    /// Why, in the check's own words.
    pub reason: String,
    /// bootId that the target reported last.
    pub boot_id: Option<String>,
    /// The target's sessions are to be closed: nothing answers there, so they
    /// would hang until TCP gives up, a quarter of an hour later. False while
    /// somebody answers, if only with an error, and after a drain that ended
    /// with a closed port: such a pooler still serves the sessions it has.
    pub cut_sessions: bool,
}

/// Judges `state` anew after `observation`, made at `now`.
#[must_use]
pub fn judge(
    state: &State,
    observation: &Observation,
    policy: Policy,
    now: Timestamp,
) -> (State, Option<Change>) {
    let mut next = state.clone();
    let verdict = match observation {
        Observation::Passed { report } => after_pass(&mut next, report.as_ref(), policy),
        Observation::Failed { failure, reason } => {
            after_failure(&mut next, *failure, reason, policy)
        }
    };
    let Some(Verdict {
        to,
        reason,
        cut_sessions,
    }) = verdict
    else {
        return (next, None);
    };
    let change = Change {
        from: state.health,
        to,
        restarted: std::mem::take(&mut next.restarted),
        reason: reason.clone(),
        boot_id: next.boot_id.clone(),
        cut_sessions,
    };
    // A restart changes neither since when it is up nor why.
    if to != state.health {
        next.since = now;
        next.reason = reason;
    }
    next.health = to;
    next.untried = false;
    next.drained = match to {
        Health::Up => false,
        Health::Draining => true,
        Health::Unknown | Health::Down => next.drained,
    };
    (next, Some(change))
}

struct Verdict {
    to: Health,
    reason: String,
    cut_sessions: bool,
}

fn after_pass(next: &mut State, report: Option<&TargetReport>, policy: Policy) -> Option<Verdict> {
    next.failed = 0;
    if let Some(report) = report {
        let known = next.boot_id.replace(report.boot_id.clone());
        let new_process = known.is_some_and(|known| known != report.boot_id);
        next.restarted |= new_process && !next.drained;
    }
    let verdict = |to, reason| {
        Some(Verdict {
            to,
            reason,
            cut_sessions: false,
        })
    };
    if report.is_some_and(|report| report.state == TargetState::Draining) {
        next.passed = 0;
        return match next.health {
            Health::Draining => None,
            _ => verdict(Health::Draining, "says that it is draining".to_owned()),
        };
    }
    next.passed = next.passed.saturating_add(1);
    match next.health {
        Health::Unknown => verdict(Health::Up, "check passed".to_owned()),
        Health::Up if next.restarted => verdict(
            Health::Up,
            "answers as a new process, without having drained".to_owned(),
        ),
        Health::Up => None,
        Health::Down | Health::Draining => {
            (next.passed >= policy.rise || next.untried).then(|| Verdict {
                to: Health::Up,
                reason: match next.passed {
                    1 => "check passed".to_owned(),
                    passed => format!("{passed} checks passed"),
                },
                cut_sessions: false,
            })
        }
    }
}

fn after_failure(
    next: &mut State,
    failure: Failure,
    reason: &str,
    policy: Policy,
) -> Option<Verdict> {
    next.passed = 0;
    next.failed = next.failed.saturating_add(1);
    let enough = next.failed >= policy.fall;
    match next.health {
        Health::Down => {
            if next.untried {
                reason.clone_into(&mut next.reason);
            }
            None
        }
        Health::Unknown if !enough => {
            reason.clone_into(&mut next.reason);
            None
        }
        Health::Unknown | Health::Up => enough.then(|| Verdict {
            to: Health::Down,
            reason: reason.to_owned(),
            cut_sessions: failure != Failure::Answered,
        }),
        // Its port is closed as announced. It may still serve the sessions it
        // has, up to its drain_timeout.
        Health::Draining if failure == Failure::Refused => Some(Verdict {
            to: Health::Down,
            reason: format!("drained: {reason}"),
            cut_sessions: false,
        }),
        Health::Draining => enough.then(|| Verdict {
            to: Health::Down,
            reason: format!("while draining: {reason}"),
            cut_sessions: failure == Failure::Silent,
        }),
    }
}

#[cfg(test)]
mod tests;
