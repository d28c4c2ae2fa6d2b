//! `/status`: the balancer's state as JSON, and the transitions after a number
//! that the reader knows, waited for if it likes.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use proxy_core::{config::balancer::duration, status::BalancerStatus, wire::TargetState};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::shared::{Phase, Shared};

/// Longest wait of a long poll; longer ones are cut to it.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// `BOOTID:N`: transitions after number N of that boot.
    since: Option<String>,
    /// How long to wait for one, such as `30s`. Without `since` there is
    /// nothing to wait for.
    wait: Option<String>,
    /// The number under `reported` that is known: what targets say of themselves
    /// since then is worth an answer too.
    reported: Option<u64>,
}

/// Answers `/status`.
pub async fn status(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let refused = |text: String| (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response();
    let since = match asked.since.as_deref().map(since).transpose() {
        Ok(since) => since,
        Err(text) => return refused(text),
    };
    let wait = match asked.wait.as_deref().map(duration::parse).transpose() {
        Ok(wait) => wait.unwrap_or_default().min(WAIT_MAX),
        Err(text) => return refused(format!("wait: {text}")),
    };
    if let Some((boot_id, number)) = since
        && boot_id == shared.boot_id
        && !wait.is_zero()
    {
        let _poll = match shared.polls.begin() {
            Ok(poll) => poll,
            Err(exceeded) => return exceeded.into_response(),
        };
        wait_for_news(&shared, number, asked.reported, Instant::now() + wait).await;
    }
    let report = report(&shared, since);
    let tag = report.tag();
    // Whoever names what it was told last is told nothing twice.
    let known = headers.get(header::IF_NONE_MATCH);
    if known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    // A browser would show numbers of connections from then.
    let no_store = (header::CACHE_CONTROL, "no-store".to_owned());
    ([(header::ETAG, tag), no_store], Json(report)).into_response()
}

/// Waits for a transition after `number`, for targets to say other than what
/// `reported` counts, or for the end of the process.
async fn wait_for_news(shared: &Shared, number: u64, reported: Option<u64>, deadline: Instant) {
    let mut newest = shared.journal.watch();
    let mut said = shared.reported.subscribe();
    let mut phase = shared.phase.subscribe();
    let begun_in = *phase.borrow_and_update();
    let news = async {
        tokio::select! {
            // A number that was never given is no news, but not worth a wait.
            _ = newest.wait_for(|newest| *newest != number) => {}
            _ = said.wait_for(|said| reported.is_some_and(|known| known != *said)) => {}
            // Draining is told at once; and a process that ends holds nobody.
            _ = phase.wait_for(|phase| *phase > begun_in.max(Phase::Serving)) => {}
        }
    };
    // Too late is an answer too: nothing new.
    let _ = timeout_at(deadline, news).await;
}

fn since(text: &str) -> Result<(&str, u64), String> {
    text.rsplit_once(':')
        .and_then(|(boot_id, number)| Some((boot_id, number.parse().ok()?)))
        .ok_or_else(|| format!("since: {text:?} is not BOOTID:NUMBER"))
}

/// The balancer's status, with the transitions after `since`.
fn report(shared: &Shared, since: Option<(&str, u64)>) -> BalancerStatus {
    let config = shared.config();
    // Asked without a number, everything that is kept is told, and nothing
    // counts as missed: nobody was promised it.
    let (number, missed) = match since {
        None => (0, Some(false)),
        Some((boot_id, _)) if boot_id != shared.boot_id => (0, Some(true)),
        Some((_, number)) => (number, None),
    };
    // First: what is said after this is told next time.
    let reported = *shared.reported.borrow();
    // The log first: a transition between the two readings is then in the
    // targets already and told next time, never the other way round.
    let extract = shared.journal.after(number);
    let lasts = shared.report_lasts();
    BalancerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: shared.boot_id.clone(),
        state: match shared.phase() {
            Phase::Checking | Phase::Serving => TargetState::Ready,
            Phase::Draining | Phase::Stopping => TargetState::Draining,
        },
        config_revision: config.revision.clone(),
        started_at: shared.started_at,
        connections: shared.frontend.connections.now(),
        max_connections: shared.connections_max.load(Relaxed),
        targets: shared
            .targets()
            .iter()
            .map(|target| target.status(lasts))
            .collect(),
        discovery: shared.discovery_status(),
        reloads: shared.reloads.lock().expect("no holder panics").clone(),
        reported: Some(reported),
        transitions: extract.transitions,
        newest: extract.newest,
        missed: missed.unwrap_or(extract.missed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_boot_and_a_number() {
        assert_eq!(since("b1:7"), Ok(("b1", 7)));
        for text in ["", "b1", "b1:", "b1:x", "b1:-1"] {
            assert!(since(text).is_err(), "{text:?}");
        }
    }
}
