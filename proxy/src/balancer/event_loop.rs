//! One event loop: its sessions, their deadlines, and in loop 0 the listeners.
//!
//! Loop 0 accepts for all and hands each connection to the loop with the fewest
//! sessions. The alternative, a listener in every loop, wakes all loops for each
//! connection and lets the quickest take nearly all of them; SO_REUSEPORT would
//! spread by hash, which is uneven for few long connections. Both sockets of a
//! session stay on its loop.
//!
//! Here is the turn and who is woken by what; `accept` lets clients in,
//! `connect` finds them a target or tells them why not, `relay` moves their
//! bytes and sees to their end.

mod accept;
mod connect;
mod relay;

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker, event::Event, net::TcpListener};
use proxy_core::balance::Balance;
use rustc_hash::FxHashMap;
use rustix::io::Errno;
use slab::Slab;
use web::probes::Heartbeat;

use super::{
    announce::Announce,
    session::{Phase, Session, Side},
    shared::{self, LoopHandle, Shared, Targets},
};
use crate::net::{self, Keepalive, Tuning};

const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
const EVENTS_MAX: usize = 1024;
/// Longest wait: the heart beats at least so often.
const TURN_TIME_MAX: Duration = Duration::from_secs(1);
const SCRATCH_BYTES: usize = 64 * 1024;

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
    listeners: Vec<TcpListener>,
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
    announce: Option<Announce>,
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
    /// Puts a loop together; `listeners` are for loop 0 alone.
    pub(super) fn new(
        prepared: Prepared,
        index: usize,
        shared: Arc<Shared>,
        listeners: Vec<std::net::TcpListener>,
    ) -> Self {
        for listener in &listeners {
            if let Err(error) = net::tune(listener, &TUNING) {
                tracing::warn!(%error, "socket options not set");
            }
        }
        let listeners = listeners.into_iter().map(TcpListener::from_std);
        let algorithm = shared.config().algorithm;
        Self {
            index,
            poll: prepared.poll,
            heart: prepared.heart,
            listeners: listeners.collect(),
            accepting: Accepting::NotYet,
            sessions: Slab::new(),
            ready: VecDeque::new(),
            deadlines: BTreeSet::new(),
            over: Vec::new(),
            targets: shared.targets(),
            cuts_seen: FxHashMap::default(),
            balance: Balance::new(algorithm),
            connect_time_max: shared.config().check.timeout,
            announce: Announce::by(&shared),
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
        self.announce = Announce::by(&self.shared);
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
