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
mod counters;
mod event_loop;
mod exposition;
mod http;
mod io;
mod janitor;
mod link;
mod peers;
mod pidfile;
mod pools;
mod privileges;
mod saturation;
mod server;
mod shared;
mod signals;
mod snapshot;
mod start;
mod stats;
mod tls;
mod unix;
mod upstream;
mod view;
mod worker;

pub use pidfile::PidFileError;
pub use privileges::{UserError, become_user};
pub use start::{StartError, check, run};

/// The console's `server_version`: drivers read a number from its beginning.
const SERVER_VERSION: &str = concat!("1.25.0/poolkeeper-", env!("CARGO_PKG_VERSION"));

/// What SHOW VERSION says: exporters ask for a `PgBouncer` and its version, and
/// behave as that one asks for.
const CONSOLE_VERSION: &str = concat!(
    "PgBouncer 1.25.0 (Poolkeeper ",
    env!("CARGO_PKG_VERSION"),
    ")"
);
