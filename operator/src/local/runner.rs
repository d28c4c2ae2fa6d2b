//! The main loop: one task that owns everything a tier is, while others wait,
//! watch and post for it and tell it what happened.
//!
//! Record before act: what happened is on disk before anything is done about
//! it, so that an operator that dies at any moment has a successor that knows.

mod children;
mod tell;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch as channel},
    task::AbortHandle,
};
use web::probes::Heartbeat;

use super::{
    backoff::Backoff,
    files::{self, Texts},
    logs,
    output::{Event, Output, Running},
    ports::Ports,
    process::{Ending, Process, Waiter},
    store::{State, Store},
};
use crate::{
    api::{Component, PgPoolClusterStatus},
    controller::build::Tier,
    endpoints::{Change, Id, Policy},
    http::Snapshot,
    metrics::Counters,
    notify::{Outcome, Post},
    slack::{self, Slack},
    watch::{Seen, Watcher},
    webhook::Webhook,
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
    /// Names what they are told.
    pub revision: String,
    /// Folder of the binaries.
    pub bin_dir: PathBuf,
    /// Time between two questions to a pooler.
    pub resync: Duration,
    /// Where to post, by channel.
    pub webhooks: BTreeMap<String, Webhook>,
}

/// A child that runs already.
#[derive(Debug)]
pub struct Found {
    /// Which.
    pub id: Id,
    /// Its process.
    pub process: Process,
    /// Tells its end.
    pub waiter: Waiter,
    /// What it takes to bring it up to date.
    pub change: files::Change,
}

