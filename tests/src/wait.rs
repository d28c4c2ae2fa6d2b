//! Waiting for a condition, with a deadline: the one place that pauses.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends every wait, now and later, with an error: what a command does when it
/// is told to stop, so that it unwinds and cleans up.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Waits wait again: for the clean-up after an interruption that was the wanted end.
pub fn resume() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Whether waits end at once.
#[must_use]
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn check_interrupted() -> Result<()> {
    if is_interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `probe` until it gives a value, and returns it.
///
/// # Errors
/// After `limit`, with `what` and the last thing that `probe` said was missing.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        check_interrupted()?;
        match probe() {
            Ok(value) => return Ok(value),
            Err(missing) if Instant::now() >= deadline => {
                bail!("waited {limit:?} for {what}: {missing}")
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Asks `holds` until it is true, and returns how long that took.
///
/// # Errors
/// After `limit`.
pub fn until_true(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<Duration> {
    let started = Instant::now();
    until(what, limit, || {
        if holds() {
            Ok(started.elapsed())
        } else {
            Err("it never came true".to_owned())
        }
    })
}

/// Asks `holds` until it is true, whatever interrupts: for cleaning up. False
/// after `limit`.
pub fn uninterrupted(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

/// Watches that `holds` stays true for all of `period`: for what must *not*
/// happen, where there is no event to wait for.
///
/// # Errors
/// As soon as it is false.
pub fn holds_for(what: &str, period: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < period {
        check_interrupted()?;
        if !holds() {
            bail!("{what} stopped being true");
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
