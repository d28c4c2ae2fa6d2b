//! The main loop: one task that owns everything a tier is, while others wait,
//! watch and post for it and tell it what happened.
//!
//! Record before act: what happened is on disk before anything is done about
//! it, so that an operator that dies at any moment has a successor that knows.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch as channel},
    task::AbortHandle,
};

use super::{
    backoff::Backoff,
    files::{self, Texts},
    logs,
    output::{self, Event, Output, Running, Table},
    ports::Ports,
    process::{Ending, Launch, Process, Waiter},
    store::{State, Store},
};
use crate::{
    api::{Component, EndpointState, PgPoolClusterStatus},
    controller::{
        build::Tier,
        status::{self, Observed},
    },
    endpoints::{Change, Id, Policy},
    http::{Heartbeat, Snapshot},
    metrics::{self, Counters},
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
    heartbeat: Heartbeat,
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
        heartbeat: Heartbeat,
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

    fn idle_child(&self, id: Id) -> Child {
        let (address, http) = match id.component {
            Component::Pooler => {
                let addresses = self.plan.ports.poolers[id.index];
                (addresses.data, addresses.http)
            }
            Component::Balancer => (
                self.plan.ports.service,
                self.plan.ports.dashboards[id.index],
            ),
        };
        Child {
            running: Running {
                name: id.name(),
                component: id.component,
                pid: 0,
                address,
                http,
                log: self.store.log(&id.name()),
                restarts: 0,
            },
            generation: 0,
            process: None,
            started: Instant::now(),
            told_to_end: false,
            kill_at: None,
            start_at: None,
            backoff: Backoff::default(),
            reloaded: false,
            follow: None,
        }
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

    // Children

    /// Starts a child; one that cannot be started is tried again.
    fn start(&mut self, id: Id, again: bool) {
        let now = Timestamp::now();
        let text = &self.plan.texts[&id];
        let launch = Launch {
            binary: self.plan.bin_dir.join(id.component.word()),
            config: self.store.conf().join(files::name(id)),
            log: self.store.log(&id.name()),
            mark: mark(&self.store, id),
        };
        self.roll.retain(|waits| *waits != id);
        let child = self.children.get_mut(&id).expect("every endpoint has one");
        child.start_at = None;
        child.told_to_end = false;
        child.kill_at = None;
        let started = self
            .store
            .write_conf(&files::name(id), text.as_bytes())
            .and_then(|()| Process::start(&launch));
        match started {
            Ok((process, waiter)) => {
                if again {
                    child.running.restarts += 1;
                    self.counters.restart(id.component);
                }
                self.state.endpoints.started(id, now);
                self.runs(id, process, waiter, false);
            }
            Err(error) => {
                let reason = format!("cannot be started: {error}");
                let delay = child.backoff.after(Duration::ZERO);
                child.start_at = Some(Instant::now() + delay);
                let running = child.running.clone();
                let event = Event::Ended {
                    child: &running,
                    reason: &reason,
                    planned: false,
                    restart_in_ms: Some(delay.as_millis()),
                };
                self.output.tell(&event, now);
                let changes = self.state.endpoints.ended(id, &reason, self.policy, now);
                self.handle(&changes);
            }
        }
    }

    /// A process runs: remembers it, waits for its end, follows its status.
    fn runs(&mut self, id: Id, process: Process, mut waiter: Waiter, adopted: bool) {
        self.state
            .children
            .insert(id.name(), process.identity.clone());
        self.dirty = true;
        let cursor = match (id.component, adopted) {
            (Component::Balancer, true) => self.cursor(id.index),
            _ => None,
        };
        let child = self.children.get_mut(&id).expect("every endpoint has one");
        child.generation += 1;
        child.running.pid = process.identity.pid;
        child.process = Some(process);
        child.started = Instant::now();
        child.reloaded = !adopted;
        let generation = child.generation;
        let happenings = self.happenings.0.clone();
        tokio::spawn(async move {
            let ending = waiter.wait().await;
            let ended = Happening::Ended {
                id,
                generation,
                ending,
            };
            // Without a main loop there is nobody to tell.
            let _ = happenings.send(ended).await;
        });
        let watcher = self.watcher.clone();
        let (http, seen) = (child.running.http, self.seen.clone());
        let follow = match id.component {
            Component::Pooler => tokio::spawn(watcher.follow_pooler(
                id.index,
                generation,
                http,
                self.plan.revision.clone(),
                seen,
            )),
            Component::Balancer => {
                tokio::spawn(watcher.follow_balancer(id.index, generation, http, cursor, seen))
            }
        };
        child.follow = Some(follow.abort_handle());
        let (running, now) = (child.running.clone(), Timestamp::now());
        let event = match (adopted, running.restarts) {
            (false, 1..) => Event::Restarted(&running),
            _ => Event::Started {
                child: &running,
                adopted,
            },
        };
        self.output.tell(&event, now);
    }

    fn ended(&mut self, id: Id, generation: u64, ending: Ending) {
        let now = Timestamp::now();
        let child = self.children.get_mut(&id).expect("every endpoint has one");
        if child.generation != generation {
            return;
        }
        child.process = None;
        if let Some(follow) = child.follow.take() {
            follow.abort();
        }
        child.kill_at = None;
        self.state.children.remove(&id.name());
        let reason = ending.to_string();
        let planned = child.told_to_end;
        let delay = match (self.stopping, planned) {
            (true, _) => None,
            (false, true) => Some(Duration::ZERO),
            (false, false) => Some(child.backoff.after(child.started.elapsed())),
        };
        child.start_at = delay.map(|delay| Instant::now() + delay);
        let running = child.running.clone();
        child.running.pid = 0;
        let event = Event::Ended {
            child: &running,
            reason: &reason,
            planned,
            restart_in_ms: delay.map(|delay| delay.as_millis()),
        };
        self.output.tell(&event, now);
        self.dirty = true;
        let changes = self.state.endpoints.ended(id, &reason, self.policy, now);
        self.handle(&changes);
    }

    fn reload(&mut self, id: Id) {
        let written = self
            .store
            .write_conf(&files::name(id), self.plan.texts[&id].as_bytes());
        if let Err(error) = written {
            self.note(&format!(
                "{}: its configuration cannot be written: {error}",
                id.name()
            ));
            return;
        }
        let child = self.children.get_mut(&id).expect("every endpoint has one");
        child.reloaded = true;
        if let Some(process) = &child.process {
            process.reload();
            self.note(&format!("{} reads its changed configuration", id.name()));
        }
    }

    /// Tells a child to end in order; it is killed if it takes too long.
    fn terminate(&mut self, id: Id) {
        let check = &self.plan.tier.balancer.check;
        let limit = match id.component {
            // It goes on accepting for two checks and a second first.
            Component::Pooler => {
                self.plan.tier.pooler.drain_timeout + check.interval * 2 + Duration::from_secs(1)
            }
            Component::Balancer => BALANCER_DRAIN.max(self.plan.tier.pooler.drain_timeout),
        };
        let child = self.children.get_mut(&id).expect("every endpoint has one");
        child.told_to_end = true;
        child.start_at = None;
        if let Some(process) = &child.process {
            self.state.endpoints.told_to_end(id);
            process.terminate();
            child.kill_at = Some(Instant::now() + limit + END_MARGIN);
        }
    }

    /// Restarts the next child that must be, when all others of its kind are up.
    fn roll(&mut self) {
        if let Some((id, generation)) = self.rolling {
            let back = self.children[&id].generation > generation
                && self.state.endpoints.judgement(id).state == EndpointState::Up;
            if !back {
                return;
            }
            self.rolling = None;
        }
        let Some(id) = self.roll.front().copied() else {
            return;
        };
        let others_up = self.state.endpoints.ids().all(|other| {
            other == id
                || other.component != id.component
                || self.state.endpoints.judgement(other).state == EndpointState::Up
        });
        if others_up {
            self.roll.pop_front();
            self.rolling = Some((id, self.children[&id].generation));
            self.note(&format!(
                "{} is restarted to take its changed configuration",
                id.name()
            ));
            self.terminate(id);
        }
    }

    /// Ends the tier, in order the first time and at once the second.
    fn end(&mut self, signal: &str) {
        let ids: Vec<Id> = self.state.endpoints.ids().collect();
        if self.stopping {
            self.note(&format!("{signal} again: ending at once"));
            for child in self.children.values() {
                if let Some(process) = &child.process {
                    process.kill();
                }
            }
            return;
        }
        self.stopping = true;
        self.roll.clear();
        self.output.tell(&Event::Stopping(signal), Timestamp::now());
        for id in ids {
            self.terminate(id);
        }
        self.dirty = true;
    }

    // What happens

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

    fn posted(&mut self, post: &Post, outcome: Outcome) {
        self.posts_under_way -= 1;
        let now = Timestamp::now();
        let (result, problem) = match &outcome {
            Outcome::Delivered => ("delivered", None),
            Outcome::Failed(reason) => ("failed", Some((reason.clone(), true))),
            Outcome::Unclear(reason) => ("unclear", Some((reason.clone(), true))),
            Outcome::Throttled(wait) => {
                let reason = format!("asked to wait for {} s", wait.as_secs());
                ("throttled", Some((reason, true)))
            }
            Outcome::Refused(reason) => ("refused", Some((reason.clone(), false))),
        };
        self.counters.notification(&post.channel, result);
        let event = match &problem {
            None => Event::Notified(post),
            Some((problem, tries_again)) => Event::NotNotified {
                post,
                problem,
                tries_again: *tries_again,
            },
        };
        self.output.tell(&event, now);
        self.state
            .notifier
            .finished(&post.channel, outcome, now, jitter());
        self.dirty = true;
    }

    // What is due

    fn tick(&mut self) {
        self.heartbeat.beat();
        let now = Instant::now();
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

    fn tell_when_ready(&mut self) {
        if self.ready_told || self.stopping {
            return;
        }
        let (poolers_up, poolers) = self.state.endpoints.count(Component::Pooler);
        let (balancers_up, balancers) = self.state.endpoints.count(Component::Balancer);
        let all = poolers_up == poolers && balancers_up == balancers;
        let some = poolers_up > 0 && balancers_up > 0 && self.begun.elapsed() > READY_PATIENCE;
        if !all && !some {
            return;
        }
        self.ready_told = true;
        self.publish();
        let ready = output::Ready {
            cluster: self.plan.tier.name.clone(),
            service: self.plan.ports.service,
            operator: self.plan.ports.operator,
            state_dir: self.store.folder().to_owned(),
            poolers_up,
            poolers,
            balancers_up,
            balancers,
            endpoints: self
                .children
                .values()
                .map(|child| child.running.clone())
                .collect(),
        };
        self.output.tell(&Event::Ready(&ready), Timestamp::now());
    }

    // What is kept, told and shown

    /// Keeps what happened, then posts what should be told, kept before too,
    /// then prints.
    fn settle(&mut self) {
        let before = self.dirty;
        if self.keep() {
            let posts = self.state.notifier.claim(Timestamp::now());
            self.dirty = !posts.is_empty();
            let kept = self.keep();
            for post in posts {
                self.post(post, kept);
            }
        }
        if before {
            self.publish();
        }
        self.output.flush(Timestamp::now());
    }

    /// Writes what is remembered, if it changed. False if the disk refuses.
    fn keep(&mut self) -> bool {
        if !self.dirty {
            return true;
        }
        match self.store.save(&self.state) {
            Ok(()) => {
                self.dirty = false;
                self.disk_fails = false;
            }
            Err(error) if !self.disk_fails => {
                self.disk_fails = true;
                let folder = self.store.folder().display().to_string();
                self.note(&format!(
                    "{folder}: what happens cannot be kept, so nobody is told of it: {error}"
                ));
            }
            Err(_) => {}
        }
        !self.dirty
    }

    fn post(&mut self, post: Post, kept: bool) {
        self.posts_under_way += 1;
        let happenings = self.happenings.0.clone();
        let slack = self.slack.clone();
        let webhook = self.plan.webhooks.get(&post.channel).cloned();
        let message = slack::render(&post, &self.context, Timestamp::now());
        tokio::spawn(async move {
            let outcome = match webhook {
                Some(Webhook::Url(url)) if kept => slack.post(&url, &message).await,
                _ => Outcome::Failed("the claim could not be kept".to_owned()),
            };
            let posted = Happening::Posted {
                post: Box::new(post),
                outcome,
            };
            // Without a main loop there is nobody to tell.
            let _ = happenings.send(posted).await;
        });
    }

    /// Brings status, metrics and table up to date.
    fn publish(&mut self) {
        let now = Timestamp::now();
        let endpoints = self.state.endpoints.statuses();
        let notifications = self.state.notifier.statuses();
        let observed = Observed {
            generation: None,
            revision: &self.plan.revision,
            endpoints: &endpoints,
            notifications: &notifications,
        };
        self.status = status::status(&observed, &self.status, now);
        let cluster = &self.plan.tier.name;
        let children: Vec<&Running> = self.children.values().map(|child| &child.running).collect();
        self.snapshot.send_replace(Snapshot {
            not_ready: self.stopping.then(|| "stopping".to_owned()),
            metrics: metrics::page(cluster, &self.status, &self.counters),
            status: json!({
                "version": env!("CARGO_PKG_VERSION"),
                "cluster": cluster,
                "service": self.plan.ports.service,
                "stateDir": self.store.folder(),
                "configRevision": self.plan.revision,
                "children": children,
                "status": self.status,
            }),
        });
        let table = self.table();
        self.output.show(table);
    }

    fn table(&self) -> Table {
        let rows = self.children.iter().map(|(id, child)| {
            let judgement = self.state.endpoints.judgement(*id);
            output::Row {
                name: id.name(),
                state: judgement.state,
                since: judgement.since,
                pid: child.process.as_ref().map(|process| process.identity.pid),
                address: child.running.address.to_string(),
                http: child.running.http.to_string(),
                reason: judgement.reason.clone(),
            }
        });
        Table {
            title: format!(
                "{} on {} · {} poolers, {} balancers up · operator http://{}/status",
                self.plan.tier.name,
                self.plan.ports.service,
                self.status.poolers.summary,
                self.status.balancer.summary,
                self.plan.ports.operator
            ),
            rows: rows.collect(),
            notifications: self.state.notifier.statuses(),
        }
    }
}

/// The mark of a child, unique on the machine.
fn mark(store: &Store, id: Id) -> String {
    format!("{}{}", mark_prefix(store), id.name())
}

/// What the marks of all children of a state folder begin with.
#[must_use]
pub fn mark_prefix(store: &Store) -> String {
    format!("{}/", store.folder().display())
}

fn jitter() -> f64 {
    let mut random = [0];
    // Without randomness the middle does.
    match getrandom::fill(&mut random) {
        Ok(()) => f64::from(random[0]) / 255.0,
        Err(_) => 0.5,
    }
}
