//! The operator's own HTTP: `/livez`, `/readyz`, `/metrics`, `/status`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

/// A main loop that has not turned for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// What is served.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Why the operator is not ready, if it is not.
    pub not_ready: Option<String>,
    /// `/metrics`.
    pub metrics: String,
    /// `/status`.
    pub status: Value,
}

impl Default for Snapshot {
    /// Before anything is known.
    fn default() -> Self {
        Self {
            not_ready: Some("starting".to_owned()),
            metrics: String::new(),
            status: Value::Null,
        }
    }
}

/// When the main loop last turned.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    base: Instant,
    turned_ms: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            turned_ms: Arc::default(),
        }
    }
}

impl Heartbeat {
    /// The loop turned.
    pub fn beat(&self) {
        let ms = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.turned_ms.store(ms, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let turned = Duration::from_millis(self.turned_ms.load(Ordering::Relaxed));
        self.base.elapsed().saturating_sub(turned)
    }
}

type Shared = (Heartbeat, watch::Receiver<Snapshot>);

/// Serves until it is dropped.
pub async fn serve(
    listener: TcpListener,
    heartbeat: Heartbeat,
    snapshot: watch::Receiver<Snapshot>,
) {
    let router = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state((heartbeat, snapshot));
    // Only a listener that breaks ends it, and then nobody can be told.
    let _ = axum::serve(listener, router).await;
}

async fn live(State((heartbeat, _)): State<Shared>) -> Response {
    let age = heartbeat.age();
    if age > STUCK_AFTER {
        let text = format!("the main loop has not turned for {} s\n", age.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    "alive\n".into_response()
}

async fn ready(State((_, snapshot)): State<Shared>) -> Response {
    match &snapshot.borrow().not_ready {
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
        None => "ready\n".into_response(),
    }
}

async fn metrics(State((_, snapshot)): State<Shared>) -> Response {
    let content = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (content, snapshot.borrow().metrics.clone()).into_response()
}

async fn status(State((_, snapshot)): State<Shared>) -> Response {
    match &snapshot.borrow().status {
        Value::Null => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        status => Json(status.clone()).into_response(),
    }
}
