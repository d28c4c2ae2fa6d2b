//! The operator: in Pods of its own by the chart, of another version, and what
//! it does for several namespaces.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{kubernetes::kubectl, psql};

use crate::world::{LATER, QUICKSTART, SYSTEM, World};

/// Both replicas die, and newer ones come by helm: nothing rolls until somebody asks.
pub(crate) fn is_succeeded(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let operators = format!("-l app.kubernetes.io/component=operator --namespace {SYSTEM}");
    world.kubectl(&format!(
        "delete pods {operators} --grace-period=0 --force --wait=false"
    ))?;
    world.sql(&world.password, "SELECT 1")?;
    let tags = ["operator", "pooler", "balancer"].map(|name| format!("images.{name}.tag={LATER}"));
    world.upgrade(&["--set-string", &tags.join(",")])?;
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let get = format!("get deployment poolkeeper-operator --namespace {SYSTEM} -o {image}");
    let image = world.kubectl(&get)?;
    ensure!(image.ends_with(LATER), "the operator's image is {image}");
    world.condition("UpdateAvailable", "True NewImages")?;
    world.condition("Ready", "True Serving")?;
    // It acts, and rolls nothing.
    world.patch(&json!({"spec": {"pool": {"defaultPoolSize": 50}}}))?;
    world.settled(3)?;
    ensure!(world.all_pods()? == before, "Pods were replaced");
    world.kubectl("annotate pgpc shop poolkeeper.dev/update=now")?;
    world.condition("UpdateAvailable", "False UpToDate")?;
    world.until("every Pod to be another", || {
        let left = world.all_pods()?;
        ensure!(!left.iter().any(|pod| before.contains(pod)), "{left:?}");
        Ok(())
    })?;
    world.settled(3)
}

/// Pods of a tier pass where only the restricted standard may run.
pub(crate) fn passes_restricted(world: &mut World) -> Result<()> {
    world.kubectl("create namespace guarded")?;
    world.kubectl("label namespace guarded pod-security.kubernetes.io/enforce=restricted")?;
    let privileged = "run privileged --image=poolkeeper.dev/pod:1 --privileged -n guarded";
    let refused = world
        .kubectl(privileged)
        .err()
        .context("nothing is enforced")?;
    ensure!(
        format!("{refused:#}").contains("PodSecurity"),
        "{refused:#}"
    );
    let manifest = QUICKSTART.replace("\"app\" \"change-me\"", "\"app\" \"changed\"");
    let apply = ["apply", "-n", "guarded", "-f", "-"];
    kubectl(&world.node.kubeconfig(), &apply, Some(&manifest))?;
    world.kubectl("wait -n guarded --for=condition=Ready pgpc/shop --timeout=120s")?;
    let path = "jsonpath={.spec.clusterIP}";
    let address = world.kubectl(&format!("get service shop -n guarded -o {path}"))?;
    let address = (address.parse::<std::net::IpAddr>()?, 5432).into();
    world.until("an answer through its Service", || {
        psql::run(address, "app", "postgres", "password=changed", "SELECT 1")
    })?;
    world
        .kubectl("delete namespace guarded --wait=false")
        .map(drop)
}

/// What belongs to a tier goes with it, and nothing else does.
pub(crate) fn deletes(world: &mut World) -> Result<()> {
    world.kubectl("delete pgpc shop")?;
    world.until("everything to go", || {
        let left = world.api.ours()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    world.api.core("secrets", "shop-users")?;
    world.api.core("pods", "postgres-0").map(drop)
}
