//! What balancers say of poolers, and kubelets of processes, merged into one
//! story.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use proxy_core::{
    health::NOT_CHECKED,
    status::{BalancerStatus, Health, TargetStatus, Transition},
    wire::TargetState,
};

use super::{
    Change, Container, Endpoints, Id, Policy, Process, REASON_LENGTH_MAX, boot, cut,
    judgement::Judgement,
    pod::{Known, Phase},
    pooler::View,
};
use crate::{
    api::{Component, EndpointState},
    controller::build::pooler_name,
};

/// Something that happened at a time.
pub(super) enum News {
    /// A balancer judged a target anew.
    Judged(usize, Transition),
    /// A kubelet tells of the container of a Pod.
    Contains(Id, Container),
    /// A Pod was told to end.
    ToldToEnd(Id),
}

impl Endpoints {
    /// Balancers answered. Their logs are merged by time, so that what both
    /// saw while nobody listened is one story.
    #[must_use]
    pub fn balancers_said(
        &mut self,
        statuses: &[(usize, BalancerStatus)],
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        self.former.forget(now);
        let statuses: Vec<_> = statuses
            .iter()
            .map(|(index, said)| (*index, said))
            .collect();
        for (index, status) in &statuses {
            self.balancer(*index).answered(status, policy, now);
        }
        let mut changes = self.story(Vec::new(), &statuses, policy, now);
        changes.extend(self.levels(&statuses, policy, now));
        changes.extend(self.settle(policy, now));
        changes
    }

    /// What balancers thought before their news, which continues what was heard
    /// of them: a former operator knew it.
    pub(super) fn recognise(&mut self, statuses: &[(usize, &BalancerStatus)], now: Timestamp) {
        for (balancer, status) in statuses {
            let Some(known) = self.balancers[balancer].known(status) else {
                continue;
            };
            for target in &status.targets {
                let Some(index) = self.pooler_of(&target.name, &target.address, now) else {
                    continue;
                };
                let mut news = status.transitions.iter();
                let first = news.find(|one| one.number > known && one.target == target.name);
                let pooler = self.poolers.get_mut(&index).expect("it was found");
                let created = pooler.pod.as_ref().map(|pod| pod.created);
                let is_about_it = created.is_some_and(|created| !is_before(target, created));
                if !is_about_it || is_untried(target) || pooler.views.contains_key(balancer) {
                    continue;
                }
                let mut view = view_of(target, now);
                if let Some(first) = first {
                    view.health = first.from;
                    view.since = pooler.judgement.since;
                    view.reason.clone_from(&pooler.judgement.reason);
                    view.boot_id = None;
                    view.says_draining = first.from == Health::Draining;
                }
                let is_former = |boot_id: &String| self.former.has(boot_id);
                if !view.boot_id.as_ref().is_some_and(is_former) {
                    pooler.recognised(*balancer, view, now);
                }
            }
        }
    }

    /// What happened since the last time, in the order in which it happened.
    pub(super) fn story(
        &mut self,
        mut news: Vec<(Timestamp, News)>,
        statuses: &[(usize, &BalancerStatus)],
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        for (index, status) in statuses {
            let balancer = self.balancer(*index);
            let known = balancer.known(status);
            balancer.advance(status);
            let new = status
                .transitions
                .iter()
                .filter(|transition| known.is_some_and(|known| transition.number > known));
            news.extend(new.map(|transition| {
                // Whose clock is ahead tells no future.
                let transition = Transition {
                    at: transition.at.min(now),
                    ..transition.clone()
                };
                (transition.at, News::Judged(*index, transition))
            }));
        }
        news.sort_by_key(|(at, _)| *at);
        let mut changes = Vec::new();
        for (at, news) in news {
            changes.extend(match news {
                News::Judged(balancer, transition) => self.judged(balancer, &transition, policy),
                News::Contains(id, container) => self.contains(id, &container, policy, now),
                News::ToldToEnd(id) => {
                    self.told_to_end(id);
                    if let Some(pod) = self.pod_mut(id) {
                        pod.phase = Phase::Ending;
                    }
                    let at = at.max(self.judgement(id).since).min(now);
                    self.settle(policy, at)
                }
            });
        }
        changes
    }

    /// A balancer judged a target anew.
    fn judged(&mut self, balancer: usize, transition: &Transition, policy: Policy) -> Vec<Change> {
        let mut changes = Vec::new();
        let at = transition.at;
        let Some(index) = self.pooler_of(&transition.target, &transition.target, at) else {
            return changes;
        };
        let view = View {
            health: transition.to,
            since: at,
            reason: cut(&transition.reason, REASON_LENGTH_MAX),
            boot_id: transition.boot_id.as_deref().map(boot),
            // Where the judgement changed too, good checks were counted.
            restarted_at: (transition.restarted && transition.from == transition.to).then_some(at),
            says_draining: transition.to == Health::Draining,
        };
        let pooler = self.poolers.get_mut(&index).expect("it was found");
        if (transition.from, transition.to) == (Health::Draining, Health::Down) {
            pooler.ended_as_announced(policy, at);
        }
        let old = at < pooler.judgement.since;
        if let Some(restart) = pooler.seen(balancer, view, policy, &mut self.former, at) {
            changes.push(self.restarted(Id::pooler(index), &restart, at));
        }
        // A balancer that could not be reached for a while tells old news:
        // what was judged since holds, and its levels follow.
        if !old {
            // The time of the story, not of its telling.
            changes.extend(self.settle(policy, at));
        }
        changes
    }

