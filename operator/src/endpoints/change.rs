//! Which endpoint changed, and what that means to people.

use jiff::Timestamp;

use crate::{
    api::{Component, EndpointState},
    controller::build::{balancer_name, pooler_name},
};

/// One endpoint: what it is and its number among its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Pooler or balancer.
    pub component: Component,
    /// From 0.
    pub index: usize,
}

impl Id {
    /// Pooler `index`.
    #[must_use]
    pub const fn pooler(index: usize) -> Self {
        Self {
            component: Component::Pooler,
            index,
        }
    }

    /// Balancer `index`.
    #[must_use]
    pub const fn balancer(index: usize) -> Self {
        Self {
            component: Component::Balancer,
            index,
        }
    }

    /// Its name in `operator local`, such as `pooler-0`.
    #[must_use]
    pub fn name(self) -> String {
        match self.component {
            Component::Pooler => pooler_name(self.index),
            Component::Balancer => balancer_name(self.index),
        }
    }
}

/// A change of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// State before.
    pub from: EndpointState,
    /// State after; the same for a restart.
    pub to: EndpointState,
    /// When it happened.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// What it means to people.
    pub outage: Outage,
    /// Endpoints of its kind that are up after it.
    pub up: u32,
    /// Endpoints of its kind in all.
    pub total: u32,
}

/// What a change means to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Nothing: it was planned, or is no news.
    None,
    /// It is out of service.
    Begins,
    /// It is back.
    Ends {
        /// When it went.
        since: Timestamp,
    },
    /// It came back as a new process before anyone missed it.
    Restarted,
}
