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

mod channel;
mod incident;

pub use channel::{ChannelConfig, INCIDENTS_MAX};
pub use incident::{Edge, Incident, Kind, Outcome, Post, Step};

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::NotificationStatus,
    endpoints::{Change, Outage},
};
use channel::{Channel, Told};

/// Everyone who is told. What is kept of it survives the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notifier {
    sequence: u64,
    /// By endpoint, incidents that have not ended: what a new channel is told.
    open: BTreeMap<String, Incident>,
    channels: BTreeMap<String, Channel>,
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

#[cfg(test)]
mod tests;
