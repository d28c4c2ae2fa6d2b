//! What happened, in order, until everyone was told.
//!
//! The log is one for all channels; each has a cursor in it. It is bounded in
//! bytes: when it is full, what happened to one subject between two cursors
//! becomes one entry that says how often and how long. If even that does not
//! help, the oldest entries go, and channels that had not read them are told
//! what is true instead.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Count, Key};
use crate::api::NotificationEvent;

/// How many bytes entries may take, as JSON.
pub(super) const BYTES_MAX: usize = 24 * 1024;
/// How many an entry takes without its texts.
const ENTRY_BYTES_BASE: usize = 260;

/// Something that people are told once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its place in the order of things.
    pub sequence: u64,
    /// What it is about.
    pub key: Key,
    /// What happened.
    pub what: What,
    /// When.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub at: Timestamp,
    /// When it began, of what ended; of several, the last.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub since: Timestamp,
    /// Why.
    pub reason: String,
    /// How many were up then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// How often it began, or restarted; nothing for an end alone.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub times: u32,
    /// How long it lasted, all times together, the present one not counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lasted_ms: i64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// It began.
    Began,
    /// It ended.
    Ended,
    /// It began and ended.
    Passed,
    /// It ended, began again and has not ended.
    Again,
    /// It restarted.
    Restarted,
    /// It comes and goes; nothing more is told until it is steady.
    Flapping,
    /// It has stopped coming and going, and is well.
    SteadyUp,
    /// It has stopped coming and going, and is not well.
    SteadyDown,
    /// What it was about is not there any more, on purpose.
    Removed,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_one(times: &u32) -> bool {
    *times == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(lasted_ms: &i64) -> bool {
    *lasted_ms == 0
}

impl What {
    /// Whether it leaves its subject in trouble.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(
            self,
            Self::Began | Self::Again | Self::Flapping | Self::SteadyDown
        )
    }

    /// What this and something after it are together.
    const fn then(self, later: Self) -> Self {
        let was_bad = matches!(self, Self::Ended | Self::Again);
        match (self, later) {
            (_, Self::Flapping | Self::SteadyUp | Self::SteadyDown | Self::Removed)
            | (Self::Removed, _)
            | (Self::Restarted, Self::Restarted) => later,
            _ => match (was_bad, later.is_bad()) {
                (false, false) => Self::Passed,
                (false, true) => Self::Began,
                (true, false) => Self::Ended,
                (true, true) => Self::Again,
            },
        }
    }
}

impl Entry {
    /// The event, as channels choose by it.
    #[must_use]
    pub const fn event(&self) -> NotificationEvent {
        match self.what {
            What::Restarted => NotificationEvent::EndpointRestarted,
            _ => self.key.event,
        }
    }

    /// Itself and a later one of the same subject as one, in the later one's
    /// place.
    fn join(&self, later: &Self) -> Self {
        Self {
            what: self.what.then(later.what),
            times: self.times.saturating_add(later.times),
            lasted_ms: self.lasted_ms.saturating_add(later.lasted_ms),
            ..later.clone()
        }
    }

    /// How much it takes as JSON, or a little more than that.
    fn bytes(&self) -> usize {
        let escaped = |text: &str| {
            let escapes = text.bytes().filter(|byte| matches!(byte, b'"' | b'\\'));
            text.len() + escapes.count()
        };
        ENTRY_BYTES_BASE + escaped(&self.key.subject) + escaped(&self.reason)
    }
}

/// The entries that someone has still to be told of, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Log {
    entries: Vec<Entry>,
}

impl Log {
    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Those after one cursor and up to another.
    pub(super) fn between(&self, after: u64, upto: u64) -> impl Iterator<Item = &Entry> {
        let all = self.entries.iter();
        all.filter(move |entry| entry.sequence > after && entry.sequence <= upto)
    }

    /// Forgets what everyone was told.
    pub(super) fn forget(&mut self, upto: u64) {
        self.entries.retain(|entry| entry.sequence > upto);
    }

    /// Makes it small enough. `cursors` are the places that must not be merged
    /// across. Returns the last sequence that was lost, if any was.
    pub(super) fn bound(&mut self, cursors: &[u64]) -> Option<u64> {
        let mut bytes: usize = self.entries.iter().map(Entry::bytes).sum();
        if bytes <= BYTES_MAX {
            return None;
        }
        self.merge(cursors);
        bytes = self.entries.iter().map(Entry::bytes).sum();
        let mut lost = None;
        while bytes > BYTES_MAX && !self.entries.is_empty() {
            let entry = self.entries.remove(0);
            bytes -= entry.bytes();
            lost = Some(entry.sequence);
        }
        lost
    }

    /// Merges all that can be: whenever the log is full, not at each entry.
    fn merge(&mut self, cursors: &[u64]) {
        let segment = |sequence: u64| {
            let passed = cursors.iter().filter(|cursor| **cursor < sequence);
            passed.count()
        };
        let mut merged: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for entry in self.entries.drain(..) {
            let earlier = merged.iter().rposition(|earlier| {
                earlier.key == entry.key && segment(earlier.sequence) == segment(entry.sequence)
            });
            match earlier {
                Some(at) => {
                    let earlier = merged.remove(at);
                    merged.push(earlier.join(&entry));
                }
                None => merged.push(entry),
            }
        }
        self.entries = merged;
    }
}

/// Makes one entry of all those of a subject, in the order of their first.
pub(super) fn fold<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
    let mut folded: Vec<Entry> = Vec::new();
    for entry in entries {
        match folded.iter_mut().find(|earlier| earlier.key == entry.key) {
            Some(earlier) => *earlier = earlier.join(entry),
            None => folded.push(entry.clone()),
        }
    }
    folded
}
