//! What people are told, whatever fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::*;
use crate::{api::EndpointState, endpoints::Id};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn config(name: &str) -> ChannelConfig {
    ChannelConfig {
        name: name.to_owned(),
        fingerprint: "f".to_owned(),
        configured: true,
        send_resolved: true,
    }
}

fn notifier() -> Notifier {
    let mut notifier = Notifier::default();
    notifier.configure(&[config("ops")]);
    notifier
}

fn change(pooler: usize, outage: Outage, ms: i64) -> Change {
    let (from, to) = match outage {
        Outage::Begins => (EndpointState::Up, EndpointState::Down),
        Outage::Ends { .. } => (EndpointState::Down, EndpointState::Up),
        Outage::None | Outage::Restarted => (EndpointState::Up, EndpointState::Up),
    };
    Change {
        id: Id::pooler(pooler),
        from,
        to,
        at: at(ms),
        reason: "because".to_owned(),
        outage,
        up: 2,
        total: 3,
    }
}

fn begins(pooler: usize, ms: i64) -> Change {
    change(pooler, Outage::Begins, ms)
}

fn ends(pooler: usize, since: i64, ms: i64) -> Change {
    change(pooler, Outage::Ends { since: at(since) }, ms)
}

/// Posts what may be posted at `ms`; says it in words.
fn post(notifier: &mut Notifier, outcome: &Outcome, ms: i64) -> Vec<String> {
    let posts = notifier.claim(at(ms));
    posts
        .into_iter()
        .map(|post| {
            notifier.finished(&post.channel, outcome.clone(), at(ms), 0.5);
            let repeated = if post.possibly_repeated {
                " again?"
            } else {
                ""
            };
            format!("{} {:?}{repeated}", post.incident.endpoint, post.step)
        })
        .collect()
}

#[test]
fn down_and_up_are_told_once_each_a_second_apart() {
    let mut notifier = notifier();
    notifier.observe(&begins(1, 0));
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 0),
        ["pooler-1 Down"]
    );
    assert!(post(&mut notifier, &Outcome::Delivered, 5000).is_empty());
    notifier.observe(&ends(1, 0, 5000));
    notifier.observe(&begins(2, 5000));
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 5000),
        ["pooler-1 Up"]
    );
    assert!(post(&mut notifier, &Outcome::Delivered, 5999).is_empty());
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 6000),
        ["pooler-2 Down"]
    );
    assert_eq!(notifier.statuses()[0].pending, 0);
    assert_eq!(notifier.statuses()[0].last_delivery, Some(at(6000)));
    assert!(post(&mut notifier, &Outcome::Delivered, 9000).is_empty());
}

#[test]
fn failures_back_off_and_lose_nothing() {
    let mut notifier = notifier();
    notifier.observe(&begins(1, 0));
    let failed = Outcome::Failed("HTTP 503".to_owned());
    let mut now = 0;
    for expected in [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
        assert_eq!(post(&mut notifier, &failed, now), ["pooler-1 Down"]);
        now += expected;
        assert!(post(&mut notifier, &failed, now - 1).is_empty());
    }
    assert_eq!(notifier.statuses()[0].problem.as_deref(), Some("HTTP 503"));
    notifier.observe(&ends(1, 0, now));
    assert_eq!(notifier.statuses()[0].pending, 2);
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, now),
        ["pooler-1 Down"]
    );
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, now + 1000),
        ["pooler-1 Up"]
    );
    assert_eq!(notifier.statuses()[0].problem, None);
}

#[test]
fn retry_after_is_honoured_within_reason() {
    let mut notifier = notifier();
    notifier.observe(&begins(1, 0));
    let _ = post(
        &mut notifier,
        &Outcome::Throttled(Duration::from_secs(7)),
        0,
    );
    let for_days = Outcome::Throttled(Duration::from_secs(999_999));
    assert!(post(&mut notifier, &for_days, 6999).is_empty());
    assert_eq!(post(&mut notifier, &for_days, 7000), ["pooler-1 Down"]);
    let again = 7000 + 3_600_000;
    assert!(post(&mut notifier, &for_days, again - 1).is_empty());
    assert_eq!(post(&mut notifier, &for_days, again), ["pooler-1 Down"]);
}

#[test]
fn refusal_holds_until_the_configuration_changes() {
    let mut notifier = notifier();
    notifier.observe(&begins(1, 0));
    let _ = post(&mut notifier, &Outcome::Refused("no_service".to_owned()), 0);
    assert!(post(&mut notifier, &Outcome::Delivered, 1_000_000).is_empty());
    let problem = notifier.statuses()[0].problem.clone().unwrap();
    assert!(problem.contains("no_service"), "{problem}");
    notifier.configure(&[config("ops")]);
    assert!(post(&mut notifier, &Outcome::Delivered, 1_000_000).is_empty());
    notifier.configure(&[ChannelConfig {
        fingerprint: "another".to_owned(),
        ..config("ops")
    }]);
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 1_000_000),
        ["pooler-1 Down"]
    );
}

