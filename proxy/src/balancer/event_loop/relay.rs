//! Bytes both ways, and how sessions end.

use std::{io, sync::atomic::Ordering::Relaxed, time::Duration};

use super::EventLoop;
use crate::balancer::session::{CLOSE_TIME_MAX, Means, Phase, Relayed, Side};

/// While a loop holds so many bytes that slow receivers do not take, it reads
/// less at a time.
const UNSENT_BYTES_PLENTY: usize = 32 << 20;
const SCRATCH_BYTES_SMALL: usize = 4 * 1024;

impl EventLoop {
    pub(super) fn relay(&mut self, key: usize, up: bool, down: bool) {
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
        if session.left_by_target() {
            self.lighten(key);
        }
        match relayed {
            Relayed::Waiting => {}
            Relayed::Again => self.queue(key),
            Relayed::Closing => {
                if self.sessions[key].deadline_ms == 0 {
                    self.set_deadline(key, CLOSE_TIME_MAX);
                }
            }
            Relayed::Ended => self.finish(key),
            Relayed::Broke { side, delivered } => self.broke(key, side, delivered),
        }
    }

    /// Closes the sessions of targets that answer no more, and has those that
    /// were being connected there tried elsewhere.
    ///
    /// A frozen pooler, or one whose host vanished, closes nothing: without
    /// this its clients would hang until TCP gives up, a quarter of an hour
    /// later. They get a reset, reconnect, and are served by another.
    pub(super) fn cut(&mut self) {
        let targets = &self.targets;
        self.cuts_seen
            .retain(|id, _| targets.iter().any(|target| target.id == *id));
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
    pub(super) fn broke(&mut self, key: usize, side: Side, delivered: bool) {
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
    pub(super) fn finish(&mut self, key: usize) {
        self.set_deadline(key, Duration::MAX);
        self.lighten(key);
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
}
