//! Who has been told what, and what to tell next. Pure and level-based: what
//! was told is kept, what should be told follows from it.
//!
//! Whoever observes says what is wrong now, as a complete set of [`Alert`]s, and
//! what happened in between, as [`Happening`]s. What begins and ends goes into
//! one bounded log; each channel has a cursor in it:
//!
//! ```text
//! alerts ──> log:  Began  Began  Ended  Flapping  Ended …
//!                    ^told to one          ^told to another
//! ```
//!
//! What happens together is told together, as one message for a channel; what
//! comes and goes is told as that ([`flap`]); a tier that is down speaks for its
//! endpoints. While a channel cannot be reached nothing is queued for it: the
//! log grows, up to its bound, and then tells each subject's story as one.
//!
//! A message is *claimed* before it is posted and *confirmed* after: whoever
//! keeps a [`Notifier`] writes it down in between. One that died there left a
//! claim behind, so its successor cannot know whether the message arrived,
//! posts it again and says so. Everything else is told exactly once, in order.
//!
//! Whoever runs this does, each time something is observed and a few times a
//! second: [`Notifier::observe`], keep; [`Notifier::claim`], keep; post each;
//! [`Notifier::finished`], keep. [`Notifier::take_changed`] says when there is
//! something to keep: at most 64 KiB as JSON.

mod alert;
mod channel;
mod conditions;
mod config;
pub mod flap;
mod kept;
mod levels;
mod log;
pub mod message;
mod observation;
mod post;

pub use alert::{Alert, Count, Happening, Key};
pub use channel::{Attention, SUBJECTS_MAX};
pub use conditions::{is_waiting, of_status};
pub use config::{ChannelConfig, Style};
pub use levels::{alerts, happenings};
pub use log::{Entry, What};
pub use message::{Context, Message};
pub use post::{Form, Outcome, Post, Root};

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{NotificationEvent, NotificationStatus};
use alert::millis_between;
use channel::{Channel, View};
use flap::Flaps;
use kept::Kept;
use log::Log;

/// Number of the form in which it is kept.
const FORMAT: u32 = 2;
/// Things that may be wrong at a time, each with its own story.
pub const OPEN_MAX: usize = 64;

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// What.
    #[serde(flatten)]
    pub alert: Alert,
    /// Place of its beginning in the order of things.
    pub sequence: u64,
    /// Whether it comes and goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaps: bool,
}

impl Open {
    const fn new(alert: Alert, sequence: u64) -> Self {
        Self {
            alert,
            sequence,
            flaps: false,
        }
    }
}

/// Everyone who is told. What is kept of it survives the operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "Kept")]
pub struct Notifier {
    format: u32,
    sequence: u64,
    open: BTreeMap<Key, Open>,
    log: Log,
    flaps: Flaps,
    channels: BTreeMap<String, Channel>,
    /// Alerts beyond [`OPEN_MAX`].
    #[serde(skip)]
    untracked: u32,
    #[serde(skip)]
    changed: bool,
}

impl Default for Notifier {
    /// Nobody is told, and nothing is wrong.
    fn default() -> Self {
        Self {
            format: FORMAT,
            sequence: 0,
            open: BTreeMap::new(),
            log: Log::default(),
            flaps: Flaps::default(),
            channels: BTreeMap::new(),
            untracked: 0,
            changed: false,
        }
    }
}

impl Notifier {
    /// Takes the channels as they are configured now. What is left of channels
    /// that are gone is forgotten; new ones are told what is wrong.
    pub fn configure(&mut self, configs: &[ChannelConfig]) {
        self.changed = true;
        self.channels
            .retain(|name, _| configs.iter().any(|config| config.name == *name));
        let gone = |key: &Key| {
            key.event == NotificationEvent::NotificationsFailing
                && configs.iter().all(|config| config.name != key.subject)
        };
        self.open.retain(|key, _| !gone(key));
        let something_is_wrong = !self.open.is_empty();
        for config in configs {
            let channel = self.channels.entry(config.name.clone()).or_default();
            if channel.fingerprint != config.fingerprint {
                channel.fingerprint.clone_from(&config.fingerprint);
                channel.moved();
            }
            if !channel.configured || !config.configured {
                channel.cursor = self.sequence;
                channel.claim = None;
                channel.state_due = config.configured && something_is_wrong;
            }
            channel.configured = config.configured;
            channel.config = config.clone();
        }
        self.forget_told();
    }

    /// An operator takes over from one that is gone. A message that was claimed
    /// and not confirmed may have arrived. A channel that refused is tried once
    /// more: starting anew is how people say that they have mended it.
    pub fn resume(&mut self) {
        self.changed = true;
        self.channels.values_mut().for_each(Channel::resume);
    }

    /// Who was told what is forgotten: everyone is told how things are.
    pub fn begin_anew(&mut self) {
        self.changed = true;
        for channel in self.channels.values_mut() {
            channel.state_due = channel.configured;
        }
    }

