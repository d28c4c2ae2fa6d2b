//! What is looked at ten times a second: deadlines, lifetimes, the drain. And
//! what a reload, a pause and RECONNECT do to this loop's pools.

use std::{sync::atomic::Ordering, time::Duration};

use proxy_core::{
    pool::{ClientKey, Moment, ServerKey},
    session::Transaction,
    upstream::Reason,
    wire::SqlState,
};

use super::{
    client::{Client, LINGER, Phase},
    event_loop::EventLoop,
    link::is_at_boundary,
};

/// Longest that the sender of a cancel request waits for its end.
const REQUESTER_MAX: Duration = Duration::from_secs(60);

/// How long a connect may take though PostgreSQL has come back since it was begun.
const STALE_CONNECT_MIN: Duration = Duration::from_secs(1);

/// Balancers that drain at a time; their sessions go all the same, by the
/// balancer's own limit.
const LEAVING_MAX: usize = 64;
/// What a session is told whose balancer ends.
const BALANCER_ENDS: &str = "the balancer is shutting down";

/// A drain under way: sessions are closed at their boundaries, each from a
/// moment of its own on, so that they do not all reconnect at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub(super) from: Moment,
    /// Their moments are spread over so long.
    pub(super) spread: Duration,
    /// What is left is closed then, boundary or not.
    pub(super) end: Moment,
}

impl Drain {
    /// When the client with this id is to go.
    fn due(self, id: u64) -> Moment {
        let spread_us = u64::try_from(self.spread.as_micros()).unwrap_or(u64::MAX);
        let place = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let after_us = (u128::from(spread_us) * u128::from(place)) >> 32;
        self.from + Duration::from_micros(after_us as u64)
    }
}

impl EventLoop {
    pub(super) fn janitor(&mut self) {
        self.expire_waiters();
        self.expire_clients();
        self.expire_servers();
        self.expire_cancels();
        self.trim_pools();
        self.drop_forgotten_pools();
        self.drain_clients();
        self.drain_leaving();
    }

    fn expire_waiters(&mut self) {
        for id in self.pool_ids() {
            let local = self.pool(id);
            let longest = local.settings.pool.query_wait_timeout;
            if longest.is_zero() {
                continue;
            }
            let now = self.now;
            while let Some(key) = self.pool(id).pool.expired(Some(longest), now) {
                let failure = self.pool(id).info.failure();
                let reason = failure.map_or("all are in use".to_owned(), |it| it.reason);
                self.clients[key].waiting = false;
                let text = format!(
                    "no server within {} s (query_wait_timeout): {reason}",
                    longest.as_secs_f64()
                );
                self.refuse_client(
                    key,
                    SqlState::TOO_MANY_CONNECTIONS,
                    &text,
                    "SHOW POOLS on the pooler's console shows who uses them.",
                );
            }
        }
    }

    fn expire_clients(&mut self) {
        let login_max = self.live.config.global.client_login_timeout;
        let mut late: Vec<(ClientKey, Late)> = Vec::new();
        for (key, client) in &self.clients {
            let late_for = match &client.phase {
                Phase::First | Phase::Proving(_) | Phase::AwaitingWelcome(_) => {
                    let age = self.now.since(client.connected_at);
                    (!login_max.is_zero() && age >= login_max).then_some(Late::Login(login_max))
                }
                Phase::Ending { until } => (*until <= self.now).then_some(Late::Ended),
                // Its peer may be hard to find.
                Phase::Requester => {
                    let age = self.now.since(client.connected_at);
                    (age >= REQUESTER_MAX).then_some(Late::Ended)
                }
                Phase::Console(_) => None,
                Phase::Session => self.session_late(key),
            };
            if let Some(late_for) = late_for {
                late.push((key, late_for));
            }
        }
        for (key, late_for) in late {
            self.end_late_client(key, late_for);
        }
    }

