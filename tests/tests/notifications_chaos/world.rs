//! A tier to which everything happens, and who keeps a diary of it.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tests::{Answer, Inbox, Operator, Part, Postgres, Signal, wait};

use crate::truth::{ENDPOINTS, Truth};

const EXAMPLE: &str = include_str!("../../../examples/quickstart.yaml");
const LONG: Duration = Duration::from_secs(60);
/// How long the operator must have looked, after a freeze that it may have
/// missed, until what it says is what it will say.
const HINDSIGHT: Duration = Duration::from_secs(3);
/// How often each is hit, so that some flap and others do not.
const WEIGHTS: [usize; 5] = [8, 1, 3, 1, 3];

/// What the inboxes do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inboxes {
    /// They answer now this, now that.
    Fail,
    /// They go on as they did.
    AsTheyAre,
}

/// What the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Runs,
    Frozen,
    Dead,
}

/// Why an endpoint is not known to be well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hurt {
    /// This process of it was killed.
    Killed(Part),
    /// It is frozen.
    Frozen { part: Part, seen: bool },
    /// It was, until then.
    Thawed { seen: bool, at: Instant },
}

/// A generator that says its seed, and takes one from `POOLKEEPER_SEED`.
struct Dice(u64);

impl Dice {
    fn seeded() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let given = std::env::var("POOLKEEPER_SEED").ok();
        let given = given.and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
        println!("POOLKEEPER_SEED={seed}");
        Self(seed)
    }

    /// splitmix64.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub(crate) struct World {
    operator: Operator,
    life: Life,
    /// When the operator was started or thawed last.
    looks_since: Instant,
    /// What people read.
    pub(crate) slack: Inbox,
    /// The same as JSON.
    pub(crate) own: Inbox,
    pub(crate) truth: Truth,
    diary: Vec<String>,
    hurts: BTreeMap<&'static str, Hurt>,
    dice: Dice,
    begun: Instant,
    _postgres: Postgres,
}

