//! A client and its server: from the request to the release.

use proxy_core::{
    config::PoolMode,
    pool::{ClientKey, Request, Returned, ServerKey},
    session::{DUE_MAX, ServerFault, Transaction, Unlinked, from_client, from_server},
    wire::{self, Severity, SqlState, error_response},
};

use super::{
    client::{Client, Phase},
    event_loop::{EventLoop, Outputs},
    server::{Server, Setup},
    shared::Mail,
};

/// What became of a request for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linked {
    /// The server is there and ready.
    Now,
    /// Later: the client is resumed then.
    Later,
}

impl EventLoop {
    /// What a logged-in client sent.
    pub(super) fn session_input(&mut self, key: ClientKey, input: &[u8], outputs: &mut Outputs) {
        let mut at = 0;
        while at < input.len() {
            let Some(client) = self.clients.get_mut(key) else {
                return;
            };
            let rest = &input[at..];
            if !client.is_session() {
                return;
            }
            if client.waiting || client.paused {
                return client.io.keep(rest, 0);
            }
            if let Some(server) = client.server {
                if self.servers[server].is_in_setup() {
                    return self.clients[key].io.keep(rest, 0);
                }
                match self.forward_to_server(key, server, rest, outputs) {
                    Some(consumed) => at += consumed,
                    None => return,
                }
                let Some(client) = self.clients.get(key) else {
                    return;
                };
                if client.io.has_kept() || client.paused {
                    return;
                }
                continue;
            }
            match client.session.unlinked(rest) {
                Ok(Unlinked::Handled { consumed, ready }) => {
                    at += consumed;
                    if ready > 0 {
                        let bytes = wire::ready_for_query(b'I').repeat(ready as usize);
                        if !self.tell_client(key, &bytes) {
                            return;
                        }
                    }
                    if consumed == 0 {
                        return self.clients[key].io.keep(rest, 0);
                    }
                }
                Ok(Unlinked::Terminated) => return self.client_gone(key, "client said goodbye"),
                // It has one now, or what is left is kept.
                Ok(Unlinked::NeedsServer) => self.request_server(key),
                Err(fault) => {
                    let text = fault.to_string();
                    return self.refuse_client(key, fault.code(), &text, "");
                }
            }
        }
    }

    /// Passes on what a linked client sent. Returns how much was dealt with;
    /// `None` if the client is gone.
    fn forward_to_server(
        &mut self,
        key: ClientKey,
        server_key: ServerKey,
        input: &[u8],
        outputs: &mut Outputs,
    ) -> Option<usize> {
        let client = &mut self.clients[key];
        let server = &mut self.servers[server_key];
        let local = self
            .pools
            .get_mut(&client.pool)
            .expect("a client has a pool");
        let rules = Self::rules(&self.shared, local);
        outputs.to_server.clear();
        outputs.to_client.clear();
        let began = server.session.due_len() == 0;
        let done = from_client(
            rules,
            &mut client.session,
            &mut server.session,
            input,
            &mut outputs.to_server,
            &mut outputs.to_client,
        );
        let done = match done {
            Ok(done) => done,
            Err(fault) => {
                // What led up to the fault is not sent, so that the server may
                // be in the middle of a message: it serves nobody any more.
                self.close_server(server_key, "its client broke the protocol");
                let text = fault.to_string();
                self.refuse_client(key, fault.code(), &text, "");
                return None;
            }
        };
        if began {
            server.query_at = self.now;
            if server.session.transaction() == Transaction::Idle {
                server.transaction_at = self.now;
            }
        }
        client.request_at = self.now;
        let counters = &mut local.counters;
        counters.received_bytes += done.consumed as u64;
        counters.client_parses += u64::from(done.parses);
        counters.server_parses += u64::from(done.parses_server);
        counters.binds += u64::from(done.binds);
        let sent = server.io.send(&mut outputs.to_server, input);
        let answered = client.io.send(&mut outputs.to_client, input);
        client.paused = done.paused;
        if done.needed > 0 || done.paused {
            client.io.keep(&input[done.consumed..], done.needed);
        }
        if let Err(error) = sent {
            self.server_lost(server_key, &format!("cannot send: {error}"));
            return None;
        }
        if answered.is_err() {
            self.client_gone(key, "client connection lost");
            return None;
        }
        if done.terminated {
            self.client_gone(key, "client said goodbye");
            return None;
        }
        // What was answered in the server's stead may have been all there was.
        if !outputs.to_client.is_empty() && self.servers[server_key].session.is_clean() {
            self.release_if_free(server_key);
        }
        Some(done.consumed)
    }

