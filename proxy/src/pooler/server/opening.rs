//! A server is opened, or cannot be.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use proxy_core::{
    login::server::LoginError,
    pool::ServerKey,
    session::ServerSession,
    upstream::{Observation, Reason},
    wire::SqlState,
};

use super::{Phase, Server};
use crate::{
    net,
    pooler::{
        counters::NotOpened,
        event_loop::EventLoop,
        io::{Address, Io, Stream},
        pools::Failure,
        unix, upstream,
        worker::{Asker, Job},
    },
};

/// A server that is about to be opened.
#[derive(Clone, Copy, Debug)]
pub(in crate::pooler) struct Opening {
    pool: usize,
    id: u64,
    /// Of the pool's settings that it is opened under.
    generation: u64,
}

impl EventLoop {
    /// Opens a server for the pool, which has taken a place for it.
    pub(in crate::pooler) fn open_server(&mut self, id: usize) {
        let settings = self.pool(id).settings.clone();
        let opening = Opening {
            pool: id,
            id: self.shared.next_id(),
            generation: settings.generation,
        };
        match settings.host.as_str() {
            "" => self.not_opened(
                id,
                "the database has no host, and unix_socket_dir is empty",
                NotOpened::Name,
            ),
            host if unix::is_directory(host) => {
                self.connect_unix(opening, host, settings.port);
            }
            host => match host.parse::<IpAddr>() {
                Ok(ip) => {
                    let addresses = VecDeque::from([SocketAddr::new(ip, settings.port)]);
                    self.connect_any(opening, addresses);
                }
                Err(_) => {
                    let thread = self.thread;
                    let job = Job::Resolve {
                        asker: Asker::Server { thread, opening },
                        host: host.to_owned(),
                        port: settings.port,
                        ttl: self.live.config.global.dns_max_ttl,
                        failure_ttl: self.live.config.global.dns_nxdomain_ttl,
                    };
                    if !self.shared.work(job) {
                        self.not_opened(id, "too many name look-ups at once", NotOpened::Name);
                    }
                }
            },
        }
    }

    /// The addresses of a host for which a server is being opened.
    pub(in crate::pooler) fn resolved(
        &mut self,
        opening: Opening,
        addresses: Result<Vec<SocketAddr>, String>,
    ) {
        let id = opening.pool;
        if opening.generation < self.pool(id).settings.generation {
            // Perhaps another host is meant by now.
            return self.open_server(id);
        }
        match addresses {
            Ok(addresses) if !addresses.is_empty() => {
                self.connect_any(opening, addresses.into());
            }
            Ok(_) => {
                self.note_trouble(id, Reason::NameNotFound);
                self.not_opened(id, "the host has no address", NotOpened::Name);
            }
            Err(reason) => {
                self.note_trouble(id, Reason::NameNotFound);
                self.not_opened(id, &reason, NotOpened::Name);
            }
        }
    }

    fn connect_unix(&mut self, opening: Opening, directory: &str, port: u16) {
        match unix::connect(directory, port) {
            Ok(stream) => {
                let stream = Stream::Unix(stream);
                self.add_server(opening, stream, Address::Unix, VecDeque::new());
            }
            Err(error) => {
                let reason = format!("cannot connect to {directory}/.s.PGSQL.{port}: {error}");
                if let Some(trouble) = upstream::trouble(&error) {
                    self.note_trouble(opening.pool, trouble);
                }
                self.not_opened(opening.pool, &reason, NotOpened::Unreachable);
            }
        }
    }

    fn connect_any(&mut self, opening: Opening, mut addresses: VecDeque<SocketAddr>) {
        let mut reason = String::from("the host has no address");
        let mut trouble = None;
        while let Some(address) = addresses.pop_front() {
            match net::connect(address) {
                Ok(stream) => {
                    let stream = Stream::Tcp(stream);
                    let address = Address::Tcp(address);
                    return self.add_server(opening, stream, address, addresses);
                }
                Err(error) => {
                    reason = format!("cannot connect to {address}: {error}");
                    trouble = upstream::trouble(&error);
                }
            }
        }
        if let Some(trouble) = trouble {
            self.note_trouble(opening.pool, trouble);
        }
        self.not_opened(opening.pool, &reason, NotOpened::Unreachable);
    }

    fn add_server(
        &mut self,
        opening: Opening,
        mut stream: Stream,
        address: Address,
        others: VecDeque<SocketAddr>,
    ) {
        let entry = self.servers.vacant_entry();
        let token = Self::server_token(entry.key());
        if let Err(error) = stream.register(self.poll.registry(), token) {
            let reason = format!("cannot register the connection: {error}");
            return self.not_opened(opening.pool, &reason, NotOpened::Unreachable);
        }
        let Opening {
            pool,
            id,
            generation,
        } = opening;
        let now = self.now;
        entry.insert(Server {
            io: Io::new(stream),
            id,
            generation,
            phase: Phase::Connecting { others },
            session: ServerSession::new(self.shared.interner.empty(), 0),
            pool,
            address,
            client: None,
            setup: None,
            orphaned: false,
            close_when_free: false,
            queued: false,
            cancel_key: None,
            process_id: 0,
            presence: None,
            opened_at: now,
            used_at: now,
            transaction_at: now,
            query_at: now,
            setup_at: now,
        });
    }

