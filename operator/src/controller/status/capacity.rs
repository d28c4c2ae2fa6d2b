//! Whether applications are served in time, from what poolers say of themselves.
//!
//! False as soon as one pooler that is up is saturated: its clients wait. Poolers
//! have their own hysteresis, so that none is wanted here; who says nothing has
//! no vote.

use proxy_core::saturation::{Reason as Cause, SaturationReport};

use super::{Observed, reason::Reason};
use crate::api::{Component, EndpointCapacity, EndpointState};

impl EndpointCapacity {
    /// What a pooler says, as the status has it; `None` if it says nothing that
    /// is understood.
    #[must_use]
    pub fn of(report: SaturationReport) -> Option<Self> {
        Some(match report.reason {
            None => Self::Available,
            Some(Cause::ClientsRefused) => Self::ClientsRefused,
            Some(Cause::MaxServerConnections) => Self::MaxServerConnections,
            Some(Cause::MaxDbConnections) => Self::MaxDbConnections,
            Some(Cause::MaxUserConnections) => Self::MaxUserConnections,
            Some(Cause::ClientsWait) => Self::ClientsWait,
            Some(Cause::Unknown) => return None,
        })
    }
}

/// The condition's reason, and how a message goes on after "of 3 poolers".
const fn said(capacity: EndpointCapacity) -> (Reason, &'static str) {
    match capacity {
        EndpointCapacity::Available => (Reason::HasCapacity, "serve their clients in time"),
        EndpointCapacity::ClientsWait => (
            Reason::ClientsWait,
            "let clients wait too long for a server of their pool",
        ),
        EndpointCapacity::MaxUserConnections => (
            Reason::ConnectionsUsedUp,
            "let clients wait too long: maxConnections of a user (max_user_connections) is used up",
        ),
        EndpointCapacity::MaxDbConnections => (
            Reason::ConnectionsUsedUp,
            "let clients wait too long: maxConnections of a database (max_db_connections) is used up",
        ),
        EndpointCapacity::MaxServerConnections => (
            Reason::ConnectionsUsedUp,
            "let clients wait too long: the share of pool.maxServerConnections is used up",
        ),
        EndpointCapacity::ClientsRefused => (
            Reason::ClientsRefused,
            "refuse clients: pool.maxClientConnections is used up",
        ),
    }
}

/// Reason and message, of the worst that a pooler says; `None` if none tells.
pub(super) fn verdict(observed: &Observed<'_>) -> Option<(Reason, String)> {
    let poolers = observed
        .endpoints
        .iter()
        .filter(|one| one.component == Component::Pooler && one.state == EndpointState::Up);
    let all = poolers.clone().count();
    let told: Vec<EndpointCapacity> = poolers.filter_map(|pooler| pooler.capacity).collect();
    let worst = told.iter().copied().max()?;
    let count = told.iter().filter(|one| **one == worst).count();
    let (reason, words) = said(worst);
    Some((reason, format!("{count} of {all} poolers {words}")))
}
