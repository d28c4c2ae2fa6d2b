//! The PgPoolClusters: made, and followed.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering::Relaxed,
};

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    Api, ResourceExt as _,
    api::PostParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value as Json, json};

use super::{BALANCERS, CALLS_MAX, Fleet, POOLERS, Tier};

/// What the operator's objects are selected by.
pub(crate) const OURS: &str = "app.kubernetes.io/managed-by=poolkeeper-operator";

fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("poolkeeper.dev", "v1alpha1", "PgPoolCluster");
    ApiResource::from_gvk_with_plural(&kind, "pgpoolclusters")
}

/// Makes every PgPoolCluster, with the Secret that it refers to.
pub(crate) async fn create(fleet: &Fleet) -> Result<()> {
    let namespaces: HashSet<&str> = fleet.tiers.values().map(|tier| &*tier.namespace).collect();
    let api: Api<Namespace> = Api::all(fleet.client.clone());
    for name in namespaces {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        api.create(&PostParams::default(), &namespace).await?;
    }
    stream::iter(fleet.tiers.values().map(Ok))
        .try_for_each_concurrent(CALLS_MAX, |tier| create_one(fleet, tier))
        .await
}

async fn create_one(fleet: &Fleet, tier: &Tier) -> Result<()> {
    let params = PostParams::default();
    let users = format!("{}-users", tier.name);
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": users},
        "stringData": {"userlist.txt": "\"app\" \"secret\"\n"},
    }))?;
    let secrets: Api<Secret> = Api::namespaced(fleet.client.clone(), &tier.namespace);
    secrets.create(&params, &secret).await?;
    let cluster: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "poolkeeper.dev/v1alpha1",
        "kind": "PgPoolCluster",
        "metadata": {"name": tier.name},
        "spec": {
            "upstream": {"address": {"host": "postgres.default.svc", "port": 5432}},
            "auth": {"type": "scram-sha-256", "userlistSecretRef": {"name": users}},
            "poolers": {"replicas": POOLERS},
            "balancer": {"replicas": BALANCERS},
        },
    }))?;
    let clusters: Api<DynamicObject> =
        Api::namespaced_with(fleet.client.clone(), &tier.namespace, &resource());
    clusters.create(&params, &cluster).await?;
    fleet.counts.created.fetch_add(1, Relaxed);
    Ok(())
}

/// Follows which revision each tier's configuration names.
pub(crate) async fn follow_revisions(fleet: &Fleet) -> Result<()> {
    let api: Api<ConfigMap> = Api::all(fleet.client.clone());
    let config = watcher::Config::default().labels(OURS);
    let mut maps = watcher(api, config)
        .default_backoff()
        .applied_objects()
        .boxed();
    while let Some(map) = maps.next().await {
        let Ok(map) = map else { continue };
        let name = map.labels().get("app.kubernetes.io/instance");
        let tier = fleet.tier(
            &map.namespace().unwrap_or_default(),
            name.map_or("", |name| name),
        );
        let yaml = map.data.as_ref().and_then(|data| data.get("balancer.yaml"));
        let revision = yaml
            .and_then(|yaml| yaml.lines().find_map(|line| line.strip_prefix("revision:")))
            .map(|revision| revision.trim().trim_matches(['"', '\'']));
        if let (Some(tier), Some(revision)) = (tier, revision) {
            tier.revision.send_replace(revision.to_owned());
        }
    }
    anyhow::bail!("the watch of ConfigMaps ended")
}

/// Counts the tiers that serve and rest, as their status says.
pub(crate) async fn follow_status(fleet: &Fleet) -> Result<()> {
    let api: Api<DynamicObject> = Api::all_with(fleet.client.clone(), &resource());
    let mut clusters = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let mut seen = HashMap::new();
    while let Some(cluster) = clusters.next().await {
        let Ok(cluster) = cluster else { continue };
        let key = (cluster.namespace(), cluster.name_any());
        let is_ready = is(&cluster, "Ready", "True") && is(&cluster, "Reconciling", "False");
        let was_ready = seen.insert(key, is_ready).unwrap_or(false);
        match (was_ready, is_ready) {
            (false, true) => fleet.counts.ready.fetch_add(1, Relaxed),
            (true, false) => fleet.counts.ready.fetch_sub(1, Relaxed),
            _ => continue,
        };
    }
    anyhow::bail!("the watch of PgPoolClusters ended")
}

fn is(cluster: &DynamicObject, type_: &str, status: &str) -> bool {
    let conditions = cluster.data["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|one: &Json| one["type"] == type_ && one["status"] == status)
}
