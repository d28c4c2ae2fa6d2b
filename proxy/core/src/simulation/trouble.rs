//! What goes wrong: PostgreSQL away, logins rejected, pools paused, limits
//! changed, servers lost, the end of the pooler.

use std::time::Duration;

use super::{
    pooler::Place,
    random::Random,
    world::{Letter, TROUBLE_ENDS, World},
};
use crate::pool::{Limits, OpenFailure};

/// Whether PostgreSQL can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Fair,
    Failing(OpenFailure),
}

impl World {
    /// Something goes wrong, or is mended.
    pub(super) fn trouble(&mut self) {
        if self.now >= TROUBLE_ENDS {
            self.weather = Weather::Fair;
            for id in 0..self.pools.len() {
                self.set_paused(id, false);
            }
            self.watch.forget();
            return;
        }
        let id = self.random.below(self.pools.len());
        match self.random.below(8) {
            0 => self.weather = Weather::Failing(OpenFailure::Unreachable),
            1 => {
                self.weather = Weather::Failing(OpenFailure::Rejected);
                for client in &mut self.clients {
                    client.excuse = Some("rejected logins");
                }
            }
            2 => self.weather = Weather::Fair,
            3 => {
                let paused = !self.pools[id].is_paused();
                self.set_paused(id, paused);
            }
            4 => {
                self.limits[id] = random_limits(&mut self.random);
                self.pools[id].set_limits(self.limits[id]);
                if self.budget.limit() > 0 {
                    self.budget.set_limit(self.random.between(1, 4) as u32);
                    for pool in &self.pools {
                        pool.budgets_changed();
                    }
                }
            }
            5 => self.lose_servers(),
            6 => self.begin_drain(),
            _ => {
                for key in 0..self.servers.len() {
                    let server = &self.servers[key];
                    let alive = server.place == Place::Here && !server.lost;
                    if alive && self.random.percent(50) {
                        self.servers[key].backend.notice();
                        self.wake_server(key);
                    }
                }
            }
        }
        self.note(|| "trouble".to_owned());
        self.watch.forget();
    }

    fn set_paused(&mut self, id: usize, paused: bool) {
        self.pools[id].set_paused(paused, self.now);
        for thread in 0..self.parts.len() {
            self.tell(thread, Letter::PoolsChanged);
        }
    }

    /// The pooler is told to end. Here its sessions end by themselves.
    fn begin_drain(&mut self) {
        self.draining = true;
        for pool in &self.pools {
            pool.begin_drain();
        }
    }

    fn lose_servers(&mut self) {
        let polite = self.random.percent(50);
        for key in 0..self.servers.len() {
            let server = &mut self.servers[key];
            let open = matches!(server.place, Place::Here | Place::Moving);
            if !open || server.lost || !self.random.percent(60) {
                continue;
            }
            if polite {
                server.backend.terminate();
            } else {
                let arrives = self.random.below(server.backend.sent.len() + 1);
                server.backend.sent.truncate(arrives);
            }
            server.lost = true;
            if let Some(client) = server.client {
                self.clients[client].excuse = Some("its server is lost");
            }
            self.wake_server(key);
        }
    }
}

pub(super) fn random_limits(random: &mut Random) -> Limits {
    Limits {
        size: random.between(1, 3) as u32,
        size_min: random.pick(&[0, 0, 0, 1, 2]),
        reserve: random.pick(&[0, 0, 1]),
        reserve_after: Duration::from_millis(random.pick(&[0, 10, 50])),
        login_retry: Duration::from_millis(100),
    }
}
