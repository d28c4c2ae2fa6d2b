//! What is handed over to be posted, and what became of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Entry, Open};
use crate::api::Severity;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// Something happened.
    News,
    /// How things are now, for one who does not know the story.
    Present,
    /// Something is still wrong.
    Reminder,
    /// The first message of an incident, brought up to date.
    Edit,
}

impl Form {
    /// The word in events and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::News => "News",
            Self::Present => "Present",
            Self::Reminder => "Reminder",
            Self::Edit => "Edit",
        }
    }
}

/// A message to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Name of the channel.
    pub channel: String,
    /// What it is for.
    pub form: Form,
    /// It tells of the entries after this sequence,
    pub after: u64,
    /// up to this one.
    pub upto: u64,
    /// What happened, one for each subject; of news only.
    pub items: Vec<Entry>,
    /// What is wrong now.
    pub open: Vec<Open>,
    /// It may have been posted already.
    pub possibly_repeated: bool,
    /// The message whose thread it goes into, or which it edits.
    pub root: Option<Root>,
    /// Whether it is shown in the channel too: it is worse than what is known.
    pub broadcast: bool,
    /// Things that are wrong, beyond those that are kept.
    pub untracked: u32,
    /// How long news may have waited on purpose.
    pub patience: Duration,
    /// Where this channel's readers look further.
    pub links: Vec<(String, String)>,
}

impl Post {
    /// How long after it happened this is, of news: the oldest of it counts.
    #[must_use]
    pub fn delay(&self, now: Timestamp) -> Option<Duration> {
        let oldest = self.items.iter().map(|item| item.at).min()?;
        Some(now.duration_since(oldest).try_into().unwrap_or_default())
    }

    /// Whom it is about, for logs: the first few.
    #[must_use]
    pub fn subjects(&self) -> String {
        let items = self.items.iter().map(|item| &item.key);
        let open = self.open.iter().map(|open| &open.alert.key);
        let keys: Vec<String> = match self.items.is_empty() {
            true => open.map(super::message::name).collect(),
            false => items.map(super::message::name).collect(),
        };
        super::message::list(&keys)
    }
}

/// The first message of an incident, as the channel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// What the channel calls it.
    pub message: String,
    /// Last sequence that it shows.
    pub shown: u64,
    /// Whether it shows that all is well.
    #[serde(default)]
    pub(super) shown_well: bool,
    /// The worst that the incident was.
    pub worst: Severity,
    /// When the incident began.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub since: Timestamp,
    /// When the last happened that was told, after the first.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "jiff::fmt::serde::timestamp::millisecond::optional"
    )]
    pub until: Option<Timestamp>,
    /// Whom it was about at first.
    pub about: String,
}

impl Root {
    pub(super) fn new(message: String, shown: u64, worst: Option<Severity>, post: &Post) -> Self {
        let sinces = post.items.iter().map(|item| item.since);
        let since = sinces.chain(post.open.iter().map(|open| open.alert.since));
        Self {
            message,
            shown,
            shown_well: false,
            worst: worst.unwrap_or(Severity::Info),
            since: since.min().unwrap_or_default(),
            until: None,
            about: super::alert::tidy(&post.subjects(), 120),
        }
    }
}

/// What became of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived.
    Delivered {
        /// What the channel calls it, if it can be edited and answered.
        reference: Option<String>,
    },
    /// It did not arrive; try again.
    Failed(String),
    /// It may have arrived: no answer came.
    Unclear(String),
    /// Too many messages; not before this long.
    Throttled(Duration),
    /// It did not arrive and never will, as things are configured.
    Refused(String),
    /// The message to edit or to answer is not there any more.
    RootGone,
}

impl Outcome {
    /// What became of it, in a word: one of [`crate::metrics::RESULTS`].
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Failed(_) | Self::RootGone => "failed",
            Self::Unclear(_) => "unclear",
            Self::Throttled(_) => "throttled",
            Self::Refused(_) => "refused",
        }
    }

    /// Why it did not arrive, as far as is known; nothing if it did.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Delivered { .. } => None,
            Self::Failed(reason) | Self::Unclear(reason) | Self::Refused(reason) => {
                Some(reason.clone())
            }
            Self::Throttled(wait) => Some(format!("asked to wait for {} s", wait.as_secs())),
            Self::RootGone => Some("the message to edit or to answer is gone".to_owned()),
        }
    }

    /// Whether it is tried again by itself.
    #[must_use]
    pub const fn tries_again(&self) -> bool {
        !matches!(self, Self::Delivered { .. } | Self::Refused(_))
    }

    /// It arrived, and cannot be edited.
    #[must_use]
    pub const fn delivered() -> Self {
        Self::Delivered { reference: None }
    }
}
