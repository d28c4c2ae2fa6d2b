//! Asks PostgreSQL whether it answers, where no login has shown it for a while.
//!
//! The question takes no user, no password and no connection out of
//! max_connections, and PostgreSQL logs nothing of it (but for
//! log_connections): a request to begin encryption, which any server answers
//! before it looks at anything else, and then an orderly end. Where TLS is used
//! the handshake is gone through, since one that is left is logged, and shows
//! whether certificates are in order. Without, GSSAPI is asked for, which may be
//! left at any time. What it does not show: whether we would be let in.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use proxy_core::{
    upstream::{Observation, Reason},
    wire::{self, TlsAnswer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

use super::{Place, address};
use crate::{
    net,
    pooler::{
        shared::Shared,
        tls::{Connector, Tls},
        unix,
        worker::{Asker, Job},
    },
};

/// How many are asked at once.
const ASKED_MAX: usize = 32;
/// The least and the longest time for an answer; between, the interval.
const ANSWER_TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// What a handshake's messages and one more read may take.
const HANDSHAKE_ROOM: usize = (64 + 16) * 1024;

/// Asks those that are due, for as long as the process lives.
pub(in crate::pooler) async fn keep_asking(shared: Arc<Shared>) {
    let upstreams = &shared.upstreams;
    loop {
        let interval = shared.live().config.global.upstream_check_interval;
        if interval.is_zero() {
            upstreams.hurry.notified().await;
            continue;
        }
        let (mut due, next) = upstreams.due(interval, shared.now());
        if due.is_empty() {
            let pause = next.map_or(interval, |next| next.since(shared.now()));
            // Sooner, if a server is lost or the configuration changes.
            let _ = timeout(pause, upstreams.hurry.notified()).await;
            continue;
        }
        due.truncate(ASKED_MAX);
        let mut questions = JoinSet::new();
        for place in due {
            let shared = shared.clone();
            questions.spawn(async move { ask(&shared, place, interval).await });
        }
        while questions.join_next().await.is_some() {}
    }
}

async fn ask(shared: &Shared, (host, port): Place, interval: Duration) {
    let limit = interval.clamp(ANSWER_TIMES.0, ANSWER_TIMES.1);
    let connector = shared.pools.connector();
    let answer = match timeout(limit, answers(shared, &host, port, &connector)).await {
        Ok(answer) => answer,
        Err(_) => Err(NoAnswer::new(
            Reason::Timeout,
            format!("no answer within {limit:?}"),
        )),
    };
    let observation = match answer {
        Ok(()) => Observation::Answered,
        Err(NoAnswer { reason, text }) => {
            tracing::debug!(address = address(&host, port), text, "PostgreSQL asked");
            match reason {
                Some(reason) => Observation::Failed(reason),
                // Our own fault shows nothing; it is asked again as if it had.
                None => return shared.upstreams.not_asked(&host, port, shared.now()),
            }
        }
    };
    shared
        .upstreams
        .observe(&host, port, observation, shared.now());
}

/// Why there is no answer; without a reason for want of our own means.
#[derive(Debug)]
struct NoAnswer {
    reason: Option<Reason>,
    text: String,
}

impl NoAnswer {
    fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason: Some(reason),
            text: text.into(),
        }
    }
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        Self {
            reason: trouble(&error),
            text: error.to_string(),
        }
    }
}

/// What an error of a connection shows of PostgreSQL; `None` if the fault is ours.
pub(in crate::pooler) fn trouble(error: &io::Error) -> Option<Reason> {
    if net::is_own_fault(error) {
        return None;
    }
    Some(match error.kind() {
        // Of a Unix socket: there is none, or it is somebody else's.
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied => Reason::Refused,
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Reason::Timeout,
        // What the TLS code finds wrong.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Reason::Tls,
        _ => Reason::Lost,
    })
}

async fn answers(
    shared: &Shared,
    host: &str,
    port: u16,
    connector: &Connector,
) -> Result<(), NoAnswer> {
    if unix::is_directory(host) {
        let stream = unix::connect_std(host, port)?;
        return encrypts(UnixStream::from_std(stream)?, None, false).await;
    }
    let addresses = addresses(shared, host, port).await?;
    let mut last = NoAnswer::new(Reason::NameNotFound, "the host has no address");
    for address in addresses {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        let tls = match connector.asks() {
            true => Some(connector.connect(host, address.ip())?),
            false => None,
        };
        return encrypts(stream, tls, connector.insists()).await;
    }
    Err(last)
}

/// The host's addresses, as servers are opened to them.
async fn addresses(shared: &Shared, host: &str, port: u16) -> Result<Vec<SocketAddr>, NoAnswer> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let overloaded = || NoAnswer {
        reason: None,
        text: "too many name look-ups at once".to_owned(),
    };
    let (reply, answer) = oneshot::channel();
    let live = shared.live();
    let job = Job::Resolve {
        asker: Asker::Probe(reply),
        host: host.to_owned(),
        port,
        ttl: live.config.global.dns_max_ttl,
        failure_ttl: live.config.global.dns_nxdomain_ttl,
    };
    if !shared.work(job) {
        return Err(overloaded());
    }
    let addresses = answer.await.map_err(|_| overloaded())?;
    addresses.map_err(|text| NoAnswer::new(Reason::NameNotFound, text))
}

/// Asks for encryption, and goes through with TLS where it is agreed on.
async fn encrypts(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    tls: Option<Tls>,
    insists: bool,
) -> Result<(), NoAnswer> {
    let request = match tls {
        Some(_) => wire::ssl_request(),
        None => wire::gssenc_request(),
    };
    stream.write_all(&request).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    match (tls, TlsAnswer::read(&answer)) {
        (Some(mut tls), Ok(TlsAnswer::Yes)) => shake_hands(&mut stream, &mut tls).await?,
        (Some(_), Ok(TlsAnswer::No)) if insists => {
            return Err(NoAnswer::new(Reason::Tls, "it has no TLS"));
        }
        (_, Ok(TlsAnswer::No)) => {}
        // It cannot start a process, or is so old that it knows no GSSAPI: it is there.
        (_, Ok(TlsAnswer::Error)) => return Ok(()),
        (None, Err(_)) if answer == *b"G" => {}
        (None, Ok(TlsAnswer::Yes)) | (_, Err(_)) => {
            let text = format!("it answers with byte {:#04x}", answer[0]);
            return Err(NoAnswer::new(Reason::NotPostgres, text));
        }
    }
    // It has answered. That it hears the end before the connection is gone keeps
    // its log clean; whether it does, does not matter here.
    let _ = leave(&mut stream).await;
    Ok(())
}

async fn leave(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    // What it sends still, tickets of TLS for one, would be answered by a reset.
    let mut rest = [0; 1024];
    for _ in 0..64 {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

async fn shake_hands(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    tls: &mut Tls,
) -> io::Result<()> {
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let mut cipher = vec![0; HANDSHAKE_ROOM];
    let mut length = 0;
    loop {
        let received = tls.receive(&mut cipher[..length], &mut plain, &mut out);
        stream.write_all(&out).await?;
        out.clear();
        received?;
        if tls.is_established() {
            break;
        }
        let kept = tls.take_pending(&mut cipher);
        let read = stream.read(&mut cipher[kept..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length = kept + read;
    }
    tls.close(&mut out);
    stream.write_all(&out).await
}
