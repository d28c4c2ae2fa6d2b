//! A client: its connection, its login, its end.

use std::sync::{Arc, atomic::Ordering};

use proxy_core::{
    auth::scram::{Keys, Verifier},
    config::{AuthType, Secret, SslMode, pooler::CONSOLE},
    login::client::{self as login, Begin, Proof, Verdict},
    parameters::Parameters,
    pool::{ClientKey, Moment, Request, ServerKey},
    session::ClientSession,
    wire::{
        self, CancelKey, CheckRequest, FirstPacket, Severity, SqlState, StartupParameters,
        error_response, frontend,
    },
};

use super::{
    event_loop::{EventLoop, Outputs},
    io::{Address, Input, Io, READ_SIZE, READ_SIZE_UNLINKED, Stream},
    pools::PoolInfo,
    shared::{ClientRef, random},
    tls::Tls,
    worker::{Job, Password},
};

/// Connections beyond max_client_conn: logins under way, cancel requests,
/// checks and the console.
const LOGINS_MAX: u32 = 1_000;

/// Longest interval believed of a check, for anybody may send one: it decides
/// how long a drain waits to be heard.
const CHECK_INTERVAL_MAX_MS: u64 = 10_000;

/// How long a client that was told to go may take to read why.
pub(super) const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// Where a client stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its first packet has not come.
    First,
    /// It proves who it is.
    Proving(Box<Proving>),
    /// It waits for the pool's first server: what that says of itself is part
    /// of the answer to its login.
    AwaitingWelcome(Box<Asked>),
    /// Logged in.
    Session,
    /// Logged in to the console.
    Console(Box<super::console::Console>),
    /// Waits for the end of a cancel request.
    Requester,
    /// Has been told why it must go; what it still sends is dropped.
    Ending { until: Moment },
}

/// A login under way.
#[derive(Debug)]
pub(super) struct Proving {
    asked: Asked,
    proof: Proof,
    /// The answer that waits for a verifier.
    pending: Option<Vec<u8>>,
}

/// What a client asked for in its start-up packet.
#[derive(Debug)]
pub(super) struct Asked {
    user: String,
    database: String,
    parameters: Parameters,
}

/// A client connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) io: Io,
    pub(super) id: u64,
    pub(super) address: Address,
    pub(super) phase: Phase,
    pub(super) session: ClientSession,
    /// Its pool; meaningless before it has logged in.
    pub(super) pool: usize,
    pub(super) user: Arc<str>,
    pub(super) server: Option<ServerKey>,
    /// In the pool's queue.
    pub(super) waiting: bool,
    /// Too much was due from its server; see `session::DUE_MAX`.
    pub(super) paused: bool,
    /// Has a turn coming.
    pub(super) queued: bool,
    /// Counted against max_client_conn.
    counted: bool,
    pub(super) cancel_key: Option<[u8; 8]>,
    pub(super) connected_at: Moment,
    /// When it sent what is being dealt with, or sent something last.
    pub(super) request_at: Moment,
    /// It got only a part of a message before its server was closed: an error
    /// of ours would be taken for the rest.
    pub(super) cut: bool,
}

impl Client {
    pub(super) fn is_session(&self) -> bool {
        matches!(self.phase, Phase::Session)
    }
}

impl EventLoop {
    /// Makes room for a connection when too many have not logged in: the one
    /// that has been silent longest goes, for the newest may be a check.
    fn shed_oldest(&mut self) {
        let connections = self.shared.mailboxes.iter();
        let connections: u32 = connections
            .map(|mailbox| mailbox.clients.load(Ordering::Relaxed))
            .sum();
        let max = self.live.config.global.max_client_conn;
        if connections <= max.saturating_add(LOGINS_MAX) {
            return;
        }
        let oldest = self
            .clients
            .iter()
            .filter(|(_, client)| matches!(client.phase, Phase::First | Phase::Ending { .. }))
            .min_by_key(|(_, client)| client.id)
            .map(|(key, _)| key);
        if let Some(key) = oldest {
            self.client_gone(key, "too many connections have not logged in");
        }
    }

