//! Stories as observers tell them, and what people are told.

use proxy_core::{
    saturation,
    status::{BalancerStatus, Health, ReloadStatus, TargetStatus, Transition},
    upstream::{Reach, UpstreamReport},
    wire::TargetReport,
};

use super::*;
use crate::{
    api::{EndpointCapacity, UpstreamState},
    controller::build::pooler_name,
};

const POLICY: Policy = Policy {
    interval: Duration::from_secs(2),
    rise: 2,
    fall: 3,
};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap()
}

/// A balancer as the tests script it.
struct Script {
    index: usize,
    boot_id: String,
    targets: Vec<TargetStatus>,
    log: Vec<Transition>,
    told: u64,
}

impl Script {
    fn new(index: usize, poolers: usize) -> Self {
        let targets = (0..poolers).map(|pooler| TargetStatus {
            name: pooler_name(pooler),
            address: String::new(),
            state: Health::Unknown,
            since: at(0.0),
            reason: "not checked yet".to_owned(),
            connections: 0,
            connections_total: 0,
            discovered: false,
            listed: true,
            report: None,
        });
        Self {
            index,
            boot_id: format!("balancer-boot-{index}"),
            targets: targets.collect(),
            log: Vec::new(),
            told: 0,
        }
    }

    fn judges(&mut self, pooler: usize, to: Health, boot_id: &str, restarted: bool, seconds: f64) {
        let target = &mut self.targets[pooler];
        let from = target.state;
        target.state = to;
        if from != to {
            target.since = at(seconds);
        }
        target.reason = format!("check says {to}");
        target.report = Some(TargetReport {
            upstream: None,
            saturation: None,
            version: None,
            state: match to {
                Health::Draining => TargetState::Draining,
                _ => TargetState::Ready,
            },
            boot_id: boot_id.to_owned(),
            name: None,
            config_revision: None,
            clients: 0,
            waiting: 0,
        });
        self.log.push(Transition {
            number: self.log.len() as u64 + 1,
            at: at(seconds),
            target: target.name.clone(),
            from,
            to,
            restarted,
            reason: target.reason.clone(),
            boot_id: Some(boot_id.to_owned()),
            up: 0,
            total: 0,
        });
    }

    fn status(&mut self) -> (usize, BalancerStatus) {
        let transitions = self.log[self.told as usize..].to_vec();
        self.told = self.log.len() as u64;
        let status = BalancerStatus {
            version: String::new(),
            boot_id: self.boot_id.clone(),
            state: TargetState::Ready,
            config_revision: None,
            started_at: at(0.0),
            connections: 0,
            max_connections: 1,
            reported: None,
            targets: self.targets.clone(),
            discovery: None,
            reloads: ReloadStatus::default(),
            transitions,
            newest: self.told,
            missed: false,
        };
        (self.index, status)
    }
}

/// Two poolers, two balancers, all up, boot ids `a-0` and `a-1`.
struct Tier {
    endpoints: Endpoints,
    balancers: [Script; 2],
    changes: Vec<Change>,
}

impl Tier {
    fn running() -> Self {
        let mut endpoints = Endpoints::new(2, 2, at(0.0));
        for id in endpoints.ids() {
            endpoints.started(id, at(0.0));
        }
        let mut tier = Self {
            endpoints,
            balancers: [Script::new(0, 2), Script::new(1, 2)],
            changes: Vec::new(),
        };
        for pooler in 0..2 {
            tier.pooler_says(pooler, &format!("a-{pooler}"), TargetState::Ready, 0.5);
            for balancer in &mut tier.balancers {
                balancer.judges(pooler, Health::Up, &format!("a-{pooler}"), false, 1.0);
            }
        }
        tier.listen(1.0);
        for id in tier.endpoints.ids() {
            assert_eq!(tier.endpoints.judgement(id).state, EndpointState::Up);
        }
        assert!(tier.people_hear().is_empty(), "a start is no news");
        tier.changes.clear();
        tier
    }

