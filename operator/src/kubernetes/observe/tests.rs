//! Stories as kubelets and balancers tell them, and what people are told.

mod poolers;
mod resumed;
mod simulation;
mod tier;

use std::{collections::BTreeMap, time::Duration};

use proxy_core::{
    health::NOT_CHECKED,
    status::{Health, ReloadStatus, Transition},
    wire::TargetReport,
};

use super::*;
use crate::{
    api::{EndpointState, EndpointStatus},
    endpoints::{Container, ContainerState, Cursors, Ended, Lost, Outage},
};

const POLICY: Policy = Policy {
    interval: Duration::from_secs(2),
    rise: 2,
    fall: 3,
};

const KILLED: &str = "ended by signal 9";

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap()
}

/// A balancer's process as the tests script it: it judges Pods by their address.
#[derive(Clone)]
struct Script {
    boot_id: String,
    state: TargetState,
    targets: Vec<TargetStatus>,
    log: Vec<Transition>,
    taken: usize,
}

impl Script {
    fn new(boot_id: &str) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            state: TargetState::Ready,
            targets: Vec::new(),
            log: Vec::new(),
            taken: 0,
        }
    }

    fn finds(&mut self, address: &str, seconds: f64) {
        self.targets.push(TargetStatus {
            name: address.to_owned(),
            address: address.to_owned(),
            state: Health::Down,
            since: at(seconds),
            reason: NOT_CHECKED.to_owned(),
            connections: 0,
            connections_total: 0,
            discovered: true,
            listed: true,
            report: None,
        });
    }

    /// What the process at an address says of itself, beside any judgement.
    fn relays(&mut self, address: &str, boot_id: &str, state: TargetState) {
        let target = self.targets.iter_mut().find(|one| one.address == address);
        target.unwrap().report = Some(TargetReport {
            upstream: None,
            state,
            boot_id: boot_id.to_owned(),
            name: None,
            config_revision: Some("r1".to_owned()),
            clients: 0,
            waiting: 0,
            saturation: None,
            version: None,
        });
    }

    fn judges(&mut self, address: &str, to: Health, boot_id: &str, restarted: bool, seconds: f64) {
        if self.targets.iter().all(|one| one.address != address) {
            self.finds(address, seconds);
        }
        let state = match to {
            Health::Draining => TargetState::Draining,
            _ => TargetState::Ready,
        };
        if to != Health::Down {
            self.relays(address, boot_id, state);
        }
        let target = self.targets.iter_mut().find(|one| one.address == address);
        let target = target.unwrap();
        let from = target.state;
        if from != to {
            target.since = at(seconds);
        }
        target.state = to;
        target.reason = match to {
            Health::Down => "no answer".to_owned(),
            Health::Draining => "says that it is draining".to_owned(),
            _ => "check passed".to_owned(),
        };
        self.log.push(Transition {
            number: self.log.len() as u64 + 1,
            at: at(seconds),
            target: address.to_owned(),
            from,
            to,
            restarted,
            reason: target.reason.clone(),
            boot_id: target.report.as_ref().map(|one| one.boot_id.clone()),
            up: 0,
            total: 0,
        });
    }

    fn status(&mut self) -> BalancerStatus {
        let transitions = self.log[self.taken..].to_vec();
        self.taken = self.log.len();
        BalancerStatus {
            version: String::new(),
            boot_id: self.boot_id.clone(),
            state: self.state,
            config_revision: Some("r1".to_owned()),
            started_at: at(0.0),
            connections: 0,
            max_connections: 1,
            reported: None,
            targets: self.targets.clone(),
            discovery: None,
            reloads: ReloadStatus::default(),
            transitions,
            newest: self.log.len() as u64,
            missed: false,
        }
    }
}

/// A tier in a cluster, and what its operator makes of it.
struct Tier {
    endpoints: Endpoints,
    pods: BTreeMap<String, PodView>,
    balancers: BTreeMap<String, Script>,
    /// Balancers that do not answer the operator.
    silent: Vec<String>,
    /// Balancers that were not asked yet.
    unasked: Vec<String>,
    wished: Wished,
    changes: Vec<Change>,
    pods_made: u8,
}

