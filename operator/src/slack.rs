//! Slack: what a message looks like there, and what Slack's answers mean.
//!
//! Sources: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>,
//! <https://docs.slack.dev/reference/methods/chat.postMessage>,
//! <https://docs.slack.dev/reference/methods/chat.update>.

use jiff::{Timestamp, Unit};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::{
    courier::{Answer, Letter, THROTTLE_DEFAULT},
    destination::Token,
    notify::{Form, Message, Outcome, Post, message::Mark},
};

/// Longest header, in characters.
const HEADER_LENGTH_MAX: usize = 150;
/// Longest text of a section, in characters.
const SECTION_LENGTH_MAX: usize = 3000;
/// Longest text beside the blocks, in characters; Slack takes 40,000.
const TEXT_LENGTH_MAX: usize = 12_000;
/// Sections of the story; Slack takes 50 blocks.
const STORY_SECTIONS_MAX: usize = 10;

/// What Slack answers where it will never take a message, as it is configured.
const REFUSALS: &[&str] = &[
    "access_denied",
    "account_inactive",
    "action_prohibited",
    "channel_is_archived",
    "channel_not_found",
    "ekm_access_denied",
    "invalid_auth",
    "invalid_token",
    "is_archived",
    "messages_tab_disabled",
    "missing_scope",
    "no_active_hooks",
    "no_permission",
    "no_service",
    "no_service_id",
    "no_team",
    "not_allowed_token_type",
    "not_authed",
    "not_in_channel",
    "org_login_required",
    "posting_to_general_channel_denied",
    "restricted_action",
    "restricted_action_read_only_channel",
    "team_access_not_granted",
    "team_disabled",
    "token_expired",
    "token_revoked",
    "two_factor_setup_required",
    "user_not_found",
];
/// What it answers when trying again may help: to another message, of what has
/// happened since, if it does not like this one.
const TROUBLES: &[&str] = &[
    "invalid_arguments",
    "invalid_blocks",
    "invalid_payload",
    "msg_too_long",
    "no_text",
    "too_many_attachments",
    "fatal_error",
    "internal_error",
    "request_timeout",
    "service_unavailable",
    "team_added_to_org",
];
/// What it answers when the message to edit or to answer is gone.
const ROOT_GONE: &[&str] = &[
    "cant_update_message",
    "edit_window_closed",
    "message_not_found",
    "thread_not_found",
];

/// The word of Slack that an answer consists of, if it is known.
pub(crate) fn known_word(body: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(body).unwrap_or_default().trim();
    let mut known = REFUSALS.iter().chain(TROUBLES).chain(ROOT_GONE);
    known.find(|known| **known == text).copied()
}

/// Whether a known word says that nothing will arrive, as it is configured.
pub(crate) fn is_refusal(word: &str) -> bool {
    REFUSALS.contains(&word)
}

/// A message for an incoming webhook.
pub(crate) fn webhook(url: &Url, message: &Message) -> Letter {
    Letter::new(url.clone(), render(message).to_string())
}

/// A message of a bot that begins nothing and continues nothing.
pub(crate) fn bot_new(api: &Url, token: &Token, channel: &str, message: &Message) -> Letter {
    let mut body = render(message);
    body["channel"] = json!(channel);
    body["unfurl_links"] = json!(false);
    call(api, "chat.postMessage", token, &body)
}

/// A message of a bot: a new one, one in a thread, or one changed.
pub(crate) fn bot(
    api: &Url,
    token: &Token,
    channel: &str,
    message: &Message,
    post: &Post,
) -> Letter {
    let root = post
        .root
        .as_ref()
        .and_then(|root| root.message.split_once('/'));
    let Some((channel, ts)) = root else {
        return bot_new(api, token, channel, message);
    };
    let mut body = render(message);
    body["channel"] = json!(channel);
    if post.form == Form::Edit {
        body["ts"] = json!(ts);
        return call(api, "chat.update", token, &body);
    }
    body["thread_ts"] = json!(ts);
    body["reply_broadcast"] = json!(post.broadcast);
    body["unfurl_links"] = json!(false);
    call(api, "chat.postMessage", token, &body)
}

fn call(api: &Url, method: &str, token: &Token, body: &Json) -> Letter {
    let url = api.join(method).unwrap_or_else(|_| api.clone());
    Letter {
        bearer: Some(token.clone()),
        ..Letter::new(url, body.to_string())
    }
}

