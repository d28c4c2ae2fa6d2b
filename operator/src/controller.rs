//! What follows from a `PgPoolCluster`: dereference → validate → build → status.
//!
//! [`dereference`] lists what is read from elsewhere, [`validate`] turns it into
//! types that cannot be wrong, [`build`] describes the tier, [`objects`] says
//! what realises it on Kubernetes, [`status`] what was observed of it,
//! [`certificates`] until when they are good. All of it is pure. `local` realises the same description as processes.

pub mod build;
pub mod certificates;
pub mod dereference;
pub mod objects;
pub mod status;

pub mod validate;

use std::fmt;

/// Something wrong in a cluster or in what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Of which kind: what has to happen until it is gone.
    pub kind: FaultKind,
    /// Where.
    pub place: Place,
    /// What is wrong and what would be right. Never holds a secret.
    pub message: String,
}

/// What has to happen until a fault is gone. Of several, the first in this order
/// is what users are told: nothing else helps as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// It can never be so: the manifest, or a Secret, must be changed.
    Invalid,
    /// It is right, and Poolkeeper cannot do it yet.
    NotSupportedYet,
    /// A Secret, a key of it or a Service is not there, and may yet come.
    MissingReference,
}

impl Fault {
    /// What is invalid in a field of the cluster, such as `spec.pool.mode`.
    pub fn field(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Invalid,
            place: Place::Field(path.into()),
            message: message.into(),
        }
    }

    /// What is invalid in a Secret's value, at a line of it.
    pub fn secret(name: &str, key: &str, line: u32, message: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Invalid,
            place: Place::Secret {
                name: name.to_owned(),
                key: key.to_owned(),
                line,
            },
            message: message.into(),
        }
    }

    /// The same fault, of another kind.
    #[must_use]
    pub fn of_kind(self, kind: FaultKind) -> Self {
        Self { kind, ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Field(path) => write!(f, "{path}: {}", self.message),
            Place::Secret { name, key, line } => {
                write!(f, "Secret {name}, key {key}, line {line}: {}", self.message)
            }
        }
    }
}

/// Where a fault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A field of the cluster, such as `spec.databases[0].name`.
    Field(String),
    /// A line of a Secret's value.
    Secret {
        /// Name of the Secret, in the cluster's namespace.
        name: String,
        /// Key in it.
        key: String,
        /// Line of the value, counted from 1.
        line: u32,
    },
}
