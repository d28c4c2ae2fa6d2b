//! Follows poolers and balancers by their `/status`. The balancers judge; here
//! is only asked and passed on.
//!
//! One long poll is held at each balancer. Of local processes for no longer than a
//! check's interval, so that a balancer that answers nothing is noticed as soon as a
//! pooler is; of Pods for `monitoring.interval`, 30 s at most.
//! Answers are limited in size and time: whoever answers is not trusted.

mod connection;

use std::{net::SocketAddr, time::Duration};

use hyper::header::HeaderValue;
use proxy_core::{
    config::balancer::duration,
    status::{BalancerStatus, PoolerStatus},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

pub use connection::Connection;

/// Least time between two requests to one endpoint.
const PACE: Duration = Duration::from_millis(100);
/// How often a pooler is asked at that pace whose configuration is outdated: a
/// reload takes a moment, and may be refused.
const OUTDATED_MAX: u32 = 50;

/// What was seen of an endpoint.
#[derive(Debug)]
pub enum Seen {
    /// A pooler answered.
    Pooler {
        /// Which.
        index: usize,
        /// Of which of its processes the answer is.
        generation: u64,
        /// What it said.
        status: PoolerStatus,
    },
    /// A balancer answered or did not.
    Balancer {
        /// Which.
        index: usize,
        /// Of which of its processes the answer is.
        generation: u64,
        /// What it said, or why it said nothing.
        answer: Result<BalancerStatus, String>,
    },
}

/// What is known already of what a balancer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    boot_id: String,
    newest: u64,
    reported: Option<u64>,
}

impl Cursor {
    /// A place in a balancer's log of transitions.
    #[must_use]
    pub fn new((boot_id, newest): (String, u64)) -> Self {
        Self {
            boot_id,
            newest,
            reported: None,
        }
    }

    /// Where `status` ends.
    #[must_use]
    pub fn after(status: &BalancerStatus) -> Self {
        Self {
            boot_id: status.boot_id.clone(),
            newest: status.newest,
            reported: status.reported,
        }
    }
}

/// Asks endpoints for their status.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// Time between two checks, and the longest wait for an answer.
    interval: Duration,
    timeout: Duration,
    /// Time between two questions to a pooler.
    resync: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    /// Whoever is asked has no place for one more.
    #[error("answers HTTP 503")]
    Busy,
    #[error("answers what is no status")]
    NoStatus,
    #[error("{0}")]
    Other(String),
}

/// What was answered.
enum Said<T> {
    New(T, Option<HeaderValue>),
    /// What is known.
    Same,
}

impl Watcher {
    /// `interval` and `timeout` are those of the balancers' checks, `resync` is
    /// `monitoring.interval`.
    #[must_use]
    pub const fn new(interval: Duration, timeout: Duration, resync: Duration) -> Self {
        Self {
            interval,
            timeout,
            resync,
        }
    }

    /// Follows a pooler until it is dropped or nobody listens: often until it
    /// answers first, and for a while until `revision` is in force, then every
    /// `monitoring.interval`.
    pub async fn follow_pooler(
        self,
        index: usize,
        generation: u64,
        address: SocketAddr,
        revision: String,
        seen: mpsc::Sender<Seen>,
    ) {
        let mut connection = Connection::to(address);
        let mut pause = PACE;
        let mut outdated_left = OUTDATED_MAX;
        loop {
            if let Ok(Said::New(status, _)) = self
                .get::<PoolerStatus>(&mut connection, "/status", None, self.timeout)
                .await
            {
                let outdated = status.config_revision.as_ref() != Some(&revision);
                pause = match outdated && outdated_left > 0 {
                    true => PACE,
                    false => self.resync,
                };
                outdated_left -= u32::from(outdated && outdated_left > 0);
                let pooler = Seen::Pooler {
                    index,
                    generation,
                    status,
                };
                if seen.send(pooler).await.is_err() {
                    return;
                }
            }
            sleep(pause).await;
        }
    }

    /// Follows a balancer from a place in its log until it is dropped or nobody
    /// listens.
    pub async fn follow_balancer(
        self,
        index: usize,
        generation: u64,
        address: SocketAddr,
        cursor: Option<(String, u64)>,
        seen: mpsc::Sender<Seen>,
    ) {
        let mut connection = Connection::to(address);
        // A process that just began takes a moment until it answers; that is
        // no failure yet.
        let mut cursor = cursor.map(Cursor::new);
        let patience = Instant::now() + self.interval;
        let mut answers = false;
        loop {
            let begin = Instant::now();
            // One that did not answer is asked at once, not waited for.
            let wait = cursor.as_ref().filter(|_| answers).map(|_| self.interval);
            let answer = self.balancer(&mut connection, cursor.as_ref(), wait).await;
            answers = answer.is_ok();
            let next = match &answer {
                Ok(status) => {
                    cursor = Some(Cursor::after(status));
                    begin + PACE
                }
                Err(_) if cursor.is_none() && begin < patience => {
                    sleep_until(begin + PACE).await;
                    continue;
                }
                Err(_) => begin + self.interval,
            };
            let balancer = Seen::Balancer {
                index,
                generation,
                answer,
            };
            if seen.send(balancer).await.is_err() {
                return;
            }
            sleep_until(next).await;
        }
    }