    /// Takes what happened since the last time, in order, and then everything
    /// that is wrong now. What is not in the set has ended.
    pub fn observe(&mut self, alerts: &[Alert], happenings: &[Happening], now: Timestamp) {
        for happening in happenings {
            self.happened(happening, now);
        }
        let ended: Vec<Key> = self
            .open
            .keys()
            .filter(|key| {
                key.event != NotificationEvent::NotificationsFailing
                    && alerts.iter().all(|alert| alert.key != **key)
            })
            .cloned()
            .collect();
        for key in ended {
            self.ends(&key, now, None, now);
        }
        self.untracked = 0;
        for alert in alerts {
            self.is_wrong(alert, now);
        }
        self.bound();
    }

    /// An endpoint is gone for good, on purpose.
    pub fn forget(&mut self, endpoint: &str, now: Timestamp) {
        let key = Key::new(NotificationEvent::EndpointDown, endpoint);
        self.flaps.forget(&key);
        if let Some(open) = self.open.remove(&key) {
            let lasted_ms = millis_between(open.alert.since, now);
            let what = What::Removed;
            self.push(what, open.alert, now, 0, lasted_ms);
        }
        self.bound();
    }

    /// Takes the endpoints that there are now: of those that are gone and were
    /// out of service it is told that they are gone, not that they are back.
    pub fn keep_endpoints(&mut self, names: &[String], now: Timestamp) {
        let gone: Vec<String> = self
            .open
            .keys()
            .filter(|key| key.event == NotificationEvent::EndpointDown)
            .map(|key| key.subject.clone())
            .filter(|subject| !names.contains(subject))
            .collect();
        for name in gone {
            self.forget(&name, now);
        }
    }

    /// Claims the next message of each channel that may be posted now. Keep the
    /// notifier before you post.
    #[must_use]
    pub fn claim(&mut self, now: Timestamp) -> Vec<Post> {
        self.look_at_flaps(now);
        self.look_at_channels(now);
        let open: Vec<Open> = self.shown_open();
        let view = View {
            log: &self.log,
            open: &open,
            head: self.sequence,
            untracked: self.untracked,
        };
        let channels = self.channels.values_mut();
        let posts: Vec<Post> = channels
            .filter_map(|channel| channel.claim(&view, now))
            .collect();
        self.changed |= !posts.is_empty();
        self.forget_told();
        posts
    }

    /// Confirms or takes back a claim. `jitter` is random, 0 to 1.
    pub fn finished(&mut self, post: &Post, outcome: Outcome, now: Timestamp, jitter: f64) {
        self.changed = true;
        if let Some(channel) = self.channels.get_mut(&post.channel) {
            channel.finished(post, outcome, now, jitter);
        }
        self.look_at_channels(now);
        self.forget_told();
    }

    /// How soon [`Self::claim`] has to be asked again though nothing is observed.
    #[must_use]
    pub fn attention(&self, now: Timestamp) -> Attention {
        let open: Vec<Open> = self.open.values().cloned().collect();
        let view = self.view(&open);
        let flaps = match self.flaps.is_empty() {
            true => Attention::Never,
            false => Attention::Seldom,
        };
        let channels = self.channels.values();
        let wanted = channels.map(|channel| channel.attention(&view, now));
        wanted.max().unwrap_or(Attention::Never).max(flaps)
    }

    /// Whether nothing has ever been wrong, so that there is nothing to remember.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.sequence == 0 && self.flaps.is_empty()
    }

    /// Everything that is wrong, as it is known.
    pub fn open(&self) -> impl Iterator<Item = &Alert> {
        self.open.values().map(|open| &open.alert)
    }

    /// The channels as they were configured last.
    #[must_use]
    pub fn configs(&self) -> Vec<ChannelConfig> {
        let channels = self.channels.values();
        channels.map(|channel| channel.config.clone()).collect()
    }

    /// Something else has arrived at a channel: it is tried again, if it was not.
    pub fn is_reached(&mut self, channel: &str) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.is_reached();
            self.changed = true;
        }
    }

    /// What is wrong under this key, as it is known.
    #[must_use]
    pub fn known(&self, key: &Key) -> Option<&Alert> {
        self.open.get(key).map(|open| &open.alert)
    }

    /// Whether it is not as it was when this was asked last.
    #[must_use]
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How each channel does.
    #[must_use]
    pub fn statuses(&self) -> Vec<NotificationStatus> {
        let view = self.view(&[]);
        self.channels
            .iter()
            .map(|(name, channel)| NotificationStatus {
                name: name.clone(),
                last_delivery: channel.last_delivery,
                pending: channel.pending(&view),
                problem: channel.problem(),
            })
            .collect()
    }

    const fn view<'a>(&'a self, open: &'a [Open]) -> View<'a> {
        View {
            log: &self.log,
            open,
            head: self.sequence,
            untracked: self.untracked,
        }
    }

    fn shown_open(&self) -> Vec<Open> {
        let open = self.open.values().cloned();
        open.map(|open| Open {
            flaps: self.flaps.is_flapping(&open.alert.key),
            ..open
        })
        .collect()
    }
}

#[cfg(test)]
mod tests;
