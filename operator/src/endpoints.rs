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
mod change;
mod judgement;
mod pooler;
mod reports;

pub use change::{Change, Id, Outage};
pub use judgement::Judgement;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proxy_core::{health, upstream::UpstreamReport, wire::TargetState};
use serde::{Deserialize, Serialize};

use crate::api::{Component, EndpointState, EndpointStatus, EndpointUpstream};
use balancer::Balancer;
use judgement::{Process, Verdict};
use pooler::Pooler;

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
                    upstream: self.upstream(id),
                }
            })
            .collect()
    }

    /// What a pooler said last of PostgreSQL.
    fn upstream(&self, id: Id) -> Option<EndpointUpstream> {
        match id.component {
            Component::Pooler => self.poolers[id.index]
                .upstream
                .and_then(EndpointUpstream::of),
            Component::Balancer => None,
        }
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
        let restart = pooler.said(&boot(boot_id), state, now);
        pooler.judgement.config_revision =
            revision.map(|revision| cut(revision, BOOT_ID_LENGTH_MAX));
        let restart = restart.map(|reason| self.restarted(index, &reason, now));
        let mut changes: Vec<Change> = restart.into_iter().collect();
        changes.extend(self.settle(policy, now));
        changes
    }

    /// It said this of PostgreSQL, in that answer.
    pub fn pooler_said_of_upstream(
        &mut self,
        index: usize,
        boot_id: &str,
        report: Option<UpstreamReport>,
    ) {
        self.poolers[index].said_of_upstream(&boot(boot_id), report);
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
