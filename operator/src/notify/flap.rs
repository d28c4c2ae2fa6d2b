//! Who comes and goes too often to be told of each time.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Key, alert::milliseconds};
use crate::endpoints::later;

/// Outages within [`WINDOW`] that make a subject flap.
pub const OUTAGES: usize = 4;
/// Time in which they are counted.
pub const WINDOW: Duration = Duration::from_secs(600);
/// How long it must not come or go to be steady again.
pub const STEADY: Duration = Duration::from_secs(300);
/// Subjects that are remembered.
const SUBJECTS_MAX: usize = 64;

/// The outages of those who had some of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Flaps {
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    key: Key,
    /// When its last outages began, in milliseconds, at most [`OUTAGES`].
    began_ms: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flapping: Option<Flapping>,
}

/// What a subject did since it flaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Flapping {
    /// Since when.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub(super) since: Timestamp,
    /// When it came or went last, by our clock.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    changed: Timestamp,
    /// Outages that began since, the first not counted.
    pub(super) times: u32,
    /// How long those lasted that ended.
    pub(super) lasted_ms: i64,
    /// Why it was down last.
    pub(super) reason: String,
}

/// What the beginning of an outage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// To be told.
    Outage,
    /// The one that makes it flap.
    Flapping,
    /// One of many: not to be told by itself.
    Another,
}

impl Flaps {
    /// An outage begins.
    pub(super) fn begins(
        &mut self,
        key: &Key,
        at: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Beginning {
        let (at, now) = (milliseconds(at), milliseconds(now));
        let subject = self.subject(key);
        if let Some(flapping) = &mut subject.flapping {
            flapping.times = flapping.times.saturating_add(1);
            flapping.changed = now;
            reason.clone_into(&mut flapping.reason);
            return Beginning::Another;
        }
        let at_ms = at.as_millisecond();
        let window_ms = i64::try_from(WINDOW.as_millis()).unwrap_or(i64::MAX);
        // Those from a clock that was ahead count too.
        subject
            .began_ms
            .retain(|began_ms| at_ms.saturating_sub(*began_ms) < window_ms);
        subject.began_ms.push(at_ms);
        if subject.began_ms.len() < OUTAGES {
            return Beginning::Outage;
        }
        subject.began_ms.clear();
        subject.flapping = Some(Flapping {
            since: at,
            changed: now,
            times: 0,
            lasted_ms: 0,
            reason: reason.to_owned(),
        });
        Beginning::Flapping
    }

    /// An outage ends. False if that is to be told.
    pub(super) fn ends(&mut self, key: &Key, lasted_ms: i64, now: Timestamp) -> bool {
        let mut all = self.subjects.iter_mut();
        let flapping = all.find(|subject| subject.key == *key);
        let Some(flapping) = flapping.and_then(|subject| subject.flapping.as_mut()) else {
            return false;
        };
        flapping.changed = milliseconds(now);
        flapping.lasted_ms = flapping.lasted_ms.saturating_add(lasted_ms);
        true
    }

    /// Whether nobody had an outage of late.
    pub(super) const fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Whether it flaps.
    pub(super) fn is_flapping(&self, key: &Key) -> bool {
        let mut all = self.subjects.iter();
        all.any(|subject| subject.key == *key && subject.flapping.is_some())
    }

    /// Those that have been steady for long enough flap no longer.
    pub(super) fn steady(&mut self, now: Timestamp) -> Vec<(Key, Flapping)> {
        let now = milliseconds(now);
        let mut steady = Vec::new();
        for subject in &mut self.subjects {
            let Some(flapping) = &mut subject.flapping else {
                continue;
            };
            // A clock that was set back begins anew.
            flapping.changed = flapping.changed.min(now);
            if now >= later(flapping.changed, STEADY) {
                steady.push(subject.key.clone());
            }
        }
        let mut taken = Vec::new();
        for key in steady {
            let mut all = self.subjects.iter_mut();
            let found = all.find(|subject| subject.key == key);
            if let Some(flapping) = found.and_then(|subject| subject.flapping.take()) {
                taken.push((key, flapping));
            }
        }
        let oldest_ms = now.as_millisecond() - i64::try_from(WINDOW.as_millis()).unwrap_or(0);
        self.subjects.retain(|subject| {
            subject.flapping.is_some() || subject.began_ms.iter().any(|ms| *ms > oldest_ms)
        });
        taken
    }

    /// It is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        self.subjects.retain(|subject| subject.key != *key);
    }

    fn subject(&mut self, key: &Key) -> &mut Subject {
        let found = self.subjects.iter().position(|one| one.key == *key);
        let index = found.unwrap_or_else(|| {
            if self.subjects.len() >= SUBJECTS_MAX {
                // Whoever does not flap and was quiet for longest.
                let quiet = self.subjects.iter().position(|one| one.flapping.is_none());
                self.subjects.remove(quiet.unwrap_or(0));
            }
            self.subjects.push(Subject {
                key: key.clone(),
                began_ms: Vec::with_capacity(OUTAGES),
                flapping: None,
            });
            self.subjects.len() - 1
        });
        &mut self.subjects[index]
    }
}
