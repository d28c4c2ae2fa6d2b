//! Whether PostgreSQL answers, judged from logins and from questions of our own.
//!
//! ```text
//!                 logged in, or it answered
//!   Unknown ─────────────────────────────────> Reachable <──┐
//!      │                                           │        │ logged in; or it
//!      │ said no at a login; or                    │        │ answered, unless
//!      │ failed twice in a row                     v        │ only a login shows
//!      └────────────────────────────────────> Unreachable ──┘ what is wrong
//! ```
//!
//! A question shows less than a login: a PostgreSQL that is starting, is full or
//! does not know our password answers it. So an answer lifts these reasons only
//! when no login has met them for a while, and wrong credentials never.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{login::server::LoginError, pool::Moment};

/// Failures in a row until it counts as unreachable: one may be chance.
const FALL: u32 = 2;
/// Pause before it is asked again after something that may be chance, if it is
/// not asked earlier anyway.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);
/// How long an answer does not lift what only logins show.
const HOLD: Duration = Duration::from_secs(30);

/// Why it is unreachable: a fixed list, worst first. The words are those of the
/// check's report; a word that this version does not know reads as `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The host's name has no address, or cannot be looked up.
    NameNotFound,
    /// Nobody listens there.
    Refused,
    /// Nothing came in time, or no way leads there.
    Timeout,
    /// The connection ended before the login was over.
    Lost,
    /// What answers there does not speak PostgreSQL's protocol.
    NotPostgres,
    /// There is no TLS as it is asked for.
    Tls,
    /// It starts, stops or recovers (57P01, 57P02, 57P03).
    NotAccepting,
    /// It has no connection left (53300), and we have none.
    TooManyConnections,
    /// It refuses our user or password (class 28), or we know none that would do.
    Credentials,
    /// A reason of a newer version.
    #[serde(other)]
    Unknown,
}

impl Reason {
    /// The word in the report.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NameNotFound => "nameNotFound",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::NotPostgres => "notPostgres",
            Self::Tls => "tls",
            Self::NotAccepting => "notAccepting",
            Self::TooManyConnections => "tooManyConnections",
            Self::Credentials => "credentials",
            Self::Unknown => "unknown",
        }
    }

    /// Whether a server that says so answers a question all the same.
    const fn needs_login(self) -> bool {
        match self {
            Self::NotAccepting | Self::TooManyConnections | Self::Credentials => true,
            Self::NameNotFound
            | Self::Refused
            | Self::Timeout
            | Self::Lost
            | Self::NotPostgres
            | Self::Tls
            | Self::Unknown => false,
        }
    }
}

/// What a login or a question showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A server logged in.
    LoggedIn,
    /// It answered; whether it lets us in was not asked, or was about one
    /// database, or about one user while others are served.
    Answered,
    /// It cannot be used, for this reason.
    Failed(Reason),
}

impl Observation {
    /// What a failed login shows, while so many servers are logged in there.
    #[must_use]
    pub fn of_login(error: &LoginError, servers: u32) -> Self {
        let reason = match error {
            LoginError::Refused { code, .. } => match code.as_str() {
                "57P01" | "57P02" | "57P03" => Reason::NotAccepting,
                "53300" => Reason::TooManyConnections,
                code if code.starts_with("28") => Reason::Credentials,
                // Of one database, one parameter: it answers.
                _ => return Self::Answered,
            },
            LoginError::Tls(_) => Reason::Tls,
            LoginError::Method(_) | LoginError::Scram(_) => Reason::Credentials,
            LoginError::Protocol(_) => Reason::NotPostgres,
        };
        match reason {
            // While it serves others, one user's trouble is that user's, and
            // what is full is full of us.
            Reason::Credentials | Reason::TooManyConnections if servers > 0 => Self::Answered,
            reason => Self::Failed(reason),
        }
    }
}

/// What is held true of a PostgreSQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing has shown it yet.
    #[default]
    Unknown,
    /// It answers.
    Reachable,
    /// It cannot be used.
    Unreachable(Reason),
}

/// A PostgreSQL, as one pooler sees it.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    judgement: Judgement,
    since: Moment,
    /// Failures in a row.
    failed: u32,
    failed_at: Moment,
    heard_at: Option<Moment>,
    doubted: bool,
}

impl Upstream {
    /// What is held true of it.
    #[must_use]
    pub const fn judgement(&self) -> Judgement {
        self.judgement
    }

    /// Since when it is reachable or not; the reason may have changed since.
    #[must_use]
    pub const fn since(&self) -> Moment {
        self.since
    }

