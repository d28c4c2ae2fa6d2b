//! What an event loop does with the pools: requests, letters, opening, closing.

use std::time::Duration;

use super::{
    pooler::{Place, Server, Setup},
    postgres::Backend,
    violation::Rule,
    world::{Event, Letter, World},
};
use crate::{
    pool::{ClientKey, LOOK_AGAIN, OpenFailure, Request, Returned, ServerKey, Step, Thread},
    session::ServerSession,
    wire::SqlState,
};

impl World {
    pub(super) fn request_server(&mut self, key: ClientKey) {
        let now = self.now;
        let client = &mut self.clients[key];
        client.request_at = now;
        let (thread, id) = (client.thread, client.pool);
        match self.parts[thread][id].request(key, now) {
            Request::Granted(server) => self.link(key, server),
            Request::Queued => {
                self.clients[key].waiting = true;
                self.step_pool(thread, id);
            }
        }
    }

    /// Lends the server to the client.
    fn link(&mut self, key: ClientKey, server_key: ServerKey) {
        let server = &mut self.servers[server_key];
        let client = &mut self.clients[key];
        if server.client.is_some()
            || server.place != Place::Here
            || server.thread != client.thread
            || server.pool != client.pool
            || client.gone
        {
            let text = format!("server {server_key} ({:?}) to client {key}", server.place);
            return self.fail(Rule::LentOnce, text);
        }
        client.waiting = false;
        client.server = Some(server_key);
        if server.lost {
            client.excuse = Some("its server was lost before");
        }
        server.client = Some(key);
        let sql = self
            .interner
            .set_statements(client.session.parameters(), server.session.parameters());
        self.note(|| format!("server {server_key} lent to client {key}, {sql:?}"));
        if let Some(sql) = sql {
            self.set_up(server_key, Setup::Parameters, &sql);
        }
    }

    pub(super) fn set_up(&mut self, server_key: ServerKey, setup: Setup, sql: &str) {
        let server = &mut self.servers[server_key];
        let bytes = server.session.ours(sql);
        server.setup = Some(setup);
        server.out.extend(bytes);
    }

    pub(super) fn set_up_done(&mut self, server_key: ServerKey, succeeded: bool) {
        let server = &mut self.servers[server_key];
        let setup = server.setup.take().expect("a query of ours is under way");
        match (setup, server.client) {
            (_, Some(key)) if succeeded => {
                let session = &mut self.clients[key].session;
                session.adopt_parameters(&self.interner, &server.session);
                self.session_input(key);
            }
            (_, None) if succeeded => self.server_free(server_key),
            (_, client) => {
                self.close_server(server_key);
                if let Some(key) = client {
                    self.refuse_client(key, SqlState::INVALID_PARAMETER_VALUE, "parameters");
                }
            }
        }
    }

    /// The server has nothing to do: the pool says for whom it is next.
    pub(super) fn server_free(&mut self, server_key: ServerKey) {
        self.check_given_back(server_key);
        let server = &self.servers[server_key];
        let (thread, id) = (server.thread, server.pool);
        let next = self.parts[thread][id].returned(server_key, self.now);
        self.returned(server_key, next);
    }

    pub(super) fn returned(&mut self, server_key: ServerKey, next: Returned) {
        self.note(|| format!("server {server_key}: {next:?}"));
        match next {
            Returned::Kept => {}
            Returned::Serve(key) => self.serve(key, server_key),
            Returned::Move(thread) => self.move_server(server_key, thread),
            Returned::Close => self.close_server(server_key),
        }
    }

    pub(super) fn serve(&mut self, key: ClientKey, server_key: ServerKey) {
        self.link(key, server_key);
        self.session_input(key);
    }

    pub(super) fn move_server(&mut self, server_key: ServerKey, thread: Thread) {
        self.servers[server_key].place = Place::Moving;
        self.tell(thread, Letter::Server(server_key));
    }

    /// A letter from another loop.
    pub(super) fn letter(&mut self, thread: Thread, letter: Letter) {
        match letter {
            Letter::Server(key) => {
                let server = &mut self.servers[key];
                server.place = Place::Here;
                server.thread = thread;
                let id = server.pool;
                let next = self.parts[thread][id].returned(key, self.now);
                self.returned(key, next);
                self.step_pool(thread, id);
                self.wake_server(key);
            }
            Letter::Ask { pool, from } => {
                if let Some(key) = self.parts[thread][pool].asked() {
                    self.move_server(key, from);
                }
            }
            Letter::Evict { pool } => {
                let victim = self.parts[thread][pool].idle().next();
                if let Some((key, _)) = victim {
                    self.close_server(key);
                }
            }
            Letter::PoolsChanged => {
                for id in 0..self.parts[thread].len() {
                    while let Some((server, client)) = self.parts[thread][id].resume() {
                        self.serve(client, server);
                    }
                    self.step_pool(thread, id);
                }
            }
            Letter::Cancel { client } => self.cancel_client(client),
        }
    }

    /// Does what the pool needs so that its waiters here are served.
    pub(super) fn step_pool(&mut self, thread: Thread, id: usize) {
        loop {
            let now = self.now;
            let step = self.parts[thread][id].next_step(now);
            match step {
                Step::Open => self.open_server(thread, id),
                Step::Ask(other) => {
                    self.tell(
                        other,
                        Letter::Ask {
                            pool: id,
                            from: thread,
                        },
                    );
                    return self.step_later(thread, id, now + LOOK_AGAIN);
                }
                Step::Evict => {
                    self.evict_idle(thread, id);
                    return self.step_later(thread, id, now + LOOK_AGAIN);
                }
                Step::Refuse => {
                    while let Some(client) = self.parts[thread][id].expired(None, now) {
                        self.refuse_client(client, SqlState::INVALID_PASSWORD, "login rejected");
                    }
                }
                Step::WaitUntil(moment) => return self.step_later(thread, id, moment),
                Step::Wait => return,
            }
        }
    }