/// What others tell the main loop.
enum Happening {
    Ended {
        id: Id,
        generation: u64,
        ending: Ending,
    },
    Seen(Seen),
    Posted {
        post: Box<Post>,
        outcome: Outcome,
    },
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
    slack: Slack,
    context: slack::Context,
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
    snapshot: channel::Sender<Snapshot>,
    heartbeat: Arc<Heartbeat>,
    begun: Instant,
    ready_told: bool,
    stopping: bool,
    /// Something is not on disk yet.
    dirty: bool,
    disk_fails: bool,
    posts_under_way: usize,
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
        snapshot: channel::Sender<Snapshot>,
        heartbeat: Arc<Heartbeat>,
    ) -> Result<Self, reqwest::Error> {
        let check = &plan.tier.balancer.check;
        let watcher = Watcher::new(check.interval, check.timeout, plan.resync)?;
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
        let names: Vec<&str> = plan.webhooks.keys().map(String::as_str).collect();
        let mut runner = Self {
            policy: Policy {
                interval: check.interval,
                rise: check.rise,
                fall: check.fall,
            },
            watcher,
            slack: Slack::new()?,
            context: slack::Context {
                cluster: plan.tier.name.clone(),
                look_further: format!(
                    "Look further: http://{}/stats, logs in {}",
                    plan.ports.dashboards[0],
                    store.folder().join("logs").display()
                ),
            },
            children: BTreeMap::new(),
            roll: VecDeque::new(),
            rolling: None,
            happenings,
            seen,
            output,
            counters: Counters::new(&names),
            status: PgPoolClusterStatus::default(),
            snapshot,
            heartbeat,
            begun: Instant::now(),
            ready_told: false,
            stopping: false,
            dirty: true,
            disk_fails: false,
            posts_under_way: 0,
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

    /// Takes over the children that run already, and learns from the balancers
    /// among them what happened while nobody listened.
    async fn take_over(&mut self, found: Vec<Found>) {
        let asked: Vec<_> = found
            .iter()
            .filter(|found| found.id.component == Component::Balancer)
            .map(|found| {
                let index = found.id.index;
                let address = self.children[&found.id].running.http;
                let cursor = self.cursor(index);
                let watcher = self.watcher.clone();
                async move {
                    let answer = watcher.balancer(address, cursor.as_ref(), None).await;
                    Some((index, answer.ok()?))
                }
            })
            .collect();
        let statuses: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        let now = Timestamp::now();
        let gone: Vec<Id> = self
            .state
            .endpoints
            .ids()
            .filter(|id| {
                self.state.endpoints.runs(*id) && found.iter().all(|found| found.id != *id)
            })
            .collect();
        for found in found {
            let Found {
                id,
                process,
                waiter,
                change,
            } = found;
            if !self.state.endpoints.runs(id) {
                self.state.endpoints.started(id, now);
            }
            self.runs(id, process, waiter, true);
            match change {
                files::Change::None => {}
                files::Change::Reload => self.reload(id),
                files::Change::Restart(reason) => {
                    self.note(&format!(
                        "{} will be restarted in its turn: {reason}",
                        id.name()
                    ));
                    self.roll.push_back(id);
                }
            }
        }
        // What the balancers saw comes first: it happened before we found out,
        // and it says who had announced that it would end.
        let changes = self
            .state
            .endpoints
            .balancers_said(&statuses, self.policy, now);
        self.handle(&changes);
        for id in gone {
            self.state.children.remove(&id.name());
            let reason = "ended while no operator ran";
            let changes = self.state.endpoints.ended(id, reason, self.policy, now);
            self.handle(&changes);
        }
    }

    fn cursor(&self, balancer: usize) -> Option<(String, u64)> {
        let (boot_id, number) = self.state.endpoints.cursor(balancer)?;
        Some((boot_id.to_owned(), number))
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Ended {
                id,
                generation,
                ending,
            } => self.ended(id, generation, ending),
            Happening::Seen(seen) => self.seen(seen),
            Happening::Posted { post, outcome } => self.posted(&post, outcome),
        }
    }

    fn seen(&mut self, seen: Seen) {
        let now = Timestamp::now();
        let current = |id: Id, generation| {
            let child = self.children.get(&id);
            child.is_some_and(|child| child.process.is_some() && child.generation == generation)
        };
        match seen {
            Seen::Pooler {
                index,
                generation,
                status,
            } if current(Id::pooler(index), generation) => {
                let changes = self.state.endpoints.pooler_said(
                    index,
                    &status.boot_id,
                    status.state,
                    status.config_revision.as_deref(),
                    self.policy,
                    now,
                );
                self.handle(&changes);
                self.check_revision(Id::pooler(index), status.config_revision.as_deref());
            }
            Seen::Balancer {
                index,
                generation,
                answer,
            } if current(Id::balancer(index), generation) => {
                let changes = match answer {
                    Ok(status) => {
                        let revision = status.config_revision.clone();
                        self.check_revision(Id::balancer(index), revision.as_deref());
                        let statuses = [(index, status)];
                        self.state
                            .endpoints
                            .balancers_said(&statuses, self.policy, now)
                    }
                    Err(reason) => {
                        let endpoints = &mut self.state.endpoints;
                        endpoints.balancer_silent(index, &reason, self.policy, now)
                    }
                };
                self.handle(&changes);
            }
            Seen::Pooler { .. } | Seen::Balancer { .. } => {}
        }
    }

    /// One that was taken over may have missed its reload: the operator before
    /// may have died between the writing and the telling.
    fn check_revision(&mut self, id: Id, revision: Option<&str>) {
        let wanted = &self.plan.revision;
        let rolls = self.roll.contains(&id) || self.rolling.is_some_and(|(other, _)| other == id);
        if !self.children[&id].reloaded && !rolls && revision != Some(wanted.as_str()) {
            self.reload(id);
        }
    }

    fn handle(&mut self, changes: &[Change]) {
        let now = Timestamp::now();
        for change in changes {
            self.state.notifier.observe(change);
            self.counters.transition(change.id.component, change.to);
            self.output.tell(&Event::Transition(change), now);
            self.dirty = true;
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.heartbeat.beat(now);
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
