//! One timed observation of a target, on its data port. No judgement.

use std::{io, net::SocketAddr, time::Duration};

use proxy_core::{
    config::balancer::{Check, CheckType, duration},
    health::{Failure, Observation},
    wire::{CheckReply, CheckRequest, DrainOrder, TargetReport, TargetState, read_check_reply},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::net;

/// Characters kept of what a target says: it is shown and logged.
const TEXT_LENGTH_MAX: usize = 200;

/// A check as the status pages show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How it ended.
    pub outcome: Outcome,
    /// In words.
    pub text: String,
    /// How long it took.
    pub duration: Duration,
}

/// How a check ended, in HAProxy's classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection was made, which was all that was asked.
    Connected,
    /// It answered that it serves.
    Serves,
    /// The connection was not made.
    NotConnected,
    /// No connection in time.
    ConnectTimeout,
    /// No answer in time.
    AnswerTimeout,
    /// An answer that makes no sense, or a close before it.
    BadAnswer,
    /// An error.
    Refused,
    /// The check could not be made, for want of something on this host.
    OwnFault,
}

/// What a check gives: the observation, `None` if it says nothing about the
/// target, and what is shown of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// For [`proxy_core::health::judge`].
    pub observation: Option<Observation>,
    /// For the status pages.
    pub seen: Seen,
}

/// A check that ends as late as this many times its timeout says that this process
/// did not run, and nothing of the target.
const STOPPED_PER_TIMEOUT: u32 = 2;

/// Checks `address` once, within `check.timeout`, and passes an order to it.
pub async fn probe(address: SocketAddr, check: &Check, drain: Option<DrainOrder>) -> Probe {
    let begin = Instant::now();
    let result = attempt(address, check, drain, begin + check.timeout).await;
    let duration = begin.elapsed();
    let (outcome, text, observation) = match result {
        Ok((outcome, report)) => {
            let text = match report.as_ref().map(|report| report.state) {
                None => "serves",
                Some(TargetState::Ready) => "ready",
                Some(TargetState::Draining) => "draining",
                Some(TargetState::Paused) => "paused",
            };
            let observation = Observation::Passed { report };
            (outcome, text.to_owned(), Some(observation))
        }
        Err(Fault {
            outcome,
            failure,
            text,
        }) => {
            // Who was stopped meanwhile heard no answer, be there one or not.
            let was_stopped = duration > STOPPED_PER_TIMEOUT * check.timeout;
            let heard = failure.filter(|failure| *failure != Failure::Silent || !was_stopped);
            let observation = heard.map(|failure| Observation::Failed {
                failure,
                reason: text.clone(),
            });
            (outcome, text, observation)
        }
    };
    Probe {
        observation,
        seen: Seen {
            outcome,
            text,
            duration,
        },
    }
}

struct Fault {
    outcome: Outcome,
    /// `None` if the target is not to blame.
    failure: Option<Failure>,
    text: String,
}

impl Fault {
    fn new(outcome: Outcome, failure: Failure, text: impl Into<String>) -> Self {
        Self {
            outcome,
            failure: Some(failure),
            text: text.into(),
        }
    }
}

async fn attempt(
    address: SocketAddr,
    check: &Check,
    drain: Option<DrainOrder>,
    deadline: Instant,
) -> Result<(Outcome, Option<TargetReport>), Fault> {
    let limit = duration::format(check.timeout);
    let mut stream = match timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(not_connected(&error)),
        Err(_) => {
            return Err(Fault::new(
                Outcome::ConnectTimeout,
                Failure::Silent,
                format!("timeout after {limit} connecting"),
            ));
        }
    };
    if check.r#type == CheckType::Tcp {
        return Ok((Outcome::Connected, None));
    }
    match timeout_at(deadline, ask(&mut stream, check, drain)).await {
        Ok(Ok(reply)) => understood(reply),
        Ok(Err(error)) => Err(Fault::new(
            Outcome::BadAnswer,
            Failure::Answered,
            format!("{} before an answer", error.kind()),
        )),
        Err(_) => Err(Fault::new(
            Outcome::AnswerTimeout,
            Failure::Silent,
            format!("timeout after {limit} waiting for an answer"),
        )),
    }
}

async fn ask(
    stream: &mut TcpStream,
    check: &Check,
    drain: Option<DrainOrder>,
) -> io::Result<CheckReply> {
    let request = CheckRequest {
        interval: check.interval,
        drain,
    };
    stream.write_all(&request.encode()).await?;
    let mut answer = Vec::new();
    loop {
        // read_buf grows the buffer; the answer's own length limit ends it.
        if stream.read_buf(&mut answer).await? == 0 {
            let cause = match answer.is_empty() {
                true => "connection closed without an answer".to_owned(),
                false => format!(
                    "connection closed after {} bytes of an answer",
                    answer.len()
                ),
            };
            return Ok(CheckReply::Garbage(cause));
        }
        match read_check_reply(&answer) {
            CheckReply::Incomplete => {}
            reply => return Ok(reply),
        }
    }
}

fn understood(reply: CheckReply) -> Result<(Outcome, Option<TargetReport>), Fault> {
    match reply {
        CheckReply::Serves => Ok((Outcome::Serves, None)),
        CheckReply::Report(report) => Ok((Outcome::Serves, Some(shortened(&report)))),
        CheckReply::Refused { code, text } => Err(Fault::new(
            Outcome::Refused,
            Failure::Answered,
            shown(&format!("{code} {text}")),
        )),
        CheckReply::Garbage(cause) => Err(Fault::new(
            Outcome::BadAnswer,
            Failure::Answered,
            shown(&cause),
        )),
        CheckReply::Incomplete => unreachable!("ask reads on while the answer is incomplete"),
    }
}

