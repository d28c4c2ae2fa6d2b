//! What of an object's status is wrong, beside its endpoints.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Alert, Key};
use crate::{
    api::{CertificateState, NotificationEvent, PgPoolClusterStatus},
    controller::status::{ConditionType, Reason},
};

/// What a spec refers to may come so much later than the spec; from then on it
/// is missing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long saturation goes on though no pooler says so any more.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Everything that is wrong by a status: PostgreSQL, capacity, the configuration,
/// the rollout, certificates. Where it says that something is not known, what was
/// known before: `known` has the alert of a key, if there is one.
///
/// Time alone may change the answer while an alert of it is open, and where
/// [`is_waiting`] says so.
#[must_use]
pub fn of_status(
    status: &PgPoolClusterStatus,
    known: &dyn Fn(&Key) -> Option<Alert>,
    now: Timestamp,
) -> Vec<Alert> {
    let conditions = Conditions(&status.conditions);
    let known = |event| known(&Key::new(event, ""));
    let mut alerts = Vec::new();
    alerts.extend(upstream(&conditions, &known));
    alerts.extend(capacity(&conditions, &known, now));
    // Nothing is carried out, and that is meant to be.
    if !conditions.has(ConditionType::Reconciling, Reason::Suspended)
        && !conditions.has(ConditionType::Reconciling, Reason::Deleting)
    {
        alerts.extend(configuration(&conditions, &known, now));
        alerts.extend(rollout(&conditions, &known));
    }
    alerts.extend(certificates(status));
    alerts
}

/// Whether [`of_status`] may come to say more by time alone: ask it again, once a
/// second say.
#[must_use]
pub fn is_waiting(status: &PgPoolClusterStatus) -> bool {
    let conditions = Conditions(&status.conditions);
    conditions.has(ConditionType::ConfigValid, Reason::ReferenceNotFound)
}

/// By type.
struct Conditions<'a>(&'a [Condition]);

impl<'a> Conditions<'a> {
    fn of(&self, type_: ConditionType) -> Option<&'a Condition> {
        self.0.iter().find(|one| one.type_ == type_.word())
    }

    /// One that is True or False, not Unknown.
    fn decided(&self, type_: ConditionType) -> Option<&'a Condition> {
        self.of(type_)
            .filter(|one| one.status == "True" || one.status == "False")
    }

    fn has(&self, type_: ConditionType, reason: Reason) -> bool {
        self.of(type_).is_some_and(|one| is(one, reason))
    }
}

fn is(condition: &Condition, reason: Reason) -> bool {
    condition.reason == reason.word()
}

/// What was known of an event that has no subject.
type Known<'a> = &'a dyn Fn(NotificationEvent) -> Option<Alert>;

fn alert(event: NotificationEvent, condition: &Condition) -> Alert {
    let since = condition.last_transition_time.0;
    Alert::new(Key::new(event, ""), since, &condition.message, None)
}

/// That no pooler reaches PostgreSQL.
///
/// That some poolers do not reach it is not told: those that begin to fail do
/// so one after the other.
fn upstream(conditions: &Conditions<'_>, known: Known<'_>) -> Option<Alert> {
    let event = NotificationEvent::UpstreamUnreachable;
    let Some(condition) = conditions.decided(ConditionType::UpstreamReachable) else {
        return known(event);
    };
    let unreachable = condition.status == "False" && !is(condition, Reason::PartlyReachable);
    unreachable.then(|| alert(event, condition))
}

/// That clients wait too long, or are refused. Poolers that do not say so any
/// more may have been told not to look, so what was known does not last for ever.
fn capacity(conditions: &Conditions<'_>, known: Known<'_>, now: Timestamp) -> Option<Alert> {
    let event = NotificationEvent::Saturated;
    match conditions.of(ConditionType::CapacityAvailable) {
        Some(condition) if condition.status == "True" => None,
        Some(condition) if condition.status == "False" => Some(alert(event, condition)),
        Some(unknown) => {
            let silent = now.duration_since(unknown.last_transition_time.0);
            known(event).filter(|_| silent.unsigned_abs() < SILENCE_MAX)
        }
        None => known(event),
    }
}

