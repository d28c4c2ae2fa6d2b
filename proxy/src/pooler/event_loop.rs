//! One event loop: its sockets, its turn, its mail.
//!
//! A descriptor is registered once, edge-triggered. An event marks its socket;
//! the socket then has a turn, in which it is read once. What may still have
//! something to read after its turn (the read filled the buffer), or was not
//! read because its other side takes nothing, has further turns from the loop's
//! own list: no new edge will come for it.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, UnixListener},
};
use proxy_core::{
    pool::{ClientKey, LOOK_AGAIN, Moment, Pool, ServerKey, Step, Thread},
    session::{Output, Rules},
};
use rustc_hash::FxHashMap;
use slab::Slab;

use super::{
    cancel::CancelRequest,
    client::Client,
    counters::{LoopCounters, PoolCounters},
    io::{Address, Scratch, Stream},
    janitor::Drain,
    pools::{PoolInfo, Settings},
    server::Server,
    shared::{Live, Mail, Shared},
};

const WAKER: Token = Token(usize::MAX);
/// Kinds of sockets, in the low bits of their tokens.
const KIND_BITS: u32 = 2;
const KIND_LISTENER: usize = 0;
const KIND_CLIENT: usize = 1;
const KIND_SERVER: usize = 2;
const KIND_CANCEL: usize = 3;

const EVENTS_MAX: usize = 1_024;
/// Connections accepted in one turn: a flood of them must not starve the others.
const ACCEPTS_MAX: usize = 64;
/// A loop turns at least so often, to look at deadlines.
const TICK: Duration = Duration::from_millis(100);
/// Pause after accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn register(&mut self, registry: &mio::Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            Self::Unix(listener) => registry.register(listener, token, Interest::READABLE),
        }
    }

    fn accept(&self) -> io::Result<(Stream, Address)> {
        match self {
            Self::Tcp(listener) => listener
                .accept()
                .map(|(stream, address)| (Stream::Tcp(stream), Address::Tcp(address))),
            Self::Unix(listener) => listener
                .accept()
                .map(|(stream, _)| (Stream::Unix(stream), Address::Unix)),
        }
    }
}

/// One loop's part of a pool.
#[derive(Debug)]
pub(super) struct LocalPool {
    pub(super) info: Arc<PoolInfo>,
    pub(super) settings: Arc<Settings>,
    pub(super) pool: Pool,
    pub(super) counters: PoolCounters,
    /// When a server was last closed because of its age.
    pub(super) aged_at: Moment,
}

/// Buffers lent to whoever has its turn.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) scratch: Scratch,
    pub(super) outputs: Outputs,
}

/// What a turn has to send.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    pub(super) to_server: Output,
    pub(super) to_client: Output,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Client(ClientKey),
    Server(ServerKey),
}

/// The loop.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) thread: Thread,
    pub(super) shared: Arc<Shared>,
    pub(super) live: Arc<Live>,
    pub(super) poll: Poll,
    mail: mpsc::Receiver<Mail>,
    pub(super) listeners: Vec<Listener>,
    /// After accept failed: try again then.
    accept_at: Option<Moment>,
    pub(super) clients: Slab<Client>,
    pub(super) servers: Slab<Server>,
    pub(super) cancels: Slab<CancelRequest>,
    /// This loop's parts of pools, by the pools' ids.
    pub(super) pools: FxHashMap<usize, LocalPool>,
    /// When to ask which pool again for its next step.
    pub(super) steps: FxHashMap<usize, Moment>,
    turns: VecDeque<Turn>,
    #[allow(
        clippy::vec_box,
        reason = "they are lent as boxes, which are cheap to move"
    )]
    pub(super) spare_buffers: Vec<Box<Buffers>>,
    pub(super) counters: LoopCounters,
    /// Reading of the clock at the beginning of this turn.
    pub(super) now: Moment,
    janitor_at: Moment,
    pub(super) drain: Option<Drain>,
    /// Balancers that drain, by bootId.
    pub(super) leaving: Vec<(u64, Drain)>,
    pub(super) stopped: bool,
}

/// What a loop is made of before it runs.
pub(super) struct Parts {
    pub(super) poll: Poll,
    pub(super) mail: mpsc::Receiver<Mail>,
    pub(super) listeners: Vec<Listener>,
}

/// A new poll and the waker that interrupts it.
pub(super) fn poll_and_waker() -> io::Result<(Poll, mio::Waker)> {
    let poll = Poll::new()?;
    let waker = mio::Waker::new(poll.registry(), WAKER)?;
    Ok((poll, waker))
}

