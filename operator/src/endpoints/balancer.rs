//! A balancer, as the operator judges it by its answers.

use jiff::Timestamp;
use proxy_core::{
    health::{self, Failure, Health, Observation, State},
    status::BalancerStatus,
    wire::{TargetReport, TargetState},
};
use serde::{Deserialize, Serialize};

use super::{
    Policy, boot,
    former::Former,
    judgement::{Judgement, Process, Verdict},
    pod::{NOT_READY, Phase, Pod, TOLD_TO_END, UNHEARD},
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
    /// The Pod that it is, on Kubernetes.
    #[serde(skip)]
    pub(super) pod: Option<Pod>,
    /// bootId of the process in the Pod, once it has said it.
    #[serde(skip)]
    boot_id: Option<String>,
    /// What came of asking the process in the Pod.
    #[serde(skip)]
    pub(super) asked: Asked,
}

/// A place in a balancer's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// Of the process whose log it is.
    pub boot_id: String,
    /// Of the last transition that is known.
    pub number: u64,
}

/// What came of asking a balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing yet.
    #[default]
    NotYet,
    /// It serves, or drains.
    Answers(TargetState),
    /// It said nothing, several times in a row: why.
    Silent(String),
}

/// How the balancers of a tier do that its kubelets have ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// One answers.
    Answer,
    /// None does, and one was not asked often enough.
    Awaited,
    /// All are silent: it may be the operator that is cut off.
    Silent,
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
            pod: None,
            boot_id: None,
            asked: Asked::NotYet,
        }
    }

    /// The Pod of this name, of which a former operator remembered something.
    pub(super) fn remembered(pod: Pod, judgement: Judgement, cursor: Option<Cursor>) -> Self {
        let now = judgement.since;
        Self {
            judgement,
            boot_id: cursor.as_ref().map(|cursor| cursor.boot_id.clone()),
            cursor,
            pod: Some(pod),
            ..Self::new(now)
        }
    }

    pub(super) fn started(&mut self, now: Timestamp) {
        self.process = Process::Running { since: now };
        self.told_to_end = false;
        self.asked = Asked::NotYet;
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

    pub(super) fn ended(&mut self, reason: &str, former: &mut Former, now: Timestamp) {
        former.add(self.boot_id.take(), now);
        self.asked = Asked::NotYet;
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

    /// The process in its Pod answered. Returns why this is a restart, if it is
    /// one; `None` too of an answer that is about a process before.
    pub(super) fn answered_in_pod(
        &mut self,
        status: &BalancerStatus,
        former: &mut Former,
        now: Timestamp,
    ) -> Option<String> {
        let pod = self.pod.as_mut()?;
        self.judgement.config_revision = status.config_revision.as_deref().map(boot);
        let boot_id = boot(&status.boot_id);
        let is_same = self.boot_id.as_ref() == Some(&boot_id);
        let before = self.boot_id.replace(boot_id);
        let was_draining = self.asked == Asked::Answers(TargetState::Draining);
        self.asked = Asked::Answers(status.state);
        if is_same {
            return None;
        }
        if before.is_none() {
            pod.identified(now);
            return None;
        }
        former.add(before, now);
        pod.replaced(now);
        let is_restart = self.judgement.state == EndpointState::Up && !was_draining;
        is_restart.then(|| "answers as a new process, without having drained".to_owned())
    }

    /// Whether its bootId is known.
    pub(super) const fn is_identified(&self) -> bool {
        self.boot_id.is_some()
    }

    /// Whether what it says of poolers counts: one that ends finds none that
    /// comes after it, and one that is out of service says what was.
    pub(super) fn is_heard(&self) -> bool {
        let Some(pod) = &self.pod else { return true };
        matches!(self.asked, Asked::Answers(_))
            && !pod.is_ending()
            && self.judgement.state != EndpointState::Down
    }

    /// Whether an answer of it is to be waited for.
    pub(super) fn is_awaited(&self) -> bool {
        let is_ready = |pod: &Pod| pod.phase == Phase::Ready;
        self.pod.as_ref().is_some_and(is_ready) && self.asked == Asked::NotYet
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
            // What a Pod did before it was first heard is history.
            None => self.pod.is_none().then_some(0),
            Some(cursor) => (cursor.boot_id == boot(&status.boot_id)).then_some(cursor.number),
        }
    }

    /// The clock was set back: nothing happened in its future.
    pub(super) fn no_later_than(&mut self, now: Timestamp) {
        self.judgement.no_later_than(now);
        self.process.no_later_than(now);
        self.health.since = self.health.since.min(now);
    }

    pub(super) fn advance(&mut self, status: &BalancerStatus) {
        self.cursor = Some(Cursor {
            boot_id: boot(&status.boot_id),
            number: status.newest,
        });
    }

    /// What follows from the kubelet's word and from its answers.
    fn verdict_in_pod(&self, pod: &Pod, others: Others, now: Timestamp) -> Option<Verdict> {
        let verdict = |state, at, reason: &str, planned: bool| {
            Some(Verdict {
                state,
                at,
                reason: reason.to_owned(),
                planned: planned || !pod.served,
            })
        };
        let ended = match &self.process {
            Process::Ended {
                at,
                reason,
                planned,
            } => Some((*at, reason, *planned)),
            Process::Absent | Process::Running { .. } => None,
        };
        let state = self.judgement.state;
        match (&pod.phase, ended, &self.asked) {
            (Phase::Ending, ..) => verdict(EndpointState::Draining, now, TOLD_TO_END, true),
            (Phase::Failed(why), ended, _) => {
                let (at, planned) = ended.map_or((now, false), |(at, _, planned)| (at, planned));
                verdict(EndpointState::Down, at, why, planned)
            }
            (_, Some((at, reason, planned)), _) => {
                verdict(EndpointState::Down, at, reason, planned)
            }
            (_, None, Asked::Answers(TargetState::Draining)) => verdict(
                EndpointState::Draining,
                now,
                "says that it is draining",
                true,
            ),
            (Phase::Starting(why), None, _) if !pod.served => {
                verdict(EndpointState::Unknown, now, why, true)
            }
            // Its probes fail: it hangs. One that starts again is down already.
            (Phase::Starting(_), None, _) => match state {
                EndpointState::Up | EndpointState::Unknown => {
                    verdict(EndpointState::Down, now, NOT_READY, false)
                }
                EndpointState::Down | EndpointState::Draining => None,
            },
            (Phase::Ready | Phase::Unheard, None, Asked::Answers(_)) => {
                verdict(EndpointState::Up, now, "answers", false)
            }
            // Neither its node is heard from, nor it itself.
            (Phase::Unheard, None, Asked::Silent(_)) => {
                verdict(EndpointState::Down, now, UNHEARD, false)
            }
            (Phase::Unheard, None, Asked::NotYet) => None,
            (Phase::Ready, None, Asked::Silent(why)) => {
                let reason = format!("does not answer the operator: {why}");
                match others {
                    Others::Answer => verdict(EndpointState::Down, now, &reason, false),
                    Others::Awaited => None,
                    Others::Silent => verdict(EndpointState::Unknown, now, &reason, true),
                }
            }
            (Phase::Ready, None, Asked::NotYet) => match state {
                EndpointState::Unknown if !pod.served => {
                    verdict(EndpointState::Up, now, "its Pod is ready", false)
                }
                _ => None,
            },
        }
    }

    pub(super) fn verdict(
        &self,
        policy: Policy,
        others: Others,
        now: Timestamp,
    ) -> Option<Verdict> {
        if let Some(pod) = &self.pod {
            return self.verdict_in_pod(pod, others, now);
        }
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