    fn listen(&mut self, seconds: f64) {
        let statuses: Vec<_> = self.balancers.iter_mut().map(Script::status).collect();
        for status in statuses {
            self.changes.extend(
                self.endpoints
                    .balancers_said(&[status], POLICY, at(seconds)),
            );
        }
    }

    fn ends(&mut self, id: Id, reason: &str, seconds: f64) {
        self.changes
            .extend(self.endpoints.ended(id, reason, POLICY, at(seconds)));
    }

    fn starts(&mut self, id: Id, seconds: f64) {
        self.endpoints.started(id, at(seconds));
    }

    fn pooler_says(&mut self, pooler: usize, boot_id: &str, state: TargetState, seconds: f64) {
        let changes =
            self.endpoints
                .pooler_said(pooler, boot_id, state, Some("r1"), POLICY, at(seconds));
        self.changes.extend(changes);
    }

    fn tick(&mut self, seconds: f64) {
        self.changes
            .extend(self.endpoints.tick(POLICY, at(seconds)));
    }

    /// The outages as people are told them.
    fn people_hear(&self) -> Vec<String> {
        self.changes
            .iter()
            .filter(|change| change.outage != Outage::None)
            .map(|change| {
                let what = match change.outage {
                    Outage::None => unreachable!("filtered above"),
                    Outage::Begins => "DOWN".to_owned(),
                    Outage::Ends { since } => {
                        format!(
                            "UP after {} s",
                            change.at.duration_since(since).as_secs_f64()
                        )
                    }
                    Outage::Restarted => "RESTARTED".to_owned(),
                };
                format!(
                    "{} {} {what}, {} of {}: {}",
                    change.at.as_millisecond() as f64 / 1000.0,
                    change.name,
                    change.up,
                    change.total,
                    change.reason
                )
            })
            .collect()
    }
}

const KILLED: &str = "killed by signal 9 (SIGKILL)";

#[test]
fn killed_pooler_is_down_at_once_and_up_after_rise_checks_of_the_new_process() {
    let mut tier = Tier::running();
    tier.ends(Id::pooler(1), KILLED, 10.0);
    assert_eq!(
        tier.people_hear(),
        ["10 pooler-1 DOWN, 1 of 2: killed by signal 9 (SIGKILL)"]
    );
    tier.starts(Id::pooler(1), 10.1);
    // The balancers have noticed nothing yet: what they say is about the dead one.
    tier.listen(10.2);
    tier.pooler_says(1, "b", TargetState::Ready, 10.3);
    tier.listen(10.4);
    assert_eq!(tier.people_hear().len(), 1);
    tier.balancers[0].judges(1, Health::Up, "b", true, 11.0);
    tier.listen(11.0);
    tier.balancers[1].judges(1, Health::Up, "b", true, 12.0);
    tier.listen(12.0);
    tier.tick(13.9);
    assert_eq!(tier.people_hear().len(), 1, "one good check is not `rise`");
    tier.tick(14.0);
    assert_eq!(
        tier.people_hear()[1..],
        ["14 pooler-1 UP after 4 s, 2 of 2: checks pass"]
    );
    tier.listen(20.0);
    assert_eq!(tier.people_hear().len(), 2);
}

#[test]
fn end_and_failed_checks_are_one_outage() {
    let mut tier = Tier::running();
    tier.ends(Id::pooler(0), "exit code 1", 10.0);
    tier.starts(Id::pooler(0), 10.1);
    tier.balancers[0].judges(0, Health::Down, "a-0", false, 15.0);
    tier.balancers[1].judges(0, Health::Down, "a-0", false, 16.0);
    tier.listen(16.0);
    tier.ends(Id::pooler(0), "exit code 1", 17.0);
    tier.starts(Id::pooler(0), 17.5);
    tier.pooler_says(0, "c", TargetState::Ready, 18.0);
    tier.balancers[0].judges(0, Health::Up, "c", true, 21.0);
    tier.listen(21.0);
    tier.tick(23.0);
    assert_eq!(
        tier.people_hear().len(),
        1,
        "the other balancer still says Down"
    );
    tier.balancers[1].judges(0, Health::Up, "c", true, 23.5);
    tier.listen(23.5);
    assert_eq!(
        tier.people_hear(),
        [
            "10 pooler-0 DOWN, 1 of 2: exit code 1",
            "23.5 pooler-0 UP after 13.5 s, 2 of 2: checks pass"
        ]
    );
}

