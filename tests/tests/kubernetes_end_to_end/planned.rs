//! Planned work, while applications work: none of their transactions is cut.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{psql, wait};

use crate::{applications::Applications, world::World};

const APPLICATIONS: usize = 8;

pub(crate) fn scale(world: &mut World) -> Result<()> {
    let applications = Applications::start(world, APPLICATIONS)?;
    for count in [5, 2] {
        applications.go_on(world, 50)?;
        world.kubectl(&format!("scale pgpc shop --replicas={count}"))?;
        world.settled(count)?;
    }
    applications.go_on(world, 50)?;
    let account = applications.finish(world)?;
    account.check_smooth()?;
    ensure!(account.moved > 0, "nobody had to move: {account:?}");
    world.kubectl("scale pgpc shop --replicas=3")?;
    world.settled(3)
}

pub(crate) fn restart(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let applications = Applications::start(world, APPLICATIONS)?;
    applications.go_on(world, 50)?;
    world.kubectl("annotate pgpc shop poolkeeper.dev/restart=now")?;
    world.until("every Pod to be another", || {
        let left = world.all_pods()?;
        ensure!(!left.iter().any(|pod| before.contains(pod)), "{left:?}");
        Ok(())
    })?;
    world.settled(3)?;
    applications.go_on(world, 50)?;
    applications.finish(world)?.check_smooth()
}

/// A node is emptied as far as the PodDisruptionBudgets let it, which is one of a
/// kind: there is no other node for those that would take their place.
pub(crate) fn drain(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let applications = Applications::start(world, APPLICATIONS)?;
    applications.go_on(world, 50)?;
    let node = world.kubectl("get nodes -o name")?;
    let node = node.trim().trim_start_matches("node/");
    let ours = "--pod-selector=app.kubernetes.io/instance=shop --delete-emptydir-data";
    // It does not get to its end.
    let drained = world.kubectl(&format!("drain {node} {ours} --timeout=8s"));
    ensure!(drained.is_err(), "no budget was kept: {drained:?}");
    world.until("two of them to be replaced", || {
        let left = world.all_pods()?;
        let kept = left.iter().filter(|pod| before.contains(pod)).count();
        ensure!(kept == before.len() - 2, "{left:?}");
        Ok(())
    })?;
    world.kubectl(&format!("uncordon {node}"))?;
    world.settled(3)?;
    applications.go_on(world, 50)?;
    applications.finish(world)?.check_smooth()
}

/// Who asks while it is paused is answered when it goes on.
pub(crate) fn pause(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    world.patch(&json!({"spec": {"pool": {"state": "Paused"}}}))?;
    world.condition("Paused", "True Paused")?;
    let (address, password) = (world.service()?, format!("password={}", world.password));
    let query = thread::spawn(move || psql::run(address, "app", "postgres", &password, "SELECT 7"));
    wait::holds_for("the query's waiting", Duration::from_secs(2), || {
        !query.is_finished()
    })?;
    world.patch(&json!({"spec": {"pool": {"state": "Running"}}}))?;
    world.condition("Paused", "False Running")?;
    let answer = query.join().expect("psql's thread does not panic")?;
    ensure!(answer == "7", "{answer}");
    world.settled(3)?;
    ensure!(world.all_pods()? == before, "Pods were replaced");
    Ok(())
}
