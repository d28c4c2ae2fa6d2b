//! The pooler's binary against a PostgreSQL of the test's own, which knows just
//! enough and fails when it is told to: console, metrics, process, and faults that
//! a real PostgreSQL cannot be made to show.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(unreachable_pub, reason = "the support modules serve several tests")]

#[path = "../support/mod.rs"]
mod support;

mod announced;
mod cancels;
mod client;
mod commands;
mod draining;
mod faults;
mod floods;
mod lending;
mod pages;
mod peers;
mod pooler;
mod pools;
mod postgres;
mod process;
mod protocol;
mod reload;
mod saturation;
mod tables;
mod tls;

use support::{PATIENCE, wait_for};
