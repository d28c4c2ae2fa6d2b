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
mod prepare;
pub mod process;
pub mod runner;
pub mod store;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Instant,
};

use proxy_core::config::Problem;
use tokio::{net::TcpListener, sync::watch};
use web::{probes::Heartbeat, server};

use crate::{
    controller::validate::{HostPort, ValidatedCluster, validate},
    heartbeat::Heartbeat as Beat,
    http::{self, Snapshot},
    manifest::{self, Manifest, Source},
    webhook::WebhookPolicy,
};
use output::{Format, Output};
use ports::PortError;
use prepare::Prepared;
use runner::{Runner, Served};
use store::{Store, StoreError};

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
    /// What is called while all is well.
    pub heartbeat: Option<Beat>,
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
    let (manifest, mut problems) = manifest::read_as_far_as_possible(&sources);
    let Some(manifest) = manifest else {
        return Err(problems);
    };
    match validate(&manifest.dereference(), policy) {
        Ok(_) if !problems.is_empty() => Err(problems),
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
            // What does not fit the schema may fail here once more, at its line.
            let known = problems.clone();
            let faults = faults.iter().map(|fault| manifest.problem(fault));
            problems.extend(faults.filter(|fault| {
                let mut known = known.iter();
                known.all(|known| (&known.file, known.line) != (&fault.file, fault.line))
            }));
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
    let bin_dir = prepare::programs(options.bin_dir.as_deref())?;
    let folder = options
        .state_dir
        .clone()
        .unwrap_or_else(|| Path::new(".poolkeeper").join(&cluster.name));
    let store = Store::open(&folder)?;
    let prepared = prepare::prepare(&cluster, options, &store, bin_dir)?;
    let Prepared {
        plan,
        state,
        found,
        mut notes,
    } = prepared;
    notes.splice(0..0, remarks);

    let listener = TcpListener::bind(plan.ports.operator)
        .await
        .and_then(TcpListener::into_std)
        .map_err(host("cannot listen on the operator's port"))?;
    let heartbeat = Arc::new(Heartbeat::new(Instant::now()));
    let (snapshot, latest) = watch::channel(Snapshot::default());
    let (metrics, page) = watch::channel(String::new());
    let router = http::router(heartbeat.clone(), latest, move || page.borrow().clone());
    tokio::spawn(async move {
        if let Err(error) = server::serve(listener, router, std::future::pending()).await {
            eprintln!("HTTP server ended: {error}");
        }
    });
    let output = Output::new(options.output);
    let served = Served {
        snapshot,
        metrics,
        heartbeat,
    };
    let mut runner = Runner::new(plan, store, state, output, served)?;
    for note in notes {
        runner.note(&note);
    }
    if let Some(beat) = options.heartbeat.clone() {
        runner.call_while_well(beat);
    }
    runner
        .run(found)
        .await
        .map_err(host("cannot wait for signals"))
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
}
