//! A connection over which one process is asked, GET alone.
//!
//! An operator holds thousands of them, and nearly all of them wait for an answer:
//! one is hyper's own, without the pool, the redirects and the rest of a client
//! that can do more, and with a small buffer.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::{Body as _, Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{ETAG, HOST, HeaderValue, IF_NONE_MATCH},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::AbortHandle};

/// Longest answer that is read: a full log of a balancer is some 500 KB.
pub(super) const ANSWER_LENGTH_MAX: usize = 4 * 1024 * 1024;
/// Longest name of an answer that is kept.
const TAG_LENGTH_MAX: usize = 128;
/// Read at once; the head of an answer must fit.
const BUFFER_LENGTH: usize = 4 * 1024;

/// Where one process is asked. The connection is kept from answer to answer.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    /// None while an answer is awaited: one that is given up is no longer wanted.
    kept: Option<Open>,
}

/// An open connection; it is closed when it is dropped.
#[derive(Debug)]
struct Open {
    sender: SendRequest<Empty<Bytes>>,
    host: HeaderValue,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was answered.
pub(super) struct Answer {
    /// HTTP status code.
    pub(super) code: u16,
    /// Names what is said, if it has a name (RFC 9110, ETag).
    pub(super) tag: Option<HeaderValue>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot connect")]
    Connect,
    #[error("the connection broke")]
    Broke,
    #[error("answers what is no HTTP")]
    Nonsense,
    #[error("answers more than {ANSWER_LENGTH_MAX} bytes")]
    TooLong,
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        match error.is_parse() {
            true => Self::Nonsense,
            false => Self::Broke,
        }
    }
}

impl Connection {
    /// To be opened when it is needed.
    #[must_use]
    pub const fn to(address: SocketAddr) -> Self {
        Self {
            address,
            kept: None,
        }
    }

    /// Asks for a path; what `known` names need not be said again (304). Given up
    /// before the answer is there, it asks over another connection next time.
    pub(super) async fn get(
        &mut self,
        path: &str,
        known: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        if let Some(mut open) = self.kept.take() {
            match open.ask(path, known).await {
                // A kept one may be just too old.
                Err(error) if is_closed(&error) => {}
                answered => return self.take(open, answered?).await,
            }
        }
        let mut open = Open::to(self.address).await?;
        let answered = open.ask(path, known).await?;
        self.take(open, answered).await
    }

    /// Reads an answer to its end, and keeps the connection if it can be used again.
    async fn take(&mut self, open: Open, answer: Response<Incoming>) -> Result<Answer, Failure> {
        let code = answer.status().as_u16();
        let tag = answer.headers().get(ETAG);
        let tag = tag.filter(|tag| tag.len() <= TAG_LENGTH_MAX).cloned();
        if answer.body().size_hint().lower() > ANSWER_LENGTH_MAX as u64 {
            return Err(Failure::TooLong);
        }
        let body = Limited::new(answer.into_body(), ANSWER_LENGTH_MAX);
        let body = body.collect().await.map_err(|error| {
            match (
                error.is::<LengthLimitError>(),
                error.downcast::<hyper::Error>(),
            ) {
                (true, _) => Failure::TooLong,
                (false, Ok(error)) => (*error).into(),
                (false, Err(_)) => Failure::Broke,
            }
        })?;
        self.kept = Some(open);
        Ok(Answer {
            code,
            tag,
            body: body.to_bytes(),
        })
    }
}

impl Open {
    async fn to(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Broke)?;
        let mut builder = http1::Builder::new();
        builder.read_buf_exact_size(Some(BUFFER_LENGTH));
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let serve = async move {
            // Whoever asks hears of it.
            let _ = connection.await;
        };
        let host = HeaderValue::from_maybe_shared(address.to_string());
        Ok(Self {
            sender,
            host: host.expect("an address is text"),
            task: tokio::spawn(serve).abort_handle(),
        })
    }

    async fn ask(
        &mut self,
        path: &str,
        known: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        let mut request = Request::get(path).header(HOST, &self.host);
        if let Some(known) = known {
            request = request.header(IF_NONE_MATCH, known);
        }
        let request = request.body(Empty::new());
        let request = request.expect("a path of ours is valid");
        self.sender.send_request(request).await
    }
}

/// Whether it was closed and nothing was answered.
fn is_closed(error: &hyper::Error) -> bool {
    error.is_closed() || error.is_canceled() || error.is_incomplete_message() || is_reset(error)
}

/// A reset comes instead of the end where both sides were at it.
fn is_reset(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| cause.is::<std::io::Error>())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Serves one connection after the other; each answers these and is closed.
    async fn serve(connections: &'static [&'static [&'static str]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answers in connections {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answer in *answers {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
                    }
                    // In pieces, as networks do.
                    for piece in answer.as_bytes().chunks(7) {
                        stream.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        address
    }

    async fn body(connection: &mut Connection) -> String {
        let answer = connection.get("/", None).await.unwrap();
        assert_eq!(answer.code, 200);
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_replaced_when_it_was_closed() {
        const A: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
        const B: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            2\r\ntw\r\n1;x=y\r\no\r\n0\r\nx: y\r\n\r\n";
        const C: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nthree";
        const D: &str = "HTTP/1.1 200 OK\r\n\r\nfour";
        let address = serve(&[&[A, B], &[A, C], &[D], &[B]]).await;
        let mut connection = Connection::to(address);
        for expected in ["one", "two", "one", "three", "four", "two"] {
            assert_eq!(body(&mut connection).await, expected);
        }
        assert!(connection.kept.is_some());
        assert!(
            connection.get("/", None).await.is_err(),
            "nobody listens any more"
        );
    }

    #[tokio::test]
    async fn one_that_was_given_up_is_not_used_again() {
        let address = serve(&[
            &["HTTP/1.1 200"],
            &["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1"],
        ]);
        let mut connection = Connection::to(address.await);
        let mut asked = Box::pin(connection.get("/", None));
        assert!(futures::poll!(asked.as_mut()).is_pending());
        drop(asked);
        assert!(connection.kept.is_none());
    }

    #[tokio::test]
    async fn what_is_no_answer_is_none() {
        let answers: [(&[&[&str]], &str); 5] = [
            (&[&["SSH-2.0-x\r\n\r\n"]], "answers what is no HTTP"),
            (
                &[&["HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"]],
                "answers what is no HTTP",
            ),
            (
                &[&["HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"]],
                "answers more than 4194304 bytes",
            ),
            (
                &[&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n"]],
                "the connection broke",
            ),
            (
                &[&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"]],
                "the connection broke",
            ),
        ];
        for (answer, expected) in answers {
            let answer = Box::leak(Box::new(answer.to_vec()));
            let mut connection = Connection::to(serve(answer).await);
            let failure = connection.get("/", None).await.err().unwrap();
            assert_eq!(failure.to_string(), expected);
            assert!(connection.kept.is_none());
        }
    }
}
