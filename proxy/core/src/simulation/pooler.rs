//! What an event loop does with the shipped types: the simulation's counterpart
//! of the pooler's loop, without sockets.

use super::{application::Application, violation::Rule, world::World};
use crate::{
    config::PoolMode,
    parameters::Parameters,
    pool::{ClientKey, Moment, ServerKey, Thread},
    session::{ClientSession, Output, Rules, ServerSession, Unlinked, from_client, from_server},
    simulation::postgres::Backend,
    wire::{self, Severity, SqlState, error_response},
};

/// A peer that has more than this to read is choked: what feeds it waits.
pub(super) const CHOKED: usize = 4_096;

/// A client as the pooler sees it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) application: Application,
    pub(super) thread: Thread,
    pub(super) pool: usize,
    /// `None` before its first server told what the parameters are.
    pub(super) session: ClientSession,
    pub(super) server: Option<ServerKey>,
    pub(super) waiting: bool,
    pub(super) request_at: Moment,
    pub(super) paused: bool,
    /// Read, not dealt with.
    pub(super) kept: Vec<u8>,
    needed: usize,
    /// To be sent.
    pub(super) out: Vec<u8>,
    /// Why it may be told a FATAL error, if it may.
    pub(super) excuse: Option<&'static str>,
    pub(super) gone: bool,
    pub(super) hanging_up: bool,
}

impl Client {
    pub(super) fn new(
        application: Application,
        thread: Thread,
        pool: usize,
        parameters: Parameters,
    ) -> Self {
        Self {
            application,
            thread,
            pool,
            session: ClientSession::new(parameters),
            server: None,
            waiting: false,
            request_at: Moment::default(),
            paused: false,
            kept: Vec::new(),
            needed: 0,
            out: Vec::new(),
            excuse: None,
            gone: false,
            hanging_up: false,
        }
    }
}

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Opening,
    /// On a loop: lent, idle, or being made fit.
    Here,
    /// On its way to another loop.
    Moving,
    /// Told to go; it counts until PostgreSQL has closed its side, too.
    Closing,
    Closed,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) thread: Thread,
    pub(super) pool: usize,
    pub(super) place: Place,
    pub(super) session: ServerSession,
    pub(super) client: Option<ClientKey>,
    pub(super) setup: Option<Setup>,
    /// Its client has left while a cancel was on its way.
    pub(super) orphaned: bool,
    pub(super) backend: Backend,
    /// Its connection is broken; the loop has yet to notice.
    pub(super) lost: bool,
    pub(super) kept: Vec<u8>,
    pub(super) out: Vec<u8>,
}

/// A query of ours under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    Parameters,
    Reset,
}

impl World {
    /// What a client sent, as far as it can be dealt with now.
    pub(super) fn session_input(&mut self, key: ClientKey) {
        loop {
            let client = &mut self.clients[key];
            let waits = client.waiting || client.paused || client.gone;
            if waits || client.kept.is_empty() || client.kept.len() < client.needed {
                return;
            }
            if let Some(server) = client.server {
                let choked = self.servers[server].out.len() > CHOKED;
                if choked || self.servers[server].setup.is_some() || !self.forward(key, server) {
                    return;
                }
                continue;
            }
            match client.session.unlinked(&client.kept) {
                Ok(Unlinked::Handled { consumed, ready }) => {
                    client.kept.drain(..consumed);
                    client
                        .out
                        .extend(wire::ready_for_query(b'I').repeat(ready as usize));
                    if consumed == 0 {
                        return;
                    }
                }
                Ok(Unlinked::Terminated) => return self.client_gone(key),
                Ok(Unlinked::NeedsServer) => self.request_server(key),
                Err(fault) => return self.fail(Rule::Fault, fault.to_string()),
            }
        }
    }

    /// Passes on what a linked client sent. Says whether there may be more to do.
    fn forward(&mut self, key: ClientKey, server_key: ServerKey) -> bool {
        let [mut to_server, mut to_client] = [Output::default(), Output::default()];
        let client = &mut self.clients[key];
        let server = &mut self.servers[server_key];
        let input = std::mem::take(&mut client.kept);
        let rules = Rules {
            mode: self.mode,
            registry: &self.registry,
            interner: &self.interner,
            scope: client.pool as u64,
            follow_statements: self.mode != PoolMode::Session,
        };
        let done = from_client(
            rules,
            &mut client.session,
            &mut server.session,
            &input,
            &mut to_server,
            &mut to_client,
        );
        let done = match done {
            Ok(done) => done,
            Err(fault) => {
                self.fail(Rule::Fault, fault.to_string());
                return false;
            }
        };
        server.out.extend(to_server.concat(&input));
        client.out.extend(to_client.concat(&input));
        client.kept = input[done.consumed..].to_vec();
        client.needed = done.needed;
        client.paused = done.paused;
        if done.terminated {
            self.client_gone(key);
            return false;
        }
        if !to_client.is_empty() {
            self.release_if_free(server_key);
        }
        done.consumed > 0 && !done.paused && done.needed == 0
    }

