//! The pooler's console, metrics and process against the real binary, with a
//! PostgreSQL of the test's own that knows just enough.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod client;
mod commands;
mod pages;
mod pooler;
mod pools;
mod postgres;
mod process;
mod protocol;
mod tables;

use std::time::{Duration, Instant};

/// Nothing in a test takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `found` gives something.
#[track_caller]
fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
