//! One channel: what it was told, what it is to be told next, and when.

mod delivery;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Alert, Entry, Open,
    config::{ChannelConfig, Style},
    log::{Log, What, fold},
    post::{Form, Post, Root},
};
use crate::{api::NotificationEvent, endpoints::later};

/// Subjects of one message.
pub const SUBJECTS_MAX: usize = 40;
/// How often levels are told again to who forgets them.
const LEVELS_AGAIN: Duration = Duration::from_secs(60);
/// How long a channel may fail before other channels are told.
const FAILING_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Channel {
    pub(super) fingerprint: String,
    pub(super) configured: bool,
    /// Everything up to here was told, or was none of its business.
    pub(super) cursor: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<Claim>,
    /// It is told first what is true now: it is new, or news were lost.
    pub(super) state_due: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_delivery: Option<Timestamp>,
    /// When it was told something last; an edit does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    told_at: Option<Timestamp>,
    /// Why nothing is tried until the configuration changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// Since when nothing has arrived that should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<Timestamp>,
    /// The first message of the incident that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Root>,
    #[serde(skip)]
    pub(super) config: ChannelConfig,
    /// Failures in a row. An operator that starts tries at once.
    #[serde(skip)]
    failures: u32,
    #[serde(skip)]
    failure: Option<String>,
    /// A pause: when it began, and how long it is.
    #[serde(skip)]
    pause: Option<(Timestamp, Duration)>,
    #[serde(skip)]
    in_flight: bool,
    /// Since when there is something to tell.
    #[serde(skip)]
    waiting: Option<Timestamp>,
    /// Since when there is bad news to tell.
    #[serde(skip)]
    urgent: Option<Timestamp>,
}

/// A message that may have been posted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claim {
    form: Form,
    /// Last sequence that it tells of.
    pub(super) upto: u64,
    /// An earlier attempt may have arrived.
    unclear: bool,
}

/// What there is to tell, whoever is told.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) log: &'a Log,
    /// What is wrong now.
    pub(super) open: &'a [Open],
    /// Last sequence there is.
    pub(super) head: u64,
    pub(super) untracked: u32,
}

/// How soon something may have to be told though nothing is observed; later
/// ones are more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attention {
    /// Nothing is wrong, and everything was told.
    Never,
    /// Something is wrong, or was of late: reminders, and who is steady again.
    Seldom,
    /// Something waits to be told.
    Soon,
}

/// Whether so much time has passed. A clock that was set back does not make
/// anyone wait for it to catch up.
fn elapsed(since: Timestamp, wait: Duration, now: Timestamp) -> bool {
    now < since || now >= later(since, wait)
}

impl Channel {
    /// An operator takes over from one that is gone.
    pub(super) fn resume(&mut self) {
        self.refused = None;
        // An edit may be repeated without anyone seeing it.
        self.claim.take_if(|claim| claim.form == Form::Edit);
        if let Some(claim) = &mut self.claim {
            claim.unclear = true;
        }
    }

    /// Its messages go to another place now, where nothing was said yet.
    pub(super) fn moved(&mut self) {
        self.is_reached();
        self.root = None;
    }

    /// What hindered delivery is over, as far as is known.
    pub(super) fn is_reached(&mut self) {
        self.refused = None;
        self.failing_since = None;
        self.failure = None;
        self.failures = 0;
        self.pause = None;
    }

    /// Whether it wants to hear of an event.
    fn wants(&self, event: NotificationEvent) -> bool {
        (self.config.events.is_empty() || self.config.events.contains(&event))
            && event.severity() >= self.config.minimum_severity
    }

    /// Whether an entry or an alert is of its business.
    fn concerns(&self, event: NotificationEvent, subject: &str) -> bool {
        let itself =
            event == NotificationEvent::NotificationsFailing && subject == self.config.name;
        self.wants(event) && !itself
    }

    fn entries<'a>(&'a self, view: &View<'a>, upto: u64) -> impl Iterator<Item = &'a Entry> {
        let entries = view.log.between(self.cursor, upto);
        entries.filter(|entry| self.concerns(entry.event(), &entry.key.subject))
    }

