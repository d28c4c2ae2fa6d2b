//! A URL that is called while all is well. A dead operator tells nobody that it
//! is dead: whoever is called, and is called no longer, does.
//!
//! The URL is a secret, as those of webhooks are, and the same is asked of it.

use std::{fmt, fs, io, path::PathBuf, time::Duration};

use reqwest::Url;
use tokio::time::{MissedTickBehavior, interval};

use crate::{courier::Courier, webhook::WebhookPolicy};

/// Where the URL may be, if not in a file.
pub const VARIABLE: &str = "POOLKEEPER_HEARTBEAT_URL";

/// The labels of calls, by what came of them.
pub const RESULTS: [&str; 2] = ["delivered", "failed"];

/// Why there is no URL to call, though one is named.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// The file cannot be read.
    #[error("cannot read the heartbeat URL from {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is not one that is called.
    #[error("the heartbeat URL in {0} {1}")]
    Url(String, String),
}

/// What is called, and how often.
#[derive(Clone)]
pub struct Heartbeat {
    url: Url,
    every: Duration,
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heartbeat(..)")
    }
}

impl Heartbeat {
    /// Takes the URL from a file, or from the environment; none if there is none.
    ///
    /// # Errors
    /// What is wrong with it, without any part of it.
    pub fn read(
        file: Option<PathBuf>,
        every: Duration,
        policy: &WebhookPolicy,
    ) -> Result<Option<Self>, HeartbeatError> {
        let (place, text) = match file {
            Some(path) => match fs::read_to_string(&path) {
                Ok(text) => (path.display().to_string(), text),
                Err(error) => return Err(HeartbeatError::File { path, error }),
            },
            None => match std::env::var(VARIABLE) {
                Ok(text) if !text.is_empty() => (VARIABLE.to_owned(), text),
                _ => return Ok(None),
            },
        };
        match policy.url(&text) {
            Ok(url) => Ok(Some(Self { url, every })),
            Err(fault) => Err(HeartbeatError::Url(place, fault)),
        }
    }

    /// Calls it again and again whenever `is_well`, for as long as this is
    /// polled, and tells what came of each call.
    pub(crate) async fn keep_calling(
        &self,
        courier: &Courier,
        is_well: impl Fn() -> bool,
        mut tell: impl FnMut(&Called),
    ) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            tick.tick().await;
            if !is_well() {
                continue;
            }
            let problem = courier.call(self.url.clone()).await.err();
            let is_news = failed != problem.is_some();
            failed = problem.is_some();
            tell(&Called { problem, is_news });
        }
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    /// Why it did not arrive.
    pub(crate) problem: Option<String>,
    /// Whether the one before went otherwise.
    pub(crate) is_news: bool,
}

