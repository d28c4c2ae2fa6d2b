//! A connection to PostgreSQL: opened, logged in, lent, closed.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use proxy_core::{
    auth::scram::Keys,
    config::Secret,
    login::server::{Login, LoginError, MESSAGE_LENGTH_MAX, Step, Welcome},
    pool::{ClientKey, Moment, Request, ServerKey},
    session::ServerSession,
    wire::{self, CancelKey, SqlState, header},
};

use super::{
    counters::NotOpened,
    event_loop::{EventLoop, Outputs},
    io::{Address, Input, Io, READ_SIZE, Stream},
    pools::{Failure, Known, PoolInfo, Settings},
    shared::{Mail, ServerRef, random},
    unix,
    worker::{Asker, Job, Password},
};
use crate::net::{self, Keepalive, Tuning};

/// A query of ours under way on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// `connect_query`.
    Connect,
    /// `server_check_query`.
    Check,
    /// SET of the client's parameters.
    Parameters,
    /// `server_reset_query`.
    Reset,
}

/// Where a server stands.
#[derive(Debug)]
enum Phase {
    /// Connecting; these addresses are left to try.
    Connecting { others: VecDeque<SocketAddr> },
    /// Logging in.
    Login(Box<Login>),
    /// Ready for clients.
    Ready,
    /// Told to go. It counts against the limits until PostgreSQL has closed its
    /// side, for until then a backend may be there; but not for longer than this.
    Closing { until: Moment },
}

/// How long a server that was told to go counts against the limits.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// A server connection.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) io: Io,
    pub(super) id: u64,
    /// Of its pool's settings when it was opened.
    generation: u64,
    phase: Phase,
    pub(super) session: ServerSession,
    pub(super) pool: usize,
    pub(super) address: Address,
    pub(super) client: Option<ClientKey>,
    pub(super) setup: Option<Setup>,
    /// Lent to nobody and not yet in the pool: its client left while a cancel
    /// was on its way.
    pub(super) orphaned: bool,
    pub(super) close_when_free: bool,
    pub(super) queued: bool,
    pub(super) cancel_key: Option<CancelKey>,
    pub(super) process_id: u32,
    pub(super) opened_at: Moment,
    pub(super) used_at: Moment,
    /// When its present transaction began, or its last one.
    pub(super) transaction_at: Moment,
    pub(super) query_at: Moment,
    /// When the query of ours that is under way began.
    pub(super) setup_at: Moment,
}

impl Server {
    /// Whether a query of ours is under way.
    pub(super) fn is_in_setup(&self) -> bool {
        self.setup.is_some()
    }

    /// On its way to being ready.
    pub(super) fn is_opening(&self) -> bool {
        !matches!(self.phase, Phase::Ready | Phase::Closing { .. })
            || self.setup == Some(Setup::Connect)
    }

    /// Told to go, and still counted.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    /// Whether it was told to go and had its time.
    pub(super) fn is_overdue(&self, now: Moment) -> bool {
        matches!(self.phase, Phase::Closing { until } if until <= now)
    }

    /// Connected and logged in.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready) && self.setup != Some(Setup::Connect)
    }
}

/// A server that is about to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pool: usize,
    id: u64,
    /// Of the pool's settings that it is opened under.
    generation: u64,
}

/// A server on its way to another loop.
#[derive(Debug)]
pub(super) struct Moved(Server, Arc<PoolInfo>);

