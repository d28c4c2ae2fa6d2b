use jiff::Timestamp;

use super::*;
use crate::{
    api::{EndpointCapacity, EndpointUpstream, UpstreamState},
    controller::Fault,
};

mod flows;
mod kstatus;

fn endpoint(name: &str, component: Component, state: EndpointState) -> EndpointStatus {
    EndpointStatus {
        name: name.to_owned(),
        component,
        state,
        since: Timestamp::UNIX_EPOCH,
        reason: String::new(),
        outage_since: None,
        config_revision: Some("r1".to_owned()),
        upstream: None,
        capacity: None,
    }
}

fn pooler(name: &str) -> EndpointStatus {
    EndpointStatus {
        upstream: Some(EndpointUpstream {
            state: UpstreamState::Reachable,
            reason: None,
        }),
        capacity: Some(EndpointCapacity::Available),
        ..endpoint(name, Component::Pooler, EndpointState::Up)
    }
}

/// One balancer and two poolers that are up, and nothing else to say.
fn serving() -> Vec<EndpointStatus> {
    vec![
        pooler("a"),
        pooler("b"),
        endpoint("c", Component::Balancer, EndpointState::Up),
    ]
}

fn complete() -> Rollouts {
    let of = |pods| Rollout {
        wished: pods,
        replicas: pods,
        updated: pods,
        available: pods,
        ..Rollout::default()
    };
    Rollouts {
        poolers: of(2),
        balancers: of(1),
    }
}

/// The status at a second of 1970, of what was observed.
struct At<'a> {
    progress: Progress,
    rollouts: Rollouts,
    endpoints: Vec<EndpointStatus>,
    pause: Pause,
    before: &'a PgPoolClusterStatus,
    second: i64,
    generation: i64,
    revision: Option<&'static str>,
    binding: Option<&'static str>,
    update: Option<&'static str>,
    meaning: Option<Meaning>,
    notifications: Vec<NotificationStatus>,
    untold: Option<&'static str>,
}

impl Default for At<'_> {
    fn default() -> Self {
        static NOTHING: std::sync::LazyLock<PgPoolClusterStatus> =
            std::sync::LazyLock::new(PgPoolClusterStatus::default);
        Self {
            progress: Progress::Applied,
            rollouts: complete(),
            endpoints: serving(),
            pause: Pause::default(),
            before: &NOTHING,
            second: 10,
            generation: 1,
            revision: Some("r1"),
            binding: None,
            update: None,
            meaning: Some(Meaning {
                upstreams: vec!["db:5432".to_owned()],
                ..Meaning::default()
            }),
            notifications: Vec::new(),
            untold: None,
        }
    }
}

impl At<'_> {
    fn status(&self) -> PgPoolClusterStatus {
        let observed = Observed {
            generation: Some(self.generation),
            progress: &self.progress,
            revision: self.revision,
            binding: self.binding,
            rollouts: Some(&self.rollouts),
            pause: self.pause,
            update: self.update,
            meaning: self.meaning.as_ref(),
            endpoints: &self.endpoints,
            notifications: &self.notifications,
            untold: self.untold,
        };
        status(
            &observed,
            self.before,
            Timestamp::from_second(self.second).unwrap(),
        )
    }

    /// Status and reason of each condition that is asked for.
    fn shows<const N: usize>(&self, wanted: [(ConditionType, &str); N]) {
        let status = self.status();
        for (type_, shown) in wanted {
            let found = status
                .conditions
                .iter()
                .find(|one| one.type_ == type_.word())
                .unwrap();
            assert_eq!(
                format!("{} {}", found.status, found.reason),
                shown,
                "{}: {}",
                found.type_,
                found.message
            );
        }
    }
}

use ConditionType::{
    BalancersAvailable, CertificatesValid, ConfigValid, Paused, PoolersAvailable, Ready,
    Reconciling, Stalled,
};

#[test]
fn a_tier_that_is_as_wanted_is_ready_and_done() {
    At::default().shows([
        (Ready, "True Serving"),
        (Reconciling, "False Done"),
        (Stalled, "False NotStalled"),
        (ConfigValid, "True Valid"),
        (PoolersAvailable, "True AllUp"),
        (BalancersAvailable, "True AllUp"),
        (Paused, "False Running"),
    ]);
}

#[test]
fn ready_means_that_applications_can_be_served() {
    let mut at = At::default();
    at.endpoints[1].state = EndpointState::Down;
    let first = at.status();
    assert_eq!(first.poolers.summary, "1/2");
    at.shows([
        (Ready, "True Serving"),
        (PoolersAvailable, "False NotAllUp"),
    ]);
    at.endpoints[2].state = EndpointState::Down;
    at.shows([
        (Ready, "False NoBalancerUp"),
        (BalancersAvailable, "False NoneUp"),
    ]);
    at.endpoints[0].state = EndpointState::Down;
    at.shows([(Ready, "False NoPoolerUp")]);
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let time =
        |status: &PgPoolClusterStatus| status.conditions[0].last_transition_time.0.as_second();
    let first = At::default().status();
    assert_eq!(time(&first), 10);
    let mut later = At {
        before: &first,
        second: 20,
        ..At::default()
    };
    assert_eq!(time(&later.status()), 10, "unchanged since 10");
    later.endpoints[2].state = EndpointState::Down;
    assert_eq!(time(&later.status()), 20);
}

