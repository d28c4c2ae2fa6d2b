//! Slack: what a message looks like, and posting it. No decisions here; what to
//! tell and when again is [`crate::notify`]'s.
//!
//! The webhook's URL is the secret. It is in no error: of what goes wrong only
//! the kind is told, and of what Slack answers only texts that are known.
//!
//! Source: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>.

use std::{fmt::Write as _, time::Duration};

use jiff::{SignedDuration, Timestamp, Unit};
use reqwest::{Certificate, Client, StatusCode, Url, header, redirect};
use serde_json::{Value as Json, json};

use crate::{
    api::Component,
    notify::{Edge, Outcome, Post, Step},
};

/// Longest header, in characters.
const HEADER_LENGTH_MAX: usize = 150;
/// Longest text of a section, in characters.
const SECTION_LENGTH_MAX: usize = 3000;
/// How much of a reason is repeated, in characters.
const REASON_LENGTH_MAX: usize = 1000;
/// How much of an answer is read, in bytes.
const ANSWER_LENGTH_MAX: usize = 1024;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// How long to wait when Slack says "too many" and not for how long.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(30);
/// A message that is told later than this says so.
const LATE_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// What Slack answers to a message that it will never take.
const KNOWN_ANSWERS: &[&str] = &[
    "action_prohibited",
    "channel_is_archived",
    "channel_not_found",
    "invalid_blocks",
    "invalid_payload",
    "invalid_token",
    "no_active_hooks",
    "no_service",
    "no_service_id",
    "no_team",
    "no_text",
    "posting_to_general_channel_denied",
    "team_disabled",
    "too_many_attachments",
    "user_not_found",
];

/// What a message says beside what happened.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Name of the cluster.
    pub cluster: String,
    /// Where to look further: a sentence, or nothing.
    pub look_further: String,
}

/// The message as Slack takes it: blocks, and the same as plain text for
/// notifications and for readers that know no blocks.
#[must_use]
pub fn render(post: &Post, context: &Context, now: Timestamp) -> Json {
    let Story {
        mark,
        title,
        mut text,
        facts,
        edge,
    } = story(post, context);
    let mut remarks = Vec::new();
    if post.possibly_repeated {
        text.push_str(" (possibly repeated)");
        remarks.push(
            "possibly repeated: it is not known whether an earlier attempt arrived".to_owned(),
        );
    }
    let age = now.duration_since(edge.at);
    if age > LATE_AFTER {
        remarks.push(format!("told late, {} after it happened", span(age)));
    }
    let facts: Vec<String> = facts
        .iter()
        .map(|(label, fact)| format!("*{label}:* {}", escape(fact)))
        .chain([format!("*Time:* {}", slack_time(edge.at))])
        .collect();
    if !context.look_further.is_empty() {
        remarks.push(context.look_further.clone());
    }
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "text": cut(&format!("{mark} {title}"), HEADER_LENGTH_MAX), "emoji": true}}),
        json!({"type": "section", "text": {"type": "mrkdwn", "text": cut(&facts.join("\n"), SECTION_LENGTH_MAX)}}),
    ];
    if !remarks.is_empty() {
        let remarks = escape(&remarks.join(". "));
        blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": cut(&remarks, SECTION_LENGTH_MAX)}]}));
    }
    json!({"text": cut(&escape(&text), SECTION_LENGTH_MAX), "blocks": blocks})
}

/// A message in parts.
struct Story<'a> {
    mark: &'static str,
    /// A sentence without its full stop.
    title: String,
    /// The whole in plain text.
    text: String,
    /// Label and sentence.
    facts: Vec<(&'static str, String)>,
    /// What it is about.
    edge: &'a Edge,
}

