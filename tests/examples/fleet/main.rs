//! A fleet of tiers that no node runs, for `cargo xtask bench operator`.
//!
//! `fleet N` makes N PgPoolClusters on the API server of KUBECONFIG, says of their
//! Deployments and Pods what Kubernetes' own controllers and kubelets would say,
//! and answers `/status` for every balancer. Several times a second it prints a
//! line of JSON: what it has done and what it was asked.

mod balancers;
mod clusters;
mod pods;

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use serde_json::json;
use tokio::sync::watch;

/// Poolers of each tier.
const POOLERS: usize = 3;
/// Balancers of each tier.
const BALANCERS: usize = 2;
/// Tiers of a namespace.
const PER_NAMESPACE: usize = 50;
/// Most tiers: each takes 8 of the loopback's addresses from [`FIRST_ADDRESS`] on.
const TIERS_MAX: usize = 100_000;
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);
/// How often it tells of itself.
const REPORT: Duration = Duration::from_millis(250);
/// Calls to the API server at once.
const CALLS_MAX: usize = 16;

/// What all parts share.
struct Fleet {
    client: Client,
    tiers: HashMap<(String, String), Tier>,
    counts: Counts,
}

/// One PgPoolCluster.
struct Tier {
    namespace: String,
    name: String,
    number: usize,
    /// The revision that its configuration names, which its processes take at once.
    revision: watch::Sender<String>,
}

/// What is told of the fleet.
#[derive(Default)]
struct Counts {
    created: AtomicUsize,
    pods: AtomicUsize,
    ready: AtomicUsize,
    requests: AtomicUsize,
    fresh: AtomicUsize,
}

impl Tier {
    fn new(number: usize) -> Self {
        Self {
            namespace: format!("team-{}", number / PER_NAMESPACE),
            name: format!("tier-{number}"),
            number,
            revision: watch::Sender::default(),
        }
    }

    /// The address of an endpoint: poolers come first.
    fn address(&self, endpoint: usize) -> Ipv4Addr {
        let offset = u32::try_from(self.number * 8 + endpoint + 1).expect("tiers are bounded");
        Ipv4Addr::from(u32::from(FIRST_ADDRESS) + offset)
    }

    fn pooler(&self, index: usize) -> Ipv4Addr {
        self.address(index)
    }

    fn balancer(&self, index: usize) -> Ipv4Addr {
        self.address(POOLERS + index)
    }
}

impl Fleet {
    fn tier(&self, namespace: &str, name: &str) -> Option<&Tier> {
        self.tiers.get(&(namespace.to_owned(), name.to_owned()))
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let tiers: usize = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .context("usage: fleet TIERS")?;
    ensure!(tiers <= TIERS_MAX, "at most {TIERS_MAX} tiers");
    // kube brings two providers; without a choice the first client panics.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tiers = (0..tiers).map(Tier::new);
    let fleet = Arc::new(Fleet {
        client: Client::try_default().await?,
        tiers: tiers
            .map(|tier| ((tier.namespace.clone(), tier.name.clone()), tier))
            .collect(),
        counts: Counts::default(),
    });
    tokio::spawn(report(fleet.clone()));
    balancers::serve(&fleet).await?;
    clusters::create(&fleet).await?;
    tokio::try_join!(
        pods::run(&fleet),
        clusters::follow_revisions(&fleet),
        clusters::follow_status(&fleet)
    )?;
    Ok(())
}

/// Tells what was done, until the end.
async fn report(fleet: Arc<Fleet>) {
    let mut tick = tokio::time::interval(REPORT);
    loop {
        tick.tick().await;
        let Counts {
            created,
            pods,
            ready,
            requests,
            fresh,
        } = &fleet.counts;
        let line = json!({
            // PgPoolClusters that were made.
            "created": created.load(Relaxed),
            // Pods that are ready.
            "pods": pods.load(Relaxed),
            // PgPoolClusters whose status says that they serve and that nothing is under way.
            "ready": ready.load(Relaxed),
            // HTTP requests to balancers, and those of a reader who is new.
            "requests": requests.load(Relaxed),
            "fresh": fresh.load(Relaxed),
        });
        println!("{line}");
    }
}
