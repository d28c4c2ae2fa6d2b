//! What is held true of one endpoint, and of its process.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::EndpointState;

/// What is judged of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// The state.
    pub state: EndpointState,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
    /// Since when it is out of service, unplanned, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage_since: Option<Timestamp>,
    /// Why it went out of service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) outage_reason: String,
    /// The configuration it said was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_revision: Option<String>,
}

impl Judgement {
    pub(super) fn unknown(now: Timestamp) -> Self {
        Self {
            state: EndpointState::Unknown,
            since: now,
            reason: "not judged yet".to_owned(),
            outage_since: None,
            outage_reason: String::new(),
            config_revision: None,
        }
    }

    /// Why it is out of service, if it is.
    #[must_use]
    pub fn outage_reason(&self) -> &str {
        match self.outage_reason.is_empty() {
            true => &self.reason,
            false => &self.outage_reason,
        }
    }

    /// The clock was set back: nothing happened in its future.
    pub(super) fn no_later_than(&mut self, now: Timestamp) {
        self.since = self.since.min(now);
        self.outage_since = self.outage_since.map(|since| since.min(now));
    }
}

/// What the judgement should be now.
pub(super) struct Verdict {
    pub(super) state: EndpointState,
    pub(super) at: Timestamp,
    pub(super) reason: String,
    /// Whether a Down is meant to be.
    pub(super) planned: bool,
}

/// The process of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub(super) enum Process {
    /// None was started yet.
    Absent,
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It ended.
    Ended {
        /// When.
        at: Timestamp,
        /// In which way.
        reason: String,
        /// Whether it was told to, or had said that it would.
        planned: bool,
    },
}

impl Process {
    pub(super) fn no_later_than(&mut self, now: Timestamp) {
        match self {
            Self::Absent => {}
            Self::Running { since: at } | Self::Ended { at, .. } => *at = (*at).min(now),
        }
    }
}
