//! The configuration of both proxies: what the operator writes and the proxies
//! read, with the same checks on both sides.

pub mod balancer;
mod bind;
pub mod ini;
pub mod pooler;
pub mod settings;
pub mod userlist;
mod yaml;

use std::{borrow::Cow, fmt};

pub use bind::Bind;
pub use pooler::{PoolerConfig, load};
pub use settings::{
    AdvertisedAddress, AuthType, Database, Global, ListenAddress, LogFormat, Network, Peer,
    PeerName, PoolMode, ProxyProtocol, SslMode, TlsProtocols, User,
};
pub use userlist::{Secret, SecretKind, Userlist};

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

/// The one of `known` that `name` is most likely a misspelling of.
fn nearest(known: impl Iterator<Item = &'static str>, name: &str) -> Option<&'static str> {
    known
        .map(|known| (distance(known, name), known))
        .filter(|(distance, known)| *distance <= 1 + known.len().min(name.len()) / 4)
        .min()
        .map(|(_, known)| known)
}

/// Edits (insert, delete, replace, swap neighbours) from one name to another.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    let mut rows = vec![(0..=right.len()).collect::<Vec<usize>>()];
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(a != b))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::{excerpt, nearest};

    #[test]
    fn misspelt_names_are_recognised_and_other_words_are_not() {
        let known = ["max_client_conn", "pool_mode", "user", "port"];
        let nearest = |name| nearest(known.into_iter(), name);
        assert_eq!(nearest("max_client_con"), Some("max_client_conn"));
        assert_eq!(nearest("max_clients_conn"), Some("max_client_conn"));
        assert_eq!(nearest("poolmode"), Some("pool_mode"));
        assert_eq!(nearest("prot"), Some("port"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(nearest(""), None);
    }

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(excerpt("plain"), "plain");
        assert_eq!(excerpt("a\nb\0"), "a b ");
        let long = excerpt(&"ä".repeat(1000)).into_owned();
        assert_eq!(long.chars().count(), 81);
    }
}
