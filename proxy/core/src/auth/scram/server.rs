//! The server's side: checks that a client knows the password.

use std::fmt;

use super::{
    ScramError,
    keys::{Hash, Verifier, decode, decode_hash, encode, hash, hmac, xor},
    message::{attribute, extensions, next_attribute, nonce, text},
};
use crate::auth::same;

/// One client's login: [`Self::first`], then [`Self::last`]. An error ends it.
///
/// Debug shows how far it is, nothing else.
pub struct ServerExchange {
    server_nonce: String,
    state: State,
}

enum State {
    Start,
    Challenged {
        /// The gs2 header as the client sent it, which it must repeat.
        gs2_header: String,
        /// Both nonces.
        nonce: String,
        /// client-first-message-bare, a comma, server-first-message.
        auth_message: String,
        stored_key: Hash,
        server_key: Hash,
    },
    Ended,
}

impl fmt::Debug for ServerExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Start => "ServerExchange(start)",
            State::Challenged { .. } => "ServerExchange(challenged)",
            State::Ended => "ServerExchange(ended)",
        })
    }
}

impl ServerExchange {
    /// Starts an exchange with fresh random bytes, [`super::NONCE_LENGTH`] of them.
    #[must_use]
    pub fn new(random: &[u8]) -> Self {
        Self::with_nonce(encode(random))
    }

    pub(super) fn with_nonce(server_nonce: String) -> Self {
        Self {
            server_nonce,
            state: State::Start,
        }
    }

    /// Takes client-first-message; returns server-first-message.
    ///
    /// # Errors
    /// See [`ScramError`].
    pub fn first(
        &mut self,
        client_first: &[u8],
        verifier: &Verifier,
    ) -> Result<Vec<u8>, ScramError> {
        let State::Start = std::mem::replace(&mut self.state, State::Ended) else {
            return Err(ScramError::Order);
        };
        let message = text(client_first)?;
        let bare = without_gs2_header(message)?;
        let gs2_header = &message[..message.len() - bare.len()];
        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("mandatory extension"));
        }
        let (_user, rest) = attribute(bare, 'n')?;
        let (client_nonce, rest) = next_attribute(rest, 'r')?;
        let nonce = format!("{}{}", nonce(client_nonce)?, self.server_nonce);
        extensions(rest)?;
        let server_first = format!(
            "r={nonce},s={},i={}",
            encode(&verifier.salt),
            verifier.iterations
        );
        self.state = State::Challenged {
            gs2_header: gs2_header.to_owned(),
            auth_message: format!("{bare},{server_first}"),
            nonce,
            stored_key: verifier.stored_key,
            server_key: verifier.server_key,
        };
        Ok(server_first.into_bytes())
    }

    /// Takes client-final-message; returns server-final-message and the client
    /// key, which with the verifier's server key logs in to a PostgreSQL that
    /// stores the same verifier ([`super::Keys::recovered`]).
    ///
    /// # Errors
    /// See [`ScramError`]; [`ScramError::Mismatch`] for a wrong password.
    pub fn last(&mut self, client_final: &[u8]) -> Result<(Vec<u8>, [u8; 32]), ScramError> {
        let State::Challenged {
            gs2_header,
            nonce: expected_nonce,
            auth_message,
            stored_key,
            server_key,
        } = std::mem::replace(&mut self.state, State::Ended)
        else {
            return Err(ScramError::Order);
        };
        let message = text(client_final)?;
        // The proof comes last; what is before it is what it proves.
        let (without_proof, proof) = message
            .rsplit_once(",p=")
            .ok_or(ScramError::Malformed("no proof"))?;
        let (binding, rest) = attribute(without_proof, 'c')?;
        let (client_nonce, rest) = next_attribute(rest, 'r')?;
        extensions(rest)?;
        let proof = decode_hash(proof).ok_or(ScramError::Malformed("proof"))?;
        // Without channel binding the binding data is the gs2 header alone. With
        // tls-server-end-point the certificate's hash will follow it here.
        let binding = decode(binding).ok_or(ScramError::Malformed("binding"))?;
        if binding != gs2_header.as_bytes() {
            return Err(ScramError::Malformed(
                "binding differs from the first message",
            ));
        }
        if !same(client_nonce.as_bytes(), expected_nonce.as_bytes()) {
            return Err(ScramError::Malformed(
                "nonce differs from the first message",
            ));
        }
        let auth_message: [&[u8]; 3] = [auth_message.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = xor(&proof, &hmac(&stored_key, &auth_message));
        if !same(&hash(&client_key), &stored_key) {
            return Err(ScramError::Mismatch);
        }
        let signature = hmac(&server_key, &auth_message);
        let server_final = format!("v={}", encode(&signature));
        Ok((server_final.into_bytes(), client_key))
    }
}

/// Checks the gs2 header and returns what follows it.
fn without_gs2_header(message: &str) -> Result<&str, ScramError> {
    let mut parts = message.splitn(3, ',');
    let (Some(flag), Some(identity), Some(bare)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(ScramError::Malformed("no gs2 header"));
    };
    match flag {
        // "n": the client cannot bind. "y": it can and believes that we cannot,
        // which is true as long as only SCRAM-SHA-256 is offered; where -PLUS is
        // offered too, "y" tells of somebody in the middle and must be refused.
        "n" | "y" => {}
        _ if flag.starts_with("p=") => {
            return Err(ScramError::Unsupported("channel binding"));
        }
        _ => return Err(ScramError::Malformed("gs2 flag")),
    }
    if !identity.is_empty() {
        return Err(ScramError::Unsupported("authorization identity"));
    }
    Ok(bare)
}
