//! The balancer's binary against targets and clients of the test's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(unreachable_pub, reason = "the support modules serve several tests")]

#[path = "../support/mod.rs"]
mod support;

mod balancer;
mod choice;
mod client;
mod discovery;
mod health;
mod http;
mod pages;
mod process;
mod relay;
mod reload;
mod target;
