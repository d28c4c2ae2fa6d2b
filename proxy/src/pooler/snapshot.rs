//! What a loop tells about itself, on request: for the console, `/status` and
//! metrics. Nothing here is kept up to date in between.

use std::collections::BTreeMap;

use jiff::Timestamp;

use proxy_core::{config::pooler::CONSOLE, pool::Moment};

use super::{
    client::Phase,
    counters::{LoopCounters, PoolCounters},
    event_loop::{EventLoop, LocalPool},
    io::Address,
    server::{Server, Setup},
};

/// One loop's part of a pool, or the sum of all loops' parts.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolSnapshot {
    pub(super) id: usize,
    pub(super) counters: PoolCounters,
    /// Linked to a server.
    pub(super) clients_active: u32,
    pub(super) clients_waiting: u32,
    pub(super) clients_idle: u32,
    /// Cancel requests on their way to a server.
    pub(super) cancels: u32,
    pub(super) servers_active: u32,
    /// Done with their client, but a cancel request to them is under way.
    pub(super) servers_being_canceled: u32,
    pub(super) servers_idle: u32,
    /// Idle for so long that they are checked before they are lent.
    pub(super) servers_used: u32,
    /// In a check or reset query.
    pub(super) servers_tested: u32,
    pub(super) servers_login: u32,
    /// How long the oldest waiter has waited.
    pub(super) wait_us_max: u64,
}

impl PoolSnapshot {
    fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.clients_active += other.clients_active;
        self.clients_waiting += other.clients_waiting;
        self.clients_idle += other.clients_idle;
        self.cancels += other.cancels;
        self.servers_active += other.servers_active;
        self.servers_being_canceled += other.servers_being_canceled;
        self.servers_idle += other.servers_idle;
        self.servers_used += other.servers_used;
        self.servers_tested += other.servers_tested;
        self.servers_login += other.servers_login;
        self.wait_us_max = self.wait_us_max.max(other.wait_us_max);
    }
}

/// A client, for SHOW CLIENTS.
#[derive(Clone, Debug)]
pub(super) struct ClientSnapshot {
    pub(super) id: u64,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) state: &'static str,
    pub(super) address: Address,
    pub(super) local: Address,
    pub(super) connected_at: Timestamp,
    pub(super) request_at: Timestamp,
    pub(super) wait_us: u64,
    /// Id of the server it is linked to.
    pub(super) link: Option<u64>,
    pub(super) tls: &'static str,
    pub(super) application_name: String,
    pub(super) prepared_statements: usize,
    pub(super) held_bytes: usize,
}

/// A server, for SHOW SERVERS.
#[derive(Clone, Debug)]
pub(super) struct ServerSnapshot {
    pub(super) id: u64,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) state: &'static str,
    pub(super) address: Address,
    pub(super) local: Address,
    pub(super) connected_at: Timestamp,
    pub(super) request_at: Timestamp,
    pub(super) close_needed: bool,
    /// Id of the client it is lent to.
    pub(super) link: Option<u64>,
    pub(super) process_id: u32,
    pub(super) tls: &'static str,
    pub(super) application_name: String,
    pub(super) prepared_statements: usize,
}

/// All of one loop, or of all loops together.
#[derive(Clone, Debug, Default)]
pub(super) struct LoopSnapshot {
    pub(super) counters: LoopCounters,
    pub(super) pools: Vec<PoolSnapshot>,
    /// Connections that have not logged in yet.
    pub(super) clients_login: u32,
    /// Clients of the console.
    pub(super) clients_console: u32,
    /// Places of clients who left, kept for others.
    pub(super) clients_free: usize,
    pub(super) servers_free: usize,
    /// Buffers that wait for the next turn.
    pub(super) buffers_free: usize,
    pub(super) clients: Vec<ClientSnapshot>,
    pub(super) servers: Vec<ServerSnapshot>,
}

impl LoopSnapshot {
    /// All loops as one.
    pub(super) fn sum(loops: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        for one in loops {
            sum.counters.add(&one.counters);
            for pool in one.pools {
                match sum.pools.binary_search_by_key(&pool.id, |known| known.id) {
                    Ok(at) => sum.pools[at].add(&pool),
                    Err(at) => sum.pools.insert(at, pool),
                }
            }
            sum.clients_login += one.clients_login;
            sum.clients_console += one.clients_console;
            sum.clients_free += one.clients_free;
            sum.servers_free += one.servers_free;
            sum.buffers_free += one.buffers_free;
            sum.clients.extend(one.clients);
            sum.servers.extend(one.servers);
        }
        sum
    }
}

impl EventLoop {
    pub(super) fn snapshot(&self, detail: bool) -> LoopSnapshot {
        let mut pools: BTreeMap<usize, PoolSnapshot> = self
            .pools
            .iter()
            .map(|(id, local)| (*id, self.describe_pool(local)))
            .collect();
        let mut snapshot = LoopSnapshot {
            counters: self.counters.clone(),
            clients_free: self.clients.capacity() - self.clients.len(),
            servers_free: self.servers.capacity() - self.servers.len(),
            buffers_free: self.spare_buffers.len(),
            ..LoopSnapshot::default()
        };
        for (_, client) in &self.clients {
            match (&client.phase, pools.get_mut(&client.pool)) {
                (Phase::Session, Some(pool)) => {
                    if client.server.is_some() {
                        pool.clients_active += 1;
                    } else if !client.waiting {
                        pool.clients_idle += 1;
                    }
                }
                (Phase::First | Phase::Proving(_), _) => snapshot.clients_login += 1,
                (Phase::Console(_), _) => snapshot.clients_console += 1,
                _ => {}
            }
        }
        for (_, server) in &self.servers {
            let Some(pool) = pools.get_mut(&server.pool) else {
                continue;
            };
            if !server.is_ready() {
                continue;
            }
            match server_state(server) {
                "active" => pool.servers_active += 1,
                "tested" => pool.servers_tested += 1,
                "being_canceled" => pool.servers_being_canceled += 1,
                // Counted by their pool.
                _ => {}
            }
        }
        for (_, cancel) in &self.cancels {
            let pool = cancel.server().map(|server| self.servers[server].pool);
            if let Some(pool) = pool.and_then(|id| pools.get_mut(&id)) {
                pool.cancels += 1;
            }
        }
        snapshot.pools = pools.into_values().collect();
        if detail {
            snapshot.clients = self.describe_clients();
            snapshot.servers = self.describe_servers();
        }
        snapshot
    }

