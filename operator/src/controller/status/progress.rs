//! How far a cluster's spec has been carried out.

use crate::{
    api::Component,
    controller::{Fault, FaultKind},
};

/// What became of the last look at a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything was applied as the spec wants it.
    Applied,
    /// `spec.suspend` is set: everything stays as it is.
    Suspended,
    /// It is being deleted.
    Deleting,
    /// The spec, or what it refers to, cannot be carried out; what runs goes on
    /// with the last one that could.
    Invalid(Vec<Fault>),
    /// The object cannot even be read.
    Unreadable(String),
    /// An object of a name that is needed belongs to somebody else.
    NameConflict(String),
    /// The operator lacks a right, or the API server does not take what it sends.
    Refused(String),
    /// The API server could not be reached, or somebody else wrote in between:
    /// tried again soon.
    Interrupted(String),
}

impl Progress {
    /// Whether something that the spec refers to is not there, and may yet come.
    #[must_use]
    pub fn lacks_reference(&self) -> bool {
        match self {
            Self::Invalid(faults) => faults
                .iter()
                .any(|fault| fault.kind == FaultKind::MissingReference),
            _ => false,
        }
    }
}

/// Whether pools are to be paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// `pool.state: Paused`.
    pub wished: bool,
    /// Poolers that say that they are paused.
    pub observed: i32,
}

/// Both Deployments, as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollouts {
    /// Of the poolers.
    pub poolers: Rollout,
    /// Of the balancers.
    pub balancers: Rollout,
}

impl Rollouts {
    /// That of a component.
    #[must_use]
    pub const fn of(&self, component: Component) -> &Rollout {
        match component {
            Component::Pooler => &self.poolers,
            Component::Balancer => &self.balancers,
        }
    }
}

/// A Deployment, as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Pods that it should have; 0 if it is not there.
    pub wished: i32,
    /// Pods that it has.
    pub replicas: i32,
    /// Of these, as its present template says.
    pub updated: i32,
    /// Ready for long enough.
    pub available: i32,
    /// How many Pods it is to have once those that are there leave room for their
    /// servers, if that is not so yet.
    pub held: Option<i32>,
    /// Its controller has not looked at its present spec yet, or we have not seen it.
    pub outdated: bool,
    /// Why it does not get on, if its deadline has passed.
    pub stuck: Option<String>,
    /// Label selector of its Pods.
    pub selector: String,
}

impl Rollout {
    /// Whether there is one: no component may have less than one Pod.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.wished > 0
    }

    /// Why the present one does not get on. What is said of the one before no
    /// longer counts.
    #[must_use]
    pub fn stuck(&self) -> Option<&str> {
        self.stuck.as_deref().filter(|_| !self.outdated)
    }

    /// Whether none of its Pods is of a template before. Some may be missing.
    #[must_use]
    pub const fn is_all_new(&self) -> bool {
        !self.outdated && self.updated == self.replicas && self.replicas <= self.wished
    }

    /// Whether Pods of it are to come or to go, and its deadline has not passed.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        !self.is_settled() && self.stuck().is_none()
    }

    /// Whether all its Pods are as it says, and no others are left.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.is_settled() && self.available == self.wished
    }

    /// Whether all its Pods are there as it says, available or not, and no others.
    const fn is_settled(&self) -> bool {
        !self.outdated && self.updated == self.wished && self.replicas == self.wished
    }
}
