//! What is derived from a password, and what is stored instead of it.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Most iterations accepted, from a file or a server: a tenth of a second of work.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// Bytes of the salts we make, as in PostgreSQL.
pub const SALT_LENGTH: usize = 16;

/// Longest salt accepted.
const SALT_LENGTH_MAX: usize = 1024;

pub(super) type Hash = [u8; 32];

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Hash {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn hash(data: &Hash) -> Hash {
    Sha256::digest(data).into()
}

pub(super) fn xor(left: &Hash, right: &Hash) -> Hash {
    std::array::from_fn(|i| left[i] ^ right[i])
}

/// Base64 with the standard alphabet, padded, nothing around it.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

pub(super) fn decode_hash(text: &str) -> Option<Hash> {
    decode(text)?.try_into().ok()
}

pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// A salt from text, none that is empty or huge.
pub(super) fn decode_salt(text: &str) -> Option<Vec<u8>> {
    decode(text).filter(|salt| (1..=SALT_LENGTH_MAX).contains(&salt.len()))
}

/// Iterations from text: 1 to [`ITERATIONS_MAX`], digits alone.
pub(super) fn decode_iterations(text: &str) -> Option<u32> {
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
        .filter(|iterations| (1..=ITERATIONS_MAX).contains(iterations))
}

/// The two keys of a password under one salt: enough to log in to a server that
/// stores a verifier with that salt and number of iterations.
///
/// Debug shows nothing of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Proves the client to the server.
    pub client_key: [u8; 32],
    /// Proves the server to the client.
    pub server_key: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Derives the keys. Slow: half a millisecond for 4,096 iterations.
    ///
    /// A password that SASLprep refuses is taken as it is, as PostgreSQL does.
    /// `iterations` is brought into 1 to [`ITERATIONS_MAX`].
    #[must_use]
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let password = stringprep::saslprep(password).unwrap_or(Cow::Borrowed(password));
        let salted: Hash = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(
            password.as_bytes(),
            salt,
            iterations.clamp(1, ITERATIONS_MAX),
        );
        Self {
            client_key: hmac(&salted, &[b"Client Key"]),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// The keys from a client key that an exchange brought to light, and the
    /// verifier it was checked against: they log in wherever the same verifier
    /// is stored.
    #[must_use]
    pub fn recovered(client_key: [u8; 32], verifier: &Verifier) -> Self {
        Self {
            client_key,
            server_key: verifier.server_key,
        }
    }
}

/// What is stored instead of a password:
/// `SCRAM-SHA-256$4096:salt$stored_key:server_key`, the last three in base64.
///
/// Debug shows the number of iterations alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Iterations of PBKDF2, 1 to [`ITERATIONS_MAX`].
    pub iterations: u32,
    /// Salt of PBKDF2, not empty.
    pub salt: Vec<u8>,
    /// Hash of the client key.
    pub stored_key: [u8; 32],
    /// The server key.
    pub server_key: [u8; 32],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} iterations, ..)", self.iterations)
    }
}

