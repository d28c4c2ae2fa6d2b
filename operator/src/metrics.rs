//! Every series of the operator: name, kind, labels, meaning. Nowhere else is
//! one named.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::api::{Component, EndpointState, PgPoolClusterStatus};

/// One series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Name, as Prometheus has it.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Label names, in order.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! series {
    ($($constant:ident = $name:literal, $kind:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Series = Series {
                name: $name,
                kind: $kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// Every series, in the order of the page.
        pub static ALL: &[&Series] = &[$(&$constant),*];
    };
}

series! {
    INFO = "poolkeeper_operator_info", "gauge", ["version"],
        "Always 1; the label says what runs.";
    READY = "poolkeeper_operator_cluster_ready", "gauge", ["cluster"],
        "1 while applications can be served.";
    ENDPOINTS = "poolkeeper_operator_endpoints", "gauge", ["cluster", "component", "state"],
        "Endpoints of the cluster in each state.";
    TRANSITIONS = "poolkeeper_operator_endpoint_transitions_total", "counter", ["cluster", "component", "to"],
        "Changes of endpoints, by the state after.";
    RESTARTS = "poolkeeper_operator_process_restarts_total", "counter", ["cluster", "component"],
        "Processes started in place of one that ended.";
    NOTIFICATIONS = "poolkeeper_operator_notifications_total", "counter", ["cluster", "channel", "result"],
        "Messages by what became of them: delivered, failed, unclear, throttled or refused.";
    PENDING = "poolkeeper_operator_notifications_pending", "gauge", ["cluster", "channel"],
        "Messages that wait to be delivered.";
}

/// What became of a message, as the label says it.
pub const RESULTS: [&str; 5] = ["delivered", "failed", "unclear", "throttled", "refused"];

/// Counters of one cluster; those of fixed label sets begin at zero.
#[derive(Clone, Debug)]
pub struct Counters {
    transitions: BTreeMap<(Component, &'static str), u64>,
    restarts: BTreeMap<Component, u64>,
    notifications: BTreeMap<(String, &'static str), u64>,
}

impl Counters {
    /// All at zero.
    #[must_use]
    pub fn new(channels: &[&str]) -> Self {
        let mut counters = Self {
            transitions: BTreeMap::new(),
            restarts: BTreeMap::new(),
            notifications: BTreeMap::new(),
        };
        for component in Component::ALL {
            counters.restarts.insert(component, 0);
            for state in EndpointState::ALL {
                counters.transitions.insert((component, state.word()), 0);
            }
        }
        for channel in channels {
            for result in RESULTS {
                counters
                    .notifications
                    .insert(((*channel).to_owned(), result), 0);
            }
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

    /// A message was posted, or was not.
    pub fn notification(&mut self, channel: &str, result: &'static str) {
        let key = (channel.to_owned(), result);
        *self.notifications.entry(key).or_default() += 1;
    }
}

/// The page, in Prometheus's text format 0.0.4.
#[must_use]
pub fn page(cluster: &str, status: &PgPoolClusterStatus, counters: &Counters) -> String {
    let mut page = Page::default();
    page.head(&INFO);
    page.sample(&INFO, &[env!("CARGO_PKG_VERSION")], 1);
    page.head(&READY);
    let ready = status
        .conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    page.sample(&READY, &[cluster], u64::from(ready));
    page.head(&ENDPOINTS);
    for component in Component::ALL {
        for state in EndpointState::ALL {
            let count = status
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.component == component && endpoint.state == state)
                .count();
            page.sample(
                &ENDPOINTS,
                &[cluster, component.word(), state.word()],
                count as u64,
            );
        }
    }
    page.head(&TRANSITIONS);
    for ((component, to), count) in &counters.transitions {
        page.sample(&TRANSITIONS, &[cluster, component.word(), to], *count);
    }
    page.head(&RESTARTS);
    for (component, count) in &counters.restarts {
        page.sample(&RESTARTS, &[cluster, component.word()], *count);
    }
    if !status.notifications.is_empty() {
        page.head(&NOTIFICATIONS);
        for ((channel, result), count) in &counters.notifications {
            page.sample(&NOTIFICATIONS, &[cluster, channel, result], *count);
        }
        page.head(&PENDING);
        for channel in &status.notifications {
            let pending = u64::try_from(channel.pending).unwrap_or_default();
            page.sample(&PENDING, &[cluster, &channel.name], pending);
        }
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, series: &Series) {
        let Series {
            name, kind, help, ..
        } = series;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, series: &Series, values: &[&str], number: u64) {
        let labels: Vec<String> = series
            .labels
            .iter()
            .zip(values)
            .map(|(label, value)| {
                let value = value
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('\n', "\\n");
                format!("{label}=\"{value}\"")
            })
            .collect();
        let _ = writeln!(
            self.text,
            "{}{{{}}} {number}",
            series.name,
            labels.join(",")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_follow_the_rules() {
        for series in ALL {
            assert!(series.name.starts_with("poolkeeper_operator_"));
            assert_eq!(
                series.kind == "counter",
                series.name.ends_with("_total"),
                "{}",
                series.name
            );
            assert!(series.help.ends_with('.'));
        }
    }

    #[test]
    fn fixed_label_sets_begin_at_zero() {
        let mut counters = Counters::new(&["ops"]);
        counters.restart(Component::Pooler);
        let mut status = PgPoolClusterStatus::default();
        let quiet = page("shop", &status, &counters);
        assert!(quiet.contains(
            "poolkeeper_operator_process_restarts_total{cluster=\"shop\",component=\"pooler\"} 1\n"
        ));
        assert!(quiet.contains(
            "endpoint_transitions_total{cluster=\"shop\",component=\"balancer\",to=\"Down\"} 0\n"
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
            "notifications_total{cluster=\"shop\",channel=\"ops\",result=\"refused\"} 0\n"
        ));
        assert!(page.contains("notifications_pending{cluster=\"shop\",channel=\"ops\"} 2\n"));
    }
}
