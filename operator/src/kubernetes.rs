//! `operator run`: the PgPoolClusters of a Kubernetes cluster, carried out.
//!
//! ```text
//!  election ── leads ──> controller (one for each scope): watches ──> reconcile
//!     │                      dereference → validate → build → apply → status
//!     └── fence: until when anything may be written
//! ```
//!
//! Several replicas may run; the one that holds the lease (`election`) acts. One
//! that loses it drops everything it was doing and waits for its turn again.

mod apply;
mod calls;
mod children;
mod client;
mod controller;
mod election;
mod error;
mod events;
mod fence;
mod found;
mod ledger;
mod memory;
mod merge_patch;
mod metrics;
mod monitor;
mod nudge;
mod observe;
mod pods;
mod reconcile;
mod report;
mod rollout;
mod secrets;
mod store;
mod stores;
mod telling;
mod template;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{Client, core::DeserializeGuard};
use proxy_core::config::Bind;
use serde_json::json;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use web::{listener, probes::Heartbeat};

pub use election::LeaseOptions;

use crate::{
    api::PgPoolCluster,
    controller::objects::Images,
    courier::Courier,
    heartbeat::{Called, Heartbeat as Beat},
    http::{self, Snapshot},
    watch::Watcher,
    webhook::WebhookPolicy,
};
use election::Election;
use fence::Fence;
use metrics::Metrics;
use monitor::Monitor;
use stores::Scope;

/// A PgPoolCluster, or why it is none: one that cannot be read stalls no other.
type Cluster = DeserializeGuard<PgPoolCluster>;

/// How often `/status` is made anew.
const PUBLISH: Duration = Duration::from_secs(1);
/// How long looks under way may take once the operator was told to end.
const LOOKS_END_MAX: Duration = Duration::from_secs(8);
/// How long the end may take in all; then the lease ends by itself.
const END_TIME_MAX: Duration = Duration::from_secs(15);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to look after; all if empty.
    pub namespaces: Vec<String>,
    /// What Pods run, unless their cluster says otherwise.
    pub images: Images,
    /// Hosts that webhooks may have.
    pub webhook_hosts: Vec<String>,
    /// Where `/livez`, `/readyz`, `/metrics` and `/status` are served.
    pub http: Bind,
    /// Namespace of the Lease; without one that of the Pod, or of the KUBECONFIG.
    pub lease_namespace: Option<String>,
    /// Name of the Lease.
    pub lease_name: String,
    /// How long a leader that says nothing more goes on being the leader.
    pub lease_duration: Duration,
    /// Who we are; without one the host's name, made unique.
    pub identity: Option<String>,
    /// What is called while this replica acts.
    pub heartbeat: Option<Beat>,
}

