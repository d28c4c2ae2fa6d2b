//! What is served over HTTP.
//!
//! `/` and `/stats` are the dashboard, `/stats;csv` the CSV; HAProxy's options
//! follow a semicolon, also as `/stats/;csv` and `/;csv;norefresh`.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use web::probes::probes;

use super::{
    csv, dashboard, exposition,
    shared::{Phase, Shared},
    status,
};

/// Every route.
pub fn router(shared: &Arc<Shared>) -> Router {
    let hearts = shared.loops.iter().map(|one| one.heart.clone()).collect();
    let ready = {
        let shared = shared.clone();
        move || match shared.phase() {
            Phase::Checking => Err("the first round of checks is under way".to_owned()),
            Phase::Serving => Ok(()),
            Phase::Draining | Phase::Stopping => Err("draining".to_owned()),
        }
    };
    let metrics = {
        let shared = shared.clone();
        move || std::future::ready(exposition::page(&shared, Instant::now()))
    };
    Router::new()
        .route("/status", get(status::status))
        .fallback_service(get(stats).with_state(shared.clone()))
        .with_state(shared.clone())
        .merge(probes(hearts, ready, metrics))
}

async fn stats(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let path = uri.path().replace("%3B", ";").replace("%3b", ";");
    let (base, options) = path.split_once(';').unwrap_or((&path, ""));
    if !matches!(base, "/" | "/stats" | "/stats/") {
        let pages = "not found; there are /stats, /stats;csv, /status, /metrics, /livez, /readyz\n";
        return (StatusCode::NOT_FOUND, pages).into_response();
    }
    let has = |option| options.split(';').any(|one| one == option);
    let no_cache = (header::CACHE_CONTROL, "no-cache");
    let (now, today) = (Instant::now(), Timestamp::now());
    if has("csv") {
        let content = (header::CONTENT_TYPE, "text/plain");
        return ([no_cache, content], csv::page(&shared, now, today)).into_response();
    }
    let refresh = match has("norefresh") {
        true => dashboard::Refresh::Never,
        false => dashboard::Refresh::Often,
    };
    // Nothing on the page comes from elsewhere, and nothing on it runs.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
    let security = (header::CONTENT_SECURITY_POLICY, policy);
    let page = dashboard::page(&shared, refresh, now, today);
    ([no_cache, security], Html(page)).into_response()
}
