//! SCRAM-SHA-256, both sides.
//!
//! Sources: RFC 5802, RFC 7677, and PostgreSQL's use of them:
//! <https://www.postgresql.org/docs/17/sasl-authentication.html>. As there, user
//! names inside the messages are ignored: the startup packet's counts.

mod client;
mod keys;
mod message;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Challenge, ClientExchange};
pub use keys::{ITERATIONS_MAX, Keys, SALT_LENGTH, Verifier};
pub use server::ServerExchange;

/// The mechanism's name in AuthenticationSASL.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Random bytes that a nonce is made of, as in PostgreSQL.
pub const NONCE_LENGTH: usize = 18;

/// Why an exchange failed. Says nothing about any secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message that does not follow the grammar.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A message that follows the grammar and asks for what is not offered.
    #[error("unsupported SCRAM message: {0}")]
    Unsupported(&'static str),
    /// The other side does not know the password, or is not whom we talked to.
    #[error("SCRAM proof does not match")]
    Mismatch,
    /// The other side ended the exchange with an error of its own.
    #[error("SCRAM exchange refused by the server")]
    Refused,
    /// A message of this kind is not due now.
    #[error("SCRAM message out of order")]
    Order,
}
