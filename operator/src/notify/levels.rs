//! What of the endpoints' judgement is wrong.

use jiff::Timestamp;

use super::{Alert, Count, Happening, Key};
use crate::{
    api::{Component, EndpointState, NotificationEvent},
    endpoints::{Change, Endpoints, Id, Outage},
};

/// Everything that is wrong with the endpoints now: each that is out of
/// service, and the tier where none of a kind is left.
#[must_use]
pub fn alerts(endpoints: &Endpoints) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Component::ALL
        .into_iter()
        .filter_map(|component| tier_down(endpoints, component))
        .take(1)
        .collect();
    alerts.extend(endpoints.ids().filter_map(|id| {
        let judgement = endpoints.judgement(id);
        let since = judgement.outage_since?;
        let count = count(endpoints, id.component);
        Some(Alert::new(key(id), since, &judgement.reason, Some(count)))
    }));
    alerts
}

/// What changes of endpoints mean to people.
#[must_use]
pub fn happenings(changes: &[Change]) -> Vec<Happening> {
    changes.iter().filter_map(happening).collect()
}

fn happening(change: &Change) -> Option<Happening> {
    let count = Count {
        of: change.id.component,
        up: change.up,
        total: change.total,
    };
    let alert = || Alert::new(key(change.id), change.at, &change.reason, Some(count));
    match change.outage {
        Outage::None => None,
        Outage::Begins => Some(Happening::Began(alert())),
        Outage::Restarted => Some(Happening::Restarted(alert())),
        Outage::Ends { .. } => Some(Happening::Ended {
            key: key(change.id),
            at: change.at,
            reason: change.reason.clone(),
            count: Some(count),
        }),
    }
}

/// Nothing serves: none of a kind is up, or not judged yet, and that was not
/// meant to be.
fn tier_down(endpoints: &Endpoints, component: Component) -> Option<Alert> {
    let of_kind: Vec<Id> = endpoints
        .ids()
        .filter(|id| id.component == component)
        .collect();
    let serves = |id: &Id| {
        matches!(
            endpoints.judgement(*id).state,
            EndpointState::Up | EndpointState::Unknown
        )
    };
    let since: Option<Timestamp> = of_kind
        .iter()
        .filter_map(|id| endpoints.judgement(*id).outage_since)
        .max();
    if of_kind.iter().any(serves) {
        return None;
    }
    let reason = format!("no {} is up", component.word());
    let key = Key::new(NotificationEvent::TierDown, "");
    Some(Alert::new(
        key,
        since?,
        &reason,
        Some(count(endpoints, component)),
    ))
}

fn key(id: Id) -> Key {
    Key::new(NotificationEvent::EndpointDown, &id.name())
}

fn count(endpoints: &Endpoints, of: Component) -> Count {
    let (up, total) = endpoints.count(of);
    Count { of, up, total }
}
