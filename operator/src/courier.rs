//! Delivers messages. No decisions here: what to tell and when again is
//! [`crate::notify`]'s, what a channel wants to read is its own module's.
//!
//! URLs and tokens are secrets. They are in no error: of what goes wrong only
//! the kind is told, and of what others answer only words that are known.

use std::{fmt::Write as _, time::Duration};

use jiff::Timestamp;
use reqwest::{Certificate, Client, StatusCode, Url, header, redirect};

use crate::{
    alertmanager,
    destination::{Destination, Token},
    json_webhook,
    notify::{Context, Message, Outcome, Post},
    slack,
};

/// How much of an answer is read, in bytes: Slack repeats the whole message.
const ANSWER_LENGTH_MAX: usize = 256 * 1024;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// How long to wait when one says "too many" and not for how long.
pub(crate) const THROTTLE_DEFAULT: Duration = Duration::from_secs(30);
const BROKE: &str = "the connection broke before an answer came";
const REDIRECTED: &str = "answered with a redirect, which is not followed";

/// A request, ready to be sent.
pub(crate) struct Letter {
    pub(crate) url: Url,
    pub(crate) bearer: Option<Token>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Letter {
    pub(crate) const fn new(url: Url, body: String) -> Self {
        Self {
            url,
            bearer: None,
            headers: Vec::new(),
            body,
        }
    }
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

/// Delivers messages to whatever takes them.
#[derive(Clone, Debug)]
pub struct Courier {
    outside: Client,
    /// Does not go through a proxy that the environment names.
    inside: Client,
}

impl Courier {
    /// Prepares the clients.
    ///
    /// # Errors
    /// If TLS cannot be set up on this host.
    pub fn new() -> Result<Self, reqwest::Error> {
        let builder = || {
            Client::builder()
                .redirect(redirect::Policy::none())
                .connect_timeout(CONNECT_TIME_MAX)
                .timeout(REQUEST_TIME_MAX)
                .user_agent(concat!("poolkeeper-operator/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            // An image from scratch has no authorities of its own; those of a
            // system, or of SSL_CERT_FILE, are trusted too.
            outside: builder().tls_certs_merge(authorities()).build()?,
            inside: builder().no_proxy().tls_certs_only([]).build()?,
        })
    }

    /// Delivers a message. Cancelled, it may have arrived or not.
    pub async fn deliver(
        &self,
        destination: &Destination,
        post: &Post,
        context: &Context,
        now: Timestamp,
    ) -> Outcome {
        let message = Message::new(post, context, now);
        let letter = match destination {
            Destination::Placeholder => return nowhere(),
            Destination::SlackWebhook(url) => slack::webhook(url, &message),
            Destination::SlackBot {
                api,
                token,
                channel,
            } => slack::bot(api, token, channel, &message, post),
            Destination::Webhook { url, key } => {
                json_webhook::letter(url, key.as_ref(), &message, Some(post), context, now)
            }
            Destination::Alertmanager { url, token } => {
                alertmanager::letter(url, token.as_ref(), post, context, now)
            }
        };
        self.send(destination, letter).await
    }

    /// Delivers a test message.
    pub async fn test(
        &self,
        destination: &Destination,
        message: &Message,
        context: &Context,
        now: Timestamp,
    ) -> Outcome {
        let letter = match destination {
            Destination::Placeholder => return nowhere(),
            Destination::SlackWebhook(url) => slack::webhook(url, message),
            Destination::SlackBot {
                api,
                token,
                channel,
            } => slack::bot_new(api, token, channel, message),
            Destination::Webhook { url, key } => {
                json_webhook::letter(url, key.as_ref(), message, None, context, now)
            }
            Destination::Alertmanager { url, token } => {
                alertmanager::test(url, token.as_ref(), context, now)
            }
        };
        self.send(destination, letter).await
    }

    async fn send(&self, destination: &Destination, letter: Letter) -> Outcome {
        let mut request = self
            .client(&letter.url)
            .post(letter.url)
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .body(letter.body);
        if let Some(token) = &letter.bearer {
            request = request.bearer_auth(token.secret());
        }
        for (name, value) in letter.headers {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(response) => match read(response).await {
                Some(answer) => judge(destination, &answer),
                None => Outcome::Unclear(BROKE.to_owned()),
            },
            Err(error) => {
                let (kind, reason) = unanswered(&error);
                kind(reason)
            }
        }
    }

    /// Calls a URL; of the answer nothing but the status is looked at.
    pub(crate) async fn call(&self, url: Url) -> Result<(), String> {
        match self
            .client(&url)
            .get(url)
            .send()
            .await
            .map(|answer| answer.status())
        {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) if status.is_redirection() => Err(REDIRECTED.to_owned()),
            Ok(status) => Err(format!("HTTP {}", status.as_u16())),
            Err(error) => Err(unanswered(&error).1),
        }
    }

    fn client(&self, url: &Url) -> &Client {
        match url.scheme() {
            "http" => &self.inside,
            _ => &self.outside,
        }
    }
}

/// What it means that no answer came, and why none did.
fn unanswered(error: &reqwest::Error) -> (fn(String) -> Outcome, String) {
    // Never the error's own text: it holds the URL.
    if error.is_connect() {
        (Outcome::Failed, "cannot connect".to_owned())
    } else if error.is_timeout() {
        let limit = REQUEST_TIME_MAX.as_secs();
        (Outcome::Unclear, format!("no answer within {limit} s"))
    } else if error.is_builder() {
        (Outcome::Refused, "the URL cannot be used".to_owned())
    } else {
        (Outcome::Unclear, BROKE.to_owned())
    }
}

fn nowhere() -> Outcome {
    Outcome::Refused("the Secret holds the example's placeholder".to_owned())
}

/// The authorities that browsers trust (Mozilla's list).
fn authorities() -> impl Iterator<Item = Certificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .filter_map(|authority| Certificate::from_der(authority).ok())
}

/// The whole answer, as far as it is read; none if it broke off.
async fn read(mut response: reqwest::Response) -> Option<Answer> {
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let status = response.status();
    let mut body = Vec::new();
    while body.len() < ANSWER_LENGTH_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = ANSWER_LENGTH_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Ok(None) => break,
            // What went wrong is told by the status alone.
            Err(_) if !status.is_success() => break,
            Err(_) => return None,
        }
    }
    Some(Answer {
        status,
        retry_after,
        body,
    })
}

/// What an answer means.
fn judge(destination: &Destination, answer: &Answer) -> Outcome {
    let status = answer.status;
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Outcome::Throttled(answer.retry_after.unwrap_or(THROTTLE_DEFAULT));
    }
    if status.is_redirection() {
        // A proxy in between may do so for a moment.
        return Outcome::Failed(REDIRECTED.to_owned());
    }
    if status.is_success() {
        return match destination {
            Destination::SlackBot { .. } => slack::bot_answer(answer),
            Destination::SlackWebhook(_) => slack::webhook_answer(answer),
            _ => Outcome::delivered(),
        };
    }
    let mut reason = format!("HTTP {}", status.as_u16());
    let word = slack::known_word(&answer.body);
    if let Some(word) = word {
        let _ = write!(reason, ", {word}");
    }
    // Whatever else stands in for a server that starts may answer 404.
    let is_final = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::GONE);
    match word.map_or(is_final, slack::is_refusal) {
        true => Outcome::Refused(reason),
        false => Outcome::Failed(reason),
    }
}

#[cfg(test)]
mod tests;
