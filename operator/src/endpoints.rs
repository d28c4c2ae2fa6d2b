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
//!
//! `operator local` numbers its endpoints, runs their processes and asks poolers
//! too. For `operator run` they are Pods ([`Endpoints::look`]): kubelets tell of
//! processes, late, and only balancers are asked.

mod balancer;
mod change;
mod former;
mod judgement;
mod lost;
mod pod;
mod pods;
mod pooler;
mod reports;
mod slots;

pub use balancer::Cursor;
pub use change::{Change, Id, Outage};
pub use judgement::Judgement;
pub use lost::Lost;
pub use pod::{Container, ContainerState, Ended, Phase, PodNews};
pub use pods::{Answer, Answers, Cursors, Wished};
pub(crate) use reports::ip;

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use proxy_core::{
    health, saturation::SaturationReport, upstream::UpstreamReport, wire::TargetState,
};
use serde::{Deserialize, Serialize};

use crate::api::{
    self, Component, EndpointCapacity, EndpointState, EndpointStatus, EndpointUpstream,
};
use balancer::{Asked, Balancer, Others};
use former::Former;
use judgement::{Process, Verdict};
use pod::Pod;
use pooler::{Judges, Pooler};

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
    #[serde(with = "slots")]
    poolers: BTreeMap<usize, Pooler>,
    #[serde(with = "slots")]
    balancers: BTreeMap<usize, Balancer>,
    #[serde(default)]
    former: Former,
    /// Those whose Pod is gone, as what they were.
    #[serde(skip)]
    lost: Vec<(Id, Lost)>,
    /// How many there should be, where that is not how many there are.
    #[serde(skip)]
    wished: Option<Wished>,
    /// The next Pod's number.
    #[serde(skip)]
    next: usize,
}

impl Endpoints {
    /// Endpoints that nobody has seen yet.
    #[must_use]
    pub fn new(poolers: u32, balancers: u32, now: Timestamp) -> Self {
        let mut endpoints = Self {
            poolers: BTreeMap::new(),
            balancers: BTreeMap::new(),
            former: Former::default(),
            lost: Vec::new(),
            wished: None,
            next: 0,
        };
        endpoints.resize(poolers, balancers, now);
        endpoints
    }

    /// An operator takes over from one that is gone.
    pub fn resume(&mut self, now: Timestamp) {
        for balancer in self.balancers.values_mut() {
            balancer.resume(now);
        }
    }

    /// A tier that was stopped in order begins anew: only what is out of service
    /// is remembered, so that its return is told.
    pub fn begin(&mut self, now: Timestamp) {
        for pooler in self.poolers.values_mut() {
            let judgement = pooler.judgement.clone();
            *pooler = Pooler::new(now);
            if judgement.outage_since.is_some() {
                pooler.judgement = judgement;
            }
        }
        for balancer in self.balancers.values_mut() {
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
            Component::Pooler => &self.poolers[&id.index].process,
            Component::Balancer => &self.balancers[&id.index].process,
        };
        matches!(process, Process::Running { .. })
    }

    /// Adds or removes endpoints at the end, so that there are so many.
    pub fn resize(&mut self, poolers: u32, balancers: u32, now: Timestamp) {
        let (poolers, balancers) = (poolers as usize, balancers as usize);
        self.poolers.retain(|index, _| *index < poolers);
        self.balancers.retain(|index, _| *index < balancers);
        for index in 0..poolers {
            let pooler = self.poolers.entry(index);
            pooler.or_insert_with(|| Pooler::new(now));
        }
        for index in 0..balancers {
            let balancer = self.balancers.entry(index);
            balancer.or_insert_with(|| Balancer::new(now));
        }
        for pooler in self.poolers.values_mut() {
            pooler.views.retain(|balancer, _| *balancer < balancers);
        }
    }