impl EventLoop {
    /// Opens a server for the pool, which has taken a place for it.
    pub(super) fn open_server(&mut self, id: usize) {
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
    pub(super) fn resolved(
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
            Ok(_) => self.not_opened(id, "the host has no address", NotOpened::Name),
            Err(reason) => self.not_opened(id, &reason, NotOpened::Name),
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
                self.not_opened(opening.pool, &reason, NotOpened::Unreachable);
            }
        }
    }

    fn connect_any(&mut self, opening: Opening, mut addresses: VecDeque<SocketAddr>) {
        let mut reason = String::from("the host has no address");
        while let Some(address) = addresses.pop_front() {
            match net::connect(address) {
                Ok(stream) => {
                    let stream = Stream::Tcp(stream);
                    let address = Address::Tcp(address);
                    return self.add_server(opening, stream, address, addresses);
                }
                Err(error) => reason = format!("cannot connect to {address}: {error}"),
            }
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
            opened_at: now,
            used_at: now,
            transaction_at: now,
            query_at: now,
            setup_at: now,
        });
    }

    /// The socket takes bytes: a connect has ended, or what was unsent can go.
    pub(super) fn server_writable(&mut self, key: ServerKey) {
        let server = &mut self.servers[key];
        if matches!(server.phase, Phase::Connecting { .. }) {
            match server.io.stream.established() {
                Ok(false) => {}
                Ok(true) => self.connected(key),
                Err(error) => {
                    let reason = format!("cannot connect to {}: {error}", server.address);
                    self.connect_failed(key, &reason);
                }
            }
            return;
        }
        if !server.io.is_choked() {
            return;
        }
        match server.io.flush() {
            Ok(true) => {
                if let Some(client) = server.client {
                    self.resume_client(client);
                }
            }
            Ok(false) => {}
            Err(error) => self.server_lost(key, &format!("cannot send: {error}")),
        }
    }

    /// Tries the host's next address, if it has one.
    pub(super) fn connect_failed(&mut self, key: ServerKey, reason: &str) {
        let server = &mut self.servers[key];
        let Phase::Connecting { others } = &mut server.phase else {
            return self.open_failed(key, reason, None);
        };
        let others = std::mem::take(others);
        if others.is_empty() {
            return self.open_failed(key, reason, None);
        }
        let opening = Opening {
            pool: server.pool,
            id: server.id,
            generation: server.generation,
        };
        self.remove_server(key);
        self.connect_any(opening, others);
    }

    fn connected(&mut self, key: ServerKey) {
        let global = &self.live.config.global;
        let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let tuning = Tuning {
            nodelay: true,
            keepalive: global.tcp_keepalive.then(|| Keepalive {
                idle: some(global.tcp_keepidle),
                interval: some(global.tcp_keepintvl),
                probes: (global.tcp_keepcnt > 0).then_some(global.tcp_keepcnt),
            }),
            user_timeout: some(global.tcp_user_timeout.0),
        };
        let server = &mut self.servers[key];
        if let Stream::Tcp(stream) = &server.io.stream
            && let Err(error) = net::tune(stream, &tuning)
        {
            tracing::debug!(%error, "server socket not tuned");
        }
        let settings = self
            .pools
            .get(&server.pool)
            .expect("a server has a pool")
            .settings
            .clone();
        server.phase = Phase::Login(Box::new(Login::new(
            &settings.server_user,
            settings.secret.clone(),
        )));
        let bytes = startup_packet(&settings);
        if let Err(error) = server.io.send_bytes(&bytes) {
            self.open_failed(key, &format!("cannot send: {error}"), None);
        }
    }

    /// Whether the server's socket is worth reading and nothing stands in the way.
    pub(super) fn server_may_read(&self, key: ServerKey) -> bool {
        let Some(server) = self.servers.get(key) else {
            return false;
        };
        if !server.io.readable && !server.io.hung_up {
            return false;
        }
        match (&server.phase, server.client) {
            (Phase::Connecting { .. }, _) => false,
            (_, Some(client)) => !self.clients[client].io.is_choked(),
            _ => true,
        }
    }

    /// The server's turn: one read.
    pub(super) fn server_turn(&mut self, key: ServerKey) {
        if !self.server_may_read(key) {
            return;
        }
        let mut buffers = self.borrow_buffers();
        let server = &mut self.servers[key];
        match server.io.read(&mut buffers.scratch, READ_SIZE) {
            Ok(Input::Nothing) => {}
            Ok(Input::Closed) => self.server_lost(key, "server closed the connection"),
            Ok(input) => {
                let bytes = buffers.scratch.bytes(&input);
                match server.phase {
                    // Nobody's any more.
                    Phase::Closing { .. } => {}
                    Phase::Ready => self.server_input(key, bytes, &mut buffers.outputs),
                    _ => self.login_input(key, bytes, &mut buffers.outputs),
                }
            }
            Err(error) => self.server_lost(key, &format!("connection lost: {error}")),
        }
        self.return_buffers(buffers);
        self.queue_server(key);
    }

    fn login_input(&mut self, key: ServerKey, input: &[u8], outputs: &mut Outputs) {
        let mut at = 0;
        loop {
            let server = &mut self.servers[key];
            let Phase::Login(login) = &mut server.phase else {
                // Ready: what follows is for the session.
                if at < input.len() {
                    self.server_input(key, &input[at..], outputs);
                }
                return;
            };
            let rest = &input[at..];
            let head = match header(rest) {
                Ok(Some(head)) if head.total <= MESSAGE_LENGTH_MAX => head,
                Ok(None) => return server.io.keep(rest, 0),
                Ok(Some(_)) | Err(_) => {
                    return self.open_failed(
                        key,
                        "what answers there does not speak PostgreSQL's protocol",
                        None,
                    );
                }
            };
            let Some(message) = rest.get(..head.total) else {
                return server.io.keep(rest, 0);
            };
            at += head.total;
            let frame = wire::Frame {
                kind: head.kind,
                body: &message[5..],
            };
            match login.message(frame, &random()) {
                Ok(Step::Continue) => {}
                Ok(Step::Send(bytes)) => {
                    if let Err(error) = server.io.send_bytes(&bytes) {
                        return self.open_failed(key, &format!("cannot send: {error}"), None);
                    }
                }
                Ok(Step::NeedsKeys(challenge)) => {
                    let user = login.user().to_owned();
                    let secret = login.secret().cloned();
                    self.find_keys(key, user, secret, challenge.salt, challenge.iterations);
                    if !self.servers.contains(key) {
                        return;
                    }
                }
                Ok(Step::Ready(welcome)) => {
                    self.logged_in(key, *welcome);
                    if !self.servers.contains(key) {
                        return;
                    }
                }
                Err(error) => return self.open_failed(key, &error.to_string(), Some(&error)),
            }
        }
    }

    fn find_keys(
        &mut self,
        key: ServerKey,
        user: String,
        secret: Option<Secret>,
        salt: Vec<u8>,
        iterations: u32,
    ) {
        let known = secret
            .as_ref()
            .and_then(|secret| self.shared.secrets.keys(&user, secret, &salt, iterations));
        let server = ServerRef {
            thread: self.thread,
            key,
            id: self.servers[key].id,
        };
        match (known, secret) {
            (Some(keys), _) => self.keys_derived(server, &keys),
            (None, Some(Secret::Plain(password))) => {
                let job = Job::Keys {
                    server,
                    user,
                    password: Password(password),
                    salt,
                    iterations,
                };
                if !self.shared.work(job) {
                    self.open_failed(key, "too many logins at once", None);
                }
            }
            _ => {
                let reason = format!(
                    "only a SCRAM verifier of user \"{user}\" is known, and it is not the server's, or no client has logged in with it yet"
                );
                let error = LoginError::Method(reason.clone());
                self.open_failed(key, &reason, Some(&error));
            }
        }
    }

    /// Keys for a login to PostgreSQL are there.
    pub(super) fn keys_derived(&mut self, server: ServerRef, keys: &Keys) {
        let key = server.key;
        let Some(found) = self.servers.get_mut(key) else {
            return;
        };
        if found.id != server.id {
            return;
        }
        let Phase::Login(login) = &mut found.phase else {
            return;
        };
        match login.prove(keys) {
            Ok(bytes) => {
                if let Err(error) = found.io.send_bytes(&bytes) {
                    self.open_failed(key, &format!("cannot send: {error}"), None);
                }
            }
            Err(error) => self.open_failed(key, &error.to_string(), Some(&error)),
        }
    }

    fn logged_in(&mut self, key: ServerKey, mut welcome: Welcome) {
        let interner = &self.shared.interner;
        let mut parameters = interner.empty();
        for (name, value) in &welcome.parameters {
            if let Some(index) = interner.tracked().index(name.as_bytes()) {
                parameters = interner.with(&parameters, index, value);
            }
        }
        let server = &mut self.servers[key];
        let local = self.pools.get(&server.pool).expect("a server has a pool");
        let settings = local.settings.clone();
        server.cancel_key = welcome.cancel_key.take();
        server.process_id = welcome.process_id;
        server.phase = Phase::Ready;
        server.session = ServerSession::new(parameters.clone(), settings.max_prepared_statements);
        local.info.set_known(Known {
            welcome,
            parameters,
        });
        match &settings.connect_query {
            Some(sql) if !sql.is_empty() => {
                let bytes = server.session.ours(sql);
                server.setup = Some(Setup::Connect);
                if let Err(error) = server.io.send_bytes(&bytes) {
                    self.open_failed(key, &format!("cannot send: {error}"), None);
                }
            }
            _ => self.server_opened(key),
        }
    }

    /// The server is ready for its first client.
    pub(super) fn server_opened(&mut self, key: ServerKey) {
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

    /// Whether the server was opened under settings that hold no more.
    fn is_stale(&self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let local = self.pools.get(&server.pool);
        local.is_some_and(|local| server.generation < local.settings.generation)
    }

    /// The server is to be closed when it is free, if it is stale.
    pub(super) fn mark_if_stale(&mut self, key: ServerKey) {
        let stale = self.is_stale(key);
        self.servers[key].close_when_free |= stale;
    }

    /// The server could not be opened: its connection is closed.
    pub(super) fn open_failed(&mut self, key: ServerKey, reason: &str, error: Option<&LoginError>) {
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
    pub(super) fn refuse_waiters(&mut self, id: usize) {
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

    fn remove_server(&mut self, key: ServerKey) -> Server {
        let mut server = self.servers.remove(key);
        // Best effort: the descriptor is closed right after.
        let _ = server.io.stream.deregister(self.poll.registry());
        server
    }

    /// Closes a server that was open: its client, if any, is no longer linked.
    pub(super) fn close_server(&mut self, key: ServerKey, reason: &str) {
        let now = self.now;
        let server = &mut self.servers[key];
        tracing::debug!(pid = server.process_id, reason, "server closed");
        if server.session.is_clean() {
            // PostgreSQL logs an unexpected end of the connection otherwise. If
            // it cannot be sent, the connection is gone already.
            let _ = server.io.send_bytes(&wire::terminate());
        }
        server.io.end_output();
        server.setup = None;
        server.orphaned = false;
        server.phase = Phase::Closing {
            until: now + CLOSING_MAX,
        };
        let cut = server.session.mid_message();
        let (pool, client) = (server.pool, server.client.take());
        if let Some(client) = client.and_then(|key| self.clients.get_mut(key)) {
            client.server = None;
            client.cut = cut;
        }
        self.pool(pool).pool.retire(key);
        self.forget_cancels(key);
        self.queue_server(key);
    }

    /// PostgreSQL has closed its side of a server that was told to go.
    pub(super) fn server_closed(&mut self, key: ServerKey) {
        let server = self.remove_server(key);
        let id = server.pool;
        self.pool(id).pool.closed(key);
        self.step_pool(id);
    }

    /// The server's connection is lost.
    pub(super) fn server_lost(&mut self, key: ServerKey, reason: &str) {
        let server = &self.servers[key];
        if matches!(server.phase, Phase::Closing { .. }) {
            return self.server_closed(key);
        }
        if server.is_opening() {
            return self.open_failed(key, reason, None);
        }
        let (id, client, in_setup) = (server.pool, server.client, server.is_in_setup());
        // An error of ours would be a second one, or be taken for the rest of
        // what the server did not send.
        let is_told = server.session.is_ending() || server.session.mid_message();
        let local = self.pools.get(&id).expect("a server has a pool");
        tracing::info!(
            database = local.info.database.as_str(),
            user = local.info.user.as_str(),
            pid = server.process_id,
            reason,
            "server lost"
        );
        self.close_server(key, reason);
        self.server_closed(key);
        if let Some(client) = client {
            if in_setup {
                // Nothing of the client's has reached the server: it waits on.
                let since = self.clients[client].request_at;
                self.clients[client].waiting = true;
                if let Request::Granted(server) = self.pool(id).pool.requeue(client, since) {
                    self.serve(client, server);
                }
            } else if is_told {
                self.end_client(client, &[]);
            } else {
                self.refuse_client(
                    client,
                    SqlState::CONNECTION_FAILURE,
                    &format!("connection to PostgreSQL lost: {reason}"),
                    "The transaction under way has failed: connect again and repeat it.",
                );
            }
        }
        self.step_pool(id);
    }

    /// Takes an idle server off this loop, to be moved.
    pub(super) fn take_server(&mut self, key: ServerKey) -> Option<Moved> {
        let mut server = self.servers.remove(key);
        if let Err(error) = server.io.stream.deregister(self.poll.registry()) {
            tracing::warn!(%error, "server not moved");
            let pool = server.pool;
            self.pool(pool).pool.closed(key);
            return None;
        }
        let info = self.pool(server.pool).info.clone();
        Some(Moved(server, info))
    }

    /// A server that another loop moved here.
    pub(super) fn server_arrived(&mut self, Moved(mut server, info): Moved) {
        let id = server.pool;
        self.local_pool(&info);
        let entry = self.servers.vacant_entry();
        let key = entry.key();
        let registered = server
            .io
            .stream
            .register(self.poll.registry(), Self::server_token(key));
        // Whatever it had to say is said again after registering.
        server.io.readable = true;
        server.queued = false;
        entry.insert(server);
        if let Err(error) = registered {
            self.close_server(key, &format!("cannot register it: {error}"));
            return self.step_pool(id);
        }
        self.mark_if_stale(key);
        self.server_free(key);
        self.queue_server(key);
        self.step_pool(id);
    }

    /// Closes an idle server of another pool that shares the limit which stands
    /// in the way of the pool `id`, unless one is on its way out already.
    pub(super) fn evict_idle(&mut self, id: usize) {
        let (database, user) = {
            let info = &self.pool(id).info;
            (info.database.clone(), info.user.clone())
        };
        let shares = |other: usize| {
            let info = self.pools.get(&other).map(|local| &local.info);
            info.is_some_and(|info| info.database == database || info.user == user)
        };
        let leaving = self
            .servers
            .iter()
            .any(|(_, server)| server.is_closing() && shares(server.pool));
        if leaving {
            return;
        }
        let idle = self.pools.values().find_map(|local| {
            let other = local.info.id;
            (other != id && shares(other))
                .then(|| local.pool.idle().next())
                .flatten()
        });
        if let Some((key, _)) = idle {
            return self.close_server(key, "another pool needs its place");
        }
        let elsewhere = self.shared.pools.all().into_iter().find_map(|other| {
            let shares = other.database == database || other.user == user;
            let thread = (other.id != id && shares).then(|| other.shared.loop_with_idle())??;
            Some((thread, other.id))
        });
        if let Some((thread, pool)) = elsewhere {
            self.shared.tell(thread, Mail::Evict { pool });
        }
    }

    /// A pool that shares a limit with this one has a waiter on another loop.
    pub(super) fn evicted(&mut self, id: usize) {
        let mut servers = self.servers.iter();
        if servers.any(|(_, server)| server.is_closing() && server.pool == id) {
            return;
        }
        let local = self.pools.get(&id);
        if let Some((key, _)) = local.and_then(|local| local.pool.idle().next()) {
            self.close_server(key, "another pool needs its place");
        }
    }
}

fn startup_packet(settings: &Settings) -> Vec<u8> {
    let mut parameters = vec![
        ("user", settings.server_user.as_str()),
        ("database", settings.dbname.as_str()),
    ];
    for (name, value) in &settings.startup {
        parameters.push((name, value));
    }
    wire::startup(&parameters)
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
