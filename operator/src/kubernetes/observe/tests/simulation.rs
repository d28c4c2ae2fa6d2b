//! A tier whose poolers are killed, drained, deleted and lost at random, while
//! its kubelets, both its balancers and its operator each come to know it late.
//! An oracle knows what must have been told.

use proxy_core::health::{self, Failure, Observation, State};

use super::*;

const POOLERS: usize = 3;
const STEP_MS: i64 = 100;
/// What is late is late by less than this.
const LAG_MS: u64 = 3_000;
/// How long a pooler is left alone after something happened to it.
const PAUSE_MS: i64 = 6_000;

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

    fn soon(&mut self, now: i64, within: u64) -> i64 {
        now + 1 + self.roll(within) as i64
    }
}

/// What a pooler's process does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Serves,
    Drains { until: i64 },
    IsDead { until: i64 },
}

/// A Pod as it truly is.
struct Truth {
    /// What its kubelet will tell, and when it tells it.
    view: PodView,
    told_at: Option<i64>,
    does: Does,
    process: u32,
    deleted: bool,
    left_alone_until: i64,
}

struct World {
    dice: Dice,
    now: i64,
    pods: BTreeMap<String, Truth>,
    pods_made: u8,
    tier: Tier,
    /// What each balancer judges, and when it checks next.
    health: BTreeMap<(String, String), (State, i64)>,
    /// Balancers' answers on their way, and Pods' ends.
    answers: Answers,
    answers_at: BTreeMap<String, i64>,
    gone_at: BTreeMap<String, i64>,
    /// Unplanned ends of processes that served, by Pod.
    expected: BTreeMap<String, usize>,
    looks_at: i64,
    /// No operator looks before.
    dead_until: i64,
    story: Vec<String>,
}

