//! `/status` of every balancer: each on an address of its own, all in this process.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, Result};
use proxy_core::status::BalancerStatus;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{BALANCERS, Fleet, POOLERS, Tier};

/// Where a balancer serves HTTP in its Pod.
const HTTP: u16 = 8404;
/// Longest line of a request.
const LINE_LENGTH_MAX: usize = 8_192;

/// Listens for all of them.
pub(crate) async fn serve(fleet: &Arc<Fleet>) -> Result<()> {
    for (key, tier) in &fleet.tiers {
        for index in 0..BALANCERS {
            let address = SocketAddr::from((tier.balancer(index), HTTP));
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))?;
            tokio::spawn(accept(listener, fleet.clone(), key.clone()));
        }
    }
    Ok(())
}

async fn accept(listener: TcpListener, fleet: Arc<Fleet>, key: (String, String)) {
    while let Ok((stream, _)) = listener.accept().await {
        let (fleet, key) = (fleet.clone(), key.clone());
        // Whoever asked went away: that is no fault of ours.
        tokio::spawn(async move { answer(stream, &fleet, &fleet.tiers[&key]).await });
    }
}

/// Answers one connection's requests, one after the other.
async fn answer(stream: TcpStream, fleet: &Fleet, tier: &Tier) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        loop {
            let begin = request.len();
            if stream.read_line(&mut request).await? == 0 || request.len() > LINE_LENGTH_MAX {
                return Ok(());
            }
            if request[begin..].trim().is_empty() {
                break;
            }
        }
        fleet.counts.requests.fetch_add(1, Relaxed);
        if !request.contains("since=") {
            fleet.counts.fresh.fetch_add(1, Relaxed);
        }
        // Nothing ever happens here, so that a long poll lasts as long as it may.
        if let Some(wait) = wait(&request) {
            tokio::time::sleep(wait).await;
        }
        let status = status(tier);
        let tag = status.tag();
        let answer = match request.contains(&tag) {
            true => format!("HTTP/1.1 304 Not Modified\r\netag: {tag}\r\n\r\n"),
            false => {
                let body = serde_json::to_string(&status)?;
                let head = format!("etag: {tag}\r\ncontent-type: application/json");
                let length = body.len();
                format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}")
            }
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// `wait=30s` or `wait=500ms` in the request's first line.
fn wait(request: &str) -> Option<Duration> {
    let line = request.lines().next()?;
    let (_, text) = line.split_once("wait=")?;
    let text = text.split([' ', '&']).next()?;
    proxy_core::config::balancer::duration::parse(text).ok()
}

/// What a balancer of ours says whose tier does well.
fn status(tier: &Tier) -> BalancerStatus {
    let revision = tier.revision.borrow().clone();
    let targets = (0..POOLERS).map(|index| {
        let address = format!("{}:6432", tier.pooler(index));
        json!({
            "name": address, "address": address, "state": "Up",
            "since": "2026-01-01T00:00:00Z", "reason": "answers checks",
            "connections": 12, "connectionsTotal": 3456, "discovered": true, "listed": true,
            "report": {"state": "ready", "bootId": "6f1c0f5ac2d34e12", "configRevision": revision,
                "clients": 12, "waiting": 0},
        })
    });
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"), "bootId": "0a1b2c3d4e5f6071", "state": "ready",
        "configRevision": revision, "startedAt": "2026-01-01T00:00:00Z",
        "connections": 36, "maxConnections": 12000, "targets": targets.collect::<Vec<_>>(),
        "reloads": {"failuresTotal": 0}, "transitions": [], "newest": 7, "missed": false,
        "reported": 3,
    });
    serde_json::from_value(status).expect("it is one")
}
