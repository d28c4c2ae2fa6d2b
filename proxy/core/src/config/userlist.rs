//! userlist.txt: who may log in, and with which secret.

use std::{collections::BTreeMap, fmt};

use super::{Problem, ini::unquote};
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

impl Secret {
    fn kind(&self) -> SecretKind {
        match self {
            Self::Plain(_) => SecretKind::Plain,
            Self::Md5(_) => SecretKind::Md5,
            Self::Scram(_) => SecretKind::Scram,
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

/// What a secret can be checked by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretKind {
    /// Everything: the password is known.
    Plain,
    /// md5 alone.
    #[default]
    Md5,
    /// SCRAM alone.
    Scram,
}

/// The users of userlist.txt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Userlist {
    users: BTreeMap<String, Option<Secret>>,
    /// Of most secrets.
    usual: SecretKind,
}

impl Userlist {
    /// Whether the user is listed: all that trust asks for.
    #[must_use]
    pub fn contains(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// The secret of a user; `None` for a user who is not listed, and for one
    /// whose secret is empty, who can prove nothing. So no empty password ever
    /// counts as one.
    #[must_use]
    pub fn secret(&self, user: &str) -> Option<&Secret> {
        self.users.get(user)?.as_ref()
    }

    /// Of which kind the user's secret is; for a user without one, of which kind
    /// most are: what is asked of a user must not tell whether it is listed.
    #[must_use]
    pub fn secret_kind(&self, user: &str) -> SecretKind {
        self.secret(user).map_or(self.usual, Secret::kind)
    }

    /// Users and secrets, by name.
    pub fn users(&self) -> impl Iterator<Item = (&str, Option<&Secret>)> {
        self.users
            .iter()
            .map(|(user, secret)| (user.as_str(), secret.as_ref()))
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
                let secret = (!secret.is_empty()).then(|| Secret::read(&secret));
                list.users.insert(user, secret);
            }
            Err(message) => problems.push(Problem {
                file: file.to_owned(),
                line: u32::try_from(index + 1).unwrap_or(u32::MAX),
                message: message.to_owned(),
            }),
        }
    }
    let secrets = list.users.values().flatten();
    let (verifiers, others): (Vec<_>, Vec<_>) =
        secrets.partition(|secret| secret.kind() == SecretKind::Scram);
    if verifiers.len() > others.len() {
        list.usual = SecretKind::Scram;
    }
    if problems.is_empty() {
        Ok(list)
    } else {
        Err(problems)
    }
}

fn entry(line: &str) -> Result<(String, String), &'static str> {
    let (user, rest) = quoted(line).ok_or("expected \"user\" \"secret\", both in double quotes")?;
    let (secret, _) = quoted(rest).ok_or("expected a secret in double quotes after the user")?;
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

/// Takes a field in double quotes; returns it and the rest.
fn quoted(text: &str) -> Option<(String, &str)> {
    unquote(text.trim_start().strip_prefix('"')?, '"')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_is_not_listed_has_the_usual_kind_of_secret() {
        let verifier = Verifier::derive("pencil", b"salt", 2).format();
        let two = format!("\"ann\" \"{verifier}\"\n\"bob\" \"plain\"\n");
        let three = format!("{two}\"carl\" \"{verifier}\"\n\"none\" \"\"\n");
        for (text, kind) in [(two, SecretKind::Md5), (three, SecretKind::Scram)] {
            let list = parse("userlist.txt", &text).unwrap();
            assert_eq!(list.secret_kind("none"), kind);
            assert_eq!(list.secret_kind("nobody"), kind);
            assert_eq!(list.secret_kind("ann"), SecretKind::Scram);
            assert_eq!(list.secret_kind("bob"), SecretKind::Plain);
        }
    }

    #[test]
    fn the_three_kinds_of_secret_are_told_apart() {
        let verifier = Verifier::derive("pencil", b"salt", 2);
        let text = format!(
            "; comment\r\n\n\"ann\" \"pa\"\"ss\" rest is ignored\r\n  \"bob\"\t\"{}\"\n\"e\"\"ve\"\"{}\"\n\"none\" \"\"",
            md5::hash("bob", "pencil"),
            verifier.format()
        );
        // "e""ve""SCRAM…" without a space would be one field, as in PgBouncer.
        assert!(parse("userlist.txt", &text).is_err());
        let list = parse("userlist.txt", &text.replace("ve\"\"", "ve\" \"")).unwrap();
        assert_eq!(list.len(), 4);
        assert!(!list.is_empty());
        assert_eq!(
            list.secret("ann"),
            Some(&Secret::Plain("pa\"ss".to_owned()))
        );
        assert!(matches!(list.secret("bob"), Some(Secret::Md5(_))));
        assert_eq!(list.secret("e\"ve"), Some(&Secret::Scram(verifier)));
        assert_eq!(list.secret("none"), None);
        assert!(list.contains("none"));
        assert_eq!(list.secret("mallory"), None);
        assert!(!list.contains("mallory"));
        let users: Vec<&str> = list.users().map(|(user, _)| user).collect();
        assert_eq!(users, ["ann", "bob", "e\"ve", "none"]);
    }

    #[test]
    fn the_last_of_two_lines_counts() {
        let list = parse("u", "\"ann\" \"old\"\n\"ann\" \"new\"").unwrap();
        assert_eq!(list.secret("ann"), Some(&Secret::Plain("new".to_owned())));
    }

    #[test]
    fn every_bad_line_is_told_and_no_secret_with_it() {
        let long = "x".repeat(128);
        let text = format!(
            "ann s3cret\n\"ann\" s3cret\n\"ann\"\n\"ann\" \"s3cret\n\"\" \"s3cret\"\n# s3cret\n\"{long}\" \"s3cret\"\n\"ann\" \"s3cret{}\"",
            "x".repeat(2048)
        );
        let problems = parse("u.txt", &text).unwrap_err();
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "u.txt:1: expected \"user\" \"secret\", both in double quotes",
                "u.txt:2: expected a secret in double quotes after the user",
                "u.txt:3: expected a secret in double quotes after the user",
                "u.txt:4: expected a secret in double quotes after the user",
                "u.txt:5: the user is empty",
                "u.txt:6: expected \"user\" \"secret\", both in double quotes",
                "u.txt:7: the user is longer than 127 bytes",
                "u.txt:8: the secret is longer than 2047 bytes",
            ]
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        for text in [
            "s3cret".to_owned(),
            md5::hash("ann", "s3cret"),
            Verifier::derive("s3cret", b"salt", 2).format(),
        ] {
            let list = parse("u", &format!("\"ann\" \"{text}\"")).unwrap();
            let shown = format!("{list:?}");
            assert!(shown.contains("ann"), "{shown}");
            assert!(!shown.contains(&text[4..]), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn quoting_keeps_every_name_and_secret(user in "[^\r\n\0]{1,30}", secret in "[^\r\n\0]{1,60}") {
            let text = format!("\"{}\" \"{}\"", user.replace('"', "\"\""), secret.replace('"', "\"\""));
            let list = parse("u", &text).unwrap();
            prop_assert_eq!(list.secret(&user), Some(&Secret::read(&secret)));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[\"a \n;]{0,60}") {
            let _ = parse("u", &text);
        }
    }
}
