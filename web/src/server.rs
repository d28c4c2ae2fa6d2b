//! An HTTP server whose clients are not trusted: connections, header and body
//! sizes, and the time of everything but a running long poll are limited.

mod connections;

use std::{io, net::TcpListener, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::net::TcpStream;

use self::connections::Connections;

/// Connections at once; for one more, another is closed.
pub const CONNECTIONS_MAX: usize = 128;
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

/// Serves `router` on `listener`, which does not block, until `stop` resolves, then takes no more
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
    let connections = Connections::new(CONNECTIONS_MAX);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
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
        if tune(&stream).is_err() {
            continue; // The peer is gone already.
        }
        let (place, taken) = connections.enter();
        let answering = TowerToHyperService::new(router.clone());
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let asking = place.ask();
            let answer = answering.call(request);
            async move {
                let answer = answer.await;
                drop(asking);
                answer
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                // A client that hangs up or speaks no HTTP concerns nobody.
                _ = connection => {}
                _ = taken => tracing::debug!("HTTP connection closed to make place for another"),
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(SEND_TIME_MAX))
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
    use std::{net::SocketAddr, sync::Arc, time::Instant};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::{Notify, oneshot},
    };

    use super::*;
    use crate::probes::{Heartbeat, STUCK_AFTER, probes};

    fn bind() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

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
        let (listener, address) = bind();
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

    /// Serves `/` at once, and `/wait` once `news` says so.
    fn waiting_server() -> (SocketAddr, Arc<Notify>) {
        let news = Arc::new(Notify::new());
        let told = news.clone();
        let wait = move || async move {
            told.notified().await;
            "news"
        };
        let router = Router::new()
            .route("/", get(|| async { "at once" }))
            .route("/wait", get(wait));
        let (listener, address) = bind();
        tokio::spawn(serve(listener, router, std::future::pending()));
        (address, news)
    }

    #[tokio::test]
    async fn whoever_asks_is_answered_past_any_number_who_say_nothing() {
        let (address, news) = waiting_server();
        let poll = tokio::spawn(fetch(address, "/wait"));
        let begin = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
            if silent.len() % CONNECTIONS_MAX == 0 {
                assert!(fetch(address, "/").await.ends_with("at once"));
            }
        }
        assert!(begin.elapsed() < HEADER_TIME_MAX, "no deadline made place");
        // Those who came first were closed, not kept.
        assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
        // Who waits for an answer was not.
        news.notify_one();
        assert!(poll.await.unwrap().ends_with("news"));
    }

    #[tokio::test]
    async fn whoever_asks_is_answered_past_any_number_who_wait() {
        let (address, _news) = waiting_server();
        let request = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut waiting = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request).await.unwrap();
            waiting.push(stream);
        }
        let begin = Instant::now();
        assert!(fetch(address, "/").await.ends_with("at once"));
        assert!(begin.elapsed() < HEADER_TIME_MAX);
    }
}
