//! A world in which endpoints come and go, operators die at any moment and
//! channels fail in every way; an oracle knows what must have been told.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Splitmix: small, seeded, good enough.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
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

const POOLERS: u64 = 4;

/// What one pooler did.
#[derive(Clone, Debug, Default, PartialEq)]
struct Truth {
    times: u32,
    lasted_ms: i64,
    down_since: Option<i64>,
}

/// How likely things are, in percent.
#[derive(Clone, Copy)]
struct Odds {
    happens: u64,
    dies: u64,
    fails: u64,
}

struct World {
    dice: Dice,
    odds: Odds,
    now_ms: i64,
    /// Everything that happened, kept like the endpoints' own state.
    happened: Vec<Happening>,
    truth: BTreeMap<usize, Truth>,
    /// When the last of all went down, while all are.
    tier_since: Option<i64>,
    notifier: Notifier,
    /// How much of what happened the notifier has observed.
    observed: usize,
    /// What is on disk.
    kept: (String, usize),
    /// What arrived, in order, and when.
    inbox: Vec<(i64, Post)>,
    deaths: u32,
    bytes_max: usize,
}

impl World {
    fn new(seed: u64, style: Style, odds: Odds) -> Self {
        let mut notifier = Notifier::default();
        notifier.configure(&configs(style));
        Self {
            dice: Dice::new(seed),
            odds,
            now_ms: 1_800_000_000_000,
            happened: Vec::new(),
            truth: (0..POOLERS as usize)
                .map(|pooler| (pooler, Truth::default()))
                .collect(),
            tier_since: None,
            kept: (serde_json::to_string(&notifier).unwrap(), 0),
            notifier,
            observed: 0,
            inbox: Vec::new(),
            deaths: 0,
            bytes_max: 0,
        }
    }

    fn happens(&mut self) {
        let pooler = self.dice.roll(POOLERS) as usize;
        let restart = self.dice.chance(10);
        let now_ms = self.now_ms;
        let truth = self.truth.get_mut(&pooler).unwrap();
        let happening = match truth.down_since.take() {
            Some(since) => {
                truth.lasted_ms += now_ms - since;
                Happening::Ended {
                    key: key(pooler),
                    at: at(now_ms),
                    reason: "checks pass".to_owned(),
                    count: None,
                }
            }
            None if restart => {
                truth.times += 1;
                Happening::Restarted(down(pooler, now_ms))
            }
            None => {
                truth.times += 1;
                truth.down_since = Some(now_ms);
                Happening::Began(down(pooler, now_ms))
            }
        };
        self.happened.push(happening);
        let all = self.truth.values().all(|truth| truth.down_since.is_some());
        self.tier_since = all.then(|| self.tier_since.unwrap_or(now_ms));
    }

    fn alerts(&self) -> Vec<Alert> {
        let poolers = self.truth.iter();
        let down = poolers.filter_map(|(pooler, truth)| Some(down(*pooler, truth.down_since?)));
        down.chain(self.tier_since.map(tier_down)).collect()
    }

    fn keep(&mut self) {
        if !self.notifier.take_changed() {
            return;
        }
        let json = serde_json::to_string(&self.notifier).unwrap();
        self.bytes_max = self.bytes_max.max(json.len());
        self.kept = (json, self.observed);
    }

    /// The operator dies here, or not. True if it did.
    fn dies(&mut self, style: Style) -> bool {
        if self.odds.dies == 0 || !self.dice.chance(self.odds.dies) {
            return false;
        }
        self.deaths += 1;
        self.notifier = serde_json::from_str(&self.kept.0).unwrap();
        self.notifier.configure(&configs(style));
        self.notifier.resume();
        self.observed = self.kept.1;
        true
    }

    fn observe(&mut self) {
        let alerts = self.alerts();
        let happenings = &self.happened[self.observed..];
        self.notifier.observe(&alerts, happenings, at(self.now_ms));
        self.observed = self.happened.len();
    }

