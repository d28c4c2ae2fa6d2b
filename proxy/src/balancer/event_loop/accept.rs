//! How clients come in: the port, and their places.

use std::{io, mem, sync::atomic::Ordering::Relaxed, time::Duration};

use mio::{Interest, Token, net::TcpStream};

use super::{Accepting, EventLoop, LISTENER, lacks};
use crate::{
    balancer::{
        refusal::Why,
        session::{Connecting, Phase, Session},
        shared::{Arrival, Place},
    },
    net,
};

/// Connections accepted in one turn at one listener, so that sessions are not kept waiting.
const ACCEPTS_MAX: usize = 64;
/// Pause after an accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl EventLoop {
    /// Begins to accept.
    pub(super) fn open(&mut self) {
        if self.accepting != Accepting::NotYet {
            return;
        }
        for listener in &mut self.listeners {
            self.poll
                .registry()
                .register(listener, LISTENER, Interest::READABLE)
                .expect("a listening socket can be watched");
            self.accepting = Accepting::Waiting;
        }
    }

    /// Closes the port. Connections that the kernel has accepted already are
    /// taken: their clients believe themselves connected.
    pub(super) fn close(&mut self) {
        if self.accepting != Accepting::NotYet {
            self.accepting = Accepting::Ready;
            while self.accepting == Accepting::Ready {
                self.accept();
            }
        }
        if !mem::take(&mut self.listeners).is_empty() {
            self.shared.port_closed.send_replace(true);
        }
        self.accepting = Accepting::Waiting;
    }

    pub(super) fn accept(&mut self) {
        match self.accepting {
            Accepting::NotYet | Accepting::Waiting => return,
            Accepting::PausedUntil(until_ms) if self.now_ms < until_ms => return,
            Accepting::PausedUntil(_) | Accepting::Ready => {}
        }
        self.accepting = Accepting::Waiting;
        for index in 0..self.listeners.len() {
            match self.accept_from(index) {
                Accepting::Waiting => {}
                paused @ Accepting::PausedUntil(_) => {
                    self.accepting = paused;
                    return;
                }
                more => self.accepting = more,
            }
        }
    }

    /// Takes what waits at one listener, and says whether there may be more.
    fn accept_from(&mut self, index: usize) -> Accepting {
        for _ in 0..ACCEPTS_MAX {
            match self.listeners[index].accept() {
                Ok((client, _)) => self.place(client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Accepting::Waiting;
                }
                Err(error) if lacks(&error) => {
                    tracing::warn!(%error, "connections not accepted for a moment");
                    let pause_ms = ACCEPT_PAUSE.as_millis() as u64;
                    return Accepting::PausedUntil(self.now_ms + pause_ms);
                }
                // That connection is broken already; the next may be well.
                Err(error) => tracing::debug!(%error, "connection not accepted"),
            }
        }
        Accepting::Ready
    }

    /// Finds a place and a loop for a connection.
    pub(super) fn place(&mut self, client: TcpStream) {
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

    pub(super) fn admit(&mut self, arrival: Arrival) {
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
}
