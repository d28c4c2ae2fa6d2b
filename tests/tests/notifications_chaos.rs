//! Poolers, balancers and the operator are killed and frozen in random order,
//! while those who are told fail in every way: afterwards the inbox tells what
//! happened, all of it, in order, each thing once, and nothing else.
//!
//! `POOLKEEPER_SEED` repeats a choice of blows, as far as processes let it;
//! `POOLKEEPER_CHAOS_SECONDS` is how long they go on, 30 without.

#[path = "notifications_chaos/story.rs"]
mod story;
#[path = "notifications_chaos/truth.rs"]
mod truth;
#[path = "notifications_chaos/world.rs"]
mod world;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use story::Story;
use tests::Answer;
use world::{Inboxes, World};

/// Messages that may follow an hour in which none arrived, on each channel.
const AFTER_AN_HOUR_MAX: usize = 12;

/// Who is frozen must not be one for whom there was no processor: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn chaos_time() -> Duration {
    let given = std::env::var("POOLKEEPER_CHAOS_SECONDS").ok();
    let seconds = given.and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

#[test]
fn the_inbox_tells_the_true_story_of_random_kills() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::start()?;
    world.strike(chaos_time(), Inboxes::Fail)?;
    world.heal()?;
    // Those that came and went too often are told again once they are steady.
    world.let_time_pass(Duration::from_secs(600))?;
    world.settle()?;
    world.stop()?;
    let story = Story::read(&world.own.messages(), &world.slack.texts())?;
    println!("{}: {story}", world.truth);
    story.check(&world.truth, &world.account())
}

#[test]
fn an_hour_without_slack_in_the_middle_of_an_incident_is_told_in_few_messages() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::start()?;
    world.kill("pooler-1")?;
    world
        .slack
        .wait_for("the beginning", Duration::from_secs(20), |text| {
            text.contains("pooler-1 is DOWN")
        })?;
    for inbox in [&world.slack, &world.own] {
        inbox.answer(Answer::Status(503));
    }
    let before = [world.slack.texts().len(), world.own.texts().len()];
    world.strike(Duration::from_secs(8), Inboxes::AsTheyAre)?;
    world.let_time_pass(Duration::from_secs(3600))?;
    world.strike(Duration::from_secs(8), Inboxes::AsTheyAre)?;
    let after = [world.slack.texts().len(), world.own.texts().len()];
    ensure!(before == after, "something arrived: {before:?}, {after:?}");
    world.heal()?;
    world.let_time_pass(Duration::from_secs(600))?;
    world.settle()?;
    world.stop()?;
    let story = Story::read(&world.own.messages(), &world.slack.texts())?;
    println!("{}: {story}", world.truth);
    for (inbox, before) in [&world.slack, &world.own].into_iter().zip(before) {
        let told = inbox.texts().len() - before;
        ensure!(
            told <= AFTER_AN_HOUR_MAX,
            "{told} messages after the hour: {:#?}",
            inbox.texts()
        );
    }
    story.check(&world.truth, &world.account())
}
