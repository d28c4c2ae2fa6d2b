//! A service that takes our own JSON, signed.
//!
//! | header | is |
//! |---|---|
//! | `Poolkeeper-Timestamp` | seconds since 1970, when it was sent |
//! | `Poolkeeper-Signature` | `v1=` and HMAC-SHA256, in hexadecimal, over the timestamp, a full stop and the body; only with a key |
//!
//! The body has `version` (1), `cluster` and `message`: `id` (the same for a
//! repeated message), `form`, `mark`, `severity`, `title`, `text`, `facts`,
//! `story`, `at`, `remarks`, `links`, `possiblyRepeated`; `items`, what happened
//! to each subject; `open`, what is wrong now. A receiver that answers 2xx has
//! taken it; 429 with Retry-After, 408 and 5xx are tried again.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use reqwest::Url;
use serde_json::{Value as Json, json};
use sha2::Sha256;

use crate::{
    courier::Letter,
    destination::Token,
    notify::{Alert, Context, Entry, Message, Post},
    random,
};

/// When it was sent.
pub const TIMESTAMP: &str = "Poolkeeper-Timestamp";
/// Proves that it is ours and from then.
pub const SIGNATURE: &str = "Poolkeeper-Signature";

pub(crate) fn letter(
    url: &Url,
    key: Option<&Token>,
    message: &Message,
    post: Option<&Post>,
    context: &Context,
    now: Timestamp,
) -> Letter {
    let body = json!({
        "version": 1,
        "cluster": context.cluster,
        "message": message,
        "items": post.map_or(Vec::new(), |post| post.items.iter().map(item).collect()),
        "open": post.map_or(Vec::new(), |post| {
            post.open.iter().map(|open| alert(&open.alert)).collect()
        }),
    })
    .to_string();
    let seconds = now.as_second().to_string();
    let mut headers = vec![(TIMESTAMP, seconds.clone())];
    if let Some(key) = key {
        headers.push((SIGNATURE, signature(key, &seconds, &body)));
    }
    Letter {
        headers,
        ..Letter::new(url.clone(), body)
    }
}

fn item(item: &Entry) -> Json {
    json!({
        "event": item.event(), "subject": item.key.subject, "what": item.what,
        "severity": item.event().severity().word(), "at": item.at, "since": item.since,
        "reason": item.reason, "count": item.count, "times": item.times,
        "lastedMs": item.lasted_ms,
    })
}

fn alert(alert: &Alert) -> Json {
    json!({
        "event": alert.key.event, "subject": alert.key.subject,
        "severity": alert.severity().word(), "since": alert.since, "reason": alert.reason,
        "count": alert.count,
    })
}

fn signature(key: &Token, seconds: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.secret().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(seconds.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    format!("v1={}", random::hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn signature_is_what_openssl_makes_of_it() {
        let key = Token::parse("key").unwrap();
        assert_eq!(signature(&key, "1700000000", r#"{"a":1}"#), EXPECTED);
    }

    const EXPECTED: &str = "v1=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03";
}
