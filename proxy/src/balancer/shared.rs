//! What the event loops, the checkers and the status pages share.
//!
//! Orders to the loops are levels, not messages: a loop that is woken compares
//! the phase, the list of targets and each target's `cuts` with what it saw
//! last. So no order can be lost, and none has to be queued. The one queue, of
//! connections handed from the loop that accepts to another, is bounded by
//! max_connections: each entry holds its place before it is handed over.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mio::{Waker, net::TcpStream};
use proxy_core::{
    config::balancer::BalancerConfig,
    health::{Health, Policy},
    status::{ReloadStatus, Transition},
    wire::DrainOrder,
};
use tokio::sync::{Notify, watch};
use web::{polls::Polls, probes::Heartbeat};

use super::{
    counters::Traffic,
    discovery::{self, LookUps},
    journal::Journal,
    probe::Probe,
    target::{Origin, Target, elapsed},
};
use crate::boot::unix_ms;

/// Descriptors kept for everything but sessions: HTTP, checks, the log,
/// listeners, clients being told that the limit is reached.
const DESCRIPTORS_RESERVED: u64 = 256;
/// Poolers spread the ends of our sessions over this part of drain_timeout.
const DRAIN_SPREAD_PART: u32 = 4;
/// Clients above the limit that are told so at a time; more are reset.
const REFUSED_ABOVE_LIMIT_MAX: u32 = 64;

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The port is bound, the first round of checks is under way: connections
    /// wait in the kernel's queue.
    Checking,
    /// Connections are accepted.
    Serving,
    /// The port is closed, sessions go on.
    Draining,
    /// Everything ends now.
    Stopping,
}

/// Targets in the order of the configuration, then those discovered.
pub type Targets = Arc<[Arc<Target>]>;

/// The process's state.
#[derive(Debug)]
pub struct Shared {
    /// When the process began.
    pub begin: Instant,
    /// When the process began.
    pub started_at: Timestamp,
    /// Random, new at each start.
    pub boot_id: String,
    /// Where clients connect: the configured address, with the port that the
    /// kernel chose where that was 0.
    pub listen: SocketAddr,
    /// Configuration in force.
    pub config: watch::Sender<Arc<BalancerConfig>>,
    /// What the process is doing.
    pub phase: watch::Sender<Phase>,
    /// Limit of client connections in force.
    pub connections_max: AtomicU32,
    /// Client connections, refused ones included.
    pub frontend: Traffic,
    /// Connections to all targets, those removed since included.
    pub backend: Traffic,
    /// Clients refused for want of a target.
    pub refused_no_target: AtomicU64,
    /// Clients refused by a limit.
    pub refused_limit: AtomicU64,
    /// Transitions of targets.
    pub journal: Journal,
    /// Counts changes of what targets say of themselves, their numbers of clients
    /// apart: no transitions, and yet news.
    pub reported: watch::Sender<u64>,
    /// Whether any target is up, and since when.
    pub availability: Mutex<Availability>,
    /// Loop 0 has closed the port: no connection comes any more.
    pub port_closed: watch::Sender<bool>,
    /// Signalled when the last client connection ends.
    pub idle: Notify,
    /// Long polls for transitions.
    pub polls: Polls,
    /// By event loop.
    pub loops: Box<[LoopHandle]>,
    /// What became of reloads.
    pub reloads: Mutex<ReloadStatus>,
    /// What became of look-ups.
    pub look_ups: Mutex<LookUps>,
    /// Targets in force; tells their checkers of every change, and of every
    /// configuration.
    pub targets: watch::Sender<Targets>,
    target_ids: AtomicU32,
}

/// Whether any target is up, as the BACKEND row shows it.
#[derive(Clone, Copy, Debug)]
pub struct Availability {
    /// Targets that are up.
    pub up: u32,
    /// When the last one went down, or the first one came up.
    pub since: Timestamp,
    /// How often the last one went down.
    pub downs: u64,
    /// Time without one that is up, up to `since`.
    pub down_time: Duration,
}

/// How others reach an event loop.
#[derive(Debug)]
pub struct LoopHandle {
    /// Ends its wait.
    pub waker: Waker,
    /// When it turned last.
    pub heart: Arc<Heartbeat>,
    /// Sessions it has or is about to get.
    pub sessions: AtomicU32,
    /// Connections handed to it.
    pub arrivals: Mutex<Vec<Arrival>>,
}

/// A client connection that was accepted and holds its place.
#[derive(Debug)]
pub struct Arrival {
    /// The client.
    pub client: TcpStream,
    /// What it is to get.
    pub place: Place,
}

/// What an accepted connection is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A session.
    Session,
    /// An error: the limit is reached.
    Refusal,
}

