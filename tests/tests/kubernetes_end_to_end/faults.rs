//! What fails of itself, while applications work.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    applications::{Account, Applications},
    told,
    world::World,
};

const APPLICATIONS: usize = 8;

/// A Pod that is gone at once, and a process that is: their sessions break, and
/// no others.
pub(crate) fn poolers_die(world: &mut World) -> Result<()> {
    for by_force in [true, false] {
        let before = world.pods("pooler")?;
        let victim = before.first().context("no pooler")?.name.clone();
        let applications = Applications::start(world, APPLICATIONS)?;
        applications.go_on(world, 50)?;
        let died = Instant::now();
        match by_force {
            true => drop(world.kubectl(&format!(
                "delete pod {victim} --grace-period=0 --force --wait=false"
            ))?),
            false => world.node.kill_container("default", &victim, "pooler")?,
        }
        let told = told::wait_for(world, &format!("{victim} is DOWN"))?;
        let took = told.saturating_duration_since(died).as_secs_f32();
        println!("    told {took:.1} s after its end");
        applications.go_on(world, 200)?;
        world.until("another process", || {
            let now = world.pods("pooler")?;
            let kept = now.iter().filter(|pod| before.contains(pod)).count();
            ensure!(now.len() == 3 && kept == 2, "{now:?}");
            Ok(())
        })?;
        world.settled(3)?;
        told::wait_for(world, &format!("{victim} is UP again"))?;
        applications.go_on(world, 50)?;
        at_most_one_each(applications.finish(world)?)?;
    }
    Ok(())
}

/// Whoever had a session of what died lost one transaction at most, and found
/// another pooler.
fn at_most_one_each(account: Account) -> Result<()> {
    ensure!(account.cut <= APPLICATIONS as u64, "{account:?}");
    Ok(())
}

pub(crate) fn postgres_is_away(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let applications = Applications::start(world, APPLICATIONS)?;
    applications.go_on(world, 50)?;
    world.kubectl("scale statefulset postgres --replicas=0")?;
    told::wait_for(world, "PostgreSQL is UNREACHABLE")?;
    world.condition("Ready", "False UpstreamUnreachable")?;
    world.kubectl("scale statefulset postgres --replicas=1")?;
    world.kubectl("rollout status statefulset/postgres --timeout=100s")?;
    told::wait_for(world, "PostgreSQL is reachable again")?;
    applications.go_on(world, 200)?;
    // Those that come back while it ends may be cut once more.
    applications.finish(world)?;
    world.settled(3)?;
    world.condition("Ready", "True Serving")?;
    ensure!(world.all_pods()? == before, "Pods were replaced");
    Ok(())
}

pub(crate) fn kubelet_stops(world: &mut World) -> Result<()> {
    let applications = Applications::start(world, APPLICATIONS)?;
    applications.go_on(world, 50)?;
    world.node.freeze_kubelet(true)?;
    let served = applications.go_on(world, 500);
    world.node.freeze_kubelet(false)?;
    served?;
    applications.finish(world)?.check_smooth()?;
    world.settled(3)
}

/// A rollout that cannot go on stops at its first Pod, and what ran runs.
pub(crate) fn image_is_missing(world: &mut World) -> Result<()> {
    let before = world.pods("pooler")?;
    world.patch(&json!({"spec": {"images": {"pooler": "127.0.0.1:9/none:1"}}}))?;
    let reason = world.until("the new Pod to be told of", || {
        let endpoints = world.endpoints()?;
        let down = endpoints.iter().find(|one| one["state"] == "Down");
        let reason = down.context("all are up")?["reason"].to_string();
        ensure!(reason.contains("Image"), "{reason}");
        Ok(reason)
    })?;
    println!("    {reason}");
    world.until("how far it is to be told", || {
        let reconciling = world.api.condition("shop", "Reconciling")?;
        ensure!(
            reconciling["reason"] == "RollingOut"
                && reconciling["message"] == "poolers: 1 of 3 are new, 4 there, 3 available",
            "{reconciling}"
        );
        Ok(())
    })?;
    world.condition("Ready", "True Serving")?;
    world.condition("PoolersAvailable", "True AllUp")?;
    let now = world.pods("pooler")?;
    ensure!(
        now.len() == 4 && before.iter().all(|pod| now.contains(pod)),
        "{now:?}"
    );
    world.sql(&world.password, "SELECT 1")?;
    // As it was before: what ran, runs.
    world.patch(&json!({"spec": {"images": {"pooler": null}}}))?;
    world.settled(3)?;
    ensure!(world.pods("pooler")? == before, "Pods were replaced");
    Ok(())
}
