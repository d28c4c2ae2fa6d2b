//! A connection over which one process is asked, HTTP/1.1 and GET alone.
//!
//! An operator holds thousands of them, and nearly all of them wait for an answer.
//! One that waits holds no buffer: a client that can do more takes 29 KB for it.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longest answer that is read: a full log of a balancer is some 500 KB.
pub(super) const ANSWER_LENGTH_MAX: usize = 4 * 1024 * 1024;
/// Longest head of an answer, and longest line before a chunk.
const HEAD_LENGTH_MAX: usize = 16 * 1024;
/// Read at once, at first.
const BUFFER_LENGTH: usize = 4 * 1024;

/// Where one process is asked. The connection is kept from answer to answer.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    /// None while an answer is awaited: one that is given up is no longer wanted.
    stream: Option<TcpStream>,
}

/// What was answered.
pub(super) struct Answer {
    /// HTTP status code.
    pub(super) code: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot connect")]
    Connect,
    #[error("the connection broke")]
    Broke,
    /// It was closed and nothing was answered: a kept one may be just too old.
    #[error("the connection broke")]
    Closed,
    #[error("answers what is no HTTP")]
    Nonsense,
    #[error("answers more than {ANSWER_LENGTH_MAX} bytes")]
    TooLong,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Broke
    }
}

impl Connection {
    /// To be opened when it is needed.
    #[must_use]
    pub const fn to(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
        }
    }

    /// Asks for a path. Given up before the answer is there, it asks over another
    /// connection next time.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        if let Some(kept) = self.stream.take() {
            match self.ask(kept, path).await {
                Err(Failure::Closed) => {}
                answered => return answered,
            }
        }
        let opened = TcpStream::connect(self.address).await;
        let stream = opened.map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true)?;
        self.ask(stream, path).await
    }

    async fn ask(&mut self, mut stream: TcpStream, path: &str) -> Result<Answer, Failure> {
        let address = self.address;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\n\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(|_| Failure::Closed)?;
        stream.readable().await?;
        let mut reader = Reader {
            stream,
            bytes: Vec::with_capacity(BUFFER_LENGTH),
        };
        let head = reader.head().await?;
        let body = match head.length {
            Length::Bytes(length) => reader.take(length).await?,
            Length::Chunks => reader.chunks().await?,
            Length::UntilClosed => reader.rest().await?,
        };
        if head.is_kept && reader.bytes.is_empty() {
            self.stream = Some(reader.stream);
        }
        Ok(Answer {
            code: head.code,
            body,
        })
    }
}

/// What comes before a body.
struct Head {
    code: u16,
    length: Length,
    /// The connection can be used again.
    is_kept: bool,
}

/// How long a body is.
#[derive(Clone, Copy)]
enum Length {
    Bytes(usize),
    Chunks,
    UntilClosed,
}

impl Head {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.split("\r\n");
        let (version, code) = lines.next()?.split_once(' ')?;
        let mut head = Self {
            code: code.get(..3)?.parse().ok()?,
            length: Length::UntilClosed,
            is_kept: version == "HTTP/1.1",
        };
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = Length::Bytes(value.parse().ok()?),
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => {
                    head.length = Length::Chunks;
                }
                "connection" if value.eq_ignore_ascii_case("close") => head.is_kept = false,
                _ => {}
            }
        }
        head.is_kept &= !matches!(head.length, Length::UntilClosed);
        Some(head)
    }
}

/// Reads an answer.
struct Reader {
    stream: TcpStream,
    /// What was read and not yet used.
    bytes: Vec<u8>,
}

impl Reader {
    /// False when it was closed.
    async fn more(&mut self) -> Result<bool, Failure> {
        if self.bytes.len() > ANSWER_LENGTH_MAX {
            return Err(Failure::TooLong);
        }
        Ok(self.stream.read_buf(&mut self.bytes).await? > 0)
    }

    /// What comes before `end`, which is left out.
    async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, Failure> {
        loop {
            let mut windows = self.bytes.windows(end.len());
            if let Some(length) = windows.position(|window| window == end) {
                let rest = self.bytes.split_off(length + end.len());
                let mut found = std::mem::replace(&mut self.bytes, rest);
                found.truncate(length);
                return Ok(found);
            }
            if self.bytes.len() > HEAD_LENGTH_MAX {
                return Err(Failure::Nonsense);
            }
            if !self.more().await? {
                return Err(Failure::Broke);
            }
        }
    }

    async fn head(&mut self) -> Result<Head, Failure> {
        match self.more().await {
            Ok(true) => {}
            // A reset comes instead of the end where both sides were at it.
            Ok(false) | Err(_) => return Err(Failure::Closed),
        }
        let text = self.until(b"\r\n\r\n").await?;
        Head::parse(&text).ok_or(Failure::Nonsense)
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        if length > ANSWER_LENGTH_MAX {
            return Err(Failure::TooLong);
        }
        while self.bytes.len() < length {
            if !self.more().await? {
                return Err(Failure::Broke);
            }
        }
        let rest = self.bytes.split_off(length);
        Ok(std::mem::replace(&mut self.bytes, rest))
    }

    async fn rest(&mut self) -> Result<Vec<u8>, Failure> {
        while self.more().await? {}
        Ok(std::mem::take(&mut self.bytes))
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(size).ok();
            let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
            let size = size.ok_or(Failure::Nonsense)?;
            if size == 0 {
                // Fields that may follow mean nothing here.
                while !self.until(b"\r\n").await?.is_empty() {}
                return Ok(body);
            }
            if size > ANSWER_LENGTH_MAX - body.len() {
                return Err(Failure::TooLong);
            }
            body.append(&mut self.take(size).await?);
            if !self.until(b"\r\n").await?.is_empty() {
                return Err(Failure::Nonsense);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

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
        let answer = connection.get("/").await.unwrap();
        assert_eq!(answer.code, 200);
        String::from_utf8(answer.body).unwrap()
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
        assert!(connection.stream.is_some());
        assert!(
            connection.get("/").await.is_err(),
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
        let mut asked = Box::pin(connection.get("/"));
        assert!(futures::poll!(asked.as_mut()).is_pending());
        drop(asked);
        assert!(connection.stream.is_none());
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
                "answers more than 4194304 bytes",
            ),
            (
                &[&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"]],
                "the connection broke",
            ),
        ];
        for (answer, expected) in answers {
            let answer = Box::leak(Box::new(answer.to_vec()));
            let mut connection = Connection::to(serve(answer).await);
            let failure = connection.get("/").await.err().unwrap();
            assert_eq!(failure.to_string(), expected);
            assert!(connection.stream.is_none());
        }
    }
}
