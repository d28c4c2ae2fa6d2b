//! Everything that is looked up, found and decided before a tier is run.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    LocalError, Options, files, host, ports,
    ports::Ports,
    process::{self, Process},
    runner::{self, Found, Plan},
    store::{Remembered, State, Store},
};
use crate::{
    controller::{
        build::{self, Realisation, Tier},
        status::Meaning,
        validate::ValidatedCluster,
    },
    endpoints::{Endpoints, Id},
    notify::Notifier,
    random,
};

/// The folder of the programs, absolute; both must be there.
pub(super) fn programs(bin_dir: Option<&Path>) -> Result<PathBuf, LocalError> {
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
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) state: State,
    pub(super) found: Vec<Found>,
    pub(super) notes: Vec<String>,
}

pub(super) fn prepare(
    cluster: &ValidatedCluster,
    options: &Options,
    store: &Store,
    bin_dir: PathBuf,
) -> Result<Prepared, LocalError> {
    let now = Timestamp::now();
    let tier = build::tier(cluster);
    let mut notes = Vec::new();
    let mut state = match store.load()? {
        Remembered::State(state) if state.cluster != cluster.name => {
            return Err(LocalError::OtherCluster {
                folder: store.folder().to_owned(),
                owner: state.cluster,
            });
        }
        Remembered::State(state) => *state,
        Remembered::Nothing => new_state(cluster, &tier, now)?,
        Remembered::Damaged { reason, moved } => {
            notes.push(format!(
                "what was remembered is damaged ({reason}) and was moved to {}: children that \
                 still run are found and kept, but who was told what is forgotten",
                moved.display()
            ));
            let mut state = new_state(cluster, &tier, now)?;
            state.forgot = true;
            state
        }
    };
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
    let names: Vec<String> = state.endpoints.ids().map(Id::name).collect();
    state.notifier.keep_endpoints(&names, now);

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
    let key = state.key.as_bytes();
    let channels: Vec<_> = cluster
        .channels
        .iter()
        .map(|channel| channel.config(key))
        .collect();
    state.notifier.configure(&channels);
    state.notifier.resume();
    let destinations = cluster
        .channels
        .iter()
        .map(|channel| (channel.config.name.clone(), channel.destination.clone()));
    let plan = Plan {
        ports,
        texts,
        meaning: Meaning::of(cluster),
        revision,
        bin_dir,
        resync: cluster.monitoring_interval,
        destinations: destinations.collect(),
        tier,
    };
    Ok(Prepared {
        plan,
        state,
        found,
        notes,
    })
}

fn new_state(cluster: &ValidatedCluster, tier: &Tier, now: Timestamp) -> Result<State, LocalError> {
    let endpoints = Endpoints::new(tier.pooler.replicas, tier.balancer.replicas, now);
    let name = cluster.name.clone();
    let notifier = Notifier::default();
    Ok(State::new(name, new_key()?, endpoints, notifier))
}

type Running = Vec<(Id, (Process, process::Waiter))>;

/// The children that run already. Those that the tier has no place for any more
/// are told to end.
fn running(store: &Store, state: &mut State, tier: &Tier, notes: &mut Vec<String>) -> Running {
    let prefix = runner::mark_prefix(store);
    let mut marked = process::marked(&prefix);
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
        let name = id.name();
        let mark = format!("{prefix}{name}");
        let adopted = marked.remove(&name);
        if let Some(held) = adopted.and_then(|identity| Process::adopt(&identity, &mark)) {
            running.push((id, held));
        }
    }
    for (name, identity) in marked {
        if let Some((process, _)) = Process::adopt(&identity, &format!("{prefix}{name}")) {
            process.terminate();
            notes.push(format!("{name} is not needed any more and was told to end"));
        }
        state.children.remove(&name);
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

fn new_key() -> Result<String, LocalError> {
    random::key().map_err(|error| host("cannot make a key")(io::Error::other(error)))
}