    /// A connection for this loop.
    pub(super) fn accepted(&mut self, mut stream: Stream, address: Address) {
        self.shed_oldest();
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        let token = Self::client_token(key);
        if let Err(error) = stream.register(self.poll.registry(), token) {
            tracing::warn!(%error, client = %address, "connection not registered");
            self.shared.mailboxes[self.thread]
                .clients
                .fetch_sub(1, Ordering::Relaxed);
            return;
        }
        entry.insert(Client {
            io: Io::new(stream),
            id: self.shared.next_id(),
            address,
            phase: Phase::First,
            session: ClientSession::new(self.shared.interner.empty()),
            pool: usize::MAX,
            user: Arc::from(""),
            server: None,
            waiting: false,
            paused: false,
            queued: false,
            counted: false,
            cancel_key: None,
            connected_at: self.now,
            request_at: self.now,
            cut: false,
        });
    }

    pub(super) fn client_ref(&self, key: ClientKey) -> ClientRef {
        ClientRef {
            thread: self.thread,
            key,
            id: self.clients[key].id,
        }
    }

    /// The client that a letter is about, if it is still there.
    pub(super) fn client_of(&mut self, client: ClientRef) -> Option<&mut Client> {
        let found = self.clients.get_mut(client.key)?;
        (found.id == client.id).then_some(found)
    }

    /// Whether the client's socket is worth reading and nothing stands in the way.
    pub(super) fn client_may_read(&self, key: ClientKey) -> bool {
        let Some(client) = self.clients.get(key) else {
            return false;
        };
        if !client.io.readable && !client.io.hung_up {
            return false;
        }
        match &client.phase {
            Phase::First | Phase::Requester | Phase::Ending { .. } => true,
            Phase::Proving(proving) => proving.pending.is_none(),
            Phase::AwaitingWelcome(_) => client.io.hung_up,
            Phase::Console(console) if console.is_busy() => client.io.hung_up,
            Phase::Console(_) => !client.io.is_choked(),
            Phase::Session => {
                if client.waiting {
                    return client.io.hung_up;
                }
                if client.paused {
                    return false;
                }
                match client.server {
                    None => !client.io.is_choked(),
                    Some(server) => {
                        let server = &self.servers[server];
                        !server.io.is_choked() && !server.is_in_setup()
                    }
                }
            }
        }
    }

    /// The client's turn: one read.
    pub(super) fn client_turn(&mut self, key: ClientKey) {
        if !self.client_may_read(key) {
            return;
        }
        let client = &mut self.clients[key];
        let waits = match &client.phase {
            Phase::AwaitingWelcome(_) => true,
            Phase::Console(console) => console.is_busy(),
            _ => client.waiting,
        };
        if waits {
            // It hung up while it waited.
            self.client_gone(key, "client closed the connection while it waited");
            return;
        }
        let size = if client.server.is_some() {
            READ_SIZE
        } else {
            READ_SIZE_UNLINKED
        };
        let mut buffers = self.borrow_buffers();
        match self.clients[key].io.read(&mut buffers.scratch, size) {
            Ok(Input::Nothing) => {}
            Ok(Input::Closed) => self.client_gone(key, "client closed the connection"),
            Ok(input) => {
                let bytes = buffers.scratch.bytes(&input);
                self.client_input(key, bytes, &mut buffers.outputs);
            }
            Err(error) => {
                tracing::debug!(%error, client = %self.clients[key].address, "client lost");
                self.client_gone(key, "client connection lost");
            }
        }
        self.return_buffers(buffers);
        self.queue_client(key);
    }

