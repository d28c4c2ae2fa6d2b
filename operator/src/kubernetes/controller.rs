//! What leads to a look at a cluster: it changed, something of it did, or
//! something that it refers to.

use std::{collections::HashSet, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, channel::mpsc};
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
    memory::Memories,
    monitor::Monitor,
    reconcile::{Context, reconcile},
    secrets::References,
    stores::{Scope, Stores, backoff, controller, instance, watch_config},
    telling::Tellers,
};
use crate::{api::KIND, controller::objects::notifier_name};

/// Clusters that are looked at at the same time.
const LOOKS_MAX: u16 = 16;
/// Looks that may wait to be taken.
const LOOKS_WAITING_MAX: usize = 1_024;
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
        ..
    } = world;
    let (looks, to_look) = mpsc::channel(LOOKS_WAITING_MAX);
    let monitor = Monitor::new(ask.clone(), looks.clone());
    let (stores, watches) = Stores::watch(client, &scope);
    let listed = stores.readiness();
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
        listed,
        references: References::default(),
        monitor,
        tellers: Tellers::new(world, looks),
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
        .watches_stream(watches.service_accounts, |one| tiers_of(&one))
        .watches_stream(watches.config_maps, |one| match is_notifier(&one) {
            // What was told is written often, and by ourselves.
            true => HashSet::new(),
            false => tiers_of(&one),
        })
        .watches_stream(watches.services, |one| tiers_of(&one))
        .watches_stream(watches.budgets, |one| tiers_of(&one))
        .watches_stream(watches.policies, |one| tiers_of(&one))
        .watches_stream(watches.deployments, |one| tiers_of(&one))
        .watches_stream(watches.secrets, move |secret| {
            let namespace = secret.metadata.namespace.clone().unwrap_or_default();
            let name = secret.metadata.name.clone().unwrap_or_default();
            let mut clusters = tiers_of(&secret);
            clusters.extend(referring.references.of(&namespace, &name));
            clusters
        })
        .watches_stream(watches.pods, |pod| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            instance(&pod).map(|name| ObjectRef::<Cluster>::new(name).within(&namespace))
        })
        .reconcile_on(to_look)
        .graceful_shutdown_on(end.boxed().shared())
        .run(reconcile, |_, never, _| match *never {}, context.clone());
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
            context.references.retain(is_there);
            context.monitor.retain(is_there);
        }
    };
    tokio::select! {
        () = looks => {}
        () = forget => {}
    }
    context.tellers.end().await;
}

/// Whether a ConfigMap is that of what was told.
fn is_notifier<K: Resource>(object: &K) -> bool {
    let name = object.meta().name.as_deref();
    instance(object).is_some_and(|cluster| name == Some(&*notifier_name(cluster)))
}

/// The clusters that an object belongs to: by its owner, and by its label, for
/// an owner that is taken away is to be noticed too.
fn tiers_of<K: Resource>(object: &K) -> HashSet<ObjectRef<Cluster>> {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let owner = controller(object.meta()).filter(|owner| owner.kind == KIND);
    let owner = owner.map(|owner| owner.name.as_str());
    let names = owner.into_iter().chain(instance(object));
    names
        .map(|name| ObjectRef::new(name).within(&namespace))
        .collect()
}