/// The example, quick to notice and quick to tell.
fn manifest(own: &Inbox) -> String {
    let example = EXAMPLE
        .replace(
            "check: {interval: 2s, timeout: 1s, fall: 3, rise: 2}",
            "check: {interval: 500ms, timeout: 500ms, fall: 4, rise: 2}",
        )
        .replace(
            "sendResolved: true",
            "groupInterval: 1s\n    - name: own\n      groupInterval: 1s\n      webhook: {urlSecretRef: {name: own, key: url}}",
        );
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: own}\nstringData:";
    format!("{example}{secret} {{url: \"{}/own\"}}\n", own.root_url())
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let (postgres, slack, own) = (Postgres::start()?, Inbox::start()?, Inbox::start()?);
        let mut operator = Operator::builder(&manifest(&own))
            .secrets(&slack)
            .upstream(&postgres)
            .start()?;
        operator.wait_until_ready()?;
        operator.wait_until_it_serves()?;
        let world = Self {
            operator,
            life: Life::Runs,
            looks_since: Instant::now(),
            slack,
            own,
            truth: Truth::new(),
            diary: Vec::new(),
            hurts: BTreeMap::new(),
            dice: Dice::seeded(),
            begun: Instant::now(),
            _postgres: postgres,
        };
        world.wait_until_all_up()?;
        Ok(world)
    }

    fn note(&mut self, text: &str) {
        let at = self.begun.elapsed().as_secs_f32();
        let wall = Timestamp::now();
        self.diary.push(format!("{at:7.3} {wall:.3} {text}"));
    }

    fn goes_on(&self, period: Duration) -> Result<()> {
        wait::holds_for("the world goes on", period, || true)
    }

    /// The operator's own status; none while it does not answer.
    fn status(&self) -> Option<Value> {
        match self.life {
            Life::Runs => self.operator.status().ok(),
            Life::Frozen | Life::Dead => None,
        }
    }

    /// State and process of an endpoint, as the operator tells.
    fn told(status: &Value, name: &str) -> Option<(String, u64)> {
        let of = |list: &Value| {
            let mut all = list.as_array()?.iter();
            all.find(|one| one["name"] == name).cloned()
        };
        let state = of(&status["status"]["endpoints"])?["state"]
            .as_str()?
            .to_owned();
        Some((state, of(&status["children"])?["pid"].as_u64()?))
    }

    /// Learns who is well again, and whose freeze was seen.
    fn look(&mut self) {
        let Some(status) = self.status() else { return };
        let looks_for = self.looks_since.elapsed();
        let hurts: Vec<(&'static str, Hurt)> = self
            .hurts
            .iter()
            .map(|(name, hurt)| (*name, *hurt))
            .collect();
        for (name, hurt) in hurts {
            let Some((state, pid)) = Self::told(&status, name) else {
                continue;
            };
            let is_up = state == "Up";
            let well = match hurt {
                Hurt::Killed(part) => is_up && pid != 0 && pid != u64::from(part.pid),
                Hurt::Frozen { part, seen: false } if state == "Down" => {
                    self.truth.is_sure(name);
                    self.hurts.insert(name, Hurt::Frozen { part, seen: true });
                    self.note(&format!("{name} is Down, frozen"));
                    false
                }
                Hurt::Frozen { .. } => false,
                Hurt::Thawed { seen: true, .. } => is_up,
                Hurt::Thawed { seen: false, at } => {
                    is_up && looks_for.min(at.elapsed()) > HINDSIGHT
                }
            };
            if well {
                self.hurts.remove(name);
                self.truth.well(name);
                self.note(&format!("{name} is well"));
            }
        }
    }

    /// Goes on for so long with blows of every kind.
    pub(crate) fn strike(&mut self, period: Duration, inboxes: Inboxes) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < period {
            let pause = 20 + self.dice.below(250) as u64;
            self.goes_on(Duration::from_millis(pause))?;
            self.look();
            match self.dice.below(10) {
                0..3 => self.hit_one()?,
                3..6 => self.touch_frozen(),
                6..9 => self.touch_operator()?,
                _ => self.blink()?,
            }
            if inboxes == Inboxes::Fail && self.dice.chance(15) {
                self.change_an_inbox();
            }
        }
        Ok(())
    }

    fn part(&self, name: &str) -> Option<Part> {
        self.operator.process(name)
    }

    /// One that is well, chosen by weight.
    fn choose(&mut self) -> Option<(&'static str, Part)> {
        let mut left = self.dice.below(WEIGHTS.iter().sum());
        let mut weighted = ENDPOINTS.into_iter().zip(WEIGHTS);
        let (name, _) = weighted.find(|(_, weight)| {
            let is_it = left < *weight;
            left = left.saturating_sub(*weight);
            is_it
        })?;
        let part = self.part(name)?;
        (!self.hurts.contains_key(name)).then_some((name, part))
    }

    fn hit_one(&mut self) -> Result<()> {
        let Some((name, part)) = self.choose() else {
            return Ok(());
        };
        if self.dice.chance(70) {
            return self.kill(name);
        }
        part.signal(Signal::STOP);
        self.truth.frozen(name);
        self.hurts.insert(name, Hurt::Frozen { part, seen: false });
        self.note(&format!("freeze {name}, {}", part.pid));
        Ok(())
    }

    pub(crate) fn kill(&mut self, name: &'static str) -> Result<()> {
        let part = self.part(name).context("it does not run")?;
        self.truth.killed(name);
        part.signal(Signal::KILL);
        self.hurts.insert(name, Hurt::Killed(part));
        self.note(&format!("kill {name}, {}", part.pid));
        Ok(())
    }

    /// Too short to be noticed by anyone.
    fn blink(&mut self) -> Result<()> {
        if let Some((name, part)) = self.choose() {
            part.signal(Signal::STOP);
            let over = self.goes_on(Duration::from_millis(100));
            part.signal(Signal::CONT);
            self.note(&format!("{name} blinks"));
            over?;
        }
        Ok(())
    }

    /// One that is frozen is killed or let go.
    fn touch_frozen(&mut self) {
        let frozen: Vec<(&'static str, Part, bool)> = self
            .hurts
            .iter()
            .filter_map(|(name, hurt)| match hurt {
                Hurt::Frozen { part, seen } => Some((*name, *part, *seen)),
                Hurt::Killed(_) | Hurt::Thawed { .. } => None,
            })
            .collect();
        for (name, part, seen) in frozen {
            if self.dice.chance(20) {
                part.signal(Signal::KILL);
                if !seen {
                    self.truth.is_sure(name);
                }
                self.hurts.insert(name, Hurt::Killed(part));
                self.note(&format!("kill {name}, frozen, {}", part.pid));
            } else if seen || (self.life != Life::Runs && self.dice.chance(15)) {
                self.thaw(name, part, seen);
            }
        }
    }

    fn thaw(&mut self, name: &'static str, part: Part, seen: bool) {
        part.signal(Signal::CONT);
        let at = Instant::now();
        self.hurts.insert(name, Hurt::Thawed { seen, at });
        self.note(&format!("thaw {name}, seen: {seen}"));
    }

    fn touch_operator(&mut self) -> Result<()> {
        match (self.life, self.dice.below(10)) {
            (Life::Runs, 0..2) => self.kill_operator(),
            (Life::Runs, 2..3) => {
                self.operator.child().signal(Signal::STOP);
                self.life = Life::Frozen;
                self.note("freeze the operator");
            }
            (Life::Runs, _) => {}
            (Life::Frozen, 0..2) => self.kill_operator(),
            _ => self.revive_operator()?,
        }
        Ok(())
    }

    fn kill_operator(&mut self) {
        self.operator.kill9();
        // The kernel lets those go on whose parent died while they were stopped.
        for hurt in self.hurts.values() {
            if let Hurt::Frozen { part, .. } = hurt {
                part.signal(Signal::STOP);
            }
        }
        self.life = Life::Dead;
        self.note("kill the operator");
    }

    fn revive_operator(&mut self) -> Result<()> {
        match self.life {
            Life::Runs => return Ok(()),
            Life::Frozen => self.operator.child().signal(Signal::CONT),
            Life::Dead => self.operator.start_again()?,
        }
        self.life = Life::Runs;
        self.looks_since = Instant::now();
        self.note("the operator goes on");
        Ok(())
    }

    fn change_an_inbox(&mut self) {
        let (inbox, name) = match self.dice.chance(50) {
            true => (&self.slack, "slack"),
            false => (&self.own, "own"),
        };
        let answer = match self.dice.below(10) {
            0 => Answer::Status(500),
            1 => Answer::RetryAfter(1),
            2 => Answer::Close,
            3 => Answer::Hang,
            // Slack never answers so; of a service of one's own, 2xx is enough.
            4 if name == "slack" => Answer::Garbage,
            _ => Answer::Ok,
        };
        inbox.answer(answer);
        self.note(&format!("{name} answers {answer:?}"));
    }

    /// Nothing more is done to anyone, and all have come back.
    pub(crate) fn heal(&mut self) -> Result<()> {
        self.note("heal");
        self.slack.answer(Answer::Ok);
        self.own.answer(Answer::Ok);
        self.revive_operator()?;
        let deadline = Instant::now() + LONG;
        while !self.hurts.is_empty() {
            self.look();
            let hurts: Vec<_> = self
                .hurts
                .iter()
                .map(|(name, hurt)| (*name, *hurt))
                .collect();
            for (name, hurt) in hurts {
                if let Hurt::Frozen { part, seen: true } = hurt {
                    self.thaw(name, part, true);
                }
            }
            self.operator.child().check_runs("the operator")?;
            ensure!(
                Instant::now() < deadline,
                "these are not well again: {:?}\n{}",
                self.hurts,
                self.account()
            );
            self.goes_on(Duration::from_millis(50))?;
        }
        self.wait_until_told()
    }

    /// Waits until nobody has anything more to be told.
    fn wait_until_told(&self) -> Result<()> {
        wait::until("everything to be told", LONG, || {
            let state = self.operator.state().map_err(|error| error.to_string())?;
            let notifier = &state["notifier"];
            let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
            let channels = notifier["channels"].as_object();
            let quiet = channels.is_some_and(|channels| {
                let mut all = channels.values();
                all.all(|channel| {
                    channel["cursor"] == notifier["sequence"] && channel["claim"].is_null()
                })
            });
            match quiet && empty(&notifier["log"]) {
                true => Ok(()),
                false => Err(format!("{notifier:#}")),
            }
        })
    }

    fn wait_until_all_up(&self) -> Result<()> {
        wait::until("all endpoints to be up", LONG, || {
            let status = self
                .status()
                .ok_or_else(|| "it does not answer".to_owned())?;
            let is_up = |name: &&str| {
                Self::told(&status, name).is_some_and(|(state, pid)| state == "Up" && pid != 0)
            };
            match ENDPOINTS.iter().all(is_up) {
                true => Ok(()),
                false => Err(format!("{:#}", status["status"]["endpoints"])),
            }
        })
    }

    /// So much time passes, in which nothing happens and no operator runs: all
    /// that it remembers is as much older.
    pub(crate) fn let_time_pass(&mut self, period: Duration) -> Result<()> {
        if self.life != Life::Dead {
            self.kill_operator();
        }
        let mut state = self.operator.state()?;
        let by = SignedDuration::try_from(period)?;
        make_older(&mut state, by)?;
        state.as_object_mut().context("an object")?.remove("sum");
        let file = self.operator.state_dir().join("state.json");
        fs::write(&file, serde_json::to_vec_pretty(&state)?)?;
        self.truth.time_passed(period);
        self.note(&format!("{period:?} pass"));
        self.revive_operator()
    }

    /// Waits until nothing flaps any more and all of it is told.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.wait_until_all_up()?;
        wait::until("everyone to be steady", LONG, || {
            let state = self.operator.state().map_err(|error| error.to_string())?;
            let flaps = &state["notifier"]["flaps"];
            let flap = |flaps: &Vec<Value>| flaps.iter().any(|one| one["flapping"].is_object());
            match flaps.as_array().is_some_and(flap) {
                false => Ok(()),
                true => Err(format!("{flaps:#}")),
            }
        })?;
        self.wait_until_told()
    }

    /// The diary, and beside it what the operators took for outages.
    pub(crate) fn account(&self) -> String {
        let outages = self.operator.events().into_iter().filter_map(|event| {
            let (kind, outage) = (event["event"].as_str()?, event["outage"].as_str()?);
            let at = event["time"].as_str()?.parse::<Timestamp>().ok()?;
            (kind == "transition" && outage != "none").then(|| {
                format!(
                    "        {at:.3} {} {outage}: {}",
                    event["name"], event["reason"]
                )
            })
        });
        let mut lines: Vec<String> = self.diary.iter().cloned().chain(outages).collect();
        // Behind the seconds since the beginning stands the time.
        lines.sort_by(|one, other| one.get(8..).cmp(&other.get(8..)));
        lines.join("\n")
    }

    /// The planned end, of which nothing is told.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let told = self.slack.texts().len() + self.own.texts().len();
        self.operator.terminate(LONG)?;
        let texts = [self.slack.texts(), self.own.texts()].concat();
        ensure!(told == texts.len(), "the end was told: {texts:#?}");
        let log = self.operator.log();
        ensure!(
            !log.contains(self.slack.secret()),
            "the secret is in the log"
        );
        Ok(())
    }
}

/// Moves every time of what is remembered back, texts and milliseconds. Not when
/// processes were over: a balancer that is frozen meanwhile lags behind by real
/// time, and goes on telling of them.
fn make_older(value: &mut Value, by: SignedDuration) -> Result<()> {
    match value {
        Value::String(text) => {
            if let Ok(at) = text.parse::<Timestamp>() {
                *text = at.checked_sub(by)?.to_string();
            }
        }
        // No other number is that large.
        Value::Number(number) => {
            if let Some(ms) = number.as_i64().filter(|ms| *ms > 1_000_000_000_000) {
                *value = (ms - i64::try_from(by.as_millis())?).into();
            }
        }
        Value::Array(values) => values.iter_mut().try_for_each(|one| make_older(one, by))?,
        Value::Object(fields) => fields
            .iter_mut()
            .filter(|(name, _)| *name != "former")
            .try_for_each(|(_, one)| make_older(one, by))?,
        Value::Null | Value::Bool(_) => {}
    }
    Ok(())
}