    /// Tries the host's next address, if it has one.
    pub(in crate::pooler) fn connect_failed(
        &mut self,
        key: ServerKey,
        reason: &str,
        trouble: Option<Reason>,
    ) {
        let server = &mut self.servers[key];
        let Phase::Connecting { others } = &mut server.phase else {
            return self.connection_failed(key, reason, trouble);
        };
        let others = std::mem::take(others);
        if others.is_empty() {
            return self.connection_failed(key, reason, trouble);
        }
        let opening = Opening {
            pool: server.pool,
            id: server.id,
            generation: server.generation,
        };
        self.remove_server(key);
        self.connect_any(opening, others);
    }

    /// The server is ready for its first client.
    pub(in crate::pooler) fn server_opened(&mut self, key: ServerKey) {
        let now = self.now;
        let id = self.servers[key].pool;
        self.servers[key].used_at = now;
        self.mark_if_stale(key);
        let local = self.pool(id);
        local.info.set_failure(None);
        local.pool.opened();
        let info = local.info.clone();
        tracing::debug!(
            database = local.info.database.as_str(),
            user = local.info.user.as_str(),
            "server opened"
        );
        self.shared.pools.set_missing(&info, false);
        self.server_free(key);
        self.step_pool(id);
    }

    fn connection_failed(&mut self, key: ServerKey, reason: &str, trouble: Option<Reason>) {
        if let Some(trouble) = trouble
            && !self.is_stale(key)
        {
            let id = self.servers[key].pool;
            self.note_trouble(id, trouble);
        }
        self.not_logged_in(key, reason, None);
    }

    /// Tells what was seen of the pool's PostgreSQL.
    fn note_trouble(&self, id: usize, trouble: Reason) {
        let Some(local) = self.pools.get(&id) else {
            return;
        };
        let (upstreams, settings) = (&self.shared.upstreams, &local.settings);
        let failed = Observation::Failed(trouble);
        upstreams.observe(&settings.host, settings.port, failed, self.now);
    }

    /// The server could not be opened: its connection is closed, or is to be
    /// closed because of `error`.
    pub(in crate::pooler) fn open_failed(
        &mut self,
        key: ServerKey,
        reason: &str,
        error: Option<&LoginError>,
    ) {
        let id = self.servers[key].pool;
        if !self.is_stale(key)
            && let Some(local) = self.pools.get(&id)
        {
            let (upstreams, settings) = (&self.shared.upstreams, &local.settings);
            let (host, port) = (settings.host.as_str(), settings.port);
            match error {
                Some(error) => upstreams.login_failed(host, port, error, self.now),
                None => upstreams.observe(host, port, Observation::Failed(Reason::Lost), self.now),
            }
        }
        self.not_logged_in(key, reason, error);
    }

    /// The same, where it shows nothing of PostgreSQL.
    pub(super) fn not_logged_in(
        &mut self,
        key: ServerKey,
        reason: &str,
        error: Option<&LoginError>,
    ) {
        let id = self.servers[key].pool;
        let stale = self.is_stale(key);
        self.remove_server(key);
        if stale {
            // What holds now has not been tried yet.
            self.pool(id).pool.open_abandoned();
            return self.step_pool(id);
        }
        let kind = match error {
            Some(error) if !error.is_passing() => NotOpened::Rejected,
            _ => NotOpened::Unreachable,
        };
        let code = match error {
            Some(LoginError::Refused { code, .. }) => static_code(code),
            _ => SqlState::CONNECTION_FAILURE,
        };
        let info = self.pool(id).info.clone();
        self.opening_failed(id, reason, kind, code);
        if code == SqlState::INVALID_CATALOG_NAME {
            self.shared.pools.set_missing(&info, true);
        }
    }

    fn not_opened(&mut self, id: usize, reason: &str, kind: NotOpened) {
        self.opening_failed(id, reason, kind, SqlState::CONNECTION_FAILURE);
    }

    fn opening_failed(&mut self, id: usize, reason: &str, kind: NotOpened, code: SqlState) {
        let now = self.now;
        self.counters.count_not_opened(kind);
        let local = self.pool(id);
        local.info.set_failure(Some(Failure {
            code,
            reason: reason.to_owned(),
        }));
        let failures = local.pool.open_failed(kind.into(), now);
        // The first of a row, and each tenth: the others say the same.
        if failures % 10 == 1 {
            tracing::warn!(
                database = local.info.database.as_str(),
                user = local.info.user.as_str(),
                reason,
                failures,
                "cannot open a server"
            );
        }
        self.step_pool(id);
    }

    /// Tells all who wait here why PostgreSQL lets nobody in.
    pub(in crate::pooler) fn refuse_waiters(&mut self, id: usize) {
        let now = self.now;
        let failure = self.pool(id).info.failure();
        let (code, reason) = match &failure {
            Some(failure) => (failure.code, failure.reason.as_str()),
            None => (SqlState::CONNECTION_FAILURE, "it was rejected"),
        };
        let text = format!("cannot log in to PostgreSQL: {reason}");
        while let Some(client) = self.pool(id).pool.expired(None, now) {
            self.clients[client].waiting = false;
            self.refuse_client(client, code, &text, "");
        }
    }
}

/// The SQLSTATE of a server's refusal, where it is one that tells clients more.
fn static_code(code: &str) -> SqlState {
    for known in [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ] {
        if known.0 == code {
            return known;
        }
    }
    SqlState::CONNECTION_FAILURE
}
