//! Cancel requests: a connection of its own to where the query runs.
//!
//! While one is on its way to a server, that server is not given to anybody
//! else: PostgreSQL closes the connection after it has sent the signal, and
//! until then the signal might hit the next client's query.

use std::{io, net::SocketAddr, time::Duration};

use proxy_core::{
    pool::{Moment, ServerKey},
    wire::{self, CancelKey, TlsAnswer},
};

use super::{
    client::{Client, Phase},
    event_loop::EventLoop,
    io::{Address, Input, Io, READ_SIZE_UNLINKED, Scratch, Stream},
    peers::Waiting,
    shared::{ClientRef, Mail},
    tls::{Tls, explain},
    unix,
    worker::{Asker, Job},
};
use crate::net;

/// Cancel requests on their way at the same time, on one loop: who asks may
/// leave and ask again.
const CANCELS_MAX: usize = 1_000;

/// How long one may take where `cancel_wait_timeout` says for ever: the server
/// that it is for waits with it.
const CANCEL_MAX: Duration = Duration::from_secs(60);

/// Reads of what the other side sends: a TLS handshake, and then nothing.
const READS_MAX: usize = 64;

/// How far a cancel request is.
#[derive(Debug)]
enum Stage {
    /// Connecting; with a TLS session to be begun then, as the server has one.
    Connecting(Option<Box<Tls>>),
    /// Asked for TLS.
    Asked(Box<Tls>),
    /// Shaking hands.
    Handshake,
    /// Sent: only the end is to come.
    Sent,
}

/// A cancel request on its way.
#[derive(Debug)]
pub(super) struct CancelRequest {
    io: Io,
    bytes: Vec<u8>,
    stage: Stage,
    /// Reads so far.
    reads: usize,
    /// The server it is for; `None` if it goes to a peer, or the server is gone.
    server: Option<ServerKey>,
    requester: ClientRef,
    began_at: Moment,
}

impl CancelRequest {
    /// The server it is for.
    pub(super) fn server(&self) -> Option<ServerKey> {
        self.server
    }
}

impl EventLoop {
    /// Sends a request to the loop of its client, or to the peer it belongs to.
    pub(super) fn route_cancel(&mut self, key: &CancelKey, requester: ClientRef) {
        let Ok(bytes) = <[u8; 8]>::try_from(key.bytes()) else {
            return self.cancel_done(requester);
        };
        let mut known = bytes;
        known[7] |= 0b11;
        if let Some(client) = self.shared.cancel_target(known) {
            return self
                .shared
                .tell(client.thread, Mail::Cancel { client, requester });
        }
        let peer_id = u16::from_le_bytes([bytes[1], bytes[2]]);
        let hops = bytes[7] & 0b11;
        if peer_id == 0 || hops == 0 {
            return self.cancel_done(requester);
        }
        let request = |hops| {
            let mut forwarded = bytes;
            forwarded[7] = (bytes[7] & !0b11) | hops;
            wire::cancel_request(&forwarded)
        };
        let live = self.live.clone();
        if live.own_address.is_some() {
            // Each knows all the others: one hop is enough.
            return self.route_to_found(peer_id, request(0), requester);
        }
        if peer_id == live.peer_id {
            return self.cancel_done(requester);
        }
        let request = request(hops - 1);
        let Some((host, port)) = live
            .config
            .peers
            .get(&peer_id)
            .and_then(|peer| Some((peer.host.as_deref()?, peer.port)))
        else {
            tracing::warn!(peer_id, "cancel request for a peer that is not known");
            return self.cancel_done(requester);
        };
        if let Ok(ip) = host.parse() {
            return self.send_to_peers(requester, &[SocketAddr::new(ip, port)], &request);
        }
        let job = Job::Resolve {
            asker: Asker::Cancel { requester, request },
            host: host.to_owned(),
            port,
            ttl: live.config.global.dns_max_ttl,
            failure_ttl: live.config.global.dns_nxdomain_ttl,
        };
        if !self.shared.work(job) {
            self.cancel_done(requester);
        }
    }

    /// Passes a request on to the peers with its number; if there is none, the
    /// name is looked up once more, for it may be new.
    fn route_to_found(&mut self, peer_id: u16, request: Vec<u8>, requester: ClientRef) {
        let addresses = self.shared.peers.with_id(peer_id);
        if !addresses.is_empty() {
            return self.send_to_peers(requester, &addresses, &request);
        }
        // One of ours that has left, most likely.
        if peer_id == self.live.peer_id {
            return self.cancel_done(requester);
        }
        let waiting = Waiting {
            requester,
            peer_id,
            request,
        };
        if !self.shared.peers.wait(waiting) {
            tracing::warn!(
                peer_id,
                "cancel request dropped: too many are for peers that are not known"
            );
            self.cancel_done(requester);
        }
    }