    fn session_late(&self, key: ClientKey) -> Option<Late> {
        let client = &self.clients[key];
        let settings = &self.pools.get(&client.pool)?.settings;
        let limits = &settings.pool;
        let over = |longest: Duration, since: Moment| {
            !longest.is_zero() && self.now.since(since) >= longest
        };
        let Some(server) = client.server else {
            let longest = limits.client_idle_timeout;
            let idle = over(longest, client.request_at);
            return (idle && !client.waiting).then_some(Late::Idle(longest));
        };
        let server = &self.servers[server];
        if server.is_in_setup() {
            // Nothing of its own has begun: it still waits.
            let longest = limits.query_wait_timeout;
            return over(longest, client.request_at).then_some(Late::Wait(longest));
        }
        if server.session.due_len() > 0 && over(limits.query_timeout, server.query_at) {
            return Some(Late::Query(limits.query_timeout));
        }
        let in_transaction = server.session.transaction() != Transaction::Idle;
        let busy = in_transaction || server.session.due_len() > 0;
        if busy && over(limits.transaction_timeout, server.transaction_at) {
            return Some(Late::Transaction(limits.transaction_timeout));
        }
        let longest = limits.idle_transaction_timeout;
        let idle = server.session.due_len() == 0 && over(longest, client.request_at);
        (in_transaction && idle).then_some(Late::IdleInTransaction(longest))
    }

    fn end_late_client(&mut self, key: ClientKey, late: Late) {
        let (code, text) = match late {
            Late::Ended => return self.client_gone(key, "told to go"),
            Late::Login(longest) => {
                let text = self.login_took_too_long(key, longest);
                return self.refuse_client(key, SqlState::CANNOT_CONNECT_NOW, &text, "");
            }
            Late::Idle(longest) => (
                SqlState::IDLE_SESSION_TIMEOUT,
                format!(
                    "session was idle for {} s (client_idle_timeout)",
                    longest.as_secs_f64()
                ),
            ),
            Late::Wait(longest) => (
                SqlState::TOO_MANY_CONNECTIONS,
                format!(
                    "no server was ready within {} s (query_wait_timeout): PostgreSQL does not answer a check",
                    longest.as_secs_f64()
                ),
            ),
            Late::Query(longest) => (
                SqlState::QUERY_CANCELED,
                format!(
                    "query took longer than {} s (query_timeout)",
                    longest.as_secs_f64()
                ),
            ),
            Late::Transaction(longest) => (
                SqlState::QUERY_CANCELED,
                format!(
                    "transaction took longer than {} s (transaction_timeout)",
                    longest.as_secs_f64()
                ),
            ),
            Late::IdleInTransaction(longest) => (
                SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
                format!(
                    "transaction was idle for {} s (idle_transaction_timeout)",
                    longest.as_secs_f64()
                ),
            ),
        };
        self.refuse_client(key, code, &text, "");
    }

    /// With the reason, if it waited for a server.
    fn login_took_too_long(&self, key: ClientKey, longest: Duration) -> String {
        let mut text = format!(
            "login took longer than {} s (client_login_timeout)",
            longest.as_secs_f64()
        );
        let client = &self.clients[key];
        if client.waiting
            && let Some(local) = self.pools.get(&client.pool)
            && let Some(failure) = local.info.failure()
        {
            text.push_str(": ");
            text.push_str(&failure.reason);
        }
        text
    }

    fn expire_servers(&mut self) {
        let connect_max = self.live.config.global.server_connect_timeout;
        let mut late: Vec<ServerKey> = Vec::new();
        for (key, server) in &self.servers {
            if server.is_opening()
                && !connect_max.is_zero()
                && self.now.since(server.opened_at) >= connect_max
            {
                late.push(key);
            }
        }
        for key in late {
            let address = self.servers[key].address;
            let reason = format!(
                "{address} did not answer within {} s (server_connect_timeout)",
                connect_max.as_secs_f64()
            );
            self.connect_failed(key, &reason, Some(Reason::Timeout));
        }
        self.give_up_stale_connects();
        let silent: Vec<ServerKey> = self
            .servers
            .iter()
            .filter(|(_, server)| server.is_ready() && server.is_in_setup())
            .filter(|(_, server)| {
                !connect_max.is_zero() && self.now.since(server.setup_at) >= connect_max
            })
            .map(|(key, _)| key)
            .collect();
        for key in silent {
            let reason = format!(
                "a check, SET or reset query was not answered within {} s (server_connect_timeout)",
                connect_max.as_secs_f64()
            );
            self.server_lost(key, &reason);
        }
        let overdue = self.servers.iter();
        let overdue: Vec<ServerKey> = overdue
            .filter(|(_, server)| server.is_overdue(self.now))
            .map(|(key, _)| key)
            .collect();
        for key in overdue {
            self.server_closed(key);
        }
    }

