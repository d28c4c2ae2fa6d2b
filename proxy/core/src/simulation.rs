//! A pooler in a world of its own, from a seed: clock, wires, applications and
//! servers are the simulation's, sessions and pools are the shipped ones.
//!
//! ```text
//!  application ──bytes, cut and delayed──> loop ──bytes──> model of PostgreSQL
//!      │                                    │
//!      └── compares each answer with a      └── letters to other loops, delayed
//!          model of its own, which got
//!          the same bytes
//! ```
//!
//! `POOLKEEPER_SEED=n` replays one seed with a trace, `POOLKEEPER_SEEDS=n` runs
//! that many.

mod application;
mod lending;
mod pooler;
mod postgres;
mod random;
mod trouble;
mod violation;
mod watch;
mod wires;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::sabotage::{self, Sabotage};
use violation::{Rule, Violation};
use world::World;

/// How long to try seeds, and how many at least.
const TIME_LIMIT: Duration = Duration::from_secs(8);
const SEEDS_MIN: u64 = 500;

/// One run. A panic is a violation, too.
fn run(seed: u64, traced: bool) -> Result<(), Violation> {
    let run = || World::new(seed, traced).run();
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("a panic").to_owned();
        Err(Violation::new(Rule::Panic, text))
    })
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

fn must_hold(seed: u64, traced: bool) {
    if let Err(violation) = run(seed, traced) {
        panic!(
            "seed {seed} breaks a rule: {violation}\n\
             replay: POOLKEEPER_SEED={seed} cargo test -p proxy-core thousands_of_seeds -- --nocapture"
        );
    }
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "how many seeds fit is the machine's business; each run has its own clock"
)]
fn thousands_of_seeds() {
    if let Some(seed) = number("POOLKEEPER_SEED") {
        return must_hold(seed, true);
    }
    let began = Instant::now();
    let wanted = number("POOLKEEPER_SEEDS");
    let mut seed = 0;
    loop {
        let enough = match wanted {
            Some(wanted) => seed >= wanted,
            None => seed >= SEEDS_MIN && began.elapsed() >= TIME_LIMIT,
        };
        if enough {
            break;
        }
        must_hold(seed, false);
        seed += 1;
    }
    println!("{seed} seeds in {:?}", began.elapsed());
}

#[test]
fn each_missing_safeguard_is_noticed() {
    for (fault, seeds, rules) in [
        (Sabotage::NoCancelGuard, 300, &[Rule::CancelHitOther][..]),
        (
            Sabotage::NoParseRollback,
            300,
            &[Rule::Taught, Rule::WrongAnswer],
        ),
        (
            Sabotage::ReadyForQueryOnly,
            300,
            &[Rule::GivenBackUnclean, Rule::Taught, Rule::Stuck],
        ),
        (Sabotage::LostWakeUp, 300, &[Rule::Forgotten]),
        (
            Sabotage::NoSettling,
            300,
            &[Rule::Taught, Rule::WrongAnswer],
        ),
        (Sabotage::AnswerAtOnce, 3_000, &[Rule::WrongAnswer]),
        (Sabotage::SharedUnnamed, 1_000, &[Rule::WrongAnswer]),
        (Sabotage::NoLookingAgain, 3_000, &[Rule::Forgotten]),
        (Sabotage::NothingGivenUp, 300, &[Rule::NotGivenUp]),
        (Sabotage::MinimumInDrain, 300, &[Rule::NotGivenUp]),
    ] {
        let broken = |seed| {
            let violation = sabotage::with(Some(fault), || run(seed, false)).err()?;
            Some((seed, violation))
        };
        let (seed, violation) = (0..seeds)
            .find_map(broken)
            .unwrap_or_else(|| panic!("{fault:?} passed {seeds} seeds unnoticed"));
        println!("{fault:?} is noticed by seed {seed}: {:?}", violation.rule);
        assert!(rules.contains(&violation.rule), "{fault:?}: {violation}");
    }
}
