//! What is changed while it runs, and what that takes.

use anyhow::{Result, ensure};
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

use crate::world::World;

/// Promised; a kubelet that is not told looks at a Pod's Secrets once a minute.
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn password(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    world.sql("change-me", "ALTER ROLE app PASSWORD 'changed'")?;
    let list = "\"app\" \"changed\"\n\"admin\" \"change-me-too\"\n";
    let patch = json!({"stringData": {"userlist.txt": list}}).to_string();
    let begin = Instant::now();
    world.node.kubectl(&[
        "patch",
        "secret",
        "shop-users",
        "--type=merge",
        "-p",
        &patch,
    ])?;
    world.password = "changed".to_owned();
    world.until("the new password to be taken", || {
        world.sql("changed", "SELECT 1")
    })?;
    let first = begin.elapsed();
    world.settled(3)?;
    let all = begin.elapsed();
    println!("    first after {first:.1?}, all after {all:.1?}");
    // Whichever pooler is chosen.
    for _ in 0..9 {
        world.sql("changed", "SELECT 1")?;
        world.check_refused("change-me")?;
    }
    ensure!(all < SOON, "it took {all:?}");
    ensure!(world.all_pods()? == before, "Pods were replaced");
    Ok(())
}

pub(crate) fn reload(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let revision = world.api.revision("shop")?;
    let begin = Instant::now();
    world.patch(&json!({"spec": {"pool": {"defaultPoolSize": 60}}}))?;
    world.until("another revision", || {
        let now = world.api.revision("shop")?;
        ensure!(now != revision, "it is {now}");
        Ok(())
    })?;
    world.settled(3)?;
    let all = begin.elapsed();
    println!("    in force everywhere after {all:.1?}");
    ensure!(all < SOON, "it took {all:?}");
    ensure!(world.all_pods()? == before, "Pods were replaced");
    Ok(())
}

pub(crate) fn roll(world: &mut World) -> Result<()> {
    let (poolers, balancers) = (world.pods("pooler")?, world.pods("balancer")?);
    let settings = |world: &World| -> Result<Json> {
        let deployment = world.api.deployment("shop-pooler")?;
        let volumes = &deployment["spec"]["template"]["spec"]["volumes"];
        let volumes = volumes.as_array().cloned().unwrap_or_default();
        let named = volumes.into_iter().find(|one| one["name"] == "settings");
        Ok(named.unwrap_or_default()["secret"]["secretName"].clone())
    };
    let before = settings(world)?;
    // Short drains, for what comes after this.
    world.patch(&json!({"spec": {
        "pool": {"parameters": {"listen_backlog": 256}},
        "poolers": {"drainTimeout": "5s"},
    }}))?;
    world.until("other settings", || {
        let now = settings(world)?;
        ensure!(now != before, "they are {now}");
        Ok(())
    })?;
    world.settled(3)?;
    let after = world.pods("pooler")?;
    ensure!(
        !after.iter().any(|pod| poolers.contains(pod)),
        "not all were replaced: {after:?}"
    );
    ensure!(
        world.pods("balancer")? == balancers,
        "balancers were replaced"
    );
    Ok(())
}