#[test]
fn before_the_first_pod_it_is_starting_or_invalid() {
    let mut at = At {
        endpoints: Vec::new(),
        rollouts: Rollouts::default(),
        ..At::default()
    };
    at.shows([(Ready, "False Starting")]);
    at.progress = Progress::Unreadable("spec.pool: no".to_owned());
    at.shows([
        (Ready, "False ConfigInvalid"),
        (ConfigValid, "False Unreadable"),
        (Stalled, "True ConfigInvalid"),
        (Reconciling, "False Stalled"),
    ]);
}

#[test]
fn what_cannot_be_carried_out_leaves_ready_alone() {
    let cases = [
        (
            Progress::NameConflict("x".to_owned()),
            "True NameConflict",
            "False Stalled",
        ),
        (
            Progress::Refused("x".to_owned()),
            "True Refused",
            "False Stalled",
        ),
        (
            Progress::Interrupted("x".to_owned()),
            "False NotStalled",
            "True Retrying",
        ),
        (Progress::Suspended, "False NotStalled", "False Suspended"),
        (Progress::Deleting, "False NotStalled", "True Deleting"),
    ];
    for (progress, stalled, reconciling) in cases {
        let at = At {
            progress,
            ..At::default()
        };
        at.shows([
            (Ready, "True Serving"),
            (Stalled, stalled),
            (Reconciling, reconciling),
        ]);
    }
}

#[test]
fn a_rollout_goes_on_until_every_pod_is_new() {
    let mut at = At::default();
    at.rollouts.poolers.updated = 1;
    at.shows([(Reconciling, "True RollingOut"), (Ready, "True Serving")]);
    at.rollouts.poolers.stuck = Some("deadline".to_owned());
    at.shows([
        (Reconciling, "False Stalled"),
        (Stalled, "True RolloutStuck"),
    ]);
}

#[test]
fn a_pod_that_is_lost_is_no_rollout() {
    let done = At::default().status();
    let mut at = At {
        before: &done,
        ..At::default()
    };
    at.rollouts.poolers.available -= 1;
    at.shows([(Reconciling, "False Done")]);
    for endpoint in &mut at.endpoints {
        endpoint.state = EndpointState::Unknown;
    }
    at.shows([(Reconciling, "False Done"), (Ready, "False NoPoolerUp")]);
    at.generation = 2;
    at.shows([(Reconciling, "True RollingOut"), (Ready, "False Starting")]);
}

#[test]
fn a_reload_is_done_when_every_endpoint_says_so() {
    let mut at = At::default();
    at.endpoints[0].config_revision = Some("r0".to_owned());
    at.shows([(Reconciling, "True Reloading")]);
    assert_eq!(at.status().poolers.updated, 1);
    // One that is down cannot say so; what it is told when it is back it will take.
    at.endpoints[0].state = EndpointState::Down;
    at.shows([(Reconciling, "False Done")]);
}

#[test]
fn paused_is_what_poolers_say() {
    let mut at = At::default();
    let shown = |at: &mut At<'_>, wished, observed, shown: &str| {
        at.pause = Pause { wished, observed };
        at.shows([(Paused, shown)]);
    };
    shown(&mut at, true, 0, "False Pausing");
    shown(&mut at, true, 1, "False Pausing");
    shown(&mut at, true, 2, "True Paused");
    shown(&mut at, false, 2, "False Resuming");
    shown(&mut at, false, 0, "False Running");
    // Nothing is changed, so nothing is on its way.
    at.progress = Progress::Suspended;
    shown(&mut at, false, 2, "True Paused");
    shown(&mut at, true, 1, "False Suspended");
    shown(&mut at, true, 0, "False Running");
}

#[test]
fn a_deployment_that_is_not_seen_yet_is_not_done() {
    let mut at = At {
        rollouts: Rollouts::default(),
        ..At::default()
    };
    at.shows([(Reconciling, "True RollingOut")]);
    at.rollouts = complete();
    at.rollouts.balancers.outdated = true;
    at.shows([(Reconciling, "True RollingOut")]);
}

#[test]
fn the_worst_that_a_pooler_says_of_its_capacity_counts_and_ready_stays() {
    use EndpointCapacity::{Available, ClientsRefused, ClientsWait, MaxDbConnections};
    let mut at = At::default();
    for (said, shown) in [
        ([None, None], "Unknown NotReported"),
        ([None, Some(Available)], "True HasCapacity"),
        ([Some(Available), Some(ClientsWait)], "False ClientsWait"),
        (
            [Some(ClientsWait), Some(MaxDbConnections)],
            "False ConnectionsUsedUp",
        ),
        (
            [Some(ClientsRefused), Some(MaxDbConnections)],
            "False ClientsRefused",
        ),
    ] {
        for (endpoint, said) in at.endpoints.iter_mut().zip(said) {
            endpoint.capacity = said;
        }
        at.shows([
            (ConditionType::CapacityAvailable, shown),
            (Ready, "True Serving"),
        ]);
    }
    // One that is down serves nobody, late or not.
    at.endpoints[0].state = EndpointState::Down;
    at.shows([(ConditionType::CapacityAvailable, "False ConnectionsUsedUp")]);
    let message = |at: &At<'_>| {
        let conditions = at.status().conditions;
        let mut all = conditions.iter();
        let found = all.find(|one| one.type_ == "CapacityAvailable").unwrap();
        found.message.clone()
    };
    assert_eq!(
        message(&at),
        "1 of 1 poolers let clients wait too long: maxConnections of a database (max_db_connections) is used up"
    );
}

