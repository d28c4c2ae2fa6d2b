//! Planned work, while applications work: none of their transactions is cut.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{http, psql, wait};

use crate::{applications::Applications, rounds::Rounds, world::World};

/// More than the servers that a tier of two or three has within its budget.
const APPLICATIONS: usize = 16;

/// From now on, and through what comes next, they share few servers.
pub(crate) fn budget(world: &mut World) -> Result<()> {
    world.patch(&json!({"spec": {"pool": {"maxServerConnections": 20}}}))?;
    world.settled(3)?;
    world.budget = Some(20);
    Ok(())
}

pub(crate) fn scale(world: &mut World) -> Result<()> {
    let rounds = Rounds::start(world)?;
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
    rounds.finish(world)?;
    world.kubectl("scale pgpc shop --replicas=3")?;
    world.settled(3)
}

pub(crate) fn restart(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let rounds = Rounds::start(world)?;
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
    applications.finish(world)?.check_smooth()?;
    rounds.finish(world)
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
    applications.finish(world)?.check_smooth()?;
    world.patch(&json!({"spec": {"pool": {"maxServerConnections": null}}}))?;
    world.settled(3)?;
    world.budget = None;
    Ok(())
}

/// Who asks while it is paused is answered when it goes on; a pooler that comes
/// meanwhile waits with the others, and is ready.
pub(crate) fn pause(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    world.patch(&json!({"spec": {"pool": {"state": "Paused"}}}))?;
    world.condition("Paused", "True Paused")?;
    let (address, password) = (world.service()?, format!("password={}", world.password));
    let query = thread::spawn(move || psql::run(address, "app", "postgres", &password, "SELECT 7"));
    world.kubectl("scale pgpc shop --replicas=4")?;
    world.settled(4)?;
    let poolers = world.pods("pooler")?;
    let mut new = poolers.iter().filter(|pod| !before.contains(pod));
    let new = &new.next().context("no pooler is new")?.name;
    ensure!(state_of(world, new)? == "paused", "{new} is not paused");
    world.condition("Paused", "True Paused")?;
    world.condition("Ready", "True Serving")?;
    wait::holds_for("the query's waiting", Duration::from_secs(2), || {
        !query.is_finished()
    })?;
    world.patch(&json!({"spec": {"pool": {"state": "Running"}}}))?;
    world.condition("Paused", "False Running")?;
    let answer = query.join().expect("psql's thread does not panic")?;
    ensure!(answer == "7", "{answer}");
    ensure!(state_of(world, new)? == "ready", "{new} is paused");
    let now = world.all_pods()?;
    ensure!(
        now.len() == 6 && before.iter().all(|pod| now.contains(pod)),
        "Pods were replaced: {now:?}"
    );
    world.kubectl("scale pgpc shop --replicas=3")?;
    world.settled(3)
}

/// What a pooler says of itself.
fn state_of(world: &World, pooler: &str) -> Result<String> {
    let pod = world.api.core("pods", pooler)?;
    let address = pod["status"]["podIP"].as_str();
    let address: IpAddr = address.context("it has no address")?.parse()?;
    let status = http::get((address, 9127).into(), "/status")?.json()?;
    Ok(status["state"].as_str().unwrap_or_default().to_owned())
}
