//! What was kept by operators before: of another form, and not to be lost.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::{Alert, Count, FORMAT, Key, Notifier, Open, channel::Channel, flap::Flaps, log::Log};
use crate::api::{Component, NotificationEvent};

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Kept {
    Current(Current),
    Incidents(Incidents),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Current {
    #[expect(dead_code, reason = "it is there in this form and not in the other")]
    format: u32,
    sequence: u64,
    open: BTreeMap<Key, Open>,
    log: Log,
    flaps: Flaps,
    channels: BTreeMap<String, Channel>,
}

/// The form without a number: a list of incidents for each channel.
#[derive(Deserialize)]
pub(super) struct Incidents {
    sequence: u64,
    open: BTreeMap<String, Incident>,
    channels: BTreeMap<String, IncidentChannel>,
}

#[derive(Deserialize)]
struct Incident {
    endpoint: String,
    component: Component,
    began: Edge,
}

#[derive(Deserialize)]
struct Edge {
    at: Timestamp,
    reason: String,
    up: u32,
    total: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IncidentChannel {
    fingerprint: String,
    configured: bool,
    incidents: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    last_delivery: Option<Timestamp>,
}

impl From<Kept> for Notifier {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Current(kept) => Self {
                format: FORMAT,
                sequence: kept.sequence,
                open: kept.open,
                log: kept.log,
                flaps: kept.flaps,
                channels: kept.channels,
                untracked: 0,
                changed: false,
            },
            Kept::Incidents(kept) => Self::from_incidents(kept),
        }
    }
}

impl Notifier {
    /// What is out of service is known; what of it was told is not carried
    /// over. Who was told the half of something is told how things are.
    fn from_incidents(kept: Incidents) -> Self {
        let sequence = kept.sequence;
        let open = kept.open.into_values().map(|incident| {
            let key = Key::new(NotificationEvent::EndpointDown, &incident.endpoint);
            let count = Count {
                of: incident.component,
                up: incident.began.up,
                total: incident.began.total,
            };
            let alert = Alert::new(
                key.clone(),
                incident.began.at,
                &incident.began.reason,
                Some(count),
            );
            (key, Open::new(alert, sequence))
        });
        let channels = kept.channels.into_iter().map(|(name, channel)| {
            let mut new = Channel::default();
            new.fingerprint = channel.fingerprint;
            new.configured = channel.configured;
            new.cursor = sequence;
            new.state_due = !channel.incidents.is_empty();
            new.last_delivery = channel.last_delivery;
            (name, new)
        });
        Self {
            sequence,
            open: open.collect(),
            channels: channels.collect(),
            ..Self::default()
        }
    }
}
