//! What follows from a `PgPoolCluster`: dereference → validate → build → status.
//!
//! [`dereference`] lists what is read from elsewhere, [`validate`] turns it into
//! types that cannot be wrong, [`build`] describes the tier, [`objects`] says
//! what realises it on Kubernetes, [`status`] what was observed of it. All of it
//! is pure. `local` realises the same description as processes.

pub mod build;
pub mod dereference;
pub mod objects;
pub mod status;

pub mod validate;

use std::fmt;

/// Something wrong in a cluster or in what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong and what would be right. Never holds a secret.
    pub message: String,
}

impl Fault {
    /// A fault in a field of the cluster, such as `spec.pool.mode`.
    pub fn field(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: Place::Field(path.into()),
            message: message.into(),
        }
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