#[test]
fn frozen_pooler_is_down_by_checks_alone() {
    let mut tier = Tier::running();
    tier.balancers[1].judges(0, Health::Down, "a-0", false, 15.0);
    tier.listen(15.0);
    tier.balancers[0].judges(0, Health::Down, "a-0", false, 15.5);
    tier.listen(15.5);
    tier.balancers[0].judges(0, Health::Up, "a-0", false, 20.0);
    tier.listen(20.0);
    tier.balancers[1].judges(0, Health::Up, "a-0", false, 21.0);
    tier.listen(21.0);
    assert_eq!(
        tier.people_hear(),
        [
            "15 pooler-0 DOWN, 1 of 2: balancer-1: check says Down",
            "21 pooler-0 UP after 6 s, 2 of 2: checks pass"
        ]
    );
}

#[test]
fn frozen_then_killed_is_one_outage() {
    let mut tier = Tier::running();
    tier.balancers[0].judges(0, Health::Down, "a-0", false, 15.0);
    tier.listen(15.0);
    tier.ends(Id::pooler(0), KILLED, 16.0);
    assert_eq!(tier.people_hear().len(), 1);
    assert_eq!(tier.endpoints.judgement(Id::pooler(0)).reason, KILLED);
    assert_eq!(tier.endpoints.judgement(Id::pooler(0)).since, at(15.0));
}

#[test]
fn drained_pooler_is_no_outage() {
    let mut tier = Tier::running();
    tier.pooler_says(0, "a-0", TargetState::Draining, 10.0);
    assert_eq!(
        tier.endpoints.judgement(Id::pooler(0)).state,
        EndpointState::Draining
    );
    for balancer in &mut tier.balancers {
        balancer.judges(0, Health::Draining, "a-0", false, 11.0);
        balancer.judges(0, Health::Down, "a-0", false, 14.0);
    }
    tier.listen(14.0);
    tier.ends(Id::pooler(0), "exit code 0", 20.0);
    tier.starts(Id::pooler(0), 20.1);
    tier.pooler_says(0, "b", TargetState::Ready, 20.2);
    for balancer in &mut tier.balancers {
        balancer.judges(0, Health::Up, "b", false, 24.0);
    }
    tier.listen(24.0);
    tier.tick(60.0);
    assert_eq!(tier.people_hear(), Vec::<String>::new());
    assert_eq!(
        tier.endpoints.judgement(Id::pooler(0)).state,
        EndpointState::Up
    );
}

/// A balancer goes on judging Draining until `rise` good checks of the process
/// after, which it knows by then.
#[test]
fn process_after_a_drained_one_does_not_drain() {
    let mut tier = Tier::running();
    for balancer in &mut tier.balancers {
        balancer.judges(0, Health::Draining, "a-0", false, 10.0);
    }
    tier.listen(10.0);
    tier.ends(Id::pooler(0), "exit code 0", 15.0);
    tier.starts(Id::pooler(0), 15.1);
    tier.pooler_says(0, "b", TargetState::Ready, 15.2);
    for balancer in &mut tier.balancers {
        let report = balancer.targets[0].report.as_mut().unwrap();
        report.boot_id = "b".to_owned();
        report.state = TargetState::Ready;
    }
    tier.listen(16.0);
    let judgement = tier.endpoints.judgement(Id::pooler(0));
    assert_eq!(judgement.state, EndpointState::Down);
    assert_eq!(judgement.reason, "exit code 0, after draining");
    for balancer in &mut tier.balancers {
        balancer.judges(0, Health::Up, "b", false, 18.0);
    }
    tier.listen(18.0);
    let judgement = tier.endpoints.judgement(Id::pooler(0));
    assert_eq!(judgement.state, EndpointState::Up);
    assert_eq!(tier.people_hear(), Vec::<String>::new());
}