    /// Takes in what was seen at `now`; true if that changes the judgement.
    pub fn observe(&mut self, observation: Observation, now: Moment) -> bool {
        self.heard_at = Some(now);
        self.doubted = false;
        let next = match observation {
            Observation::LoggedIn => {
                self.failed = 0;
                Judgement::Reachable
            }
            Observation::Answered => {
                self.failed = 0;
                match self.judgement {
                    Judgement::Unreachable(reason) if self.holds(reason, now) => self.judgement,
                    _ => Judgement::Reachable,
                }
            }
            Observation::Failed(reason) => {
                self.failed = self.failed.saturating_add(1);
                self.failed_at = now;
                let known = matches!(self.judgement, Judgement::Unreachable(_));
                match known || reason.needs_login() || self.failed >= FALL {
                    true => Judgement::Unreachable(reason),
                    false => self.judgement,
                }
            }
        };
        let before = std::mem::replace(&mut self.judgement, next);
        if std::mem::discriminant(&before) != std::mem::discriminant(&next) {
            self.since = now;
        }
        before != next
    }

    /// Whether a reason outlives an answer.
    fn holds(&self, reason: Reason, now: Moment) -> bool {
        match reason {
            Reason::Credentials => true,
            reason => reason.needs_login() && now.since(self.failed_at) < HOLD,
        }
    }

    /// A connection to it has broken, which may mean that it is gone.
    pub fn doubt(&mut self) {
        self.doubted = true;
    }

    /// It was to be asked at `now`, and for want of our own means was not.
    pub fn not_asked(&mut self, now: Moment) {
        self.heard_at = Some(now);
        self.doubted = false;
    }

    /// Another configuration is in force: it may have mended what only a login
    /// shows, and is asked for at once what it is like now.
    pub fn reconfigured(&mut self) {
        if matches!(self.judgement, Judgement::Unreachable(reason) if reason.needs_login()) {
            self.judgement = Judgement::Unknown;
        }
        self.heard_at = None;
    }

    /// When it should be asked, if it is to be heard of every `interval`.
    #[must_use]
    pub fn due(&self, interval: Duration) -> Moment {
        let Some(heard_at) = self.heard_at else {
            return Moment(0);
        };
        let unsettled = self.failed > 0 && !matches!(self.judgement, Judgement::Unreachable(_));
        match self.doubted || unsettled {
            true => heard_at + interval.min(DOUBT_PAUSE),
            false => heard_at + interval,
        }
    }
}

/// What a pooler says of all its upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    /// All that are known answer.
    Reachable,
    /// Some cannot be used.
    Partly,
    /// None can be used.
    Unreachable,
    /// A word of a newer version.
    #[serde(other)]
    Unknown,
}

/// What a pooler says of all its upstreams. It names none of them: whoever
/// reaches the pooler's port may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamReport {
    /// Which of them can be used.
    pub state: Reach,
    /// Why one cannot; of several the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Counts the changes within one process: of two reports with the same
    /// bootId the one with the higher number is newer.
    #[serde(default)]
    pub number: u32,
}

