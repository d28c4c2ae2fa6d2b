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
pub mod flap;
mod kept;
mod levels;
mod log;
pub mod message;
mod post;

pub use alert::{Alert, Count, Happening, Key};
pub use channel::{ChannelConfig, SUBJECTS_MAX, Style};
pub use conditions::{upstream, upstream_key};
pub use levels::{alerts, happenings};
pub use log::{Entry, What};
pub use message::{Context, Message};
pub use post::{Form, Outcome, Post, Root};

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{NotificationEvent, NotificationStatus};
use alert::{millis_between, tidy_reason};
use channel::{Channel, View};
use flap::{Beginning, Flaps};
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
        let view = View {
            log: &self.log,
            open: &[],
            head: self.sequence,
            untracked: 0,
        };
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

    fn shown_open(&self) -> Vec<Open> {
        let open = self.open.values().cloned();
        open.map(|open| Open {
            flaps: self.flaps.is_flapping(&open.alert.key),
            ..open
        })
        .collect()
    }

    fn happened(&mut self, happening: &Happening, now: Timestamp) {
        match happening {
            Happening::Began(alert) => self.is_wrong(alert, now),
            Happening::Ended {
                key,
                at,
                reason,
                count,
            } => {
                if let Some(open) = self.open.get_mut(key) {
                    open.alert.count = count.or(open.alert.count);
                }
                self.ends(key, *at, Some(reason), now);
            }
            Happening::Restarted(alert) => {
                let alert = alert.clone();
                let beginning = self
                    .flaps
                    .begins(&alert.key, alert.since, &alert.reason, now);
                let at = alert.since;
                match beginning {
                    Beginning::Outage => self.push(What::Restarted, alert, at, 1, 0),
                    Beginning::Flapping => self.push(What::Flapping, alert, at, 1, 0),
                    Beginning::Another => self.changed = true,
                }
            }
        }
    }

    fn is_wrong(&mut self, alert: &Alert, now: Timestamp) {
        if let Some(open) = self.open.get_mut(&alert.key) {
            self.changed |= open.alert.count != alert.count || open.alert.reason != alert.reason;
            open.alert.count = alert.count;
            open.alert.reason.clone_from(&alert.reason);
            return;
        }
        if self.open.len() >= OPEN_MAX {
            self.untracked += 1;
            return;
        }
        let key = &alert.key;
        let beginning = self.flaps.begins(key, alert.since, &alert.reason, now);
        let what = match beginning {
            Beginning::Outage => Some(What::Began),
            Beginning::Flapping => Some(What::Flapping),
            Beginning::Another => None,
        };
        if let Some(what) = what {
            self.push(what, alert.clone(), alert.since, 1, 0);
        }
        let open = Open::new(alert.clone(), self.sequence);
        self.open.insert(key.clone(), open);
        self.changed = true;
    }

    fn ends(&mut self, key: &Key, at: Timestamp, why: Option<&str>, now: Timestamp) {
        let Some(open) = self.open.remove(key) else {
            return;
        };
        self.changed = true;
        let lasted_ms = millis_between(open.alert.since, at);
        if self.flaps.ends(key, lasted_ms, now) {
            return;
        }
        // What it was is worth more than why it is over.
        let mut alert = open.alert;
        if why.is_none() {
            // How many are up is not known; it was another number before.
            alert.count = None;
        }
        if alert.reason.is_empty() {
            alert.reason = tidy_reason(why.unwrap_or_default());
        }
        self.push(What::Ended, alert, at, 0, lasted_ms);
    }

    fn push(&mut self, what: What, alert: Alert, at: Timestamp, times: u32, lasted_ms: i64) {
        self.sequence += 1;
        self.changed = true;
        self.log.push(Entry {
            sequence: self.sequence,
            key: alert.key,
            what,
            at: alert::milliseconds(at),
            since: alert.since,
            reason: alert.reason,
            count: alert.count,
            times,
            lasted_ms,
        });
    }

    /// Those that were steady for long enough are told as that.
    fn look_at_flaps(&mut self, now: Timestamp) {
        for (key, flapping) in self.flaps.steady(now) {
            let open = self.open.get(&key).map(|open| open.alert.clone());
            let what = match open {
                Some(_) => What::SteadyDown,
                None => What::SteadyUp,
            };
            let alert = open
                .unwrap_or_else(|| Alert::new(key.clone(), flapping.since, &flapping.reason, None));
            let alert = Alert {
                since: flapping.since,
                ..alert
            };
            self.push(what, alert, now, flapping.times, flapping.lasted_ms);
            if let Some(open) = self.open.get_mut(&key) {
                open.sequence = self.sequence;
            }
        }
        self.bound();
    }

    /// A channel that cannot be reached is told of on the others.
    fn look_at_channels(&mut self, now: Timestamp) {
        let failing: Vec<(Key, Option<Alert>)> = self
            .channels
            .iter()
            .map(|(name, channel)| {
                let key = Key::new(NotificationEvent::NotificationsFailing, name);
                let alert = channel.failing(now);
                (
                    key,
                    alert.map(|(since, reason)| channel.alert(since, reason)),
                )
            })
            .collect();
        for (key, alert) in failing {
            match alert {
                Some(alert) if !self.open.contains_key(&key) => self.is_wrong(&alert, now),
                Some(_) => {}
                None if self.open.contains_key(&key) => self.ends(&key, now, None, now),
                None => {}
            }
        }
        self.bound();
    }

    /// Forgets what every channel was told.
    fn forget_told(&mut self) {
        let told = self.channels.values().map(|channel| channel.cursor).min();
        self.log.forget(told.unwrap_or(self.sequence));
    }

    /// Keeps the log within its bound. Channels that lost something on the way
    /// are told how things are.
    fn bound(&mut self) {
        let cursors: Vec<u64> = self.channels.values().flat_map(Channel::cursors).collect();
        let Some(lost) = self.log.bound(&cursors) else {
            return;
        };
        for channel in self.channels.values_mut() {
            if channel.cursor < lost {
                channel.cursor = lost;
                channel.state_due = true;
                channel.claim = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
