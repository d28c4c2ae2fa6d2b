//! What others tell the main loop, and what follows from it.

use jiff::Timestamp;

use super::Runner;
use crate::{
    endpoints::{Change, Id},
    heartbeat::Called,
    local::{output::Event, process::Ending},
    notify::{self, Outcome, Post},
    watch::Seen,
};

/// What others tell the main loop.
pub(super) enum Happening {
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
    /// The heartbeat URL was called.
    Called(Called),
}

impl Runner {
    pub(super) fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Ended {
                id,
                generation,
                ending,
            } => self.ended(id, generation, ending),
            Happening::Seen(seen) => self.seen(seen),
            Happening::Posted { post, outcome } => self.posted(&post, outcome),
            Happening::Called(called) => {
                self.counters.heartbeat(called.result());
                if let Some(sentence) = called.sentence() {
                    self.note(&sentence);
                }
            }
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
                let endpoints = &mut self.state.endpoints;
                endpoints.pooler_said_of_upstream(index, &status.boot_id, status.upstream);
                endpoints.pooler_said_of_saturation(index, &status.boot_id, status.saturation);
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

    /// Hands on what changed, and all that is wrong now.
    fn observe(&mut self, changes: &[Change], now: Timestamp) {
        // That nothing serves any more is meant to be.
        if self.stopping {
            return;
        }
        let mut alerts = notify::alerts(&self.state.endpoints);
        let known = |key: &notify::Key| self.state.notifier.known(key).cloned();
        alerts.extend(notify::of_status(&self.status, &known, now));
        let happenings = notify::happenings(changes);
        self.state.notifier.observe(&alerts, &happenings, now);
    }

    pub(super) fn handle(&mut self, changes: &[Change]) {
        let now = Timestamp::now();
        self.observe(changes, now);
        for change in changes {
            self.counters.transition(change.id.component, change.to);
            self.output.tell(&Event::Transition(change), now);
            self.dirty = true;
        }
    }
}
