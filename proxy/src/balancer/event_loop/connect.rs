//! From a client to a target, or to a clear end.

use std::{
    io::{self, Write},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use mio::{Interest, Token};

use super::{EventLoop, TUNING, lacks};
use crate::{
    balancer::{
        refusal::{Refusal, Step, Why},
        session::{Phase, REFUSAL_TIME_MAX},
        target::Target,
    },
    net,
};

/// The last target that can be tried gets at least this long: time for a lost
/// SYN to be sent again, and again.
const LAST_CONNECT_TIME_MIN: Duration = Duration::from_secs(5);

impl EventLoop {
    /// Starts a connect to the best target not tried yet, or refuses.
    pub(super) fn connect(&mut self, key: usize) {
        loop {
            let session = &mut self.sessions[key];
            let Phase::Connecting(connecting) = &mut session.phase else {
                unreachable!("only a connecting session connects");
            };
            let targets = &self.targets;
            let load = |index: usize| {
                let target: &Target = &targets[index];
                let candidate = target.open() && !connecting.tried.contains(&target.id);
                candidate.then(|| target.load.now())
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
                    target.load.raise();
                    connecting.attempt = Some((server, target));
                    session.weighs = true;
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
    pub(super) fn connect_failed(&mut self, key: usize, error: &io::Error) {
        self.lighten(key);
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
    pub(super) fn blame(&self, target: &Target, error: &io::Error) {
        tracing::debug!(target = target.name, %error, "connect failed");
        for traffic in [&target.traffic, &self.shared.backend] {
            traffic.connect_failures.fetch_add(1, Relaxed);
        }
        self.leave_target(target);
        target.check_wanted.notify_one();
    }

    pub(super) fn leave_target(&self, target: &Target) {
        target.traffic.connections.lower();
        self.shared.backend.connections.lower();
    }

    /// A session no longer counts when a target is chosen.
    pub(super) fn lighten(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        if std::mem::take(&mut session.weighs) {
            let target = session.target().expect("only a target's session weighs");
            target.load.lower();
        }
    }

    /// The connect is made: relays from now on.
    pub(super) fn connected(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        let Phase::Connecting(connecting) = &mut session.phase else {
            unreachable!("only a connecting session gets connected");
        };
        if let (Some(announce), Some((server, _))) = (&self.announce, &connecting.attempt)
            && let Err(error) = announce.announce(&session.client, server)
        {
            return self.connect_failed(key, &error);
        }
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

    pub(super) fn refuse(&mut self, key: usize, why: Why) {
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
    pub(super) fn refuse_on(&mut self, key: usize) {
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
}
