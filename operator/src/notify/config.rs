//! How a channel is configured.

use std::time::Duration;

use crate::api::{NotificationEvent, Severity};

/// How a channel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A message for each piece of news.
    Messages,
    /// The first message of an incident is edited to how things are now; the
    /// story goes into its thread.
    Threads,
    /// What is true now, again and again; who is told makes messages of it.
    Levels,
}

/// How a channel is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelConfig {
    /// Name, unique.
    pub name: String,
    /// Changes when the place where messages go does. Not the place itself.
    pub fingerprint: String,
    /// Whether there is a place at all yet.
    pub configured: bool,
    /// How it is told.
    pub style: Style,
    /// Whether recoveries are told.
    pub send_resolved: bool,
    /// What is told; all if it is empty.
    pub events: Vec<NotificationEvent>,
    /// What is less severe is not told.
    pub minimum_severity: Severity,
    /// How long bad news waits for more of it.
    pub group_wait: Duration,
    /// Shortest time from a message to the next one that is no bad news.
    pub group_interval: Duration,
    /// How often it is told that something is still wrong.
    pub repeat_interval: Duration,
    /// Where to look further: what it is, and its URL.
    pub links: Vec<(String, String)>,
}

impl Default for ChannelConfig {
    /// Everything, to nowhere.
    fn default() -> Self {
        Self {
            name: String::new(),
            fingerprint: String::new(),
            configured: false,
            style: Style::Messages,
            send_resolved: true,
            events: Vec::new(),
            minimum_severity: Severity::Info,
            group_wait: Duration::from_millis(500),
            group_interval: Duration::from_secs(5),
            repeat_interval: Duration::from_hours(4),
            links: Vec::new(),
        }
    }
}