impl UpstreamReport {
    /// Of these judgements, the `number`th; `None` if nothing is known.
    #[must_use]
    pub fn of(judgements: impl Iterator<Item = Judgement>, number: u32) -> Option<Self> {
        let (mut reachable, mut worst) = (false, None);
        for judgement in judgements {
            match judgement {
                Judgement::Unknown => {}
                Judgement::Reachable => reachable = true,
                Judgement::Unreachable(reason) => {
                    worst = Some(worst.map_or(reason, |worst: Reason| worst.min(reason)));
                }
            }
        }
        let state = match (reachable, worst) {
            (false, None) => return None,
            (true, None) => Reach::Reachable,
            (true, Some(_)) => Reach::Partly,
            (false, Some(_)) => Reach::Unreachable,
        };
        Some(Self {
            state,
            reason: worst,
            number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    fn after(observations: &[(Observation, u64)]) -> Upstream {
        let mut upstream = Upstream::default();
        for (observation, seconds) in observations {
            upstream.observe(*observation, at(*seconds));
        }
        upstream
    }

    fn refused(code: &str) -> LoginError {
        LoginError::Refused {
            code: code.to_owned(),
            text: String::new(),
        }
    }

    use Observation::{Answered, Failed, LoggedIn};

    #[test]
    fn one_failure_may_be_chance_and_two_are_not() {
        let failed = Failed(Reason::Refused);
        let mut upstream = after(&[(LoggedIn, 1), (failed, 5)]);
        assert_eq!(upstream.judgement(), Judgement::Reachable);
        assert!(upstream.observe(failed, at(6)));
        assert_eq!(
            upstream.judgement(),
            Judgement::Unreachable(Reason::Refused)
        );
        assert_eq!(upstream.since(), at(6));
        assert!(upstream.observe(Failed(Reason::Timeout), at(7)));
        assert_eq!(
            upstream.since(),
            at(6),
            "another reason is no other beginning"
        );
        assert!(!upstream.observe(Failed(Reason::Timeout), at(8)));
        assert!(upstream.observe(Answered, at(9)));
        assert_eq!(upstream.since(), at(9));
        let chance = after(&[(failed, 1), (Answered, 2), (failed, 3)]);
        assert_eq!(chance.judgement(), Judgement::Reachable);
    }

    #[test]
    fn an_answer_lifts_what_logins_show_only_later() {
        for reason in [Reason::NotAccepting, Reason::TooManyConnections] {
            let mut upstream = after(&[(Failed(reason), 10), (Answered, 15)]);
            assert_eq!(upstream.judgement(), Judgement::Unreachable(reason));
            assert!(upstream.observe(Answered, at(41)), "{reason:?}");
        }
        let mut upstream = after(&[(Failed(Reason::Credentials), 10), (Answered, 1_000)]);
        assert_eq!(
            upstream.judgement(),
            Judgement::Unreachable(Reason::Credentials)
        );
        assert!(upstream.observe(LoggedIn, at(1_001)));
        assert_eq!(upstream.judgement(), Judgement::Reachable);
    }

    #[test]
    fn logins_are_told_apart_by_whose_fault_it_is() {
        let cases = [
            (refused("57P03"), 3, Failed(Reason::NotAccepting)),
            (refused("53300"), 0, Failed(Reason::TooManyConnections)),
            (refused("53300"), 1, Answered),
            (refused("28P01"), 0, Failed(Reason::Credentials)),
            (refused("28000"), 0, Failed(Reason::Credentials)),
            (refused("28P01"), 1, Answered),
            (refused("3D000"), 0, Answered),
            (LoginError::Tls(String::new()), 9, Failed(Reason::Tls)),
            (
                LoginError::Method(String::new()),
                0,
                Failed(Reason::Credentials),
            ),
            (LoginError::Protocol("x"), 0, Failed(Reason::NotPostgres)),
        ];
        for (error, servers, wanted) in cases {
            assert_eq!(Observation::of_login(&error, servers), wanted, "{error:?}");
        }
    }

    #[test]
    fn it_is_asked_when_nothing_was_heard_and_sooner_in_doubt() {
        let interval = Duration::from_secs(5);
        assert_eq!(Upstream::default().due(interval), Moment(0));
        let mut upstream = after(&[(LoggedIn, 10)]);
        assert_eq!(upstream.due(interval), at(15));
        upstream.doubt();
        assert_eq!(upstream.due(interval), at(11));
        upstream.observe(Failed(Reason::Refused), at(11));
        assert_eq!(upstream.due(interval), at(12), "it may be chance");
        upstream.observe(Failed(Reason::Refused), at(12));
        assert_eq!(upstream.due(interval), at(17), "it is known");
    }

    #[test]
    fn the_report_is_of_what_is_known() {
        let unreachable = Judgement::Unreachable;
        let of = |judgements: &[Judgement]| {
            UpstreamReport::of(judgements.iter().copied(), 7).map(|one| (one.state, one.reason))
        };
        assert_eq!(of(&[Judgement::Unknown]), None);
        assert_eq!(
            of(&[Judgement::Unknown, Judgement::Reachable]),
            Some((Reach::Reachable, None))
        );
        assert_eq!(
            of(&[Judgement::Reachable, unreachable(Reason::Tls)]),
            Some((Reach::Partly, Some(Reason::Tls)))
        );
        assert_eq!(
            of(&[unreachable(Reason::Tls), unreachable(Reason::Refused)]),
            Some((Reach::Unreachable, Some(Reason::Refused)))
        );
    }

    #[test]
    fn words_of_newer_versions_are_unknown() {
        let newer = r#"{"state":"asleep","reason":"moon","number":3,"more":[]}"#;
        let read: UpstreamReport = serde_json::from_str(newer).unwrap();
        assert_eq!(
            (read.state, read.reason),
            (Reach::Unknown, Some(Reason::Unknown))
        );
        for reason in [Reason::NameNotFound, Reason::Tls, Reason::Unknown] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.word());
        }
    }
}
