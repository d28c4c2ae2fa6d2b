//! One channel: what it was told, what it is to be told next, and when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Edge, Incident, Kind, Outcome, Post, Step};
use crate::endpoints::later;

/// Incidents that a channel remembers before those of one endpoint are merged.
/// Merged, an endpoint has at most two.
pub const INCIDENTS_MAX: usize = 256;
/// Slack takes about one message a second for each channel.
const SPACING: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest time for which a `Retry-After` is believed.
const THROTTLE_MAX: Duration = Duration::from_secs(3600);

/// Whether and how a channel is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelConfig {
    /// Name, unique.
    pub name: String,
    /// Changes when the place where messages go does. Not the place itself.
    pub fingerprint: String,
    /// Whether there is a place at all yet.
    pub configured: bool,
    /// Whether recoveries are told.
    pub send_resolved: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Channel {
    pub(super) fingerprint: String,
    pub(super) configured: bool,
    pub(super) send_resolved: bool,
    /// Not fully told, oldest first.
    pub(super) incidents: Vec<Told>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<Claim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_delivery: Option<Timestamp>,
    /// Why nothing is tried until the configuration changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// Failures in a row. An operator that starts tries at once.
    #[serde(skip)]
    pub(super) failures: u32,
    #[serde(skip)]
    pub(super) failure: Option<String>,
    #[serde(skip)]
    pub(super) not_before: Option<Timestamp>,
    #[serde(skip)]
    pub(super) in_flight: bool,
}

/// An incident and what of it was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told {
    pub(super) incident: Incident,
    pub(super) down_told: bool,
}

/// A message that may have been posted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claim {
    /// Of the edge that the message is about.
    pub(super) sequence: u64,
    /// An earlier attempt may have arrived.
    pub(super) unclear: bool,
}

impl Told {
    /// The next message about it, and its place in the order of things.
    pub(super) fn step(&self) -> Option<(u64, Step)> {
        let incident = &self.incident;
        match (incident.kind, self.down_told, &incident.ended) {
            (Kind::Restart, ..) => Some((incident.began.sequence, Step::Restarted)),
            (Kind::Outage, false, _) => Some((incident.began.sequence, Step::Down)),
            (Kind::Outage, true, Some(ended)) => Some((ended.sequence, Step::Up)),
            (Kind::Outage, true, None) => None,
        }
    }
}

impl Channel {
    pub(super) fn may_claim(&self) -> bool {
        self.configured && self.refused.is_none() && !self.in_flight
    }

    /// Index of the incident whose turn it is.
    pub(super) fn next(&self) -> Option<(usize, u64, Step)> {
        self.incidents
            .iter()
            .enumerate()
            .filter_map(|(index, told)| told.step().map(|(sequence, step)| (index, sequence, step)))
            .min_by_key(|(_, sequence, _)| *sequence)
    }

    pub(super) fn claim(&mut self, name: &str, now: Timestamp) -> Option<Post> {
        if !self.may_claim() || self.not_before.is_some_and(|time| now < time) {
            return None;
        }
        let (index, sequence, step) = self.next()?;
        let unclear = self
            .claim
            .as_ref()
            .is_some_and(|claim| claim.sequence == sequence && claim.unclear);
        self.claim = Some(Claim { sequence, unclear });
        self.in_flight = true;
        Some(Post {
            channel: name.to_owned(),
            step,
            incident: self.incidents[index].incident.clone(),
            possibly_repeated: unclear,
        })
    }

    pub(super) fn finished(&mut self, outcome: Outcome, now: Timestamp, jitter: f64) {
        self.in_flight = false;
        let Some(claim) = self.claim.clone() else {
            return;
        };
        // Whether an earlier attempt arrived stays unknown however this one ends.
        let take_back = |claim: Claim| claim.unclear.then_some(claim);
        match outcome {
            Outcome::Delivered => {
                self.claim = None;
                self.failures = 0;
                self.failure = None;
                self.refused = None;
                self.last_delivery = Some(now);
                self.not_before = Some(later(now, SPACING));
                self.confirm(claim.sequence);
            }
            Outcome::Failed(reason) => {
                self.claim = take_back(claim);
                self.back_off(reason, now, jitter);
            }
            Outcome::Unclear(reason) => {
                self.claim = Some(Claim {
                    unclear: true,
                    ..claim
                });
                self.back_off(reason, now, jitter);
            }
            Outcome::Throttled(wait) => {
                self.claim = take_back(claim);
                let wait = wait.clamp(SPACING, THROTTLE_MAX);
                self.failure = Some(format!("asked to wait for {} s", wait.as_secs()));
                self.not_before = Some(later(now, wait));
            }
            Outcome::Refused(reason) => {
                self.claim = take_back(claim);
                self.refused = Some(reason);
            }
        }
    }

