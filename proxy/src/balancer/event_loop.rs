//! One event loop: its sessions, their deadlines, and in loop 0 the listener.
//!
//! Loop 0 accepts for all and hands each connection to the loop with the fewest
//! sessions. The alternative, a listener in every loop, wakes all loops for each
//! connection and lets the quickest take nearly all of them; SO_REUSEPORT would
//! spread by hash, which is uneven for few long connections. Both sockets of a
//! session stay on its loop.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Write},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    event::Event,
    net::{TcpListener, TcpStream},
};
use proxy_core::balance::Balance;
use rustc_hash::FxHashMap;
use rustix::io::Errno;
use slab::Slab;

use super::{
    refusal::{Refusal, Step, Why},
    session::{CLOSE_TIME_MAX, Connecting, Means, Phase, REFUSAL_TIME_MAX, Relayed, Session, Side},
    shared::{self, Arrival, LoopHandle, Place, Shared, Targets},
};
use crate::{
    http::Heartbeat,
    net::{self, Keepalive, Tuning},
};

const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
const EVENTS_MAX: usize = 1024;
/// Longest wait: the heart beats at least so often.
const TURN_TIME_MAX: Duration = Duration::from_secs(1);
const SCRATCH_BYTES: usize = 64 * 1024;
/// While a loop holds so many bytes that slow receivers do not take, it reads
/// less at a time.
const UNSENT_BYTES_PLENTY: usize = 32 << 20;
const SCRATCH_BYTES_SMALL: usize = 4 * 1024;
/// Connections accepted in one turn, so that sessions are not kept waiting.
const ACCEPTS_MAX: usize = 64;
/// Pause after an accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The last target that can be tried gets at least this long: time for a lost
/// SYN to be sent again, and again.
const LAST_CONNECT_TIME_MIN: Duration = Duration::from_secs(5);

/// Options of both sides of a session. No user_timeout: it would also end a
/// client that is slow on purpose.
const TUNING: Tuning = Tuning {
    nodelay: true,
    keepalive: Some(Keepalive {
        idle: Some(Duration::from_secs(60)),
        interval: Some(Duration::from_secs(10)),
        probes: Some(3),
    }),
    user_timeout: None,
};

/// An event loop before it runs.
#[derive(Debug)]
pub(super) struct Prepared {
    poll: Poll,
    heart: Arc<Heartbeat>,
}

/// Makes the descriptors of an event loop.
///
/// # Errors
/// No descriptor is left.
pub(super) fn prepare(now: Instant) -> io::Result<(Prepared, LoopHandle)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let heart = Arc::new(Heartbeat::new(now));
    let handle = LoopHandle {
        waker,
        heart: heart.clone(),
        sessions: 0.into(),
        arrivals: Vec::new().into(),
    };
    Ok((Prepared { poll, heart }, handle))
}

/// An event loop.
#[derive(Debug)]
pub(super) struct EventLoop {
    index: usize,
    shared: Arc<Shared>,
    poll: Poll,
    heart: Arc<Heartbeat>,
    listener: Option<TcpListener>,
    accepting: Accepting,
    sessions: Slab<Session>,
    /// Sessions with something to do that no edge will announce.
    ready: VecDeque<usize>,
    /// (deadline_ms, key) of each session that has a deadline.
    deadlines: BTreeSet<(u64, usize)>,
    /// Sessions that ended in this turn. Their keys stay taken until it is
    /// over: an event of the same batch may still name them.
    over: Vec<usize>,
    targets: Targets,
    /// By target id.
    cuts_seen: FxHashMap<u32, u32>,
    balance: Balance,
    connect_time_max: Duration,
    scratch: Box<[u8]>,
    /// Bytes that all sessions hold unsent.
    unsent: usize,
    now_ms: u64,
}

/// Whether there may be something to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// Not until the first round of checks is over.
    NotYet,
    /// Not until the next edge.
    Waiting,
    /// Maybe.
    Ready,
    /// Not until this time, for want of descriptors.
    PausedUntil(u64),
}

