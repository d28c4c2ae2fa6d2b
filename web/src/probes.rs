//! `/livez`, `/readyz`, `/metrics`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// An event loop that has not turned for so long is stuck, and `/livez` fails.
/// Loops turn at least once a second.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// When an event loop last turned. Written by the loop, read by `/livez`.
#[derive(Debug)]
pub struct Heartbeat {
    base: Instant,
    turned_ms: AtomicU64,
}

impl Heartbeat {
    /// A heart that has just beaten.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            base: now,
            turned_ms: AtomicU64::new(0),
        }
    }

    /// The loop turned at `now`.
    #[inline]
    pub fn beat(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.base).as_millis() as u64;
        self.turned_ms.store(ms, Ordering::Relaxed);
    }

    /// How long ago the loop turned.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        let turned = Duration::from_millis(self.turned_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.base)
            .saturating_sub(turned)
    }
}

/// The routes that every program has: `/livez`, `/readyz`, `/metrics`.
///
/// `/livez` fails when one of `hearts` has not beaten for [`STUCK_AFTER`], and
/// for nothing else: restarting a process cures no other ill. `ready` is asked
/// for `/readyz` and says why not; `metrics` renders the whole page.
pub fn probes<F>(
    hearts: Vec<Arc<Heartbeat>>,
    ready: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
    metrics: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> Router
where
    F: Future<Output = String> + Send + 'static,
{
    let live = move || {
        let now = Instant::now();
        let stuck = hearts
            .iter()
            .position(|heart| heart.age(now) > STUCK_AFTER)
            .map(|index| (index, hearts[index].age(now).as_secs()));
        match stuck {
            None => Ok(()),
            Some((index, age_s)) => Err(format!("event loop {index} has not turned for {age_s} s")),
        }
    };
    Router::new()
        .route(
            "/livez",
            get(move || async move { verdict(live(), "alive") }),
        )
        .route(
            "/readyz",
            get(move || async move { verdict(ready(), "ready") }),
        )
        .route(
            "/metrics",
            get(move || async move {
                (
                    [(
                        header::CONTENT_TYPE,
                        "text/plain; version=0.0.4; charset=utf-8",
                    )],
                    metrics().await,
                )
            }),
        )
}

fn verdict(verdict: Result<(), String>, good: &str) -> Response {
    match verdict {
        Ok(()) => format!("{good}\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
