//! A connection to PostgreSQL: opened, logged in, lent, closed.

mod encryption;
mod login;
mod opening;

pub(super) use opening::Opening;

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use proxy_core::{
    login::server::Login,
    pool::{ClientKey, Moment, Request, ServerKey},
    session::ServerSession,
    wire::{self, CancelKey, SqlState},
};

use super::{
    event_loop::EventLoop,
    io::{Address, Input, Io, READ_SIZE},
    pools::PoolInfo,
    shared::Mail,
    tls::{Tls, explain},
    upstream::{self, Presence},
};

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
    /// Asked whether it speaks TLS; the session is for when it does.
    AskedForTls(Box<Tls>),
    /// Shaking hands (TLS).
    Handshake,
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
    /// Once it is logged in.
    presence: Option<Presence>,
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

    /// Not connected yet.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    /// Told to go, and still counted.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    /// Whether it was told to go and had its time.
    pub(super) fn is_overdue(&self, now: Moment) -> bool {
        matches!(self.phase, Phase::Closing { until } if until <= now)
    }

    /// Whether its client has heard its last words, or half a message.
    pub(super) fn has_told(&self) -> bool {
        self.session.is_ending() || self.session.mid_message()
    }

    /// Connected and logged in.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready) && self.setup != Some(Setup::Connect)
    }
}

/// A server on its way to another loop.
#[derive(Debug)]
pub(super) struct Moved(Server, Arc<PoolInfo>);

impl EventLoop {
    /// The socket takes bytes: a connect has ended, or what was unsent can go.
    pub(super) fn server_writable(&mut self, key: ServerKey) {
        let server = &mut self.servers[key];
        if matches!(server.phase, Phase::Connecting { .. }) {
            match server.io.stream.established() {
                Ok(false) => {}
                Ok(true) => self.connected(key),
                Err(error) => {
                    let reason = format!("cannot connect to {}: {error}", server.address);
                    self.connect_failed(key, &reason, upstream::trouble(&error));
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
            Ok(Input::Closed) => self.server_lost(key, "server closed the connection"),
            Ok(Input::Nothing) => {
                if matches!(server.phase, Phase::Handshake) {
                    self.shaken_hands(key);
                }
            }
            Ok(input) => {
                let bytes = buffers.scratch.bytes(&input);
                match &server.phase {
                    // Nobody's any more.
                    Phase::Closing { .. } => {}
                    Phase::Ready => self.server_input(key, bytes, &mut buffers.outputs),
                    Phase::AskedForTls(_) => self.tls_answer(key, bytes),
                    // PostgreSQL speaks when it is spoken to.
                    Phase::Connecting { .. } | Phase::Handshake => {
                        self.server_lost(key, "it spoke before it was asked");
                    }
                    Phase::Login(_) => self.login_input(key, bytes, &mut buffers.outputs),
                }
            }
            Err(error) if server.is_opening() && error.kind() == io::ErrorKind::InvalidData => {
                self.not_encrypted(key, &explain(&error));
            }
            Err(error) => self.server_lost(key, &format!("connection lost: {error}")),
        }
        self.return_buffers(buffers);
        self.queue_server(key);
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
        let told = server.has_told();
        let (pool, client) = (server.pool, server.client.take());
        if let Some(client) = client.and_then(|key| self.clients.get_mut(key)) {
            client.server = None;
            client.told = told;
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
        let local = self.pools.get(&id).expect("a server has a pool");
        tracing::info!(
            database = local.info.database.as_str(),
            user = local.info.user.as_str(),
            pid = server.process_id,
            reason,
            "server lost"
        );
        let settings = &local.settings;
        let upstreams = &self.shared.upstreams;
        upstreams.doubt(&settings.host, settings.port);
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
        let waiting = self.pool(id).info.clone();
        let shares = |other: usize| {
            let other = self.pools.get(&other);
            other.is_some_and(|local| waiting.shares_limit(&local.info))
        };
        let leaving = self
            .servers
            .iter()
            .any(|(_, server)| server.is_closing() && (server.pool == id || shares(server.pool)));
        if leaving {
            return;
        }
        let idle = self.pools.values().find_map(|local| {
            shares(local.info.id)
                .then(|| local.pool.idle().next())
                .flatten()
        });
        if let Some((key, _)) = idle {
            return self.close_server(key, "another pool needs its place");
        }
        let elsewhere = self.shared.pools.all().into_iter().find_map(|other| {
            let shares = waiting.shares_limit(&other);
            let thread = shares.then(|| other.shared.loop_with_idle())??;
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