/// That the spec is not carried out: it is invalid, or something keeps the
/// operator from writing what follows from it. What runs goes on.
fn configuration(conditions: &Conditions<'_>, known: Known<'_>, now: Timestamp) -> Option<Alert> {
    let event = NotificationEvent::ConfigurationRefused;
    let decided = conditions
        .decided(ConditionType::ConfigValid)
        .zip(conditions.decided(ConditionType::Stalled));
    let Some((valid, stalled)) = decided else {
        return known(event);
    };
    if valid.status == "False" {
        let found = alert(event, valid);
        if !is(valid, Reason::ReferenceNotFound) {
            return Some(found);
        }
        // One that has been told of goes on.
        return known(event)
            .map(|_| found.clone())
            .or_else(|| missing(&found, now));
    }
    let in_the_way = is(stalled, Reason::NameConflict) || is(stalled, Reason::Refused);
    if stalled.status == "True" && in_the_way {
        return Some(alert(event, stalled));
    }
    // The API server was away: whether it would refuse is not known.
    match conditions.has(ConditionType::Reconciling, Reason::Retrying) {
        true => known(event),
        false => None,
    }
}

/// That a reference is missing, once it has been so for long enough. A clock that
/// was set back makes nobody wait for it to catch up.
fn missing(found: &Alert, now: Timestamp) -> Option<Alert> {
    let lasted = now.duration_since(found.since);
    (lasted.unsigned_abs() >= PATIENCE).then(|| Alert {
        since: crate::endpoints::later(found.since, PATIENCE).min(now),
        ..found.clone()
    })
}

/// That new Pods do not become available. While something else is in the way of
/// all that the operator does, nothing is said of them.
fn rollout(conditions: &Conditions<'_>, known: Known<'_>) -> Option<Alert> {
    let event = NotificationEvent::RolloutStuck;
    match conditions.decided(ConditionType::Stalled) {
        Some(stalled) if stalled.status == "False" => None,
        Some(stalled) if is(stalled, Reason::RolloutStuck) => Some(alert(event, stalled)),
        _ => known(event),
    }
}

