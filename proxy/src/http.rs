//! The HTTP server of both proxies: small answers to probes, scrapers,
//! operators and browsers, never the data path.
//!
//! A client of it is not trusted: connections, header and body sizes, and the
//! time of everything but a running long poll are limited.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::sync::Semaphore;

use crate::net::{self, ListenError, Tuning};

/// Connections at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 512;
const BACKLOG: i32 = 128;
const BODY_BYTES_MAX: usize = 64 * 1024;
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// From the end of one request to the end of the next one's headers; it is the
/// idle time of a kept connection too.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest a request may take: a long poll of 60 s and some.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(75);
/// A reader that takes nothing for so long is gone.
const SEND_TIME_MAX: Duration = Duration::from_secs(30);
/// At the end, how long requests under way may take to finish.
const GRACE: Duration = Duration::from_secs(2);

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

/// The routes that every proxy has: `/livez`, `/readyz`, `/metrics`.
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

/// The listening socket for [`serve`].
///
/// # Errors
/// [`ListenError`], naming the address.
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    net::listen(address, false, BACKLOG)
}

/// Serves `router` on `listener` until `stop` resolves, then takes no more
/// connections and gives requests under way 2 s to finish. A handler that holds
/// a long poll watches for the end itself.
///
/// # Errors
/// The listener cannot be handed to the runtime.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = router
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(limit_time));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accept = async {
            let slot = slots
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back, and trying
                // again at once would only burn the CPU that frees them.
                tracing::warn!(%error, "HTTP connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let tuning = Tuning {
            nodelay: true,
            keepalive: None,
            user_timeout: Some(SEND_TIME_MAX),
        };
        if net::tune(&stream, &tuning).is_err() {
            continue; // The peer is gone already.
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(router.clone()),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that hangs up or speaks no HTTP concerns nobody.
            let _ = connection.await;
            drop(slot);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no answer within {} s\n", REQUEST_TIME_MAX.as_secs()),
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_answer_and_the_end_is_graceful() {
        let start = Instant::now();
        let stuck = Arc::new(Heartbeat::new(
            start.checked_sub(2 * STUCK_AFTER).expect("clock is past"),
        ));
        let hearts = vec![Arc::new(Heartbeat::new(start)), stuck.clone()];
        let router = probes(
            hearts,
            || Err("draining".to_owned()),
            || async { "a_metric 1\n".to_owned() },
        );
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, router, async {
            let _ = stopped.await;
        }));

        let answer = fetch(address, "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("event loop 1 has not turned for 2"),
            "{answer}"
        );
        stuck.beat(Instant::now());
        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("draining\n"), "{answer}");
        assert!(fetch(address, "/metrics").await.ends_with("a_metric 1\n"));
        assert!(fetch(address, "/other").await.starts_with("HTTP/1.1 404"));

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
