//! What of the endpoints' judgement is wrong.

use jiff::Timestamp;

use super::{Alert, Count, Happening, Key};
use crate::{
    api::{Component, NotificationEvent},
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
        let key = key(&endpoints.name(id));
        Some(Alert::new(
            key,
            since,
            judgement.outage_reason(),
            Some(count),
        ))
    }));
    alerts.extend(endpoints.lost().map(|lost| {
        let count = count(endpoints, lost.component);
        Alert::new(key(&lost.name), lost.since, &lost.reason, Some(count))
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
    let alert = || Alert::new(key(&change.name), change.at, &change.reason, Some(count));
    match change.outage {
        Outage::None => None,
        Outage::Begins => Some(Happening::Began(alert())),
        Outage::Restarted => Some(Happening::Restarted(alert())),
        Outage::Ends { .. } => Some(Happening::Ended {
            key: key(&change.name),
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
    let lost = endpoints.lost().filter(|lost| lost.component == component);
    let since: Option<Timestamp> = of_kind
        .iter()
        .filter_map(|id| endpoints.judgement(*id).outage_since)
        .chain(lost.map(|lost| lost.since))
        .max();
    if of_kind.iter().any(|id| endpoints.may_serve(*id)) {
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

fn key(name: &str) -> Key {
    Key::new(NotificationEvent::EndpointDown, name)
}

fn count(endpoints: &Endpoints, of: Component) -> Count {
    let (up, total) = endpoints.count(of);
    Count { of, up, total }
}
