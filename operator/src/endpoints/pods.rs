//! Endpoints that are Pods: what kubelets say of them, and balancers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proxy_core::status::BalancerStatus;

use super::{
    Change, Cursor, Endpoints, Id, Judgement, Lost, Outage, Policy,
    balancer::{Asked, Balancer},
    boot,
    lost::LOST_MAX,
    pod::{Phase, Pod, PodNews},
    pooler::Pooler,
    reports::News,
};
use crate::api::{Component, EndpointState, EndpointStatus};

/// How many cursors are kept: there are no more balancers.
const CURSORS_MAX: usize = 16;
/// Characters of a balancer's name that is kept; Kubernetes makes 63.
const NAME_LENGTH_MAX: usize = 64;
/// Why one is out of service of which nothing is left.
const GONE: &str = "its Pod is gone";

/// What came last of asking each balancer, by the uid of its Pod.
pub type Answers = BTreeMap<String, Answer>;

/// What a balancer said.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Its status.
    Said(Box<BalancerStatus>),
    /// Nothing, several times in a row: why.
    Silent(String),
}

/// Where to continue each balancer's log, by its name.
pub type Cursors = BTreeMap<String, Cursor>;

/// How many endpoints there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wished {
    /// Poolers.
    pub poolers: u32,
    /// Balancers.
    pub balancers: u32,
}

impl Wished {
    pub(super) const fn of(self, component: Component) -> u32 {
        match component {
            Component::Pooler => self.poolers,
            Component::Balancer => self.balancers,
        }
    }
}

impl Endpoints {
    /// Those of an operator that takes over: `before` is what the one before it
    /// wrote of them, `outages` those that people were told of and that are not
    /// over, `cursors` how far it had read.
    #[must_use]
    pub fn resumed(
        before: &[EndpointStatus],
        outages: &[Lost],
        cursors: &Cursors,
        now: Timestamp,
    ) -> Self {
        let mut endpoints = Self::new(0, 0, now);
        endpoints.wished = Some(Wished {
            poolers: 0,
            balancers: 0,
        });
        for status in before {
            let is_same =
                |lost: &&Lost| (&lost.name, lost.component) == (&status.name, status.component);
            let outage = outages.iter().find(is_same);
            // One that was written there and not told yet is an outage as well.
            let outage_since = outage.map(|outage| outage.since).or(status.outage_since);
            let served = matches!(status.state, EndpointState::Up | EndpointState::Draining);
            let judgement = Judgement {
                state: status.state,
                since: status.since.min(now),
                reason: status.reason.clone(),
                outage_since: outage_since.map(|since| since.min(now)),
                outage_reason: outage.map_or_else(
                    || outage_since.map_or_else(String::new, |_| status.reason.clone()),
                    |outage| outage.reason.clone(),
                ),
                config_revision: status.config_revision.clone(),
            };
            let pod = Pod::new(&status.name, served || outage_since.is_some(), now);
            let cursor = cursors.get(&status.name).cloned();
            endpoints.add(status.component, pod, judgement, cursor);
        }
        let is_there = |lost: &&Lost| {
            let mut before = before.iter();
            before.any(|status| (&status.name, status.component) == (&lost.name, lost.component))
        };
        for lost in outages.iter().filter(|lost| !is_there(lost)).take(LOST_MAX) {
            let id = endpoints.number(lost.component);
            let since = lost.since.min(now);
            endpoints.lost.push((
                id,
                Lost {
                    since,
                    ..lost.clone()
                },
            ));
        }
        endpoints
    }

    /// Where an operator that takes over continues in the balancers' logs.
    #[must_use]
    pub fn cursors(&self) -> Cursors {
        let balancers = self.balancers.values().filter_map(|balancer| {
            let name = &balancer.pod.as_ref()?.name;
            let fits = name.chars().count() <= NAME_LENGTH_MAX;
            fits.then_some((name.clone(), balancer.cursor.clone()?))
        });
        balancers.take(CURSORS_MAX).collect()
    }

