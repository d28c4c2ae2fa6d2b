//! From two manifests to an answer.

use anyhow::{Result, ensure};

use crate::world::{QUICKSTART, World};

pub(crate) fn serve(world: &mut World) -> Result<()> {
    world.kubectl("rollout status statefulset/postgres --timeout=120s")?;
    world.node.apply(QUICKSTART)?;
    world.kubectl("wait --for=condition=Ready pgpc/shop --timeout=120s")?;
    // kube-proxy learns of ready Pods a moment after we do.
    world.until("an answer through the Service", || {
        world.sql("change-me", "SELECT 1")
    })?;
    let server = world.sql("change-me", "SELECT inet_server_addr()")?;
    let postgres = world.api.core("pods", "postgres-0")?;
    ensure!(
        postgres["status"]["podIP"] == server.as_str(),
        "{server} answered, which is not PostgreSQL's Pod"
    );
    world.until("the application", || world.sql_in_pod("SELECT 1"))?;
    let there = world.sql_in_pod("SELECT inet_server_addr()")?;
    ensure!(there == server, "a Pod is answered by {there}");
    world.check_refused("wrong")?;
    world.settled(3)
}

pub(crate) fn tell(world: &mut World) -> Result<()> {
    for pod in world.all_pods()? {
        let log = world.kubectl(&format!("logs {}", pod.name))?;
        ensure!(!log.is_empty(), "{} says nothing", pod.name);
    }
    for type_ in ["PoolersAvailable", "BalancersAvailable"] {
        world.condition(type_, "True AllUp")?;
    }
    let table = world.kubectl("get pgpc")?;
    let words: Vec<&str> = table.split_whitespace().collect();
    let columns = ["NAME", "READY", "POOLERS", "BALANCERS", "MODE", "AGE"];
    let values = ["shop", "True", "3/3", "2/2", "transaction"];
    ensure!(
        words.starts_with(&[&columns[..], &values].concat()),
        "{table}"
    );
    Ok(())
}
