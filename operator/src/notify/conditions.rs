//! What of an object's conditions is wrong.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Alert, Key};
use crate::{
    api::{NotificationEvent, PgPoolClusterStatus},
    controller::status::Reason,
};

/// The key of a PostgreSQL that no pooler reaches.
#[must_use]
fn upstream_key() -> Key {
    Key::new(NotificationEvent::UpstreamUnreachable, "")
}

/// That no pooler reaches PostgreSQL, if the condition UpstreamReachable says
/// so; if it says that nothing is known, what was known before.
///
/// That some poolers do not reach it is not told: those that begin to fail do
/// so one after the other.
#[must_use]
fn upstream(condition: Option<&Condition>, known: Option<&Alert>) -> Option<Alert> {
    let Some(condition) = condition.filter(|condition| condition.status != "Unknown") else {
        return known.cloned();
    };
    let partly = condition.reason == Reason::PartlyReachable.word();
    let unreachable = condition.status == "False" && !partly;
    unreachable.then(|| {
        let since = condition.last_transition_time.0;
        Alert::new(upstream_key(), since, &condition.message, None)
    })
}

/// Everything that is wrong by a status' conditions.
#[must_use]
pub fn of_status(
    status: &PgPoolClusterStatus,
    known: &dyn Fn(&Key) -> Option<Alert>,
    _now: jiff::Timestamp,
) -> Vec<Alert> {
    let type_ = crate::controller::status::ConditionType::UpstreamReachable.word();
    let condition = status.conditions.iter().find(|one| one.type_ == type_);
    let known = known(&upstream_key());
    upstream(condition, known.as_ref()).into_iter().collect()
}

/// Whether what is wrong by it depends on the time.
#[must_use]
pub fn is_waiting(_status: &PgPoolClusterStatus) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn condition(status: &str, reason: Reason) -> Condition {
        Condition {
            type_: "UpstreamReachable".to_owned(),
            status: status.to_owned(),
            reason: reason.word().to_owned(),
            message: "3 of 3 poolers cannot use PostgreSQL: connection refused".to_owned(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    #[test]
    fn unreachable_is_wrong_and_not_known_changes_nothing() {
        let unreachable = condition("False", Reason::ConnectionRefused);
        let alert = upstream(Some(&unreachable), None);
        let said = alert.as_ref().map(|alert| alert.reason.as_str());
        assert_eq!(said, Some(unreachable.message.as_str()));
        let unknown = condition("Unknown", Reason::NotReported);
        assert_eq!(upstream(Some(&unknown), None), None);
        assert_eq!(upstream(Some(&unknown), alert.as_ref()), alert);
        assert_eq!(upstream(None, alert.as_ref()), alert);
        let partly = condition("False", Reason::PartlyReachable);
        assert_eq!(upstream(Some(&partly), alert.as_ref()), None);
        let reachable = condition("True", Reason::Reachable);
        assert_eq!(upstream(Some(&reachable), alert.as_ref()), None);
    }
}