    /// Asks a balancer once, for what came after `cursor`.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub async fn balancer(
        &self,
        connection: &mut Connection,
        cursor: Option<&Cursor>,
        wait: Option<Duration>,
    ) -> Result<BalancerStatus, String> {
        let status = self.news(connection, cursor, &mut None, wait).await?;
        status.ok_or_else(|| NoAnswer::NoStatus.to_string())
    }

    /// The same, but `None` if it would say what it said last, its numbers of
    /// connections apart: `said` names that, and is kept from call to call.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub async fn news(
        &self,
        connection: &mut Connection,
        cursor: Option<&Cursor>,
        said: &mut Option<HeaderValue>,
        wait: Option<Duration>,
    ) -> Result<Option<BalancerStatus>, String> {
        let mut path = "/status".to_owned();
        if let Some(cursor) = cursor {
            let (boot_id, number) = (plain(&cursor.boot_id), cursor.newest);
            path.push_str(&format!("?since={boot_id}:{number}"));
            if let Some(wait) = wait {
                path.push_str(&format!("&wait={}", duration::format(wait)));
                // One of a version that does not count knows no such question.
                if let Some(reported) = cursor.reported {
                    path.push_str(&format!("&reported={reported}"));
                }
            }
        }
        let limit = self.timeout + wait.unwrap_or_default();
        // Whatever comes in between, what is said next is news.
        let known = said.take();
        match self.get(connection, &path, known.as_ref(), limit).await {
            // It holds as many polls as it may, and still says what is.
            Err(NoAnswer::Busy) if wait.is_some() => {
                Box::pin(self.news(connection, cursor, said, None)).await
            }
            Ok(Said::New(status, tag)) => {
                *said = tag;
                Ok(Some(status))
            }
            Ok(Said::Same) => {
                *said = known;
                Ok(None)
            }
            Err(reason) => Err(reason.to_string()),
        }
    }

    async fn get<T: DeserializeOwned>(
        &self,
        connection: &mut Connection,
        path: &str,
        known: Option<&HeaderValue>,
        limit: Duration,
    ) -> Result<Said<T>, NoAnswer> {
        let other = |reason: &str| NoAnswer::Other(reason.to_owned());
        let answer = async {
            let answer = connection.get(path, known).await;
            let answer = answer.map_err(|failure| other(&failure.to_string()))?;
            match answer.code {
                200..300 => serde_json::from_slice(&answer.body)
                    .map(|status| Said::New(status, answer.tag))
                    .map_err(|_| NoAnswer::NoStatus),
                304 if known.is_some() => Ok(Said::Same),
                503 => Err(NoAnswer::Busy),
                code => Err(other(&format!("answers HTTP {code}"))),
            }
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(other(&format!(
                "no answer within {}",
                duration::format(limit)
            ))),
        }
    }
}

