//! A pooler, as everyone who sees it tells.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use proxy_core::{status::Health, upstream::UpstreamReport, wire::TargetState};
use serde::{Deserialize, Serialize};

use super::{
    Policy,
    judgement::{Judgement, Process, Verdict},
    later,
};
use crate::{api::EndpointState, controller::build::balancer_name};

/// How many processes of the past are remembered.
const GONE_MAX: usize = 4;

/// A pooler and what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pooler {
    pub(super) judgement: Judgement,
    pub(super) process: Process,
    pub(super) told_to_end: bool,
    /// bootId of the process that runs, once it has said it.
    boot_id: Option<String>,
    /// bootIds of processes before it, the last few: a balancer that nobody
    /// reached for a while tells of them as if they ran.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    gone: VecDeque<String>,
    /// When it answered last itself. Not kept: it is soon asked again.
    #[serde(skip)]
    said_at: Option<Timestamp>,
    /// The process that runs said that it drains.
    draining: bool,
    /// Until when balancers may still see the planned end of the process before.
    absent_until: Option<Timestamp>,
    /// What each balancer that can be reached judges, by its index. They are
    /// kept, so that what happens while no operator runs is told in full.
    pub(super) views: BTreeMap<usize, View>,
    /// What it said last of PostgreSQL. Not kept: it is soon told again.
    #[serde(skip)]
    pub(super) upstream: Option<UpstreamReport>,
}

/// What a balancer judges of a pooler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    pub(super) health: Health,
    pub(super) since: Timestamp,
    pub(super) reason: String,
    /// bootId that the pooler told the balancer last.
    pub(super) boot_id: Option<String>,
    /// When the balancer found a new process behind an unchanged judgement.
    pub(super) restarted_at: Option<Timestamp>,
    /// The process with that bootId told the balancer that it drains.
    pub(super) says_draining: bool,
}