    /// The client needs a server.
    fn request_server(&mut self, key: ClientKey) {
        let now = self.now;
        let client = &mut self.clients[key];
        client.request_at = now;
        let id = client.pool;
        match self.pool(id).pool.request(key, now) {
            Request::Granted(server) => {
                self.link(key, server);
            }
            Request::Queued => {
                self.clients[key].waiting = true;
                self.step_pool(id);
            }
        }
    }

    /// Lends the server to the client.
    fn link(&mut self, key: ClientKey, server_key: ServerKey) -> Linked {
        let client = &mut self.clients[key];
        let server = &mut self.servers[server_key];
        debug_assert!(server.client.is_none(), "a server lent twice");
        client.waiting = false;
        client.server = Some(server_key);
        server.client = Some(key);
        server.query_at = self.now;
        let local = self
            .pools
            .get_mut(&client.pool)
            .expect("a client has a pool");
        local.counters.assignments += 1;
        local.counters.wait_us += self.now.micros_since(client.request_at);
        let settings = local.settings.clone();
        let unused = self.now.since(server.used_at);
        if let Some(sql) = &settings.check_query
            && unused >= settings.check_delay
        {
            return self.set_up(server_key, Setup::Check, sql);
        }
        self.set_parameters(server_key)
    }

    /// Gives the server the client's parameters, if they differ.
    fn set_parameters(&mut self, server_key: ServerKey) -> Linked {
        let server = &self.servers[server_key];
        let client = &self.clients[server.client.expect("it is lent")];
        let wants = client.session.parameters();
        let has = server.session.parameters();
        match self.shared.interner.set_statements(wants, has) {
            None => Linked::Now,
            Some(sql) => self.set_up(server_key, Setup::Parameters, &sql),
        }
    }

    fn set_up(&mut self, server_key: ServerKey, setup: Setup, sql: &str) -> Linked {
        let server = &mut self.servers[server_key];
        let bytes = server.session.ours(sql);
        server.setup = Some(setup);
        server.setup_at = self.now;
        if let Err(error) = server.io.send_bytes(&bytes) {
            self.server_lost(server_key, &format!("cannot send: {error}"));
        }
        Linked::Later
    }

    /// A query of ours has been answered.
    fn set_up_done(&mut self, server_key: ServerKey, result: Result<(), String>) {
        let server = &mut self.servers[server_key];
        let Some(setup) = server.setup.take() else {
            return;
        };
        if let Err(failure) = result {
            return self.set_up_failed(server_key, setup, &failure);
        }
        match (setup, server.client) {
            (Setup::Check, Some(key)) => {
                if self.set_parameters(server_key) == Linked::Now {
                    self.resume_client(key);
                }
            }
            (Setup::Parameters, Some(key)) => {
                let interner = &self.shared.interner;
                self.clients[key]
                    .session
                    .adopt_parameters(interner, &server.session);
                self.resume_client(key);
            }
            // The client left meanwhile, or the query was there to make the
            // server as new.
            (Setup::Check | Setup::Parameters | Setup::Reset, _) => self.server_free(server_key),
            (Setup::Connect, _) => self.server_opened(server_key),
        }
    }

    /// `failure` is what PostgreSQL said.
    fn set_up_failed(&mut self, server_key: ServerKey, setup: Setup, failure: &str) {
        match setup {
            // As PgBouncer does: a table of settings that is not there must not
            // keep everybody out.
            Setup::Connect => {
                let pool = self.pools.get(&self.servers[server_key].pool);
                let info = &pool.expect("a server has a pool").info;
                tracing::warn!(
                    database = info.database.as_str(),
                    user = info.user.as_str(),
                    error = failure,
                    "connect_query failed"
                );
                self.server_opened(server_key);
            }
            Setup::Check => {
                self.server_lost(server_key, &format!("the check query failed: {failure}"));
            }
            Setup::Reset => {
                self.server_lost(server_key, &format!("the reset query failed: {failure}"));
            }
            Setup::Parameters => {
                let server = &self.servers[server_key];
                let (id, client) = (server.pool, server.client);
                self.close_server(server_key, "it refused a client's parameters");
                if let Some(key) = client {
                    self.refuse_client(
                        key,
                        SqlState::INVALID_PARAMETER_VALUE,
                        &format!(
                            "the server refused a parameter that this session has set: {failure}"
                        ),
                        "Look at client_encoding, DateStyle, TimeZone and the like in the connection's options.",
                    );
                }
                self.step_pool(id);
            }
        }
    }