    /// Gives up connects that were begun while PostgreSQL was away and hang, once
    /// it is known to be back: they lead to where it was, and as after a failure
    /// there is one attempt at a time, everybody would wait for its end.
    fn give_up_stale_connects(&mut self) {
        let stale = self.servers.iter().filter(|(_, server)| {
            let settings = &self.pools[&server.pool].settings;
            let upstreams = &self.shared.upstreams;
            server.is_connecting()
                && self.now.since(server.opened_at) >= STALE_CONNECT_MIN
                && upstreams
                    .reachable_since(&settings.host, settings.port)
                    .is_some_and(|since| since > server.opened_at)
        });
        let stale: Vec<ServerKey> = stale.map(|(key, _)| key).collect();
        for key in stale {
            let address = self.servers[key].address;
            let reason = format!("{address} has not answered since before PostgreSQL was back");
            self.connect_failed(key, &reason, None);
        }
    }

    /// Closes servers that have been idle or open too long, opens those that
    /// `min_pool_size` asks for. In a drain gives up those that nobody needs.
    fn trim_pools(&mut self) {
        let idle_max = self.live.config.global.server_idle_timeout;
        for id in self.pool_ids() {
            let local = &self.pools[&id];
            let forgotten = local.info.is_forgotten();
            let idle: Vec<ServerKey> = local.pool.idle().map(|(key, _)| key).collect();
            // One at a time: a pool must not be emptied at once.
            let worn = idle
                .into_iter()
                .find(|&key| forgotten || self.servers[key].close_when_free || self.is_aged(key));
            if let Some(key) = worn
                && !self.close_if_aged(key)
            {
                self.close_server(key, "its pool has no more use for it");
            }
            while let Some(key) = self.pools[&id].pool.idle_too_long(idle_max, self.now) {
                // In a drain all at once: others wait for their places.
                if !self.shared.pools.is_draining() {
                    self.close_server(key, "it was idle for server_idle_timeout");
                    break;
                }
                self.close_server(key, "nobody needs it in a drain");
            }
            if !self.steps.contains_key(&id) {
                self.step_pool(id);
            }
        }
    }

    /// Whether the server's `server_lifetime` is over. Those of a pool go no
    /// faster than had they been opened one after the other.
    fn is_aged(&self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let local = &self.pools[&server.pool];
        let limits = &local.settings.pool;
        let gap = limits.server_lifetime / limits.pool_size.max(1);
        self.now.since(server.opened_at) >= limits.server_lifetime
            && self.now.since(local.aged_at) >= gap
    }

    /// Closes a server that nobody uses if its time is over; says whether it was.
    pub(super) fn close_if_aged(&mut self, key: ServerKey) -> bool {
        if !self.is_aged(key) {
            return false;
        }
        let (id, now) = (self.servers[key].pool, self.now);
        self.pool(id).aged_at = now;
        self.close_server(key, "its lifetime is over");
        self.step_pool(id);
        true
    }

    /// Lets go of pools that the process has forgotten.
    fn drop_forgotten_pools(&mut self) {
        self.pools.retain(|_, local| {
            let info = &local.info;
            !info.is_forgotten() || info.shared.open() > 0
        });
        self.steps.retain(|id, _| self.pools.contains_key(id));
    }

    /// From now on sessions are ended, and at this time what is left of them.
    pub(super) fn begin_drain(&mut self, drain: Drain) {
        // A harder drain leaves no more time than the one under way.
        let end = self
            .drain
            .map_or(drain.end, |earlier| earlier.end.min(drain.end));
        self.drain = Some(Drain { end, ..drain });
    }

    /// Whether a client waits for a server of a paused pool: nothing of it has
    /// begun, and nobody will resume a pooler that leaves.
    fn waits_in_vain(&self, client: &Client) -> bool {
        client.waiting && self.pools[&client.pool].info.shared.is_paused()
    }

