//! What is wrong: an alert is true as long as whoever observes says so.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::api::{Component, NotificationEvent, Severity};

/// How much of a reason is kept, in bytes; the rest is cut off.
const REASON_BYTES_MAX: usize = 120;
/// How much of a subject is kept, in bytes; names in Kubernetes have 63.
const SUBJECT_BYTES_MAX: usize = 64;

/// What an alert is about; there is one alert for each.
///
/// As text it is the event, a colon and the subject: `EndpointDown:pooler-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key {
    /// What is wrong.
    pub event: NotificationEvent,
    /// With whom: an endpoint, a channel; empty where there is just one.
    pub subject: String,
}

impl Key {
    /// A key. Of a long subject the beginning counts.
    #[must_use]
    pub fn new(event: NotificationEvent, subject: &str) -> Self {
        Self {
            event,
            subject: tidy(subject, SUBJECT_BYTES_MAX),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.event.word(), self.subject)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once(':')
            .and_then(|(event, subject)| {
                let mut all = NotificationEvent::ALL.into_iter();
                let event = all.find(|known| known.word() == event)?;
                Some(Self::new(event, subject))
            })
            .ok_or_else(|| format!("{text:?} is not the key of an alert"))
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How many of a kind are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Of what.
    pub of: Component,
    /// Those that are up.
    pub up: u32,
    /// All of them.
    pub total: u32,
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// What, and with whom.
    pub key: Key,
    /// Since when.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub since: Timestamp,
    /// Why, in the words of whoever saw it.
    pub reason: String,
    /// How many are up, for endpoints and the tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
}

impl Alert {
    /// An alert; of a long reason the beginning is kept.
    #[must_use]
    pub fn new(key: Key, since: Timestamp, reason: &str, count: Option<Count>) -> Self {
        Self {
            key,
            since: milliseconds(since),
            reason: tidy(reason, REASON_BYTES_MAX),
            count,
        }
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.key.event.severity()
    }
}

/// Something that happened, with its own time: what the complete set of alerts
/// alone does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// This began, and perhaps ended since.
    Began(Alert),
    /// This ended.
    Ended {
        /// What.
        key: Key,
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
        /// How many are up since.
        count: Option<Count>,
    },
    /// An endpoint came back as a new process before anyone missed it.
    Restarted(Alert),
}

/// One line of at most so many bytes, as JSON has it.
pub(super) fn tidy(text: &str, bytes_max: usize) -> String {
    let cost = |character: char| match character {
        '"' | '\\' => 2,
        other => other.len_utf8(),
    };
    let whole: usize = text.chars().map(cost).sum();
    let mut left = match whole <= bytes_max {
        true => bytes_max,
        false => bytes_max.saturating_sub('…'.len_utf8()),
    };
    let mut tidy = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars() {
        let character = match character.is_control() {
            true => ' ',
            false => character,
        };
        let Some(rest) = left.checked_sub(cost(character)) else {
            tidy.push('…');
            break;
        };
        left = rest;
        tidy.push(character);
    }
    tidy
}

/// As much of a reason as is kept.
pub(super) fn tidy_reason(text: &str) -> String {
    tidy(text, REASON_BYTES_MAX)
}

/// As precise as it is kept, so that what was read back is the same.
pub(super) fn milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// Milliseconds from one time to another, never less than none.
pub(super) fn millis_between(since: Timestamp, until: Timestamp) -> i64 {
    let lasted: SignedDuration = until.duration_since(since);
    i64::try_from(lasted.as_millis()).unwrap_or(i64::MAX).max(0)
}