/// Why the operator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no API server that it could talk to.
    #[error(
        "cannot find the API server: {0}; set KUBECONFIG, or run in a Pod with a service account"
    )]
    Connect(#[source] Box<kube::Error>),
    /// Its port is taken.
    #[error("cannot serve HTTP on {address}: {source}")]
    Http {
        /// Where.
        address: Bind,
        /// Why not.
        source: std::io::Error,
    },
    /// Nobody can be told anything.
    #[error("cannot set up an HTTP client to post messages with: {0}")]
    Client(#[source] reqwest::Error),
    /// Something of this host is not as it must be.
    #[error("{0}")]
    Host(String),
}

/// What does not change while the operator runs.
#[derive(Debug)]
struct Settings {
    namespaces: Vec<String>,
    images: Images,
    webhooks: WebhookPolicy,
    identity: String,
}

/// What every controller works with.
struct World {
    client: Client,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    fence: Fence,
    /// Asks Pods.
    watcher: Watcher,
    /// The thread of what is asked.
    polls: Handle,
    /// Delivers messages.
    courier: Courier,
    heartbeat: Option<Beat>,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// If it cannot begin; afterwards it goes on trying.
pub async fn run(options: Options) -> Result<(), RunError> {
    let host = |error: std::io::Error| RunError::Host(error.to_string());
    let mut interrupt = signal(SignalKind::interrupt()).map_err(host)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(host)?;
    let metrics = Arc::new(Metrics::default());
    let (client, namespace) = client::connect(metrics.clone())
        .await
        .map_err(|error| RunError::Connect(Box::new(error)))?;
    let settings = Arc::new(Settings {
        namespaces: options.namespaces,
        images: options.images,
        webhooks: WebhookPolicy {
            hosts: options.webhook_hosts,
            loopback_http: false,
        },
        identity: options.identity.unwrap_or_else(own_name),
    });
    let publish = serve(options.http, &settings, metrics.clone())?;
    // Before anything is led: a replica that cannot tell would keep others from it.
    let courier = Courier::new().map_err(RunError::Client)?;
    let heartbeat = options.heartbeat;
    if heartbeat.is_some() {
        metrics.expect_heartbeats();
    }
    let fence = Fence::default();
    let lease = LeaseOptions {
        namespace: options.lease_namespace.unwrap_or(namespace),
        name: options.lease_name,
        identity: settings.identity.clone(),
        duration: options.lease_duration,
    };
    let election = Election::new(client.clone(), lease, fence.clone());
    let (stop, stopping) = watch::channel(false);
    let world = World {
        client,
        settings,
        metrics,
        fence,
        watcher: Monitor::watcher(),
        polls: poll_thread().map_err(host)?,
        courier,
        heartbeat,
    };
    let work = lead(&world, election, &stopping);
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => return Ok(()),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
    }
    stop.send_replace(true);
    if tokio::time::timeout(END_TIME_MAX, &mut work).await.is_err() {
        tracing::warn!("the lease could not be given up; it ends by itself");
    }
    publish.abort();
    Ok(())
}

/// A thread for thousands of polls that wait: they cost least where none goes from
/// thread to thread.
fn poll_thread() -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("polls".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Acts whenever it is our turn, until told to stop. Gives the lease up then.
async fn lead(world: &World, mut election: Election, stopping: &watch::Receiver<bool>) {
    let mut stop = stopping.clone();
    loop {
        tokio::select! {
            () = election.win() => {}
            _ = stop.wait_for(|stop| *stop) => {
                // The answer may have been under way.
                election.give_up().await;
                return;
            }
        }
        let World {
            settings, metrics, ..
        } = world;
        metrics.lead(true);
        let scopes: Vec<Scope> = match settings.namespaces.is_empty() {
            true => vec![Scope(None)],
            false => {
                // One that is named twice is looked after once.
                let named: BTreeSet<&String> = settings.namespaces.iter().collect();
                let named = named.into_iter().cloned();
                named.map(|one| Scope(Some(one))).collect()
            }
        };
        let controllers = scopes
            .into_iter()
            .map(|scope| controller::run(world, scope, stopping.clone()));
        tokio::select! {
            // Whatever it was doing ends here.
            () = election.keep() => {}
            _ = futures::future::join_all(controllers) => {
                election.give_up().await;
                return;
            }
            // Beside the looks, so that it stands where they stand.
            () = call_while_acting(world) => {}
            () = too_late(stop.clone()) => {
                tracing::warn!("looks under way are given up");
                election.give_up().await;
                return;
            }
        }
        metrics.lead(false);
        metrics.dropped();
        tracing::warn!("not leading any more");
    }
}

/// Has the heartbeat URL called for as long as we may write. Never ends.
async fn call_while_acting(world: &World) {
    let Some(beat) = &world.heartbeat else {
        return std::future::pending().await;
    };
    let acts = || world.fence.time_left().is_some();
    let tell = |called: &Called| {
        world.metrics.heartbeat(called.result());
        match (called.sentence(), &called.problem) {
            (Some(sentence), Some(_)) => tracing::warn!("{sentence}"),
            (Some(sentence), None) => tracing::info!("{sentence}"),
            (None, _) => {}
        }
    };
    beat.keep_calling(&world.courier, acts, tell).await;
}

/// Waits until looks under way have had their time since we were told to end.
async fn too_late(mut stop: watch::Receiver<bool>) {
    // Without a sender nobody will say when.
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(LOOKS_END_MAX).await;
}

/// Serves HTTP, and keeps what is served current.
fn serve(
    address: Bind,
    settings: &Arc<Settings>,
    metrics: Arc<Metrics>,
) -> Result<tokio::task::AbortHandle, RunError> {
    let failed = |source| RunError::Http { address, source };
    let listener = match address.one() {
        Some(address) => {
            let options = listener::Options {
                both_families: true,
                ..listener::Options::default()
            };
            listener::listen(address, options)
        }
        None => listener::listen_everywhere(address.port),
    };
    let listener = listener.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "serving HTTP");
    let heartbeat = Arc::new(Heartbeat::new(std::time::Instant::now()));
    let (snapshot, seen) = watch::channel(Snapshot::default());
    let page = {
        let metrics = metrics.clone();
        move || metrics.page()
    };
    let router = http::router(heartbeat.clone(), seen, page);
    tokio::spawn(web::server::serve(listener, router, std::future::pending()));
    let settings = settings.clone();
    let publish = tokio::spawn(async move {
        let mut tick = tokio::time::interval(PUBLISH);
        loop {
            tick.tick().await;
            heartbeat.beat(std::time::Instant::now());
            snapshot.send_replace(Snapshot {
                not_ready: None,
                status: json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "identity": settings.identity,
                    "leading": metrics.leads(),
                    "namespaces": settings.namespaces,
                }),
            });
        }
    });
    Ok(publish.abort_handle())
}

/// A name that no other process has.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let mut unique = [0; 4];
    // Without randomness the process's number tells replicas on a host apart.
    if getrandom::fill(&mut unique).is_err() {
        unique = std::process::id().to_be_bytes();
    }
    format!("{host}-{:08x}", u32::from_be_bytes(unique))
}
