//! Where a channel's messages go, as it was validated. All of it may be secret.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Url;
use sha2::Sha256;

use crate::{notify::Style, random};

/// Slack's own API.
pub const SLACK_API: &str = "https://slack.com/api/";

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes what a Secret holds; the ends may be white space.
    ///
    /// # Errors
    /// If it is empty or no header can hold it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text {
            "" => Err("is empty".to_owned()),
            _ if text.bytes().any(|byte| !byte.is_ascii_graphic()) => {
                Err("holds white space or characters beyond ASCII".to_owned())
            }
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The secret itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where messages go.
#[derive(Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere yet: the Secret holds an example's placeholder.
    Placeholder,
    /// An incoming webhook of Slack, or of a server that takes the same.
    SlackWebhook(Url),
    /// A bot that writes to a channel of Slack.
    SlackBot {
        /// Where Slack's API is; ends with a slash.
        api: Url,
        /// The bot's token.
        token: Token,
        /// Where it writes to.
        channel: String,
    },
    /// A service that takes our own JSON.
    Webhook {
        /// Where.
        url: Url,
        /// Signs what is posted.
        key: Option<Token>,
    },
    /// A Prometheus Alertmanager.
    Alertmanager {
        /// Its `/api/v2/alerts`.
        url: Url,
        /// For the header Authorization.
        token: Option<Token>,
    },
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(..)", self.word())
    }
}

impl Destination {
    /// What it is, in a word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Placeholder => "placeholder",
            Self::SlackWebhook(_) => "slackWebhook",
            Self::SlackBot { .. } => "slackBot",
            Self::Webhook { .. } => "webhook",
            Self::Alertmanager { .. } => "alertmanager",
        }
    }

    /// How it is told.
    #[must_use]
    pub const fn style(&self) -> Style {
        match self {
            Self::SlackBot { .. } => Style::Threads,
            Self::Alertmanager { .. } => Style::Levels,
            Self::Placeholder | Self::SlackWebhook(_) | Self::Webhook { .. } => Style::Messages,
        }
    }

    /// Tells whether it changed, without telling what it is. The key must be
    /// one that nobody else has.
    #[must_use]
    pub fn fingerprint(&self, key: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        let token = |token: &Option<Token>| {
            let token = token.as_ref();
            token.map_or(String::new(), |token| token.secret().to_owned())
        };
        let parts = match self {
            Self::Placeholder => return String::new(),
            Self::SlackWebhook(url) => vec![url.to_string()],
            Self::SlackBot {
                api,
                token,
                channel,
            } => vec![api.to_string(), token.secret().to_owned(), channel.clone()],
            Self::Webhook { url, key } => vec![url.to_string(), token(key)],
            Self::Alertmanager { url, token: bearer } => vec![url.to_string(), token(bearer)],
        };
        mac.update(parts.join("\n").as_bytes());
        random::hex(&mac.finalize().into_bytes()[..8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: &str) -> Destination {
        Destination::SlackWebhook(url.parse().unwrap())
    }

    #[test]
    fn fingerprints_differ_and_tell_nothing() {
        let one = webhook("https://hooks.slack.com/services/a").fingerprint(b"key");
        let two = webhook("https://hooks.slack.com/services/b").fingerprint(b"key");
        let other = webhook("https://hooks.slack.com/services/a").fingerprint(b"other");
        assert!(one != two && one != other);
        assert_eq!(one.len(), 16);
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let url: Url = "https://hooks.slack.com/s3cret".parse().unwrap();
        let token = Token::parse(" s3cret\n").unwrap();
        for destination in [
            Destination::SlackWebhook(url.clone()),
            Destination::SlackBot {
                api: url.clone(),
                token: token.clone(),
                channel: "C1".to_owned(),
            },
            Destination::Webhook {
                url: url.clone(),
                key: Some(token.clone()),
            },
            Destination::Alertmanager {
                url,
                token: Some(token.clone()),
            },
        ] {
            let shown = format!("{destination:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
            let bare = destination.fingerprint(b"key");
            assert!(!bare.contains("s3cret"), "{bare}");
        }
        assert_eq!(
            Token::parse("a b"),
            Err("holds white space or characters beyond ASCII".to_owned())
        );
    }
}
