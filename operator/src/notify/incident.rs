//! What happened, and the messages that tell it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::Component;

/// Something that happened to an endpoint, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// Whose.
    pub endpoint: String,
    /// What it is.
    pub component: Component,
    /// What happened.
    pub kind: Kind,
    /// When it began; of several, the first.
    pub began: Edge,
    /// When it ended, if it did; of several, the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Edge>,
    /// How often it happened: more than 1 if several are told as one.
    pub times: u32,
    /// How long it was out of service, all times together, the present one not
    /// counted.
    pub lasted_ms: i64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It was out of service.
    Outage,
    /// It came back as a new process before anyone missed it: told at once.
    Restart,
}

/// The beginning or the end of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Order in which things are told.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// Endpoints of the kind that were up then.
    pub up: u32,
    /// Endpoints of the kind in all.
    pub total: u32,
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// It is out of service.
    Down,
    /// It is back.
    Up,
    /// It restarted.
    Restarted,
}

/// A message to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Name of the channel.
    pub channel: String,
    /// What it is about.
    pub step: Step,
    /// The incident as it is known now.
    pub incident: Incident,
    /// It may have been posted already.
    pub possibly_repeated: bool,
}

/// What became of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived.
    Delivered,
    /// It did not arrive; try again.
    Failed(String),
    /// It may have arrived: no answer came.
    Unclear(String),
    /// Too many messages; not before this long.
    Throttled(Duration),
    /// It did not arrive and never will, as things are configured.
    Refused(String),
}