    /// Sends a request to the peers it may belong to. The requester may go when
    /// all of them have dealt with it.
    pub(super) fn send_to_peers(
        &mut self,
        requester: ClientRef,
        addresses: &[SocketAddr],
        request: &[u8],
    ) {
        if addresses.is_empty() {
            tracing::warn!("cancel request for a peer that is not found");
        }
        let begun = addresses.iter().filter(|&&address| {
            self.begin_cancel(Address::Tcp(address), request.to_vec(), None, requester)
        });
        if begun.count() == 0 {
            self.cancel_done(requester);
        }
    }

    /// Cancels what a client of this loop is doing.
    pub(super) fn cancel_client(&mut self, client: ClientRef, requester: ClientRef) {
        let done = Mail::CancelDone { requester };
        let server_key = match self.client_of(client) {
            Some(Client {
                phase: Phase::Console(console),
                ..
            }) => {
                console.interrupt();
                None
            }
            Some(found) if found.waiting => {
                self.cancel_waiting(client.key);
                None
            }
            Some(found) => found.server,
            None => None,
        };
        let Some(server_key) = server_key else {
            return self.shared.tell(requester.thread, done);
        };
        let server = &mut self.servers[server_key];
        if server.is_in_setup() {
            // Nothing of the client's has reached the server, which goes to
            // somebody else when the query of ours is answered.
            server.client = None;
            self.clients[client.key].server = None;
            self.cancel_waiting(client.key);
            return self.shared.tell(requester.thread, done);
        }
        // Nothing due: the query is over, and the signal could only hit another.
        let busy = server.session.due_len() > 0;
        let (Some(key), true) = (&server.cancel_key, busy) else {
            return self.shared.tell(requester.thread, done);
        };
        let bytes = wire::cancel_request(key.bytes());
        let address = server.address;
        if !self.begin_cancel(address, bytes, Some(server_key), requester) {
            self.shared.tell(requester.thread, done);
        }
    }

    /// Begins to send a request; false if that cannot be.
    fn begin_cancel(
        &mut self,
        address: Address,
        bytes: Vec<u8>,
        server: Option<ServerKey>,
        requester: ClientRef,
    ) -> bool {
        if self.cancels.len() >= CANCELS_MAX {
            tracing::warn!(%address, max = CANCELS_MAX, "cancel request dropped: too many are on their way");
            return false;
        }
        let stream = match address {
            Address::Tcp(address) => connect(address),
            Address::Unix => self.connect_like(server),
        };
        // The key is a secret: it goes as the server's own bytes do.
        let session = server.and_then(|key| self.servers[key].io.tls.as_ref()?.again());
        let stream = stream.and_then(|stream| Ok((stream, session.transpose()?.map(Box::new))));
        let entry = self.cancels.vacant_entry();
        let token = Self::cancel_token(entry.key());
        let registered = stream.and_then(|(mut stream, session)| {
            stream.register(self.poll.registry(), token)?;
            Ok((stream, session))
        });
        match registered {
            Ok((stream, session)) => {
                entry.insert(CancelRequest {
                    io: Io::new(stream),
                    bytes,
                    stage: Stage::Connecting(session),
                    reads: 0,
                    server,
                    requester,
                    began_at: self.now,
                });
                if let Some(server) = server {
                    self.servers[server].session.cancel_started();
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, %address, "cancel request not sent");
                false
            }
        }
    }

    /// Another connection to the Unix socket that the server is behind.
    fn connect_like(&self, server: Option<ServerKey>) -> io::Result<Stream> {
        let pool = server.and_then(|key| self.pools.get(&self.servers[key].pool));
        let settings = &pool.ok_or(io::ErrorKind::NotFound)?.settings;
        unix::connect(&settings.host, settings.port).map(Stream::Unix)
    }

    /// Something happened on a cancel request's connection.
    pub(super) fn cancel_event(&mut self, key: usize) {
        let Some(cancel) = self.cancels.get_mut(key) else {
            return;
        };
        match advance(cancel) {
            Ok(false) => {}
            Ok(true) => self.cancel_ended(key),
            Err(error) => {
                tracing::warn!(error = explain(&error), "cancel request lost");
                self.cancel_ended(key);
            }
        }
    }