#[test]
fn unclear_message_is_repeated_and_says_so() {
    let mut notifier = notifier();
    notifier.observe(&begins(1, 0));
    let unclear = Outcome::Unclear("no answer within 10 s".to_owned());
    assert_eq!(post(&mut notifier, &unclear, 0), ["pooler-1 Down"]);
    let failed = Outcome::Failed("connection refused".to_owned());
    assert_eq!(
        post(&mut notifier, &failed, 10_000),
        ["pooler-1 Down again?"]
    );
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 90_000),
        ["pooler-1 Down again?"]
    );
    notifier.observe(&ends(1, 0, 91_000));
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 92_000),
        ["pooler-1 Up"]
    );
}

#[test]
fn death_between_claim_and_confirmation_repeats_and_says_so() {
    let mut before = notifier();
    before.observe(&begins(1, 0));
    let _ = before.claim(at(0));
    let kept = serde_json::to_string(&before).unwrap();
    let mut after: Notifier = serde_json::from_str(&kept).unwrap();
    after.resume();
    assert_eq!(
        post(&mut after, &Outcome::Delivered, 0),
        ["pooler-1 Down again?"]
    );
    assert!(post(&mut after, &Outcome::Delivered, 5000).is_empty());
}

#[test]
fn recoveries_are_not_told_where_nobody_wants_them() {
    let mut notifier = Notifier::default();
    notifier.configure(&[ChannelConfig {
        send_resolved: false,
        ..config("ops")
    }]);
    notifier.observe(&begins(1, 0));
    notifier.observe(&ends(1, 0, 10));
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 10),
        ["pooler-1 Down"]
    );
    assert!(post(&mut notifier, &Outcome::Delivered, 9000).is_empty());
    assert_eq!(notifier.statuses()[0].pending, 0);
}

#[test]
fn new_channel_is_told_what_is_out_of_service_and_no_old_stories() {
    let mut notifier = Notifier::default();
    notifier.configure(&[ChannelConfig {
        configured: false,
        ..config("ops")
    }]);
    notifier.observe(&begins(1, 0));
    notifier.observe(&begins(2, 0));
    notifier.observe(&ends(1, 0, 10));
    assert!(post(&mut notifier, &Outcome::Delivered, 10).is_empty());
    assert!(
        notifier.statuses()[0]
            .problem
            .as_ref()
            .unwrap()
            .contains("not configured")
    );
    notifier.configure(&[config("ops")]);
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 20),
        ["pooler-2 Down"]
    );
    assert!(post(&mut notifier, &Outcome::Delivered, 5000).is_empty());
}

#[test]
fn restart_is_one_message() {
    let mut notifier = notifier();
    notifier.observe(&change(1, Outage::Restarted, 0));
    assert_eq!(
        post(&mut notifier, &Outcome::Delivered, 0),
        ["pooler-1 Restarted"]
    );
    assert_eq!(notifier.statuses()[0].pending, 0);
}

#[test]
fn endpoint_that_is_gone_is_not_told_of() {
    let mut notifier = notifier();
    notifier.observe(&begins(1, 0));
    notifier.forget("pooler-1");
    assert!(post(&mut notifier, &Outcome::Delivered, 0).is_empty());
}

/// Splitmix: small, seeded, good enough.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// A world in which endpoints come and go, operators die at any moment and the
/// webhook fails in every way.
struct World {
    dice: Dice,
    now_ms: i64,
    /// Everything that happened, kept like the endpoints' own state.
    log: Vec<Change>,
    down_since: BTreeMap<usize, i64>,
    notifier: Notifier,
    /// How much of the log the notifier has observed.
    observed: usize,
    /// What is on disk.
    kept: (String, usize),
    /// What arrived, in order.
    inbox: Vec<Post>,
    crashes: u32,
}

const POOLERS: u64 = 4;

impl World {
    fn new(seed: u64) -> Self {
        let notifier = notifier();
        Self {
            dice: Dice(seed),
            now_ms: 0,
            log: Vec::new(),
            down_since: BTreeMap::new(),
            kept: (serde_json::to_string(&notifier).unwrap(), 0),
            notifier,
            observed: 0,
            inbox: Vec::new(),
            crashes: 0,
        }
    }

    fn happens(&mut self) {
        let pooler = self.dice.roll(POOLERS) as usize;
        let change = match self.down_since.remove(&pooler) {
            Some(since) => ends(pooler, since, self.now_ms),
            None if self.dice.chance(10) => change(pooler, Outage::Restarted, self.now_ms),
            None => {
                self.down_since.insert(pooler, self.now_ms);
                begins(pooler, self.now_ms)
            }
        };
        self.log.push(change);
    }

    fn keep(&mut self) {
        self.kept = (
            serde_json::to_string(&self.notifier).unwrap(),
            self.observed,
        );
    }

    /// The operator dies here, or not. True if it did.
    fn may_die(&mut self, percent: u64) -> bool {
        if !self.dice.chance(percent) {
            return false;
        }
        self.crashes += 1;
        self.notifier = serde_json::from_str(&self.kept.0).unwrap();
        self.notifier.configure(&[config("ops")]);
        self.notifier.resume();
        self.observed = self.kept.1;
        true
    }

