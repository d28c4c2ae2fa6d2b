//! `operator local`: realises a tier as processes on this machine.
//!
//! Reading order: [`run`] below reads the manifest, finds children that run
//! already, plans ports and files, and hands over to `runner`, the main loop.
//! `process` holds children, `store` what is remembered, `files` what children
//! read, `ports` who listens where, `output` what is printed.

pub mod backoff;
pub mod files;
pub mod logs;
pub mod output;
pub mod ports;
pub mod process;
pub mod runner;
pub mod store;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use proxy_core::config::Problem;
use sha2::Sha256;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    controller::{
        build::{self, Realisation, Tier},
        validate::{Channel, HostPort, ValidatedCluster, validate},
    },
    endpoints::{Endpoints, Id},
    http::{self, Heartbeat, Snapshot},
    manifest::{self, Manifest, Source},
    notify::{ChannelConfig, Notifier},
    webhook::{Webhook, WebhookPolicy},
};
use output::{Format, Output};
use ports::{PortError, Ports};
use process::Process;
use runner::{Found, Plan, Runner};
use store::{State, Store, StoreError};

/// What a tier is run by.
#[derive(Clone, Debug)]
pub struct Options {
    /// Manifests, in order.
    pub files: Vec<PathBuf>,
    /// What is remembered; `.poolkeeper/NAME` if not given.
    pub state_dir: Option<PathBuf>,
    /// Folder of `pooler` and `balancer`; our own if not given.
    pub bin_dir: Option<PathBuf>,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Added to the service's, the dashboards' and the operator's ports.
    pub port_offset: u16,
    /// What names stand for here.
    pub resolve: Vec<Resolve>,
    /// How things are printed.
    pub output: Format,
    /// Hosts that webhooks may have.
    pub webhook_hosts: Vec<String>,
}

/// `NAME=HOST:PORT`: what a name stands for here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// A host of the manifest.
    pub name: String,
    /// Where it is.
    pub address: HostPort,
}

impl FromStr for Resolve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('=')
            .and_then(|(name, address)| {
                let (host, port) = address.rsplit_once(':')?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
                let good = !name.is_empty() && !host.is_empty();
                good.then(|| Self {
                    name: name.to_owned(),
                    address: HostPort {
                        host: host.to_owned(),
                        port,
                    },
                })
            })
            .ok_or_else(|| format!("{text:?} is not NAME=HOST:PORT"))
    }
}