    /// Ends sessions at their boundaries, and what is left at the drain's end. The
    /// port stays open for cancel requests and checks until the last session of
    /// all loops is gone; it closes at once where another process listens on it too.
    fn drain_clients(&mut self) {
        let Some(drain) = self.drain else {
            return;
        };
        let over = self.now >= drain.end;
        let others_listen = self.live.config.global.so_reuseport;
        if over || others_listen || self.shared.clients.load(Ordering::SeqCst) == 0 {
            self.stop_listening();
        }
        // While we listen, what has just come may be a check or a cancel request.
        let listens = !self.listeners.is_empty();
        let due: Vec<(ClientKey, bool)> = self
            .clients
            .iter()
            .filter(|(_, client)| !matches!(client.phase, Phase::Ending { .. } | Phase::Requester))
            .filter(|(_, client)| !(listens && matches!(client.phase, Phase::First)))
            .filter(|(_, client)| over || drain.due(client.id) <= self.now)
            .map(|(key, client)| {
                let boundary = is_at_boundary(client, &self.servers)
                    || !client.is_session()
                    || self.waits_in_vain(client);
                (key, boundary)
            })
            .collect();
        for (key, at_boundary) in due {
            if over && !at_boundary {
                self.refuse_client(
                    key,
                    SqlState::ADMIN_SHUTDOWN,
                    "the pooler is shutting down and drain_timeout is over",
                    "Reconnect: others serve. The transaction under way was not finished.",
                );
            } else if at_boundary {
                self.say_goodbye(key, "the pooler is shutting down");
            }
        }
        let sessions = self.clients.iter().any(|(_, client)| {
            !matches!(
                client.phase,
                Phase::Ending { .. } | Phase::Requester | Phase::First
            )
        });
        if !sessions {
            self.close_idle_servers(|_| true);
        }
        // Servers count against limits that loops share, and other loops may
        // have transactions to finish: their places are given back first.
        let done = !listens && self.clients.is_empty() && self.servers.is_empty();
        // It may have been told to stop at once.
        self.stopped |= done || self.now >= drain.end + LINGER;
    }

    /// A balancer is about to end: its sessions are closed at their boundaries. It
    /// says so again with each check; the first time counts.
    pub(super) fn balancer_drains(&mut self, balancer: u64, from: Moment, within: Duration) {
        let known = self.leaving.iter().any(|(known, _)| *known == balancer);
        let concerned = |client: &Client| client.balancer == balancer && client.is_session();
        let sessions = self
            .clients
            .iter()
            .filter(|(_, one)| concerned(one))
            .count();
        // 0 is no balancer's.
        if known || balancer == 0 || sessions == 0 || self.leaving.len() >= LEAVING_MAX {
            return;
        }
        tracing::info!(
            balancer = format!("{balancer:016x}"),
            sessions,
            within_s = within.as_secs_f64(),
            "balancer drains, its sessions are closed at their boundaries"
        );
        // What it cannot wait for, it cuts itself.
        let end = Moment(u64::MAX);
        let drain = Drain {
            from,
            spread: within,
            end,
        };
        self.leaving.push((balancer, drain));
    }

