//! Every series of the operator: name, kind, labels, meaning. Nowhere else is
//! one named.

use std::{collections::BTreeMap, time::Duration};

use web::{
    metrics::{Page, Series},
    series,
};

use crate::{
    api::{Component, EndpointState, PgPoolClusterStatus},
    heartbeat,
};

series! {
    INFO = "poolkeeper_operator_info", Gauge, None, ["version"],
        "Always 1; the label says what runs.";
    READY = "poolkeeper_operator_cluster_ready", Gauge, None, ["namespace", "pgpoolcluster"],
        "1 while applications can be served.";
    ENDPOINTS = "poolkeeper_operator_endpoints", Gauge, None, ["namespace", "pgpoolcluster", "component", "state"],
        "Endpoints of the cluster in each state.";
    TRANSITIONS = "poolkeeper_operator_endpoint_transitions_total", Counter, None, ["pgpoolcluster", "component", "to"],
        "Changes of endpoints, by the state after.";
    RESTARTS = "poolkeeper_operator_process_restarts_total", Counter, None, ["pgpoolcluster", "component"],
        "Processes started in place of one that ended.";
    NOTIFICATIONS = "poolkeeper_operator_notifications_total", Counter, None, ["namespace", "pgpoolcluster", "channel", "result"],
        "Messages by what became of them: delivered, failed, unclear, throttled or refused.";
    PENDING = "poolkeeper_operator_notifications_pending", Gauge, None, ["namespace", "pgpoolcluster", "channel"],
        "Messages that wait to be delivered.";
    DELAY_SECONDS = "poolkeeper_operator_notification_delay_seconds_total", Counter, Seconds, ["namespace", "pgpoolcluster", "channel"],
        "Time from what happened to the delivery of news of it, added up; divided by those delivered it is the mean.";
    HEARTBEATS = "poolkeeper_operator_heartbeats_total", Counter, None, ["result"],
        "Calls of the heartbeat URL by what came of them: delivered or failed. Only with such a URL.";
    LEADING = "poolkeeper_operator_leading", Gauge, None, [],
        "1 in the replica of `operator run` that acts.";
    LOOKS = "poolkeeper_operator_reconciles_under_way", Gauge, None, [],
        "Looks at PgPoolClusters at this moment, 16 at most for each namespace or for all.";
    WAITING = "poolkeeper_operator_reconciles_waiting", Gauge, None, [],
        "PgPoolClusters of which something changed and which wait for a look.";
    RECONCILES = "poolkeeper_operator_reconciles_total", Counter, None, ["result", "step"],
        "Looks at a PgPoolCluster in Kubernetes: ok, or the kind of what went wrong, and the step that it came to.";
    RECONCILE_SECONDS = "poolkeeper_operator_reconcile_seconds_total", Counter, Seconds, ["step"],
        "Time that these looks took, by step; wait is for the first lists.";
    API_CALLS = "poolkeeper_operator_api_calls_total", Counter, None, ["resource", "verb", "code"],
        "Calls of the API server by `operator run`; code 0 where no answer came.";
}

/// What became of a message, as the label says it.
pub const RESULTS: [&str; 5] = ["delivered", "failed", "unclear", "throttled", "refused"];

/// The label of a look that went well.
pub const RESULT_OK: &str = "ok";

/// How a cluster does, as its status says.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    ready: bool,
    endpoints: BTreeMap<(Component, &'static str), u32>,
}

impl Level {
    pub(crate) fn of(status: &PgPoolClusterStatus) -> Self {
        let mut endpoints = BTreeMap::new();
        for component in Component::ALL {
            for state in EndpointState::ALL {
                endpoints.insert((component, state.word()), 0);
            }
        }
        for one in &status.endpoints {
            *endpoints
                .entry((one.component, one.state.word()))
                .or_default() += 1;
        }
        let mut conditions = status.conditions.iter();
        Self {
            ready: conditions.any(|one| one.type_ == "Ready" && one.status == "True"),
            endpoints,
        }
    }

    /// Its samples.
    pub(crate) fn show(&self, page: &mut Page, namespace: &str, cluster: &str) {
        let ready = f64::from(u8::from(self.ready));
        page.sample(&READY, &[namespace, cluster], ready);
        for ((component, state), endpoints) in &self.endpoints {
            let labels = [namespace, cluster, component.word(), state];
            page.sample(&ENDPOINTS, &labels, f64::from(*endpoints));
        }
    }
}

/// Counters of one cluster; those of fixed label sets begin at zero.
#[derive(Clone, Debug)]
pub struct Counters {
    transitions: BTreeMap<(Component, &'static str), u64>,
    restarts: BTreeMap<Component, u64>,
    messages: BTreeMap<String, Messages>,
    heartbeats: Option<Heartbeats>,
}

/// What became of the messages to a channel, and of those that wait.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    by_result: BTreeMap<&'static str, u64>,
    delay: Duration,
    /// How many wait.
    pub pending: i32,
}

impl Messages {
    /// One was posted, or was not; `delay` is the time since what it told of
    /// happened, if it was news.
    pub fn posted(&mut self, result: &'static str, delay: Option<Duration>) {
        *self.by_result.entry(result).or_default() += 1;
        self.delay += delay.unwrap_or_default();
    }

    /// Their samples.
    pub fn show(&self, page: &mut Page, namespace: &str, cluster: &str, channel: &str) {
        for result in RESULTS {
            let count = self.by_result.get(result).copied().unwrap_or_default();
            let labels = [namespace, cluster, channel, result];
            page.sample(&NOTIFICATIONS, &labels, count as f64);
        }
        let labels = [namespace, cluster, channel];
        page.sample(&PENDING, &labels, f64::from(self.pending));
        page.sample(&DELAY_SECONDS, &labels, self.delay.as_secs_f64());
    }
}