/// Certificates that have to be renewed, each by itself. The status keeps what
/// it knew while the spec cannot be looked at.
fn certificates(status: &PgPoolClusterStatus) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for certificate in &status.certificates {
        let key = Key::new(NotificationEvent::CertificateExpiring, &certificate.place());
        // Of names that begin alike for longer than a subject may be the first counts.
        if certificate.state != CertificateState::Valid && alerts.iter().all(|one| one.key != key) {
            let (since, reason) = (certificate.since, certificate.period());
            alerts.push(Alert::new(key, since, &reason, None));
        }
    }
    alerts
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::CertificateStatus;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A condition since second 100.
    fn condition(type_: ConditionType, status: &str, reason: Reason) -> Condition {
        Condition {
            type_: type_.word().to_owned(),
            status: status.to_owned(),
            reason: reason.word().to_owned(),
            message: format!("message of {}", reason.word()),
            last_transition_time: Time(at(100)),
            observed_generation: None,
        }
    }

    type Said = (ConditionType, &'static str, Reason);

    const REACHABLE: Said = (UpstreamReachable, "True", Reason::Reachable);
    const CAPACITY: Said = (CapacityAvailable, "True", Reason::HasCapacity);
    const DONE: Said = (Reconciling, "False", Reason::Done);
    const VALID: Said = (ConfigValid, "True", Reason::Valid);
    const FREE: Said = (Stalled, "False", Reason::NotStalled);

    /// A tier at rest, but for some conditions.
    fn status(said: &[Said]) -> PgPoolClusterStatus {
        let mut conditions = Vec::new();
        for (type_, status, reason) in [REACHABLE, CAPACITY, DONE, VALID, FREE] {
            let said = said.iter().find(|one| one.0 == type_);
            let (type_, status, reason) = said.copied().unwrap_or((type_, status, reason));
            conditions.push(condition(type_, status, reason));
        }
        PgPoolClusterStatus {
            conditions,
            ..PgPoolClusterStatus::default()
        }
    }

    /// What is wrong at second 1000, where `before` was known.
    fn wrong(said: &[Said], before: &[Alert]) -> Vec<Alert> {
        let known = |key: &Key| before.iter().find(|alert| alert.key == *key).cloned();
        of_status(&status(said), &known, at(1000))
    }

    fn events(alerts: &[Alert]) -> Vec<NotificationEvent> {
        alerts.iter().map(|alert| alert.key.event).collect()
    }

    use ConditionType::{CapacityAvailable, ConfigValid, Reconciling, Stalled, UpstreamReachable};
    use NotificationEvent::{
        CertificateExpiring, ConfigurationRefused, RolloutStuck, Saturated, UpstreamUnreachable,
    };

    #[test]
    fn a_tier_at_rest_has_nothing_wrong() {
        assert_eq!(wrong(&[], &[]), []);
    }

    #[test]
    fn unreachable_is_wrong_and_not_known_changes_nothing() {
        let unreachable = (UpstreamReachable, "False", Reason::ConnectionRefused);
        let told = wrong(&[unreachable], &[]);
        assert_eq!(events(&told), [UpstreamUnreachable]);
        assert_eq!(told[0].reason, "message of ConnectionRefused");
        assert_eq!(told[0].since, at(100));
        let unknown = (UpstreamReachable, "Unknown", Reason::NotReported);
        assert_eq!(wrong(&[unknown], &[]), []);
        assert_eq!(wrong(&[unknown], &told), told);
        let partly = (UpstreamReachable, "False", Reason::PartlyReachable);
        assert_eq!(wrong(&[partly], &told), []);
        assert_eq!(wrong(&[], &told), []);
    }

    #[test]
    fn saturation_is_told_until_there_is_capacity_or_nobody_says_so_for_a_minute() {
        for reason in [
            Reason::ClientsWait,
            Reason::ConnectionsUsedUp,
            Reason::ClientsRefused,
        ] {
            let told = wrong(&[(CapacityAvailable, "False", reason)], &[]);
            assert_eq!(events(&told), [Saturated], "{}", reason.word());
            assert_eq!(told[0].reason, format!("message of {}", reason.word()));
        }
        let told = wrong(&[(CapacityAvailable, "False", Reason::ClientsWait)], &[]);
        assert_eq!(wrong(&[], &told), []);
        let known = |key: &Key| told.iter().find(|alert| alert.key == *key).cloned();
        let silent = status(&[(CapacityAvailable, "Unknown", Reason::NotReported)]);
        // It is unknown since second 100.
        for (second, wanted) in [(100, &told[..]), (159, &told[..]), (160, &[])] {
            assert_eq!(of_status(&silent, &known, at(second)), wanted, "{second}");
        }
        assert_eq!(of_status(&silent, &|_| None, at(100)), []);
    }

    #[test]
    fn a_status_without_conditions_changes_nothing() {
        let told = wrong(
            &[
                (UpstreamReachable, "False", Reason::NoAnswer),
                (Stalled, "True", Reason::RolloutStuck),
            ],
            &[],
        );
        assert_eq!(events(&told), [UpstreamUnreachable, RolloutStuck]);
        let known = |key: &Key| told.iter().find(|alert| alert.key == *key).cloned();
        let nothing = PgPoolClusterStatus::default();
        assert_eq!(of_status(&nothing, &known, at(1000)), told);
        assert_eq!(of_status(&nothing, &|_| None, at(1000)), []);
    }

    #[test]
    fn whatever_keeps_a_spec_from_being_carried_out_is_told() {
        let stalled = (Stalled, "True", Reason::ConfigInvalid);
        for reason in [
            Reason::Invalid,
            Reason::NotSupportedYet,
            Reason::Unreadable,
            Reason::ReferenceNotFound,
        ] {
            let told = wrong(&[stalled, (ConfigValid, "False", reason)], &[]);
            assert_eq!(events(&told), [ConfigurationRefused], "{}", reason.word());
            assert_eq!(told[0].reason, format!("message of {}", reason.word()));
        }
        for reason in [Reason::NameConflict, Reason::Refused] {
            let told = wrong(&[(Stalled, "True", reason)], &[]);
            assert_eq!(events(&told), [ConfigurationRefused], "{}", reason.word());
            assert_eq!(told[0].reason, format!("message of {}", reason.word()));
        }
    }

    #[test]
    fn a_reference_is_missing_after_30_s() {
        let missing = [
            (Stalled, "True", Reason::ConfigInvalid),
            (ConfigValid, "False", Reason::ReferenceNotFound),
        ];
        let at = |second| of_status(&status(&missing), &|_| None, at(second));
        assert_eq!(at(100), []);
        assert_eq!(at(129), []);
        let told = at(130);
        assert_eq!(events(&told), [ConfigurationRefused]);
        assert_eq!(told[0].since.as_second(), 130);
        assert_eq!(at(5000), told, "its time stays");
        // A clock that was set back by an hour.
        assert_eq!(events(&at(-3500)), [ConfigurationRefused]);
        // It was invalid before: it goes on.
        let told = wrong(&[(ConfigValid, "False", Reason::Invalid)], &[]);
        let known = |key: &Key| told.iter().find(|alert| alert.key == *key).cloned();
        let goes_on = of_status(&status(&missing), &known, self::at(110));
        assert_eq!(events(&goes_on), [ConfigurationRefused]);
    }

    #[test]
    fn while_the_api_server_is_away_a_refusal_is_neither_told_nor_over() {
        let told = wrong(&[(Stalled, "True", Reason::Refused)], &[]);
        let away = [(Reconciling, "True", Reason::Retrying)];
        assert_eq!(wrong(&away, &told), told);
        assert_eq!(wrong(&away, &[]), []);
        let unknown = [(ConfigValid, "Unknown", Reason::NotLookedAt)];
        assert_eq!(wrong(&unknown, &told), told);
        assert_eq!(wrong(&[], &told), []);
    }

    #[test]
    fn a_stuck_rollout_is_told_until_it_goes_on() {
        let told = wrong(&[(Stalled, "True", Reason::RolloutStuck)], &[]);
        assert_eq!(events(&told), [RolloutStuck]);
        let invalid = [
            (Stalled, "True", Reason::ConfigInvalid),
            (ConfigValid, "False", Reason::Invalid),
        ];
        assert_eq!(
            events(&wrong(&invalid, &told)),
            [ConfigurationRefused, RolloutStuck],
            "what is in the way hides it"
        );
        assert_eq!(events(&wrong(&invalid, &[])), [ConfigurationRefused]);
        assert_eq!(wrong(&[], &told), []);
    }

    #[test]
    fn what_is_suspended_or_deleted_tells_nothing_of_its_spec() {
        for reason in [Reason::Suspended, Reason::Deleting] {
            let said = [
                (Reconciling, "False", reason),
                (ConfigValid, "False", Reason::Invalid),
                (Stalled, "True", Reason::RolloutStuck),
                (UpstreamReachable, "False", Reason::NoAnswer),
            ];
            assert_eq!(events(&wrong(&said, &[])), [UpstreamUnreachable]);
        }
    }

    #[test]
    fn each_certificate_that_is_not_valid_is_told_by_itself() {
        let certificate = |secret: &str, state| CertificateStatus {
            secret: secret.to_owned(),
            key: "tls.crt".to_owned(),
            state,
            since: at(200),
            not_before: at(0),
            not_after: at(2000),
        };
        let status = PgPoolClusterStatus {
            certificates: vec![
                certificate("a", CertificateState::Expiring),
                certificate("b", CertificateState::Valid),
                certificate("c", CertificateState::Expired),
                certificate("d", CertificateState::NotValidYet),
                certificate(&"e".repeat(70), CertificateState::Expired),
                certificate(&"e".repeat(71), CertificateState::Expired),
            ],
            ..status(&[])
        };
        let told = of_status(&status, &|_| None, at(1000));
        assert_eq!(events(&told), [CertificateExpiring; 4]);
        let said: Vec<_> = told[..3]
            .iter()
            .map(|alert| (&*alert.key.subject, &*alert.reason, alert.since))
            .collect();
        assert_eq!(
            said,
            [
                ("a/tls.crt", "expires at 1970-01-01T00:33:20Z", at(200)),
                ("c/tls.crt", "expired at 1970-01-01T00:33:20Z", at(200)),
                (
                    "d/tls.crt",
                    "is not valid before 1970-01-01T00:00:00Z",
                    at(200)
                ),
            ]
        );
    }
}
