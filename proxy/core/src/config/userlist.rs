//! userlist.txt: who may log in, and with which secret.

use std::{collections::BTreeMap, fmt};

use super::Problem;
use crate::auth::{md5, scram::Verifier};

/// Longest user name, as in PgBouncer (`MAX_USERNAME` less the final zero).
pub const USER_LENGTH_MAX: usize = 127;

/// Longest secret, as in PgBouncer (`MAX_PASSWORD` less the final zero).
pub const SECRET_LENGTH_MAX: usize = 2047;

/// A password, or what is stored instead of one.
///
/// Debug shows which, never the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself.
    Plain(String),
    /// `md5` and 32 hexadecimal digits.
    Md5(String),
    /// A SCRAM-SHA-256 verifier.
    Scram(Verifier),
}

impl Secret {
    /// Tells the three forms apart, as PostgreSQL does.
    #[must_use]
    pub fn read(text: &str) -> Self {
        if md5::is_hash(text) {
            return Self::Md5(text.to_owned());
        }
        match Verifier::parse(text) {
            Some(verifier) => Self::Scram(verifier),
            None => Self::Plain(text.to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(..)",
            Self::Md5(_) => "Md5(..)",
            Self::Scram(_) => "Scram(..)",
        })
    }
}

/// The users of userlist.txt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Userlist {
    users: BTreeMap<String, Secret>,
}

impl Userlist {
    /// The secret of a user; `None` for a user who is not listed.
    ///
    /// An empty plain password means that the user exists and no password fits.
    #[must_use]
    pub fn secret(&self, user: &str) -> Option<&Secret> {
        self.users.get(user)
    }

    /// Users and secrets, by name.
    pub fn users(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.users
            .iter()
            .map(|(user, secret)| (user.as_str(), secret))
    }

    /// Number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// Reads the file: `"user" "secret"` a line, `""` for a quote inside, what
/// follows is ignored, as are lines that begin with `;`.
///
/// # Errors
/// Every line that cannot be read. Unlike PgBouncer we do not stop at the first
/// and leave the rest of the users out.
pub fn parse(file: &str, text: &str) -> Result<Userlist, Vec<Problem>> {
    let mut list = Userlist::default();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        match entry(line) {
            Ok((user, secret)) => {
                list.users.insert(user, Secret::read(&secret));
            }
            Err(message) => problems.push(Problem {
                file: file.to_owned(),
                line: u32::try_from(index + 1).unwrap_or(u32::MAX),
                message: message.to_owned(),
            }),
        }
    }
    if problems.is_empty() {
        Ok(list)
    } else {
        Err(problems)
    }
}

fn entry(line: &str) -> Result<(String, String), &'static str> {
    let (user, rest) = quoted(line).ok_or("expected \"user\" \"secret\", both in double quotes")?;
    let (secret, _) =
        quoted(rest.trim_start()).ok_or("expected a secret in double quotes after the user")?;
    if user.is_empty() {
        return Err("the user is empty");
    }
    if user.len() > USER_LENGTH_MAX {
        return Err("the user is longer than 127 bytes");
    }
    if secret.len() > SECRET_LENGTH_MAX {
        return Err("the secret is longer than 2047 bytes");
    }
    Ok((user, secret))
}

/// Takes a field in double quotes from the start; returns it and the rest.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut field = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, after)),
        }
    }
}
