//! Each condition, by a function of its own: ordered checks, each with a reason
//! and a message that says what to do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Observed, Progress, capacity, reason::Reason, upstream};
use crate::{
    api::{CertificateState, CertificateStatus, Component, ComponentStatus, EndpointState},
    controller::{Fault, FaultKind},
};

/// How many faults a message names.
const FAULTS_MAX: usize = 8;

macro_rules! condition_types {
    ($($name:ident),+ $(,)?) => {
        /// What a condition is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names are the API's")]
        pub enum ConditionType { $($name),+ }

        impl ConditionType {
            /// The name in the API.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

condition_types!(
    Ready,
    Reconciling,
    Stalled,
    ConfigValid,
    PoolersAvailable,
    BalancersAvailable,
    UpstreamReachable,
    CapacityAvailable,
    CertificatesValid,
    NotificationsDelivered,
    Paused,
    UpdateAvailable,
);

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// A condition before it gets its time.
pub(super) struct Verdict {
    pub(super) type_: ConditionType,
    pub(super) status: Status,
    pub(super) reason: Reason,
    pub(super) message: String,
}

type Counts<'a> = (&'a ComponentStatus, &'a ComponentStatus);

pub(super) fn all(
    observed: &Observed<'_>,
    counts: Counts<'_>,
    certificates: &[CertificateStatus],
    before: &[Condition],
) -> Vec<Verdict> {
    let (poolers, balancers) = counts;
    let done = was_done(observed, before);
    let verdict = |type_, (status, reason, message): Answer| Verdict {
        type_,
        status,
        reason,
        message,
    };
    vec![
        verdict(ConditionType::Ready, ready(observed, counts, done)),
        verdict(ConditionType::Reconciling, reconciling(observed, done)),
        verdict(ConditionType::Stalled, stalled(observed, before)),
        verdict(ConditionType::ConfigValid, config_valid(observed, before)),
        verdict(
            ConditionType::PoolersAvailable,
            available(observed, Component::Pooler, poolers),
        ),
        verdict(
            ConditionType::BalancersAvailable,
            available(observed, Component::Balancer, balancers),
        ),
        verdict(
            ConditionType::UpstreamReachable,
            upstream_reachable(observed),
        ),
        verdict(
            ConditionType::CapacityAvailable,
            capacity_available(observed),
        ),
        verdict(
            ConditionType::CertificatesValid,
            certificates_valid(observed, certificates, before),
        ),
        verdict(
            ConditionType::NotificationsDelivered,
            notifications_delivered(observed),
        ),
        verdict(ConditionType::Paused, paused(observed, poolers)),
        verdict(ConditionType::UpdateAvailable, update_available(observed)),
    ]
}

type Answer = (Status, Reason, String);

fn answer(status: impl Into<Status>, reason: Reason, message: impl Into<String>) -> Answer {
    (status.into(), reason, message.into())
}

/// Applications can be served: a balancer takes them, a pooler serves them, and
/// PostgreSQL is not out of reach for every pooler, as far as they tell. Slack
/// has no say in it, nor has what could not be changed.
fn ready(observed: &Observed<'_>, (poolers, balancers): Counts<'_>, done: bool) -> Answer {
    let unknown = |component| {
        observed.endpoints.iter().any(|endpoint| {
            endpoint.component == component && endpoint.state == EndpointState::Unknown
        })
    };
    if poolers.ready > 0 && balancers.ready > 0 {
        if let upstream::Verdict::Unreachable(_, message) = upstream::verdict(observed) {
            return answer(false, Reason::UpstreamUnreachable, message);
        }
        return answer(true, Reason::Serving, "applications are served");
    }
    if observed.endpoints.is_empty() {
        return match observed.progress {
            Progress::Invalid(_) | Progress::Unreadable(_) if count_wished(observed) == 0 => {
                answer(
                    false,
                    Reason::ConfigInvalid,
                    "nothing runs: the spec has never been valid, see ConfigValid",
                )
            }
            Progress::NameConflict(_) | Progress::Refused(_) => {
                answer(false, Reason::Stalled, "nothing runs: Stalled says why")
            }
            Progress::Suspended => answer(
                false,
                Reason::Suspended,
                "nothing runs: spec.suspend is true",
            ),
            Progress::Deleting => answer(false, Reason::Deleting, "no Pod is there any more"),
            _ => answer(false, Reason::Starting, "no Pod is there yet"),
        };
    }
    let (component, kind, down, count) = match poolers.ready {
        0 => (Component::Pooler, "pooler", Reason::NoPoolerUp, poolers),
        _ => (
            Component::Balancer,
            "balancer",
            Reason::NoBalancerUp,
            balancers,
        ),
    };
    // Where it was all up once, others take the place of those that were lost.
    if !done && (unknown(component) || count.replicas == 0) {
        return answer(false, Reason::Starting, format!("no {kind} is up yet"));
    }
    answer(
        false,
        down,
        format!("no {kind} is up: status.endpoints says why"),
    )
}

/// Pods that are wished for, as far as anything was ever applied.
fn count_wished(observed: &Observed<'_>) -> i32 {
    let rollouts = observed.rollouts.into_iter();
    let each = rollouts.flat_map(|rollouts| Component::ALL.map(|one| rollouts.of(one).wished));
    each.sum()
}

/// Whether this very spec was carried out to its end before.
fn was_done(observed: &Observed<'_>, before: &[Condition]) -> bool {
    earlier(observed, before, ConditionType::Reconciling)
        .is_some_and(|(_, reason, _)| reason == Reason::Done)
}

/// `done` says that it was all as the spec says: then a Pod that is missing was
/// lost, and that is no rollout.
fn reconciling(observed: &Observed<'_>, done: bool) -> Answer {
    match observed.progress {
        Progress::Suspended => {
            return answer(
                false,
                Reason::Suspended,
                "spec.suspend is true: nothing is changed",
            );
        }
        Progress::Deleting => return answer(true, Reason::Deleting, "it is being deleted"),
        Progress::Invalid(_)
        | Progress::Unreadable(_)
        | Progress::NameConflict(_)
        | Progress::Refused(_) => {
            return answer(false, Reason::Stalled, "it waits for what Stalled says");
        }
        Progress::Interrupted(why) => return answer(true, Reason::Retrying, why),
        Progress::Applied => {}
    }
    for component in Component::ALL {
        let Some(rollout) = observed.rollouts.map(|rollouts| rollouts.of(component)) else {
            continue;
        };
        if rollout.stuck().is_some() {
            return answer(false, Reason::Stalled, "it waits for what Stalled says");
        }
        if !rollout.is_there() {
            let message = format!("the {}s' Deployment is not there yet", component.word());
            return answer(true, Reason::RollingOut, message);
        }
        if !(rollout.is_complete() || done && rollout.is_all_new()) {
            let message = format!(
                "{}s: {} of {} are new, {} there, {} available",
                component.word(),
                rollout.updated,
                rollout.wished,
                rollout.replicas,
                rollout.available
            );
            return answer(true, Reason::RollingOut, message);
        }
        if let Some(held) = rollout.held {
            let message = format!(
                "{held} poolers are wished, {} are there until each, those that end too, has taken its smaller share of pool.maxServerConnections: one that cannot be asked holds this up until its Pod is deleted",
                rollout.wished
            );
            return answer(true, Reason::RollingOut, message);
        }
    }
    // One that ends takes up nothing any more.
    let outdated = observed
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.state == EndpointState::Up)
        .filter(|endpoint| endpoint.config_revision.as_deref() != observed.revision)
        .count();
    if observed.revision.is_some() && outdated > 0 {
        let message = format!("{outdated} endpoints have not taken up the configuration yet");
        return answer(true, Reason::Reloading, message);
    }
    answer(false, Reason::Done, "everything is as the spec says")
}

fn stalled(observed: &Observed<'_>, before: &[Condition]) -> Answer {
    // Nothing was found out then that would change it.
    if matches!(observed.progress, Progress::Interrupted(_))
        && let Some(found) = earlier(observed, before, ConditionType::Stalled)
    {
        return found;
    }
    match observed.progress {
        Progress::Invalid(_) | Progress::Unreadable(_) => answer(
            true,
            Reason::ConfigInvalid,
            "the spec is not carried out: ConfigValid says what to mend",
        ),
        Progress::NameConflict(what) => answer(true, Reason::NameConflict, what),
        Progress::Refused(what) => answer(
            true,
            Reason::Refused,
            format!("{what}; grant the operator the right, or mend what it is told to write"),
        ),
        _ => {
            let stuck = Component::ALL.iter().find_map(|component| {
                let rollout = observed.rollouts?.of(*component);
                Some((component, rollout.stuck()?))
            });
            match stuck {
                Some((component, why)) => answer(
                    true,
                    Reason::RolloutStuck,
                    format!(
                        "the new {}s do not become available, the old ones go on: {why}",
                        component.word()
                    ),
                ),
                None => answer(false, Reason::NotStalled, "nothing is in the way"),
            }
        }
    }
}

/// What was found of this very spec, also while it cannot be looked at.
fn config_valid(observed: &Observed<'_>, before: &[Condition]) -> Answer {
    match observed.progress {
        Progress::Invalid(faults) => {
            let kind = faults.iter().map(|fault| fault.kind).min();
            let reason = match kind.unwrap_or(FaultKind::Invalid) {
                FaultKind::Invalid => Reason::Invalid,
                FaultKind::NotSupportedYet => Reason::NotSupportedYet,
                FaultKind::MissingReference => Reason::ReferenceNotFound,
            };
            answer(false, reason, sentences(faults))
        }
        Progress::Unreadable(why) => answer(false, Reason::Unreadable, why),
        // Names are met once everything is valid.
        Progress::Applied | Progress::NameConflict(_) => {
            let warnings = observed
                .meaning
                .map_or(&[][..], |meaning| &meaning.warnings);
            let message = match warnings.is_empty() {
                true => "the manifest is valid".to_owned(),
                false => format!("the manifest is valid, but: {}", listed(warnings)),
            };
            answer(true, Reason::Valid, message)
        }
        Progress::Suspended
        | Progress::Deleting
        | Progress::Refused(_)
        | Progress::Interrupted(_) => earlier(observed, before, ConditionType::ConfigValid)
            .unwrap_or_else(|| {
                let message = match observed.progress {
                    Progress::Refused(_) => "what the API server refused is not known to be valid",
                    _ => "this spec has not been looked at yet",
                };
                answer(Status::Unknown, Reason::NotLookedAt, message)
            }),
    }
}

/// What a condition said of the same generation before.
fn earlier(observed: &Observed<'_>, before: &[Condition], type_: ConditionType) -> Option<Answer> {
    let found = before
        .iter()
        .find(|one| one.type_ == type_.word() && one.observed_generation == observed.generation)?;
    let reason = Reason::of(&found.reason)?;
    let status = match found.status.as_str() {
        "True" => Status::True,
        "False" => Status::False,
        _ => Status::Unknown,
    };
    Some(answer(status, reason, &found.message))
}

fn sentences(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    listed(&faults)
}

fn listed(texts: &[String]) -> String {
    let mut listed = texts[..texts.len().min(FAULTS_MAX)].join("; ");
    if texts.len() > FAULTS_MAX {
        listed.push_str(&format!("; and {} more", texts.len() - FAULTS_MAX));
    }
    listed
}

fn available(observed: &Observed<'_>, component: Component, count: &ComponentStatus) -> Answer {
    let kind = component.word();
    let rollouts = observed.rollouts;
    let wished = rollouts.map_or(count.replicas, |rollouts| rollouts.of(component).wished);
    let message = format!("{} of {wished} {kind}s are up", count.ready);
    match count.ready {
        ready if wished > 0 && ready >= wished => answer(true, Reason::AllUp, message),
        0 => answer(false, Reason::NoneUp, message),
        _ => answer(false, Reason::NotAllUp, message),
    }
}

/// What the poolers that are up say; only they connect to PostgreSQL.
fn upstream_reachable(observed: &Observed<'_>) -> Answer {
    match upstream::verdict(observed) {
        upstream::Verdict::NotReported => answer(
            Status::Unknown,
            Reason::NotReported,
            "no pooler that is up has said whether PostgreSQL answers",
        ),
        upstream::Verdict::Reachable(message) => answer(true, Reason::Reachable, message),
        upstream::Verdict::Partly(message) => answer(false, Reason::PartlyReachable, message),
        upstream::Verdict::Unreachable(reason, message) => answer(false, reason, message),
    }
}

/// What the poolers that are up say of themselves.
fn capacity_available(observed: &Observed<'_>) -> Answer {
    match capacity::verdict(observed) {
        None => answer(
            Status::Unknown,
            Reason::NotReported,
            "no pooler that is up has said whether it serves its clients in time",
        ),
        Some((reason, message)) => answer(reason == Reason::HasCapacity, reason, message),
    }
}

/// What was found of this very spec, also while it cannot be looked at. The
/// worst decides; dates are named, not days left, which change every day.
fn certificates_valid(
    observed: &Observed<'_>,
    certificates: &[CertificateStatus],
    before: &[Condition],
) -> Answer {
    if observed.meaning.is_none() {
        return earlier(observed, before, ConditionType::CertificatesValid).unwrap_or_else(|| {
            let message = "the certificates that this spec names have not been looked at yet";
            answer(Status::Unknown, Reason::NotLookedAt, message)
        });
    }
    for (state, reason) in [
        (CertificateState::Expired, Reason::Expired),
        (CertificateState::NotValidYet, Reason::NotValidYet),
        (CertificateState::Expiring, Reason::Expiring),
    ] {
        if certificates.iter().any(|one| one.state == state) {
            let wrong = certificates
                .iter()
                .filter(|one| one.state != CertificateState::Valid);
            let wrong: Vec<String> = wrong.map(ToString::to_string).collect();
            return answer(false, reason, listed(&wrong));
        }
    }
    match certificates.iter().min_by_key(|one| one.not_after) {
        Some(first) => answer(
            true,
            Reason::Valid,
            format!("none expires before {}", first.not_after),
        ),
        None => answer(
            true,
            Reason::NoCertificates,
            "the spec names no certificate",
        ),
    }
}

fn notifications_delivered(observed: &Observed<'_>) -> Answer {
    if let Some(why) = observed.untold {
        return answer(false, Reason::NotDelivered, why);
    }
    if observed.notifications.is_empty() {
        return answer(true, Reason::NobodyToTell, "spec.notifications is empty");
    }
    let problem = observed
        .notifications
        .iter()
        .find_map(|channel| Some((&channel.name, channel.problem.as_ref()?)));
    match problem {
        None => answer(
            true,
            Reason::Delivered,
            "everything was told or is about to be",
        ),
        Some((name, problem)) => answer(false, Reason::NotDelivered, format!("{name}: {problem}")),
    }
}

/// Observed, not wished: True once every pooler that is there says so.
fn paused(observed: &Observed<'_>, poolers: &ComponentStatus) -> Answer {
    let (paused, all) = (observed.pause.observed, poolers.replicas);
    let message = format!("{paused} of {all} poolers say that they are paused");
    let wished = match observed.progress {
        // Nothing is changed: what is there is what is wished.
        Progress::Suspended if paused == 0 || paused >= all => paused > 0,
        Progress::Suspended => return answer(false, Reason::Suspended, message),
        _ => observed.pause.wished,
    };
    match (wished, paused) {
        (true, paused) if all > 0 && paused >= all => answer(true, Reason::Paused, message),
        (true, _) => answer(false, Reason::Pausing, message),
        (false, 0) => answer(false, Reason::Running, "no pooler is paused"),
        (false, _) => answer(false, Reason::Resuming, message),
    }
}

fn update_available(observed: &Observed<'_>) -> Answer {
    match observed.update {
        Some(what) => answer(
            true,
            Reason::NewImages,
            format!(
                "{what}; set spec.updatePolicy: Automatic, or annotate with poolkeeper.dev/update, to take it"
            ),
        ),
        None => answer(
            false,
            Reason::UpToDate,
            "what runs is what the operator would start",
        ),
    }
}