    /// What a ready server sent.
    pub(super) fn server_input(
        &mut self,
        server_key: ServerKey,
        input: &[u8],
        outputs: &mut Outputs,
    ) {
        let server = &mut self.servers[server_key];
        let local = self
            .pools
            .get_mut(&server.pool)
            .expect("a server has a pool");
        let rules = Self::rules(&self.shared, local);
        // Of a query of ours the client hears nothing.
        let client_key = server.client.filter(|_| server.setup.is_none());
        let mut client = client_key.map(|key| &mut self.clients[key]);
        outputs.to_client.clear();
        let session = client.as_deref_mut().map(|client| &mut client.session);
        let done = from_server(
            rules,
            session,
            &mut server.session,
            input,
            &mut outputs.to_client,
        );
        local.counters.sent_bytes += input.len() as u64;
        let done = match done {
            Ok(done) => done,
            Err(fault) => return self.server_fault(server_key, &fault),
        };
        if done.consumed < input.len() {
            server.io.keep(&input[done.consumed..], done.needed);
        }
        if done.queries > 0 {
            local.counters.queries += u64::from(done.queries);
            local.counters.transactions += u64::from(done.transactions);
            local.counters.query_us += self.now.micros_since(server.query_at);
            server.query_at = self.now;
        }
        if done.transactions > 0 {
            local.counters.transaction_us += self.now.micros_since(server.transaction_at);
            server.transaction_at = self.now;
        }
        if let Some(client) = client {
            if let Err(error) = client.io.send(&mut outputs.to_client, input) {
                tracing::debug!(%error, client = %client.address, "client lost");
                let key = client_key.expect("it is linked");
                return self.client_gone(key, "client connection lost");
            }
            client.request_at = self.now;
            if client.paused && server.session.due_len() < DUE_MAX / 2 {
                client.paused = false;
                let key = client_key.expect("it is linked");
                self.resume_client(key);
            }
        }
        let Some(server) = self.servers.get_mut(server_key) else {
            return;
        };
        if server.session.is_ending() {
            return self.server_lost(server_key, "PostgreSQL ends the connection");
        }
        if server.setup.is_some() {
            if let Some(result) = server.session.ours_result() {
                self.set_up_done(server_key, result);
            }
        } else {
            self.release_if_free(server_key);
        }
    }

    fn server_fault(&mut self, server_key: ServerKey, fault: &ServerFault) {
        let server = &self.servers[server_key];
        let (code, text) = match fault {
            ServerFault::TransactionBlock => (SqlState::FEATURE_NOT_SUPPORTED, fault.to_string()),
            _ => {
                let pool = &self.pools.get(&server.pool).expect("a pool").info;
                tracing::error!(%fault, database = pool.database.as_str(), user = pool.user.as_str(), "server closed");
                (SqlState::PROTOCOL_VIOLATION, fault.to_string())
            }
        };
        let (id, client) = (server.pool, server.client);
        self.close_server(server_key, &text);
        if let Some(key) = client {
            self.refuse_client(key, code, &text, "");
        }
        self.step_pool(id);
    }

    /// Gives the server back if its client has no more use for it now.
    pub(super) fn release_if_free(&mut self, server_key: ServerKey) {
        let Some(server) = self.servers.get(server_key) else {
            return;
        };
        let mode = self
            .pools
            .get(&server.pool)
            .expect("a server has a pool")
            .settings
            .pool
            .pool_mode;
        match server.client {
            Some(key) => {
                let client = &self.clients[key];
                let leaving = !client.is_session();
                if !server.session.released(&client.session) {
                    return;
                }
                if mode != PoolMode::Session || leaving {
                    self.release(server_key);
                } else if server.close_when_free && self.live.config.global.server_fast_close {
                    self.close_fast(server_key, key);
                }
            }
            // Its client left while a cancel was on its way.
            None if server.orphaned
                && server.session.is_clean()
                && server.session.cancel_guarded() =>
            {
                self.release(server_key);
            }
            None => {}
        }
    }

    /// Ends a session whose server must go: another server would not have what
    /// the session has set.
    fn close_fast(&mut self, server_key: ServerKey, key: ClientKey) {
        self.close_server(
            server_key,
            "it was to be closed, and server_fast_close is on",
        );
        self.refuse_client(
            key,
            SqlState::ADMIN_SHUTDOWN,
            "the session's connection to PostgreSQL is being replaced",
            "Reconnect: nothing was under way.",
        );
    }

