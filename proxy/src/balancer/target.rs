//! One target: what loops read of it, and what its checks found.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use proxy_core::{
    health::{self, Change, Health, Observation, Policy},
    status::TargetStatus,
    wire::TargetReport,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::{
    counters::{Level, Traffic},
    probe::Seen,
};

/// How a target became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration lists it.
    Configured,
    /// DNS named its address.
    Discovered,
}

/// A target, shared by the event loops, its checker and the status pages.
#[derive(Debug)]
pub struct Target {
    /// Unique within the process; a reload never gives it to another.
    pub id: u32,
    /// Name from the configuration; of a discovered one, its address.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// How it became a target.
    pub origin: Origin,
    /// Named by the newest answer of DNS; always true of a configured one.
    pub listed: AtomicBool,
    /// Its sessions.
    pub traffic: Traffic,
    /// Its sessions that count when a target is chosen: those it has not closed.
    /// A client may take long to close what the target has closed.
    pub load: Level,
    /// Asks for a check now: a connect to it has failed.
    pub check_wanted: Notify,
    /// Gets new connections.
    open: AtomicBool,
    /// How many times its sessions were to be closed. Loops compare it with
    /// what they saw last, so that no order is lost and none is queued.
    cuts: AtomicU32,
    judged: Mutex<Judged>,
}

/// What the checks of a target found.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The judgement.
    pub state: health::State,
    /// What the target said of itself when it last did.
    pub report: Option<TargetReport>,
    /// When it did, by a clock that nobody sets and that goes on in suspend.
    reported_at: Duration,
    /// The newest check.
    pub seen: Option<Seen>,
    /// Checks that passed.
    pub checks_passed: u64,
    /// Checks that failed.
    pub checks_failed: u64,
    /// Changes so far.
    pub changes: Changes,
    /// Time spent Down, up to the last change.
    pub down_time: Duration,
}

/// How often a target changed, by the state after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To Up.
    pub up: u64,
    /// To Down.
    pub down: u64,
    /// To Draining.
    pub draining: u64,
    /// A new process that was not announced by a drain.
    pub restarted: u64,
}

impl Target {
    /// A target that was never checked.
    #[must_use]
    pub fn new(
        id: u32,
        name: String,
        address: SocketAddr,
        origin: Origin,
        loops: usize,
        now: Timestamp,
    ) -> Self {
        let state = match origin {
            Origin::Configured => health::State::new(now),
            Origin::Discovered => health::State::discovered(now),
        };
        Self {
            id,
            name,
            address,
            origin,
            listed: AtomicBool::new(true),
            traffic: Traffic::new(loops),
            load: Level::default(),
            check_wanted: Notify::new(),
            open: AtomicBool::new(false),
            cuts: AtomicU32::new(0),
            judged: Mutex::new(Judged {
                state,
                report: None,
                reported_at: Duration::ZERO,
                seen: None,
                checks_passed: 0,
                checks_failed: 0,
                changes: Changes::default(),
                down_time: Duration::ZERO,
            }),
        }
    }

    /// Whether it gets new connections.
    #[inline]
    #[must_use]
    pub fn open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// How many times its sessions were to be closed.
    #[must_use]
    pub fn cuts(&self) -> u32 {
        self.cuts.load(Relaxed)
    }

    /// What its checks found.
    #[must_use]
    pub fn judged(&self) -> Judged {
        self.judged.lock().expect("no holder panics").clone()
    }

    /// What it says of itself, its numbers of clients apart: they change always.
    /// Not what it said longer ago than `lasts`.
    #[must_use]
    pub fn gist(&self, lasts: Duration) -> Option<TargetReport> {
        let judged = self.judged.lock().expect("no holder panics");
        let report = judged.believed(lasts)?;
        Some(TargetReport {
            clients: 0,
            waiting: 0,
            ..report.clone()
        })
    }