    /// Ends the sessions of balancers that drain, where they are at a boundary.
    fn drain_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let due: Vec<ClientKey> = self
            .clients
            .iter()
            .filter(|(_, client)| client.is_session() && is_at_boundary(client, &self.servers))
            .filter(|(_, client)| self.leaving_due(client).is_some_and(|due| due <= self.now))
            .map(|(key, _)| key)
            .collect();
        for key in due {
            self.say_goodbye(key, BALANCER_ENDS);
        }
        let clients = &self.clients;
        self.leaving.retain(|(balancer, _)| {
            clients
                .iter()
                .any(|(_, client)| client.balancer == *balancer)
        });
    }

    /// When the client is to go because its balancer ends.
    fn leaving_due(&self, client: &Client) -> Option<Moment> {
        let (_, drain) = self
            .leaving
            .iter()
            .find(|(balancer, _)| *balancer == client.balancer)?;
        Some(drain.due(client.id))
    }

    /// At a transaction's end: whether the client's moment to go has come.
    pub(super) fn end_if_draining(&mut self, key: ClientKey) -> bool {
        if self.drain.is_none() && self.leaving.is_empty() {
            return false;
        }
        let client = &self.clients[key];
        let due = |due: Option<Moment>| due.is_some_and(|due| due <= self.now);
        let text = if due(self.drain.map(|drain| drain.due(client.id))) {
            "the pooler is shutting down"
        } else if due(self.leaving_due(client)) {
            BALANCER_ENDS
        } else {
            return false;
        };
        if !client.is_session() || !is_at_boundary(client, &self.servers) {
            return false;
        }
        self.say_goodbye(key, text);
        true
    }

    /// Closes idle servers of the pools that `chosen` picks.
    pub(super) fn close_idle_servers(&mut self, chosen: impl Fn(usize) -> bool) {
        for id in self.pool_ids() {
            if !chosen(id) {
                continue;
            }
            let idle: Vec<ServerKey> = self.pools[&id].pool.idle().map(|(key, _)| key).collect();
            for key in idle {
                self.close_server(key, "pool closed");
            }
        }
    }

    /// Pools were paused or resumed.
    pub(super) fn pools_changed(&mut self) {
        for id in self.pool_ids() {
            if self.pools[&id].info.shared.is_paused() {
                self.close_idle_servers(|other| other == id);
                continue;
            }
            while let Some((server, client)) = self.pool(id).pool.resume() {
                self.serve(client, server);
            }
            self.step_pool(id);
        }
    }

    /// Closes the pool's stale servers, each when it is free; others take their place.
    fn replace_servers(&mut self, id: usize) {
        let servers = self.servers.iter();
        let servers = servers.filter(|(_, server)| server.pool == id);
        let keys: Vec<ServerKey> = servers.map(|(key, _)| key).collect();
        for &key in &keys {
            self.mark_if_stale(key);
        }
        // With server_fast_close some of those that are lent are free already.
        for key in keys {
            self.release_if_free(key);
        }
        let idle = self.pools[&id].pool.idle();
        let stale = idle.filter(|&(key, _)| self.servers[key].close_when_free);
        let stale: Vec<ServerKey> = stale.map(|(key, _)| key).collect();
        for key in stale {
            self.close_server(key, "it is to be replaced");
        }
        self.step_pool(id);
    }

    /// Closes idle servers beyond a limit that was lowered. Lent ones are closed
    /// when they return.
    fn close_excess(&mut self, id: usize) {
        let info = self.pool(id).info.clone();
        let excess = info.shared.excess() as usize;
        if excess == 0 {
            return;
        }
        // Those on their way out count until PostgreSQL has closed them.
        let leaving = self.servers.iter().filter(|(_, server)| {
            let other = self.pools.get(&server.pool);
            let related = other.is_some_and(|other| info.shares_limit(&other.info));
            server.is_closing() && (server.pool == id || related)
        });
        let excess = excess.saturating_sub(leaving.count());
        let idle = self.pools[&id].pool.idle().take(excess);
        let idle: Vec<ServerKey> = idle.map(|(key, _)| key).collect();
        for key in idle {
            self.close_server(key, "a limit was lowered");
        }
    }

    /// Another configuration is in force.
    pub(super) fn reconfigured(&mut self) {
        self.live = self.shared.live();
        let round_robin = self.live.config.global.server_round_robin;
        for id in self.pool_ids() {
            let local = self.pool(id);
            local.pool.set_round_robin(round_robin);
            self.close_excess(id);
            let local = self.pool(id);
            let settings = local.info.settings();
            let stale = local.settings.generation < settings.generation;
            local.settings = settings;
            if stale {
                self.replace_servers(id);
            } else {
                self.step_pool(id);
            }
        }
    }
}

/// Which limit of time a client has passed, and how long it is.
#[derive(Clone, Copy, Debug)]
enum Late {
    Login(Duration),
    Ended,
    Idle(Duration),
    Wait(Duration),
    Query(Duration),
    Transaction(Duration),
    IdleInTransaction(Duration),
}
