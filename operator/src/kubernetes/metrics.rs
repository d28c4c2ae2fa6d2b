//! What the operator counts of its own work.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use web::metrics::Page;

use super::error::Kind;
use crate::{
    api::NotificationStatus,
    metrics::{
        ALL, API_CALLS, Heartbeats, INFO, LEADING, LOOKS, Messages, RECONCILE_SECONDS, RECONCILES,
        RESULT_OK,
    },
};

/// How far a look has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// It waits until everything has been listed once.
    Wait,
    /// It reads what the spec refers to.
    Dereference,
    /// It judges and builds what is to be.
    Validate,
    /// It writes the objects of the tier.
    Apply,
    /// It observes, and writes the status.
    Status,
}

impl Step {
    /// All of them, as metric labels need.
    const ALL: [Self; 5] = [
        Self::Wait,
        Self::Dereference,
        Self::Validate,
        Self::Apply,
        Self::Status,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Dereference => "dereference",
            Self::Validate => "validate",
            Self::Apply => "apply",
            Self::Status => "status",
        }
    }
}

/// Counters of a process; they survive a change of the leader.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    leading: bool,
    under_way: u64,
    reconciles: BTreeMap<(&'static str, Step), u64>,
    seconds: BTreeMap<Step, f64>,
    heartbeats: Option<Heartbeats>,
    /// By resource, verb and status code.
    calls: BTreeMap<(&'static str, &'static str, u16), u64>,
    /// By namespace and name of a cluster, and channel.
    messages: BTreeMap<(String, String), BTreeMap<String, Messages>>,
}

impl Metrics {
    /// A look begins.
    pub(super) fn begun(&self) {
        self.lock().under_way += 1;
    }

    /// A step of a look took so long.
    pub(super) fn stepped(&self, step: Step, took: Duration) {
        *self.lock().seconds.entry(step).or_default() += took.as_secs_f64();
    }

    /// A look is over that came to `step`, and what went wrong there.
    pub(super) fn ended(&self, failure: Option<Kind>, step: Step) {
        let mut counts = self.lock();
        let result = failure.map_or(RESULT_OK, Kind::word);
        *counts.reconciles.entry((result, step)).or_default() += 1;
        counts.under_way = counts.under_way.saturating_sub(1);
    }

    /// Looks are given up because we lead no longer.
    pub(super) fn dropped(&self) {
        self.lock().under_way = 0;
    }

    /// The API server was called; 0 if no answer came.
    pub(super) fn called(&self, resource: &'static str, verb: &'static str, code: u16) {
        let key = (resource, verb, code);
        *self.lock().calls.entry(key).or_default() += 1;
    }

    /// The channels of a cluster are these, and do as they say.
    pub(super) fn channels(&self, namespace: &str, cluster: &str, channels: &[NotificationStatus]) {
        let mut counts = self.lock();
        let key = (namespace.to_owned(), cluster.to_owned());
        let messages = counts.messages.entry(key).or_default();
        messages.retain(|name, _| channels.iter().any(|one| one.name == *name));
        for channel in channels {
            messages.entry(channel.name.clone()).or_default().pending = channel.pending;
        }
    }

    /// A message was posted, or was not.
    pub(super) fn posted(
        &self,
        (namespace, cluster): (&str, &str),
        channel: &str,
        result: &'static str,
        delay: Option<Duration>,
    ) {
        let mut counts = self.lock();
        let key = (namespace.to_owned(), cluster.to_owned());
        let messages = counts.messages.entry(key).or_default();
        let messages = messages.entry(channel.to_owned()).or_default();
        messages.posted(result, delay);
    }

    /// Nobody is told of a cluster any more, by this replica.
    pub(super) fn tells_no_more(&self, namespace: &str, cluster: &str) {
        let key = (namespace.to_owned(), cluster.to_owned());
        self.lock().messages.remove(&key);
    }

    /// There is a heartbeat URL.
    pub(super) fn expect_heartbeats(&self) {
        self.lock().heartbeats = Some(Heartbeats::default());
    }

    /// The heartbeat URL was called.
    pub(super) fn heartbeat(&self, result: &'static str) {
        let mut counts = self.lock();
        counts.heartbeats.get_or_insert_default().count(result);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether we lead.
    pub(super) fn lead(&self, leading: bool) {
        self.lock().leading = leading;
    }

    /// Whether we lead.
    pub(super) fn leads(&self) -> bool {
        self.lock().leading
    }

    /// The page, in Prometheus's text format 0.0.4.
    pub(super) fn page(&self) -> String {
        let counts = self.lock().clone();
        let mut page = Page::new(ALL);
        page.sample(&INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        page.sample(&LEADING, &[], f64::from(u8::from(counts.leading)));
        page.sample(&LOOKS, &[], counts.under_way as f64);
        let results = [RESULT_OK].into_iter();
        for result in results.chain(Kind::ALL.map(Kind::word)) {
            for step in Step::ALL {
                let count = counts.reconciles.get(&(result, step)).copied();
                let labels = [result, step.word()];
                page.sample(&RECONCILES, &labels, count.unwrap_or_default() as f64);
            }
        }
        for step in Step::ALL {
            let seconds = counts.seconds.get(&step).copied().unwrap_or_default();
            page.sample(&RECONCILE_SECONDS, &[step.word()], seconds);
        }
        for ((resource, verb, code), count) in &counts.calls {
            let labels = [*resource, verb, &code.to_string()];
            page.sample(&API_CALLS, &labels, *count as f64);
        }
        for ((namespace, cluster), channels) in &counts.messages {
            for (channel, messages) in channels {
                messages.show(&mut page, namespace, cluster, channel);
            }
        }
        if let Some(heartbeats) = &counts.heartbeats {
            heartbeats.sample(&mut page);
        }
        page.finish()
    }
}
