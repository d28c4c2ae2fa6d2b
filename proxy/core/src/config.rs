//! The configuration of both proxies: what the operator writes and the proxies
//! read, with the same checks on both sides.

pub mod balancer;
pub mod ini;
pub mod pooler;
pub mod settings;
pub mod userlist;

use std::{borrow::Cow, fmt};

pub use pooler::{PoolerConfig, load};
pub use settings::{AuthType, Database, Global, LogFormat, Peer, PoolMode, SslMode, User};
pub use userlist::{Secret, Userlist};

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

/// A value of the file inside a message: short, and without control characters.
fn excerpt(text: &str) -> Cow<'_, str> {
    const LENGTH_MAX: usize = 80;
    if text.len() <= LENGTH_MAX && !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut short: String = text
        .chars()
        .take(LENGTH_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LENGTH_MAX).is_some() {
        short.push('…');
    }
    Cow::Owned(short)
}
