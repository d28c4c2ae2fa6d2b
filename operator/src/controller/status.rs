//! From what was observed to the `status` that users read. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::{
    Component, ComponentStatus, EndpointState, EndpointStatus, NotificationStatus,
    PgPoolClusterStatus,
};

/// What was observed of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The generation of the spec that runs.
    pub generation: Option<i64>,
    /// The configuration that should be in force.
    pub revision: &'a str,
    /// Every endpoint.
    pub endpoints: &'a [EndpointStatus],
    /// Everyone who is told.
    pub notifications: &'a [NotificationStatus],
}

/// The status of a cluster. `before` gives conditions that did not change the
/// time since which they hold.
#[must_use]
pub fn status(
    observed: &Observed<'_>,
    before: &PgPoolClusterStatus,
    now: Timestamp,
) -> PgPoolClusterStatus {
    let poolers = count(observed, Component::Pooler);
    let balancer = count(observed, Component::Balancer);
    let conditions = [
        ready(&poolers, &balancer),
        config_valid(),
        available("PoolersAvailable", "poolers", &poolers),
        available("BalancersAvailable", "balancers", &balancer),
        notifications_delivered(observed.notifications),
    ];
    PgPoolClusterStatus {
        observed_generation: observed.generation,
        conditions: conditions
            .map(|verdict| condition(verdict, observed.generation, &before.conditions, now))
            .to_vec(),
        poolers,
        balancer,
        endpoints: observed.endpoints.to_vec(),
        notifications: observed.notifications.to_vec(),
    }
}

fn count(observed: &Observed<'_>, component: Component) -> ComponentStatus {
    let all = || {
        let endpoints = observed.endpoints.iter();
        endpoints.filter(move |endpoint| endpoint.component == component)
    };
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let ready = all()
        .filter(|endpoint| endpoint.state == EndpointState::Up)
        .count();
    let updated = all()
        .filter(|endpoint| endpoint.config_revision.as_deref() == Some(observed.revision))
        .count();
    ComponentStatus {
        replicas: number(all().count()),
        updated: number(updated),
        ready: number(ready),
        summary: format!("{ready}/{}", all().count()),
        selector: String::new(),
    }
}

/// A condition before it gets its time.
struct Verdict {
    name: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// Applications can be served: a balancer takes them and a pooler serves them.
/// Slack has no say in it.
fn ready(poolers: &ComponentStatus, balancers: &ComponentStatus) -> Verdict {
    let (holds, reason, message) = match (poolers.ready, balancers.ready) {
        (0, _) => (
            false,
            "NoPoolerUp",
            "no pooler is up: look at their reasons below",
        ),
        (_, 0) => (
            false,
            "NoBalancerUp",
            "no balancer is up: look at their reasons below",
        ),
        _ => (true, "Serving", "applications are served"),
    };
    Verdict {
        name: "Ready",
        holds,
        reason,
        message: message.to_owned(),
    }
}

/// What is invalid is never run, so there is nothing else to say of what runs.
fn config_valid() -> Verdict {
    Verdict {
        name: "ConfigValid",
        holds: true,
        reason: "Valid",
        message: "the manifest is valid".to_owned(),
    }
}

fn available(name: &'static str, kind: &str, count: &ComponentStatus) -> Verdict {
    let holds = count.ready == count.replicas;
    Verdict {
        name,
        holds,
        reason: if holds { "AllUp" } else { "NotAllUp" },
        message: format!("{} of {} {kind} are up", count.ready, count.replicas),
    }
}

fn notifications_delivered(notifications: &[NotificationStatus]) -> Verdict {
    let problem = notifications
        .iter()
        .find_map(|channel| Some((&channel.name, channel.problem.as_ref()?)));
    let (holds, reason, message) = match problem {
        _ if notifications.is_empty() => (
            true,
            "NobodyToTell",
            "spec.notifications is empty".to_owned(),
        ),
        None => (
            true,
            "Delivered",
            "everything was told or is about to be".to_owned(),
        ),
        Some((name, problem)) => (false, "NotDelivered", format!("{name}: {problem}")),
    };
    Verdict {
        name: "NotificationsDelivered",
        holds,
        reason,
        message,
    }
}

fn condition(
    verdict: Verdict,
    generation: Option<i64>,
    before: &[Condition],
    now: Timestamp,
) -> Condition {
    let status = if verdict.holds { "True" } else { "False" };
    let since = before
        .iter()
        .find(|condition| condition.type_ == verdict.name && condition.status == status)
        .map_or(Time(now), |condition| {
            condition.last_transition_time.clone()
        });
    Condition {
        type_: verdict.name.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, component: Component, state: EndpointState) -> EndpointStatus {
        EndpointStatus {
            name: name.to_owned(),
            component,
            state,
            since: Timestamp::UNIX_EPOCH,
            reason: String::new(),
            config_revision: Some("r1".to_owned()),
        }
    }

    fn of(
        endpoints: &[EndpointStatus],
        before: &PgPoolClusterStatus,
        seconds: i64,
    ) -> PgPoolClusterStatus {
        let observed = Observed {
            generation: None,
            revision: "r1",
            endpoints,
            notifications: &[],
        };
        status(&observed, before, Timestamp::from_second(seconds).unwrap())
    }

    fn ready(status: &PgPoolClusterStatus) -> (&str, &str, i64) {
        let ready = status
            .conditions
            .iter()
            .find(|one| one.type_ == "Ready")
            .unwrap();
        (
            &ready.status,
            &ready.reason,
            ready.last_transition_time.0.as_second(),
        )
    }

    #[test]
    fn ready_means_that_applications_can_be_served() {
        let mut endpoints = [
            endpoint("pooler-0", Component::Pooler, EndpointState::Up),
            endpoint("pooler-1", Component::Pooler, EndpointState::Down),
            endpoint("balancer-0", Component::Balancer, EndpointState::Up),
        ];
        let first = of(&endpoints, &PgPoolClusterStatus::default(), 10);
        assert_eq!(ready(&first), ("True", "Serving", 10));
        assert_eq!(first.poolers.summary, "1/2");
        assert_eq!(first.poolers.updated, 2);
        endpoints[1].state = EndpointState::Up;
        let second = of(&endpoints, &first, 20);
        assert_eq!(
            ready(&second),
            ("True", "Serving", 10),
            "unchanged since 10"
        );
        endpoints[2].state = EndpointState::Down;
        let third = of(&endpoints, &second, 30);
        assert_eq!(ready(&third), ("False", "NoBalancerUp", 30));
    }
}