impl Tier {
    fn new() -> Self {
        Self {
            endpoints: Endpoints::resumed(&[], &[], &Cursors::new(), at(0.0)),
            pods: BTreeMap::new(),
            balancers: BTreeMap::new(),
            silent: Vec::new(),
            unasked: Vec::new(),
            wished: Wished {
                poolers: 2,
                balancers: 2,
            },
            changes: Vec::new(),
            pods_made: 0,
        }
    }

    /// Poolers p0 and p1 with bootIds a0 and a1, balancers b0 and b1; all are up
    /// since second 1.
    fn running() -> Self {
        let mut tier = Self::new();
        for name in ["b0", "b1"] {
            tier.comes(name, 0.0);
            tier.ready(name);
        }
        for (name, boot_id) in [("p0", "a0"), ("p1", "a1")] {
            tier.comes(name, 0.0);
            tier.ready(name);
            tier.judge_all(name, Health::Up, boot_id, false, 1.0);
        }
        tier.look(1.0);
        for status in tier.endpoints.statuses() {
            assert_eq!(status.state, EndpointState::Up, "{status:?}");
        }
        assert!(tier.told().is_empty(), "a start is no news");
        tier.changes.clear();
        tier
    }

    /// A Pod is made, and its container runs. Poolers' names begin with p.
    fn comes(&mut self, name: &str, seconds: f64) {
        self.pods_made += 1;
        let component = match name.starts_with('p') {
            true => Component::Pooler,
            false => Component::Balancer,
        };
        let pod = PodView {
            name: name.to_owned(),
            uid: format!("uid-{name}-{}", self.pods_made),
            component,
            address: Some([10, 0, 0, self.pods_made].into()),
            phase: Phase::Starting("it is not ready yet".to_owned()),
            container: Some(Container {
                id: format!("{name}-1"),
                state: ContainerState::Runs {
                    since: Some(at(seconds.floor())),
                    before: None,
                },
            }),
            told_to_end: None,
            created: at(seconds.floor()),
            told: None,
        };
        if component == Component::Balancer {
            let script = Script::new(&format!("boot-{name}-1"));
            self.balancers.insert(name.to_owned(), script);
        }
        self.pods.insert(name.to_owned(), pod);
    }

    fn pod(&mut self, name: &str) -> &mut PodView {
        self.pods.get_mut(name).unwrap()
    }

    fn ready(&mut self, name: &str) {
        self.pod(name).phase = Phase::Ready;
    }

    fn not_ready(&mut self, name: &str) {
        self.pod(name).phase = Phase::Starting("it is not ready yet".to_owned());
    }

    /// The kubelet sees that the process ended.
    fn fails(&mut self, name: &str, reason: &str, seconds: f64) {
        let pod = self.pod(name);
        pod.phase = Phase::Failed(reason.to_owned());
        let id = pod.container.take().unwrap().id;
        pod.container = Some(Container {
            id,
            state: ContainerState::Over(Ended {
                at: Some(at(seconds.floor())),
                reason: reason.to_owned(),
            }),
        });
    }

    /// The kubelet has started it again; how the one before ended is told too.
    fn restarts(&mut self, name: &str, number: u32, reason: &str, ended: f64, seconds: f64) {
        let pod = self.pod(name);
        pod.phase = Phase::Starting(format!("started again; {reason}"));
        pod.container = Some(Container {
            id: format!("{name}-{number}"),
            state: ContainerState::Runs {
                since: Some(at(seconds.floor())),
                before: Some(Ended {
                    at: Some(at(ended.floor())),
                    reason: reason.to_owned(),
                }),
            },
        });
    }

    /// `kubectl delete pod`, or what a rollout, a scale-down or an eviction does.
    fn told_to_end(&mut self, name: &str, seconds: f64) {
        let pod = self.pod(name);
        pod.phase = Phase::Ending;
        pod.told_to_end = Some(at(seconds.floor()));
    }

