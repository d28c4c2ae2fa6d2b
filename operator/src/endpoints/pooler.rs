//! A pooler, as everyone who sees it tells.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proxy_core::{
    saturation::SaturationReport, status::Health, upstream::UpstreamReport, wire::TargetState,
};
use serde::{Deserialize, Serialize};

use super::{
    Policy, boot,
    former::Former,
    judgement::{Judgement, Process, Verdict},
    later,
    pod::{NOT_READY, Phase, Pod, TOLD_TO_END, UNHEARD},
};
use crate::{api::EndpointState, controller::build::balancer_name};

/// A pooler and what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pooler {
    pub(super) judgement: Judgement,
    pub(super) process: Process,
    pub(super) told_to_end: bool,
    /// bootId of the process that runs, once it has said it.
    pub(super) boot_id: Option<String>,
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
    /// What it said last of its capacity. Not kept either.
    #[serde(skip)]
    pub(super) saturation: Option<SaturationReport>,
    /// The Pod that it is, on Kubernetes. Nobody asks such a pooler itself: its
    /// bootId is what balancers relay.
    #[serde(skip)]
    pub(super) pod: Option<Pod>,
}

/// Whether there are balancers that judge poolers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judges {
    /// One can be asked.
    Heard,
    /// One that should answer has not been heard yet.
    Awaited,
    /// None can be asked.
    None,
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
            said_at: None,
            draining: false,
            absent_until: None,
            views: BTreeMap::new(),
            upstream: None,
            pod: None,
            saturation: None,
        }
    }

    /// The Pod of this name, of which a former operator remembered something.
    pub(super) fn remembered(pod: Pod, judgement: Judgement) -> Self {
        let now = judgement.since;
        Self {
            draining: judgement.state == EndpointState::Draining,
            judgement,
            pod: Some(pod),
            ..Self::new(now)
        }
    }

    pub(super) fn started(&mut self, former: &mut Former, now: Timestamp) {
        self.process = Process::Running { since: now };
        self.told_to_end = false;
        former.add(self.boot_id.take(), now);
        self.draining = false;
        self.forget_what_it_said();
    }

    pub(super) fn ended(
        &mut self,
        reason: &str,
        policy: Policy,
        former: &mut Former,
        now: Timestamp,
    ) {
        let has_drained = std::mem::take(&mut self.draining);
        let planned = self.told_to_end || has_drained;
        former.add(self.boot_id.take(), now);
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
        policy: Policy,
        former: &mut Former,
        now: Timestamp,
    ) -> Option<String> {
        if !matches!(self.process, Process::Running { .. }) {
            return None;
        }
        self.said_at = Some(now);
        let restarted = self.identify(boot_id, false, policy, former, now);
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

    /// The same of its capacity.
    pub(super) fn said_of_saturation(&mut self, boot_id: &str, report: Option<SaturationReport>) {
        let Some(report) = report else { return };
        let is_older = |known: SaturationReport| known.number > report.number;
        if self.boot_id.as_deref() == Some(boot_id) && !self.saturation.is_some_and(is_older) {
            self.saturation = Some(report);
        }
    }

    /// A balancer relays which configuration the process with this bootId has.
    pub(super) fn relayed_revision(&mut self, boot_id: &str, revision: Option<&str>) {
        // Where it is asked itself, it has said so.
        if self.pod.is_some() && self.boot_id.as_deref() == Some(boot_id) {
            self.judgement.config_revision = revision.map(boot);
        }
    }

    /// Whether what it said still counts: nobody but balancers hears of a Pod.
    pub(super) fn is_heard_of(&self) -> bool {
        self.pod.is_none() || !self.views.is_empty()
    }

    /// Whether its bootId is known.
    pub(super) const fn is_identified(&self) -> bool {
        self.boot_id.is_some()
    }

    /// Another process has to say it anew.
    fn forget_what_it_said(&mut self) {
        self.upstream = None;
        self.saturation = None;
    }

    /// A balancer judged, at this time. Returns why this is a restart, if it is
    /// one.
    pub(super) fn seen(
        &mut self,
        balancer: usize,
        mut view: View,
        policy: Policy,
        former: &mut Former,
        at: Timestamp,
    ) -> Option<String> {
        let before = self.views.get(&balancer);
        let restarted_at = view.restarted_at;
        if view.restarted_at.is_none()
            && let Some(before) = before
            && before.boot_id == view.boot_id
        {
            view.restarted_at = before.restarted_at;
        }
        // One that lags behind still tells the bootId of the process before.
        let news = before.is_none_or(|before| before.boot_id != view.boot_id);
        let relays = view.health != Health::Down
            && (self.pod.is_some() || (news && self.judgement.state == EndpointState::Up));
        let restarted = match &view.boot_id {
            Some(seen) if relays && !former.has(seen) => {
                self.identify(seen, restarted_at.is_some(), policy, former, at)
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

    /// A balancer that is heard anew thought this before its news. It made of it
    /// what it is.
    pub(super) fn recognised(&mut self, balancer: usize, view: View, now: Timestamp) {
        let state = self.judgement.state;
        if view.health == Health::Down && state != EndpointState::Down {
            return;
        }
        if let Some(pod) = &mut self.pod
            && self.boot_id.is_none()
            && (view.health, state) == (Health::Up, EndpointState::Up)
            && view.boot_id.is_some()
        {
            self.boot_id.clone_from(&view.boot_id);
            pod.identified(now);
        }
        self.views.insert(balancer, view);
    }

    /// Notes the bootId of the process that runs. True if it is another one than
    /// before, whose end nobody saw and which had not said that it would end; of
    /// one whose bootId was not known, if `is_new` says so.
    fn identify(
        &mut self,
        boot_id: &str,
        is_new: bool,
        policy: Policy,
        former: &mut Former,
        at: Timestamp,
    ) -> bool {
        if self.boot_id.as_deref() == Some(boot_id) {
            return false;
        }
        let before = self.boot_id.replace(boot_id.to_owned());
        let another = before.is_some() || (is_new && self.pod.is_some());
        let is_restart = another && self.judgement.state == EndpointState::Up && !self.draining;
        former.add(before, at);
        if another {
            self.forget_what_it_said();
            // Not all balancers have seen it come back.
            if std::mem::take(&mut self.draining) {
                self.absent_until = Some(later(at, policy.planned_absence()));
            }
        }
        if let Some(pod) = &mut self.pod {
            match another {
                true => pod.replaced(at),
                false => pod.identified(at),
            }
        }
        is_restart
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
        judges: Judges,
        now: Timestamp,
    ) -> Option<Verdict> {
        let verdict = |state, reason: &str, planned| {
            Some(Verdict {
                state,
                at: now,
                reason: reason.to_owned(),
                planned,
            })
        };
        let never_served = self.pod.as_ref().is_some_and(|pod| !pod.served);
        match self.pod.as_ref().map(|pod| &pod.phase) {
            Some(Phase::Ending) => return verdict(EndpointState::Draining, TOLD_TO_END, true),
            Some(Phase::Failed(why)) => {
                let (at, planned) = match &self.process {
                    Process::Ended { at, planned, .. } => (*at, *planned),
                    Process::Absent | Process::Running { .. } => (now, false),
                };
                return Some(Verdict {
                    state: EndpointState::Down,
                    at,
                    reason: why.clone(),
                    planned: planned || never_served,
                });
            }
            Some(Phase::Starting(_) | Phase::Ready | Phase::Unheard) | None => {}
        }
        let since = match &self.process {
            Process::Absent => self.pod.as_ref()?.created,
            Process::Ended {
                at,
                reason,
                planned,
            } => {
                return Some(Verdict {
                    state: EndpointState::Down,
                    at: *at,
                    reason: reason.clone(),
                    planned: *planned || never_served,
                });
            }
            Process::Running { since } => *since,
        };
        if self.draining {
            return verdict(EndpointState::Draining, "says that it is draining", true);
        }
        if self.views.values().any(|view| view.health == Health::Down) {
            return self.down(now);
        }
        if let Some((at, reason)) = self.up(policy, since, judges, now) {
            return Some(Verdict {
                state: EndpointState::Up,
                at,
                reason,
                planned: false,
            });
        }
        self.by_readiness(self.pod.as_ref()?, judges, now)
    }

    /// What follows from a balancer that says Down.
    fn down(&self, now: Timestamp) -> Option<Verdict> {
        // After a planned end the balancers see nobody for a while. And of one
        // that is out already, why is known.
        if self.is_absent(now) || self.judgement.outage_since.is_some() {
            return None;
        }
        let (balancer, view) = self
            .views
            .iter()
            .filter(|(_, view)| view.health == Health::Down)
            .min_by_key(|(_, view)| view.since)?;
        let (reason, planned) = match &self.pod {
            None => (
                format!("{}: {}", balancer_name(*balancer), view.reason),
                false,
            ),
            // It never answered, and why is known.
            Some(pod) if !pod.served && view.boot_id.is_none() => match &pod.phase {
                Phase::Starting(why) => return Some(unknown(why, now)),
                _ => (view.reason.clone(), true),
            },
            Some(pod) => (view.reason.clone(), !pod.served),
        };
        Some(Verdict {
            state: EndpointState::Down,
            at: view.since.max(self.judgement.since),
            reason,
            planned,
        })
    }

    /// A balancer does not see it any more, which had been told that it would end.
    pub(super) fn ended_as_announced(&mut self, policy: Policy, at: Timestamp) {
        self.absent_until = Some(later(at, policy.planned_absence()));
    }

    /// Whether the process before ended on purpose a moment ago.
    fn is_absent(&self, now: Timestamp) -> bool {
        self.absent_until.is_some_and(|until| now < until)
    }

    /// Since when and why it is up, if it is.
    fn up(
        &self,
        policy: Policy,
        since: Timestamp,
        judges: Judges,
        now: Timestamp,
    ) -> Option<(Timestamp, String)> {
        self.boot_id.as_ref()?;
        if self.views.is_empty() {
            let speaks_for_itself = self.pod.is_none() && judges == Judges::None;
            // One that was down says itself that it is not any more.
            let is_down = self.judgement.state == EndpointState::Down;
            let since = self.judgement.since;
            let answers = !is_down || self.said_at.is_some_and(|at| at >= since);
            return (speaks_for_itself && answers).then(|| {
                let reason = "answers; no balancer can be reached that would check it";
                (now, reason.to_owned())
            });
        }
        let at = self.up_at(policy, since)?;
        (at <= now).then(|| (at, "checks pass".to_owned()))
    }

    /// When all balancers will have seen enough good checks of this process, if
    /// all judge that it is up.
    fn up_at(&self, policy: Policy, since: Timestamp) -> Option<Timestamp> {
        let mut at = since;
        for view in self.views.values() {
            if view.health != Health::Up || view.boot_id != self.boot_id {
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
        Some(at)
    }

    /// When a verdict will change by itself, if nothing is told meanwhile.
    pub(super) fn due(&self, policy: Policy, now: Timestamp) -> Option<Timestamp> {
        let up = match self.process {
            Process::Running { since } if !self.views.is_empty() => self.up_at(policy, since),
            _ => None,
        };
        let times = [up, self.absent_until].into_iter().flatten();
        times.filter(|at| *at > now).min()
    }

    /// What follows from the kubelet's word, where no balancer's is enough.
    fn by_readiness(&self, pod: &Pod, judges: Judges, now: Timestamp) -> Option<Verdict> {
        let verdict = |state, reason: &str| {
            Some(Verdict {
                state,
                at: now,
                reason: reason.to_owned(),
                planned: false,
            })
        };
        let is_up = self.judgement.state == EndpointState::Up;
        match (&pod.phase, judges) {
            (Phase::Ready, Judges::None) => verdict(
                EndpointState::Up,
                "its Pod is ready; no balancer can be asked",
            ),
            (Phase::Starting(_), Judges::None) if is_up => verdict(EndpointState::Down, NOT_READY),
            (Phase::Unheard, Judges::None) if is_up => verdict(EndpointState::Down, UNHEARD),
            // One that served stays what it was until somebody knows better.
            _ if pod.served || !self.views.is_empty() => None,
            (Phase::Starting(why), _) => Some(unknown(why, now)),
            _ => Some(unknown("no balancer has checked it yet", now)),
        }
    }

    /// The clock was set back: nothing happened in its future.
    pub(super) fn no_later_than(&mut self, now: Timestamp, policy: Policy) {
        self.judgement.no_later_than(now);
        self.process.no_later_than(now);
        for view in self.views.values_mut() {
            view.since = view.since.min(now);
            view.restarted_at = view.restarted_at.map(|at| at.min(now));
        }
        let absence = later(now, policy.planned_absence());
        self.absent_until = self.absent_until.map(|until| until.min(absence));
    }
}

fn unknown(why: &str, now: Timestamp) -> Verdict {
    Verdict {
        state: EndpointState::Unknown,
        at: now,
        reason: why.to_owned(),
        planned: true,
    }
}