impl Pooler {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            judgement: Judgement::unknown(now),
            process: Process::Absent,
            told_to_end: false,
            boot_id: None,
            gone: VecDeque::new(),
            said_at: None,
            draining: false,
            absent_until: None,
            views: BTreeMap::new(),
            upstream: None,
        }
    }

    pub(super) fn started(&mut self, now: Timestamp) {
        self.process = Process::Running { since: now };
        self.told_to_end = false;
        let before = self.boot_id.take();
        self.is_gone(before);
        self.draining = false;
        self.upstream = None;
    }

    pub(super) fn ended(&mut self, reason: &str, policy: Policy, now: Timestamp) {
        let planned = self.told_to_end || self.draining;
        self.absent_until = planned.then(|| later(now, policy.planned_absence()));
        self.process = Process::Ended {
            at: now,
            reason: if planned {
                format!("{reason}, after draining")
            } else {
                reason.to_owned()
            },
            planned,
        };
    }

    /// The process answered itself. Returns why this is a restart, if it is one.
    pub(super) fn said(
        &mut self,
        boot_id: &str,
        state: TargetState,
        now: Timestamp,
    ) -> Option<String> {
        if !matches!(self.process, Process::Running { .. }) {
            return None;
        }
        self.said_at = Some(now);
        let restarted = self.identify(boot_id);
        self.draining |= state == TargetState::Draining;
        restarted.then(|| "answers as a new process, without having drained".to_owned())
    }

    /// The process with this bootId told this of PostgreSQL, itself or by a
    /// balancer, whose news may be older than another's.
    pub(super) fn said_of_upstream(&mut self, boot_id: &str, report: Option<UpstreamReport>) {
        let Some(report) = report else { return };
        let is_older = |known: UpstreamReport| known.number > report.number;
        if self.boot_id.as_deref() == Some(boot_id) && !self.upstream.is_some_and(is_older) {
            self.upstream = Some(report);
        }
    }

    /// A balancer judged. Returns why this is a restart, if it is one.
    pub(super) fn seen(&mut self, balancer: usize, mut view: View) -> Option<String> {
        let before = self.views.get(&balancer);
        if view.restarted_at.is_none()
            && let Some(before) = before
            && before.boot_id == view.boot_id
        {
            view.restarted_at = before.restarted_at;
        }
        // One that lags behind still tells the bootId of the process before.
        let news = before.is_none_or(|before| before.boot_id != view.boot_id);
        let restarted = match &view.boot_id {
            Some(seen) if news && self.judgement.state == EndpointState::Up => {
                self.identify(&seen.clone())
            }
            _ => false,
        };
        if view.says_draining && self.is_of_this_process(&view) {
            self.draining = true;
        }
        let reason = view.reason.clone();
        self.views.insert(balancer, view);
        restarted.then_some(reason)
    }

    /// Notes the bootId of the process that runs. True if it is another one than
    /// before, whose end nobody saw and which had not said that it would end.
    fn identify(&mut self, boot_id: &str) -> bool {
        if self.gone.iter().any(|gone| gone == boot_id) {
            return false;
        }
        let before = self.boot_id.replace(boot_id.to_owned());
        let before = before.filter(|before| before != boot_id);
        let other = before.is_some();
        if other {
            self.upstream = None;
            self.is_gone(before);
        }
        other && self.judgement.state == EndpointState::Up && !self.draining
    }

    fn is_gone(&mut self, boot_id: Option<String>) {
        self.gone.extend(boot_id);
        let surplus = self.gone.len().saturating_sub(GONE_MAX);
        self.gone.drain(..surplus);
    }

    fn is_of_this_process(&self, view: &View) -> bool {
        match (&self.boot_id, &view.boot_id) {
            (Some(own), Some(seen)) => own == seen,
            // A process that has not said its name yet has not drained either.
            (None, _) => false,
            (Some(_), None) => true,
        }
    }

    pub(super) fn verdict(
        &self,
        policy: Policy,
        balancers_down: bool,
        now: Timestamp,
    ) -> Option<Verdict> {
        let since = match &self.process {
            Process::Absent => return None,
            Process::Ended {
                at,
                reason,
                planned,
            } => {
                return Some(Verdict {
                    state: EndpointState::Down,
                    at: *at,
                    reason: reason.clone(),
                    planned: *planned,
                });
            }
            Process::Running { since } => *since,
        };
        if self.draining {
            return Some(Verdict {
                state: EndpointState::Draining,
                at: now,
                reason: "says that it is draining".to_owned(),
                planned: true,
            });
        }
        if self.views.values().any(|view| view.health == Health::Down) {
            return self.down(now);
        }
        let (at, reason) = self.up(policy, since, balancers_down, now)?;
        Some(Verdict {
            state: EndpointState::Up,
            at,
            reason,
            planned: false,
        })
    }

    /// What follows from a balancer that says Down.
    fn down(&self, now: Timestamp) -> Option<Verdict> {
        // After a planned end the balancers see nobody for a while. And of one
        // that is out already, why is known.
        let absent = self.absent_until.is_some_and(|until| now < until);
        if absent || self.judgement.outage_since.is_some() {
            return None;
        }
        let (balancer, view) = self
            .views
            .iter()
            .filter(|(_, view)| view.health == Health::Down)
            .min_by_key(|(_, view)| view.since)?;
        Some(Verdict {
            state: EndpointState::Down,
            at: view.since.max(self.judgement.since),
            reason: format!("{}: {}", balancer_name(*balancer), view.reason),
            planned: false,
        })
    }

    /// Since when and why it is up, if it is.
    fn up(
        &self,
        policy: Policy,
        since: Timestamp,
        balancers_down: bool,
        now: Timestamp,
    ) -> Option<(Timestamp, String)> {
        let boot_id = self.boot_id.as_deref()?;
        let mut at = since;
        for view in self.views.values() {
            if view.health != Health::Up || view.boot_id.as_deref() != Some(boot_id) {
                return None;
            }
            at = at.max(view.since);
            // The balancer's judgement did not change over the restart, so it
            // has not counted its good checks; we wait as long as it would.
            if let Some(restarted_at) = view.restarted_at
                && restarted_at >= since
            {
                at = at.max(later(restarted_at, policy.interval * (policy.rise - 1)));
            }
        }
        if self.views.is_empty() {
            // One that was down says itself that it is not any more.
            let is_down = self.judgement.state == EndpointState::Down;
            let since = self.judgement.since;
            let answers = !is_down || self.said_at.is_some_and(|at| at >= since);
            return (balancers_down && answers).then(|| {
                let reason = "answers; no balancer can be reached that would check it";
                (now, reason.to_owned())
            });
        }
        (at <= now).then(|| (at, "checks pass".to_owned()))
    }
}