#[test]
fn planned_end_that_does_not_come_back_is_an_outage() {
    let mut tier = Tier::running();
    tier.endpoints.told_to_end(Id::pooler(0));
    tier.ends(Id::pooler(0), "exit code 0", 10.0);
    tier.starts(Id::pooler(0), 10.1);
    for balancer in &mut tier.balancers {
        balancer.judges(0, Health::Down, "a-0", false, 15.0);
    }
    tier.listen(15.0);
    tier.tick(21.0);
    assert!(tier.people_hear().is_empty());
    tier.tick(22.5);
    assert_eq!(tier.people_hear().len(), 1);
    let mut tier = Tier::running();
    tier.endpoints.told_to_end(Id::pooler(0));
    tier.ends(Id::pooler(0), "exit code 0", 10.0);
    tier.starts(Id::pooler(0), 10.1);
    tier.ends(Id::pooler(0), "exit code 1", 10.2);
    assert_eq!(
        tier.people_hear(),
        ["10.2 pooler-0 DOWN, 1 of 2: exit code 1"]
    );
}

#[test]
fn pooler_that_never_comes_up_is_an_outage() {
    let mut endpoints = Endpoints::new(1, 1, at(0.0));
    endpoints.started(Id::pooler(0), at(0.0));
    let changes = endpoints.ended(Id::pooler(0), "exit code 1", POLICY, at(0.1));
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].outage, Outage::Begins);
    assert_eq!(changes[0].from, EndpointState::Unknown);
}

#[test]
fn unreachable_balancer_does_not_block() {
    let mut tier = Tier::running();
    tier.ends(Id::pooler(0), KILLED, 10.0);
    tier.starts(Id::pooler(0), 10.1);
    tier.pooler_says(0, "b", TargetState::Ready, 10.2);
    tier.changes.extend(
        tier.endpoints
            .balancer_silent(1, "timed out", POLICY, at(11.0)),
    );
    tier.balancers[0].judges(0, Health::Up, "b", true, 11.0);
    let status = tier.balancers[0].status();
    tier.changes
        .extend(tier.endpoints.balancers_said(&[status], POLICY, at(11.0)));
    tier.tick(13.0);
    assert_eq!(tier.people_hear().len(), 2, "{:?}", tier.people_hear());
}

#[test]
fn restart_that_only_a_boot_id_shows_is_told_once() {
    let mut tier = Tier::running();
    tier.balancers[0].judges(0, Health::Up, "b", true, 10.0);
    tier.balancers[1].judges(0, Health::Up, "b", true, 11.0);
    tier.listen(10.0);
    tier.pooler_says(0, "b", TargetState::Ready, 11.0);
    tier.listen(12.0);
    assert_eq!(
        tier.people_hear(),
        ["10 pooler-0 RESTARTED, 2 of 2: check says Up"]
    );
}

#[test]
fn restart_between_two_polls_is_told_once_whoever_tells_first() {
    let restarted = |tier: &mut Tier| {
        for balancer in &mut tier.balancers {
            balancer.judges(0, Health::Up, "b", true, 10.5);
        }
    };
    let answers = |tier: &mut Tier, seconds| {
        tier.pooler_says(0, "b", TargetState::Ready, seconds);
    };
    let mut itself = Tier::running();
    answers(&mut itself, 11.0);
    restarted(&mut itself);
    itself.listen(12.0);
    let mut balancers = Tier::running();
    restarted(&mut balancers);
    balancers.listen(11.0);
    answers(&mut balancers, 12.0);
    for (tier, told) in [
        (
            &mut itself,
            "11 pooler-0 RESTARTED, 2 of 2: answers as a new process, without having drained",
        ),
        (
            &mut balancers,
            "10.5 pooler-0 RESTARTED, 2 of 2: check says Up",
        ),
    ] {
        answers(tier, 21.0);
        tier.listen(22.0);
        tier.tick(30.0);
        assert_eq!(tier.people_hear(), [told]);
    }
}

