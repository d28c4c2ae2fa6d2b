//! The operator's own HTTP: `/livez`, `/readyz`, `/metrics`, `/status`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::Value;
use tokio::sync::watch;
use web::probes::{Heartbeat, probes};

/// What is served.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Why the operator is not ready, if it is not.
    pub not_ready: Option<String>,
    /// `/status`.
    pub status: Value,
}

impl Default for Snapshot {
    /// Before anything is known.
    fn default() -> Self {
        Self {
            not_ready: Some("starting".to_owned()),
            status: Value::Null,
        }
    }
}

/// Every route. `heartbeat` is the main loop's, `metrics` makes that page.
pub fn router(
    heartbeat: Arc<Heartbeat>,
    snapshot: watch::Receiver<Snapshot>,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    let ready = {
        let snapshot = snapshot.clone();
        move || snapshot.borrow().not_ready.clone().map_or(Ok(()), Err)
    };
    let metrics = move || std::future::ready(metrics());
    Router::new()
        .route("/status", get(status))
        .with_state(snapshot)
        .merge(probes(vec![heartbeat], ready, metrics))
}

async fn status(State(snapshot): State<watch::Receiver<Snapshot>>) -> Response {
    match &snapshot.borrow().status {
        Value::Null => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        status => Json(status.clone()).into_response(),
    }
}