    /// Takes the server from its client and makes it fit for the next.
    fn release(&mut self, server_key: ServerKey) {
        let now = self.now;
        let server = &mut self.servers[server_key];
        let client_key = server.client.take();
        server.orphaned = false;
        server.used_at = now;
        server.session.end_checkout();
        let local = self.pools.get(&server.pool).expect("a server has a pool");
        let settings = local.settings.clone();
        if let Some(key) = client_key {
            self.clients[key].server = None;
        }
        let reset = settings.reset_always || settings.pool.pool_mode == PoolMode::Session;
        if !self.close_if_aged(server_key) {
            if reset && !settings.reset_query.is_empty() {
                self.set_up(server_key, Setup::Reset, &settings.reset_query);
            } else {
                self.server_free(server_key);
            }
        }
        if let Some(key) = client_key {
            // A drain closes sessions at their boundary, which is here.
            if !self.end_if_draining(key) {
                self.resume_client(key);
            }
        }
    }

    /// The server has nothing to do: the pool says for whom it is next.
    pub(super) fn server_free(&mut self, server_key: ServerKey) {
        let now = self.now;
        let server = &mut self.servers[server_key];
        let id = server.pool;
        if server.close_when_free {
            self.close_server(server_key, "it was to be closed when free");
            return self.step_pool(id);
        }
        let next = self.pool(id).pool.returned(server_key, now);
        self.returned(server_key, next);
    }

    pub(super) fn returned(&mut self, server_key: ServerKey, next: Returned) {
        match next {
            Returned::Kept => {}
            Returned::Serve(client) => self.serve(client, server_key),
            Returned::Move(thread) => self.move_server(server_key, thread),
            Returned::Close => self.close_server(server_key, "the pool is paused or full"),
        }
    }

    /// A waiter's turn has come.
    pub(super) fn serve(&mut self, key: ClientKey, server_key: ServerKey) {
        self.clients[key].waiting = false;
        if matches!(self.clients[key].phase, Phase::AwaitingWelcome(_)) {
            // It wanted to know what the server is, no more.
            self.welcome_waiting(key);
            return self.server_free(server_key);
        }
        if self.link(key, server_key) == Linked::Now {
            self.resume_client(key);
        }
    }

    /// A client leaves: what becomes of its server, or of its place in the queue.
    pub(super) fn unlink_leaving_client(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        if std::mem::take(&mut client.waiting) {
            let id = client.pool;
            self.pool(id).pool.forget(key);
        }
        let Some(server_key) = self.clients[key].server.take() else {
            return;
        };
        let mid_message = self.clients[key].session.mid_message();
        let server = &mut self.servers[server_key];
        if server.is_in_setup() {
            // It is given back when the query of ours is answered.
            server.client = None;
            return;
        }
        if !server.session.is_clean() || mid_message {
            let id = server.pool;
            self.close_server(server_key, "its client left in the middle of a transaction");
            return self.step_pool(id);
        }
        server.client = None;
        server.orphaned = true;
        self.release_if_free(server_key);
    }

    /// Cancels the request that a client waits with, as PostgreSQL would have
    /// had it begun.
    pub(super) fn cancel_waiting(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        if !client.is_session() {
            return;
        }
        let kept = client.io.take_kept();
        let (dropped, is_ready) = client.session.cancel_request(&kept);
        client.io.keep(&kept[dropped..], 0);
        client.waiting = false;
        let id = client.pool;
        self.pool(id).pool.forget(key);
        let text = "canceling statement due to user request";
        let mut bytes = error_response(Severity::Error, SqlState::QUERY_CANCELED, text, "");
        if is_ready {
            bytes.extend(wire::ready_for_query(b'I'));
        }
        if self.tell_client(key, &bytes) {
            self.resume_client(key);
        }
    }

    /// Moves an idle server to the loop of a waiter.
    fn move_server(&mut self, server_key: ServerKey, thread: usize) {
        if let Some(moved) = self.take_server(server_key) {
            self.shared.tell(thread, Mail::Server(Box::new(moved)));
        }
    }

    /// Another loop would like an idle server.
    pub(super) fn asked_for_server(&mut self, id: usize, from: usize) {
        let Some(local) = self.pools.get_mut(&id) else {
            return;
        };
        if let Some(server_key) = local.pool.asked() {
            self.move_server(server_key, from);
        }
    }
}

/// Whether a client may be closed without cutting anything.
pub(super) fn is_at_boundary(client: &Client, servers: &slab::Slab<Server>) -> bool {
    match client.server {
        None => client.is_session() && !client.waiting && !client.io.has_kept(),
        Some(server) => {
            let server = &servers[server];
            server.setup.is_none() && server.session.released(&client.session)
        }
    }
}