#[test]
fn balancers_that_disagree_make_one_outage_until_they_agree() {
    let mut tier = Tier::running();
    // Balancer 1 reaches it, and says so all the while.
    tier.balancers[0].judges(0, Health::Down, "a-0", false, 10.0);
    for second in 10..20 {
        tier.listen(f64::from(second));
        tier.pooler_says(0, "a-0", TargetState::Ready, f64::from(second));
    }
    let pooler = Id::pooler(0);
    assert_eq!(tier.endpoints.judgement(pooler).state, EndpointState::Down);
    tier.balancers[0].judges(0, Health::Up, "a-0", false, 20.0);
    tier.listen(20.0);
    assert_eq!(
        tier.people_hear(),
        [
            "10 pooler-0 DOWN, 1 of 2: balancer-0: check says Down",
            "20 pooler-0 UP after 10 s, 2 of 2: checks pass"
        ]
    );
}

#[test]
fn of_balancers_that_disagree_one_that_cannot_be_reached_has_no_say() {
    let mut tier = Tier::running();
    tier.balancers[0].judges(0, Health::Down, "a-0", false, 10.0);
    tier.listen(10.0);
    tier.changes.extend(
        tier.endpoints
            .balancer_silent(0, "timed out", POLICY, at(15.0)),
    );
    let told = tier.people_hear();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("pooler-0 UP"), "{told:?}");
}

#[test]
fn killed_balancer_is_down_at_once_and_up_after_rise_answers() {
    let mut tier = Tier::running();
    tier.ends(Id::balancer(0), KILLED, 10.0);
    tier.starts(Id::balancer(0), 10.1);
    tier.balancers[0].boot_id = "again".to_owned();
    tier.listen(12.0);
    assert_eq!(tier.people_hear().len(), 1);
    tier.listen(14.0);
    assert_eq!(
        tier.people_hear(),
        [
            "10 balancer-0 DOWN, 1 of 2: killed by signal 9 (SIGKILL)",
            "14 balancer-0 UP after 4 s, 2 of 2: 2 checks passed"
        ]
    );
}

#[test]
fn log_that_is_told_twice_is_heard_once() {
    let mut tier = Tier::running();
    for (boot_id, seconds) in [("b", 10.0), ("c", 12.0)] {
        tier.balancers[0].judges(0, Health::Up, boot_id, true, seconds);
    }
    tier.listen(12.0);
    assert_eq!(tier.people_hear().len(), 2);
    // An answer to a question that was asked before the last answer came.
    tier.balancers[0].told -= 2;
    tier.listen(13.0);
    assert_eq!(tier.people_hear().len(), 2, "{:?}", tier.people_hear());
}

#[test]
fn balancer_that_was_told_to_end_may_be_silent_for_a_while() {
    let mut tier = Tier::running();
    tier.endpoints.told_to_end(Id::balancer(0));
    tier.ends(Id::balancer(0), "exit code 0", 10.0);
    tier.starts(Id::balancer(0), 10.1);
    for second in [12.0, 14.0, 16.0] {
        assert!(tier.people_hear().is_empty());
        let silent = tier
            .endpoints
            .balancer_silent(0, "timed out", POLICY, at(second));
        tier.changes.extend(silent);
    }
    assert_eq!(tier.people_hear().len(), 1, "then it counts");
}

#[test]
fn silent_balancer_is_down_after_fall_failures() {
    let mut tier = Tier::running();
    for second in [10.0, 12.0] {
        tier.changes.extend(
            tier.endpoints
                .balancer_silent(0, "timed out", POLICY, at(second)),
        );
        assert!(tier.people_hear().is_empty());
    }
    tier.changes.extend(
        tier.endpoints
            .balancer_silent(0, "timed out", POLICY, at(14.0)),
    );
    assert_eq!(
        tier.people_hear(),
        ["14 balancer-0 DOWN, 1 of 2: timed out"]
    );
}