    /// What is told of the entries up to a sequence.
    fn items(&self, view: &View<'_>, upto: u64) -> Vec<Entry> {
        let mut items = fold(self.entries(view, upto));
        items.retain(|item| match item.what {
            What::Ended | What::SteadyUp => self.config.send_resolved,
            // Its beginning was never told, or nobody wants to hear of ends.
            What::Removed => self.config.send_resolved && item.times == 0,
            _ => true,
        });
        items
    }

    /// What of the things that are wrong now is of its business.
    fn open<'a>(&'a self, view: &View<'a>) -> impl Iterator<Item = &'a Open> {
        let open = view.open.iter();
        open.filter(|open| self.concerns(open.alert.key.event, &open.alert.key.subject))
    }

    /// Happenings that wait to be told.
    pub(super) fn pending(&self, view: &View<'_>) -> i32 {
        let waiting = self.items(view, view.head).len() + usize::from(self.state_due);
        i32::try_from(waiting).unwrap_or(i32::MAX)
    }

    pub(super) fn attention(&self, view: &View<'_>, now: Timestamp) -> Attention {
        let edit_due = self
            .root
            .as_ref()
            .is_some_and(|root| root.shown < self.cursor);
        let idle = !self.configured || self.refused.is_some() || self.in_flight;
        let pauses = self.pause.is_some_and(|(at, wait)| !elapsed(at, wait, now));
        if !idle && !pauses && (self.claim.is_some() || edit_due || self.pending(view) > 0) {
            return Attention::Soon;
        }
        let watched = self.root.is_some() || self.failing_since.is_some() || pauses;
        match watched || self.open(view).next().is_some() {
            true => Attention::Seldom,
            false => Attention::Never,
        }
    }

    /// Whether an entry waits for a bigger one to end: nobody needs to hear of
    /// each pooler while they know that nothing serves.
    fn is_subsumed(&self, entry: &Entry, view: &View<'_>) -> bool {
        self.config.style != Style::Levels
            && entry.key.event == NotificationEvent::EndpointDown
            && self
                .open(view)
                .any(|open| open.alert.key.event.subsumes_endpoints())
    }

    /// Looks what is news, and notes since when it waits. True if it is time to
    /// tell it.
    fn news_due(&mut self, view: &View<'_>, now: Timestamp) -> bool {
        let triggers: Vec<bool> = self
            .entries(view, view.head)
            .filter(|entry| {
                let told = match entry.what {
                    What::Ended | What::SteadyUp | What::Removed => self.config.send_resolved,
                    _ => true,
                };
                told && !self.is_subsumed(entry, view)
            })
            .map(|entry| entry.what.is_bad())
            .collect();
        let levels = self.config.style == Style::Levels;
        let since = |is: bool, known: Option<Timestamp>| is.then(|| known.unwrap_or(now));
        self.waiting = since(!triggers.is_empty(), self.waiting);
        self.urgent = since(triggers.iter().any(|bad| *bad || levels), self.urgent);
        let wait = self.config.group_wait;
        if let Some(urgent) = self.urgent {
            return elapsed(urgent, wait, now);
        }
        let interval = self.config.group_interval;
        self.waiting
            .is_some_and(|waiting| elapsed(waiting, wait, now))
            && self.told_at.is_none_or(|told| elapsed(told, interval, now))
    }

    /// The form and the range of what is to be posted now.
    fn due(&mut self, view: &View<'_>, now: Timestamp, news_due: bool) -> Option<Claim> {
        if let Some(claim) = self.claim.clone().filter(|claim| claim.unclear) {
            let told = claim.form != Form::News || !self.items(view, claim.upto).is_empty();
            if told {
                return Some(claim);
            }
            // What it told of is none of its business any more.
            self.claim = None;
        }
        let claim = |form, upto| Claim {
            form,
            upto,
            unclear: false,
        };
        if self.state_due {
            return Some(claim(Form::Present, view.head));
        }
        if news_due {
            let upto = self.upto(view);
            if !self.items(view, upto).is_empty() {
                return Some(claim(Form::News, upto));
            }
            self.cursor = upto;
        }
        // News that wait will want an edit of their own.
        if let Some(root) = &self.root
            && root.shown < self.cursor
            && self.waiting.is_none()
        {
            return Some(claim(Form::Edit, self.cursor));
        }
        let again = match self.config.style {
            Style::Levels => LEVELS_AGAIN,
            _ => self.config.repeat_interval,
        };
        // Time enough since it was told: not since it was wrong.
        let told = self.told_at?;
        let still = self.open(view).any(|open| open.sequence <= self.cursor);
        let due = still && elapsed(told, again, now);
        due.then(|| claim(Form::Reminder, self.cursor))
    }