    /// Deals with what was kept while the client could not go on, then reads on.
    pub(super) fn resume_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if client.io.has_kept() {
            let kept = client.io.take_kept();
            let mut buffers = self.borrow_buffers();
            self.client_input(key, &kept, &mut buffers.outputs);
            self.return_buffers(buffers);
        }
        self.queue_client(key);
    }

    /// The client's socket takes bytes again.
    pub(super) fn client_writable(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        match client.io.flush() {
            Ok(true) => match client.server {
                Some(server) => self.queue_server(server),
                None => self.resume_client(key),
            },
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, client = %client.address, "client lost");
                self.client_gone(key, "client connection lost");
            }
        }
    }

    pub(super) fn client_input(&mut self, key: ClientKey, input: &[u8], outputs: &mut Outputs) {
        match &self.clients[key].phase {
            Phase::Session => self.session_input(key, input, outputs),
            Phase::First => self.first_input(key, input),
            Phase::Proving(_) => self.proving_input(key, input),
            Phase::Console(_) => self.console_input(key, input),
            Phase::AwaitingWelcome(_) => self.clients[key].io.keep(input, 0),
            Phase::Requester | Phase::Ending { .. } => {}
        }
    }

    /// Sends bytes of our own; a client that cannot be reached is gone.
    pub(super) fn tell_client(&mut self, key: ClientKey, bytes: &[u8]) -> bool {
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        match client.io.send_bytes(bytes) {
            Ok(()) => true,
            Err(_) => {
                self.client_gone(key, "client connection lost");
                false
            }
        }
    }

    /// Ends a session with an error that the client can read.
    pub(super) fn refuse_client(&mut self, key: ClientKey, code: SqlState, text: &str, hint: &str) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        if self.live.config.global.log_pooler_errors {
            tracing::warn!(client = %client.address, user = &*client.user, code = code.0, reason = text, "client refused");
        }
        self.counters.count_refused(code.0);
        let linked = client.server.map(|server| &self.servers[server]);
        if client.cut || linked.is_some_and(|server| server.session.mid_message()) {
            return self.client_gone(key, "its answer was cut in the middle of a message");
        }
        let bytes = error_response(Severity::Fatal, code, text, hint);
        self.end_client(key, &bytes);
    }

    /// Sends the client its last bytes and lets it go.
    pub(super) fn end_client(&mut self, key: ClientKey, last: &[u8]) {
        self.unlink_leaving_client(key);
        if !self.tell_client(key, last) {
            return;
        }
        let until = self.now + LINGER;
        let client = &mut self.clients[key];
        client.phase = Phase::Ending { until };
        // Closing at once while its bytes are unread would reset the
        // connection, and the reset would overtake the error.
        if !client.io.is_choked() {
            client.io.end_output();
        }
        self.uncount_client(key);
        self.queue_client(key);
    }

    /// The client is no more.
    pub(super) fn client_gone(&mut self, key: ClientKey, reason: &'static str) {
        if !self.clients.contains(key) {
            return;
        }
        self.unlink_leaving_client(key);
        self.uncount_client(key);
        let mut client = self.clients.remove(key);
        // Best effort: the descriptor is closed right after.
        let _ = client.io.stream.deregister(self.poll.registry());
        self.shared.mailboxes[self.thread]
            .clients
            .fetch_sub(1, Ordering::Relaxed);
        if self.live.config.global.log_disconnections && client.is_session() {
            let age_s = self.now.since(client.connected_at).as_secs();
            tracing::info!(client = %client.address, user = &*client.user, reason, age_s, "client closed");
        }
    }

    fn uncount_client(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        if let Some(cancel_key) = client.cancel_key.take() {
            self.shared.drop_cancel_key(cancel_key);
        }
        if std::mem::take(&mut client.counted) {
            self.shared.clients.fetch_sub(1, Ordering::SeqCst);
            if let Some(local) = self.pools.get(&client.pool) {
                self.shared.pools.leave(&local.info, &client.user);
            }
        }
    }

    fn first_input(&mut self, key: ClientKey, input: &[u8]) {
        let (packet, used) = match wire::first_packet(input) {
            Ok(Some(first)) => first,
            Ok(None) => return self.clients[key].io.keep(input, 0),
            Err(error) => {
                let text = error.to_string();
                return self.refuse_client(
                    key,
                    SqlState::PROTOCOL_VIOLATION,
                    &text,
                    "This port speaks PostgreSQL's protocol, version 3.",
                );
            }
        };
        let rest = &input[used..];
        match packet {
            FirstPacket::Ssl => self.ssl_request(key, rest),
            FirstPacket::Gssenc => {
                if self.tell_client(key, b"N") && !rest.is_empty() {
                    self.first_input(key, rest);
                }
            }
            FirstPacket::Cancel(cancel_key) => self.cancel_requested(key, &cancel_key),
            FirstPacket::Startup(parameters) => {
                if let Some(check) = CheckRequest::read(&parameters) {
                    return self.answer_check(key, check);
                }
                self.startup(key, &parameters);
                // A client does not go on before it is asked to; if it does,
                // what it sent belongs to the next phase.
                if !rest.is_empty() && self.clients.contains(key) {
                    let mut buffers = self.borrow_buffers();
                    self.client_input(key, rest, &mut buffers.outputs);
                    self.return_buffers(buffers);
                }
            }
        }
    }

    fn ssl_request(&mut self, key: ClientKey, rest: &[u8]) {
        let client = &mut self.clients[key];
        let offered = self.live.tls.clone().filter(|_| client.io.tls.is_none());
        let Some(config) = offered else {
            if self.tell_client(key, b"N") && !rest.is_empty() {
                self.first_input(key, rest);
            }
            return;
        };
        // Bytes sent in clear before the handshake could have been put there by
        // anybody (CVE-2021-23214): the session would trust them.
        if !rest.is_empty() {
            return self.refuse_client(
                key,
                SqlState::PROTOCOL_VIOLATION,
                "received unencrypted data after SSL request",
                "This could be a bug of the client or an attempt to interfere with the connection.",
            );
        }
        if !self.tell_client(key, b"S") {
            return;
        }
        match Tls::new(config) {
            Ok(tls) => self.clients[key].io.tls = Some(Box::new(tls)),
            Err(error) => {
                tracing::error!(%error, "TLS session not begun");
                self.client_gone(key, "no TLS session");
            }
        }
    }

    fn answer_check(&mut self, key: ClientKey, check: CheckRequest) {
        let interval_ms = u64::try_from(check.interval.as_millis()).unwrap_or(u64::MAX);
        self.shared
            .check_interval_ms
            .store(interval_ms.min(CHECK_INTERVAL_MAX_MS), Ordering::Relaxed);
        let report = self.shared.report().encode();
        self.end_client(key, &report);
    }

    fn startup(&mut self, key: ClientKey, parameters: &StartupParameters) {
        let live = self.live.clone();
        let global = &live.config.global;
        let client = &self.clients[key];
        let is_tcp = matches!(client.address, Address::Tcp(_));
        if global.client_tls_sslmode == SslMode::Require && client.io.tls.is_none() && is_tcp {
            return self.refuse_client(
                key,
                SqlState::INVALID_AUTHORIZATION,
                "connection is not encrypted, and TLS is required",
                "Connect with sslmode=require or higher.",
            );
        }
        let Some(user) = parameters.value("user").filter(|user| !user.is_empty()) else {
            return self.refuse_client(
                key,
                SqlState::INVALID_AUTHORIZATION,
                "no user name in the startup packet",
                "",
            );
        };
        let database = parameters
            .value("database")
            .filter(|name| !name.is_empty())
            .unwrap_or(user);
        if parameters.value("replication").is_some_and(is_true) {
            return self.refuse_client(
                key,
                SqlState::FEATURE_NOT_SUPPORTED,
                "replication connections are not supported",
                "Connect to PostgreSQL itself for replication.",
            );
        }
        self.clients[key].user = Arc::from(user);
        let wanted = match self.wanted_parameters(parameters) {
            Ok(wanted) => wanted,
            // Exporters and tools send this and that; there is nothing to follow.
            Err(_) if database == CONSOLE => self.shared.interner.empty(),
            Err(name) => {
                return self.refuse_client(
                    key,
                    SqlState::PROTOCOL_VIOLATION,
                    &format!("unsupported startup parameter: {name}"),
                    &format!(
                        "Add it to ignore_startup_parameters to drop it: ignore_startup_parameters = {}.",
                        name.strip_prefix("options=").unwrap_or(&name)
                    ),
                );
            }
        };
        let unrecognised: Vec<&str> = parameters
            .pairs()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if parameters.minor > 0 || !unrecognised.is_empty() {
            let bytes = wire::negotiate_protocol_version(0, &unrecognised);
            if !self.tell_client(key, &bytes) {
                return;
            }
        }
        let wanted = if global.application_name_add_host && database != CONSOLE {
            self.with_host(key, &wanted)
        } else {
            wanted
        };
        let asked = Asked {
            user: user.to_owned(),
            database: database.to_owned(),
            parameters: wanted,
        };
        if asked.database != CONSOLE && !self.count_client(key) {
            return;
        }
        self.begin_proof(key, asked);
    }

    /// Takes one of max_client_conn places.
    fn count_client(&mut self, key: ClientKey) -> bool {
        let max = self.live.config.global.max_client_conn;
        let counted =
            self.shared
                .clients
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                    (count < max).then_some(count + 1)
                });
        if counted.is_err() {
            self.refuse_client(
                key,
                SqlState::TOO_MANY_CONNECTIONS,
                &format!("no more connections allowed: all {max} clients (max_client_conn) are connected"),
                "Raise max_client_conn, add poolers, or let the application hold fewer connections.",
            );
            return false;
        }
        self.clients[key].counted = true;
        true
    }

    /// The values of tracked parameters in a start-up packet, or the name of a
    /// parameter that can be neither followed nor ignored.
    fn wanted_parameters(&self, parameters: &StartupParameters) -> Result<Parameters, String> {
        let interner = &self.shared.interner;
        let ignored = &self.live.config.global.ignore_startup_parameters;
        let is_ignored = |name: &str| ignored.iter().any(|known| known.eq_ignore_ascii_case(name));
        let mut wanted = interner.empty();
        for (name, value) in parameters.pairs() {
            if matches!(name, "user" | "database" | "replication") || name.starts_with("_pq_.") {
                continue;
            }
            if let Some(index) = interner.tracked().index(name.as_bytes()) {
                wanted = interner.with(&wanted, index, value);
            } else if name == "options" && !is_ignored("options") {
                for (name, value) in startup_options(value).ok_or("options")? {
                    match interner.tracked().index(name.as_bytes()) {
                        Some(index) => wanted = interner.with(&wanted, index, &value),
                        None if is_ignored(&name) => {}
                        None => return Err(format!("options={name}")),
                    }
                }
            } else if !is_ignored(name) {
                return Err(name.to_owned());
            }
        }
        Ok(wanted)
    }

    /// The client's address after its application_name, where people look for it.
    fn with_host(&self, key: ClientKey, wanted: &Parameters) -> Parameters {
        let interner = &self.shared.interner;
        let Some(index) = interner.tracked().index(b"application_name") else {
            return wanted.clone();
        };
        let name = wanted.value(index).unwrap_or("app");
        let address = self.clients[key].address;
        interner.with(wanted, index, &format!("{name} - {address}"))
    }

    fn begin_proof(&mut self, key: ClientKey, asked: Asked) {
        let live = self.live.clone();
        let config = &live.config;
        let auth_type = config.global.auth_type;
        let kind = config.userlist.secret_kind(&asked.user);
        if auth_type == AuthType::Trust && !config.userlist.contains(&asked.user) {
            let user = asked.user;
            self.counters.auth_failures += 1;
            return self.refuse_client(
                key,
                SqlState::INVALID_AUTHORIZATION,
                &format!("no such user: {user}"),
                "With auth_type = trust users must still be listed in auth_file.",
            );
        }
        match login::begin(auth_type, kind, &random()) {
            Begin::Accepted => self.authenticated(key, asked),
            Begin::Ask(bytes, proof) => {
                if self.tell_client(key, &bytes) {
                    self.clients[key].phase = Phase::Proving(Box::new(Proving {
                        asked,
                        proof,
                        pending: None,
                    }));
                }
            }
        }
    }

    fn proving_input(&mut self, key: ClientKey, input: &[u8]) {
        let head = match wire::header(input) {
            Ok(Some(head)) => head,
            Ok(None) => return self.clients[key].io.keep(input, 0),
            Err(error) => {
                let text = error.to_string();
                return self.refuse_client(key, SqlState::PROTOCOL_VIOLATION, &text, "");
            }
        };
        if head.kind == frontend::TERMINATE {
            return self.client_gone(key, "client closed the connection");
        }
        if head.kind != frontend::PASSWORD || head.total > login::MESSAGE_LENGTH_MAX {
            let text = format!(
                "expected a password message of at most {} bytes, got type {:?} with {} bytes",
                login::MESSAGE_LENGTH_MAX,
                char::from(head.kind),
                head.total
            );
            return self.refuse_client(key, SqlState::PROTOCOL_VIOLATION, &text, "");
        }
        if input.len() < head.total {
            return self.clients[key].io.keep(input, 0);
        }
        let (message, rest) = input.split_at(head.total);
        if !rest.is_empty() {
            self.clients[key].io.keep(rest, 0);
        }
        self.judge(key, &message[5..], None);
        // What came behind it belongs to the session that has just begun.
        self.resume_client(key);
    }

    /// A verifier has been derived for a client that waits for it.
    pub(super) fn verifier_derived(&mut self, client: ClientRef, verifier: &Verifier) {
        let Some(Client {
            phase: Phase::Proving(proving),
            ..
        }) = self.client_of(client)
        else {
            return;
        };
        if let Some(answer) = proving.pending.take() {
            self.judge(client.key, &answer, Some(verifier));
            self.resume_client(client.key);
        }
    }

    fn judge(&mut self, key: ClientKey, answer: &[u8], derived: Option<&Verifier>) {
        let live = self.live.clone();
        let shared = self.shared.clone();
        let Phase::Proving(proving) = &mut self.clients[key].phase else {
            return;
        };
        let user = proving.asked.user.clone();
        let secret = live.config.userlist.secret(&user);
        let iterations = live.config.global.scram_iterations;
        let known = match secret {
            Some(Secret::Plain(password)) => shared.secrets.verifier(&user, password),
            Some(Secret::Scram(_)) => None,
            // Fails at the end of the exchange, as a wrong password does.
            Some(Secret::Md5(_)) | None => Some(Arc::new(Verifier::mock(
                &shared.mock_secret,
                &user,
                iterations,
            ))),
        };
        let verifier = derived.or(known.as_deref());
        match proving.proof.answer(answer, &user, secret, verifier) {
            Verdict::Continue(bytes) => {
                self.tell_client(key, &bytes);
            }
            Verdict::NeedsVerifier => {
                // The known password under a salt of ours; or, where only the
                // verifier is known, the password just sent under its salt.
                let (password, salt, iterations) = match secret {
                    Some(Secret::Plain(password)) => (password.clone(), None, iterations),
                    Some(Secret::Scram(stored)) => {
                        let sent = wire::cstr(answer).map(|(sent, _)| sent);
                        let sent = String::from_utf8_lossy(sent.unwrap_or_default());
                        (
                            sent.into_owned(),
                            Some(stored.salt.clone()),
                            stored.iterations,
                        )
                    }
                    Some(Secret::Md5(_)) | None => return,
                };
                proving.pending = Some(answer.to_vec());
                let job = Job::Verifier {
                    client: self.client_ref(key),
                    user,
                    password: Password(password),
                    salt,
                    iterations,
                };
                if !shared.work(job) {
                    self.refuse_client(
                        key,
                        SqlState::TOO_MANY_CONNECTIONS,
                        "too many logins at once",
                        "Try again in a moment.",
                    );
                }
            }
            Verdict::Accepted { last, keys } => {
                self.reveal(&user, secret, keys);
                if self.tell_client(key, &last) {
                    let phase = std::mem::replace(&mut self.clients[key].phase, Phase::First);
                    if let Phase::Proving(proving) = phase {
                        self.authenticated(key, proving.asked);
                    }
                }
            }
            Verdict::Refused(reason) => {
                let address = self.clients[key].address;
                tracing::info!(client = %address, user = user.as_str(), reason, "authentication failed");
                self.counters.auth_failures += 1;
                self.refuse_client(
                    key,
                    SqlState::INVALID_PASSWORD,
                    &format!("password authentication failed for user \"{user}\""),
                    "",
                );
            }
        }
    }

    /// Keys that a client's proof revealed log in to a PostgreSQL that stores
    /// the same verifier.
    fn reveal(&self, user: &str, secret: Option<&Secret>, keys: Option<Keys>) {
        if let (Some(Secret::Scram(verifier)), Some(keys)) = (secret, keys) {
            self.shared.secrets.add_revealed(user, verifier, keys);
        }
    }

    fn authenticated(&mut self, key: ClientKey, asked: Asked) {
        if asked.database == CONSOLE {
            return self.console_login(key, &asked.user, asked.parameters);
        }
        let live = self.live.clone();
        let pools = &self.shared.pools;
        let info = match pools.admit(&live.config, &asked.database, &asked.user) {
            Ok(info) => info,
            Err(error) => {
                return self.refuse_client(key, error.code(), &error.to_string(), error.hint());
            }
        };
        self.local_pool(&info);
        let client = &mut self.clients[key];
        client.pool = info.id;
        if info.known().is_some() {
            return self.welcome(key, &info, &asked);
        }
        client.phase = Phase::AwaitingWelcome(Box::new(asked));
        client.request_at = self.now;
        let now = self.now;
        match self.pool(info.id).pool.request(key, now) {
            Request::Granted(server) => {
                // A server that is idle has said what it is.
                self.server_free(server);
                self.welcome_waiting(key);
            }
            Request::Queued => {
                self.clients[key].waiting = true;
                self.step_pool(info.id);
            }
        }
    }

    /// A server has said what it is, or the client's turn in the queue came.
    pub(super) fn welcome_waiting(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        client.waiting = false;
        let phase = std::mem::replace(&mut client.phase, Phase::First);
        let info = self
            .pools
            .get(&client.pool)
            .expect("a client that waits has a pool here")
            .info
            .clone();
        if let Phase::AwaitingWelcome(asked) = phase {
            self.welcome(key, &info, &asked);
            self.resume_client(key);
        }
    }

    /// Completes a login.
    fn welcome(&mut self, key: ClientKey, info: &PoolInfo, asked: &Asked) {
        let known = info.known().expect("asked for before");
        let interner = &self.shared.interner;
        let parameters = interner.over(&known.parameters, &asked.parameters);
        let mut bytes = wire::authentication_ok();
        for (name, value) in &known.welcome.parameters {
            let tracked = interner.tracked().index(name.as_bytes());
            let value = tracked
                .and_then(|index| parameters.value(index))
                .unwrap_or(value);
            bytes.extend(wire::parameter_status(name, value));
        }
        let cancel_key = self
            .shared
            .new_cancel_key(self.client_ref(key), self.live.config.global.peer_id);
        bytes.extend(wire::backend_key_data(&cancel_key));
        bytes.extend(wire::ready_for_query(b'I'));
        self.pool(info.id).counters.logins += 1;
        let client = &mut self.clients[key];
        client.session = ClientSession::new(parameters);
        client.cancel_key = Some(cancel_key);
        client.phase = Phase::Session;
        client.request_at = self.now;
        let (address, tls) = (client.address, client.io.tls.as_ref());
        if self.live.config.global.log_connections {
            let tls = tls.map_or("no", |tls| tls.protocol());
            tracing::info!(client = %address, user = asked.user.as_str(), database = asked.database.as_str(), tls, "client logged in");
        }
        self.tell_client(key, &bytes);
    }

    /// Ends a client that is at a boundary: nothing of it is under way.
    pub(super) fn say_goodbye(&mut self, key: ClientKey, text: &str) {
        let bytes = error_response(
            Severity::Fatal,
            SqlState::ADMIN_SHUTDOWN,
            text,
            "Reconnect: another pooler serves.",
        );
        self.end_client(key, &bytes);
    }

    fn cancel_requested(&mut self, key: ClientKey, cancel_key: &CancelKey) {
        self.clients[key].phase = Phase::Requester;
        let requester = self.client_ref(key);
        self.route_cancel(cancel_key, requester);
    }
}

/// `-c name=value` and `--name=value` of the start-up parameter `options`;
/// `None` if there is anything else in it.
fn startup_options(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars();
    // A backslash keeps the next character, a blank above all.
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.push(chars.next()?),
            c if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    let mut pairs = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let pair = if word == "-c" {
            words.next()?
        } else {
            let pair = word
                .strip_prefix("--")
                .or_else(|| word.strip_prefix("-c"))?;
            pair.to_owned()
        };
        let (name, value) = pair.split_once('=')?;
        pairs.push((name.replace('-', "_"), value.to_owned()));
    }
    Some(pairs)
}

fn is_true(value: &str) -> bool {
    !matches!(
        value.to_ascii_lowercase().as_str(),
        "" | "false" | "off" | "no" | "0"
    )
}

#[cfg(test)]
mod tests {
    use super::startup_options;

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            startup_options("-c TimeZone=UTC  --DateStyle=ISO\\ x"),
            Some(vec![pair("TimeZone", "UTC"), pair("DateStyle", "ISO x")])
        );
        assert_eq!(startup_options("-B 3"), None);
        assert_eq!(startup_options("-c"), None);
        assert_eq!(startup_options(""), Some(vec![]));
    }
}