/// The operator is killed; both balancers' logs hold the whole outage.
#[test]
fn outage_during_the_operators_absence_is_told_once() {
    let mut tier = Tier::running();
    let kept = serde_json::to_string(&tier.endpoints).unwrap();
    for (balancer, offset) in tier.balancers.iter_mut().zip([0.0, 0.7]) {
        balancer.judges(0, Health::Down, "a-0", false, 20.0 + offset);
        balancer.judges(0, Health::Up, "a-0", false, 26.0 + offset);
    }
    tier.endpoints = serde_json::from_str(&kept).unwrap();
    tier.endpoints.resume(at(40.0));
    for (index, balancer) in tier.balancers.iter().enumerate() {
        let cursor = (balancer.boot_id.as_str(), balancer.told);
        assert_eq!(tier.endpoints.cursor(index), Some(cursor));
    }
    let statuses: Vec<_> = tier.balancers.iter_mut().map(Script::status).collect();
    tier.changes
        .extend(tier.endpoints.balancers_said(&statuses, POLICY, at(40.0)));
    assert_eq!(
        tier.people_hear(),
        [
            "20 pooler-0 DOWN, 1 of 2: balancer-0: check says Down",
            "26.7 pooler-0 UP after 6.7 s, 2 of 2: checks pass"
        ]
    );
}

#[test]
fn balancer_that_tells_late_repeats_nothing() {
    let mut tier = Tier::running();
    let silent = tier
        .endpoints
        .balancer_silent(1, "timed out", POLICY, at(19.0));
    tier.changes.extend(silent);
    for (balancer, offset) in tier.balancers.iter_mut().zip([0.0, 0.7]) {
        balancer.judges(0, Health::Down, "a-0", false, 20.0 + offset);
        balancer.judges(0, Health::Up, "a-0", false, 26.0 + offset);
    }
    let [first, second] = &mut tier.balancers;
    for (status, seconds) in [(first.status(), 26.0), (second.status(), 30.0)] {
        let changes = tier
            .endpoints
            .balancers_said(&[status], POLICY, at(seconds));
        tier.changes.extend(changes);
    }
    assert_eq!(tier.people_hear().len(), 2, "{:?}", tier.people_hear());
}

/// The operator is killed while a pooler is down, and finds it up.
#[test]
fn outage_that_spans_operators_ends_once() {
    let mut tier = Tier::running();
    tier.ends(Id::pooler(1), KILLED, 10.0);
    tier.starts(Id::pooler(1), 10.1);
    tier.pooler_says(1, "b", TargetState::Ready, 10.2);
    let kept = serde_json::to_string(&tier.endpoints).unwrap();
    tier.endpoints = serde_json::from_str(&kept).unwrap();
    tier.endpoints.resume(at(40.0));
    for balancer in &mut tier.balancers {
        balancer.judges(1, Health::Up, "b", true, 12.0);
    }
    let statuses: Vec<_> = tier.balancers.iter_mut().map(Script::status).collect();
    tier.changes
        .extend(tier.endpoints.balancers_said(&statuses, POLICY, at(40.0)));
    let heard = tier.people_hear();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[1].contains("UP"), "{heard:?}");
}

#[test]
fn lost_log_is_made_up_for_by_levels() {
    let mut tier = Tier::running();
    tier.balancers[0].judges(0, Health::Down, "a-0", false, 20.0);
    let (index, mut status) = tier.balancers[0].status();
    status.missed = true;
    status.transitions.clear();
    tier.changes.extend(
        tier.endpoints
            .balancers_said(&[(index, status)], POLICY, at(22.0)),
    );
    assert_eq!(
        tier.people_hear(),
        ["20 pooler-0 DOWN, 1 of 2: balancer-0: check says Down"]
    );
}

#[test]
fn without_balancers_a_pooler_speaks_for_itself() {
    let mut tier = Tier::running();
    tier.ends(Id::balancer(0), KILLED, 10.0);
    tier.ends(Id::balancer(1), KILLED, 10.0);
    tier.ends(Id::pooler(0), KILLED, 11.0);
    tier.starts(Id::pooler(0), 11.1);
    tier.tick(12.0);
    assert_eq!(
        tier.endpoints.judgement(Id::pooler(0)).state,
        EndpointState::Down
    );
    tier.pooler_says(0, "b", TargetState::Ready, 12.5);
    assert_eq!(
        tier.endpoints.judgement(Id::pooler(0)).state,
        EndpointState::Up
    );
}

