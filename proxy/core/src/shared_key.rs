//! The key that the balancers and poolers of one tier share: what one says with
//! it, the other believes.
//!
//! A proof is HMAC-SHA-256 (RFC 2104) over a purpose, a time and what is said.
//! The purpose keeps a proof of one thing from being one of another; the time
//! ends its use. Within that time whoever can read the network can say the same
//! again.

use std::{fmt, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Length of a proof.
pub const PROOF_LENGTH: usize = 32;
/// How far the clocks of two hosts may be apart, and how old a proof may be.
pub const AGE_MAX: Duration = Duration::from_secs(120);
/// Bounds of a key's length in bytes.
const LENGTH_MIN: usize = 16;
const LENGTH_MAX: usize = 4096;

/// A shared key. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey(Box<[u8]>);

/// What a proof is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A PROXY header.
    Proxy,
    /// A balancer's order to end its sessions.
    Drain,
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The clocks are too far apart, or it is an old one said again.
    #[error("its time differs from ours by {0} s, at most {limit} s are accepted", limit = AGE_MAX.as_secs())]
    Stale(u64),
    /// Made with another key, or for something else.
    #[error("it was not made with our shared key")]
    Wrong,
}

impl SharedKey {
    /// The key in a file's text, white space around it apart.
    ///
    /// # Errors
    /// It is too short or too long; the message says nothing of it but its length.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = text.trim().as_bytes();
        if (LENGTH_MIN..=LENGTH_MAX).contains(&key.len()) {
            Ok(Self(key.into()))
        } else {
            Err(format!(
                "the shared key has {} bytes, expected {LENGTH_MIN} to {LENGTH_MAX}",
                key.len()
            ))
        }
    }

    /// Proves `said`, at `at_ms` in Unix milliseconds.
    #[must_use]
    pub fn prove(&self, purpose: Purpose, at_ms: u64, said: &[u8]) -> [u8; PROOF_LENGTH] {
        self.mac(purpose, at_ms, said)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Checks that `proof` was made for `said` at `at_ms`, and that `at_ms` is
    /// about `now_ms`. Takes the same time wherever they differ.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn check(
        &self,
        purpose: Purpose,
        at_ms: u64,
        said: &[u8],
        proof: &[u8; PROOF_LENGTH],
        now_ms: u64,
    ) -> Result<(), ProofError> {
        // First: of the time of a proof that is none, nothing is said.
        self.mac(purpose, at_ms, said)
            .verify_slice(proof)
            .map_err(|_| ProofError::Wrong)?;
        let apart = Duration::from_millis(now_ms.abs_diff(at_ms));
        if apart > AGE_MAX {
            return Err(ProofError::Stale(apart.as_secs()));
        }
        Ok(())
    }

    fn mac(&self, purpose: Purpose, at_ms: u64, said: &[u8]) -> Hmac<Sha256> {
        let purpose: &[u8] = match purpose {
            Purpose::Proxy => b"poolkeeper proxy\0",
            Purpose::Drain => b"poolkeeper drain\0",
        };
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0)
            .expect("HMAC takes keys of every length");
        mac.update(purpose);
        mac.update(&at_ms.to_be_bytes());
        mac.update(said);
        mac
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn key(text: &str) -> SharedKey {
        SharedKey::parse(text).unwrap()
    }

    #[test]
    fn a_proof_holds_for_what_was_said_and_for_a_while() {
        let ours = key("0123456789abcdef\n");
        let proof = ours.prove(Purpose::Proxy, NOW_MS, b"said");
        let check = |key: &SharedKey, purpose, at_ms, said: &[u8], now_ms| {
            key.check(purpose, at_ms, said, &proof, now_ms)
        };
        for apart_ms in [0, 120_000] {
            for now_ms in [NOW_MS + apart_ms, NOW_MS - apart_ms] {
                assert_eq!(
                    check(&ours, Purpose::Proxy, NOW_MS, b"said", now_ms),
                    Ok(())
                );
            }
        }
        let late = check(&ours, Purpose::Proxy, NOW_MS, b"said", NOW_MS + 121_000);
        assert_eq!(late, Err(ProofError::Stale(121)));
        let wrong = Err(ProofError::Wrong);
        assert_eq!(check(&ours, Purpose::Drain, NOW_MS, b"said", NOW_MS), wrong);
        assert_eq!(
            check(&ours, Purpose::Proxy, NOW_MS + 1, b"said", NOW_MS),
            wrong
        );
        assert_eq!(check(&ours, Purpose::Proxy, NOW_MS, b"sail", NOW_MS), wrong);
        let theirs = key("0123456789abcdeF");
        assert_eq!(
            check(&theirs, Purpose::Proxy, NOW_MS, b"said", NOW_MS),
            wrong
        );
    }

    #[test]
    fn a_short_key_is_refused_and_none_is_shown() {
        let error = SharedKey::parse(" secret \n").unwrap_err();
        assert_eq!(error, "the shared key has 6 bytes, expected 16 to 4096");
        assert!(SharedKey::parse(&"x".repeat(4097)).is_err());
        assert!(!format!("{:?}", key("0123456789abcdef")).contains("0123"));
    }
}
