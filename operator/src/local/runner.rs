//! The main loop: one task that owns everything a tier is, while others wait,
//! watch and post for it and tell it what happened.
//!
//! Record before act: what happened is on disk before anything is done about
//! it, so that an operator that dies at any moment has a successor that knows.

mod children;
mod happenings;
mod takeover;
mod tell;

pub use takeover::Found;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch as channel},
    task::AbortHandle,
};
use web::probes::{Heartbeat, STUCK_AFTER};

use super::{
    backoff::Backoff,
    files::Texts,
    logs,
    output::{Event, Output, Running},
    ports::Ports,
    process::Process,
    store::{State, Store},
};
use happenings::Happening;

use crate::{
    api::PgPoolClusterStatus,
    controller::{build::Tier, status::Meaning},
    courier::Courier,
    destination::Destination,
    endpoints::{Id, Policy},
    heartbeat::{Called, Heartbeat as Beat},
    http::Snapshot,
    metrics::Counters,
    notify::Context,
    watch::{Seen, Watcher},
};

/// How often what is due is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the table's ages are drawn anew and logs are looked at.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// What others may tell before they have to wait.
const HAPPENINGS_MAX: usize = 256;
/// How much longer than it should a child may take to end.
const END_MARGIN: Duration = Duration::from_secs(10);
/// A balancer waits so long for its sessions.
const BALANCER_DRAIN: Duration = Duration::from_secs(60);
/// How long messages under way may take once all children have ended.
const POSTS_GRACE: Duration = Duration::from_secs(3);
/// A tier that is not all up after so long is ready as it is.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// What a tier is run by.
#[derive(Debug)]
pub struct Plan {
    /// What runs.
    pub tier: Tier,
    /// Where.
    pub ports: Ports,
    /// What each child is told.
    pub texts: Texts,
    /// What the spec comes to.
    pub meaning: Meaning,
    /// Names what they are told.
    pub revision: String,
    /// Folder of the binaries.
    pub bin_dir: PathBuf,
    /// Time between two questions to a pooler.
    pub resync: Duration,
    /// Where messages go, by channel.
    pub destinations: BTreeMap<String, Destination>,
}

struct Child {
    running: Running,
    /// Counts its processes, so that what is told of an earlier one is ignored.
    generation: u64,
    process: Option<Process>,
    started: Instant,
    told_to_end: bool,
    /// When it is killed, if it has not ended by then.
    kill_at: Option<Instant>,
    /// When it is started again.
    start_at: Option<Instant>,
    backoff: Backoff,
    /// Reload has been asked for since it was taken over.
    reloaded: bool,
    follow: Option<AbortHandle>,
}

/// Runs a tier until it is told to end.
pub struct Runner {
    plan: Plan,
    store: Store,
    state: State,
    policy: Policy,
    watcher: Watcher,
    courier: Courier,
    context: Context,
    children: BTreeMap<Id, Child>,
    /// Children that wait for their restart, one at a time.
    roll: VecDeque<Id>,
    /// The one whose turn it is, and its process before.
    rolling: Option<(Id, u64)>,
    happenings: (mpsc::Sender<Happening>, mpsc::Receiver<Happening>),
    seen: mpsc::Sender<Seen>,
    output: Output,
    counters: Counters,
    status: PgPoolClusterStatus,
    served: Served,
    begun: Instant,
    ready_told: bool,
    stopping: bool,
    /// Something is not on disk yet.
    dirty: bool,
    disk_fails: bool,
    posts_under_way: usize,
    /// What happens can be kept, and the end has not begun.
    is_well: Arc<AtomicBool>,
}

/// What the HTTP port serves, kept current.
pub struct Served {
    /// `/readyz` and `/status`.
    pub snapshot: channel::Sender<Snapshot>,
    /// `/metrics`.
    pub metrics: channel::Sender<String>,
    /// `/livez`.
    pub heartbeat: Arc<Heartbeat>,
}

