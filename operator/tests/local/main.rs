//! `operator` as people run it, with stand-ins for pooler and balancer where
//! only supervision is tested.

#![allow(
    clippy::unwrap_used,
    reason = "all of this crate is tests, which clippy sees only in functions marked so"
)]

mod commands;
mod heartbeat;
mod offset;
mod supervision;
mod support;