fn ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn boot_id(name: &str, process: u32) -> String {
    format!("{name}-boot-{process}")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut tier = Tier::new();
        tier.wished.poolers = POOLERS as u32;
        for name in ["b0", "b1"] {
            tier.comes(name, 0.0);
            tier.ready(name);
        }
        let mut world = Self {
            dice: Dice(seed),
            now: 0,
            pods: BTreeMap::new(),
            pods_made: 0,
            tier,
            health: BTreeMap::new(),
            answers: Answers::new(),
            answers_at: BTreeMap::new(),
            gone_at: BTreeMap::new(),
            expected: BTreeMap::new(),
            looks_at: 0,
            dead_until: 0,
            story: Vec::new(),
        };
        for _ in 0..POOLERS {
            world.comes();
        }
        world
    }

    fn note(&mut self, what: &str) {
        self.story.push(format!("{} {what}", self.now));
    }

    fn comes(&mut self) {
        let name = format!("p{}", self.pods_made);
        self.pods_made += 1;
        self.tier.comes(&name, self.now as f64 / 1000.0);
        let mut view = self.tier.pods.remove(&name).unwrap();
        view.phase = Phase::Ready;
        let told_at = Some(self.dice.soon(self.now, LAG_MS));
        self.note(&format!("{name} comes"));
        let truth = Truth {
            view,
            told_at,
            does: Does::Serves,
            process: 1,
            deleted: false,
            left_alone_until: self.now + PAUSE_MS,
        };
        self.pods.insert(name, truth);
    }

    /// The process of a Pod ended, in this way.
    fn ends(&mut self, name: &str, reason: &str, back_within: u64) {
        let until = self.dice.soon(self.now, back_within);
        let told_at = self.dice.soon(self.now, LAG_MS);
        let truth = self.pods.get_mut(name).unwrap();
        truth.does = Does::IsDead { until };
        truth.told_at.get_or_insert(told_at);
        truth.view.phase = Phase::Failed(reason.to_owned());
        let container = truth.view.container.as_mut().unwrap();
        container.state = ContainerState::Over(Ended {
            at: Some(ms(self.now / 1000 * 1000)),
            reason: reason.to_owned(),
        });
    }

    fn starts(&mut self, name: &str) {
        let told_at = self.dice.soon(self.now, LAG_MS);
        let truth = self.pods.get_mut(name).unwrap();
        truth.process += 1;
        truth.does = Does::Serves;
        truth.told_at.get_or_insert(told_at);
        truth.left_alone_until = self.now + PAUSE_MS;
        truth.view.phase = Phase::Ready;
        let container = truth.view.container.as_mut().unwrap();
        let before = match container.state.clone() {
            ContainerState::Over(ended) => Some(ended),
            ContainerState::Runs { .. } => None,
        };
        *container = Container {
            id: format!("{name}-{}", truth.process),
            state: ContainerState::Runs {
                since: Some(ms(self.now / 1000 * 1000)),
                before,
            },
        };
        self.note(&format!("{name} starts"));
    }

    /// Whether everybody knows that it serves, so that its end is news.
    fn is_served_by(&self, name: &str) -> bool {
        let truth = &self.pods[name];
        let boot_id = boot_id(name, truth.process);
        let is_up = |(state, _): &(State, i64)| {
            state.health == Health::Up && state.boot_id.as_deref() == Some(&boot_id)
        };
        let mut views = ["b0", "b1"].map(|balancer| {
            let key = (balancer.to_owned(), name.to_owned());
            self.health.get(&key).is_some_and(is_up)
        });
        let known = self.tier.endpoints.statuses();
        truth.does == Does::Serves
            && !truth.deleted
            && truth.left_alone_until < self.now
            && views.iter_mut().all(|view| *view)
            && known
                .iter()
                .any(|one| one.name == name && one.state == EndpointState::Up)
    }

    fn something_happens(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        let name = names[self.dice.roll(names.len() as u64) as usize].clone();
        if !self.is_served_by(&name) {
            return;
        }
        let what = match self.dice.roll(6) {
            // Of what went while no operator looked, nobody can say how.
            5 if self.now <= self.dead_until => 4,
            what => what,
        };
        if matches!(what, 0..=2 | 5) {
            *self.expected.entry(name.clone()).or_default() += 1;
        }
        match what {
            0 | 1 => {
                self.note(&format!("{name} is killed and soon back"));
                self.ends(&name, KILLED, 600);
            }
            2 => {
                self.note(&format!("{name} is killed"));
                self.ends(&name, KILLED, 14_000);
            }
            3 => {
                self.note(&format!("{name} drains and starts again"));
                let until = self.now + 6_000;
                self.pods.get_mut(&name).unwrap().does = Does::Drains { until };
            }
            4 => {
                self.note(&format!("{name} is deleted"));
                let told_at = self.dice.soon(self.now, LAG_MS);
                let truth = self.pods.get_mut(&name).unwrap();
                truth.deleted = true;
                truth.does = Does::Drains {
                    until: self.now + 6_000,
                };
                truth.view.phase = Phase::Ending;
                truth.view.told_to_end = Some(ms(self.now / 1000 * 1000));
                truth.told_at.get_or_insert(told_at);
                self.comes();
            }
            _ => {
                self.note(&format!("{name} is deleted by force"));
                self.goes(&name);
                self.comes();
            }
        }
    }

    /// A Pod is gone; the API server tells so a little later.
    fn goes(&mut self, name: &str) {
        self.pods.remove(name);
        let at = self.dice.soon(self.now, LAG_MS);
        self.gone_at.insert(name.to_owned(), at);
    }

    fn processes_go_on(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in names {
            let truth = &self.pods[&name];
            match truth.does {
                Does::Drains { until } if until <= self.now => match truth.deleted {
                    true => {
                        self.note(&format!("{name} has ended"));
                        self.goes(&name);
                    }
                    false => self.ends(&name, "ended with exit code 0", 2_000),
                },
                Does::IsDead { until } if until <= self.now => self.starts(&name),
                _ => {}
            }
        }
    }

    fn balancers_check(&mut self) {
        let (now, policy) = (self.now, health::Policy { rise: 2, fall: 3 });
        for balancer in ["b0", "b1"] {
            let names: Vec<String> = self.pods.keys().cloned().collect();
            for name in names {
                let next = self.dice.soon(now, 2_000);
                let key = (balancer.to_owned(), name.clone());
                let entry = self.health.entry(key);
                entry.or_insert_with(|| (State::discovered(ms(now)), next));
            }
            let keys: Vec<_> = self.health.keys().cloned().collect();
            for key in keys.into_iter().filter(|(of, _)| of == balancer) {
                if self.health[&key].1 > now {
                    continue;
                }
                let observation = self.observation(&key.1);
                let (state, next) = self.health.get_mut(&key).unwrap();
                *next += 2_000;
                let (after, change) = health::judge(state, &observation, policy, ms(now));
                *state = after;
                let is_over = state.health == Health::Down && !self.pods.contains_key(&key.1);
                let state = state.clone();
                self.shows(&key, &state, &observation, change.as_ref());
                if is_over {
                    self.health.remove(&key);
                    let address = self.address(&key.1);
                    let script = self.tier.balancers.get_mut(balancer).unwrap();
                    script.targets.retain(|target| target.address != address);
                }
            }
        }
    }

    fn observation(&self, name: &str) -> Observation {
        let failed = |failure, reason: &str| Observation::Failed {
            failure,
            reason: reason.to_owned(),
        };
        let Some(truth) = self.pods.get(name) else {
            return failed(Failure::Silent, "no answer");
        };
        let state = match truth.does {
            Does::IsDead { .. } => return failed(Failure::Refused, "connection refused"),
            Does::Serves => TargetState::Ready,
            Does::Drains { .. } => TargetState::Draining,
        };
        Observation::Passed {
            report: Some(TargetReport {
                upstream: None,
                state,
                boot_id: boot_id(name, truth.process),
                name: None,
                config_revision: None,
                clients: 0,
                waiting: 0,
                saturation: None,
                version: None,
            }),
        }
    }

    fn address(&self, name: &str) -> String {
        let number: u8 = name[1..].parse().unwrap();
        // Two balancers were made before.
        format!("10.0.0.{}:6432", number + 3)
    }

    /// The balancer's status has what it judges.
    fn shows(
        &mut self,
        (balancer, name): &(String, String),
        state: &State,
        observation: &Observation,
        change: Option<&health::Change>,
    ) {
        let address = self.address(name);
        let script = self.tier.balancers.get_mut(balancer).unwrap();
        if script.targets.iter().all(|one| one.address != address) {
            script.finds(&address, self.now as f64 / 1000.0);
        }
        let mut targets = script.targets.iter_mut();
        let target = targets.find(|one| one.address == address).unwrap();
        target.state = state.health;
        target.since = state.since;
        target.reason.clone_from(&state.reason);
        if let Observation::Passed { report } = observation {
            target.report.clone_from(report);
        }
        if let Some(change) = change {
            script.log.push(Transition {
                number: script.log.len() as u64 + 1,
                at: ms(self.now),
                target: address,
                from: change.from,
                to: change.to,
                restarted: change.restarted,
                reason: change.reason.clone(),
                boot_id: change.boot_id.clone(),
                up: 0,
                total: 0,
            });
        }
    }

    fn news_arrive(&mut self) {
        let now = self.now;
        for (name, truth) in &mut self.pods {
            if truth.told_at.is_some_and(|at| at <= now) {
                truth.told_at = None;
                self.tier.pods.insert(name.clone(), truth.view.clone());
            }
        }
        let gone: Vec<String> = self
            .gone_at
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.gone_at.remove(&name);
            self.tier.pods.remove(&name);
        }
        for balancer in ["b0", "b1"] {
            let at = self.answers_at.get(balancer).copied().unwrap_or(0);
            if at > now {
                continue;
            }
            // Most answers come at once, some late.
            let within = [200, 200, 200, LAG_MS][self.dice.roll(4) as usize];
            let next = self.dice.soon(now, within);
            self.answers_at.insert(balancer.to_owned(), next);
            let uid = self.tier.pods[balancer].uid.clone();
            let status = self.tier.balancers.get_mut(balancer).unwrap().status();
            let before = self.answers.remove(&uid);
            // What was not taken yet is not lost.
            let mut transitions = match before {
                Some(Answer::Said(before)) => before.transitions,
                _ => Vec::new(),
            };
            transitions.extend(status.transitions.clone());
            let status = BalancerStatus {
                transitions,
                ..status
            };
            self.answers.insert(uid, Answer::Said(Box::new(status)));
        }
    }

    fn looks(&mut self) {
        if self.looks_at > self.now {
            return;
        }
        self.looks_at = self.dice.soon(self.now, 1_200);
        let pods: Vec<PodView> = self.tier.pods.values().cloned().collect();
        let (wished, now) = (self.tier.wished, ms(self.now));
        let endpoints = &mut self.tier.endpoints;
        let changes = observe(endpoints, &pods, &self.answers, wished, POLICY, now);
        for change in &changes {
            self.story.push(format!(
                "{}     told: {} {:?} -> {:?} {:?} at {}: {}",
                self.now,
                change.name,
                change.from,
                change.to,
                change.outage,
                change.at,
                change.reason
            ));
        }
        self.tier.changes.extend(changes);
    }

    /// The operator dies; another one takes over a while later.
    fn operator_changes(&mut self) {
        // Of what it has not looked at, the next one cannot know that it was; nor
        // which process is new, while balancers do not agree on that yet.
        let statuses = self.tier.endpoints.statuses();
        let looked = statuses.len() == self.tier.pods.len();
        let comes_back = |name: &String, truth: &Truth| {
            let status = statuses.iter().find(|one| one.name == *name);
            let is_down = status.is_some_and(|one| one.state == EndpointState::Down);
            let is_new = truth.left_alone_until > self.now;
            truth.does == Does::Serves && (is_down || is_new)
        };
        let calm = !self
            .pods
            .iter()
            .any(|(name, truth)| comes_back(name, truth));
        if self.gone_at.is_empty() && looked && calm {
            self.note("the operator dies");
            self.tier.is_taken_over(self.now as f64 / 1000.0);
            self.dead_until = self.now + 2 * LAG_MS as i64 + 1_000;
            self.looks_at = self.dead_until;
        }
    }

    fn step(&mut self, happens: bool) {
        self.now += STEP_MS;
        if happens && self.dice.roll(300) == 0 {
            self.operator_changes();
        }
        if happens && self.dice.roll(20) == 0 {
            self.something_happens();
        }
        self.processes_go_on();
        self.balancers_check();
        self.news_arrive();
        self.looks();
    }

    /// How often something of this kind was told, by Pod.
    fn told(&self, is: impl Fn(Outage) -> bool) -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for change in self.tier.changes.iter().filter(|one| is(one.outage)) {
            *told.entry(change.name.clone()).or_default() += 1;
        }
        told
    }
}

/// `POOLKEEPER_SEEDS` says how many schedules there are, from the first on.
fn seeds() -> u64 {
    let given = std::env::var("POOLKEEPER_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(200)
}

#[test]
fn every_unplanned_end_is_told_once_and_every_outage_ends() {
    let mut ends = 0;
    for seed in 0..seeds() {
        let mut world = World::new(seed);
        for _ in 0..1_500 {
            world.step(true);
        }
        for _ in 0..1_000 {
            world.step(false);
        }
        let begun = |outage| matches!(outage, Outage::Begins | Outage::Restarted);
        let story = || world.story.join("\n");
        let told = world.told(begun);
        assert_eq!(told, world.expected, "seed {seed}:\n{}", story());
        let outages = world.told(|outage| outage == Outage::Begins);
        let ended = world.told(|outage| matches!(outage, Outage::Ends { .. }));
        assert_eq!(outages, ended, "seed {seed}:\n{}", story());
        let statuses = world.tier.endpoints.statuses();
        let all_up = statuses.iter().all(|one| one.state == EndpointState::Up);
        assert!(all_up, "seed {seed}: {statuses:#?}\n{}", story());
        ends += world.expected.values().sum::<usize>();
    }
    assert!(ends > seeds() as usize, "{ends} say little");
}
