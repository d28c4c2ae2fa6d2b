//! Who has been told what, and what to tell next. Pure and level-based: what
//! was told is kept, what should be told follows from it.
//!
//! Each channel has its own list of incidents that are not fully told:
//!
//! ```text
//! begins ──> untold ──DOWN──> told down ──(it ends)──UP──> gone
//! ```
//!
//! A message is *claimed* before it is posted and *confirmed* after: whoever
//! keeps a [`Notifier`] writes it down in between. One that died there left a
//! claim behind, so its successor cannot know whether the message arrived,
//! posts it again and says so. Everything else is told exactly once, in order.
//!
//! While a channel cannot be reached its list grows to [`INCIDENTS_MAX`]; then
//! incidents of one endpoint become one that says how often it happened.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    api::{Component, NotificationStatus},
    endpoints::{Change, Outage, later},
};

/// Incidents that a channel remembers before those of one endpoint are merged.
/// Merged, an endpoint has at most two.
pub const INCIDENTS_MAX: usize = 256;
/// Slack takes about one message a second for each channel.
const SPACING: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest time for which a `Retry-After` is believed.
const THROTTLE_MAX: Duration = Duration::from_secs(3600);

/// Something that happened to an endpoint, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// Whose.
    pub endpoint: String,
    /// What it is.
    pub component: Component,
    /// What happened.
    pub kind: Kind,
    /// When it began; of several, the first.
    pub began: Edge,
    /// When it ended, if it did; of several, the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Edge>,
    /// How often it happened: more than 1 if several are told as one.
    pub times: u32,
    /// How long it was out of service, all times together, the present one not
    /// counted.
    pub lasted_ms: i64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It was out of service.
    Outage,
    /// It came back as a new process before anyone missed it: told at once.
    Restart,
}

/// The beginning or the end of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Order in which things are told.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// Endpoints of the kind that were up then.
    pub up: u32,
    /// Endpoints of the kind in all.
    pub total: u32,
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// It is out of service.
    Down,
    /// It is back.
    Up,
    /// It restarted.
    Restarted,
}

/// A message to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Name of the channel.
    pub channel: String,
    /// What it is about.
    pub step: Step,
    /// The incident as it is known now.
    pub incident: Incident,
    /// It may have been posted already.
    pub possibly_repeated: bool,
}

/// What became of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived.
    Delivered,
    /// It did not arrive; try again.
    Failed(String),
    /// It may have arrived: no answer came.
    Unclear(String),
    /// Too many messages; not before this long.
    Throttled(Duration),
    /// It did not arrive and never will, as things are configured.
    Refused(String),
}

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

/// Everyone who is told. What is kept of it survives the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notifier {
    sequence: u64,
    /// By endpoint, incidents that have not ended: what a new channel is told.
    open: BTreeMap<String, Incident>,
    channels: BTreeMap<String, Channel>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Channel {
    fingerprint: String,
    configured: bool,
    send_resolved: bool,
    /// Not fully told, oldest first.
    incidents: Vec<Told>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claim: Option<Claim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_delivery: Option<Timestamp>,
    /// Why nothing is tried until the configuration changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// Failures in a row. An operator that starts tries at once.
    #[serde(skip)]
    failures: u32,
    #[serde(skip)]
    failure: Option<String>,
    #[serde(skip)]
    not_before: Option<Timestamp>,
    #[serde(skip)]
    in_flight: bool,
}

/// An incident and what of it was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    incident: Incident,
    down_told: bool,
}

/// A message that may have been posted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    /// Of the edge that the message is about.
    sequence: u64,
    /// An earlier attempt may have arrived.
    unclear: bool,
}

impl Told {
    /// The next message about it, and its place in the order of things.
    fn step(&self) -> Option<(u64, Step)> {
        let incident = &self.incident;
        match (incident.kind, self.down_told, &incident.ended) {
            (Kind::Restart, ..) => Some((incident.began.sequence, Step::Restarted)),
            (Kind::Outage, false, _) => Some((incident.began.sequence, Step::Down)),
            (Kind::Outage, true, Some(ended)) => Some((ended.sequence, Step::Up)),
            (Kind::Outage, true, None) => None,
        }
    }
}

impl Notifier {
    /// Takes the channels as they are configured now. What is left of channels
    /// that are gone is forgotten; new ones are told what is out of service.
    pub fn configure(&mut self, configs: &[ChannelConfig]) {
        self.channels
            .retain(|name, _| configs.iter().any(|config| config.name == *name));
        for config in configs {
            let channel = self.channels.entry(config.name.clone()).or_insert(Channel {
                fingerprint: String::new(),
                configured: false,
                send_resolved: config.send_resolved,
                incidents: Vec::new(),
                claim: None,
                last_delivery: None,
                refused: None,
                failures: 0,
                failure: None,
                not_before: None,
                in_flight: false,
            });
            channel.send_resolved = config.send_resolved;
            if channel.fingerprint != config.fingerprint {
                channel.fingerprint.clone_from(&config.fingerprint);
                channel.refused = None;
            }
            if !config.configured {
                channel.incidents.clear();
                channel.claim = None;
            } else if !channel.configured {
                channel.incidents = self
                    .open
                    .values()
                    .map(|incident| Told {
                        incident: incident.clone(),
                        down_told: false,
                    })
                    .collect();
            }
            channel.configured = config.configured;
            channel.drop_finished();
        }
    }

