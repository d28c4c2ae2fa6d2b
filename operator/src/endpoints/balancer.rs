//! A balancer, as the operator judges it by its answers.

use jiff::Timestamp;
use proxy_core::{
    health::{self, Failure, Health, Observation, State},
    status::BalancerStatus,
    wire::TargetReport,
};
use serde::{Deserialize, Serialize};

use super::{
    Policy, boot,
    judgement::{Judgement, Process, Verdict},
};
use crate::api::EndpointState;

/// A balancer and what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Balancer {
    pub(super) judgement: Judgement,
    pub(super) process: Process,
    pub(super) told_to_end: bool,
    /// How far its log of transitions was read.
    pub(super) cursor: Option<Cursor>,
    /// The same judgement by its answers that balancers make of poolers. Not
    /// kept: an operator that starts asks anew.
    #[serde(skip, default = "fresh")]
    health: State,
}

/// A place in a balancer's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cursor {
    pub(super) boot_id: String,
    pub(super) number: u64,
}

fn fresh() -> State {
    State::new(Timestamp::UNIX_EPOCH)
}

impl Balancer {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            judgement: Judgement::unknown(now),
            process: Process::Absent,
            told_to_end: false,
            cursor: None,
            health: State::new(now),
        }
    }

    pub(super) fn started(&mut self, now: Timestamp) {
        self.process = Process::Running { since: now };
        self.told_to_end = false;
        self.resume(now);
    }

    /// Begins to judge by answers. One that was not up before must show that it
    /// stays; one that was is up until its answers say otherwise.
    pub(super) fn resume(&mut self, now: Timestamp) {
        let health = match self.judgement.state {
            EndpointState::Unknown | EndpointState::Up => Health::Unknown,
            EndpointState::Down | EndpointState::Draining => Health::Down,
        };
        self.health = State::new(now);
        self.health.health = health;
    }

    pub(super) fn ended(&mut self, reason: &str, now: Timestamp) {
        let planned = self.told_to_end || self.judgement.state == EndpointState::Draining;
        self.process = Process::Ended {
            at: now,
            reason: reason.to_owned(),
            planned,
        };
    }

    pub(super) fn answered(&mut self, status: &BalancerStatus, policy: Policy, now: Timestamp) {
        self.judgement.config_revision = status.config_revision.as_deref().map(boot);
        let report = TargetReport {
            state: status.state,
            boot_id: status.boot_id.clone(),
            name: None,
            config_revision: None,
            clients: status.connections,
            waiting: 0,
            upstream: None,
            saturation: None,
            version: None,
        };
        if matches!(self.process, Process::Running { .. }) {
            let observation = Observation::Passed {
                report: Some(report),
            };
            self.observe(&observation, policy, now);
        }
    }

    pub(super) fn silent(&mut self, reason: &str, policy: Policy, now: Timestamp) {
        if matches!(self.process, Process::Running { .. }) {
            let observation = Observation::Failed {
                failure: Failure::Silent,
                reason: reason.to_owned(),
            };
            self.observe(&observation, policy, now);
        }
    }

    fn observe(&mut self, observation: &Observation, policy: Policy, now: Timestamp) {
        (self.health, _) = health::judge(&self.health, observation, policy.health(), now);
    }

    /// Number of the last transition of the status's log that is known; `None`
    /// if the log does not continue what is known, so that levels must do.
    pub(super) fn known(&self, status: &BalancerStatus) -> Option<u64> {
        match &self.cursor {
            _ if status.missed => None,
            None => Some(0),
            Some(cursor) => (cursor.boot_id == status.boot_id).then_some(cursor.number),
        }
    }

    pub(super) fn advance(&mut self, status: &BalancerStatus) {
        self.cursor = Some(Cursor {
            boot_id: status.boot_id.clone(),
            number: status.newest,
        });
    }

    pub(super) fn verdict(&self, policy: Policy) -> Option<Verdict> {
        let verdict = |state, at, reason: &str, planned| {
            Some(Verdict {
                state,
                at,
                reason: reason.to_owned(),
                planned,
            })
        };
        match &self.process {
            Process::Absent => None,
            Process::Ended {
                at,
                reason,
                planned,
            } => verdict(EndpointState::Down, *at, reason, *planned),
            Process::Running { .. } => {
                let health = &self.health;
                let state = match health.health {
                    Health::Unknown => return None,
                    Health::Up => EndpointState::Up,
                    Health::Draining => EndpointState::Draining,
                    // Too early to say: what held before holds.
                    Health::Down if health.failed < policy.fall => return None,
                    Health::Down => EndpointState::Down,
                };
                verdict(state, health.since, &health.reason, false)
            }
        }
    }
}