    /// Closes an idle server of another pool, which here share all budgets.
    fn evict_idle(&mut self, thread: Thread, id: usize) {
        let parts = self.parts[thread].iter().enumerate();
        let victim = parts
            .filter(|(other, _)| *other != id)
            .find_map(|(_, part)| part.idle().next());
        if let Some((key, _)) = victim {
            return self.close_server(key);
        }
        let others = self.pools.iter().enumerate();
        let elsewhere = others
            .filter(|(other, _)| *other != id)
            .find_map(|(other, pool)| Some((pool.loop_with_idle()?, other)));
        if let Some((thread, pool)) = elsewhere {
            self.tell(thread, Letter::Evict { pool });
        }
    }

    fn open_server(&mut self, thread: Thread, id: usize) {
        self.check_opening(thread, id);
        let key = self.servers.len();
        self.note(|| format!("server {key} is being opened on loop {thread} in pool {id}"));
        let backend = Backend::new();
        let mut parameters = self.interner.empty();
        for (name, value) in backend.parameters() {
            let index = self.interner.tracked().index(name.as_bytes());
            let index = index.expect("the model has the tracked ones");
            parameters = self.interner.with(&parameters, index, value);
        }
        self.servers.push(Server {
            thread,
            pool: id,
            place: Place::Opening,
            session: ServerSession::new(parameters, self.capacity),
            client: None,
            setup: None,
            orphaned: false,
            backend,
            lost: false,
            kept: Vec::new(),
            out: Vec::new(),
        });
        let takes = Duration::from_micros(self.random.between(500, 30_000) as u64);
        self.at(takes, Event::Opened(key));
    }

    pub(super) fn opened(&mut self, key: ServerKey, failure: Option<OpenFailure>) {
        let now = self.now;
        let server = &mut self.servers[key];
        let (thread, id) = (server.thread, server.pool);
        if let Some(failure) = failure {
            server.place = Place::Closed;
            self.note(|| format!("server {key}: {failure:?}"));
            self.parts[thread][id].open_failed(failure, now);
        } else {
            server.place = Place::Here;
            self.parts[thread][id].opened();
            let next = self.parts[thread][id].returned(key, now);
            self.returned(key, next);
        }
        self.step_pool(thread, id);
    }

    /// The server's connection is lost.
    pub(super) fn server_lost(&mut self, key: ServerKey) {
        let server = &self.servers[key];
        let (thread, id, client) = (server.thread, server.pool, server.client);
        let in_setup = server.setup.is_some();
        let told = server.session.is_ending() || server.session.mid_message();
        self.close_server(key);
        self.server_closed(key);
        if let Some(client_key) = client {
            if in_setup {
                let client = &mut self.clients[client_key];
                client.waiting = true;
                let since = client.request_at;
                match self.parts[thread][id].requeue(client_key, since) {
                    Request::Granted(other) => self.serve(client_key, other),
                    Request::Queued => {}
                }
            } else if told {
                self.client_gone(client_key);
            } else {
                self.refuse_client(client_key, SqlState::CONNECTION_FAILURE, "server lost");
            }
        }
        self.step_pool(thread, id);
    }

    /// Closes a server that was open.
    pub(super) fn close_server(&mut self, key: ServerKey) {
        self.note(|| format!("server {key} is told to go"));
        let server = &mut self.servers[key];
        server.place = Place::Closing;
        server.setup = None;
        if let Some(client) = server.client.take() {
            self.clients[client].server = None;
        }
        let (thread, id) = (server.thread, server.pool);
        self.parts[thread][id].retire(key);
        self.soon(Event::Closed(key));
    }

    /// PostgreSQL has closed its side of a server that was told to go.
    pub(super) fn server_closed(&mut self, key: ServerKey) {
        let server = &mut self.servers[key];
        if server.place != Place::Closing {
            return;
        }
        server.place = Place::Closed;
        let (thread, id) = (server.thread, server.pool);
        self.parts[thread][id].closed(key);
        self.step_pool(thread, id);
    }

    /// A cancel request for what the client runs has found the client's loop.
    fn cancel_client(&mut self, key: ClientKey) {
        let Some(server_key) = self.clients[key].server else {
            return;
        };
        let server = &mut self.servers[server_key];
        if server.setup.is_some() {
            return;
        }
        server.session.cancel_started();
        self.note(|| format!("client {key} cancels on server {server_key}"));
        let delay = self.random.delay();
        self.at(delay, Event::CancelArrives(server_key, key));
    }

    pub(super) fn cancel_ended(&mut self, server_key: ServerKey) {
        if !self.is_alive(server_key) {
            return;
        }
        self.servers[server_key].session.cancel_ended();
        self.release_if_free(server_key);
    }

    /// What a loop does now and then.
    pub(super) fn janitor(&mut self, thread: Thread) {
        for id in 0..self.parts[thread].len() {
            let longest = Some(self.query_wait);
            while let Some(client) = self.parts[thread][id].expired(longest, self.now) {
                self.refuse_client(client, SqlState::INTERNAL, "query_wait_timeout");
            }
            let idle = self.idle_longest;
            while let Some(server) = self.parts[thread][id].idle_too_long(idle, self.now) {
                self.close_server(server);
                if !self.draining {
                    break;
                }
            }
            // For the minimum; waiters must not depend on it.
            if self.parts[thread][id].waiting_len() == 0 {
                self.step_pool(thread, id);
            }
        }
    }
}