/// A connect that failed at once. What this host lacks is no fault of the target.
fn not_connected(error: &io::Error) -> Fault {
    if net::is_own_fault(error) {
        return Fault {
            outcome: Outcome::OwnFault,
            failure: None,
            text: format!("not checked: {error}"),
        };
    }
    let failure = match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        _ => Failure::Silent,
    };
    Fault::new(Outcome::NotConnected, failure, error.kind().to_string())
}

/// A target's words, fit to be shown: one line of limited length.
fn shown(text: &str) -> String {
    text.chars()
        .map(|character| match character.is_control() {
            true => ' ',
            false => character,
        })
        .take(TEXT_LENGTH_MAX)
        .collect()
}

fn shortened(report: &TargetReport) -> TargetReport {
    TargetReport {
        boot_id: shown(&report.boot_id),
        name: report.name.as_deref().map(shown),
        version: report.version.as_deref().map(shown),
        config_revision: report.config_revision.as_deref().map(shown),
        ..*report
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::wire::{Severity, SqlState, authentication_ok, error_response};
    use tokio::net::TcpListener;

    use rustix::io::Errno;

    use super::*;

    fn check(r#type: CheckType) -> Check {
        Check {
            r#type,
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(200),
            ..Check::default()
        }
    }

    /// Checks a server that answers `answer` and closes, or, without one, never
    /// answers.
    async fn against(answer: Option<Vec<u8>>) -> Probe {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 64];
            let _ = stream.read(&mut request).await;
            match answer {
                Some(answer) => {
                    let _ = stream.write_all(&answer).await;
                }
                None => std::future::pending().await,
            }
        });
        let probe = probe(address, &check(CheckType::Postgres), None).await;
        server.abort();
        probe
    }

    fn failed(failure: Failure, reason: &str) -> Option<Observation> {
        Some(Observation::Failed {
            failure,
            reason: reason.to_owned(),
        })
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let report = TargetReport {
            upstream: None,
            saturation: None,
            version: None,
            state: TargetState::Paused,
            boot_id: "b".repeat(1000),
            name: Some("pod\n0".into()),
            config_revision: Some("r\n1\u{7}".into()),
            clients: 1,
            waiting: 2,
        };
        let seen = against(Some(report.encode())).await;
        let Some(Observation::Passed { report: Some(got) }) = seen.observation else {
            panic!("{seen:?}");
        };
        assert_eq!(got.boot_id.len(), TEXT_LENGTH_MAX);
        assert_eq!(got.name.as_deref(), Some("pod 0"));
        assert_eq!(got.config_revision.as_deref(), Some("r 1 "));
        assert_eq!(
            (seen.seen.outcome, seen.seen.text.as_str()),
            (Outcome::Serves, "paused")
        );

        let seen = against(Some(authentication_ok())).await;
        assert_eq!(seen.observation, Some(Observation::Passed { report: None }));

        let error = error_response(
            Severity::Fatal,
            SqlState::CANNOT_CONNECT_NOW,
            "the database system is starting up",
            "",
        );
        let seen = against(Some(error)).await;
        let reason = "57P03 the database system is starting up";
        assert_eq!(seen.observation, failed(Failure::Answered, reason));
        assert_eq!(seen.seen.outcome, Outcome::Refused);

        let seen = against(Some(b"HTTP/1.1 400".to_vec())).await;
        assert_eq!(seen.seen.outcome, Outcome::BadAnswer);
        assert!(matches!(
            seen.observation,
            Some(Observation::Failed {
                failure: Failure::Answered,
                ..
            })
        ));

        let seen = against(None).await;
        let reason = "timeout after 200ms waiting for an answer";
        assert_eq!(seen.observation, failed(Failure::Silent, reason));
        assert_eq!(seen.seen.outcome, Outcome::AnswerTimeout);
    }

    /// All of it is one thread, as all threads of a process that is stopped.
    #[tokio::test]
    async fn who_was_stopped_meanwhile_says_nothing_of_the_target() {
        let stopped = async {
            let until = std::time::Instant::now() + Duration::from_millis(500);
            while std::time::Instant::now() < until {
                std::thread::park_timeout(Duration::from_millis(100));
            }
        };
        let (seen, ()) = tokio::join!(against(None), stopped);
        assert_eq!(seen.observation, None);
        assert_eq!(seen.seen.outcome, Outcome::AnswerTimeout);
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = probe(address, &check(CheckType::Tcp), None).await;
        assert_eq!(open.seen.outcome, Outcome::Connected);
        drop(listener);
        for r#type in [CheckType::Tcp, CheckType::Postgres] {
            let closed = probe(address, &check(r#type), None).await;
            assert_eq!(
                closed.observation,
                failed(Failure::Refused, "connection refused")
            );
        }
    }

    #[test]
    fn own_faults_blame_nobody() {
        let fault = not_connected(&io::Error::from(Errno::MFILE));
        assert_eq!((fault.outcome, fault.failure), (Outcome::OwnFault, None));
        let fault = not_connected(&io::Error::from(Errno::HOSTUNREACH));
        assert_eq!(fault.failure, Some(Failure::Silent));
        assert_eq!(fault.text, "host unreachable");
    }
}