#[test]
fn what_was_stuck_before_does_not_stall_what_follows() {
    let mut at = At::default();
    at.rollouts.poolers.stuck = Some("deadline".to_owned());
    at.rollouts.poolers.outdated = true;
    at.shows([
        (Stalled, "False NotStalled"),
        (Reconciling, "True RollingOut"),
    ]);
}

#[test]
fn a_spec_that_was_not_looked_at_is_not_called_valid() {
    let mut at = At {
        progress: Progress::Suspended,
        ..At::default()
    };
    at.shows([(ConfigValid, "Unknown NotLookedAt")]);
    at.progress = Progress::Invalid(vec![Fault::field("spec.pool.mode", "no")]);
    let invalid = at.status();
    let mut later = At {
        before: &invalid,
        progress: Progress::Interrupted("away".to_owned()),
        ..At::default()
    };
    later.shows([
        (ConfigValid, "False Invalid"),
        (Stalled, "True ConfigInvalid"),
    ]);
    later.generation = 2;
    later.shows([
        (ConfigValid, "Unknown NotLookedAt"),
        (Stalled, "False NotStalled"),
    ]);
}

/// A certificate that is valid from the first second of 1970 to a day.
fn certificate(secret: &str, last_day: i64) -> Certificate {
    let last = Timestamp::from_second(last_day * 86_400).unwrap();
    Certificate::between((secret, "tls.crt"), (Timestamp::UNIX_EPOCH, last))
}

#[test]
fn the_worst_certificate_decides_and_its_date_is_named() {
    let mut at = At::default();
    let meaning = |certificates: &[Certificate]| {
        Some(Meaning {
            certificates: certificates.to_vec(),
            ..Meaning::default()
        })
    };
    let said = |at: &At<'_>| {
        let status = at.status();
        let mut conditions = status.conditions.into_iter();
        let condition = conditions.find(|one| one.type_ == CertificatesValid.word());
        condition.unwrap().message
    };
    at.meaning = meaning(&[certificate("a", 365), certificate("b", 730)]);
    at.shows([(CertificatesValid, "True Valid")]);
    assert_eq!(said(&at), "none expires before 1971-01-01T00:00:00Z");
    at.second = 360 * 86_400;
    at.shows([(CertificatesValid, "False Expiring")]);
    let message = said(&at);
    assert_eq!(message, "a/tls.crt expires at 1971-01-01T00:00:00Z");
    at.second += 86_400;
    assert_eq!(said(&at), message, "nothing is written every day");
    at.second = 720 * 86_400;
    at.shows([(CertificatesValid, "False Expired")]);
    assert_eq!(
        said(&at),
        "a/tls.crt expired at 1971-01-01T00:00:00Z; b/tls.crt expires at 1972-01-01T00:00:00Z"
    );
}

#[test]
fn certificates_stay_as_they_were_while_the_spec_cannot_be_looked_at() {
    let at = At {
        meaning: Some(Meaning {
            certificates: vec![certificate("a", 10)],
            ..Meaning::default()
        }),
        second: 9 * 86_400,
        ..At::default()
    };
    let before = at.status();
    assert_eq!(before.certificates[0].since.as_second(), at.second);
    let mut later = At {
        before: &before,
        meaning: None,
        second: at.second + 10,
        progress: Progress::Suspended,
        ..At::default()
    };
    later.shows([(CertificatesValid, "False Expiring")]);
    assert_eq!(later.status().certificates, before.certificates);
    later.generation = 2;
    later.shows([(CertificatesValid, "Unknown NotLookedAt")]);
}

#[test]
fn a_new_operator_goes_by_the_configuration_applied_last() {
    let before = At {
        binding: Some("shop-binding-app"),
        ..At::default()
    };
    let before = before.status();
    let mut at = At {
        before: &before,
        revision: None,
        progress: Progress::Suspended,
        ..At::default()
    };
    let status = at.status();
    assert!(status.binding.is_some() && status.binding == before.binding);
    assert_eq!(status.config_revision.as_deref(), Some("r1"));
    assert_eq!(status.poolers.updated, 2);
    // It has applied one without.
    at.revision = Some("r2");
    assert_eq!(at.status().binding, None);
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    for reason in Reason::ALL {
        assert_eq!(Reason::of(reason.word()), Some(*reason));
    }
    assert_eq!(Reason::of("NoSuchReason"), None);
}
