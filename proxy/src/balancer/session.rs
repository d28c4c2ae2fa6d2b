//! One client connection, from accept to close.
//!
//! ```text
//! Connecting ──made──> Relaying ──both directions ended, or one side broke──> over
//!   │   ^ │
//!   │   └─┘ failed, another target is up
//!   └── failed, no target left ──> Refusing ──told, or 3 s──> over
//! ```

use std::{sync::Arc, time::Duration};

use mio::net::TcpStream;

use super::{
    flow::{Broken, End, Flow, Pumped},
    refusal::Refusal,
    target::Target,
};
use crate::net;

/// How long a client that is being refused may take to send its first packet.
pub(super) const REFUSAL_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a client may take to close, or to read what is left, after its
/// server closed. PostgreSQL's protocol knows no half-open session: whatever
/// the client still sends has no reader.
pub(super) const CLOSE_TIME_MAX: Duration = Duration::from_secs(30);

/// A client and what it is connected to.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: TcpStream,
    pub(super) phase: Phase,
    /// From client to target.
    pub(super) up: Flow,
    /// From target to client.
    pub(super) down: Flow,
    pub(super) begun_ms: u64,
    /// When something must have happened; 0 for never.
    pub(super) deadline_ms: u64,
    /// Its target counts it when one is chosen.
    pub(super) weighs: bool,
    /// It is on the loop's ready list.
    pub(super) queued: bool,
    /// It only waits to be swept up.
    pub(super) over: bool,
}

/// Where a session is, and what it needs there.
#[derive(Debug)]
pub(super) enum Phase {
    /// A connect to a target is under way.
    Connecting(Box<Connecting>),
    /// Bytes go both ways.
    Relaying {
        /// The target's connection.
        server: TcpStream,
        /// The target.
        target: Arc<Target>,
    },
    /// The client is being told why not.
    Refusing(Box<Refusal>),
}

/// A connect under way.
#[derive(Debug)]
pub(super) struct Connecting {
    /// The target's connection and the target; `None` between two attempts.
    pub(super) attempt: Option<(TcpStream, Arc<Target>)>,
    pub(super) begun_ms: u64,
    /// Targets that failed, by id.
    pub(super) tried: Vec<u32>,
}

/// The sides of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// How relaying went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Relayed {
    /// Nothing to do until the next edge.
    Waiting,
    /// More to do after others had their turn.
    Again,
    /// The server has closed: the client gets [`CLOSE_TIME_MAX`] to do so.
    Closing,
    /// Both directions ended in order.
    Ended,
    /// A side broke. `delivered`: the other got bytes just now.
    Broke { side: Side, delivered: bool },
}

/// What relaying works with.
pub(super) struct Means<'a> {
    pub(super) scratch: &'a mut [u8],
    /// Bytes read from client and server.
    pub(super) from_client: usize,
    pub(super) from_server: usize,
}

impl Session {
    pub(super) fn new(client: TcpStream, phase: Phase, now_ms: u64) -> Self {
        Self {
            client,
            phase,
            up: Flow::default(),
            down: Flow::default(),
            begun_ms: now_ms,
            deadline_ms: 0,
            weighs: false,
            queued: false,
            over: false,
        }
    }

    /// The target it is, or is being, connected to.
    pub(super) fn target(&self) -> Option<&Arc<Target>> {
        match &self.phase {
            Phase::Connecting(connecting) => connecting.attempt.as_ref().map(|(_, target)| target),
            Phase::Relaying { target, .. } => Some(target),
            Phase::Refusing(_) => None,
        }
    }

    /// Whether its target has closed, or broke. Whatever the client still sends
    /// costs the target nothing, or nearly so: see [`CLOSE_TIME_MAX`].
    pub(super) fn left_by_target(&self) -> bool {
        self.down.ending()
    }

    /// Bytes it holds that could not be written yet.
    pub(super) fn unsent(&self) -> usize {
        self.up.unsent() + self.down.unsent()
    }

    /// Moves bytes upwards, downwards or both.
    ///
    /// # Panics
    /// The session is not relaying: a bug of the caller.
    pub(super) fn relay(&mut self, up: bool, down: bool, means: &mut Means<'_>) -> Relayed {
        let Phase::Relaying { server, .. } = &self.phase else {
            unreachable!("only a relaying session relays");
        };
        let (client, server) = (&self.client, server);
        let mut again = false;
        if up {
            let moved = &mut means.from_client;
            match self.up.pump(client, server, means.scratch, moved) {
                Ok(pumped) => again |= pumped == Pumped::Again,
                Err(broken) => return self.broke(Side::Client, &broken, means),
            }
        }
        if down {
            let moved = &mut means.from_server;
            match self.down.pump(server, client, means.scratch, moved) {
                Ok(pumped) => again |= pumped == Pumped::Again,
                Err(broken) => return self.broke(Side::Server, &broken, means),
            }
        }
        match (self.up.done(), self.down.done()) {
            (true, true) => Relayed::Ended,
            _ if again => Relayed::Again,
            (false, true) => Relayed::Closing,
            _ => Relayed::Waiting,
        }
    }

    /// A direction whose bytes come from `from` broke. What the broken side had
    /// sent before still goes to the other: a server's last words, such as a
    /// FATAL error, are often followed by a reset because it no longer reads.
    fn broke(&mut self, from: Side, broken: &Broken, means: &mut Means<'_>) -> Relayed {
        let Phase::Relaying { server, .. } = &self.phase else {
            unreachable!("only a relaying session breaks");
        };
        let client = &self.client;
        let side = match (from, broken.at) {
            (Side::Client, End::From) | (Side::Server, End::To) => Side::Client,
            (Side::Server, End::From) | (Side::Client, End::To) => Side::Server,
        };
        tracing::debug!(?side, error = %broken.error, "session broke");
        let mut delivered = broken.delivered;
        if broken.at == End::To {
            let (last_words, moved) = match side {
                Side::Server => {
                    self.up.stop();
                    self.down.note_readable(true);
                    let moved = &mut means.from_server;
                    (&mut self.down, (server, client, moved))
                }
                Side::Client => {
                    self.down.stop();
                    self.up.note_readable(true);
                    let moved = &mut means.from_client;
                    (&mut self.up, (client, server, moved))
                }
            };
            let (source, sink, moved) = moved;
            let before = *moved;
            match last_words.pump(source, sink, means.scratch, moved) {
                Ok(Pumped::Again) => return Relayed::Again,
                // A slow client gets its time to read them.
                Ok(Pumped::Waiting) if side == Side::Server && last_words.unsent() > 0 => {
                    return Relayed::Closing;
                }
                Ok(_) => delivered = *moved > before,
                Err(last) => delivered = last.delivered,
            }
        }
        Relayed::Broke { side, delivered }
    }

    /// Makes the coming close of `side` a reset.
    pub(super) fn reset(&self, side: Side) {
        match (side, &self.phase) {
            (Side::Client, _) => net::reset_on_close(&self.client),
            (Side::Server, Phase::Relaying { server, .. }) => net::reset_on_close(server),
            (Side::Server, Phase::Connecting(connecting)) => {
                if let Some((server, _)) = &connecting.attempt {
                    net::reset_on_close(server);
                }
            }
            (Side::Server, Phase::Refusing(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        // Debug builds of mio add a word to each socket.
        let words = if cfg!(debug_assertions) { 2 } else { 0 };
        let bytes = size_of::<Session>() - words * size_of::<usize>();
        assert!(bytes <= 88, "{bytes} bytes");
    }
}