fn story<'a>(post: &'a Post, context: &Context) -> Story<'a> {
    let incident = &post.incident;
    let kinds = match incident.component {
        Component::Pooler => "poolers",
        Component::Balancer => "balancers",
    };
    let who = format!("{}: {}", context.cluster, incident.endpoint);
    let times = incident.times;
    let began = &incident.began;
    let ended = incident.ended.as_ref().unwrap_or(began);
    let since = second(began.at);
    let cause = cut(&began.reason, REASON_LENGTH_MAX);
    let now_up = format!("{} of {} {kinds} are up", ended.up, ended.total);
    match post.step {
        Step::Down => {
            let title = match times {
                0 | 1 => format!("{who} is DOWN"),
                _ => format!("{who} is DOWN, {times} times"),
            };
            let remain = format!("{} of {} {kinds} remain up", began.up, began.total);
            Story {
                mark: ":red_circle:",
                text: format!("{title} since {since}: {cause}. {remain}"),
                title,
                facts: vec![("Why", cause), ("Remaining", remain)],
                edge: began,
            }
        }
        Step::Up => {
            let lasted = span(SignedDuration::from_millis(incident.lasted_ms));
            let title = match times {
                0 | 1 => format!("{who} is UP again after {lasted}"),
                _ => format!("{who} is UP again; it was down {times} times, {lasted} in all"),
            };
            let was = format!("down since {since}: {cause}");
            Story {
                mark: ":large_green_circle:",
                text: format!("{title}. It was {was}. {now_up}"),
                title,
                facts: vec![
                    ("Why", cut(&ended.reason, REASON_LENGTH_MAX)),
                    ("It was", was),
                    ("Now", now_up),
                ],
                edge: ended,
            }
        }
        Step::Restarted => {
            let title = match times {
                0 | 1 => format!("{who} RESTARTED"),
                _ => format!("{who} RESTARTED {times} times"),
            };
            Story {
                mark: ":large_yellow_circle:",
                text: format!("{title} at {}: {cause}. {now_up}", second(ended.at)),
                title,
                facts: vec![("Why", cause), ("Now", now_up)],
                edge: ended,
            }
        }
    }
}

fn second(at: Timestamp) -> Timestamp {
    at.round(Unit::Second).unwrap_or(at)
}

/// Slack shows the time in each reader's own zone.
fn slack_time(at: Timestamp) -> String {
    format!(
        "<!date^{}^{{date_short_pretty}} {{time_secs}}|{}>",
        at.as_second(),
        second(at)
    )
}

/// A duration in the largest units that matter: `4 s`, `2 min 5 s`, `3 h 20 min`.
fn span(duration: SignedDuration) -> String {
    let total_s = duration.as_secs().max(0);
    let (days, hours, minutes, seconds) = (
        total_s / 86_400,
        total_s / 3600 % 24,
        total_s / 60 % 60,
        total_s % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) if total_s < 10 => {
            let tenths = duration.as_millis().max(0) / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Slack's three control characters:
/// <https://docs.slack.dev/messaging/formatting-message-text#escaping>.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn cut(text: &str, length_max: usize) -> String {
    if text.chars().count() <= length_max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(length_max - 1).collect();
    short.push('…');
    short
}

/// Posts messages.
#[derive(Clone, Debug)]
pub struct Slack {
    outside: Client,
    /// Does not go through a proxy that the environment names.
    inside: Client,
}

impl Slack {
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

    /// Posts a message to a webhook. Cancelled, it may have arrived or not.
    pub async fn post(&self, url: &Url, message: &Json) -> Outcome {
        let client = match url.scheme() {
            "http" => &self.inside,
            _ => &self.outside,
        };
        match client.post(url.clone()).json(message).send().await {
            Ok(response) => judge(response).await,
            // Never the error's own text: it holds the URL.
            Err(error) if error.is_connect() => Outcome::Failed("cannot connect".to_owned()),
            Err(error) if error.is_timeout() => {
                Outcome::Unclear(format!("no answer within {} s", REQUEST_TIME_MAX.as_secs()))
            }
            Err(error) if error.is_builder() => {
                Outcome::Refused("the URL cannot be used".to_owned())
            }
            Err(_) => Outcome::Unclear("the connection broke before an answer came".to_owned()),
        }
    }
}

/// The authorities that browsers trust (Mozilla's list).
fn authorities() -> impl Iterator<Item = Certificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .filter_map(|authority| Certificate::from_der(authority).ok())
}

async fn judge(mut response: reqwest::Response) -> Outcome {
    let status = response.status();
    if status.is_success() {
        return Outcome::Delivered;
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        let wait = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map_or(THROTTLE_DEFAULT, Duration::from_secs);
        return Outcome::Throttled(wait);
    }
    if status.is_redirection() {
        return Outcome::Refused("answered with a redirect, which is not followed".to_owned());
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_LENGTH_MAX - body.len())]);
        if body.len() >= ANSWER_LENGTH_MAX {
            break;
        }
    }
    outcome(status, &body)
}

/// What an answer that is no success means.
fn outcome(status: StatusCode, body: &[u8]) -> Outcome {
    let body = String::from_utf8_lossy(body);
    let mut reason = format!("HTTP {}", status.as_u16());
    if let Some(known) = KNOWN_ANSWERS.iter().find(|known| **known == body.trim()) {
        let _ = write!(reason, ", {known}");
    }
    if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT {
        Outcome::Refused(reason)
    } else {
        Outcome::Failed(reason)
    }
}

#[cfg(test)]
mod tests;