    /// An operator takes over from one that is gone. A message that was claimed
    /// and not confirmed may have arrived. A channel that refused is tried once
    /// more: starting anew is how people say that they have mended it.
    pub fn resume(&mut self) {
        for channel in self.channels.values_mut() {
            channel.refused = None;
            if let Some(claim) = &mut channel.claim {
                claim.unclear = true;
            }
        }
    }

    /// Something changed.
    pub fn observe(&mut self, change: &Change) {
        let name = change.id.name();
        let mut edge = || {
            self.sequence += 1;
            Edge {
                sequence: self.sequence,
                at: change.at,
                reason: change.reason.clone(),
                up: change.up,
                total: change.total,
            }
        };
        match change.outage {
            Outage::None => {}
            Outage::Begins => {
                let incident = Incident {
                    endpoint: name.clone(),
                    component: change.id.component,
                    kind: Kind::Outage,
                    began: edge(),
                    ended: None,
                    times: 1,
                    lasted_ms: 0,
                };
                self.open.insert(name, incident.clone());
                self.tell(&incident);
            }
            Outage::Ends { since } => {
                let ended = edge();
                self.open.remove(&name);
                let lasted = ended.at.duration_since(since);
                for channel in self.channels.values_mut() {
                    channel.end(&name, &ended, lasted);
                }
            }
            Outage::Restarted => {
                let began = edge();
                self.tell(&Incident {
                    endpoint: name,
                    component: change.id.component,
                    kind: Kind::Restart,
                    ended: Some(began.clone()),
                    began,
                    times: 1,
                    lasted_ms: 0,
                });
            }
        }
    }

    fn tell(&mut self, incident: &Incident) {
        for channel in self
            .channels
            .values_mut()
            .filter(|channel| channel.configured)
        {
            channel.incidents.push(Told {
                incident: incident.clone(),
                down_told: false,
            });
            channel.merge_if_full();
        }
    }

    /// An endpoint is gone for good, on purpose: nothing is told of it any more.
    pub fn forget(&mut self, endpoint: &str) {
        self.open.remove(endpoint);
        for channel in self.channels.values_mut() {
            channel
                .incidents
                .retain(|told| told.incident.endpoint != endpoint);
        }
    }

    /// Claims the next message of each channel that may be posted now. Keep the
    /// notifier before you post.
    #[must_use]
    pub fn claim(&mut self, now: Timestamp) -> Vec<Post> {
        let channels = self.channels.iter_mut();
        channels
            .filter_map(|(name, channel)| channel.claim(name, now))
            .collect()
    }

    /// Confirms or takes back a claim. `jitter` is random, 0 to 1.
    pub fn finished(&mut self, channel: &str, outcome: Outcome, now: Timestamp, jitter: f64) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.finished(outcome, now, jitter);
        }
    }

    /// When a message may be posted next, if one waits and none is under way.
    #[must_use]
    pub fn next_claim(&self, now: Timestamp) -> Option<Timestamp> {
        self.channels
            .values()
            .filter(|channel| channel.may_claim() && channel.next().is_some())
            .map(|channel| channel.not_before.unwrap_or(now))
            .min()
    }

    /// How each channel does.
    #[must_use]
    pub fn statuses(&self) -> Vec<NotificationStatus> {
        self.channels
            .iter()
            .map(|(name, channel)| NotificationStatus {
                name: name.clone(),
                last_delivery: channel.last_delivery,
                pending: channel.pending(),
                problem: channel.problem(),
            })
            .collect()
    }
}

impl Channel {
    fn may_claim(&self) -> bool {
        self.configured && self.refused.is_none() && !self.in_flight
    }

    /// Index of the incident whose turn it is.
    fn next(&self) -> Option<(usize, u64, Step)> {
        self.incidents
            .iter()
            .enumerate()
            .filter_map(|(index, told)| told.step().map(|(sequence, step)| (index, sequence, step)))
            .min_by_key(|(_, sequence, _)| *sequence)
    }

    fn claim(&mut self, name: &str, now: Timestamp) -> Option<Post> {
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

    fn finished(&mut self, outcome: Outcome, now: Timestamp, jitter: f64) {
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
    fn drop_finished(&mut self) {
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

    fn end(&mut self, endpoint: &str, ended: &Edge, lasted: SignedDuration) {
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
    fn merge_if_full(&mut self) {
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
    fn pending(&self) -> i32 {
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

    fn problem(&self) -> Option<String> {
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

#[cfg(test)]
mod tests;
