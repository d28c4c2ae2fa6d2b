//! The client's side: logs in to PostgreSQL.

use std::fmt;

use super::{
    Keys, ScramError,
    keys::{Hash, decode_hash, decode_iterations, decode_salt, encode, hash, hmac, xor},
    message::{attribute, extensions, next_attribute, nonce, text},
};
use crate::auth::same;

/// The gs2 header of a client that cannot bind to the channel.
const GS2_HEADER: &str = "n,,";

/// What the keys must be derived with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Salt of PBKDF2, 1 to 1,024 bytes.
    pub salt: Vec<u8>,
    /// Iterations of PBKDF2, 1 to [`super::ITERATIONS_MAX`].
    pub iterations: u32,
}

/// One login to a server: [`Self::first`], [`Self::challenge`], [`Self::last`],
/// [`Self::verify`]. An error ends it.
///
/// Debug shows how far it is, nothing else.
pub struct ClientExchange {
    /// client-first-message-bare.
    first_bare: String,
    client_nonce: String,
    state: State,
}

enum State {
    Start,
    Challenged { nonce: String, server_first: String },
    Proved { server_signature: Hash },
    Ended,
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Start => "ClientExchange(start)",
            State::Challenged { .. } => "ClientExchange(challenged)",
            State::Proved { .. } => "ClientExchange(proved)",
            State::Ended => "ClientExchange(ended)",
        })
    }
}

impl ClientExchange {
    /// Starts an exchange with fresh random bytes, [`super::NONCE_LENGTH`] of them.
    ///
    /// The user name in the messages is empty: PostgreSQL takes the one of the
    /// startup packet.
    #[must_use]
    pub fn new(random: &[u8]) -> Self {
        Self::with_nonce("", encode(random))
    }

    pub(super) fn with_nonce(user: &str, client_nonce: String) -> Self {
        Self {
            first_bare: format!("n={user},r={client_nonce}"),
            client_nonce,
            state: State::Start,
        }
    }

    /// client-first-message.
    #[must_use]
    pub fn first(&self) -> Vec<u8> {
        format!("{GS2_HEADER}{}", self.first_bare).into_bytes()
    }

    /// Takes server-first-message and says what to derive the keys with.
    ///
    /// # Errors
    /// See [`ScramError`].
    pub fn challenge(&mut self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let State::Start = std::mem::replace(&mut self.state, State::Ended) else {
            return Err(ScramError::Order);
        };
        let message = text(server_first)?;
        if message.starts_with("m=") {
            return Err(ScramError::Unsupported("mandatory extension"));
        }
        let (both_nonces, rest) = attribute(message, 'r')?;
        let ours = self.client_nonce.as_str();
        if nonce(both_nonces)?
            .strip_prefix(ours)
            .is_none_or(str::is_empty)
        {
            return Err(ScramError::Malformed("nonce does not continue ours"));
        }
        let (salt, rest) = next_attribute(rest, 's')?;
        let salt = decode_salt(salt).ok_or(ScramError::Malformed("salt"))?;
        let (iterations, rest) = next_attribute(rest, 'i')?;
        let iterations =
            decode_iterations(iterations).ok_or(ScramError::Malformed("iterations"))?;
        extensions(rest)?;
        self.state = State::Challenged {
            nonce: both_nonces.to_owned(),
            server_first: message.to_owned(),
        };
        Ok(Challenge { salt, iterations })
    }

    /// client-final-message, with keys derived as the challenge said. Empty when
    /// no challenge is open.
    #[must_use]
    pub fn last(&mut self, keys: &Keys) -> Vec<u8> {
        let State::Challenged {
            nonce,
            server_first,
        } = std::mem::replace(&mut self.state, State::Ended)
        else {
            return Vec::new();
        };
        let without_proof = format!("c={},r={nonce}", encode(GS2_HEADER.as_bytes()));
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare);
        let stored_key = hash(&keys.client_key);
        let signature = hmac(&stored_key, &[auth_message.as_bytes()]);
        let proof = xor(&keys.client_key, &signature);
        self.state = State::Proved {
            server_signature: hmac(&keys.server_key, &[auth_message.as_bytes()]),
        };
        format!("{without_proof},p={}", encode(&proof)).into_bytes()
    }

    /// Takes server-final-message: whether the server knows the verifier too.
    ///
    /// # Errors
    /// [`ScramError::Mismatch`] if it does not, [`ScramError::Refused`] if it
    /// reports an error, see [`ScramError`].
    pub fn verify(&mut self, server_final: &[u8]) -> Result<(), ScramError> {
        let State::Proved { server_signature } = std::mem::replace(&mut self.state, State::Ended)
        else {
            return Err(ScramError::Order);
        };
        let message = text(server_final)?;
        if message.starts_with("e=") {
            return Err(ScramError::Refused);
        }
        let (signature, rest) = attribute(message, 'v')?;
        extensions(rest)?;
        let signature = decode_hash(signature).ok_or(ScramError::Malformed("signature"))?;
        if !same(&signature, &server_signature) {
            return Err(ScramError::Mismatch);
        }
        Ok(())
    }
}
