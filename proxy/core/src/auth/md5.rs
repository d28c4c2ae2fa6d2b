//! PostgreSQL's md5 authentication.
//!
//! Source: <https://www.postgresql.org/docs/17/auth-password.html> and the
//! AuthenticationMD5Password message of
//! <https://www.postgresql.org/docs/17/protocol-flow.html>.

use md5::{Digest, Md5};

/// Bytes of a stored hash: `md5` and 32 hexadecimal digits.
const LENGTH: usize = 35;

/// The stored form of a password: `md5` and the hexadecimal MD5 of password and
/// user name.
#[must_use]
pub fn hash(user: &str, password: &str) -> String {
    tagged(&[password.as_bytes(), user.as_bytes()])
}

/// Whether `text` has the form of a stored hash.
#[must_use]
pub fn is_hash(text: &str) -> bool {
    text.len() == LENGTH
        && text.strip_prefix("md5").is_some_and(|digits| {
            digits
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
}

/// The answer to a challenge: `md5` and the hexadecimal MD5 of the stored hash's
/// digits and the salt.
#[must_use]
pub fn response(stored_hash: &str, salt: [u8; 4]) -> String {
    let digits = stored_hash.strip_prefix("md5").unwrap_or(stored_hash);
    tagged(&[digits.as_bytes(), &salt])
}

/// Whether `answer`, as the client sent it, answers the challenge. Takes the
/// same time for every answer of one length.
#[must_use]
pub fn check(stored_hash: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    super::same(response(stored_hash, salt).as_bytes(), answer)
}

fn tagged(parts: &[&[u8]]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut text = String::with_capacity(LENGTH);
    text.push_str("md5");
    for byte in md5.finalize() {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_postgresql_s() {
        // From pg_authid of PostgreSQL 15.
        assert_eq!(hash("old", "pencil"), "md5b15721e6326bc6e9a7c72a38963ec03d");
        assert!(is_hash(&hash("admin", "1234")));
    }

    #[test]
    fn only_a_stored_hash_looks_like_one() {
        assert!(!is_hash("md5"));
        assert!(!is_hash("md545f2603610af569b6155c45067268c6"));
        assert!(!is_hash("md545F2603610AF569B6155C45067268C6B"));
        assert!(!is_hash("mdx45f2603610af569b6155c45067268c6b"));
    }

    #[test]
    fn the_right_answer_to_the_right_challenge_passes() {
        let stored = hash("ann", "pass");
        let answer = response(&stored, [1, 2, 3, 4]);
        assert!(check(&stored, [1, 2, 3, 4], answer.as_bytes()));
        assert!(!check(&stored, [1, 2, 3, 5], answer.as_bytes()));
        assert!(!check(
            &hash("bob", "pass"),
            [1, 2, 3, 4],
            answer.as_bytes()
        ));
        assert!(!check(&stored, [1, 2, 3, 4], &answer.as_bytes()[..34]));
        assert!(!check(&stored, [1, 2, 3, 4], b""));
    }
}