impl Called {
    /// The label.
    pub(crate) const fn result(&self) -> &'static str {
        match self.problem {
            None => RESULTS[0],
            Some(_) => RESULTS[1],
        }
    }

    /// A sentence, if it is worth one.
    pub(crate) fn sentence(&self) -> Option<String> {
        self.is_news.then(|| match &self.problem {
            None => "the heartbeat URL is reached again".to_owned(),
            Some(problem) => format!("the heartbeat URL cannot be called: {problem}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;

    const SECRET: &str = "s3cret";

    fn policy() -> WebhookPolicy {
        WebhookPolicy {
            loopback_http: true,
            ..WebhookPolicy::default()
        }
    }

    /// Answers each request with the next of `heads`, the last one for ever;
    /// tells their first lines.
    fn serve(heads: &'static [&'static str]) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/{SECRET}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = seen.clone();
        thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                    request.push(byte[0]);
                }
                let request = String::from_utf8(request).unwrap();
                let first = request.lines().next().unwrap().to_owned();
                requests.lock().unwrap().push(first);
                let head = heads[index.min(heads.len() - 1)];
                let end = "content-length: 0\r\nconnection: close\r\n\r\n";
                write!(stream, "HTTP/1.1 {head}\r\n{end}").unwrap();
            }
        });
        (url, seen)
    }

    fn heartbeat(url: &str) -> Heartbeat {
        Heartbeat {
            url: policy().url(url).unwrap(),
            every: Duration::from_millis(20),
        }
    }

    /// What is told, until there are so many.
    async fn told(heartbeat: &Heartbeat, well: &AtomicBool, count: usize) -> Vec<Called> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let courier = Courier::new().unwrap();
        let told = Mutex::new(Vec::new());
        let enough = tokio::sync::Notify::new();
        let calling = heartbeat.keep_calling(
            &courier,
            || well.load(Ordering::Relaxed),
            |called| {
                let mut told = told.lock().unwrap();
                told.push(called.clone());
                if told.len() == count {
                    enough.notify_one();
                }
            },
        );
        tokio::select! {
            () = calling => {}
            () = enough.notified() => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
        told.into_inner().unwrap()
    }

    #[tokio::test]
    async fn it_is_called_again_and_again_and_failures_are_told_once_a_change() {
        let (url, seen) = serve(&[
            "200 OK",
            "500 Oops",
            "500 Oops",
            "302 Found\r\nlocation: /elsewhere",
            "204 No Content",
        ]);
        let told = told(&heartbeat(&url), &AtomicBool::new(true), 6).await;
        let results: Vec<&str> = told.iter().map(Called::result).collect();
        assert_eq!(
            results,
            [
                "delivered",
                "failed",
                "failed",
                "failed",
                "delivered",
                "delivered"
            ]
        );
        let sentences: Vec<String> = told.iter().filter_map(Called::sentence).collect();
        assert_eq!(
            sentences,
            [
                "the heartbeat URL cannot be called: HTTP 500",
                "the heartbeat URL is reached again"
            ]
        );
        let redirect = "answered with a redirect, which is not followed";
        assert_eq!(told[3].problem.as_deref(), Some(redirect));
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 6, "{seen:?}");
        assert!(
            seen.iter()
                .all(|line| *line == format!("GET /{SECRET} HTTP/1.1"))
        );
    }

    #[tokio::test]
    async fn it_is_not_called_unless_all_is_well() {
        let (url, seen) = serve(&["200 OK"]);
        let (heartbeat, well) = (heartbeat(&url), AtomicBool::new(false));
        let wait = Duration::from_millis(300);
        let calling = tokio::time::timeout(wait, told(&heartbeat, &well, 1));
        assert!(calling.await.is_err(), "{seen:?}");
        assert_eq!(seen.lock().unwrap().len(), 0);
        well.store(true, Ordering::Relaxed);
        assert_eq!(told(&heartbeat, &well, 1).await.len(), 1);
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure_without_the_url() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let heartbeat = heartbeat(&format!("http://{free}/{SECRET}"));
        let told = told(&heartbeat, &AtomicBool::new(true), 1).await;
        assert_eq!(told[0].problem.as_deref(), Some("cannot connect"));
        assert!(!format!("{heartbeat:?}").contains(SECRET));
    }

    #[test]
    fn it_comes_from_a_file_and_is_judged_as_webhooks_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            let every = Duration::from_secs(60);
            Heartbeat::read(Some(path.clone()), every, &WebhookPolicy::default())
        };
        let good = read("https://hooks.slack.com/s3cret\n").unwrap().unwrap();
        assert_eq!(good.url.path(), "/s3cret");
        for text in [
            "",
            "http://hooks.slack.com/s3cret",
            "https://evil.example/s3cret",
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with("the heartbeat URL in "), "{error}");
            assert!(!error.contains(SECRET), "{error}");
        }
        let missing = folder.path().join("none");
        let error = Heartbeat::read(Some(missing), Duration::ZERO, &policy()).unwrap_err();
        assert!(matches!(error, HeartbeatError::File { .. }), "{error}");
    }
}