impl Shared {
    /// A process about to check its targets.
    #[must_use]
    pub fn new(
        config: BalancerConfig,
        boot_id: String,
        listen: SocketAddr,
        loops: Vec<LoopHandle>,
    ) -> Self {
        let count = loops.len();
        let shared = Self {
            begin: Instant::now(),
            started_at: Timestamp::now(),
            boot_id,
            listen,
            config: watch::Sender::new(Arc::new(config)),
            phase: watch::Sender::new(Phase::Checking),
            connections_max: AtomicU32::new(0),
            frontend: Traffic::new(count),
            backend: Traffic::new(count),
            refused_no_target: AtomicU64::new(0),
            refused_limit: AtomicU64::new(0),
            journal: Journal::default(),
            reported: watch::Sender::new(0),
            availability: Mutex::new(Availability {
                up: 0,
                since: Timestamp::now(),
                downs: 0,
                down_time: Duration::ZERO,
            }),
            port_closed: watch::Sender::new(false),
            idle: Notify::new(),
            polls: Polls::default(),
            loops: loops.into(),
            reloads: Mutex::default(),
            look_ups: Mutex::default(),
            targets: watch::Sender::new(Arc::new([])),
            target_ids: AtomicU32::new(0),
        };
        let config = shared.config();
        shared.take_over(&config);
        shared
    }

    /// The bootId as the number that it is the text of.
    #[must_use]
    pub fn boot_number(&self) -> u64 {
        u64::from_str_radix(&self.boot_id, 16).unwrap_or_default()
    }

    /// What checks tell poolers while this process drains: to end its sessions at
    /// their boundaries, which only they can see. They know these by the PROXY
    /// header, and believe it by the shared key.
    #[must_use]
    pub fn drain_order(&self) -> Option<DrainOrder> {
        let config = self.config();
        let key = config
            .shared_key
            .as_ref()
            .filter(|_| config.proxy_protocol)?;
        // The rest of the time is for transactions that are under way.
        let within = config.drain_timeout / DRAIN_SPREAD_PART;
        (self.phase() == Phase::Draining)
            .then(|| DrainOrder::new(self.boot_number(), within, key, unix_ms()))
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<BalancerConfig> {
        self.config.borrow().clone()
    }

    /// What the process is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The targets in force.
    #[must_use]
    pub fn targets(&self) -> Targets {
        self.targets.borrow().clone()
    }

    /// Milliseconds since the process began.
    #[must_use]
    pub fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begin).as_millis() as u64
    }

    /// Goes on to `phase`; phases never go back.
    pub fn enter(&self, phase: Phase) {
        let forward = self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
        if forward {
            self.wake_loops();
        }
    }

    /// Puts `config` in force: targets that it still names, by name and
    /// address, keep their state; sessions of those it no longer names go on.
    /// Returns the targets that are new.
    pub fn take_over(&self, config: &Arc<BalancerConfig>) -> Vec<Arc<Target>> {
        self.connections_max
            .store(allowed_connections(config), Relaxed);
        let mut added = Vec::new();
        // Before the targets, whose change has checkers look at both.
        self.config.send_replace(config.clone());
        self.targets.send_modify(|targets| {
            let (discovered, configured): (Vec<_>, Vec<_>) = targets
                .iter()
                .cloned()
                .partition(|target| target.origin == Origin::Discovered);
            let mut known: HashMap<_, _> = configured
                .into_iter()
                .map(|target| ((target.name.clone(), target.address), target))
                .collect();
            let configured = config.targets.iter().map(|target| {
                let key = (target.name.clone(), target.address);
                known.remove(&key).unwrap_or_else(|| {
                    let target = self.new_target(key.0, key.1, Origin::Configured);
                    added.push(target.clone());
                    target
                })
            });
            let mut all: Vec<Arc<Target>> = configured.collect();
            if config.discovery.is_some() {
                let clashes = |found: &Arc<Target>| {
                    all.iter()
                        .any(|one| one.address == found.address || one.name == found.name)
                };
                let stay: Vec<_> = discovered
                    .into_iter()
                    .filter(|found| !clashes(found))
                    .collect();
                all.extend(stay);
            }
            *targets = all.into();
        });
        self.targets_changed();
        added
    }

    /// A target with an identity of its own.
    pub(super) fn new_target(
        &self,
        name: String,
        address: SocketAddr,
        origin: Origin,
    ) -> Arc<Target> {
        let id = self.target_ids.fetch_add(1, Relaxed);
        let (loops, now) = (self.loops.len(), Timestamp::now());
        Arc::new(Target::new(id, name, address, origin, loops, now))
    }

    /// Counts anew and has the loops look, after targets came or went.
    pub(super) fn targets_changed(&self) {
        self.count_up(Timestamp::now());
        self.wake_loops();
    }

    /// For how long what a target says of itself counts that is not down: until
    /// `fall` checks must have failed.
    pub(super) fn report_lasts(&self) -> Duration {
        let check = &self.config().check;
        check.interval.saturating_mul(check.fall.saturating_add(1))
    }

    /// Takes a check of `target` in: judges, tells, and orders what follows.
    pub fn observe(&self, target: &Target, probe: Probe) {
        let targets = self.targets();
        if !targets.iter().any(|one| one.id == target.id) {
            return; // Removed while the check was under way.
        }
        let config = self.config();
        let policy = Policy {
            rise: config.check.rise,
            fall: config.check.fall,
        };
        let now = Timestamp::now();
        let text = probe.seen.text.clone();
        let Some(observation) = &probe.observation else {
            tracing::warn!(target = target.name, reason = text, "target not checked");
            target.observe(None, probe.seen, policy, now);
            return;
        };
        tracing::trace!(target = target.name, answer = text, "target checked");
        let lasts = self.report_lasts();
        let before = target.gist(lasts);
        let change = target.observe(Some(observation), probe.seen, policy, now);
        if target.gist(lasts) != before {
            self.reported.send_modify(|reported| *reported += 1);
        }
        let Some(change) = change else {
            return;
        };
        let up = self.count_up(now);
        let transition = Transition {
            number: 0,
            at: now,
            target: target.name.clone(),
            from: change.from,
            to: change.to,
            restarted: change.restarted,
            reason: change.reason,
            boot_id: change.boot_id,
            up,
            total: targets.len() as u32,
        };
        log(&transition);
        self.journal.append(transition);
        self.wake_loops();
    }

    /// Counts the targets that are up, and notes when the last one went.
    fn count_up(&self, now: Timestamp) -> u32 {
        let up = self.targets().iter().filter(|target| target.open()).count() as u32;
        let mut availability = self.availability.lock().expect("no holder panics");
        if (availability.up == 0) != (up == 0) {
            if up == 0 {
                availability.downs += 1;
            } else {
                let down = elapsed(availability.since, now);
                availability.down_time += down;
            }
            availability.since = now;
        }
        availability.up = up;
        up
    }

    /// Takes a place for a connection just accepted; `None` if not even a
    /// refusal is possible. The place is given back by [`Shared::leave_connection`].
    pub fn enter_connection(&self) -> Option<Place> {
        let connections = self.frontend.connections.raise();
        let max = self.connections_max.load(Relaxed);
        if connections <= max {
            Some(Place::Session)
        } else if connections <= max.saturating_add(REFUSED_ABOVE_LIMIT_MAX) {
            Some(Place::Refusal)
        } else {
            self.refused_limit.fetch_add(1, Relaxed);
            self.leave_connection();
            None
        }
    }

    /// Gives a place back.
    pub fn leave_connection(&self) {
        if self.frontend.connections.lower() == 0 {
            self.idle.notify_one();
        }
    }

    /// Whether any target is up.
    #[must_use]
    pub fn has_target_up(&self) -> bool {
        let targets = self.targets();
        targets
            .iter()
            .any(|target| target.judged().state.health == Health::Up)
    }

    /// How many targets are in which state, such as `2 down, 1 draining`.
    #[must_use]
    pub fn states(&self) -> String {
        let targets = self.targets();
        let healths: Vec<Health> = targets
            .iter()
            .map(|target| target.judged().state.health)
            .collect();
        let parts: Vec<String> = [
            (Health::Up, "up"),
            (Health::Down, "down"),
            (Health::Draining, "draining"),
            (Health::Unknown, "not checked yet"),
        ]
        .into_iter()
        .filter_map(|(health, word)| {
            let count = healths.iter().filter(|&&one| one == health).count();
            (count > 0).then(|| format!("{count} {word}"))
        })
        .collect();
        match parts.is_empty() {
            true => "none known".to_owned(),
            false => parts.join(", "),
        }
    }

    fn wake_loops(&self) {
        for handle in &self.loops {
            handle.wake();
        }
    }
}

