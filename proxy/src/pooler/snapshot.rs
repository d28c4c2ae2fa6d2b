//! What a loop tells about itself, on request: for the console, `/status` and
//! metrics. Nothing here is kept up to date in between.

use jiff::Timestamp;

use super::{client::Phase, event_loop::EventLoop, io::Address};

/// Counters of one loop's part of a pool. Only ever grow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PoolCounters {
    pub(super) assignments: u64,
    pub(super) transactions: u64,
    pub(super) queries: u64,
    /// From clients.
    pub(super) received_bytes: u64,
    /// To clients.
    pub(super) sent_bytes: u64,
    pub(super) transaction_us: u64,
    pub(super) query_us: u64,
    pub(super) wait_us: u64,
    pub(super) client_parses: u64,
    pub(super) server_parses: u64,
    pub(super) binds: u64,
}

impl PoolCounters {
    pub(super) fn add(&mut self, other: &Self) {
        self.assignments += other.assignments;
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.transaction_us += other.transaction_us;
        self.query_us += other.query_us;
        self.wait_us += other.wait_us;
        self.client_parses += other.client_parses;
        self.server_parses += other.server_parses;
        self.binds += other.binds;
    }
}

/// One loop's part of a pool.
#[derive(Clone, Debug)]
pub(super) struct PoolSnapshot {
    pub(super) id: usize,
    pub(super) counters: PoolCounters,
    pub(super) clients_active: u32,
    pub(super) clients_waiting: u32,
    pub(super) clients_idle: u32,
    pub(super) servers_active: u32,
    pub(super) servers_active_cancel: u32,
    pub(super) servers_being_canceled: u32,
    pub(super) servers_idle: u32,
    /// In a check or reset query.
    pub(super) servers_tested: u32,
    pub(super) servers_login: u32,
    pub(super) cancels_active: u32,
    /// How long the oldest waiter has waited.
    pub(super) wait_us_max: u64,
}

/// A client, for SHOW CLIENTS.
#[derive(Clone, Debug)]
pub(super) struct ClientSnapshot {
    pub(super) id: u64,
    pub(super) user: String,
    /// Empty on the console.
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
    pub(super) application_name: String,
    pub(super) prepared_statements: usize,
}

/// All of one loop.
#[derive(Clone, Debug, Default)]
pub(super) struct LoopSnapshot {
    pub(super) pools: Vec<PoolSnapshot>,
    /// Connections that have not logged in yet.
    pub(super) clients_login: u32,
    pub(super) clients: Vec<ClientSnapshot>,
    pub(super) servers: Vec<ServerSnapshot>,
}

impl EventLoop {
    pub(super) fn snapshot(&self, detail: bool) -> LoopSnapshot {
        let mut pools: Vec<Option<PoolSnapshot>> = Vec::new();
        pools.resize_with(self.pools.len(), || None);
        for local in self.pools.iter().flatten() {
            pools[local.info.id] = Some(PoolSnapshot {
                id: local.info.id,
                counters: local.counters,
                clients_active: 0,
                clients_waiting: local.pool.waiting_len() as u32,
                clients_idle: 0,
                servers_active: 0,
                servers_active_cancel: 0,
                servers_being_canceled: 0,
                servers_idle: local.pool.idle_len() as u32,
                servers_tested: 0,
                servers_login: local.pool.opening(),
                cancels_active: 0,
                wait_us_max: local
                    .pool
                    .oldest_since()
                    .map_or(0, |since| self.now.since(since).as_micros() as u64),
            });
        }
        let mut snapshot = LoopSnapshot::default();
        for (_, client) in &self.clients {
            match (&client.phase, pools.get_mut(client.pool)) {
                (Phase::Session, Some(Some(pool))) => {
                    if client.server.is_some() {
                        pool.clients_active += 1;
                    } else if !client.waiting {
                        pool.clients_idle += 1;
                    }
                }
                (Phase::First | Phase::Proving(_), _) => snapshot.clients_login += 1,
                _ => {}
            }
        }
        for (_, server) in &self.servers {
            let Some(Some(pool)) = pools.get_mut(server.pool) else {
                continue;
            };
            if !server.is_ready() {
                continue;
            }
            if !server.session.cancel_guarded() {
                pool.cancels_active += 1;
            }
            if server.client.is_some() {
                pool.servers_active += 1;
            } else if server.is_in_setup() {
                pool.servers_tested += 1;
            } else if server.orphaned {
                pool.servers_being_canceled += 1;
            }
        }
        snapshot.pools = pools.into_iter().flatten().collect();
        if detail {
            snapshot.clients = self.describe_clients();
            snapshot.servers = self.describe_servers();
        }
        snapshot
    }

    /// Name of the database and position of `application_name`.
    fn database(&self, pool: usize) -> String {
        self.pools
            .get(pool)
            .and_then(Option::as_ref)
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
                String::new()
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
        let servers = self.servers.iter().map(|(_, server)| {
            let state = if !server.is_ready() {
                "login"
            } else if server.client.is_some() {
                "active"
            } else if server.is_in_setup() {
                "tested"
            } else if server.orphaned {
                "being_canceled"
            } else {
                "idle"
            };
            let user = self.pools[server.pool]
                .as_ref()
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
                application_name: application_name
                    .and_then(|index| server.session.parameters().value(index))
                    .unwrap_or_default()
                    .to_owned(),
                prepared_statements: server.session.statements_len(),
            }
        });
        servers.collect()
    }
}