impl Counters {
    /// All at zero.
    #[must_use]
    pub fn new(channels: &[&str]) -> Self {
        let mut counters = Self {
            transitions: BTreeMap::new(),
            restarts: BTreeMap::new(),
            messages: BTreeMap::new(),
            heartbeats: None,
        };
        for component in Component::ALL {
            counters.restarts.insert(component, 0);
            for state in EndpointState::ALL {
                counters.transitions.insert((component, state.word()), 0);
            }
        }
        for channel in channels {
            let none = Messages::default();
            counters.messages.insert((*channel).to_owned(), none);
        }
        counters
    }

    /// An endpoint changed.
    pub fn transition(&mut self, component: Component, to: EndpointState) {
        *self.transitions.entry((component, to.word())).or_default() += 1;
    }

    /// A process was started in place of one that ended.
    pub fn restart(&mut self, component: Component) {
        *self.restarts.entry(component).or_default() += 1;
    }

    /// The messages to a channel.
    pub fn messages(&mut self, channel: &str) -> &mut Messages {
        self.messages.entry(channel.to_owned()).or_default()
    }

    /// There is a heartbeat URL.
    pub fn expect_heartbeats(&mut self) {
        self.heartbeats = Some(Heartbeats::default());
    }

    /// The heartbeat URL was called.
    pub fn heartbeat(&mut self, result: &'static str) {
        self.heartbeats.get_or_insert_default().count(result);
    }
}

/// Calls of the heartbeat URL, by what came of them; all begin at zero.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeats(BTreeMap<&'static str, u64>);

impl Default for Heartbeats {
    fn default() -> Self {
        Self(heartbeat::RESULTS.map(|result| (result, 0)).into())
    }
}

impl Heartbeats {
    /// It was called.
    pub(crate) fn count(&mut self, result: &'static str) {
        *self.0.entry(result).or_default() += 1;
    }

    /// Writes their samples.
    pub(crate) fn sample(&self, page: &mut Page) {
        for (result, calls) in &self.0 {
            page.sample(&HEARTBEATS, &[result], *calls as f64);
        }
    }
}

/// The page, in Prometheus's text format 0.0.4.
#[must_use]
pub fn page(cluster: &str, status: &PgPoolClusterStatus, counters: &Counters) -> String {
    let mut page = Page::new(ALL);
    let mut count = |series: &'static Series, labels: &[&str], count: u64| {
        page.sample(series, labels, count as f64);
    };
    count(&INFO, &[env!("CARGO_PKG_VERSION")], 1);
    for ((component, to), transitions) in &counters.transitions {
        count(&TRANSITIONS, &[cluster, component.word(), to], *transitions);
    }
    for (component, restarts) in &counters.restarts {
        count(&RESTARTS, &[cluster, component.word()], *restarts);
    }
    // Of one in a file the namespace is nobody's.
    Level::of(status).show(&mut page, "", cluster);
    for channel in &status.notifications {
        let messages = counters.messages.get(&channel.name);
        let mut messages = messages.cloned().unwrap_or_default();
        messages.pending = channel.pending;
        messages.show(&mut page, "", cluster, &channel.name);
    }
    if let Some(heartbeats) = &counters.heartbeats {
        heartbeats.sample(&mut page);
    }
    page.finish()
}

#[cfg(test)]
mod tests {
    use web::metrics::{faults, markdown, with_part};

    use super::*;
    use crate::golden;

    #[test]
    fn names_follow_the_rules() {
        assert_eq!(faults("poolkeeper_operator_", ALL), [""; 0]);
    }

    #[test]
    fn reference_page_is_up_to_date() {
        let part = markdown(
            "Operator",
            "Served on port 8080 (`operator local`: plus `--port-offset`) at `/metrics`. Series with a namespace \
             have it empty under `operator local`. Transitions and restarts are of `operator local` alone; leading, looks \
             and calls of `operator run`. Of its replicas the acting one alone has those of clusters and endpoints.",
            ALL,
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(path).unwrap();
        golden::check("../docs/metrics.md", &with_part(&page, &part));
    }

    #[test]
    fn fixed_label_sets_begin_at_zero() {
        let mut counters = Counters::new(&["ops"]);
        counters.restart(Component::Pooler);
        let mut status = PgPoolClusterStatus::default();
        let quiet = page("shop", &status, &counters);
        assert!(quiet.contains(
            "poolkeeper_operator_process_restarts_total{pgpoolcluster=\"shop\",component=\"pooler\"} 1\n"
        ));
        assert!(quiet.contains(
            "endpoint_transitions_total{pgpoolcluster=\"shop\",component=\"balancer\",to=\"Down\"} 0\n"
        ));
        assert!(quiet.contains(
            "operator_endpoints{namespace=\"\",pgpoolcluster=\"shop\",component=\"pooler\",state=\"Up\"} 0\n"
        ));
        assert!(!quiet.contains("notifications"));
        status.notifications.push(crate::api::NotificationStatus {
            name: "ops".to_owned(),
            last_delivery: None,
            pending: 2,
            problem: None,
        });
        let page = page("shop", &status, &counters);
        assert!(page.contains(
            "notifications_total{namespace=\"\",pgpoolcluster=\"shop\",channel=\"ops\",result=\"refused\"} 0\n"
        ));
        assert!(page.contains(
            "notifications_pending{namespace=\"\",pgpoolcluster=\"shop\",channel=\"ops\"} 2\n"
        ));
    }
}