    fn observe(&mut self) {
        while self.observed < self.log.len() {
            self.notifier.observe(&self.log[self.observed]);
            self.observed += 1;
        }
    }

    /// One turn of the operator, as the run loop has it: observe, keep, claim,
    /// keep, post, confirm, keep.
    fn turn(&mut self, crash: u64, broken: u64) {
        self.observe();
        if self.may_die(crash) {
            return;
        }
        self.keep();
        let posts = self.notifier.claim(at(self.now_ms));
        if self.may_die(crash) {
            return;
        }
        self.keep();
        for post in posts {
            if self.may_die(crash) {
                return;
            }
            let outcome = if !self.dice.chance(broken) {
                self.inbox.push(post.clone());
                Outcome::Delivered
            } else {
                match self.dice.roll(4) {
                    0 => Outcome::Failed("HTTP 500".to_owned()),
                    1 => Outcome::Throttled(Duration::from_secs(self.dice.roll(5))),
                    2 => Outcome::Unclear("timed out".to_owned()),
                    _ => {
                        self.inbox.push(post.clone());
                        Outcome::Unclear("timed out".to_owned())
                    }
                }
            };
            if self.may_die(crash) {
                return;
            }
            // The world does not wait for an answer.
            if broken > 0 && self.dice.chance(40) {
                self.happens();
                self.observe();
                self.keep();
            }
            let jitter = self.dice.roll(100) as f64 / 100.0;
            self.notifier
                .finished(&post.channel, outcome, at(self.now_ms), jitter);
            if self.may_die(crash) {
                return;
            }
            self.keep();
        }
    }

    fn run(&mut self, turns: u32, events: u64, crash: u64, broken: u64) {
        for _ in 0..turns {
            self.now_ms += self.dice.roll(3000) as i64;
            if self.dice.chance(events) {
                self.happens();
            }
            self.turn(crash, broken);
        }
        self.settle();
    }

    /// All is well for long enough.
    fn settle(&mut self) {
        for _ in 0..3 * INCIDENTS_MAX {
            self.now_ms += 40_000;
            self.turn(0, 0);
            if self.notifier.statuses()[0].pending == 0 {
                break;
            }
        }
        assert_eq!(self.notifier.statuses()[0].pending, 0);
    }
}

#[test]
fn each_incident_is_told_down_then_up_exactly_once_but_for_marked_repeats() {
    let mut crashes = 0;
    let mut repeats = 0;
    for seed in 0..150 {
        let mut world = World::new(seed);
        world.run(150, 40, 5, 30);
        crashes += world.crashes;
        let mut seen = BTreeSet::new();
        let mut last = 0;
        for post in &world.inbox {
            let incident = &post.incident;
            assert_eq!(incident.times, 1, "seed {seed}: nothing needs merging here");
            let sequence = match (post.step, &incident.ended) {
                (Step::Up, Some(ended)) => ended.sequence,
                _ => incident.began.sequence,
            };
            if seen.insert(sequence) {
                assert!(sequence > last, "seed {seed}: told out of order");
                last = sequence;
            } else {
                assert!(
                    post.possibly_repeated,
                    "seed {seed}: {post:?} is an unmarked repeat"
                );
                repeats += 1;
            }
        }
        // Sequences count what is told, so all of them were.
        assert_eq!(seen.len(), world.log.len(), "seed {seed}: not all was told");
        assert_eq!(seen.last().copied().unwrap_or(0) as usize, world.log.len());
    }
    assert!(
        crashes > 500 && repeats > 50,
        "{crashes} crashes, {repeats} repeats"
    );
}

#[test]
fn long_failure_is_told_briefly_and_in_full() {
    for seed in 0..4 {
        let mut world = World::new(seed);
        world.run(1500, 100, 2, 95);
        assert!(world.log.len() > 1400);
        let mut final_step = BTreeMap::new();
        let unmarked = world
            .inbox
            .iter()
            .filter(|post| !post.possibly_repeated)
            .count();
        for post in &world.inbox {
            final_step.insert(post.incident.endpoint.as_str(), post.step);
        }
        assert!(
            unmarked <= 2 * INCIDENTS_MAX + 10,
            "seed {seed}: {unmarked} messages"
        );
        for pooler in 0..POOLERS as usize {
            let name = Id::pooler(pooler).name();
            let is_down = world.down_since.contains_key(&pooler);
            assert_eq!(
                final_step.get(name.as_str()) == Some(&Step::Down),
                is_down,
                "seed {seed}: what was told last of {name} is not what is"
            );
        }
        // An UP says how often it was in all, so let everything come up.
        for (pooler, since) in std::mem::take(&mut world.down_since) {
            world.log.push(ends(pooler, since, world.now_ms));
        }
        world.settle();
        let incidents = world
            .log
            .iter()
            .filter(|change| !matches!(change.outage, Outage::Ends { .. }));
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for post in &world.inbox {
            let count = times.entry(post.incident.began.sequence).or_default();
            *count = (*count).max(post.incident.times);
        }
        let counted: u32 = times.values().sum();
        assert_eq!(counted as usize, incidents.count(), "seed {seed}");
    }
}