    /// Takes a check in, and returns the change it makes. `observation` is
    /// `None` if the check says nothing about the target.
    pub fn observe(
        &self,
        observation: Option<&Observation>,
        seen: Seen,
        policy: Policy,
        now: Timestamp,
    ) -> Option<Change> {
        let mut judged = self.judged.lock().expect("no holder panics");
        judged.seen = Some(seen);
        let observation = observation?;
        match observation {
            Observation::Passed { report } => {
                judged.checks_passed += 1;
                if report.is_some() {
                    judged.report.clone_from(report);
                    judged.reported_at = uptime();
                }
            }
            Observation::Failed { .. } => judged.checks_failed += 1,
        }
        let since = judged.state.since;
        let (state, change) = health::judge(&judged.state, observation, policy, now);
        judged.state = state;
        let change = change?;
        if change.from == Health::Down && change.to != Health::Down {
            judged.down_time += elapsed(since, now);
        }
        judged.changes.restarted += u64::from(change.restarted);
        if change.from != change.to {
            match change.to {
                Health::Up => judged.changes.up += 1,
                Health::Down => judged.changes.down += 1,
                Health::Draining => judged.changes.draining += 1,
                Health::Unknown => {}
            }
        }
        self.open.store(change.to == Health::Up, Relaxed);
        if change.cut_sessions {
            self.cuts.fetch_add(1, Relaxed);
        }
        Some(change)
    }

    /// Its line in `/status`, without what it said longer ago than `lasts`.
    #[must_use]
    pub fn status(&self, lasts: Duration) -> TargetStatus {
        let judged = self.judged();
        TargetStatus {
            name: self.name.clone(),
            address: self.address.to_string(),
            state: judged.state.health,
            since: judged.state.since,
            reason: judged.state.reason.clone(),
            connections: self.traffic.connections.now(),
            connections_total: self.traffic.total.load(Relaxed),
            discovered: self.origin == Origin::Discovered,
            listed: self.listed.load(Relaxed),
            report: judged.believed(lasts).cloned(),
        }
    }
}

impl Judged {
    /// What the target said of itself last, unless it is not down and said so too
    /// long ago. A balancer that was frozen comes back with what it heard before:
    /// another process may have taken over since, and be known to everyone else.
    fn believed(&self, lasts: Duration) -> Option<&TargetReport> {
        let age = uptime().saturating_sub(self.reported_at);
        let counts = self.state.health == Health::Down || age < lasts;
        self.report.as_ref().filter(|_| counts)
    }

    /// Time spent Down until `now`.
    #[must_use]
    pub fn down_time(&self, now: Timestamp) -> Duration {
        match self.state.health {
            Health::Down => self.down_time + elapsed(self.state.since, now),
            Health::Unknown | Health::Up | Health::Draining => self.down_time,
        }
    }
}

/// Since the machine started, suspended or not.
fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    now.try_into().unwrap_or_default()
}

/// Time from `since` to `now`; zero if the clock was set back.
#[must_use]
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proxy_core::{health::Failure, wire::TargetState};

    use super::{super::probe::Outcome, *};

    #[test]
    fn what_a_target_said_long_ago_is_told_only_while_it_is_down() {
        let now = Timestamp::now();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let target = Target::new(1, "a".to_owned(), address, Origin::Configured, 1, now);
        let policy = Policy { rise: 1, fall: 1 };
        let observe = |observation| {
            let seen = Seen {
                outcome: Outcome::Serves,
                duration: Duration::ZERO,
                text: String::new(),
            };
            target.observe(Some(&observation), seen, policy, now);
        };
        observe(Observation::Passed {
            report: Some(TargetReport {
                state: TargetState::Ready,
                boot_id: "boot".to_owned(),
                name: None,
                config_revision: None,
                clients: 0,
                waiting: 0,
                upstream: None,
                saturation: None,
                version: None,
            }),
        });
        let told = |lasts| {
            let report = target.status(lasts).report;
            assert_eq!(report.is_some(), target.gist(lasts).is_some());
            report.is_some()
        };
        assert!(told(Duration::MAX));
        assert!(!told(Duration::ZERO));
        observe(Observation::Failed {
            failure: Failure::Silent,
            reason: "no answer".to_owned(),
        });
        assert!(told(Duration::ZERO), "as the last that was heard of it");
    }
}
