//! What Kubernetes' own controllers and kubelets would do: Pods, ready at once,
//! and Deployments that say so.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

use super::{CALLS_MAX, Fleet, Tier, clusters::OURS};

/// A Pod that names a service account which the API server has not heard of yet
/// is refused; tried so often again.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the Deployments until the end.
pub(crate) async fn run(fleet: &Fleet) -> Result<()> {
    let api: Api<Deployment> = Api::all(fleet.client.clone());
    let config = watcher::Config::default().labels(OURS);
    watcher(api, config)
        .default_backoff()
        .applied_objects()
        .filter_map(|deployment| std::future::ready(deployment.ok()))
        .map(anyhow::Ok)
        .try_for_each_concurrent(CALLS_MAX, |deployment| roll_out(fleet, deployment))
        .await?;
    anyhow::bail!("the watch of Deployments ended")
}

/// Makes what a Deployment wants, if it is not rolled out.
async fn roll_out(fleet: &Fleet, deployment: Deployment) -> Result<()> {
    let namespace = deployment.namespace().unwrap_or_default();
    let labels = deployment.labels();
    let label = |key: &str| labels.get(key).map_or("", |value| value);
    let Some(tier) = fleet.tier(&namespace, label("app.kubernetes.io/instance")) else {
        return Ok(());
    };
    let status = deployment.status.clone().unwrap_or_default();
    let generation = deployment.metadata.generation;
    if status.observed_generation == generation {
        return Ok(());
    }
    let spec = deployment.spec.as_ref().context("a Deployment's spec")?;
    let replicas = spec.replicas.unwrap_or(1);
    let is_pooler = label("app.kubernetes.io/component") == "pooler";
    for index in 0..usize::try_from(replicas)? {
        let address = match is_pooler {
            true => tier.pooler(index),
            false => tier.balancer(index),
        };
        let name = format!("{}-5d8f7c9b64-{index}", deployment.name_any());
        run_pod(fleet, tier, &deployment, name, address).await?;
    }
    let api: Api<Deployment> = Api::namespaced(fleet.client.clone(), &namespace);
    let now = json!({"status": {"observedGeneration": generation, "replicas": replicas,
        "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}});
    let patch = Patch::Merge(&now);
    api.patch_status(&deployment.name_any(), &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn run_pod(
    fleet: &Fleet,
    tier: &Tier,
    deployment: &Deployment,
    name: String,
    address: std::net::Ipv4Addr,
) -> Result<()> {
    let template = &deployment.spec.as_ref().context("a spec")?.template;
    let mut spec = template.spec.clone().context("a template's spec")?;
    spec.node_name = Some(format!("node-{}", tier.number % 100));
    let labels = template.metadata.as_ref().map(|metadata| &metadata.labels);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }))?;
    let api: Api<Pod> = Api::namespaced(fleet.client.clone(), &tier.namespace);
    let mut tries = 0;
    loop {
        match api.create(&PostParams::default(), &pod).await {
            Ok(_) => break,
            // It is there already.
            Err(kube::Error::Api(error)) if error.code == 409 => return Ok(()),
            Err(kube::Error::Api(error)) if error.code == 403 && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let containers = spec.containers.iter().map(|one| {
        json!({"name": one.name, "image": one.image, "imageID": "sha256:0", "ready": true,
            "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
    });
    let running = json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": containers.collect::<Vec<_>>(),
    }});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&running))
        .await?;
    fleet.counts.pods.fetch_add(1, Relaxed);
    Ok(())
}