impl LoopHandle {
    /// Ends the loop's wait.
    pub fn wake(&self) {
        // Adding 1 to an eventfd fails only if nobody has read it 2^64 times.
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "event loop not woken");
        }
    }
}

fn log(transition: &Transition) {
    let Transition {
        number: _,
        at: _,
        target,
        from,
        to,
        restarted,
        reason,
        boot_id: _,
        up,
        total,
    } = transition;
    if *to == Health::Down || *restarted {
        tracing::warn!(target, %from, %to, restarted, reason, up, total, "target changed");
    } else {
        tracing::info!(target, %from, %to, restarted, reason, up, total, "target changed");
    }
}

/// max_connections, lowered to what the descriptor limit allows: two each.
fn allowed_connections(config: &BalancerConfig) -> u32 {
    let asked = config.max_connections;
    let limit = crate::net::raise_nofile_limit();
    let discovered = match config.discovery {
        Some(_) => discovery::TARGETS_MAX,
        None => 0,
    };
    let reserved = DESCRIPTORS_RESERVED + (config.targets.len() + discovered) as u64;
    let possible = limit.saturating_sub(reserved) / 2;
    let allowed = asked
        .min(u32::try_from(possible).unwrap_or(u32::MAX))
        .max(1);
    if allowed < asked {
        tracing::warn!(
            max_connections = asked,
            allowed,
            descriptors = limit,
            "max_connections lowered: raise the limit of open files (ulimit -n)"
        );
    }
    allowed
}
