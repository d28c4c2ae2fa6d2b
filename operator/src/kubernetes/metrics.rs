//! What the operator counts of its own work.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::runtime::reflector::ObjectRef;
use web::metrics::Page;

use super::{Cluster, error::Kind};
use crate::{
    api::{NotificationStatus, PgPoolClusterStatus},
    metrics::{
        ALL, API_CALLS, Heartbeats, INFO, LEADING, LOOKS, Level, Messages, RECONCILE_SECONDS,
        RECONCILES, RESULT_OK, WAITING,
    },
};

fn key(cluster: &ObjectRef<Cluster>) -> (String, String) {
    let namespace = cluster.namespace.clone().unwrap_or_default();
    (namespace, cluster.name.clone())
}

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

/// Counters of a process survive a change of the leader; what waits, and how clusters
/// do, is known to the one that acts.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    leading: bool,
    under_way: u64,
    /// By namespace and name.
    waiting: HashSet<(String, String)>,
    /// By namespace and name.
    levels: BTreeMap<(String, String), Level>,
    reconciles: BTreeMap<(&'static str, Step), u64>,
    seconds: BTreeMap<Step, f64>,
    heartbeats: Option<Heartbeats>,
    /// By resource, verb and status code.
    calls: BTreeMap<(&'static str, &'static str, u16), u64>,
    /// By namespace and name of a cluster, and channel.
    messages: BTreeMap<(String, String), BTreeMap<String, Messages>>,
}

impl Metrics {
    /// Something of a cluster changed: it waits for a look.
    pub(super) fn queued(&self, cluster: &ObjectRef<Cluster>) {
        self.lock().waiting.insert(key(cluster));
    }

    /// A look at a cluster begins.
    pub(super) fn begun(&self, cluster: &ObjectRef<Cluster>) {
        let mut counts = self.lock();
        counts.waiting.remove(&key(cluster));
        counts.under_way += 1;
    }

    /// Keeps what a cluster's status says, until it is gone or we lead no longer.
    pub(super) fn record_level(&self, cluster: &ObjectRef<Cluster>, status: &PgPoolClusterStatus) {
        self.lock().levels.insert(key(cluster), Level::of(status));
    }

    /// Forgets clusters that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(&ObjectRef<Cluster>) -> bool) {
        let is_there = |(namespace, name): &(String, String)| {
            is_there(&ObjectRef::new(name).within(namespace))
        };
        let mut counts = self.lock();
        counts.waiting.retain(is_there);
        counts.levels.retain(|cluster, _| is_there(cluster));
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
        let mut counts = self.lock();
        counts.under_way = 0;
        counts.waiting.clear();
        counts.levels.clear();
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
        page.sample(&WAITING, &[], counts.waiting.len() as f64);
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
        for ((namespace, cluster), level) in &counts.levels {
            level.show(&mut page, namespace, cluster);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(namespace: &str) -> ObjectRef<Cluster> {
        ObjectRef::new("shop").within(namespace)
    }

    #[test]
    fn clusters_wait_until_a_look_begins() {
        let metrics = Metrics::default();
        let waiting = |count: u32| {
            let line = format!("poolkeeper_operator_reconciles_waiting {count}\n");
            let page = metrics.page();
            assert!(page.contains(&line), "{line} {page}");
        };
        waiting(0);
        for namespace in ["a", "b", "b"] {
            metrics.queued(&cluster(namespace));
        }
        waiting(2);
        metrics.begun(&cluster("b"));
        waiting(1);
        // It is gone before a look began.
        metrics.retain(|one| *one != cluster("a"));
        waiting(0);
    }

    #[test]
    fn the_replica_that_acts_says_how_clusters_do() {
        let metrics = Metrics::default();
        let ready = |namespace: &str| {
            format!(
                "poolkeeper_operator_cluster_ready{{namespace=\"{namespace}\",pgpoolcluster=\"shop\"}} 0\n"
            )
        };
        for namespace in ["a", "b"] {
            metrics.record_level(&cluster(namespace), &PgPoolClusterStatus::default());
            assert!(metrics.page().contains(&ready(namespace)));
        }
        metrics.retain(|one| *one != cluster("a"));
        assert!(!metrics.page().contains(&ready("a")));
        metrics.dropped();
        assert!(!metrics.page().contains(&ready("b")));
    }
}