/// A bootId as it may stand in a URL: whoever sent it is not trusted.
fn plain(boot_id: &str) -> String {
    boot_id
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(64)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        Router,
        extract::RawQuery,
        http::{HeaderMap, StatusCode},
        response::IntoResponse,
        routing::get,
    };
    use serde_json::json;

    use super::*;

    const QUICK: Duration = Duration::from_millis(200);

    fn watcher() -> Watcher {
        // Ample for a machine that is busy: here answers come.
        watcher_with(Duration::from_secs(30))
    }

    fn watcher_with(timeout: Duration) -> Watcher {
        Watcher::new(QUICK, timeout, QUICK)
    }

    /// Serves `/status` with what `answer` says to each query.
    async fn serve<A: IntoResponse + Send>(
        answer: impl Fn(String) -> A + Clone + Send + Sync + 'static,
    ) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let route =
            get(move |RawQuery(query): RawQuery| async move { answer(query.unwrap_or_default()) });
        let app = Router::new().route("/status", route);
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    fn status(newest: u64) -> String {
        json!({
            "version": "1", "bootId": "b1", "state": "ready", "startedAt": "2026-01-01T00:00:00Z",
            "connections": 0, "maxConnections": 1, "targets": [], "transitions": [],
            "newest": newest, "missed": false,
        })
        .to_string()
    }

    #[tokio::test]
    async fn balancer_is_followed_from_its_last_number() {
        let queries = Arc::new(std::sync::Mutex::new(Vec::new()));
        let asked = queries.clone();
        let address = serve(move |query| {
            let mut asked = asked.lock().unwrap();
            asked.push(query);
            status(asked.len() as u64 * 10)
        })
        .await;
        let (sender, mut seen) = mpsc::channel(4);
        let follow = tokio::spawn(watcher().follow_balancer(1, 7, address, None, sender));
        for _ in 0..3 {
            let Some(Seen::Balancer {
                index: 1,
                generation: 7,
                answer: Ok(_),
            }) = seen.recv().await
            else {
                panic!("no answer");
            };
        }
        follow.abort();
        let queries = queries.lock().unwrap();
        assert_eq!(
            queries[..3],
            ["", "since=b1:10&wait=200ms", "since=b1:20&wait=200ms"]
        );
    }

    #[tokio::test]
    async fn what_is_known_is_not_said_again() {
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = asked.clone();
        let app = Router::new().route(
            "/status",
            get(move |headers: HeaderMap| async move {
                let known = headers.get("if-none-match").cloned();
                let mut seen = seen.lock().unwrap();
                seen.push(known.clone().map(|tag| tag.to_str().unwrap().to_owned()));
                match seen.len() {
                    4 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                    _ if known.is_some_and(|known| known == "W/\"a\"") => {
                        StatusCode::NOT_MODIFIED.into_response()
                    }
                    _ => ([("etag", "W/\"a\"")], status(7)).into_response(),
                }
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::to(listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (watcher, mut said) = (watcher(), None);
        let mut news = Vec::new();
        for _ in 0..6 {
            let answer = watcher.news(&mut connection, None, &mut said, None).await;
            news.push(answer.map(|status| status.is_some()).ok());
        }
        let [new, same] = [Some(true), Some(false)];
        // After a failure nothing counts as known.
        assert_eq!(news, [new, same, same, None, new, same]);
        let a = || Some("W/\"a\"".to_owned());
        assert_eq!(*asked.lock().unwrap(), [None, a(), a(), a(), None, a()]);
        // Who asks for all is told all.
        let all = watcher.balancer(&mut connection, None, None).await;
        assert_eq!(all.unwrap().newest, 7);
    }

    #[tokio::test]
    async fn a_balancer_with_no_place_for_a_poll_is_asked_without_waiting() {
        let address = serve(|query| match query.contains("wait") {
            true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            false => status(7).into_response(),
        })
        .await;
        let cursor = Cursor::new(("b1".to_owned(), 7));
        let wait = Some(Duration::from_millis(200));
        let mut connection = Connection::to(address);
        let answer = watcher()
            .balancer(&mut connection, Some(&cursor), wait)
            .await;
        assert_eq!(answer.unwrap().newest, 7);
    }

    #[tokio::test]
    async fn silence_and_nonsense_are_failures() {
        let hits = Arc::new(AtomicUsize::new(0));
        let count = hits.clone();
        let address = serve(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => "{}".to_owned(),
            _ => "x".repeat(connection::ANSWER_LENGTH_MAX + 1),
        })
        .await;
        let ask = |address| async move {
            let mut connection = Connection::to(address);
            watcher()
                .balancer(&mut connection, None, None)
                .await
                .unwrap_err()
        };
        assert_eq!(ask(address).await, "answers what is no status");
        assert_eq!(
            ask(address).await,
            format!("answers more than {} bytes", connection::ANSWER_LENGTH_MAX)
        );
        // Listens and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let hurried = watcher_with(QUICK);
        let mut connection = Connection::to(silent.local_addr().unwrap());
        let answer = hurried.balancer(&mut connection, None, None);
        assert_eq!(answer.await.unwrap_err(), "no answer within 200ms");
        let nobody = silent.local_addr().unwrap();
        drop(silent);
        assert_eq!(ask(nobody).await, "cannot connect");
    }

    #[tokio::test]
    async fn pooler_is_asked_until_it_answers_and_has_the_configuration() {
        let hits = Arc::new(AtomicUsize::new(0));
        let count = hits.clone();
        let address = serve(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) < 3 {
                return String::new();
            }
            let revision = if count.load(Ordering::Relaxed) < 6 { "r0" } else { "r1" };
            json!({
                "version": "1", "bootId": "p1", "state": "ready", "configRevision": revision, "startedAt": "2026-01-01T00:00:00Z",
                "listen": "127.0.0.1:1", "clients": {"total": 0, "active": 0, "waiting": 0, "max": 1},
                "servers": {"active": 0, "idle": 0, "login": 0},
            })
            .to_string()
        })
        .await;
        let (sender, mut seen) = mpsc::channel(4);
        let follow = tokio::spawn(watcher().follow_pooler(0, 1, address, "r1".to_owned(), sender));
        let mut revisions = Vec::new();
        for _ in 0..3 {
            let Some(Seen::Pooler { status, .. }) = seen.recv().await else {
                panic!("no answer");
            };
            revisions.push(status.config_revision.unwrap_or_default());
        }
        follow.abort();
        assert_eq!(revisions, ["r0", "r0", "r1"]);
        assert_eq!(hits.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn boot_ids_cannot_change_the_url() {
        assert_eq!(plain("a1-b&wait=9h#x y"), "a1-bwait9hxy");
    }
}
