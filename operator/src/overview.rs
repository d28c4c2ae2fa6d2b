//! `operator status`: how a PgPoolCluster does, for people who want to know at
//! once.
//!
//! Everything is read from the API server, as whom the KUBECONFIG names: the
//! object, whose status the operator keeps, and its Events. What only the
//! poolers know, such as their pools, is not asked for.

mod question;
mod table;

pub use question::{AskError, Question, ask};
pub use table::render;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::{
    api::{
        BindingStatus, BudgetStatus, ComponentStatus, EndpointStatus, NotificationStatus,
        PgPoolClusterStatus,
    },
    controller::status::{ConditionType, Reason},
};

/// What a cluster is shown as. Serialised, it is what `--output json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Whether applications can be served, as far as the operator knows.
    pub ready: bool,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// The generation that the status is about.
    pub observed_generation: Option<i64>,
    /// In the order of the status.
    pub conditions: Vec<Condition>,
    /// The poolers, counted.
    pub poolers: ComponentStatus,
    /// The balancers, counted.
    pub balancer: ComponentStatus,
    /// Connections to PostgreSQL; absent if no spec was valid yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetStatus>,
    /// The Secret that applications connect with; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingStatus>,
    /// Every pooler and balancer.
    pub endpoints: Vec<Endpoint>,
    /// Everyone who is told.
    pub notifications: Vec<NotificationStatus>,
    /// The newest Events of the object, oldest first; absent if they cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<Happening>>,
    /// What to do, most urgent first.
    pub next: Vec<String>,
    /// What is not shown, and where it can be seen.
    pub left_out: Vec<String>,
}

/// A pooler or a balancer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// As in the status.
    #[serde(flatten)]
    pub status: EndpointStatus,
    /// Whether it runs the configuration that was applied last; absent if it
    /// did not say, or none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_to_date: Option<bool>,
}

/// An Event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happening {
    /// When it was seen last.
    pub at: Timestamp,
    /// Normal or Warning.
    #[serde(rename = "type")]
    pub type_: String,
    /// A word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What was read of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// What the operator wrote; none if it has not looked yet.
    pub status: Option<PgPoolClusterStatus>,
    /// Its Events, or why they cannot be read.
    pub events: Result<Vec<Happening>, String>,
}

/// Events that are shown.
const EVENTS_MAX: usize = 8;

impl Overview {
    /// Makes sense of what was read. Pure.
    #[must_use]
    pub fn of(reading: Reading) -> Self {
        let next = next(&reading);
        let mut left_out = vec![format!(
            "pools are not shown: the poolers know them; ask a console (SHOW POOLS) or their metrics, after kubectl -n {} port-forward deployment/{}-pooler 9127",
            reading.namespace, reading.name
        )];
        if let Err(why) = &reading.events {
            left_out.push(format!("Events cannot be read: {why}"));
        }
        let status = reading.status.unwrap_or_default();
        let applied = status.config_revision;
        let endpoints = status.endpoints.into_iter().map(|status| Endpoint {
            up_to_date: match (&applied, &status.config_revision) {
                (Some(applied), Some(own)) => Some(applied == own),
                _ => None,
            },
            status,
        });
        Self {
            name: reading.name,
            namespace: reading.namespace,
            ready: is_true(&status.conditions, ConditionType::Ready),
            generation: reading.generation,
            observed_generation: status.observed_generation,
            endpoints: endpoints.collect(),
            conditions: status.conditions,
            poolers: status.poolers,
            balancer: status.balancer,
            budget: status.budget,
            binding: status.binding,
            notifications: status.notifications,
            events: reading.events.ok().map(newest),
            next,
            left_out,
        }
    }
}

fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    conditions
        .iter()
        .any(|one| one.type_ == type_.word() && one.status == "True")
}

fn newest(mut events: Vec<Happening>) -> Vec<Happening> {
    events.sort_by_key(|event| event.at);
    events.split_off(events.len().saturating_sub(EVENTS_MAX))
}

/// The advice for each reason that asks for something: what is in the way first,
/// the rest in the order of the conditions.
fn next(reading: &Reading) -> Vec<String> {
    let mut next = Vec::new();
    let conditions = reading.status.as_ref().map(|status| &status.conditions);
    let conditions = conditions.map_or(&[][..], Vec::as_slice);
    let observed = reading
        .status
        .as_ref()
        .and_then(|one| one.observed_generation);
    if conditions.is_empty() {
        next.push(
            "no operator has looked at it yet: see whether one runs and looks after this namespace"
                .to_owned(),
        );
    } else if observed != reading.generation {
        next.push(
            "the operator has not looked at the newest spec yet: what is shown is about the one before; if it lasts, see whether the operator runs".to_owned(),
        );
    }
    let urgent = [
        ConditionType::Stalled.word(),
        ConditionType::ConfigValid.word(),
    ];
    let (first, rest): (Vec<_>, Vec<_>) = conditions
        .iter()
        .partition(|one| urgent.contains(&one.type_.as_str()));
    let is_busy = is_true(conditions, ConditionType::Reconciling);
    for condition in first.into_iter().chain(rest) {
        let advice = match Reason::of(&condition.reason) {
            // While Pods come and go some are not up.
            Some(Reason::NotAllUp | Reason::NoneUp) if is_busy => None,
            Some(reason) if reason.is_news() => reason.advice(),
            Some(_) => None,
            None => Some(
                "this program does not know all of the reasons: use the operator's version of it",
            ),
        };
        let Some(advice) = advice else { continue };
        let advice = advice
            .replace("NAMESPACE", &reading.namespace)
            .replace("NAME", &reading.name);
        if !next.contains(&advice) {
            next.push(advice);
        }
    }
    next
}

#[cfg(test)]
mod tests;