    fn cancel_ended(&mut self, key: usize) {
        let mut cancel = self.cancels.remove(key);
        // Best effort: the descriptor is closed right after.
        let _ = cancel.io.stream.deregister(self.poll.registry());
        let requester = cancel.requester;
        // It may have gone to two peers of one number.
        let another = self
            .cancels
            .iter()
            .any(|(_, one)| one.requester == requester);
        if !another {
            self.shared
                .tell(requester.thread, Mail::CancelDone { requester });
        }
        if let Some(server_key) = cancel.server
            && let Some(server) = self.servers.get_mut(server_key)
        {
            server.session.cancel_ended();
            self.release_if_free(server_key);
        }
    }

    /// The server is closed: its cancels are nobody's concern.
    pub(super) fn forget_cancels(&mut self, server: ServerKey) {
        for (_, cancel) in &mut self.cancels {
            if cancel.server == Some(server) {
                cancel.server = None;
            }
        }
    }

    /// The requester may go: its request has been dealt with.
    pub(super) fn cancel_done(&mut self, requester: ClientRef) {
        if requester.thread != self.thread {
            return self
                .shared
                .tell(requester.thread, Mail::CancelDone { requester });
        }
        if self.client_of(requester).is_some() {
            // With a goodbye: libpq 17 takes a TLS session's bare end for a failure.
            self.end_client(requester.key, &[]);
        }
    }

    /// Gives up cancel requests that got no answer for `cancel_wait_timeout`.
    pub(super) fn expire_cancels(&mut self) {
        let longest = match self.live.config.global.cancel_wait_timeout {
            Duration::ZERO => CANCEL_MAX,
            longest => longest,
        };
        let late: Vec<usize> = self
            .cancels
            .iter()
            .filter(|(_, cancel)| self.now.since(cancel.began_at) >= longest)
            .map(|(key, _)| key)
            .collect();
        for key in late {
            // Whether the signal will come yet is unknown, so the server must
            // not serve anybody else.
            if let Some(server) = self.cancels[key].server {
                let reason = format!(
                    "a cancel request to it was not answered within {} s (cancel_wait_timeout)",
                    longest.as_secs_f64()
                );
                self.server_lost(server, &reason);
            }
            self.cancel_ended(key);
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<Stream> {
    net::connect(address).map(Stream::Tcp)
}

/// Goes as far as it can; true when the other side has closed after the request
/// was sent. It has nothing to say, and must not keep the loop busy.
fn advance(cancel: &mut CancelRequest) -> io::Result<bool> {
    if let Stage::Connecting(session) = &mut cancel.stage {
        if !cancel.io.stream.established()? {
            return Ok(false);
        }
        match session.take() {
            Some(session) => {
                cancel.io.send_bytes(&wire::ssl_request())?;
                cancel.stage = Stage::Asked(session);
            }
            None => send(cancel)?,
        }
    }
    if cancel.io.is_choked() {
        cancel.io.flush()?;
    }
    // There is no telling what an event was for.
    cancel.io.readable = true;
    let mut scratch = Scratch::new();
    while cancel.io.readable {
        if cancel.reads == READS_MAX {
            return Err(invalid("the other side talks"));
        }
        cancel.reads += 1;
        let input = cancel.io.read(&mut scratch, READ_SIZE_UNLINKED)?;
        if matches!(input, Input::Closed) {
            return match cancel.stage {
                Stage::Sent => Ok(true),
                _ => Err(invalid("the other side closed before it was sent")),
            };
        }
        take(cancel, scratch.bytes(&input))?;
    }
    Ok(false)
}

/// Deals with what came: part of a handshake may have been all there was.
fn take(cancel: &mut CancelRequest, input: &[u8]) -> io::Result<()> {
    match std::mem::replace(&mut cancel.stage, Stage::Handshake) {
        Stage::Asked(session) if input.is_empty() => cancel.stage = Stage::Asked(session),
        Stage::Asked(session) => match TlsAnswer::read(input) {
            Ok(TlsAnswer::Yes) => cancel.io.start_tls(session)?,
            Ok(_) => return Err(invalid("the other side has no TLS any more")),
            Err(error) => return Err(invalid(&error.to_string())),
        },
        Stage::Handshake if cancel.io.is_encrypted() => send(cancel)?,
        Stage::Handshake => {}
        stage => cancel.stage = stage,
    }
    Ok(())
}

fn send(cancel: &mut CancelRequest) -> io::Result<()> {
    let bytes = std::mem::take(&mut cancel.bytes);
    cancel.stage = Stage::Sent;
    cancel.io.send_bytes(&bytes)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