impl Runner {
    /// Prepares to run, and starts nothing yet.
    ///
    /// # Errors
    /// If HTTP clients cannot be set up on this host.
    pub fn new(
        plan: Plan,
        store: Store,
        state: State,
        output: Output,
        served: Served,
    ) -> Result<Self, reqwest::Error> {
        let check = &plan.tier.balancer.check;
        let watcher = Watcher::new(check.interval, check.timeout, plan.resync);
        let happenings = mpsc::channel(HAPPENINGS_MAX);
        let (seen, mut from_watch) = mpsc::channel(HAPPENINGS_MAX);
        let to_loop = happenings.0.clone();
        tokio::spawn(async move {
            while let Some(seen) = from_watch.recv().await {
                if to_loop.send(Happening::Seen(seen)).await.is_err() {
                    return;
                }
            }
        });
        let names: Vec<&str> = plan.destinations.keys().map(String::as_str).collect();
        let mut runner = Self {
            policy: Policy {
                interval: check.interval,
                rise: check.rise,
                fall: check.fall,
            },
            watcher,
            courier: Courier::new()?,
            context: Context {
                cluster: plan.tier.name.clone(),
                links: vec![
                    (
                        "Dashboard".to_owned(),
                        format!("http://{}/stats", plan.ports.dashboards[0]),
                    ),
                    (
                        "Logs".to_owned(),
                        store.folder().join("logs").display().to_string(),
                    ),
                ],
            },
            children: BTreeMap::new(),
            roll: VecDeque::new(),
            rolling: None,
            happenings,
            seen,
            output,
            counters: Counters::new(&names),
            status: PgPoolClusterStatus::default(),
            served,
            begun: Instant::now(),
            ready_told: false,
            stopping: false,
            dirty: true,
            disk_fails: false,
            posts_under_way: 0,
            is_well: Arc::default(),
            plan,
            store,
            state,
        };
        for id in runner.state.endpoints.ids() {
            let child = runner.idle_child(id);
            runner.children.insert(id, child);
        }
        runner.publish();
        Ok(runner)
    }

    /// A sentence for whoever looks.
    pub fn note(&mut self, text: &str) {
        self.output.tell(&Event::Note(text), Timestamp::now());
    }

    /// Has a URL called for as long as the main loop turns and what happens can
    /// be kept.
    pub fn call_while_well(&mut self, beat: Beat) {
        self.counters.expect_heartbeats();
        let courier = self.courier.clone();
        let happenings = self.happenings.0.clone();
        let (heart, is_well) = (self.served.heartbeat.clone(), self.is_well.clone());
        tokio::spawn(async move {
            let turns = || heart.age(Instant::now()) < STUCK_AFTER;
            let is_well = || is_well.load(Ordering::Relaxed) && turns();
            let tell = |called: &Called| {
                // A main loop that takes nothing more has worse to tell.
                let _ = happenings.try_send(Happening::Called(called.clone()));
            };
            beat.keep_calling(&courier, is_well, tell).await;
        });
    }

    /// Runs the tier until SIGINT or SIGTERM, and ends it in order.
    ///
    /// # Errors
    /// If signals cannot be waited for.
    pub async fn run(mut self, found: Vec<Found>) -> std::io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        self.state.stopped = false;
        self.take_over(found).await;
        for id in self.state.endpoints.ids() {
            if self.children[&id].process.is_none() {
                self.start(id, false);
            }
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut slow_tick = tokio::time::interval(SLOW_TICK);
        let mut all_ended: Option<Instant> = None;
        loop {
            self.settle();
            if self.stopping && self.children.values().all(|child| child.process.is_none()) {
                let since = *all_ended.get_or_insert_with(Instant::now);
                if self.posts_under_way == 0 || since.elapsed() > POSTS_GRACE {
                    break;
                }
            }
            tokio::select! {
                Some(happening) = self.happenings.1.recv() => self.happens(happening),
                _ = tick.tick() => self.tick(),
                _ = slow_tick.tick() => self.slow_tick(),
                _ = interrupt.recv() => self.end("SIGINT"),
                _ = terminate.recv() => self.end("SIGTERM"),
            }
        }
        self.state.stopped = true;
        self.dirty = true;
        self.settle();
        self.output.tell(&Event::Stopped, Timestamp::now());
        self.output.flush(Timestamp::now());
        Ok(())
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.served.heartbeat.beat(now);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let starts: Vec<Id> = self
            .children
            .iter()
            .filter(|(_, child)| due(child.start_at))
            .map(|(id, _)| *id)
            .collect();
        for id in starts {
            self.start(id, true);
        }
        let mut late = Vec::new();
        for child in self.children.values_mut() {
            if due(child.kill_at)
                && let Some(process) = &child.process
            {
                process.kill();
                child.kill_at = None;
                late.push(child.running.name.clone());
            }
        }
        for name in late {
            self.note(&format!("{name} did not end in time and is killed"));
        }
        let changes = self.state.endpoints.tick(self.policy, Timestamp::now());
        self.handle(&changes);
        if !self.stopping {
            self.roll();
        }
        self.tell_when_ready();
    }

    fn slow_tick(&mut self) {
        for child in self.children.values() {
            // A log that cannot be cut goes on growing; that hinders nobody yet.
            let _ = logs::bound(&child.running.log, logs::LENGTH_MAX);
        }
        self.publish();
    }
}

/// What the marks of all children of a state folder begin with.
#[must_use]
pub fn mark_prefix(store: &Store) -> String {
    format!("{}/", store.folder().display())
}