    /// Takes what kubelets say of all Pods that there are, and balancers.
    #[must_use]
    pub fn look(
        &mut self,
        pods: &[PodNews<'_>],
        answers: &Answers,
        wished: Wished,
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        self.former.forget(now);
        self.no_later_than(policy, now);
        self.wished = Some(wished);
        let pods: Vec<(Id, &PodNews<'_>)> =
            pods.iter().map(|pod| (self.place(pod, now), pod)).collect();
        let said = self.said(&pods, answers);
        self.recognise(&said, now);
        let mut changes = self.story(self.told(&pods, now), &said, policy, now);
        for (id, pod) in &pods {
            self.phase_is(*id, pod);
        }
        for (id, pod) in &pods {
            if id.component == Component::Balancer {
                changes.extend(self.asked(*id, answers.get(pod.uid), now));
            }
        }
        changes.extend(self.settle_balancers(policy, now));
        let mut heard = self.said(&pods, answers);
        heard.retain(|(index, _)| self.balancers[index].is_heard());
        let indexes: Vec<usize> = self.balancers.keys().copied().collect();
        for index in indexes {
            if heard.iter().all(|(heard, _)| *heard != index) {
                self.lose_views(index);
            }
        }
        changes.extend(self.levels(&heard, policy, now));
        let gone: Vec<Id> = self
            .ids()
            .filter(|id| pods.iter().all(|(there, _)| there != id))
            .collect();
        for id in gone {
            changes.extend(self.gone(id, now));
        }
        changes.extend(self.settle(policy, now));
        changes
    }

    /// What kubelets tell that happened at a time.
    fn told(&self, pods: &[(Id, &PodNews<'_>)], now: Timestamp) -> Vec<(Timestamp, News)> {
        let mut news = Vec::new();
        for (id, pod) in pods {
            if let Some(at) = pod.told_to_end
                && !self.is_told_to_end(*id)
            {
                news.push((at.min(now), News::ToldToEnd(*id)));
            }
            if let Some(container) = pod.container {
                let at = container.at().unwrap_or(now).min(now);
                news.push((at, News::Contains(*id, container.clone())));
            }
        }
        news
    }

    /// What balancers said that will go on serving, of the processes that run.
    fn said<'a>(
        &self,
        pods: &[(Id, &PodNews<'_>)],
        answers: &'a Answers,
    ) -> Vec<(usize, &'a BalancerStatus)> {
        let said = pods.iter().filter_map(|(id, pod)| {
            if id.component != Component::Balancer || *pod.phase == Phase::Ending {
                return None;
            }
            match answers.get(pod.uid)? {
                Answer::Said(status) if !self.former.has(&boot(&status.boot_id)) => {
                    Some((id.index, &**status))
                }
                Answer::Said(_) | Answer::Silent(_) => None,
            }
        });
        said.collect()
    }

    fn asked(&mut self, id: Id, answer: Option<&Answer>, now: Timestamp) -> Option<Change> {
        let former = &mut self.former;
        let balancer = self.balancers.get_mut(&id.index)?;
        match answer {
            Some(Answer::Said(status)) if !former.has(&boot(&status.boot_id)) => {
                let restart = balancer.answered_in_pod(status, former, now)?;
                return Some(self.restarted(id, &restart, now));
            }
            Some(Answer::Silent(why)) => balancer.asked = Asked::Silent(why.clone()),
            Some(Answer::Said(_)) | None => balancer.asked = Asked::NotYet,
        }
        None
    }

    fn phase_is(&mut self, id: Id, news: &PodNews<'_>) {
        let Some(pod) = self.pod_mut(id) else { return };
        // Its end is known, and what came after.
        let is_old = matches!(news.phase, Phase::Failed(_)) && pod.is_old(news.container);
        if !is_old {
            pod.phase = news.phase.clone();
        }
    }

    /// The endpoint that a Pod is; a new one, if it was not seen before.
    fn place(&mut self, news: &PodNews<'_>, now: Timestamp) -> Id {
        let same_kind = |id: &Id| id.component == news.component;
        let uid = |id: &Id| self.pod(*id).and_then(|pod| pod.uid.as_deref());
        let is_remembered =
            |id: &Id| uid(id).is_none() && self.pod(*id).is_some_and(|pod| pod.name == news.name);
        let known = self
            .ids()
            .filter(same_kind)
            .find(|id| uid(id) == Some(news.uid));
        let remembered = || self.ids().filter(same_kind).find(is_remembered);
        let id = match known {
            Some(id) => id,
            None => {
                let remembered = remembered();
                let was_remembered = remembered.is_some();
                let id = remembered.unwrap_or_else(|| self.comes(news, now));
                let pod = self.pod_mut(id).expect("it is one");
                // Of one that could not be asked it is not known whether it had served.
                pod.served |= was_remembered && news.phase.was_ready();
                pod.uid = Some(news.uid.to_owned());
                pod.phase = match news.phase {
                    phase @ (Phase::Starting(_) | Phase::Ready | Phase::Unheard) => phase.clone(),
                    // What came before that is a story of its own.
                    Phase::Failed(_) | Phase::Ending if pod.served => Phase::Ready,
                    Phase::Failed(_) | Phase::Ending => pod.phase.clone(),
                };
                id
            }
        };
        let pod = self.pod_mut(id).expect("it is one");
        pod.address = news.address.or(pod.address);
        pod.created = news.created.min(now);
        id
    }

    /// A Pod comes, or comes back that was thought to be gone.
    fn comes(&mut self, news: &PodNews<'_>, now: Timestamp) -> Id {
        let is_same = |(_, lost): &(Id, Lost)| {
            (lost.name.as_str(), lost.component) == (news.name, news.component)
        };
        let mut judgement = Judgement::unknown(now);
        let lost = self.lost.iter().position(is_same);
        if let Some(index) = lost {
            let (_, lost) = self.lost.remove(index);
            judgement.state = EndpointState::Down;
            judgement.since = lost.since;
            judgement.reason.clone_from(&lost.reason);
            judgement.outage_since = Some(lost.since);
            judgement.outage_reason = lost.reason;
        }
        let pod = Pod::new(news.name, lost.is_some(), now);
        self.add(news.component, pod, judgement, None)
    }

    fn add(
        &mut self,
        component: Component,
        pod: Pod,
        judgement: Judgement,
        cursor: Option<Cursor>,
    ) -> Id {
        let id = self.number(component);
        match component {
            Component::Pooler => {
                let pooler = Pooler::remembered(pod, judgement);
                self.poolers.insert(id.index, pooler);
            }
            Component::Balancer => {
                let balancer = Balancer::remembered(pod, judgement, cursor);
                self.balancers.insert(id.index, balancer);
            }
        }
        id
    }

    fn number(&mut self, component: Component) -> Id {
        let index = self.next;
        self.next += 1;
        Id { component, index }
    }

    /// A Pod is gone. If it had served and nobody had been told that it would
    /// end, that is an outage; one that was out of service stays so.
    fn gone(&mut self, id: Id, now: Timestamp) -> Option<Change> {
        let judgement = self.judgement(id).clone();
        let pod = self.pod(id)?.clone();
        match id.component {
            Component::Pooler => {
                let pooler = self.poolers.remove(&id.index);
                let boot_id = pooler.and_then(|pooler| pooler.boot_id);
                self.former.add(boot_id, now);
            }
            Component::Balancer => {
                self.balancers.remove(&id.index);
                self.lose_views(id.index);
            }
        }
        let was_seen = pod.uid.is_some();
        let serves = matches!(judgement.state, EndpointState::Up | EndpointState::Unknown);
        let is_news = was_seen && pod.served && serves && !pod.is_ending();
        let (since, reason) = match judgement.outage_since {
            Some(since) => (since, judgement.outage_reason().to_owned()),
            None if is_news => (now, GONE.to_owned()),
            None => return None,
        };
        if self.lost.len() >= LOST_MAX {
            return None;
        }
        let lost = Lost {
            name: pod.name.clone(),
            component: id.component,
            since,
            reason,
        };
        self.lost.push((id, lost));
        let (up, total) = self.count(id.component);
        judgement.outage_since.is_none().then(|| Change {
            id,
            name: pod.name,
            from: judgement.state,
            to: EndpointState::Down,
            at: now,
            reason: GONE.to_owned(),
            outage: Outage::Begins,
            up,
            total,
        })
    }
}
