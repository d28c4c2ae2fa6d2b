//! A double of Slack: an incoming webhook, and the API that bots call
//! (`chat.postMessage`, `chat.update`), both as Slack documents them. It keeps
//! what was posted, with its headers, so that it stands for other services too.

use std::{
    collections::BTreeMap,
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
    /// As Slack does to what it takes; the message is kept.
    Ok,
    /// This status, and the message is not kept.
    Status(u16),
    /// 429 with Retry-After in seconds, and the message is not kept.
    RetryAfter(u64),
    /// None, until the client gives up; the message is not kept.
    Hang,
    /// 200 with `ok` false and this error, of the API; the message is not kept.
    ApiError(&'static str),
    /// 200 and a page that is not Slack's; the message is not kept.
    Garbage,
    /// The connection is closed in the middle of the answer; the message is kept.
    Close,
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
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as it came.
    pub raw: String,
    /// The posted JSON.
    pub body: serde_json::Value,
}

impl Message {
    /// The text a person reads.
    #[must_use]
    pub fn text(&self) -> &str {
        self.body["text"].as_str().unwrap_or("")
    }

    /// The method of Slack's API, if it was one.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.path.strip_prefix("/api/")
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

    /// Its root: what is posted anywhere below is taken.
    #[must_use]
    pub fn root_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The API's address, for bots that have [`Inbox::secret`] as their token.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}/api/", self.address)
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

    /// The texts of what has been delivered, oldest first.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let messages = lock(&self.shared.messages);
        messages
            .iter()
            .map(|message| message.text().to_owned())
            .collect()
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
    while let Some(request) = request(&mut reader)? {
        lock(&shared.attempts).push(Instant::now());
        let answer = *lock(&shared.answer);
        let (head, text) = match answer {
            Answer::Ok => ("200 OK".to_owned(), shared.take(request)),
            Answer::Status(code) => (format!("{code} Told So"), "service_down".to_owned()),
            Answer::RetryAfter(seconds) => (
                format!("429 Too Many Requests\r\nRetry-After: {seconds}"),
                "rate_limited".to_owned(),
            ),
            Answer::ApiError(error) => (
                "200 OK".to_owned(),
                serde_json::json!({"ok": false, "error": error}).to_string(),
            ),
            Answer::Garbage => (
                "200 OK".to_owned(),
                "<html>Welcome to our network. Please log in</html>".to_owned(),
            ),
            Answer::Hang => {
                // Until the client closes, or the read times out.
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
            Answer::Close => {
                let _ = shared.take(request);
                let mut writer = stream;
                write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{{")?;
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

impl Shared {
    /// Takes a request as Slack would: what it answers.
    fn take(&self, request: Request) -> String {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let method = request.path.strip_prefix("/api/").map(str::to_owned);
        let mut messages = lock(&self.messages);
        let bearer = request.headers.get("authorization");
        let answer = match method.as_deref() {
            Some("chat.postMessage" | "chat.update")
                if bearer.is_none_or(|bearer| *bearer != format!("Bearer {SECRET}")) =>
            {
                return refusal("invalid_auth");
            }
            Some("chat.postMessage") => {
                let ts = format!("1700000000.{:06}", messages.len());
                serde_json::json!({"ok": true, "channel": CHANNEL, "ts": ts}).to_string()
            }
            Some("chat.update") => {
                let known = (0..messages.len()).any(|index| {
                    body["ts"] == format!("1700000000.{index:06}")
                        && messages[index].method() == Some("chat.postMessage")
                });
                if !known || body["channel"] != CHANNEL {
                    return refusal("message_not_found");
                }
                serde_json::json!({"ok": true, "channel": CHANNEL, "ts": body["ts"]}).to_string()
            }
            Some(_) => return refusal("unknown_method"),
            None => "ok".to_owned(),
        };
        messages.push(Message {
            at: Instant::now(),
            at_wall: SystemTime::now(),
            path: request.path,
            headers: request.headers,
            raw: String::from_utf8_lossy(&request.body).into_owned(),
            body,
        });
        answer
    }
}

fn refusal(error: &str) -> String {
    serde_json::json!({"ok": false, "error": error}).to_string()
}

/// The ID of the one channel there is, whatever a bot calls it.
const CHANNEL: &str = "C0DOUBLE";

struct Request {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// The next request; `None` at the end of the connection.
fn request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let path = first.split(' ').nth(1).unwrap_or("").to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length");
    let length: usize = length.map_or(Ok(0), |length| length.parse())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        path,
        headers,
        body,
    }))
}
