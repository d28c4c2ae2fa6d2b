//! How what is wrong becomes entries of the log.

use jiff::Timestamp;

use super::{
    Alert, Entry, Happening, Key, Notifier, OPEN_MAX, Open, What,
    alert::{millis_between, milliseconds, tidy_reason},
    channel::Channel,
    flap::Beginning,
};
use crate::api::NotificationEvent;

/// How many things may be wrong where one more of this kind is still told: what
/// is worse always finds a place.
const fn places(event: NotificationEvent) -> usize {
    match event {
        NotificationEvent::EndpointDown | NotificationEvent::EndpointRestarted => OPEN_MAX - 16,
        NotificationEvent::TierDown | NotificationEvent::UpstreamUnreachable => OPEN_MAX,
        _ => OPEN_MAX - 4,
    }
}

impl Notifier {
    pub(super) fn happened(&mut self, happening: &Happening, now: Timestamp) {
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

    pub(super) fn is_wrong(&mut self, alert: &Alert, now: Timestamp) {
        if let Some(open) = self.open.get_mut(&alert.key) {
            self.changed |= open.alert.count != alert.count || open.alert.reason != alert.reason;
            open.alert.count = alert.count;
            open.alert.reason.clone_from(&alert.reason);
            return;
        }
        if self.open.len() >= places(alert.key.event) {
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

    pub(super) fn ends(&mut self, key: &Key, at: Timestamp, why: Option<&str>, now: Timestamp) {
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

    pub(super) fn push(
        &mut self,
        what: What,
        alert: Alert,
        at: Timestamp,
        times: u32,
        lasted_ms: i64,
    ) {
        self.sequence += 1;
        self.changed = true;
        self.log.push(Entry {
            sequence: self.sequence,
            key: alert.key,
            what,
            at: milliseconds(at),
            since: alert.since,
            reason: alert.reason,
            count: alert.count,
            times,
            lasted_ms,
        });
    }

    /// Those that were steady for long enough are told as that.
    pub(super) fn look_at_flaps(&mut self, now: Timestamp) {
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
    pub(super) fn look_at_channels(&mut self, now: Timestamp) {
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
    pub(super) fn forget_told(&mut self) {
        let told = self.channels.values().map(|channel| channel.cursor).min();
        self.log.forget(told.unwrap_or(self.sequence));
    }

    /// Keeps the log within its bound. Channels that lost something on the way
    /// are told how things are.
    pub(super) fn bound(&mut self) {
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
