//! A Slack-compatible inbox: what an incoming webhook posts to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;

use crate::wait;

/// How the inbox answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 `ok`: the message is kept.
    Ok,
    /// This status, and the message is not kept.
    Status(u16),
    /// 429 with Retry-After in seconds, and the message is not kept.
    RetryAfter(u64),
    /// None, until the client gives up; the message is not kept.
    Hang,
}

/// A message that was delivered.
#[derive(Clone, Debug)]
pub struct Message {
    /// When it had arrived.
    pub at: Instant,
    /// The same, as a clock on the wall.
    pub at_wall: SystemTime,
    /// The path it was posted to.
    pub path: String,
    /// The posted JSON.
    pub body: serde_json::Value,
}

impl Message {
    /// The text a person reads.
    #[must_use]
    pub fn text(&self) -> &str {
        self.body["text"].as_str().unwrap_or("")
    }
}

/// A listening inbox; ends when dropped.
#[derive(Debug)]
pub struct Inbox {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<Answer>,
    messages: Mutex<Vec<Message>>,
    attempts: Mutex<Vec<Instant>>,
    ended: AtomicBool,
}

impl Inbox {
    /// Starts one that answers [`Answer::Ok`].
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            answer: Mutex::new(Answer::Ok),
            messages: Mutex::new(Vec::new()),
            attempts: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
        });
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if served.ended.load(Ordering::Acquire) {
                    return;
                }
                let served = Arc::clone(&served);
                // A client that hangs up early is its own business.
                thread::spawn(move || {
                    let _ = serve(&stream, &served);
                });
            }
        });
        Ok(Self { address, shared })
    }

    /// The webhook's address; its path is the secret, as with Slack.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/services/T000/B000/{SECRET}", self.address)
    }

    /// The part of the URL that must never be seen in a log, a status or an error.
    #[must_use]
    pub fn secret(&self) -> &'static str {
        SECRET
    }

    /// Changes how posts are answered from now on.
    pub fn answer(&self, answer: Answer) {
        *lock(&self.shared.answer) = answer;
    }

    /// What has been delivered, oldest first.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.shared.messages).clone()
    }

    /// When posts arrived, delivered or not.
    #[must_use]
    pub fn attempts(&self) -> Vec<Instant> {
        lock(&self.shared.attempts).clone()
    }

    /// Waits for a message of whose text `wanted` is true.
    ///
    /// # Errors
    /// After `limit`, with what has come instead.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<Message> {
        wait::until(what, limit, || {
            let messages = self.messages();
            let texts: Vec<&str> = messages.iter().map(Message::text).collect();
            messages
                .iter()
                .find(|message| wanted(message.text()))
                .cloned()
                .ok_or_else(|| format!("the inbox has {texts:?}"))
        })
    }
}

const SECRET: &str = "inboxSecretThatNobodyMaySee";

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the listener, which then lets go of its port.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves requests on one connection until the client closes it.
fn serve(stream: &TcpStream, shared: &Shared) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = request(&mut reader)? {
        let at = Instant::now();
        lock(&shared.attempts).push(at);
        let answer = *lock(&shared.answer);
        let (head, text) = match answer {
            Answer::Ok => {
                lock(&shared.messages).push(Message {
                    at,
                    at_wall: SystemTime::now(),
                    path,
                    body: serde_json::from_slice(&body)?,
                });
                ("200 OK".to_owned(), "ok")
            }
            Answer::Status(code) => (format!("{code} Told So"), "service_down"),
            Answer::RetryAfter(seconds) => (
                format!("429 Too Many Requests\r\nRetry-After: {seconds}"),
                "rate_limited",
            ),
            Answer::Hang => {
                // Until the client closes, or the read times out.
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
        };
        let mut writer = stream;
        write!(
            writer,
            "HTTP/1.1 {head}\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )?;
    }
    Ok(())
}

/// Path and body of the next request; `None` at the end of the connection.
fn request(reader: &mut impl BufRead) -> Result<Option<(String, Vec<u8>)>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let path = first.split(' ').nth(1).unwrap_or("").to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((path, body)))
}
