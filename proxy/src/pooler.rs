//! The pooler: loops that move bytes, and what steers them.
//!
//! ```text
//!  listener ─> event loop 0 ─┬─ clients ── link ── servers ─> PostgreSQL
//!                 │  mail    │
//!              event loop 1 ─┘      workers: keys, names
//!                 │  mail
//!              control (tokio): console, HTTP, signals, reload, drain
//! ```
//!
//! Decisions are proxy_core's ([`proxy_core::session`], [`proxy_core::pool`]);
//! what is here owns sockets and does what they say.

mod cancel;
mod client;
mod console;
mod control;
mod event_loop;
mod http;
mod io;
mod janitor;
mod link;
mod pools;
mod print;
mod server;
mod shared;
mod snapshot;
mod start;
mod tls;
mod worker;

pub use start::{StartError, check, run};

/// What the console calls itself: tools read a version from it.
const SERVER_VERSION: &str = concat!("1.25.0/poolkeeper-", env!("CARGO_PKG_VERSION"));