/// Why a tier was not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The manifest has problems.
    #[error("{} in the manifest, nothing was started", count(.0.len(), "problem"))]
    Manifest(Vec<Problem>),
    /// The manifest says so.
    #[error("spec.suspend is true, so nothing is started or changed; set it to false")]
    Suspended,
    /// `--resolve` names what the manifest does not.
    #[error("--resolve {0}=…: the manifest names no such host")]
    UnusedResolve(String),
    /// A program is missing.
    #[error("{0} does not exist or cannot be run; build it, or name its folder with --bin-dir")]
    Program(PathBuf),
    /// The state folder is another cluster's.
    #[error(
        "{folder} is the state folder of PgPoolCluster {owner}; name another one with --state-dir"
    )]
    OtherCluster {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// The state folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A port cannot be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// HTTP clients cannot be set up.
    #[error("cannot set up HTTP: {0}")]
    Http(#[from] reqwest::Error),
    /// The host lacks something.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn host(what: &'static str) -> impl Fn(io::Error) -> LocalError {
    move |error| LocalError::Host { what, error }
}

/// A manifest that is valid.
pub struct Checked {
    /// The documents.
    pub manifest: Manifest,
    /// What they say.
    pub cluster: ValidatedCluster,
    /// What is accepted and yet worth a look.
    pub remarks: Vec<String>,
}

/// Reads and validates manifests, with no side effects.
///
/// # Errors
/// Every problem found.
pub fn check(files: &[PathBuf], policy: &WebhookPolicy) -> Result<Checked, Vec<Problem>> {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        match Source::read(file) {
            Ok(source) => sources.push(source),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let manifest = manifest::read(&sources)?;
    match validate(&manifest.dereference(), policy) {
        Ok(cluster) => {
            let warnings = cluster.warnings.iter().map(|fault| {
                let Problem {
                    file,
                    line,
                    message,
                } = manifest.problem(fault);
                format!("{file}:{line}: warning: {message}")
            });
            let remarks = manifest.notes.iter().cloned().chain(warnings).collect();
            Ok(Checked {
                remarks,
                manifest,
                cluster,
            })
        }
        Err(faults) => {
            let mut problems: Vec<Problem> =
                faults.iter().map(|fault| manifest.problem(fault)).collect();
            problems.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
            problems.dedup();
            Err(problems)
        }
    }
}

/// Runs a tier until SIGINT or SIGTERM.
///
/// # Errors
/// Why nothing was started.
pub async fn run(options: &Options) -> Result<(), LocalError> {
    let policy = WebhookPolicy {
        hosts: options.webhook_hosts.clone(),
        loopback_http: true,
    };
    let Checked {
        mut cluster,
        remarks,
        ..
    } = check(&options.files, &policy).map_err(LocalError::Manifest)?;
    if cluster.suspend {
        return Err(LocalError::Suspended);
    }
    let names: BTreeMap<String, HostPort> = options
        .resolve
        .iter()
        .map(|resolve| (resolve.name.clone(), resolve.address.clone()))
        .collect();
    if let Some(unused) = cluster.resolve(&names).into_iter().next() {
        return Err(LocalError::UnusedResolve(unused));
    }
    let bin_dir = programs(options.bin_dir.as_deref())?;
    let folder = options
        .state_dir
        .clone()
        .unwrap_or_else(|| Path::new(".poolkeeper").join(&cluster.name));
    let store = Store::open(&folder)?;
    let prepared = prepare(&cluster, options, &store, bin_dir)?;
    let Prepared {
        plan,
        state,
        found,
        mut notes,
    } = prepared;
    notes.splice(0..0, remarks);

    let listener = TcpListener::bind(plan.ports.operator)
        .await
        .map_err(host("cannot listen on the operator's port"))?;
    let heartbeat = Heartbeat::default();
    let (snapshot, latest) = watch::channel(Snapshot::default());
    tokio::spawn(http::serve(listener, heartbeat.clone(), latest));
    let output = Output::new(options.output);
    let mut runner = Runner::new(plan, store, state, output, snapshot, heartbeat)?;
    for note in notes {
        runner.note(&note);
    }
    runner
        .run(found)
        .await
        .map_err(host("cannot wait for signals"))
}

/// The folder of the programs, absolute; both must be there.
fn programs(bin_dir: Option<&Path>) -> Result<PathBuf, LocalError> {
    let folder = match bin_dir {
        Some(folder) => folder.to_owned(),
        None => {
            let own = std::env::current_exe().map_err(host("cannot find our own program"))?;
            own.parent().map(Path::to_owned).unwrap_or_default()
        }
    };
    for name in ["pooler", "balancer"] {
        let program = folder.join(name);
        if !program.is_file() {
            return Err(LocalError::Program(program));
        }
    }
    folder
        .canonicalize()
        .map_err(host("cannot use the folder of the programs"))
}

/// Everything that is known before anything is started.
struct Prepared {
    plan: Plan,
    state: State,
    found: Vec<Found>,
    notes: Vec<String>,
}

fn prepare(
    cluster: &ValidatedCluster,
    options: &Options,
    store: &Store,
    bin_dir: PathBuf,
) -> Result<Prepared, LocalError> {
    let now = Timestamp::now();
    let tier = build::tier(cluster);
    let remembered = store.load()?;
    if let Some(state) = &remembered
        && state.cluster != cluster.name
    {
        return Err(LocalError::OtherCluster {
            folder: store.folder().to_owned(),
            owner: state.cluster.clone(),
        });
    }
    let mut state = match remembered {
        Some(state) => state,
        None => {
            let endpoints = Endpoints::new(tier.pooler.replicas, tier.balancer.replicas, now);
            State::new(
                cluster.name.clone(),
                new_key()?,
                endpoints,
                Notifier::default(),
            )
        }
    };
    let mut notes = Vec::new();
    let mut running = running(store, &mut state, &tier, &mut notes);
    let ids: Vec<Id> = running.iter().map(|(id, ..)| *id).collect();
    if state.stopped && ids.is_empty() {
        state.endpoints.begin(now);
    } else {
        state.endpoints.resume(now);
    }
    state
        .endpoints
        .resize(tier.pooler.replicas, tier.balancer.replicas, now);

    let held = files::held(store, &ids, tier.pooler.replicas as usize);
    let ports = ports::plan(&tier, options.bind, options.port_offset, &held)?;
    let revision = build::revision(&tier, state.key.as_bytes());
    let realisation = realisation(&ports, store, &revision);
    let texts = files::render(&tier, &realisation);
    let shared =
        files::write_shared(store, &tier).map_err(host("cannot write into the state folder"))?;
    let found = running
        .drain(..)
        .map(|(id, (process, waiter))| Found {
            change: files::compare(store, id, &texts[&id], shared),
            id,
            process,
            waiter,
        })
        .collect();
    state
        .notifier
        .configure(&channel_configs(&cluster.channels, &state.key));
    state.notifier.resume();
    let webhooks = cluster
        .channels
        .iter()
        .map(|channel| (channel.name.clone(), channel.webhook.clone()));
    let plan = Plan {
        ports,
        texts,
        revision,
        bin_dir,
        resync: cluster.monitoring_interval,
        webhooks: webhooks.collect(),
        tier,
    };
    Ok(Prepared {
        plan,
        state,
        found,
        notes,
    })
}

type Running = Vec<(Id, (Process, process::Waiter))>;

/// The children that run already. Those that the tier has no place for any more
/// are told to end.
fn running(store: &Store, state: &mut State, tier: &Tier, notes: &mut Vec<String>) -> Running {
    let mut marked = process::marked(&runner::mark_prefix(store));
    // What is remembered is as good as a mark, where both are the same process.
    for (name, identity) in &state.children {
        marked
            .entry(name.clone())
            .or_insert_with(|| identity.clone());
    }
    let poolers = (0..tier.pooler.replicas as usize).map(Id::pooler);
    let balancers = (0..tier.balancer.replicas as usize).map(Id::balancer);
    let mut running = Vec::new();
    for id in poolers.chain(balancers) {
        let adopted = marked.remove(&id.name());
        if let Some(held) = adopted.as_ref().and_then(Process::adopt) {
            running.push((id, held));
        }
    }
    for (name, identity) in marked {
        if let Some((process, _)) = Process::adopt(&identity) {
            process.terminate();
            notes.push(format!("{name} is not needed any more and was told to end"));
        }
        state.children.remove(&name);
        state.notifier.forget(&name);
    }
    running
}

fn realisation(ports: &Ports, store: &Store, revision: &str) -> Realisation {
    Realisation {
        service: ports.service,
        // Also for one alone, so that a second may join it.
        shared_service: true,
        poolers: ports.poolers.clone(),
        dashboards: ports.dashboards.clone(),
        files: store.conf(),
        revision: revision.to_owned(),
    }
}

fn channel_configs(channels: &[Channel], key: &str) -> Vec<ChannelConfig> {
    channels
        .iter()
        .map(|channel| ChannelConfig {
            name: channel.name.clone(),
            fingerprint: match &channel.webhook {
                Webhook::Url(url) => fingerprint(url.as_str(), key),
                Webhook::Placeholder => String::new(),
            },
            configured: matches!(channel.webhook, Webhook::Url(_)),
            send_resolved: channel.send_resolved,
        })
        .collect()
}

/// Tells whether a URL changed, without telling the URL.
fn fingerprint(url: &str, key: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(url.as_bytes());
    hex(&mac.finalize().into_bytes()[..8])
}

fn new_key() -> Result<String, LocalError> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)
        .map_err(|error| host("cannot make a key")(io::Error::other(error)))?;
    Ok(hex(&key))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_reads_names_and_addresses() {
        let read = |text: &str| {
            text.parse::<Resolve>()
                .map(|one| (one.name, one.address.host, one.address.port))
        };
        let own = |name: &str, host: &str, port| Ok((name.to_owned(), host.to_owned(), port));
        assert_eq!(
            read("a.b.svc=127.0.0.1:5433"),
            own("a.b.svc", "127.0.0.1", 5433)
        );
        assert_eq!(read("a=[::1]:1"), own("a", "::1", 1));
        for text in [
            "",
            "a",
            "a=b",
            "a=:1",
            "=b:1",
            "a=b:0",
            "a=b:x",
            "a=b:70000",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fingerprints_differ_and_tell_nothing() {
        let one = fingerprint("https://hooks.slack.com/services/a", "key");
        assert_ne!(
            one,
            fingerprint("https://hooks.slack.com/services/b", "key")
        );
        assert_ne!(
            one,
            fingerprint("https://hooks.slack.com/services/a", "other")
        );
        assert_eq!(one.len(), 16);
    }
}
