//! What is true of every pooler and balancer, merged from all who see them.
//! Pure: observations and the time go in, changes come out.
//!
//! A pooler is seen by the balancers, whose hysteresis is believed; by whoever
//! runs its process, who sees it end; and by itself, which tells its bootId.
//!
//! ```text
//!           all balancers that can be reached: Up, for this very process
//!            ┌───────────────────────────────────────────────┐
//!            │                                               v
//!  Unknown ──┼──> Down <── a balancer says Down, ────────── Up ──┐
//!            │      ^      or its process ended              │   │ it says
//!            │      │      without having drained            │   │ that it
//!            │      └─────────── its process ended ── Draining <─┘ drains
//!            └───────────────────────────────────────────────┘
//! ```
//!
//! An *outage* begins where an endpoint goes Down without having said that it
//! would, and ends where it is Up again: people are told of both, each once,
//! however many observers report it. A process that came back before anyone
//! judged it Down is an outage too when its end was seen, and a *restart* when
//! only its new bootId was.

mod balancer;
mod pooler;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proxy_core::{
    health,
    status::{BalancerStatus, Health},
    wire::TargetState,
};
use serde::{Deserialize, Serialize};

use crate::{
    api::{Component, EndpointState, EndpointStatus},
    controller::build::{balancer_name, pooler_name},
};
use balancer::Balancer;
use pooler::{Pooler, View};

/// How much of a reason is kept, in characters.
const REASON_LENGTH_MAX: usize = 500;
/// How much of a bootId is kept, in characters; ours are 16.
const BOOT_ID_LENGTH_MAX: usize = 64;

/// How endpoints are judged: the numbers of `spec.balancer.check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Time between two checks.
    pub interval: Duration,
    /// Good checks until up again.
    pub rise: u32,
    /// Bad checks until down.
    pub fall: u32,
}

impl Policy {
    const fn health(self) -> health::Policy {
        health::Policy {
            rise: self.rise,
            fall: self.fall,
        }
    }

    /// How long a process that was ended on purpose may take to be back before
    /// its absence counts: what the balancers need to see it go and come.
    fn planned_absence(self) -> Duration {
        self.interval * (self.fall + self.rise) + Duration::from_secs(2)
    }
}

/// One endpoint: what it is and its number among its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Pooler or balancer.
    pub component: Component,
    /// From 0.
    pub index: usize,
}

impl Id {
    /// Pooler `index`.
    #[must_use]
    pub const fn pooler(index: usize) -> Self {
        Self {
            component: Component::Pooler,
            index,
        }
    }

    /// Balancer `index`.
    #[must_use]
    pub const fn balancer(index: usize) -> Self {
        Self {
            component: Component::Balancer,
            index,
        }
    }

    /// Its name, such as `pooler-0`.
    #[must_use]
    pub fn name(self) -> String {
        match self.component {
            Component::Pooler => pooler_name(self.index),
            Component::Balancer => balancer_name(self.index),
        }
    }
}

/// A change of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub id: Id,
    /// State before.
    pub from: EndpointState,
    /// State after; the same for a restart.
    pub to: EndpointState,
    /// When it happened.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// What it means to people.
    pub outage: Outage,
    /// Endpoints of its kind that are up after it.
    pub up: u32,
    /// Endpoints of its kind in all.
    pub total: u32,
}