impl EventLoop {
    pub(super) fn new(thread: Thread, shared: Arc<Shared>, parts: Parts) -> io::Result<Self> {
        let mut listeners = parts.listeners;
        for (index, listener) in listeners.iter_mut().enumerate() {
            let token = Token(index << KIND_BITS | KIND_LISTENER);
            listener.register(parts.poll.registry(), token)?;
        }
        Ok(Self {
            thread,
            live: shared.live(),
            now: shared.now(),
            janitor_at: shared.now(),
            shared,
            poll: parts.poll,
            mail: parts.mail,
            listeners,
            accept_at: None,
            clients: Slab::new(),
            servers: Slab::new(),
            cancels: Slab::new(),
            pools: FxHashMap::default(),
            steps: FxHashMap::default(),
            turns: VecDeque::new(),
            spare_buffers: Vec::new(),
            counters: LoopCounters::default(),
            drain: None,
            leaving: Vec::new(),
            stopped: false,
        })
    }

    /// Turns until told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.stopped {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.now = self.shared.now();
            self.shared.mailboxes[self.thread]
                .heart
                .beat(Instant::now());
            let mut mail = false;
            for event in &events {
                if event.token() == WAKER {
                    mail = true;
                } else {
                    self.event(event);
                }
            }
            if mail {
                self.read_mail();
            }
            self.take_turns();
            self.step_due_pools();
            if self.now >= self.janitor_at {
                self.janitor_at = self.now + TICK;
                self.janitor();
            }
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        if !self.turns.is_empty() {
            return Duration::ZERO;
        }
        let steps = self.steps.values().copied();
        let next = steps
            .chain(self.accept_at)
            .chain([self.janitor_at])
            .min()
            .expect("the janitor has a time");
        next.since(self.shared.now())
    }

    fn event(&mut self, event: &mio::event::Event) {
        let Token(token) = event.token();
        let key = token >> KIND_BITS;
        match token & ((1 << KIND_BITS) - 1) {
            KIND_LISTENER => self.accept(key),
            KIND_CLIENT => {
                let Some(client) = self.clients.get_mut(key) else {
                    return;
                };
                client.io.readable |= event.is_readable();
                client.io.hung_up |= event.is_read_closed() || event.is_error();
                if event.is_writable() && client.io.is_choked() {
                    self.client_writable(key);
                }
                self.client_turn(key);
            }
            KIND_SERVER => {
                let Some(server) = self.servers.get_mut(key) else {
                    return;
                };
                server.io.readable |= event.is_readable();
                server.io.hung_up |= event.is_read_closed() || event.is_error();
                if event.is_writable() || event.is_error() {
                    self.server_writable(key);
                }
                self.server_turn(key);
            }
            _ => {
                debug_assert_eq!(token & KIND_CANCEL, KIND_CANCEL);
                self.cancel_event(key);
            }
        }
    }

    pub(super) fn client_token(key: ClientKey) -> Token {
        Token(key << KIND_BITS | KIND_CLIENT)
    }

    pub(super) fn server_token(key: ServerKey) -> Token {
        Token(key << KIND_BITS | KIND_SERVER)
    }

    pub(super) fn cancel_token(key: usize) -> Token {
        Token(key << KIND_BITS | KIND_CANCEL)
    }

    pub(super) fn borrow_buffers(&mut self) -> Box<Buffers> {
        self.spare_buffers.pop().unwrap_or_else(|| {
            Box::new(Buffers {
                scratch: Scratch::new(),
                outputs: Outputs::default(),
            })
        })
    }

    pub(super) fn return_buffers(&mut self, buffers: Box<Buffers>) {
        self.spare_buffers.push(buffers);
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            match listener.accept() {
                Ok((stream, address)) => self.place(stream, address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    self.accept_at = Some(self.now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        // More may wait, and no new edge will come for them.
        self.accept_at = Some(self.now);
    }

    /// Gives a new connection to the loop that has fewest; in a drain keeps it, for
    /// the others may have ended.
    fn place(&mut self, stream: Stream, address: Address) {
        let counts = self.shared.mailboxes.iter().enumerate();
        let (thread, mailbox) = counts
            .filter(|(thread, _)| self.drain.is_none() || *thread == self.thread)
            .min_by_key(|(_, mailbox)| mailbox.clients.load(Ordering::Relaxed))
            .expect("there is a loop");
        mailbox.clients.fetch_add(1, Ordering::Relaxed);
        self.counters.accepted += 1;
        if thread == self.thread {
            self.accepted(stream, address);
        } else {
            mailbox.send(Mail::Accepted(stream, address));
        }
    }

    /// Closes the listening sockets.
    pub(super) fn stop_listening(&mut self) {
        self.listeners.clear();
        self.accept_at = None;
    }

    /// Gives a client's socket another turn, if there may be something to read
    /// and nothing stands in the way.
    pub(super) fn queue_client(&mut self, key: ClientKey) {
        if self.client_may_read(key)
            && let Some(client) = self.clients.get_mut(key)
            && !client.queued
        {
            client.queued = true;
            self.turns.push_back(Turn::Client(key));
        }
    }

    /// Gives a server's socket another turn.
    pub(super) fn queue_server(&mut self, key: ServerKey) {
        if self.server_may_read(key)
            && let Some(server) = self.servers.get_mut(key)
            && !server.queued
        {
            server.queued = true;
            self.turns.push_back(Turn::Server(key));
        }
    }

    fn take_turns(&mut self) {
        // Those queued from here on wait for the next round: events first.
        for _ in 0..self.turns.len() {
            match self.turns.pop_front() {
                Some(Turn::Client(key)) => {
                    if let Some(client) = self.clients.get_mut(key) {
                        client.queued = false;
                        self.client_turn(key);
                    }
                }
                Some(Turn::Server(key)) => {
                    if let Some(server) = self.servers.get_mut(key) {
                        server.queued = false;
                        self.server_turn(key);
                    }
                }
                None => return,
            }
        }
    }

    fn read_mail(&mut self) {
        self.shared.mailboxes[self.thread].opened();
        while let Ok(mail) = self.mail.try_recv() {
            self.letter(mail);
        }
    }

    fn letter(&mut self, mail: Mail) {
        match mail {
            Mail::Accepted(stream, address) => self.accepted(stream, address),
            Mail::Server(moved) => self.server_arrived(*moved),
            Mail::Ask { pool, from } => self.asked_for_server(pool, from),
            Mail::Evict { pool } => self.evicted(pool),
            Mail::Verifier { client, verifier } => self.verifier_derived(client, &verifier),
            Mail::Keys { server, keys } => self.keys_derived(server, &keys),
            Mail::Resolved { opening, addresses } => self.resolved(opening, addresses),
            Mail::Cancel { client, requester } => self.cancel_client(client, requester),
            Mail::CancelDone { requester } => self.cancel_done(requester),
            Mail::Snapshot { detail, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.snapshot(detail));
            }
            Mail::Console { client, reply } => self.console_printed(client, &reply),
            Mail::Kill { id, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.kill_client(id));
            }
            Mail::PeersFound {
                requester,
                addresses,
                request,
            } => self.send_to_peers(requester, &addresses, &request),
            Mail::Reconfigured => self.reconfigured(),
            Mail::PoolsChanged => self.pools_changed(),
            Mail::Drain { from, spread, end } => self.begin_drain(Drain { from, spread, end }),
            Mail::BalancerDrains {
                balancer,
                from,
                within,
            } => self.balancer_drains(balancer, from, within),
            Mail::Stop => self.stopped = true,
        }
    }

    /// This loop's part of the pool `info`.
    pub(super) fn local_pool(&mut self, info: &Arc<PoolInfo>) -> &mut LocalPool {
        let round_robin = self.live.config.global.server_round_robin;
        let thread = self.thread;
        self.pools.entry(info.id).or_insert_with(|| LocalPool {
            info: info.clone(),
            settings: info.settings(),
            pool: Pool::new(thread, info.shared.clone(), round_robin),
            counters: PoolCounters::default(),
            aged_at: Moment::default(),
        })
    }

    pub(super) fn pool(&mut self, id: usize) -> &mut LocalPool {
        self.pools
            .get_mut(&id)
            .expect("a pool with clients or servers here has a part here")
    }

    pub(super) fn pool_ids(&self) -> Vec<usize> {
        self.pools.keys().copied().collect()
    }

    pub(super) fn rules<'a>(shared: &'a Shared, local: &LocalPool) -> Rules<'a> {
        Rules {
            mode: local.settings.pool.pool_mode,
            registry: &shared.registry,
            interner: &shared.interner,
            scope: local.info.id as u64,
            follow_statements: local.settings.follow_statements(),
        }
    }

    /// Does what the pool needs so that its waiters are served.
    pub(super) fn step_pool(&mut self, id: usize) {
        loop {
            let now = self.now;
            self.steps.remove(&id);
            match self.pool(id).pool.next_step(now) {
                Step::Open => self.open_server(id),
                Step::Ask(thread) => {
                    let from = self.thread;
                    self.shared.tell(thread, Mail::Ask { pool: id, from });
                    // Should it be too late there, ask again soon.
                    self.steps.insert(id, now + LOOK_AGAIN);
                    return;
                }
                Step::Evict => {
                    // One at a time: its place is free when PostgreSQL has
                    // closed it, and then that is told or seen.
                    self.evict_idle(id);
                    self.steps.insert(id, now + LOOK_AGAIN);
                    return;
                }
                Step::Refuse => self.refuse_waiters(id),
                Step::WaitUntil(moment) => {
                    self.steps.insert(id, moment);
                    return;
                }
                Step::Wait => return,
            }
        }
    }

    fn step_due_pools(&mut self) {
        if self.accept_at.is_some_and(|moment| moment <= self.now) {
            self.accept_at = None;
            for index in 0..self.listeners.len() {
                self.accept(index);
            }
        }
        let due = self.steps.iter();
        let due: Vec<usize> = due
            .filter(|(_, moment)| **moment <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.step_pool(id);
        }
    }
}
