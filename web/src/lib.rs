//! What every program serves over HTTP: small answers to probes, scrapers,
//! operators and browsers, never the data path.
//!
//! [`server`] has the limits, for a client of it is not trusted, and [`polls`] one
//! for those who wait; [`probes`] the routes that all have; [`metrics`] the form of
//! series, their page and their reference. Which series there are, and what else is
//! served, is each program's own. [`listener`] makes listening sockets, for these
//! and for the ports of PostgreSQL.

pub mod listener;
pub mod metrics;
pub mod polls;
pub mod probes;
pub mod server;