    /// One turn of the operator, as the run loop has it: observe, keep, claim,
    /// keep, post, confirm, keep.
    fn turn(&mut self, style: Style) {
        self.observe();
        if self.dies(style) {
            return;
        }
        self.keep();
        let posts = self.notifier.claim(at(self.now_ms));
        if self.dies(style) {
            return;
        }
        self.keep();
        for post in posts {
            if self.dies(style) {
                return;
            }
            let outcome = self.post(&post);
            if self.dies(style) {
                return;
            }
            // The world does not wait for an answer.
            if self.odds.fails > 0 && self.dice.chance(40) {
                self.happens();
                self.observe();
                self.keep();
            }
            let jitter = self.dice.roll(100) as f64 / 100.0;
            self.notifier
                .finished(&post, outcome, at(self.now_ms), jitter);
            if self.dies(style) {
                return;
            }
            self.keep();
        }
    }

    fn post(&mut self, post: &Post) -> Outcome {
        let arrives = |world: &mut Self| {
            world.inbox.push((world.now_ms, post.clone()));
            Outcome::Delivered {
                reference: Some(format!("{}.1", world.inbox.len())),
            }
        };
        if !self.dice.chance(self.odds.fails) {
            return arrives(self);
        }
        match self.dice.roll(4) {
            0 => Outcome::Failed("HTTP 500".to_owned()),
            1 => Outcome::Throttled(Duration::from_secs(self.dice.roll(5))),
            2 => Outcome::Unclear("timed out".to_owned()),
            _ => {
                arrives(self);
                Outcome::Unclear("timed out".to_owned())
            }
        }
    }

    fn run(&mut self, turns: u32, step_ms: u64, style: Style) {
        for _ in 0..turns {
            self.now_ms += self.dice.roll(step_ms) as i64;
            if self.dice.chance(self.odds.happens) {
                self.happens();
            }
            self.turn(style);
        }
        self.settle(style);
    }

    /// Nothing happens or fails for long enough, for those that flapped too.
    fn settle(&mut self, style: Style) {
        let odds = self.odds;
        self.odds = Odds {
            happens: 0,
            dies: 0,
            fails: 0,
        };
        // While nothing serves nobody hears of each pooler.
        while self.tier_since.is_some() {
            self.happens();
        }
        let until = self.now_ms + 420_000;
        while self.now_ms < until {
            self.now_ms += 5000;
            self.turn(style);
        }
        for status in self.notifier.statuses() {
            assert_eq!(status.pending, 0, "{status:?}");
        }
        self.odds = odds;
    }
}

fn configs(style: Style) -> Vec<ChannelConfig> {
    vec![ChannelConfig {
        style,
        ..config("ops")
    }]
}

/// What the inbox tells of each pooler: the same form as the truth.
struct Heard {
    told: BTreeMap<Key, Truth>,
    repeats: u32,
}

/// Reads the inbox as a person would who trusts it.
fn read(seed: u64, inbox: &[(i64, Post)]) -> Heard {
    let mut heard = Heard {
        told: BTreeMap::new(),
        repeats: 0,
    };
    let mut seen = BTreeMap::new();
    let mut sequences = BTreeSet::new();
    let mut last = 0;
    for (_, post) in inbox.iter().filter(|(_, post)| post.form == Form::News) {
        if let Some(before) = seen.insert(post.upto, post.items.clone()) {
            assert!(
                post.possibly_repeated,
                "seed {seed}: {post:?} is an unmarked repeat"
            );
            assert_eq!(before, post.items, "seed {seed}: a repeat that differs");
            heard.repeats += 1;
            continue;
        }
        assert!(post.after >= last, "seed {seed}: out of order: {post:?}");
        last = post.upto;
        for item in &post.items {
            assert!(
                sequences.insert(item.sequence) && item.sequence > post.after,
                "seed {seed}: {item:?} is told twice"
            );
            let told = heard.told.entry(item.key.clone()).or_default();
            told.times += item.times;
            told.lasted_ms += item.lasted_ms;
            let since = item.since.as_millisecond();
            told.down_since = item.what.is_bad().then_some(since);
        }
    }
    heard
}

