//! What fails of itself, while applications work.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio_postgres::error::SqlState;

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
    let stopped = Instant::now();
    world.kubectl("scale statefulset postgres --replicas=0")?;
    told::wait_for(world, "PostgreSQL is UNREACHABLE")?;
    world.condition("Ready", "False UpstreamUnreachable")?;
    world.kubectl("wait --for=delete pod/postgres-0 --timeout=100s")?;
    let gone = Instant::now();
    world.kubectl("scale statefulset postgres --replicas=1")?;
    world.kubectl("rollout status statefulset/postgres --timeout=100s")?;
    let back = Instant::now();
    applications.go_on(world, 200)?;
    println!("    served {:.1?} after it was ready", back.elapsed());
    told::wait_for(world, "PostgreSQL is reachable again")?;
    let cuts = applications.cuts();
    applications.finish(world)?;
    // What was under way when it ended, in its own words, and nothing later. Who
    // came back while it ended may have been cut once more.
    ensure!(
        cuts.len() <= 2 * APPLICATIONS
            && cuts
                .iter()
                .all(|cut| cut.code == Some(SqlState::ADMIN_SHUTDOWN)
                    && (stopped..gone).contains(&cut.at)),
        "it ended from {stopped:?} to {gone:?}: {cuts:?}"
    );
    world.settled(3)?;
    world.condition("Ready", "True Serving")?;
    ensure!(world.all_pods()? == before, "Pods were replaced");
    Ok(())
}

/// For long enough that its Pods are taken out of all Services: sessions go on,
/// and people are told nothing, for no pooler and no balancer is down.
pub(crate) fn kubelet_stops(world: &mut World) -> Result<()> {
    let (before, told) = (world.all_pods()?, world.inbox.inbox.texts());
    // PostgreSQL is on that node too, and out of its Service it would rightly be told
    // as unreachable.
    keep_postgres_in_its_service(world, true)?;
    let applications = Applications::start(world, APPLICATIONS)?;
    applications.go_on(world, 50)?;
    world.node.freeze_kubelet(true)?;
    let served = without_kubelet(world, &applications);
    world.node.freeze_kubelet(false)?;
    served?;
    world.until("the node to be ready again", || {
        let ready = node_ready(world)?;
        ensure!(ready == "True", "it is {ready}");
        Ok(())
    })?;
    world.settled(3)?;
    world.until("an answer to somebody new", || {
        world.sql(&world.password, "SELECT 1")
    })?;
    applications.go_on(world, 50)?;
    applications.finish(world)?.check_smooth()?;
    keep_postgres_in_its_service(world, false)?;
    ensure!(world.all_pods()? == before, "Pods were replaced");
    let now = world.inbox.inbox.texts();
    ensure!(now == told, "people were told: {now:#?}");
    Ok(())
}

/// Whether it stays there though its Pod counts as not ready.
fn keep_postgres_in_its_service(world: &World, stays: bool) -> Result<()> {
    let patch = json!({"spec": {"publishNotReadyAddresses": stays}});
    let line = format!("patch service postgres --patch {patch}");
    world.kubectl(&line).map(drop)
}

fn without_kubelet(world: &World, applications: &Applications) -> Result<()> {
    world.until("the node to be given up", || {
        let ready = node_ready(world)?;
        ensure!(ready == "Unknown", "it is {ready}");
        Ok(())
    })?;
    world.until("its Pods to count as not ready", || {
        for name in ["shop-pooler", "shop-balancer"] {
            let status = &world.api.deployment(name)?["status"];
            ensure!(status["readyReplicas"].is_null(), "{name}: {status}");
        }
        Ok(())
    })?;
    applications.go_on(world, 500)?;
    world.condition("Ready", "True Serving")?;
    world.condition("PoolersAvailable", "True AllUp")?;
    world.condition("BalancersAvailable", "True AllUp")?;
    world.condition("Stalled", "False NotStalled")?;
    let endpoints = world.endpoints()?;
    ensure!(
        endpoints.len() == 5 && endpoints.iter().all(|one| one["state"] == "Up"),
        "{endpoints:?}"
    );
    Ok(())
}

/// What the API server has of the node's condition Ready.
fn node_ready(world: &World) -> Result<String> {
    let nodes = world.api.get("/api/v1/nodes")?;
    let conditions = nodes["items"][0]["status"]["conditions"].as_array();
    let conditions = conditions.context("the node has no conditions")?;
    let ready = conditions.iter().find(|one| one["type"] == "Ready");
    let ready = ready.context("the node is not known")?;
    Ok(ready["status"].as_str().unwrap_or_default().to_owned())
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
