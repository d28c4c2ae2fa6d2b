//! Logging in: a client to us, and us to PostgreSQL. Messages in, messages out.
//!
//! Deriving keys from a password is slow, so neither side does it here: each
//! says that it needs them and goes on when it is given them.

pub mod client;
pub mod server;