    /// A kubelet tells of the container of a Pod.
    fn contains(
        &mut self,
        id: Id,
        container: &Container,
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        let (process, is_identified) = match id.component {
            Component::Pooler => {
                let pooler = &self.poolers[&id.index];
                (&pooler.process, pooler.is_identified())
            }
            Component::Balancer => {
                let balancer = &self.balancers[&id.index];
                (&balancer.process, balancer.is_identified())
            }
        };
        let Judgement { state, since, .. } = *self.judgement(id);
        let known = Known {
            ended: matches!(process, Process::Ended { .. }),
            identified: is_identified,
            // What poolers that were up went through is in the balancers' logs.
            seen_since: match (id.component, state) {
                (Component::Balancer, EndpointState::Up) | (_, EndpointState::Draining) => {
                    Some(since)
                }
                _ => None,
            },
        };
        let pod = self.pod_mut(id).expect("it is a Pod's container");
        let mut changes = Vec::new();
        // One that was told to end may end as it likes.
        let is_ending = pod.is_ending();
        let Some(turn) = pod.hear(container, known, now) else {
            return changes;
        };
        if let Some((at, reason)) = turn.ended {
            let at = at.max(since).min(now);
            self.end(id, &reason, policy, at);
            if !is_ending {
                changes.extend(self.settle(policy, at));
            }
        }
        if let Some(at) = turn.started {
            match turn.is_known {
                true => *self.process_mut(id) = Process::Running { since: at },
                false => self.started(id, at),
            }
            if let Some(pod) = self.pod_mut(id)
                && matches!(pod.phase, Phase::Failed(_))
            {
                pod.phase = Phase::starting();
            }
            if is_ending {
                self.told_to_end(id);
            }
        }
        changes
    }

    /// What balancers think now.
    pub(super) fn levels(
        &mut self,
        statuses: &[(usize, &BalancerStatus)],
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (balancer, status) in statuses {
            let mut judged = Vec::new();
            for target in &status.targets {
                let Some(index) = self.pooler_of(&target.name, &target.address, now) else {
                    continue;
                };
                let pooler = self.poolers.get_mut(&index).expect("it was found");
                if let Some(pod) = &pooler.pod
                    && (is_untried(target) || is_before(target, pod.created))
                {
                    continue;
                }
                judged.push(index);
                let view = view_of(target, now);
                let restart = pooler.seen(*balancer, view, policy, &mut self.former, now);
                if let Some(report) = &target.report {
                    let boot_id = boot(&report.boot_id);
                    pooler.said_of_upstream(&boot_id, report.upstream);
                    pooler.said_of_saturation(&boot_id, report.saturation);
                    pooler.relayed_revision(&boot_id, report.config_revision.as_deref());
                }
                if let Some(restart) = restart {
                    changes.push(self.restarted(Id::pooler(index), &restart, now));
                }
            }
            for (index, pooler) in &mut self.poolers {
                if pooler.pod.is_some() && !judged.contains(index) {
                    pooler.views.remove(balancer);
                }
            }
        }
        changes
    }

    /// The pooler that a target is: numbered ones go by name, Pods by the
    /// address that they had then.
    fn pooler_of(&self, name: &str, address: &str, at: Timestamp) -> Option<usize> {
        if self.wished.is_none() {
            let mut indexes = self.poolers.keys().copied();
            return indexes.find(|index| pooler_name(*index) == name);
        }
        let address = ip(address)?;
        let pods = self
            .poolers
            .iter()
            .filter_map(|(index, pooler)| Some((*index, pooler.pod.as_ref()?)));
        pods.filter(|(_, pod)| pod.address == Some(address) && pod.created <= at)
            .max_by_key(|(_, pod)| pod.created)
            .map(|(index, _)| index)
    }
}

/// What a balancer thinks of a target.
fn view_of(target: &TargetStatus, now: Timestamp) -> View {
    let report = target.report.as_ref();
    View {
        health: target.state,
        since: target.since.min(now),
        reason: cut(&target.reason, REASON_LENGTH_MAX),
        boot_id: report.map(|report| boot(&report.boot_id)),
        restarted_at: None,
        // A balancer that judges Draining may mean the process before: only what
        // the process says of itself counts.
        says_draining: report.is_some_and(|report| report.state == TargetState::Draining),
    }
}

/// Whether a balancer has found it and not checked it yet: that is no judgement.
fn is_untried(target: &TargetStatus) -> bool {
    target.discovered && target.reason == NOT_CHECKED
}

/// Whether what is thought of a target is about the Pod that had its address
/// before. One that is thought to be up has told its bootId, which is enough.
fn is_before(target: &TargetStatus, created: Timestamp) -> bool {
    target.state != Health::Up && target.since < created
}

/// The host in an address, which is one of a Pod.
pub(crate) fn ip(address: &str) -> Option<IpAddr> {
    address.parse().ok().map(|address: SocketAddr| address.ip())
}