/// It was frozen since before the pooler was killed: what it says as it thaws
/// is of the process before, however long that is over.
#[test]
fn balancer_that_comes_back_with_old_news_tells_no_restart() {
    for thaws in [13.5, 20.0, 3_600.0] {
        let mut tier = Tier::running();
        tier.ends(Id::pooler(0), KILLED, 10.0);
        tier.starts(Id::pooler(0), 10.1);
        tier.pooler_says(0, "b", TargetState::Ready, 10.2);
        let silent = tier
            .endpoints
            .balancer_silent(1, "timed out", POLICY, at(11.0));
        tier.changes.extend(silent);
        tier.balancers[0].judges(0, Health::Up, "b", true, 11.0);
        if thaws > 60.0 {
            // So old a report it does not pass on.
            for target in &mut tier.balancers[1].targets {
                target.report = None;
            }
        }
        let mut says = |balancer: usize, seconds| {
            let status = tier.balancers[balancer].status();
            let changes = tier
                .endpoints
                .balancers_said(&[status], POLICY, at(seconds));
            tier.changes.extend(changes);
        };
        says(0, 11.0);
        says(0, 13.0);
        says(1, thaws);
        tier.pooler_says(0, "b", TargetState::Ready, thaws + 0.1);
        tier.balancers[1].judges(0, Health::Up, "b", true, thaws + 0.5);
        let status = tier.balancers[1].status();
        let changes = tier
            .endpoints
            .balancers_said(&[status], POLICY, at(thaws + 0.5));
        tier.changes.extend(changes);
        tier.tick(thaws + 3.0);
        assert_eq!(tier.people_hear().len(), 2, "{:?}", tier.people_hear());
    }
}

#[test]
fn frozen_pooler_is_not_up_because_nobody_is_left_who_says_otherwise() {
    let mut tier = Tier::running();
    tier.pooler_says(0, "a-0", TargetState::Ready, 5.0);
    for balancer in &mut tier.balancers {
        balancer.judges(0, Health::Down, "a-0", false, 10.0);
    }
    tier.listen(10.0);
    tier.ends(Id::balancer(0), KILLED, 11.0);
    tier.ends(Id::balancer(1), KILLED, 11.0);
    tier.tick(12.0);
    let state = |tier: &Tier| tier.endpoints.judgement(Id::pooler(0)).state;
    assert_eq!(state(&tier), EndpointState::Down);
    tier.pooler_says(0, "a-0", TargetState::Ready, 13.0);
    assert_eq!(state(&tier), EndpointState::Up);
}

#[test]
fn of_two_balancers_the_newer_word_on_postgresql_counts() {
    let report = |state, number| {
        Some(UpstreamReport {
            state,
            reason: None,
            number,
        })
    };
    let mut endpoints = Endpoints::new(1, 2, at(0.0));
    let said = |endpoints: &Endpoints| {
        let upstream = endpoints.statuses()[0].upstream.clone();
        upstream.map(|one| one.state)
    };
    endpoints.started(Id::pooler(0), at(0.0));
    endpoints.pooler_said_of_upstream(0, "a", report(Reach::Reachable, 1));
    assert_eq!(said(&endpoints), None, "nobody knows that process");
    let ready = TargetState::Ready;
    let _ = endpoints.pooler_said(0, "a", ready, None, POLICY, at(1.0));
    endpoints.pooler_said_of_upstream(0, "a", report(Reach::Unreachable, 4));
    endpoints.pooler_said_of_upstream(0, "a", report(Reach::Reachable, 3));
    endpoints.pooler_said_of_upstream(0, "before", report(Reach::Reachable, 9));
    assert_eq!(said(&endpoints), Some(UpstreamState::Unreachable));
    endpoints.pooler_said_of_upstream(0, "a", report(Reach::Reachable, 5));
    assert_eq!(said(&endpoints), Some(UpstreamState::Reachable));
    let _ = endpoints.pooler_said(0, "b", ready, None, POLICY, at(2.0));
    assert_eq!(said(&endpoints), None, "another process has not said");
}

