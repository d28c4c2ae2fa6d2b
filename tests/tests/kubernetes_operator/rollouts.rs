//! A rollout that does not get on, as the Deployment's own controller tells of it;
//! and how many Pods may be evicted, as the disruption controller does.

use anyhow::{Result, ensure};
use serde_json::{Value as Json, json};

use super::{QUICKSTART, World, fakes, quickstart};

/// The API server takes no Pod: of a quota here, elsewhere of a security standard.
pub(super) fn refused(world: &mut World) -> Result<()> {
    let kubectl = |line: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        world.control_plane.kubectl(&arguments)
    };
    let full = world.api.within("full");
    kubectl("create namespace full")?;
    kubectl("create quota none --hard=pods=0 --namespace full")?;
    world.apply_within("full", QUICKSTART)?;
    full.wait_for_condition("shop", "Stalled", "True RolloutStuck")?;
    full.wait_for_condition("shop", "Reconciling", "False Stalled")?;
    full.wait_for_condition("shop", "Ready", "False Starting")?;
    let cluster = full.cluster("shop")?;
    let stalled = full.condition("shop", "Stalled")?;
    let message = stalled["message"].as_str().unwrap_or_default();
    for words in ["the new poolers do not become available", "quota"] {
        ensure!(message.contains(words), "no {words:?} in: {message}");
    }
    let generation = &cluster["metadata"]["generation"];
    ensure!(stalled["observedGeneration"] == *generation, "{stalled}");
    let observed = &cluster["status"]["observedGeneration"];
    ensure!(observed == generation, "{observed}, not {generation}");

    kubectl("delete quota none --namespace full")?;
    // Their controller waits ever longer; a change has it try at once.
    let more = json!({"spec": {"poolers": {"replicas": 4}, "balancer": {"replicas": 3}}});
    let path = "/apis/poolkeeper.dev/v1alpha1/namespaces/full/pgpoolclusters/shop";
    world.api.patch(path, &more)?;
    full.wait_for_condition("shop", "Stalled", "False NotStalled")?;
    full.wait_for_condition("shop", "Reconciling", "True RollingOut")?;
    kubectl("delete namespace full --wait=false")?;
    Ok(())
}

/// Its controller has found that the deadline passed, and says so until it gets on.
pub(super) fn late(world: &mut World) -> Result<()> {
    let why = "ReplicaSet \"shop-pooler-1\" has timed out progressing.";
    let status = json!({"status": {"conditions": [{
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        "message": why, "lastUpdateTime": "2026-01-01T00:00:00Z",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    let path = "/apis/apps/v1/namespaces/default/deployments/shop-pooler";
    world.api.patch_status(path, &status)?;
    world.condition("shop", "Stalled", "True RolloutStuck")?;
    world.condition("shop", "Reconciling", "False Stalled")?;
    let generation = world.api.cluster("shop")?["metadata"]["generation"].clone();
    for type_ in ["Stalled", "Reconciling"] {
        let condition = world.api.condition("shop", type_)?;
        ensure!(condition["observedGeneration"] == generation, "{condition}");
    }
    let message = world.api.condition("shop", "Stalled")?["message"].clone();
    let wanted = format!("the new poolers do not become available, the old ones go on: {why}");
    ensure!(message == wanted, "{message}");

    // It is over once its controller sees that there is more.
    let replicas = |replicas: u32| {
        world.patch(
            "shop",
            &json!({"spec": {"poolers": {"replicas": replicas}}}),
        )
    };
    replicas(4)?;
    world.condition("shop", "Stalled", "False NotStalled")?;
    world.condition("shop", "Reconciling", "True RollingOut")?;
    // Without a look of its own at four it would find nothing that got on.
    world.eventually("its controller to say so", || {
        let poolers = world.api.deployment("shop-pooler");
        poolers.is_ok_and(|one| {
            !one["status"]["conditions"]
                .to_string()
                .contains("ProgressDeadlineExceeded")
        })
    })?;
    replicas(3)
}

/// Where the whole tier has a limit, each that is ending may hold its share of it.
pub(super) fn evictions(world: &mut World) -> Result<()> {
    world.control_plane.apply(&quickstart("evicted"))?;
    let limit = |limit: Json| {
        world.patch(
            "evicted",
            &json!({"spec": {"pool": {"maxServerConnections": limit}}}),
        )
    };
    let allows = |wanted: u32| {
        world.eventually(&format!("{wanted} that may be evicted"), || {
            let budget =
                world
                    .api
                    .named("/apis/policy/v1", "poddisruptionbudgets", "evicted-pooler");
            budget.is_ok_and(|budget| {
                budget["status"]["observedGeneration"] == budget["metadata"]["generation"]
                    && budget["status"]["disruptionsAllowed"] == wanted
            })
        })
    };
    let pods = fakes::Pods::find(&world.api, "evicted")?;
    // There is no kubelet: what ends them is this.
    let finalizers = |index: usize, finalizers: Json| {
        let path = format!("/api/v1/namespaces/default/pods/{}", pods.pooler(index));
        world
            .api
            .patch(&path, &json!({"metadata": {"finalizers": finalizers}}))
    };
    let end = |index: usize| {
        finalizers(index, json!(["poolkeeper.dev/test"]))?;
        let delete = ["delete", "pod", pods.pooler(index), "--wait=false"];
        world.control_plane.kubectl(&delete)
    };
    end(0)?;
    end(1)?;
    fakes::Pods::find(&world.api, "evicted")?.ready(&world.api)?;
    allows(1)?;
    limit(json!(50))?;
    allows(0)?;
    limit(Json::Null)?;
    allows(1)?;
    limit(json!(50))?;
    allows(0)?;
    // Nobody would take it back.
    let suspend = |suspend: bool| world.patch("evicted", &json!({"spec": {"suspend": suspend}}));
    suspend(true)?;
    allows(1)?;
    suspend(false)?;
    allows(0)?;
    finalizers(0, Json::Null)?;
    allows(1)?;
    finalizers(1, Json::Null)?;
    let delete = ["delete", "pgpc", "evicted"];
    world.control_plane.kubectl(&delete).map(drop)
}