/// What a change means to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Nothing: it was planned, or is no news.
    None,
    /// It is out of service.
    Begins,
    /// It is back.
    Ends {
        /// When it went.
        since: Timestamp,
    },
    /// It came back as a new process before anyone missed it.
    Restarted,
}

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
    fn unknown(now: Timestamp) -> Self {
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
struct Verdict {
    state: EndpointState,
    at: Timestamp,
    reason: String,
    /// Whether a Down is meant to be.
    planned: bool,
}

/// The process of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
enum Process {
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

/// All endpoints of a tier. What is kept of it survives the operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    poolers: Vec<Pooler>,
    balancers: Vec<Balancer>,
}

impl Endpoints {
    /// Endpoints that nobody has seen yet.
    #[must_use]
    pub fn new(poolers: u32, balancers: u32, now: Timestamp) -> Self {
        Self {
            poolers: (0..poolers).map(|_| Pooler::new(now)).collect(),
            balancers: (0..balancers).map(|_| Balancer::new(now)).collect(),
        }
    }

    /// An operator takes over from one that is gone.
    pub fn resume(&mut self, now: Timestamp) {
        for balancer in &mut self.balancers {
            balancer.resume(now);
        }
    }

    /// A tier that was stopped in order begins anew: only what is out of service
    /// is remembered, so that its return is told.
    pub fn begin(&mut self, now: Timestamp) {
        for pooler in &mut self.poolers {
            let judgement = pooler.judgement.clone();
            *pooler = Pooler::new(now);
            if judgement.outage_since.is_some() {
                pooler.judgement = judgement;
            }
        }
        for balancer in &mut self.balancers {
            let judgement = balancer.judgement.clone();
            *balancer = Balancer::new(now);
            if judgement.outage_since.is_some() {
                balancer.judgement = judgement;
            }
        }
    }

    /// Whether a process of the endpoint runs, as far as is known.
    #[must_use]
    pub fn runs(&self, id: Id) -> bool {
        let process = match id.component {
            Component::Pooler => &self.poolers[id.index].process,
            Component::Balancer => &self.balancers[id.index].process,
        };
        matches!(process, Process::Running { .. })
    }

    /// Adds or removes endpoints at the end, so that there are so many.
    pub fn resize(&mut self, poolers: u32, balancers: u32, now: Timestamp) {
        self.poolers
            .resize_with(poolers as usize, || Pooler::new(now));
        self.balancers
            .resize_with(balancers as usize, || Balancer::new(now));
        let balancers = self.balancers.len();
        for pooler in &mut self.poolers {
            pooler.views.retain(|balancer, _| *balancer < balancers);
        }
    }

    /// Every endpoint, poolers first.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        let poolers = (0..self.poolers.len()).map(Id::pooler);
        poolers.chain((0..self.balancers.len()).map(Id::balancer))
    }

    /// What is judged of an endpoint.
    ///
    /// # Panics
    /// If there is no such endpoint.
    #[must_use]
    pub fn judgement(&self, id: Id) -> &Judgement {
        match id.component {
            Component::Pooler => &self.poolers[id.index].judgement,
            Component::Balancer => &self.balancers[id.index].judgement,
        }
    }

    /// Endpoints of a kind that are up, and all of them.
    #[must_use]
    pub fn count(&self, component: Component) -> (u32, u32) {
        let of_kind = self.ids().filter(|id| id.component == component);
        of_kind.fold((0, 0), |(up, total), id| {
            let is_up = self.judgement(id).state == EndpointState::Up;
            (up + u32::from(is_up), total + 1)
        })
    }

    /// Every endpoint, as status shows it.
    #[must_use]
    pub fn statuses(&self) -> Vec<EndpointStatus> {
        self.ids()
            .map(|id| {
                let judgement = self.judgement(id);
                EndpointStatus {
                    name: id.name(),
                    component: id.component,
                    state: judgement.state,
                    since: judgement.since,
                    reason: judgement.reason.clone(),
                    config_revision: judgement.config_revision.clone(),
                }
            })
            .collect()
    }

    /// Where to continue a balancer's log of transitions: `(bootId, number)`.
    #[must_use]
    pub fn cursor(&self, balancer: usize) -> Option<(&str, u64)> {
        let cursor = self.balancers[balancer].cursor.as_ref()?;
        Some((&cursor.boot_id, cursor.number))
    }

    /// A process of ours was started.
    pub fn started(&mut self, id: Id, now: Timestamp) {
        match id.component {
            Component::Pooler => self.poolers[id.index].started(now),
            Component::Balancer => {
                self.balancers[id.index].started(now);
                self.lose_views(id.index);
            }
        }
    }

    /// A process of ours was told to end: what follows is no outage.
    pub fn told_to_end(&mut self, id: Id) {
        match id.component {
            Component::Pooler => self.poolers[id.index].told_to_end = true,
            Component::Balancer => self.balancers[id.index].told_to_end = true,
        }
    }

    /// A process of ours ended.
    #[must_use]
    pub fn ended(&mut self, id: Id, reason: &str, policy: Policy, now: Timestamp) -> Vec<Change> {
        match id.component {
            Component::Pooler => self.poolers[id.index].ended(reason, policy, now),
            Component::Balancer => {
                self.balancers[id.index].ended(reason, now);
                self.lose_views(id.index);
            }
        }
        self.settle(policy, now)
    }

    /// A pooler answered on its own `/status`.
    #[must_use]
    pub fn pooler_said(
        &mut self,
        index: usize,
        boot_id: &str,
        state: TargetState,
        revision: Option<&str>,
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        let pooler = &mut self.poolers[index];
        let restart = pooler.said(&boot(boot_id), state);
        pooler.judgement.config_revision =
            revision.map(|revision| cut(revision, BOOT_ID_LENGTH_MAX));
        let restart = restart.map(|reason| self.restarted(index, &reason, now));
        let mut changes: Vec<Change> = restart.into_iter().collect();
        changes.extend(self.settle(policy, now));
        changes
    }

    /// Balancers answered. Their logs are merged by time, so that what both
    /// saw while nobody listened is one story.
    #[must_use]
    pub fn balancers_said(
        &mut self,
        statuses: &[(usize, BalancerStatus)],
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut log = Vec::new();
        for (index, status) in statuses {
            let balancer = &mut self.balancers[*index];
            balancer.answered(status, policy, now);
            let known = balancer.known(status);
            let news = status
                .transitions
                .iter()
                .filter(|transition| known.is_some_and(|known| transition.number > known));
            log.extend(news.map(|transition| (*index, transition.clone())));
            balancer.advance(status);
        }
        log.sort_by_key(|(_, transition)| transition.at);
        for (index, mut transition) in log {
            // Whose clock is ahead tells no future.
            transition.at = transition.at.min(now);
            let Some(pooler) = self.pooler_index(&transition.target) else {
                continue;
            };
            let view = View {
                health: transition.to,
                since: transition.at,
                reason: cut(&transition.reason, REASON_LENGTH_MAX),
                boot_id: transition.boot_id.as_deref().map(boot),
                // Where the judgement changed too, good checks were counted.
                restarted_at: (transition.restarted && transition.from == transition.to)
                    .then_some(transition.at),
                says_draining: transition.to == Health::Draining,
            };
            let old = transition.at < self.poolers[pooler].judgement.since;
            if let Some(restart) = self.poolers[pooler].seen(index, view) {
                changes.push(self.restarted(pooler, &restart, transition.at));
            }
            // A balancer that could not be reached for a while tells old news:
            // what was judged since holds, and its levels follow below.
            if !old {
                // The time of the story, not of its telling.
                changes.extend(self.settle(policy, transition.at));
            }
        }
        for (index, status) in statuses {
            for target in &status.targets {
                let Some(pooler) = self.pooler_index(&target.name) else {
                    continue;
                };
                let view = View {
                    health: target.state,
                    since: target.since.min(now),
                    reason: cut(&target.reason, REASON_LENGTH_MAX),
                    boot_id: target.report.as_ref().map(|report| boot(&report.boot_id)),
                    restarted_at: None,
                    // A balancer that judges Draining may mean the process
                    // before: only what the process says of itself counts.
                    says_draining: target
                        .report
                        .as_ref()
                        .is_some_and(|report| report.state == TargetState::Draining),
                };
                if let Some(restart) = self.poolers[pooler].seen(*index, view) {
                    changes.push(self.restarted(pooler, &restart, now));
                }
            }
        }
        changes.extend(self.settle(policy, now));
        changes
    }

    /// A balancer did not answer.
    #[must_use]
    pub fn balancer_silent(
        &mut self,
        index: usize,
        reason: &str,
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        self.balancers[index].silent(reason, policy, now);
        self.lose_views(index);
        self.settle(policy, now)
    }

    /// Time passed.
    #[must_use]
    pub fn tick(&mut self, policy: Policy, now: Timestamp) -> Vec<Change> {
        self.settle(policy, now)
    }

    fn pooler_index(&self, name: &str) -> Option<usize> {
        (0..self.poolers.len()).find(|index| pooler_name(*index) == name)
    }

    /// What a balancer that cannot be reached thinks is not known.
    fn lose_views(&mut self, balancer: usize) {
        for pooler in &mut self.poolers {
            pooler.views.remove(&balancer);
        }
    }

    /// Judges everything anew.
    fn settle(&mut self, policy: Policy, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        for index in 0..self.balancers.len() {
            let verdict = self.balancers[index].verdict(policy);
            changes.extend(self.judge(Id::balancer(index), verdict));
        }
        let balancers_down = self
            .balancers
            .iter()
            .all(|balancer| balancer.judgement.state == EndpointState::Down);
        for index in 0..self.poolers.len() {
            let verdict = self.poolers[index].verdict(policy, balancers_down, now);
            changes.extend(self.judge(Id::pooler(index), verdict));
        }
        changes
    }

    fn judge(&mut self, id: Id, verdict: Option<Verdict>) -> Option<Change> {
        let verdict = verdict?;
        let judgement = match id.component {
            Component::Pooler => &mut self.poolers[id.index].judgement,
            Component::Balancer => &mut self.balancers[id.index].judgement,
        };
        let from = judgement.state;
        let outage = match (verdict.state, judgement.outage_since) {
            (EndpointState::Up, Some(since)) => {
                judgement.outage_since = None;
                Outage::Ends { since }
            }
            (EndpointState::Down, None) if !verdict.planned => {
                judgement.outage_since = Some(verdict.at);
                Outage::Begins
            }
            _ => Outage::None,
        };
        // Why it is down may become clearer; that is no change of its own.
        judgement.reason.clone_from(&verdict.reason);
        if from == verdict.state && outage == Outage::None {
            return None;
        }
        if from != verdict.state {
            judgement.since = verdict.at;
            judgement.state = verdict.state;
        }
        let (up, total) = self.count(id.component);
        Some(Change {
            id,
            from,
            to: verdict.state,
            at: verdict.at,
            reason: verdict.reason,
            outage,
            up,
            total,
        })
    }

    fn restarted(&self, pooler: usize, reason: &str, at: Timestamp) -> Change {
        let id = Id::pooler(pooler);
        let state = self.judgement(id).state;
        let (up, total) = self.count(id.component);
        Change {
            id,
            from: state,
            to: state,
            at,
            reason: reason.to_owned(),
            outage: Outage::Restarted,
            up,
            total,
        }
    }
}

/// The first characters of a text: those who answer us are not trusted to be
/// brief.
fn cut(text: &str, length_max: usize) -> String {
    text.chars().take(length_max).collect()
}

fn boot(boot_id: &str) -> String {
    cut(boot_id, BOOT_ID_LENGTH_MAX)
}

/// A time after another; the end of time if there is none.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