    fn gone(&mut self, name: &str) {
        self.pods.remove(name).unwrap();
        self.balancers.remove(name);
    }

    fn address(&self, name: &str) -> String {
        format!("{}:6432", self.pods[name].address.unwrap())
    }

    fn judge(
        &mut self,
        balancer: &str,
        name: &str,
        to: Health,
        boot_id: &str,
        restarted: bool,
        seconds: f64,
    ) {
        let address = self.address(name);
        let balancer = self.balancers.get_mut(balancer).unwrap();
        balancer.judges(&address, to, boot_id, restarted, seconds);
    }

    fn judge_all(&mut self, name: &str, to: Health, boot_id: &str, restarted: bool, seconds: f64) {
        let balancers: Vec<String> = self.balancers.keys().cloned().collect();
        for balancer in balancers {
            self.judge(&balancer, name, to, boot_id, restarted, seconds);
        }
    }

    /// A new Pod that is ready and that all balancers have found.
    fn serves(&mut self, name: &str, boot_id: &str, seconds: f64) {
        self.comes(name, seconds);
        self.ready(name);
        self.judge_all(name, Health::Up, boot_id, false, seconds);
    }

    fn answers(&mut self) -> Answers {
        let mut answers = Answers::new();
        for (name, script) in &mut self.balancers {
            let uid = self.pods[name].uid.clone();
            if self.silent.contains(name) {
                let why = "no answer within 5s".to_owned();
                answers.insert(uid, Answer::Silent(why));
            } else if !self.unasked.contains(name) {
                answers.insert(uid, Answer::Said(Box::new(script.status())));
            }
        }
        answers
    }

    fn look(&mut self, seconds: f64) {
        let pods: Vec<PodView> = self.pods.values().cloned().collect();
        let answers = self.answers();
        let (wished, now) = (self.wished, at(seconds));
        let changes = observe(&mut self.endpoints, &pods, &answers, wished, POLICY, now);
        for status in self.endpoints.statuses() {
            assert!(status.since <= now, "{status:?} at {now}");
        }
        for change in &changes {
            assert!(change.at <= now, "{change:?} at {now}");
        }
        self.changes.extend(changes);
    }

    /// The operator is replaced. What it leaves behind is its status, the
    /// outages that people were told of, and its cursors.
    fn is_taken_over(&mut self, seconds: f64) {
        let mut outages: Vec<Lost> = self.endpoints.lost().cloned().collect();
        for id in self.endpoints.ids() {
            let judgement = self.endpoints.judgement(id);
            outages.extend(judgement.outage_since.map(|since| Lost {
                name: self.endpoints.name(id),
                component: id.component,
                since,
                reason: judgement.outage_reason().to_owned(),
            }));
        }
        let cursors = serde_json::to_string(&self.endpoints.cursors()).unwrap();
        let cursors = serde_json::from_str(&cursors).unwrap();
        let before = self.endpoints.statuses();
        self.endpoints = Endpoints::resumed(&before, &outages, &cursors, at(seconds));
    }

    fn status(&self, name: &str) -> EndpointStatus {
        let mut statuses = self.endpoints.statuses().into_iter();
        statuses.find(|status| status.name == name).unwrap()
    }

    fn state(&self, name: &str) -> EndpointState {
        self.status(name).state
    }

    fn is_up(&self, name: &str) -> bool {
        self.state(name) == EndpointState::Up
    }

    /// The outages as people are told them.
    fn told(&self) -> Vec<String> {
        let told = self.changes.iter().filter_map(|change| {
            let what = match change.outage {
                Outage::None => return None,
                Outage::Begins => "DOWN".to_owned(),
                Outage::Ends { since } => {
                    let lasted = change.at.duration_since(since).as_secs_f64();
                    format!("UP after {lasted} s")
                }
                Outage::Restarted => "RESTARTED".to_owned(),
            };
            Some(format!(
                "{} {} {what}, {} of {}: {}",
                change.at.as_millisecond() as f64 / 1000.0,
                change.name,
                change.up,
                change.total,
                change.reason
            ))
        });
        told.collect()
    }
}