#[test]
fn a_poolers_own_word_on_its_capacity_is_kept_until_it_says_another_or_nothing() {
    let report = |reason, number| Some(SaturationReport { reason, number });
    let waits = Some(saturation::Reason::ClientsWait);
    let mut endpoints = Endpoints::new(1, 2, at(0.0));
    let said = |endpoints: &Endpoints| endpoints.statuses()[0].capacity;
    endpoints.started(Id::pooler(0), at(0.0));
    let _ = endpoints.pooler_said(0, "a", TargetState::Ready, None, POLICY, at(1.0));
    endpoints.pooler_said_of_saturation(0, "a", report(waits, 2));
    endpoints.pooler_said_of_saturation(0, "a", report(None, 1));
    assert_eq!(said(&endpoints), Some(EndpointCapacity::ClientsWait));
    endpoints.pooler_said_of_saturation(0, "a", report(None, 3));
    assert_eq!(said(&endpoints), Some(EndpointCapacity::Available));
    endpoints.pooler_said_of_saturation(0, "a", None);
    assert_eq!(said(&endpoints), None, "it does not judge any more");
}

/// An earlier version kept lists, without what is new in this one.
#[test]
fn endpoints_that_an_earlier_version_kept_are_read() {
    let judgement = r#"{"state": "Down", "since": "1970-01-01T00:00:05Z", "reason": "killed",
        "outageSince": "1970-01-01T00:00:05Z"}"#;
    let pooler = format!(
        r#"{{"judgement": {judgement}, "process": {{"is": "absent"}}, "toldToEnd": false,
            "bootId": "a", "draining": false, "absentUntil": null, "views": {{"0": {{
                "health": "Up", "since": "1970-01-01T00:00:01Z", "reason": "check passed",
                "bootId": "a", "restartedAt": null, "saysDraining": false}}}}}}"#
    );
    let balancer = format!(
        r#"{{"judgement": {judgement}, "process": {{"is": "running",
            "since": "1970-01-01T00:00:01Z"}}, "toldToEnd": false,
            "cursor": {{"bootId": "b", "number": 7}}}}"#
    );
    let kept = format!(r#"{{"poolers": [{pooler}, {pooler}], "balancers": [{balancer}]}}"#);
    let endpoints: Endpoints = serde_json::from_str(&kept).unwrap();
    let names: Vec<String> = endpoints.ids().map(|id| endpoints.name(id)).collect();
    assert_eq!(names, ["pooler-0", "pooler-1", "balancer-0"]);
    assert_eq!(endpoints.cursor(0), Some(("b", 7)));
    let judgement = endpoints.judgement(Id::pooler(1));
    assert_eq!(judgement.outage_since, Some(at(5.0)));
    assert_eq!(judgement.outage_reason(), "killed");
    let again = serde_json::to_value(&endpoints).unwrap();
    assert!(again["poolers"].is_array(), "as it was: {again}");
}

#[test]
fn of_more_endpoints_than_a_status_holds_those_that_end_are_left_out() {
    let mut endpoints = Endpoints::new(260, 2, at(0.0));
    for id in endpoints.ids() {
        endpoints.started(id, at(0.0));
    }
    for pooler in 0..10 {
        let _ = endpoints.pooler_said(pooler, "a", TargetState::Draining, None, POLICY, at(1.0));
    }
    let statuses = endpoints.statuses();
    assert_eq!(statuses.len(), api::ENDPOINTS_MAX);
    let ending = |one: &&EndpointStatus| one.state == EndpointState::Draining;
    assert_eq!(statuses.iter().filter(ending).count(), 4);
    let names: Vec<&str> = statuses.iter().map(|one| one.name.as_str()).collect();
    assert!(names.contains(&"pooler-259") && names.contains(&"balancer-1"));
}
