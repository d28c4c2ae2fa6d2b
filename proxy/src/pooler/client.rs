//! A client: its connection, its turns, its end.

mod first;
mod login;

use std::sync::{Arc, atomic::Ordering};

use proxy_core::{
    pool::{ClientKey, Moment, ServerKey},
    session::ClientSession,
    wire::{Severity, SqlState, error_response},
};

use super::{
    event_loop::{EventLoop, Outputs},
    io::{Address, Input, Io, READ_SIZE, READ_SIZE_UNLINKED, Stream},
    server::Server,
    shared::ClientRef,
};
use login::{Asked, Proving};

/// Connections beyond max_client_conn: logins under way, cancel requests,
/// checks and the console.
const LOGINS_MAX: u32 = 1_000;

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

/// A client connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) io: Io,
    pub(super) id: u64,
    /// Where it is, as a PROXY header says if one was believed.
    pub(super) address: Address,
    /// bootId of the balancer that said so; 0 for none.
    pub(super) balancer: u64,
    /// Its first packet was seen: a PROXY header comes too late.
    past_header: bool,
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
    /// It has been told by the server that is gone, or got only a part of a
    /// message: an error of ours would be a second one, or be taken for the rest.
    pub(super) told: bool,
}

impl Client {
    pub(super) fn is_session(&self) -> bool {
        matches!(self.phase, Phase::Session)
    }

    /// Whether it has no place among max_client_conn and nothing to lose.
    fn is_nobody(&self) -> bool {
        match self.phase {
            Phase::First | Phase::Requester | Phase::Ending { .. } => true,
            // A login to the console takes no place.
            Phase::Proving(_) => !self.counted,
            _ => false,
        }
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
            .filter(|(_, client)| client.is_nobody())
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
            balancer: 0,
            past_header: false,
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
            told: false,
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

    /// Ends a session with an error, if the client can read one.
    pub(super) fn refuse_client(&mut self, key: ClientKey, code: SqlState, text: &str, hint: &str) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let server = client.server.map(|server| &self.servers[server]);
        if client.told || server.is_some_and(Server::has_told) {
            return self.end_client(key, &[]);
        }
        if self.live.config.global.log_pooler_errors {
            tracing::warn!(client = %client.address, user = &*client.user, code = code.0, reason = text, "client refused");
        }
        self.counters.count_refused(code.0);
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

    /// Ends a client that is at a boundary: nothing of it is under way.
    pub(super) fn say_goodbye(&mut self, key: ClientKey, text: &str) {
        let bytes = error_response(
            Severity::Fatal,
            SqlState::ADMIN_SHUTDOWN,
            text,
            "Reconnect: others serve.",
        );
        self.end_client(key, &bytes);
    }
}