    /// What a server sent.
    pub(super) fn server_input(&mut self, server_key: ServerKey) {
        let server = &mut self.servers[server_key];
        // What is said meanwhile is for nobody.
        let lent_to = server.client.filter(|_| server.setup.is_none());
        let mut client = lent_to.map(|key| &mut self.clients[key]);
        let input = std::mem::take(&mut server.kept);
        let mut to_client = Output::default();
        let rules = Rules {
            mode: self.mode,
            registry: &self.registry,
            interner: &self.interner,
            scope: server.pool as u64,
            follow_statements: self.mode != PoolMode::Session,
        };
        let session = client.as_deref_mut().map(|client| &mut client.session);
        let done = from_server(rules, session, &mut server.session, &input, &mut to_client);
        let done = match done {
            Ok(done) => done,
            Err(fault) => {
                let text = format!("server {server_key}: {fault}: {:?}", server.session);
                return self.fail(Rule::Fault, text);
            }
        };
        server.kept = input[done.consumed..].to_vec();
        if server.session.is_ending() {
            if let Some(client) = client {
                client.out.extend(to_client.concat(&input));
            }
            return self.server_lost(server_key);
        }
        if server.setup.is_some() {
            if let Some(result) = server.session.ours_result() {
                self.set_up_done(server_key, result.is_ok());
            }
            return;
        }
        if let Some(client) = client {
            client.out.extend(to_client.concat(&input));
            client.paused = false;
        }
        if let Some(key) = self.servers[server_key].client {
            self.session_input(key);
        }
        self.release_if_free(server_key);
    }

    /// Gives the server back if its client has no more use for it now.
    pub(super) fn release_if_free(&mut self, server_key: ServerKey) {
        let server = &self.servers[server_key];
        if server.place != Place::Here || server.setup.is_some() {
            return;
        }
        match server.client {
            Some(key) => {
                let client = &self.clients[key];
                let at_boundary = self.mode != PoolMode::Session || client.gone;
                if at_boundary && server.session.released(&client.session) {
                    self.release(server_key);
                }
            }
            None => {
                let guarded = server.session.cancel_guarded();
                if server.orphaned && server.session.is_clean() && guarded {
                    self.release(server_key);
                }
            }
        }
    }

    fn release(&mut self, server_key: ServerKey) {
        let server = &mut self.servers[server_key];
        let client = server.client.take();
        server.orphaned = false;
        server.session.end_checkout();
        if let Some(key) = client {
            self.clients[key].server = None;
        }
        self.note(|| format!("server {server_key} released by client {client:?}"));
        if self.mode == PoolMode::Session {
            self.set_up(server_key, Setup::Reset, "DISCARD ALL");
        } else {
            self.server_free(server_key);
        }
        if let Some(key) = client {
            self.session_input(key);
        }
    }

    /// Ends a client's session with an error of ours.
    pub(super) fn refuse_client(&mut self, key: ClientKey, code: SqlState, why: &'static str) {
        self.note(|| format!("client {key} refused: {why}"));
        let client = &mut self.clients[key];
        client.excuse = Some(why);
        client.waiting = false;
        client
            .out
            .extend(error_response(Severity::Fatal, code, why, ""));
        self.client_gone(key);
    }

    /// A client leaves: what becomes of its server, or of its place in the queue.
    pub(super) fn client_gone(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        if std::mem::replace(&mut client.gone, true) {
            return;
        }
        let (thread, id) = (client.thread, client.pool);
        let mid_message = client.session.mid_message();
        if std::mem::take(&mut client.waiting) {
            self.parts[thread][id].forget(key);
        }
        let Some(server_key) = client.server else {
            return;
        };
        self.note(|| format!("client {key} leaves server {server_key}"));
        let server = &mut self.servers[server_key];
        if server.setup.is_some() {
            // It is given back when the query of ours is answered.
            server.client = None;
            self.clients[key].server = None;
        } else if !server.session.is_clean() || mid_message {
            self.close_server(server_key);
            self.step_pool(thread, id);
        } else {
            self.clients[key].server = None;
            server.client = None;
            server.orphaned = true;
            self.release_if_free(server_key);
        }
    }
}