    /// How far one message goes.
    fn upto(&self, view: &View<'_>) -> u64 {
        let mut subjects = Vec::new();
        for entry in self.entries(view, view.head) {
            if !subjects.contains(&&entry.key) {
                if subjects.len() == SUBJECTS_MAX {
                    return entry.sequence - 1;
                }
                subjects.push(&entry.key);
            }
        }
        view.head
    }

    pub(super) fn claim(&mut self, view: &View<'_>, now: Timestamp) -> Option<Post> {
        if !self.configured || self.in_flight {
            return None;
        }
        self.skip(view);
        let news_due = self.news_due(view, now);
        let paused = self.pause.is_some_and(|(at, wait)| !elapsed(at, wait, now));
        if self.refused.is_some() || paused {
            return None;
        }
        let claim = self.due(view, now, news_due)?;
        let post = self.post(&claim, view);
        self.claim = Some(claim);
        self.in_flight = true;
        Some(post)
    }

    /// Passes over what is none of its business; ends an incident that is over.
    fn skip(&mut self, view: &View<'_>) {
        let claimed = self.claim.is_some();
        if !claimed && self.items(view, view.head).is_empty() {
            self.cursor = view.head;
        }
        let over = self.open(view).next().is_none() && self.cursor == view.head;
        if !claimed && over {
            // What is shown last is that all is well.
            let cursor = self.cursor;
            self.root
                .take_if(|root| root.shown_well && root.shown >= cursor);
        }
    }

    fn post(&self, claim: &Claim, view: &View<'_>) -> Post {
        let open: Vec<Open> = self.open(view).cloned().collect();
        let items = match claim.form {
            Form::News => self.items(view, claim.upto),
            Form::Present | Form::Reminder | Form::Edit => Vec::new(),
        };
        let root = self.root.clone();
        let worst = items.iter().filter(|item| item.what.is_bad());
        let worst = worst.map(|item| item.event().severity()).max();
        Post {
            channel: self.config.name.clone(),
            form: claim.form,
            after: self.cursor,
            upto: claim.upto,
            open,
            items,
            possibly_repeated: claim.unclear && self.config.style != Style::Levels,
            broadcast: claim.form == Form::Reminder
                || root.as_ref().is_some_and(|root| worst > Some(root.worst)),
            root,
            untracked: view.untracked,
            patience: self.config.group_wait + self.config.group_interval,
            links: self.config.links.clone(),
        }
    }

    /// That it cannot be reached, if others should know.
    pub(super) fn failing(&self, now: Timestamp) -> Option<(Timestamp, &str)> {
        let since = self.failing_since?;
        let long = self.refused.is_some() || elapsed(since, FAILING_PATIENCE, now);
        let reason = self.failure.as_deref().unwrap_or("nothing arrives");
        (self.configured && long).then_some((since, reason))
    }

    /// Places in the log that must not be merged across.
    pub(super) fn cursors(&self) -> impl Iterator<Item = u64> + use<> {
        let claimed = self.claim.as_ref().map(|claim| claim.upto);
        [Some(self.cursor), claimed].into_iter().flatten()
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
                "refused: {reason}; not tried again until its address or Secret changes or the operator starts anew"
            ));
        }
        self.failure.clone()
    }

    /// An alert that everyone else has been told of, told to nobody else.
    pub(super) fn alert(&self, since: Timestamp, reason: &str) -> Alert {
        let key = super::Key::new(NotificationEvent::NotificationsFailing, &self.config.name);
        Alert::new(key, since, reason, None)
    }
}