fn check(seed: u64, world: &World) -> Heard {
    let heard = read(seed, &world.inbox);
    for (pooler, truth) in &world.truth {
        let told = heard.told.get(&key(*pooler)).cloned().unwrap_or_default();
        assert_eq!(
            (told.times, told.lasted_ms, told.down_since.is_some()),
            (truth.times, truth.lasted_ms, truth.down_since.is_some()),
            "seed {seed}: pooler-{pooler} is not told as it was"
        );
    }
    let tier = heard.told.get(&tier_down(0).key);
    assert_eq!(
        tier.is_some_and(|told| told.down_since.is_some()),
        world.tier_since.is_some(),
        "seed {seed}: the tier"
    );
    assert!(world.bytes_max < 64 * 1024, "seed {seed}");
    heard
}

/// Seeds of one kind of schedule.
fn seeds() -> u64 {
    std::env::var("POOLKEEPER_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(400)
}

#[test]
fn everything_is_told_in_order_and_once_but_for_marked_repeats() {
    let (mut deaths, mut repeats, mut messages) = (0, 0, 0);
    let odds = Odds {
        happens: 25,
        dies: 4,
        fails: 30,
    };
    for seed in 0..seeds() {
        let style = [Style::Messages, Style::Threads, Style::Levels][(seed % 3) as usize];
        let mut world = World::new(seed, style, odds);
        world.run(60, 8000, style);
        deaths += world.deaths;
        messages += world.inbox.len();
        match style {
            // It is told what is true; how often does not matter.
            Style::Levels => check_levels(seed, &world),
            _ => repeats += check(seed, &world).repeats,
        }
    }
    println!("{deaths} deaths, {repeats} marked repeats, {messages} messages");
    assert!(deaths > 100 && repeats > 20, "{deaths}, {repeats}");
}

fn check_levels(seed: u64, world: &World) {
    let (_, last) = world.inbox.last().expect("something was told");
    let told: BTreeSet<Key> = last
        .open
        .iter()
        .map(|open| open.alert.key.clone())
        .collect();
    let truth: BTreeSet<Key> = world.alerts().into_iter().map(|alert| alert.key).collect();
    let pending_ends = last.items.iter().any(|item| truth.contains(&item.key));
    assert_eq!(told, truth, "seed {seed}: the last levels, {pending_ends}");
}

/// With nothing in the way bad news arrives within the group wait, the second
/// between two messages and the turn of the loop.
#[test]
fn bad_news_is_told_in_time() {
    let odds = Odds {
        happens: 6,
        dies: 0,
        fails: 0,
    };
    for seed in 0..seeds() / 4 {
        let mut world = World::new(seed, Style::Messages, odds);
        for _ in 0..400 {
            world.now_ms += 100;
            if world.dice.chance(odds.happens) {
                world.happens();
            }
            world.turn(Style::Messages);
        }
        let mut told = 0;
        for (arrived, post) in &world.inbox {
            let tier_was_down = post.items.iter().any(|item| item.key == tier_down(0).key);
            let news = post.items.iter().filter(|item| {
                item.what.is_bad() && item.times > 0 && item.what != What::SteadyDown
            });
            for item in news.filter(|_| !tier_was_down) {
                let late_ms = arrived - item.at.as_millisecond();
                assert!(late_ms <= 1600, "seed {seed}: {late_ms} ms late: {item:?}");
                told += 1;
            }
        }
        assert!(told > 0, "seed {seed}");
        world.settle(Style::Messages);
        check(seed, &world);
    }
}

/// An hour in which nothing arrives, while everything comes and goes.
#[test]
fn hour_without_a_channel_ends_with_the_whole_story_in_few_messages() {
    for seed in 0..5 {
        for style in [Style::Messages, Style::Threads] {
            let odds = Odds {
                happens: 70,
                dies: 1,
                fails: 100,
            };
            let mut world = World::new(seed, style, odds);
            for _ in 0..360 {
                world.now_ms += 10_000;
                if world.dice.chance(odds.happens) {
                    world.happens();
                }
                world.turn(style);
            }
            let before = world.inbox.len();
            world.settle(style);
            let after = world.inbox.len() - before;
            assert!(
                after <= 12,
                "seed {seed}: {after} messages after the outage"
            );
            check(seed, &world);
        }
    }
}
