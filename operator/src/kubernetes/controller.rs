//! What leads to a look at a cluster: it changed, something of it did, or
//! something that it refers to.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use kube::{
    Resource,
    runtime::{
        Controller, Predicate as _, PredicateConfig, WatchStreamExt as _,
        controller::Config,
        events::{Recorder, Reporter},
        predicates,
        reflector::{self, ObjectRef},
        watcher::watcher,
    },
};
use tokio::sync::watch;

use super::{
    Cluster, PUBLISH, World,
    monitor::Monitor,
    reconcile::{Context, Memories, reconcile},
    secrets::References,
    stores::{Scope, Stores, backoff, controller, instance, watch_config},
};
use crate::api::KIND;

/// Clusters that are looked at at the same time.
const LOOKS_MAX: u16 = 16;
/// What changes together is looked at together.
const DEBOUNCE: std::time::Duration = std::time::Duration::from_millis(100);

/// Carries out the clusters of a scope until told to stop.
pub(super) async fn run(world: &World, scope: Scope, mut stopping: watch::Receiver<bool>) {
    let World {
        client,
        settings,
        metrics,
        fence,
        watcher: ask,
    } = world;
    let (monitor, to_look) = Monitor::new(ask.clone());
    let (stores, watches) = Stores::watch(client, &scope);
    let ready = stores.readiness();
    let (reader, writer) = reflector::store();
    let clusters = watcher(scope.api::<Cluster>(client), watch_config())
        .modify(|cluster| cluster.meta_mut().managed_fields = None)
        .backoff(backoff())
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            PredicateConfig::default(),
        );
    let reporter = Reporter {
        controller: "poolkeeper-operator".to_owned(),
        instance: Some(settings.identity.clone()),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        fence: fence.clone(),
        settings: settings.clone(),
        stores,
        references: References::default(),
        monitor,
        recorder: Recorder::new(client.clone(), reporter),
        metrics: metrics.clone(),
        memories: Memories::default(),
    });
    let referring = context.clone();
    let end = async move {
        // Without a sender nobody will say when.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let looks = Controller::for_stream(clusters, reader.clone())
        .with_config(Config::default().concurrency(LOOKS_MAX).debounce(DEBOUNCE))
        .trigger_backoff(backoff())
        .owns_stream(watches.service_accounts)
        .owns_stream(watches.config_maps)
        .owns_stream(watches.services)
        .owns_stream(watches.budgets)
        .owns_stream(watches.policies)
        .owns_stream(watches.deployments)
        .watches_stream(watches.secrets, move |secret| {
            let namespace = secret.metadata.namespace.clone().unwrap_or_default();
            let name = secret.metadata.name.clone().unwrap_or_default();
            let mut clusters = referring.references.of(&namespace, &name);
            let owner = controller(&secret.metadata).filter(|owner| owner.kind == KIND);
            clusters.extend(owner.map(|owner| ObjectRef::new(&owner.name).within(&namespace)));
            clusters
        })
        .watches_stream(watches.pods, |pod| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            instance(&pod).map(|name| ObjectRef::<Cluster>::new(name).within(&namespace))
        })
        .reconcile_on(to_look)
        .graceful_shutdown_on(end.boxed().shared())
        .run(
            move |cluster, context| {
                let ready = ready.clone();
                async move {
                    // Before everything is known, nothing can be told from what is missing.
                    ready.await;
                    reconcile(cluster, context).await
                }
            },
            |_, never, _| match *never {},
            context.clone(),
        );
    let looks = looks.for_each(|looked| {
        if let Err(error) = looked {
            tracing::debug!(%error, "a watch");
        }
        std::future::ready(())
    });
    let forget = async {
        let mut tick = tokio::time::interval(PUBLISH * 60);
        loop {
            tick.tick().await;
            let is_there = |cluster: &ObjectRef<Cluster>| reader.get(cluster).is_some();
            context.memories.retain(is_there);
            context.monitor.retain(is_there);
            context.references.retain(is_there);
        }
    };
    tokio::select! {
        () = looks => {}
        () = forget => {}
    }
}
