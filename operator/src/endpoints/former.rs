//! bootIds of processes that are over. Who lags behind goes on telling them, and
//! must not be believed; and nobody lags behind for ever.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::later;

/// For how long one may still be told: longer than a long poll and its retries.
const TOLD: Duration = Duration::from_secs(120);
/// How many are kept.
const FORMER_MAX: usize = 256;

/// bootIds of processes that are over, oldest first, and when that was noted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Former(VecDeque<(String, Timestamp)>);

impl Former {
    pub(super) fn add(&mut self, boot_id: Option<String>, now: Timestamp) {
        let Some(boot_id) = boot_id else { return };
        self.0.retain(|(known, _)| *known != boot_id);
        self.0.push_back((boot_id, now));
        if self.0.len() > FORMER_MAX {
            self.0.pop_front();
        }
    }

    pub(super) fn has(&self, boot_id: &str) -> bool {
        self.0.iter().any(|(known, _)| known == boot_id)
    }

    /// One that is told after so long runs after all.
    pub(super) fn forget(&mut self, now: Timestamp) {
        for (_, at) in &mut self.0 {
            *at = (*at).min(now);
        }
        self.0.retain(|(_, at)| later(*at, TOLD) > now);
    }
}