impl Verifier {
    /// Derives a verifier. Slow, see [`Keys::derive`].
    #[must_use]
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.clamp(1, ITERATIONS_MAX);
        let keys = Keys::derive(password, salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: hash(&keys.client_key),
            server_key: keys.server_key,
        }
    }

    /// A verifier that no password fits, for a user who does not exist or has no
    /// password: the exchange looks the same and fails at its end.
    ///
    /// The salt depends on `process_secret` and `user` alone, so that it does not
    /// change from one attempt to the next.
    #[must_use]
    pub fn mock(process_secret: &[u8], user: &str, iterations: u32) -> Self {
        let salt = hmac(process_secret, &[b"salt\0", user.as_bytes()]);
        Self {
            iterations: iterations.clamp(1, ITERATIONS_MAX),
            salt: salt[..SALT_LENGTH].to_vec(),
            stored_key: hmac(process_secret, &[b"stored\0", user.as_bytes()]),
            server_key: hmac(process_secret, &[b"server\0", user.as_bytes()]),
        }
    }

    /// Reads the stored form; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: decode_iterations(iterations)?,
            salt: decode_salt(salt)?,
            stored_key: decode_hash(stored_key)?,
            server_key: decode_hash(server_key)?,
        })
    }

    /// Writes the stored form. It is a secret.
    #[must_use]
    pub fn format(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&self.stored_key),
            encode(&self.server_key)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_reads_back_what_was_written() {
        let verifier = Verifier::derive("pencil", b"0123456789abcdef", 4096);
        let text = verifier.format();
        assert_eq!(Verifier::parse(&text), Some(verifier));
    }

    #[test]
    fn verifiers_are_postgresql_s() {
        // From pg_authid of PostgreSQL 15.
        for (password, stored) in [
            (
                "pencil",
                "SCRAM-SHA-256$4096:9Sez42Zqx+BFwc8Tbrk10Q==$hAbI7XpPNI6hf+mNQpql+fIK+Mjf7DEp6JqQltGPnSY=:6mEFrt4k6lwdaXL0YMRlIZdCFaOdxMLRf05NQKUk8FY=",
            ),
            // SASLprep maps these to "pasIX".
            (
                "p\u{aa}s\u{2168}\u{ad}",
                "SCRAM-SHA-256$4096:5wnBueWleqkoHd4uklaqig==$QckxOKNxAo5y0TkCqUal+CwmeVUIh6fMkafORoRionM=:TeVGz8wbXKEEU90mqmuK5dbFj0uAhRNLYO6twnv5hPY=",
            ),
            // And refuses this one, which is then used as it is.
            (
                "a\u{7}b",
                "SCRAM-SHA-256$4096:C4CsvXHwcnjI2dJOkfLKfw==$z226Gv4jFFWgCeGUf/GqbXdEeYGQmbpJhZ2wzpIOa9E=:gloAQ5Ijs/FhVhU+WJ315nsAd9Ye3JnBz1nPr894FeQ=",
            ),
        ] {
            let verifier = Verifier::parse(stored).unwrap();
            assert_eq!(
                Verifier::derive(password, &verifier.salt, verifier.iterations),
                verifier
            );
            assert_eq!(verifier.format(), stored);
        }
    }

    #[test]
    fn what_is_no_verifier_is_told_apart() {
        let text = Verifier::derive("pencil", b"salt", 2).format();
        for cut in 0..text.len() {
            assert_eq!(Verifier::parse(&text[..cut]), None, "cut at {cut}");
        }
        for wrong in [
            text.replace("$2:", "$0:"),
            text.replace("$2:", "$-2:"),
            text.replace("$2:", "$4294967296:"),
            text.replace("$2:", "$1000001:"),
            text.replace("$2:", "$2::"),
            text.replace("SHA-256", "SHA-1"),
            format!("{text}x"),
        ] {
            assert_eq!(Verifier::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let verifier = Verifier::derive("pencil", b"salt", 2);
        assert_eq!(format!("{verifier:?}"), "Verifier(2 iterations, ..)");
        assert_eq!(
            format!("{:?}", Keys::derive("pencil", b"salt", 2)),
            "Keys(..)"
        );
    }

    #[test]
    fn a_mock_stays_the_same_for_a_user_and_a_process() {
        let mock = Verifier::mock(b"process", "ann", 4096);
        assert_eq!(mock, Verifier::mock(b"process", "ann", 4096));
        assert_ne!(mock.salt, Verifier::mock(b"process", "bob", 4096).salt);
        assert_ne!(mock.salt, Verifier::mock(b"other", "ann", 4096).salt);
        assert_eq!(mock.salt.len(), SALT_LENGTH);
    }

    #[test]
    fn passwords_are_normalised_and_kept_where_they_cannot_be() {
        // A soft hyphen is mapped to nothing; a control character is refused by
        // SASLprep and the password used as it is.
        assert_eq!(
            Keys::derive("pen\u{ad}cil", b"salt", 2),
            Keys::derive("pencil", b"salt", 2)
        );
        assert_ne!(
            Keys::derive("pen\u{7}cil", b"salt", 2),
            Keys::derive("pencil", b"salt", 2)
        );
    }
}