    /// What the pool itself knows.
    fn describe_pool(&self, local: &LocalPool) -> PoolSnapshot {
        let used = local
            .pool
            .idle()
            .filter(|&(_, since)| self.needs_check(local, since))
            .count();
        PoolSnapshot {
            id: local.info.id,
            counters: local.counters,
            clients_waiting: local.pool.waiting_len() as u32,
            servers_idle: (local.pool.idle_len() - used) as u32,
            servers_used: used as u32,
            servers_login: local.pool.opening(),
            wait_us_max: local
                .pool
                .oldest_since()
                .map_or(0, |since| self.now.since(since).as_micros() as u64),
            ..PoolSnapshot::default()
        }
    }

    fn needs_check(&self, local: &LocalPool, idle_since: Moment) -> bool {
        local.settings.check_query.is_some()
            && self.now.since(idle_since) >= local.settings.check_delay
    }

    /// Name of the pool's database.
    fn database(&self, pool: usize) -> String {
        self.pools
            .get(&pool)
            .map(|local| local.info.database.clone())
            .unwrap_or_default()
    }

    fn describe_clients(&self) -> Vec<ClientSnapshot> {
        let application_name = self.shared.interner.tracked().index(b"application_name");
        let clients = self.clients.iter().filter_map(|(_, client)| {
            let state = match client.phase {
                Phase::Session if client.waiting => "waiting",
                Phase::AwaitingWelcome(_) => "waiting",
                Phase::Session if client.server.is_some() => "active",
                Phase::Session => "idle",
                Phase::Console(_) => "active",
                _ => return None,
            };
            let waited = if client.waiting {
                self.now.since(client.request_at).as_micros() as u64
            } else {
                0
            };
            let database = if matches!(client.phase, Phase::Console(_)) {
                CONSOLE.to_owned()
            } else {
                self.database(client.pool)
            };
            Some(ClientSnapshot {
                id: client.id,
                user: client.user.to_string(),
                database,
                state,
                address: client.address,
                local: client.io.stream.local(),
                connected_at: self.shared.timestamp(client.connected_at),
                request_at: self.shared.timestamp(client.request_at),
                wait_us: waited,
                link: client.server.map(|server| self.servers[server].id),
                tls: client.io.tls.as_ref().map_or("", |tls| tls.protocol()),
                application_name: application_name
                    .and_then(|index| client.session.parameters().value(index))
                    .unwrap_or_default()
                    .to_owned(),
                prepared_statements: client.session.statements_len(),
                held_bytes: client.io.held_bytes(),
            })
        });
        clients.collect()
    }

    fn describe_servers(&self) -> Vec<ServerSnapshot> {
        let application_name = self.shared.interner.tracked().index(b"application_name");
        // Those that were told to go are nobody's any more.
        let known = self.servers.iter();
        let known = known.filter(|(_, server)| server.is_opening() || server.is_ready());
        let servers = known.map(|(_, server)| {
            let state = match server_state(server) {
                "idle" if self.is_used(server) => "used",
                state => state,
            };
            let user = self
                .pools
                .get(&server.pool)
                .map(|local| local.info.user.clone());
            ServerSnapshot {
                id: server.id,
                user: user.unwrap_or_default(),
                database: self.database(server.pool),
                state,
                address: server.address,
                local: server.io.stream.local(),
                connected_at: self.shared.timestamp(server.opened_at),
                request_at: self.shared.timestamp(server.query_at),
                close_needed: server.close_when_free,
                link: server
                    .client
                    .and_then(|client| self.clients.get(client))
                    .map(|client| client.id),
                process_id: server.process_id,
                tls: server.io.tls.as_ref().map_or("", |tls| tls.protocol()),
                application_name: application_name
                    .and_then(|index| server.session.parameters().value(index))
                    .unwrap_or_default()
                    .to_owned(),
                prepared_statements: server.session.statements_len(),
            }
        });
        servers.collect()
    }

    fn is_used(&self, server: &Server) -> bool {
        let local = self.pools.get(&server.pool);
        local.is_some_and(|local| self.needs_check(local, server.used_at))
    }
}

/// PgBouncer's word for what the server is doing.
fn server_state(server: &Server) -> &'static str {
    if server.is_opening() {
        return "new";
    }
    let cancelling = !server.session.cancel_guarded();
    match (server.setup, server.client) {
        (Some(Setup::Parameters), Some(_)) => "active",
        (Some(_), _) => "tested",
        (None, Some(_)) if cancelling && server.session.is_clean() => "being_canceled",
        (None, Some(_)) => "active",
        (None, None) if server.orphaned => "being_canceled",
        (None, None) => "idle",
    }
}