impl EventLoop {
    /// Puts a loop together; `listener` is for loop 0 alone.
    pub(super) fn new(
        prepared: Prepared,
        index: usize,
        shared: Arc<Shared>,
        listener: Option<std::net::TcpListener>,
    ) -> Self {
        if let Some(listener) = &listener
            && let Err(error) = net::tune(listener, &TUNING)
        {
            tracing::warn!(%error, "socket options not set");
        }
        let algorithm = shared.config().algorithm;
        Self {
            index,
            poll: prepared.poll,
            heart: prepared.heart,
            listener: listener.map(TcpListener::from_std),
            accepting: Accepting::NotYet,
            sessions: Slab::new(),
            ready: VecDeque::new(),
            deadlines: BTreeSet::new(),
            over: Vec::new(),
            targets: shared.targets(),
            cuts_seen: FxHashMap::default(),
            balance: Balance::new(algorithm),
            connect_time_max: shared.config().check.timeout,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            unsent: 0,
            now_ms: 0,
            shared,
        }
    }

    /// Turns until the process stops.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            if let Err(error) = self.poll.poll(&mut events, Some(self.patience()))
                && error.kind() != io::ErrorKind::Interrupted
            {
                // It cannot happen with valid descriptors; going on would spin.
                panic!("epoll_wait: {error}");
            }
            let now = Instant::now();
            self.heart.beat(now);
            self.now_ms = self.shared.ms(now);
            for event in &events {
                match event.token() {
                    WAKE => {
                        if !self.obey() {
                            return;
                        }
                    }
                    LISTENER => self.accepting = Accepting::Ready,
                    Token(token) => self.on_event((token - 2) / 2, side(token), event),
                }
            }
            self.accept();
            self.go_on();
            self.expire();
            self.sweep();
        }
    }

    /// How long to wait for events.
    fn patience(&self) -> Duration {
        if !self.ready.is_empty() || self.accepting == Accepting::Ready {
            return Duration::ZERO;
        }
        let pause = match self.accepting {
            Accepting::PausedUntil(until_ms) => Some(until_ms),
            _ => None,
        };
        let deadline = self.deadlines.first().map(|&(deadline_ms, _)| deadline_ms);
        let Some(next_ms) = pause.into_iter().chain(deadline).min() else {
            return TURN_TIME_MAX;
        };
        let now_ms = self.shared.ms(Instant::now());
        // One more, for both clocks are cut to whole milliseconds.
        Duration::from_millis(next_ms.saturating_sub(now_ms) + 1).min(TURN_TIME_MAX)
    }

    /// Compares what is ordered with what was done. False ends the loop.
    fn obey(&mut self) -> bool {
        let config = self.shared.config();
        self.connect_time_max = config.check.timeout;
        self.balance.set_algorithm(config.algorithm);
        self.targets = self.shared.targets();
        self.cut();
        match self.shared.phase() {
            shared::Phase::Checking => {}
            shared::Phase::Serving => self.open(),
            shared::Phase::Draining => self.close(),
            shared::Phase::Stopping => return false,
        }
        let handle = &self.shared.loops[self.index];
        let arrivals = std::mem::take(&mut *handle.arrivals.lock().expect("no holder panics"));
        for arrival in arrivals {
            self.admit(arrival);
        }
        true
    }

    /// Begins to accept.
    fn open(&mut self) {
        if self.accepting == Accepting::NotYet
            && let Some(listener) = &mut self.listener
        {
            self.poll
                .registry()
                .register(listener, LISTENER, Interest::READABLE)
                .expect("a listening socket can be watched");
            self.accepting = Accepting::Waiting;
        }
    }

    /// Closes the port. Connections that the kernel has accepted already are
    /// taken: their clients believe themselves connected.
    fn close(&mut self) {
        if self.accepting != Accepting::NotYet {
            self.accepting = Accepting::Ready;
            while self.accepting == Accepting::Ready {
                self.accept();
            }
        }
        if self.listener.take().is_some() {
            self.shared.port_closed.send_replace(true);
        }
        self.accepting = Accepting::Waiting;
    }

    fn accept(&mut self) {
        match self.accepting {
            Accepting::NotYet | Accepting::Waiting => return,
            Accepting::PausedUntil(until_ms) if self.now_ms < until_ms => return,
            Accepting::PausedUntil(_) | Accepting::Ready => {}
        }
        self.accepting = Accepting::Ready;
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = &self.listener else {
                self.accepting = Accepting::Waiting;
                return;
            };
            match listener.accept() {
                Ok((client, _)) => self.place(client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accepting = Accepting::Waiting;
                    return;
                }
                Err(error) if lacks(&error) => {
                    tracing::warn!(%error, "connections not accepted for a moment");
                    let pause_ms = ACCEPT_PAUSE.as_millis() as u64;
                    self.accepting = Accepting::PausedUntil(self.now_ms + pause_ms);
                    return;
                }
                // That connection is broken already; the next may be well.
                Err(error) => tracing::debug!(%error, "connection not accepted"),
            }
        }
    }

    /// Finds a place and a loop for a connection.
    fn place(&mut self, client: TcpStream) {
        self.shared.frontend.begin_session(self.now_ms);
        let Some(place) = self.shared.enter_connection() else {
            net::reset_on_close(&client);
            return;
        };
        let arrival = Arrival { client, place };
        let loops = &self.shared.loops;
        let (chosen, handle) = loops
            .iter()
            .enumerate()
            .min_by_key(|(_, handle)| handle.sessions.load(Relaxed))
            .expect("this loop is one of them");
        handle.sessions.fetch_add(1, Relaxed);
        if chosen == self.index {
            self.admit(arrival);
        } else {
            let mut arrivals = handle.arrivals.lock().expect("no holder panics");
            arrivals.push(arrival);
            drop(arrivals);
            handle.wake();
        }
    }

    fn admit(&mut self, arrival: Arrival) {
        let Arrival { client, place } = arrival;
        let connecting = Phase::Connecting(Box::new(Connecting {
            attempt: None,
            begun_ms: self.now_ms,
            tried: Vec::new(),
        }));
        let key = self
            .sessions
            .insert(Session::new(client, connecting, self.now_ms));
        let client = &mut self.sessions[key].client;
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(2 + 2 * key);
        if let Err(error) = self.poll.registry().register(client, token, both) {
            tracing::warn!(%error, "client not watched");
            self.finish(key);
            return;
        }
        match place {
            Place::Session => self.connect(key),
            Place::Refusal => {
                let connections_max = self.shared.connections_max.load(Relaxed);
                self.refuse(key, Why::Limit { connections_max });
            }
        }
    }

    /// Starts a connect to the best target not tried yet, or refuses.
    fn connect(&mut self, key: usize) {
        loop {
            let session = &mut self.sessions[key];
            let Phase::Connecting(connecting) = &mut session.phase else {
                unreachable!("only a connecting session connects");
            };
            let targets = &self.targets;
            let load = |index: usize| {
                let target: &super::target::Target = &targets[index];
                let candidate = target.open() && !connecting.tried.contains(&target.id);
                candidate.then(|| target.traffic.connections.now())
            };
            let Some(chosen) = self.balance.pick(targets.len(), load) else {
                let tried = connecting.tried.len();
                let states = self.shared.states();
                self.refuse(key, Why::NoTarget { states, tried });
                return;
            };
            let others = (0..targets.len()).any(|index| index != chosen && load(index).is_some());
            let target = targets[chosen].clone();
            for traffic in [&target.traffic, &self.shared.backend] {
                traffic.picked.fetch_add(1, Relaxed);
                traffic.connections.raise();
            }
            let begun = net::connect(target.address).and_then(|mut server| {
                let token = Token(3 + 2 * key);
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut server, token, both)?;
                Ok(server)
            });
            match begun {
                Ok(server) => {
                    if let Err(error) = net::tune(&server, &TUNING) {
                        tracing::debug!(%error, "socket options not set");
                    }
                    if let Some(failed) = connecting.tried.last() {
                        self.shared.backend.redispatched.fetch_add(1, Relaxed);
                        if let Some(failed) = targets.iter().find(|one| one.id == *failed) {
                            failed.traffic.redispatched.fetch_add(1, Relaxed);
                        }
                    }
                    connecting.attempt = Some((server, target));
                    let patience = match others {
                        true => self.connect_time_max,
                        false => self.connect_time_max.max(LAST_CONNECT_TIME_MIN),
                    };
                    self.set_deadline(key, patience);
                    return;
                }
                Err(error) if lacks(&error) => {
                    tracing::warn!(%error, "client refused, this host lacks something");
                    self.leave_target(&target);
                    self.refuse(key, Why::Exhausted);
                    return;
                }
                Err(error) => {
                    connecting.tried.push(target.id);
                    self.blame(&target, &error);
                }
            }
        }
    }

    /// A connect failed: tries the next target.
    fn connect_failed(&mut self, key: usize, error: &io::Error) {
        let Phase::Connecting(connecting) = &mut self.sessions[key].phase else {
            unreachable!("only a connecting session fails to connect");
        };
        let (server, target) = connecting.attempt.take().expect("it was under way");
        connecting.tried.push(target.id);
        // Closing takes the descriptor out of epoll too.
        drop(server);
        self.sessions[key].down = Default::default();
        self.set_deadline(key, Duration::MAX);
        self.blame(&target, error);
        self.connect(key);
    }

    /// Counts a failed connect and has the target checked at once.
    fn blame(&self, target: &super::target::Target, error: &io::Error) {
        tracing::debug!(target = target.name, %error, "connect failed");
        for traffic in [&target.traffic, &self.shared.backend] {
            traffic.connect_failures.fetch_add(1, Relaxed);
        }
        self.leave_target(target);
        target.check_wanted.notify_one();
    }

    fn leave_target(&self, target: &super::target::Target) {
        target.traffic.connections.lower();
        self.shared.backend.connections.lower();
    }

    /// The connect is made: relays from now on.
    fn connected(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        let Phase::Connecting(connecting) = &mut session.phase else {
            unreachable!("only a connecting session gets connected");
        };
        let connect_ms = self.now_ms - connecting.begun_ms;
        let (server, target) = connecting.attempt.take().expect("its socket had an event");
        for traffic in [&target.traffic, &self.shared.backend] {
            traffic.begin_session(self.now_ms);
            traffic.connect_ms.add(connect_ms);
        }
        session.phase = Phase::Relaying { server, target };
        self.set_deadline(key, Duration::MAX);
        self.relay(key, true, true);
    }

    fn refuse(&mut self, key: usize, why: Why) {
        let counter = match why {
            Why::NoTarget { .. } => &self.shared.refused_no_target,
            Why::Limit { .. } | Why::Exhausted => &self.shared.refused_limit,
        };
        counter.fetch_add(1, Relaxed);
        tracing::debug!(?why, "client refused");
        let session = &mut self.sessions[key];
        session.phase = Phase::Refusing(Box::new(Refusal::new(why)));
        self.set_deadline(key, REFUSAL_TIME_MAX);
        // What it sent while a connect was tried makes no further edge.
        if self.sessions[key].up.readable() {
            self.refuse_on(key);
        }
    }

    /// Reads on from a client that is being refused.
    fn refuse_on(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        let Phase::Refusing(refusal) = &mut session.phase else {
            unreachable!("only a refused client is refused on");
        };
        let over = loop {
            match refusal.step() {
                Step::Decline(byte) => {
                    if session.client.write(&[byte]).is_err() {
                        break true;
                    }
                }
                Step::Answer(bytes) => {
                    // An empty socket takes a few hundred bytes whole; a client
                    // whose socket does not is past listening.
                    let _ = session.client.write(&bytes);
                    break true;
                }
                Step::Close => break true,
                Step::Read => {
                    let room = refusal.room().min(self.scratch.len());
                    match io::Read::read(&mut session.client, &mut self.scratch[..room]) {
                        Ok(0) => break true,
                        Ok(count) => refusal.take(&self.scratch[..count]),
                        Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
                    }
                }
            }
        };
        if over {
            self.finish(key);
        }
    }

    fn on_event(&mut self, key: usize, side: Side, event: &Event) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if session.over {
            return;
        }
        let broken = event.is_error() || event.is_write_closed();
        let ending = broken || event.is_read_closed();
        let readable = event.is_readable() || ending;
        let writable = event.is_writable() || broken;
        let flow = match side {
            Side::Client => &mut session.up,
            Side::Server => &mut session.down,
        };
        if readable {
            flow.note_readable(ending);
        }
        match (&mut session.phase, side) {
            (Phase::Relaying { .. }, Side::Client) => {
                let flush = writable && session.down.unsent() > 0;
                if readable || flush {
                    self.relay(key, readable, flush || broken);
                }
            }
            (Phase::Relaying { .. }, Side::Server) => {
                let flush = writable && session.up.unsent() > 0;
                if readable || flush {
                    self.relay(key, flush || broken, readable);
                }
            }
            (Phase::Refusing(_), Side::Client) => {
                if readable {
                    self.refuse_on(key);
                }
            }
            // An event of a connection that was given up in this turn.
            (Phase::Refusing(_), Side::Server) => {}
            (Phase::Connecting(_), Side::Client) => {
                if broken {
                    self.broke(key, Side::Client, false);
                }
            }
            (Phase::Connecting(connecting), Side::Server) => {
                let Some((server, _)) = &connecting.attempt else {
                    return;
                };
                match net::established(server) {
                    Ok(true) => self.connected(key),
                    Ok(false) => {}
                    Err(error) => self.connect_failed(key, &error),
                }
            }
        }
    }

    fn relay(&mut self, key: usize, up: bool, down: bool) {
        let session = &mut self.sessions[key];
        let before = session.unsent();
        let scratch = match self.unsent < UNSENT_BYTES_PLENTY {
            true => &mut self.scratch[..],
            false => &mut self.scratch[..SCRATCH_BYTES_SMALL],
        };
        let mut means = Means {
            scratch,
            from_client: 0,
            from_server: 0,
        };
        let relayed = session.relay(up, down, &mut means);
        let (from_client, from_server) = (means.from_client, means.from_server);
        self.unsent = self.unsent - before + session.unsent();
        let target = session.target().expect("it relays to one");
        for traffic in [&target.traffic, &self.shared.backend] {
            traffic.bytes(self.index).add(from_client, from_server);
        }
        match relayed {
            Relayed::Waiting => {}
            Relayed::Again => self.queue(key),
            Relayed::Closing => {
                if session.deadline_ms == 0 {
                    self.set_deadline(key, CLOSE_TIME_MAX);
                }
            }
            Relayed::Ended => self.finish(key),
            Relayed::Broke { side, delivered } => self.broke(key, side, delivered),
        }
    }

    fn queue(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        if !session.queued {
            session.queued = true;
            self.ready.push_back(key);
        }
    }

    /// One go for each session that has more to do.
    fn go_on(&mut self) {
        for _ in 0..self.ready.len() {
            let key = self.ready.pop_front().expect("counted");
            // The session queued may be over, and another have its key by now:
            // that one is asked in vain, which does no harm.
            let Some(session) = self.sessions.get_mut(key) else {
                continue;
            };
            session.queued = false;
            if !session.over && matches!(session.phase, Phase::Relaying { .. }) {
                self.relay(key, true, true);
            }
        }
    }

    /// Sets the time by which something must have happened; `Duration::MAX`
    /// for never.
    fn set_deadline(&mut self, key: usize, patience: Duration) {
        let session = &mut self.sessions[key];
        if session.deadline_ms != 0 {
            self.deadlines.remove(&(session.deadline_ms, key));
        }
        session.deadline_ms = match patience {
            Duration::MAX => 0,
            patience => self.now_ms + (patience.as_millis() as u64).max(1),
        };
        if session.deadline_ms != 0 {
            self.deadlines.insert((session.deadline_ms, key));
        }
    }

    /// Ends what has waited too long.
    fn expire(&mut self) {
        while let Some(&(deadline_ms, key)) = self.deadlines.first()
            && deadline_ms <= self.now_ms
        {
            match &self.sessions[key].phase {
                Phase::Connecting(_) => {
                    self.connect_failed(key, &io::ErrorKind::TimedOut.into());
                }
                Phase::Relaying { .. } => self.broke(key, Side::Client, false),
                Phase::Refusing(_) => self.finish(key),
            }
        }
    }

    /// Closes the sessions of targets that answer no more, and has those that
    /// were being connected there tried elsewhere.
    ///
    /// A frozen pooler, or one whose host vanished, closes nothing: without
    /// this its clients would hang until TCP gives up, a quarter of an hour
    /// later. They get a reset, reconnect, and are served by another.
    fn cut(&mut self) {
        let mut cut = Vec::new();
        for target in self.targets.iter() {
            let seen = self.cuts_seen.entry(target.id).or_default();
            if *seen != target.cuts() {
                *seen = target.cuts();
                cut.push(target.id);
            }
        }
        if cut.is_empty() {
            return;
        }
        let keys: Vec<usize> = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.over)
            .filter(|(_, session)| session.target().is_some_and(|one| cut.contains(&one.id)))
            .map(|(key, _)| key)
            .collect();
        tracing::info!(
            sessions = keys.len(),
            "sessions of a target that is down closed"
        );
        for key in keys {
            if let Phase::Connecting(_) = self.sessions[key].phase {
                self.connect_failed(key, &io::ErrorKind::TimedOut.into());
            } else {
                self.sessions[key].reset(Side::Client);
                self.broke(key, Side::Server, true);
            }
        }
    }

    /// A side broke off: the other gets a reset, so that it does not take this
    /// for an orderly end, unless it was sent something that a reset might
    /// overtake.
    fn broke(&mut self, key: usize, side: Side, delivered: bool) {
        let session = &mut self.sessions[key];
        let other = match side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        session.reset(side);
        if !delivered {
            session.reset(other);
        }
        if let Some(target) = session.target() {
            for traffic in [&target.traffic, &self.shared.backend] {
                let counter = match side {
                    Side::Client => &traffic.client_aborts,
                    Side::Server => &traffic.server_aborts,
                };
                counter.fetch_add(1, Relaxed);
            }
        }
        self.finish(key);
    }

    /// A session is over; it is closed at the end of the turn.
    fn finish(&mut self, key: usize) {
        self.set_deadline(key, Duration::MAX);
        let session = &mut self.sessions[key];
        debug_assert!(!session.over, "a session ends once");
        session.over = true;
        self.unsent -= session.unsent();
        self.over.push(key);
        let target = session.target().cloned();
        if let Some(target) = target {
            self.leave_target(&target);
            if let Phase::Relaying { .. } = self.sessions[key].phase {
                let session_ms = self.now_ms - self.sessions[key].begun_ms;
                for traffic in [&target.traffic, &self.shared.backend] {
                    traffic.session_ms.add(session_ms);
                }
            }
        }
    }

    /// Closes what ended in this turn and gives its places back.
    fn sweep(&mut self) {
        for key in self.over.drain(..) {
            drop(self.sessions.remove(key));
            self.shared.loops[self.index].sessions.fetch_sub(1, Relaxed);
            self.shared.leave_connection();
        }
    }
}

/// Sessions have two tokens: an even one for the client, the odd one after it
/// for the server.
fn side(token: usize) -> Side {
    match token.is_multiple_of(2) {
        true => Side::Client,
        false => Side::Server,
    }
}

/// Whether this host, not the peer, is at fault: it lacks something.
fn lacks(error: &io::Error) -> bool {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| lacking.contains(&errno))
}
