//! What can go wrong with the API server, and what to do then.

use std::time::Duration;

/// The answer to a call.
pub(super) type CallResult<T> = Result<T, CallError>;

/// A call that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The server refused, or the connection broke.
    #[error("{what}: {text}")]
    Refused {
        /// What was tried.
        what: String,
        /// HTTP status code, 0 if there was no answer.
        code: u16,
        /// What it said.
        text: String,
    },
    /// No answer in time. It may have been done all the same.
    #[error("{what}: no answer within {} s", time.as_secs_f32())]
    Silent {
        /// What was tried.
        what: String,
        /// How long was waited.
        time: Duration,
    },
    /// Another replica may lead by now.
    #[error("not leading any more")]
    NotLeading,
}

/// What a caller can do differently about an error; its word is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Somebody else wrote in between: look again, soon.
    Conflict,
    /// It is gone: look again.
    Gone,
    /// The operator lacks a right: people must act.
    Forbidden,
    /// The server does not take what we send: people must act.
    Invalid,
    /// The server cannot be reached, is frozen, or has too much to do.
    Unavailable,
    /// Not our turn any more.
    NotLeading,
}

impl Kind {
    /// All of them, as metric labels need.
    pub(super) const ALL: [Self; 6] = [
        Self::Conflict,
        Self::Gone,
        Self::Forbidden,
        Self::Invalid,
        Self::Unavailable,
        Self::NotLeading,
    ];

    /// The word, as in labels.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::NotLeading => "not_leading",
        }
    }

    /// First and longest pause until the next try.
    const fn pauses_ms(self) -> (u64, u64) {
        match self {
            Self::Conflict | Self::Gone => (200, 30_000),
            Self::Unavailable | Self::NotLeading => (1_000, 60_000),
            Self::Forbidden | Self::Invalid => (5_000, 300_000),
        }
    }

    /// The pause until the next try, after `failures` in a row, 1 at least: it
    /// doubles each time. `jitter` is random, 0 to 1, and spreads it over its
    /// second half, so that many who failed together do not come back together.
    pub(super) fn pause(self, failures: u32, jitter: f64) -> Duration {
        let (first_ms, longest_ms) = self.pauses_ms();
        let doublings = failures.saturating_sub(1).min(20);
        let pause = Duration::from_millis((first_ms << doublings).min(longest_ms));
        pause.div_f64(2.0) + pause.div_f64(2.0).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

impl CallError {
    /// What kube says, without what it may hold of an object's content.
    pub(super) fn answered(what: &str, error: kube::Error) -> Self {
        let what = what.to_owned();
        match error {
            kube::Error::Api(status) => Self::Refused {
                what,
                code: status.code,
                text: brief(&status.message),
            },
            other => Self::Refused {
                what,
                code: 0,
                text: brief(&other.to_string()),
            },
        }
    }

    /// Which kind it is.
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::NotLeading => Kind::NotLeading,
            Self::Silent { .. } => Kind::Unavailable,
            Self::Refused { code, .. } => match code {
                401 | 403 => Kind::Forbidden,
                404 | 410 => Kind::Gone,
                409 => Kind::Conflict,
                400 | 405 | 413 | 415 | 422 => Kind::Invalid,
                _ => Kind::Unavailable,
            },
        }
    }
}

/// Messages of the server can be long: a condition holds 1,000 characters of it.
fn brief(text: &str) -> String {
    text.chars().take(1_000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_spread() {
        let pauses: Vec<_> = [1, 2, 3, 7, 8, u32::MAX]
            .map(|failures| Kind::Unavailable.pause(failures, 1.0).as_secs())
            .into();
        assert_eq!(pauses, [1, 2, 4, 60, 60, 60]);
        let spread = [0.0, 0.5, 1.0].map(|jitter| Kind::Unavailable.pause(3, jitter).as_secs());
        assert_eq!(spread, [2, 3, 4]);
    }

    #[test]
    fn kinds_follow_the_servers_codes() {
        let kind = |code| {
            let text = String::new();
            let what = String::new();
            CallError::Refused { what, code, text }.kind()
        };
        assert_eq!(kind(409), Kind::Conflict);
        assert_eq!(kind(403), Kind::Forbidden);
        assert_eq!(kind(422), Kind::Invalid);
        assert_eq!(kind(404), Kind::Gone);
        for code in [0, 429, 500, 503, 504] {
            assert_eq!(kind(code), Kind::Unavailable, "{code}");
        }
    }
}