/// The body of an answer of Slack's API.
#[derive(Deserialize)]
struct ApiAnswer {
    ok: bool,
    error: Option<String>,
    channel: Option<String>,
    ts: Option<String>,
}

fn not_slacks() -> Outcome {
    Outcome::Unclear("answered something that is not Slack's".to_owned())
}

/// What an answer to a webhook with a status of success means. Slack's body is
/// `ok` and that of others is theirs, but none is a page: that is a network's,
/// which wants people to log in first.
pub(crate) fn webhook_answer(answer: &Answer) -> Outcome {
    match answer.body.trim_ascii_start().first() {
        Some(b'<') => not_slacks(),
        _ => Outcome::delivered(),
    }
}

/// What an answer of the API with a status of success means: the body decides.
pub(crate) fn bot_answer(answer: &Answer) -> Outcome {
    let Ok(said) = serde_json::from_slice::<ApiAnswer>(&answer.body) else {
        return not_slacks();
    };
    if said.ok {
        // Whatever is longer is not Slack's either.
        let short = |text: &String| text.len() <= 64;
        let (channel, ts) = (said.channel.filter(short), said.ts.filter(short));
        let reference = channel
            .zip(ts)
            .map(|(channel, ts)| format!("{channel}/{ts}"));
        return Outcome::Delivered { reference };
    }
    let error = said.error.unwrap_or_default();
    match known_word(error.as_bytes()) {
        Some(word) if ROOT_GONE.contains(&word) => Outcome::RootGone,
        Some(word) if TROUBLES.contains(&word) => Outcome::Failed(word.to_owned()),
        Some(word) => Outcome::Refused(word.to_owned()),
        None if matches!(error.as_str(), "ratelimited" | "rate_limited") => {
            Outcome::Throttled(answer.retry_after.unwrap_or(THROTTLE_DEFAULT))
        }
        None => Outcome::Failed("Slack did not take it and did not say why".to_owned()),
    }
}

/// The message as Slack takes it: blocks, and the same as plain text for
/// notifications and for servers that know no blocks.
#[must_use]
pub fn render(message: &Message) -> Json {
    let mark = match message.mark {
        Mark::Bad => ":red_circle:",
        Mark::Unsteady => ":large_orange_circle:",
        Mark::Notice => ":large_yellow_circle:",
        Mark::Good => ":large_green_circle:",
    };
    let header = cut(&format!("{mark} {}", message.title), HEADER_LENGTH_MAX);
    let facts: Vec<String> = message
        .facts
        .iter()
        .map(|(label, fact)| format!("*{label}:* {}", escape(fact)))
        .chain([format!("*Time:* {}", slack_time(message.at))])
        .collect();
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "text": header, "emoji": true}}),
        section(&facts.join("\n")),
    ];
    blocks.extend(story(&message.story));
    let links = message.links.iter();
    let remarks: Vec<String> = links
        .map(|(label, link)| format!("{label}: {link}"))
        .collect();
    let remarks: Vec<String> = message.remarks.iter().cloned().chain(remarks).collect();
    if !remarks.is_empty() {
        let remarks = cut(&escape(&remarks.join(" · ")), SECTION_LENGTH_MAX);
        blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": remarks}]}));
    }
    json!({"text": cut(&escape(&message.text), TEXT_LENGTH_MAX), "blocks": blocks})
}

fn section(text: &str) -> Json {
    json!({"type": "section", "text": {"type": "mrkdwn", "text": cut(text, SECTION_LENGTH_MAX)}})
}

/// The story in as many sections as it takes, within reason.
fn story(lines: &[String]) -> Vec<Json> {
    let mut texts: Vec<String> = Vec::new();
    for line in lines {
        let line = format!("• {}", escape(line));
        let length = line.chars().count();
        match texts.last_mut() {
            Some(text) if text.chars().count() + length < SECTION_LENGTH_MAX => {
                text.push('\n');
                text.push_str(&line);
            }
            _ => texts.push(line),
        }
    }
    let texts = texts.iter().take(STORY_SECTIONS_MAX);
    texts.map(|text| section(text)).collect()
}

/// Slack shows the time in each reader's own zone.
fn slack_time(at: Timestamp) -> String {
    format!(
        "<!date^{}^{{date_short_pretty}} {{time_secs}}|{}>",
        at.as_second(),
        at.round(Unit::Second).unwrap_or(at)
    )
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

#[cfg(test)]
mod tests;