    fn confirm(&mut self, sequence: u64) {
        let told = self
            .incidents
            .iter_mut()
            .find(|told| told.step().is_some_and(|(next, _)| next == sequence));
        if let Some(told) = told {
            match told.step() {
                Some((_, Step::Down)) => told.down_told = true,
                // Whatever comes last takes the incident off the list.
                _ => told.incident.times = 0,
            }
        }
        self.incidents.retain(|told| told.incident.times > 0);
        self.drop_finished();
    }

    /// Takes away what needs no further message.
    pub(super) fn drop_finished(&mut self) {
        let send_resolved = self.send_resolved;
        self.incidents
            .retain(|told| send_resolved || !told.down_told || told.incident.ended.is_none());
    }

    fn back_off(&mut self, reason: String, now: Timestamp, jitter: f64) {
        let wait = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(reason);
        self.not_before = Some(later(
            now,
            wait.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0),
        ));
    }

    pub(super) fn end(&mut self, endpoint: &str, ended: &Edge, lasted: SignedDuration) {
        let open = self
            .incidents
            .iter_mut()
            .find(|told| told.incident.endpoint == endpoint && told.incident.ended.is_none());
        if let Some(told) = open {
            told.incident.ended = Some(ended.clone());
            let lasted_ms = i64::try_from(lasted.as_millis()).unwrap_or(i64::MAX);
            told.incident.lasted_ms = told.incident.lasted_ms.saturating_add(lasted_ms);
        }
        self.drop_finished();
    }

    /// Makes two incidents of one endpoint one, the oldest two that can be.
    pub(super) fn merge_if_full(&mut self) {
        if self.incidents.len() <= INCIDENTS_MAX {
            return;
        }
        let claimed = self.claim.as_ref().map(|claim| claim.sequence);
        let free = |told: &Told| {
            told.step()
                .is_none_or(|(sequence, _)| Some(sequence) != claimed)
        };
        let pair = (0..self.incidents.len()).find_map(|earlier| {
            let one = &self.incidents[earlier];
            let later = (earlier + 1..self.incidents.len())
                .find(|later| self.incidents[*later].incident.endpoint == one.incident.endpoint)?;
            let mergeable =
                one.incident.ended.is_some() && free(one) && free(&self.incidents[later]);
            mergeable.then_some((earlier, later))
        });
        if let Some((earlier, later)) = pair {
            let newer = self.incidents.remove(later).incident;
            let told = &mut self.incidents[earlier];
            // What is told as one that restarted only is an outage if one of
            // them was.
            if told.incident.kind == Kind::Restart && newer.kind == Kind::Outage {
                told.incident.kind = Kind::Outage;
            }
            told.incident.ended = newer.ended;
            told.incident.times = told.incident.times.saturating_add(newer.times);
            told.incident.lasted_ms = told.incident.lasted_ms.saturating_add(newer.lasted_ms);
        }
    }

    /// Messages that wait.
    pub(super) fn pending(&self) -> i32 {
        let messages: usize = self
            .incidents
            .iter()
            .map(|told| match (told.step(), &told.incident.ended) {
                (None, _) => 0,
                (Some((_, Step::Down)), Some(_)) if self.send_resolved => 2,
                (Some(_), _) => 1,
            })
            .sum();
        i32::try_from(messages).unwrap_or(i32::MAX)
    }

    pub(super) fn problem(&self) -> Option<String> {
        if !self.configured {
            return Some(
                "not configured: the Secret holds the example's placeholder; put a webhook's URL there"
                    .to_owned(),
            );
        }
        if let Some(reason) = &self.refused {
            return Some(format!(
                "refused: {reason}; not tried again until the webhook's URL changes or the operator starts anew"
            ));
        }
        self.failure.clone()
    }
}
