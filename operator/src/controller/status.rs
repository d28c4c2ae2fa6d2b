//! From what was observed to the `status` that users read. Pure.
//!
//! What each condition says in each flow is the table in
//! [docs/status.md](../../../docs/status.md).

mod capacity;
mod conditions;
pub(crate) mod event;
mod progress;
mod reason;
mod upstream;

#[cfg(test)]
mod tests;

pub use conditions::ConditionType;
pub use progress::{Pause, Progress, Rollout, Rollouts};
pub use reason::Reason;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{certificates::Certificate, validate::ValidatedCluster};
use crate::api::{
    BindingStatus, BudgetStatus, Component, ComponentStatus, EndpointState, EndpointStatus,
    NotificationStatus, PgPoolClusterStatus,
};
use conditions::Verdict;

/// How many conditions' messages may be long, in characters: the API's limit.
const MESSAGE_LENGTH_MAX: usize = 4_000;

/// What was observed of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The generation of the spec that this is about.
    pub generation: Option<i64>,
    /// How far the spec has been carried out.
    pub progress: &'a Progress,
    /// The configuration that should be in force; none was ever applied without.
    pub revision: Option<&'a str>,
    /// The Secret that applications connect with, if that configuration has one.
    pub binding: Option<&'a str>,
    /// The Deployments; local processes have none.
    pub rollouts: Option<&'a Rollouts>,
    /// Whether the pools are to be paused, and which poolers say that they are.
    pub pause: Pause,
    /// What a newer version would change, if there is one.
    pub update: Option<&'a str>,
    /// What the spec comes to that was valid last; none since the operator began.
    pub meaning: Option<&'a Meaning>,
    /// Every endpoint.
    pub endpoints: &'a [EndpointStatus],
    /// Everyone who is told.
    pub notifications: &'a [NotificationStatus],
    /// Why nobody can be told whom the spec names, if that is so.
    pub untold: Option<&'a str>,
}

/// What a valid spec comes to, as far as its status tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// Host and port of every PostgreSQL that is served from.
    pub upstreams: Vec<String>,
    /// Connections to PostgreSQL.
    pub budget: BudgetStatus,
    /// Every certificate that it names.
    pub certificates: Vec<Certificate>,
    /// What is accepted and yet worth a look.
    pub warnings: Vec<String>,
}

impl Meaning {
    /// That of a cluster.
    #[must_use]
    pub fn of(cluster: &ValidatedCluster) -> Self {
        let mut upstreams: Vec<String> = match cluster.databases.is_empty() {
            true => vec![cluster.upstream.to_string()],
            false => {
                let databases = cluster.databases.iter();
                databases.map(|one| one.address.to_string()).collect()
            }
        };
        upstreams.sort();
        upstreams.dedup();
        Self {
            upstreams,
            budget: cluster.budget.clone(),
            certificates: cluster.certificates.clone(),
            warnings: cluster.warnings.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The status of a cluster. `before` gives conditions that did not change the
/// time since which they hold.
#[must_use]
pub fn status(
    observed: &Observed<'_>,
    before: &PgPoolClusterStatus,
    now: Timestamp,
) -> PgPoolClusterStatus {
    // A new operator knows neither until it has applied it.
    let binding = match observed.revision {
        Some(_) => observed.binding.map(|name| BindingStatus {
            name: name.to_owned(),
        }),
        None => before.binding.clone(),
    };
    let revision = observed.revision.or(before.config_revision.as_deref());
    let observed = &Observed {
        revision,
        ..*observed
    };
    let poolers = count(observed, Component::Pooler, before);
    let balancer = count(observed, Component::Balancer, before);
    let certificates = match observed.meaning {
        Some(meaning) => {
            let named = meaning.certificates.iter();
            named
                .map(|one| one.status(&before.certificates, now))
                .collect()
        }
        None => before.certificates.clone(),
    };
    let counts = (&poolers, &balancer);
    let conditions = conditions::all(observed, counts, &certificates, &before.conditions)
        .into_iter()
        .map(|verdict| condition(&verdict, observed.generation, &before.conditions, now))
        .collect();
    PgPoolClusterStatus {
        observed_generation: observed.generation,
        config_revision: observed.revision.map(str::to_owned),
        conditions,
        poolers,
        balancer,
        budget: observed.meaning.map_or_else(
            || before.budget.clone(),
            |meaning| Some(meaning.budget.clone()),
        ),
        binding,
        endpoints: observed.endpoints.to_vec(),
        certificates,
        notifications: observed.notifications.to_vec(),
    }
}

fn count(
    observed: &Observed<'_>,
    component: Component,
    before: &PgPoolClusterStatus,
) -> ComponentStatus {
    let all = || {
        let endpoints = observed.endpoints.iter();
        endpoints.filter(move |endpoint| endpoint.component == component)
    };
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let ready = all()
        .filter(|endpoint| endpoint.state == EndpointState::Up)
        .count();
    let updated = all()
        .filter(|endpoint| {
            observed.revision.is_some() && endpoint.config_revision.as_deref() == observed.revision
        })
        .count();
    let rollout = observed.rollouts.map(|rollouts| rollouts.of(component));
    let replicas = rollout.map_or(number(all().count()), |rollout| rollout.replicas);
    let wished = rollout.map_or(replicas, |rollout| rollout.wished);
    let selector = match (rollout, component) {
        (Some(rollout), _) => rollout.selector.clone(),
        (None, Component::Pooler) => before.poolers.selector.clone(),
        (None, Component::Balancer) => before.balancer.selector.clone(),
    };
    ComponentStatus {
        replicas,
        updated: number(updated),
        ready: number(ready),
        summary: format!("{ready}/{wished}"),
        selector,
    }
}

fn condition(
    verdict: &Verdict,
    generation: Option<i64>,
    before: &[Condition],
    now: Timestamp,
) -> Condition {
    let type_ = verdict.type_.word();
    let status = verdict.status.word();
    let since = before
        .iter()
        .find(|condition| condition.type_ == type_ && condition.status == status)
        .map_or(Time(now), |condition| {
            condition.last_transition_time.clone()
        });
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.word().to_owned(),
        message: verdict.message.chars().take(MESSAGE_LENGTH_MAX).collect(),
        observed_generation: generation,
        last_transition_time: since,
    }
}
