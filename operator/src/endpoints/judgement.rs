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
            config_revision: None,
        }
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