    /// Every endpoint, poolers first.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        let poolers = self.poolers.keys().copied().map(Id::pooler);
        let balancers = self.balancers.keys().copied().map(Id::balancer);
        let ids: Vec<Id> = poolers.chain(balancers).collect();
        ids.into_iter()
    }

    fn pod(&self, id: Id) -> Option<&Pod> {
        match id.component {
            Component::Pooler => self.poolers.get(&id.index)?.pod.as_ref(),
            Component::Balancer => self.balancers.get(&id.index)?.pod.as_ref(),
        }
    }

    fn pod_mut(&mut self, id: Id) -> Option<&mut Pod> {
        match id.component {
            Component::Pooler => self.poolers.get_mut(&id.index)?.pod.as_mut(),
            Component::Balancer => self.balancers.get_mut(&id.index)?.pod.as_mut(),
        }
    }

    /// Its name: that of its Pod, or what its number is called.
    #[must_use]
    pub fn name(&self, id: Id) -> String {
        self.pod(id)
            .map_or_else(|| id.name(), |pod| pod.name.clone())
    }

    /// What is judged of an endpoint.
    ///
    /// # Panics
    /// If there is no such endpoint.
    #[must_use]
    pub fn judgement(&self, id: Id) -> &Judgement {
        match id.component {
            Component::Pooler => &self.poolers[&id.index].judgement,
            Component::Balancer => &self.balancers[&id.index].judgement,
        }
    }

    fn judgement_mut(&mut self, id: Id) -> &mut Judgement {
        let there_is = "there is such an endpoint";
        match id.component {
            Component::Pooler => &mut self.poolers.get_mut(&id.index).expect(there_is).judgement,
            Component::Balancer => {
                &mut self.balancers.get_mut(&id.index).expect(there_is).judgement
            }
        }
    }

    fn pooler(&mut self, index: usize) -> &mut Pooler {
        self.poolers
            .get_mut(&index)
            .expect("there is such a pooler")
    }

    fn balancer(&mut self, index: usize) -> &mut Balancer {
        let balancer = self.balancers.get_mut(&index);
        balancer.expect("there is such a balancer")
    }

    fn process_mut(&mut self, id: Id) -> &mut Process {
        match id.component {
            Component::Pooler => &mut self.pooler(id.index).process,
            Component::Balancer => &mut self.balancer(id.index).process,
        }
    }

    fn is_told_to_end(&self, id: Id) -> bool {
        self.pod(id).is_some_and(Pod::is_ending)
    }

    /// Whether somebody may be served by it: one that nobody has judged yet may
    /// be up, unless its kubelet knows better.
    #[must_use]
    pub fn may_serve(&self, id: Id) -> bool {
        match self.judgement(id).state {
            EndpointState::Up => true,
            EndpointState::Unknown => self.pod(id).is_none_or(|pod| pod.phase == Phase::Ready),
            EndpointState::Down | EndpointState::Draining => false,
        }
    }

    /// Endpoints of a kind that are up, and all of them: all that should be,
    /// where that is known.
    #[must_use]
    pub fn count(&self, component: Component) -> (u32, u32) {
        let up = self.up(component);
        match self.wished {
            Some(wished) => (up.min(wished.of(component)), wished.of(component)),
            None => {
                let of_kind = self.ids().filter(|id| id.component == component);
                (up, of_kind.fold(0, |count, _| count + 1))
            }
        }
    }

    fn up(&self, component: Component) -> u32 {
        let of_kind = self.ids().filter(|id| id.component == component);
        let is_up = |id: &Id| self.judgement(*id).state == EndpointState::Up;
        of_kind.filter(is_up).fold(0, |count, _| count + 1)
    }

    /// Every endpoint, as status shows it: poolers first, Pods by name.
    #[must_use]
    pub fn statuses(&self) -> Vec<EndpointStatus> {
        let mut statuses: Vec<EndpointStatus> = self
            .ids()
            .map(|id| {
                let judgement = self.judgement(id);
                EndpointStatus {
                    name: self.name(id),
                    component: id.component,
                    state: judgement.state,
                    since: judgement.since,
                    reason: judgement.reason.clone(),
                    outage_since: judgement.outage_since,
                    config_revision: judgement.config_revision.clone(),
                    upstream: self.upstream(id),
                    capacity: self.capacity(id),
                }
            })
            .collect();
        // Numbers are in order already; as text, 10 comes before 2.
        if self.wished.is_some() {
            statuses.sort_by(|a, b| (a.component, &a.name).cmp(&(b.component, &b.name)));
        }
        // Those that end are missed least.
        let mut excess = statuses.len().saturating_sub(api::ENDPOINTS_MAX);
        statuses.retain(|one| {
            let is_left_out = excess > 0 && one.state == EndpointState::Draining;
            excess -= usize::from(is_left_out);
            !is_left_out
        });
        statuses.truncate(api::ENDPOINTS_MAX);
        statuses
    }

    /// What a pooler said last of PostgreSQL. Of one that nobody hears of any more
    /// that is not known.
    fn upstream(&self, id: Id) -> Option<EndpointUpstream> {
        match id.component {
            Component::Pooler => {
                let pooler = &self.poolers[&id.index];
                let report = pooler.upstream.filter(|_| pooler.is_heard_of());
                report.and_then(EndpointUpstream::of)
            }
            Component::Balancer => None,
        }
    }

    /// What a pooler said last of its capacity.
    fn capacity(&self, id: Id) -> Option<EndpointCapacity> {
        match id.component {
            Component::Pooler => {
                let pooler = &self.poolers[&id.index];
                let report = pooler.saturation.filter(|_| pooler.is_heard_of());
                report.and_then(EndpointCapacity::of)
            }
            Component::Balancer => None,
        }
    }

    /// Where to continue a balancer's log of transitions: `(bootId, number)`.
    #[must_use]
    pub fn cursor(&self, balancer: usize) -> Option<(&str, u64)> {
        let cursor = self.balancers[&balancer].cursor.as_ref()?;
        Some((&cursor.boot_id, cursor.number))
    }

    /// A process of ours was started.
    pub fn started(&mut self, id: Id, now: Timestamp) {
        match id.component {
            Component::Pooler => {
                let pooler = self.poolers.get_mut(&id.index);
                pooler
                    .expect("there is such a pooler")
                    .started(&mut self.former, now);
            }
            Component::Balancer => {
                self.balancer(id.index).started(now);
                self.lose_views(id.index);
            }
        }
    }

    /// A process of ours was told to end: what follows is no outage.
    pub fn told_to_end(&mut self, id: Id) {
        match id.component {
            Component::Pooler => self.pooler(id.index).told_to_end = true,
            Component::Balancer => self.balancer(id.index).told_to_end = true,
        }
    }

    /// A process of ours ended.
    #[must_use]
    pub fn ended(&mut self, id: Id, reason: &str, policy: Policy, now: Timestamp) -> Vec<Change> {
        self.end(id, reason, policy, now);
        self.settle(policy, now)
    }

    fn end(&mut self, id: Id, reason: &str, policy: Policy, now: Timestamp) {
        let former = &mut self.former;
        match id.component {
            Component::Pooler => {
                let pooler = self.poolers.get_mut(&id.index);
                pooler
                    .expect("there is such a pooler")
                    .ended(reason, policy, former, now);
            }
            Component::Balancer => {
                let balancer = self.balancers.get_mut(&id.index);
                balancer
                    .expect("there is such a balancer")
                    .ended(reason, former, now);
                self.lose_views(id.index);
            }
        }
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
        self.former.forget(now);
        let pooler = self.poolers.get_mut(&index);
        let pooler = pooler.expect("there is such a pooler");
        let restart = pooler.said(&boot(boot_id), state, policy, &mut self.former, now);
        pooler.judgement.config_revision =
            revision.map(|revision| cut(revision, BOOT_ID_LENGTH_MAX));
        let restart = restart.map(|reason| self.restarted(Id::pooler(index), &reason, now));
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
        self.pooler(index).said_of_upstream(&boot(boot_id), report);
    }

    /// It said this of its capacity, in that answer.
    pub fn pooler_said_of_saturation(
        &mut self,
        index: usize,
        boot_id: &str,
        report: Option<SaturationReport>,
    ) {
        let pooler = self.pooler(index);
        // Who says nothing itself does not judge any more; a balancer that says
        // nothing may be of an older version.
        pooler.saturation = pooler.saturation.filter(|_| report.is_some());
        pooler.said_of_saturation(&boot(boot_id), report);
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
        self.balancer(index).silent(reason, policy, now);
        self.lose_views(index);
        self.settle(policy, now)
    }

    /// Time passed.
    #[must_use]
    pub fn tick(&mut self, policy: Policy, now: Timestamp) -> Vec<Change> {
        self.no_later_than(policy, now);
        self.settle(policy, now)
    }

    /// When something will change by itself, if nothing is told meanwhile.
    #[must_use]
    pub fn due(&self, policy: Policy, now: Timestamp) -> Option<Timestamp> {
        let poolers = self.poolers.values();
        poolers.filter_map(|pooler| pooler.due(policy, now)).min()
    }

    /// The clock was set back: nothing happened in its future.
    fn no_later_than(&mut self, policy: Policy, now: Timestamp) {
        for pooler in self.poolers.values_mut() {
            pooler.no_later_than(now, policy);
        }
        for balancer in self.balancers.values_mut() {
            balancer.no_later_than(now);
        }
        for (_, lost) in &mut self.lost {
            lost.since = lost.since.min(now);
        }
    }

    /// What a balancer that cannot be reached thinks is not known.
    fn lose_views(&mut self, balancer: usize) {
        for pooler in self.poolers.values_mut() {
            pooler.views.remove(&balancer);
        }
    }

    /// Judges everything anew.
    fn settle(&mut self, policy: Policy, now: Timestamp) -> Vec<Change> {
        let mut changes = self.settle_balancers(policy, now);
        let judges = self.judges();
        let poolers: Vec<usize> = self.poolers.keys().copied().collect();
        for index in poolers {
            let verdict = self.poolers[&index].verdict(policy, judges, now);
            changes.extend(self.judge(Id::pooler(index), verdict));
        }
        changes.extend(self.end_restored(now));
        changes
    }

    fn settle_balancers(&mut self, policy: Policy, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        let others = self.ready_balancers();
        let balancers: Vec<usize> = self.balancers.keys().copied().collect();
        for index in balancers {
            let verdict = self.balancers[&index].verdict(policy, others, now);
            changes.extend(self.judge(Id::balancer(index), verdict));
        }
        changes
    }

    /// How the balancers do whose kubelets have them ready, or had and they answer.
    fn ready_balancers(&self) -> Others {
        let ready = self.balancers.values().filter(|balancer| {
            let pod = balancer.pod.as_ref();
            let answers = matches!(balancer.asked, Asked::Answers(_));
            pod.is_some_and(|pod| match pod.phase {
                Phase::Ready => true,
                Phase::Unheard => answers,
                _ => false,
            })
        });
        ready.fold(Others::Silent, |others, balancer| {
            match (others, &balancer.asked) {
                (Others::Answer, _) | (_, Asked::Answers(_)) => Others::Answer,
                (Others::Awaited, _) | (_, Asked::NotYet) => Others::Awaited,
                (Others::Silent, Asked::Silent(_)) => Others::Silent,
            }
        })
    }

    /// Whether there are balancers that judge poolers.
    fn judges(&self) -> Judges {
        let is_down = |balancer: &Balancer| balancer.judgement.state == EndpointState::Down;
        let mut balancers = self.balancers.values();
        if self.wished.is_none() {
            return match balancers.all(is_down) {
                true => Judges::None,
                false => Judges::Awaited,
            };
        }
        if balancers.clone().any(Balancer::is_heard) {
            return Judges::Heard;
        }
        match balancers.any(Balancer::is_awaited) {
            true => Judges::Awaited,
            false => Judges::None,
        }
    }

    fn judge(&mut self, id: Id, verdict: Option<Verdict>) -> Option<Change> {
        let mut verdict = verdict?;
        verdict.reason = cut(&verdict.reason, REASON_LENGTH_MAX);
        if verdict.state == EndpointState::Up
            && let Some(pod) = self.pod_mut(id)
        {
            pod.served = true;
        }
        let judgement = self.judgement_mut(id);
        // What is told late did not happen before what is known.
        verdict.at = verdict.at.max(judgement.since);
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
        match (verdict.state, judgement.outage_since) {
            (EndpointState::Down, Some(_)) => judgement.outage_reason.clone_from(&verdict.reason),
            (_, None) => judgement.outage_reason.clear(),
            _ => {}
        }
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
            name: self.name(id),
            from,
            to: verdict.state,
            at: verdict.at,
            reason: verdict.reason,
            outage,
            up,
            total,
        })
    }

    fn restarted(&self, id: Id, reason: &str, at: Timestamp) -> Change {
        let state = self.judgement(id).state;
        let (up, total) = self.count(id.component);
        Change {
            id,
            name: self.name(id),
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
