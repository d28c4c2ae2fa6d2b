//! What leads to a look at a cluster: it changed, something of it did, or
//! something that it refers to.

use std::{collections::HashSet, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, channel::mpsc, stream};
use kube::{
    Resource as _,
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
    Cluster, World,
    memory::Memories,
    monitor::Monitor,
    reconcile::{Context, reconcile},
    secrets::References,
    store::Touched,
    stores::{Scope, Stores, backoff, watch_config},
    telling::Tellers,
};
use crate::controller::objects::notifier_name;

/// Clusters that are looked at at the same time.
const LOOKS_MAX: u16 = 16;
/// Looks that may wait to be taken.
const LOOKS_WAITING_MAX: usize = 1_024;
/// How often what is gone is forgotten.
const FORGET: std::time::Duration = std::time::Duration::from_secs(60);
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
        polls,
        ..
    } = world;
    let (looks, to_look) = mpsc::channel(LOOKS_WAITING_MAX);
    let monitor = Monitor::new(ask.clone(), polls.clone(), looks.clone());
    let (stores, watches) = Stores::watch(client, &scope);
    let (reader, writer) = reflector::store();
    let clusters = watcher(scope.api::<Cluster>(client), watch_config())
        .modify(|cluster| cluster.meta_mut().managed_fields = None)
        .backoff(backoff())
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            PredicateConfig::default(),
        )
        .inspect_ok({
            let metrics = metrics.clone();
            move |cluster| metrics.queued(&ObjectRef::from_obj(cluster))
        });
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
    let others = watches.others.flat_map(|one| {
        // What was told is written often, and by ourselves.
        let tiers = (!is_notifier(&one)).then(|| tiers_of(&one));
        stream::iter(tiers.into_iter().flatten())
    });
    let secrets = watches.secrets.flat_map(move |secret| {
        let mut clusters = tiers_of(&secret);
        let Touched {
            namespace, name, ..
        } = &secret;
        clusters.extend(referring.references.of(namespace, name));
        stream::iter(clusters)
    });
    let waits = || {
        let (metrics, clusters) = (metrics.clone(), reader.clone());
        move |cluster: &ObjectRef<Cluster>| {
            // Of one that is gone, its children tell; nobody will look.
            if clusters.get(cluster).is_some() {
                metrics.queued(cluster);
            }
        }
    };
    let looks = Controller::for_stream(clusters, reader.clone())
        .with_config(Config::default().concurrency(LOOKS_MAX).debounce(DEBOUNCE))
        .trigger_backoff(backoff())
        .reconcile_on(others.inspect(waits()))
        .reconcile_on(secrets.inspect(waits()))
        .reconcile_on(to_look.inspect(waits()))
        .graceful_shutdown_on(end.boxed().shared())
        .run(reconcile, |_, never, _| match *never {}, context.clone());
    let looks = looks.for_each(|looked| {
        if let Err(error) = looked {
            tracing::debug!(%error, "a watch");
        }
        std::future::ready(())
    });
    let forget = async {
        let mut tick = tokio::time::interval(FORGET);
        loop {
            tick.tick().await;
            let is_there = |cluster: &ObjectRef<Cluster>| reader.get(cluster).is_some();
            let of_scope =
                |cluster: &ObjectRef<Cluster>| scope.0.is_none() || scope.0 == cluster.namespace;
            context.memories.retain(is_there);
            context.references.retain(is_there);
            context.monitor.retain(is_there);
            context
                .metrics
                .retain(|cluster| !of_scope(cluster) || is_there(cluster));
        }
    };
    tokio::select! {
        () = looks => {}
        () = forget => {}
    }
    context.tellers.end().await;
}

/// Whether a ConfigMap is that of what was told.
fn is_notifier(touched: &Touched) -> bool {
    let mut clusters = touched.clusters.iter();
    clusters.any(|cluster| touched.name == notifier_name(cluster))
}

fn tiers_of(touched: &Touched) -> HashSet<ObjectRef<Cluster>> {
    let names = touched.clusters.iter();
    names
        .map(|name| ObjectRef::new(name).within(&touched.namespace))
        .collect()
}
