//! Whether a pooler serves its clients in time, judged once a second.
//!
//! ```text
//!                 a client has waited too long, or was refused
//!   nothing ──────────────────────────────────────────────────> saturated
//!      ^                                                            │
//!      └──── nothing of the kind was seen for 10 s, or it ──────────┘
//!            would mean something else: PostgreSQL is out of
//!            reach, everything is paused
//! ```
//!
//! Each reason holds by itself, so that what is said does not change with every
//! client that is served in between.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pool::Moment;

/// How long a reason holds after it was seen last.
const HOLD: Duration = Duration::from_secs(10);

/// Why clients are not served in time: a fixed list, worst first. The words are
/// those of the check's report; a word that this version does not know reads as
/// `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Some are sent away: all `max_client_conn` places are taken.
    ClientsRefused,
    /// They wait for a server, and `max_server_connections` are open.
    MaxServerConnections,
    /// They wait for a server, and `max_db_connections` are open.
    MaxDbConnections,
    /// They wait for a server, and `max_user_connections` are open.
    MaxUserConnections,
    /// They wait for a server, and no limit that pools share is in the way.
    ClientsWait,
    /// A reason of a newer version.
    #[serde(other)]
    Unknown,
}

impl Reason {
    /// All that this version tells, worst first.
    pub const ALL: [Self; 5] = [
        Self::ClientsRefused,
        Self::MaxServerConnections,
        Self::MaxDbConnections,
        Self::MaxUserConnections,
        Self::ClientsWait,
    ];

    /// The word in metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ClientsRefused => "clients_refused",
            Self::MaxServerConnections => "max_server_connections",
            Self::MaxDbConnections => "max_db_connections",
            Self::MaxUserConnections => "max_user_connections",
            Self::ClientsWait => "clients_wait",
            Self::Unknown => "unknown",
        }
    }
}

/// A pooler, as it judges itself.
#[derive(Clone, Debug, Default)]
pub struct Saturation {
    /// When each reason of [`Reason::ALL`] was seen last, while it holds.
    seen: [Option<Moment>; Reason::ALL.len()],
}

impl Saturation {
    /// Takes in what was seen at `now`; true if that changes the
    /// [`Saturation::reason`].
    pub fn observe(&mut self, reasons: &[Reason], now: Moment) -> bool {
        let before = self.reason();
        for (seen, reason) in self.seen.iter_mut().zip(Reason::ALL) {
            if reasons.contains(&reason) {
                *seen = Some(now);
            } else if seen.is_some_and(|at| now.since(at) >= HOLD) {
                *seen = None;
            }
        }
        before != self.reason()
    }

    /// Forgets what was seen: it would mean something else now. True if that
    /// changes the [`Saturation::reason`].
    pub fn forget(&mut self) -> bool {
        let before = self.reason();
        *self = Self::default();
        before.is_some()
    }

    /// Those that hold, worst first.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        let seen = self.seen.iter().zip(Reason::ALL);
        seen.filter_map(|(seen, reason)| seen.and(Some(reason)))
    }

    /// The worst of those that hold; `None` while clients are served in time.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reasons().next()
    }
}

/// What a pooler says of it. It names no pool: whoever reaches the pooler's port
/// may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SaturationReport {
    /// Why clients are not served in time; absent while they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Counts the changes within one process: of two reports with the same
    /// bootId the one with the higher number is newer.
    #[serde(default)]
    pub number: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    use Reason::{ClientsRefused, ClientsWait, MaxDbConnections};

    #[test]
    fn it_begins_at_once_and_is_over_when_nothing_was_seen_for_a_while() {
        let mut saturation = Saturation::default();
        let steps: [(&[Reason], u64, bool, Option<Reason>); 8] = [
            (&[], 1, false, None),
            (&[ClientsWait], 2, true, Some(ClientsWait)),
            (&[], 3, false, Some(ClientsWait)),
            (&[ClientsWait], 11, false, Some(ClientsWait)),
            (&[], 20, false, Some(ClientsWait)),
            (&[], 21, true, None),
            (&[], 22, false, None),
            (&[ClientsWait], 23, true, Some(ClientsWait)),
        ];
        for (reasons, second, changed, reason) in steps {
            assert_eq!(saturation.observe(reasons, at(second)), changed, "{second}");
            assert_eq!(saturation.reason(), reason, "{second}");
        }
    }

    #[test]
    fn the_worst_is_said_as_long_as_it_holds() {
        let mut saturation = Saturation::default();
        let steps: [(&[Reason], u64, bool, Option<Reason>); 6] = [
            (&[ClientsWait], 1, true, Some(ClientsWait)),
            (&[MaxDbConnections], 2, true, Some(MaxDbConnections)),
            // Which of two pools is looked at first is not told in turns.
            (&[ClientsWait], 3, false, Some(MaxDbConnections)),
            (
                &[ClientsWait, ClientsRefused],
                4,
                true,
                Some(ClientsRefused),
            ),
            (&[ClientsWait], 13, false, Some(ClientsRefused)),
            (&[ClientsWait], 14, true, Some(ClientsWait)),
        ];
        for (reasons, second, changed, reason) in steps {
            assert_eq!(saturation.observe(reasons, at(second)), changed, "{second}");
            assert_eq!(saturation.reason(), reason, "{second}");
        }
    }

    #[test]
    fn what_would_mean_something_else_is_forgotten_at_once() {
        let mut saturation = Saturation::default();
        assert!(!saturation.forget());
        saturation.observe(&[ClientsWait], at(1));
        assert!(saturation.forget());
        assert_eq!(saturation.reason(), None);
    }

    #[test]
    fn older_and_newer_poolers_are_understood() {
        let read = |json: &str| serde_json::from_str::<SaturationReport>(json).unwrap();
        assert_eq!(read("{\"number\":3}").reason, None);
        let newer = read("{\"reason\":\"bored\",\"number\":4,\"mood\":\"bad\"}");
        assert_eq!(newer.reason, Some(Reason::Unknown));
        for reason in Reason::ALL {
            let report = SaturationReport {
                reason: Some(reason),
                number: 1,
            };
            let json = serde_json::to_string(&report).unwrap();
            assert_eq!(read(&json), report);
        }
    }
}
