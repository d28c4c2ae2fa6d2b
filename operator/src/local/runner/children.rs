//! What the main loop does with children.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{BALANCER_DRAIN, Child, END_MARGIN, Runner, happenings::Happening, mark_prefix};
use crate::{
    api::{Component, EndpointState},
    endpoints::Id,
    local::{
        backoff::Backoff,
        files,
        output::{Event, Running},
        process::{Ending, Launch, Process, Waiter},
        store::Store,
    },
};

impl Runner {
    pub(super) fn idle_child(&self, id: Id) -> Child {
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

    /// Starts a child; one that cannot be started is tried again.
    pub(super) fn start(&mut self, id: Id, again: bool) {
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
    pub(super) fn runs(&mut self, id: Id, process: Process, mut waiter: Waiter, adopted: bool) {
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

    pub(super) fn ended(&mut self, id: Id, generation: u64, ending: Ending) {
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

    pub(super) fn reload(&mut self, id: Id) {
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
    pub(super) fn terminate(&mut self, id: Id) {
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
    pub(super) fn roll(&mut self) {
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
    pub(super) fn end(&mut self, signal: &str) {
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
}

/// The mark of a child, unique on the machine.
fn mark(store: &Store, id: Id) -> String {
    format!("{}{}", mark_prefix(store), id.name())
}
