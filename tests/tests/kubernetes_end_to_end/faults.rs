//! What fails of itself, while applications work.

use anyhow::{Context, Result, ensure};

use crate::{
    applications::{Account, Applications},
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
        match by_force {
            true => drop(world.kubectl(&format!(
                "delete pod {victim} --grace-period=0 --force --wait=false"
            ))?),
            false => world.node.kill_container("default", &victim, "pooler")?,
        }
        applications.go_on(world, 200)?;
        world.until("another process", || {
            let now = world.pods("pooler")?;
            let kept = now.iter().filter(|pod| before.contains(pod)).count();
            ensure!(now.len() == 3 && kept == 2, "{now:?}");
            Ok(())
        })?;
        world.settled(3)?;
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

pub(crate) fn postgres_restarts(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let applications = Applications::start(world, APPLICATIONS)?;
    applications.go_on(world, 50)?;
    world.kubectl("delete pod postgres-0")?;
    world.kubectl("rollout status statefulset/postgres --timeout=100s")?;
    applications.go_on(world, 200)?;
    // Those that come back while it ends may be cut once more.
    applications.finish(world)?;
    world.settled(3)?;
    world.condition("Ready", "True Serving")?;
    ensure!(world.all_pods()? == before, "Pods were replaced");
    Ok(())
}
