//! The configuration of both proxies: what the operator writes and the proxies
//! read, with the same checks on both sides.

pub mod balancer;

use std::fmt;

/// Something wrong in a configuration file: where, and what would be right.
///
/// Shown as `FILE:LINE: message`. The message never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The file as the user named it.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
    /// What is wrong: the key, its value, what is accepted.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// When a server is given back by the client it was lent to (`pool_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client disconnects.
    #[default]
    Session,
    /// When the transaction ends.
    Transaction,
    /// When the statement ends; transaction blocks are refused.
    Statement,
}
