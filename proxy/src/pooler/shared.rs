//! What all loops of one pooler share, and the mail they send each other.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mio::Waker;
use proxy_core::{
    auth::scram::{Keys, Verifier},
    config::{PoolerConfig, Secret},
    parameters::{Interner, Tracked},
    peer::peer_id,
    pool::{ClientKey, Moment, ServerKey, Thread},
    statement::Registry,
    wire::{TargetReport, TargetState},
};
use rustls::ServerConfig;
use web::probes::Heartbeat;

use super::{
    console::Reply,
    control::Command,
    io::{Address, Stream},
    peers::Peers,
    pools::Pools,
    saturation::Saturations,
    server::{Moved, Opening},
    snapshot::LoopSnapshot,
    tls::Connector,
    upstream::Upstreams,
    worker::{Desk, Job, Names},
};
use crate::boot;

/// The configuration in force; replaced as a whole by a reload.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) config: PoolerConfig,
    /// For clients.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Where peers reach this pooler, if they find each other by name.
    pub(super) own_address: Option<SocketAddr>,
    /// This pooler's number among its peers, 0 for none. Cancel keys carry it.
    pub(super) peer_id: u16,
}

impl Live {
    pub(super) fn new(
        config: PoolerConfig,
        tls: Option<Arc<ServerConfig>>,
        own_address: Option<SocketAddr>,
    ) -> Self {
        Self {
            peer_id: own_address.map_or(config.global.peer_id, peer_id),
            own_address,
            config,
            tls,
        }
    }
}

/// Names a client among all loops. `id` is never used twice, `key` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientRef {
    pub(super) thread: Thread,
    pub(super) key: ClientKey,
    pub(super) id: u64,
}

/// Names a server among all loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerRef {
    pub(super) thread: Thread,
    pub(super) key: ServerKey,
    pub(super) id: u64,
}

/// What a loop is told by others.
#[derive(Debug)]
pub(super) enum Mail {
    /// A connection that another loop accepted.
    Accepted(Stream, Address),
    /// A server to serve a waiter here.
    Server(Box<Moved>),
    /// Another loop would like an idle server of that pool.
    Ask { pool: usize, from: Thread },
    /// A pool that shares a limit with that one needs a place: close an idle server.
    Evict { pool: usize },
    /// The verifier that a client's login waits for.
    Verifier {
        client: ClientRef,
        verifier: Arc<Verifier>,
    },
    /// The keys that a login to PostgreSQL waits for.
    Keys { server: ServerRef, keys: Keys },
    /// Addresses of a server's host, or why there are none.
    Resolved {
        opening: Opening,
        addresses: Result<Vec<SocketAddr>, String>,
    },
    /// Cancel what this client's server is doing; tell the requester when done.
    Cancel {
        client: ClientRef,
        requester: ClientRef,
    },
    /// The cancel request has been delivered, or there was nothing to cancel.
    CancelDone { requester: ClientRef },
    /// Describe yourself; `detail` asks for every client and server.
    Snapshot {
        detail: bool,
        reply: tokio::sync::oneshot::Sender<LoopSnapshot>,
    },
    /// What a console client's command printed.
    Console { client: ClientRef, reply: Reply },
    /// End the client with this id, if it is here; says whether it is.
    Kill {
        id: u64,
        reply: tokio::sync::oneshot::Sender<bool>,
    },
    /// Addresses of the peers that a cancel request may belong to, none if they
    /// are not known.
    PeersFound {
        requester: ClientRef,
        addresses: Vec<SocketAddr>,
        request: Vec<u8>,
    },
    /// The configuration or some pools' settings have changed.
    Reconfigured,
    /// Pools were paused or resumed; close idle servers of paused ones.
    PoolsChanged,
    /// Stop accepting and close sessions at their boundaries, each from a moment
    /// of its own within `spread` on, all of them at `end`.
    Drain {
        from: Moment,
        spread: Duration,
        end: Moment,
    },
    /// Close the sessions that came through `balancer` at their boundaries, each
    /// from a moment of its own within `within` on.
    BalancerDrains {
        balancer: u64,
        from: Moment,
        within: Duration,
    },
    /// Close everything and return.
    Stop,
}

/// A loop's letter box.
#[derive(Debug)]
pub(super) struct Mailbox {
    sender: Mutex<mpsc::Sender<Mail>>,
    waker: Waker,
    /// Set while a wake-up is under way: one is enough for many letters.
    woken: AtomicBool,
    /// Clients of that loop, so that new ones go where there are fewest.
    pub(super) clients: AtomicU32,
    pub(super) heart: Arc<Heartbeat>,
}

impl Mailbox {
    pub(super) fn new(sender: mpsc::Sender<Mail>, waker: Waker, heart: Arc<Heartbeat>) -> Self {
        Self {
            sender: Mutex::new(sender),
            waker,
            woken: AtomicBool::new(false),
            clients: AtomicU32::new(0),
            heart,
        }
    }

    /// Delivers a letter. The loop may have ended: then nobody misses it.
    pub(super) fn send(&self, mail: Mail) {
        if lock(&self.sender).send(mail).is_ok() && !self.woken.swap(true, Ordering::SeqCst) {
            // It fails only without descriptors to spare, for an eventfd that exists.
            let _ = self.waker.wake();
        }
    }

    /// The loop is about to read its mail.
    pub(super) fn opened(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }
}

/// User, salt and iterations.
type Derivation = (String, Vec<u8>, u32);

/// Secrets and what has been derived from them. Debug shows none.
#[derive(Default)]
pub(super) struct Secrets {
    /// Verifiers of plain passwords, by user; valid while the password is the same.
    verifiers: Mutex<HashMap<String, (String, Arc<Verifier>)>>,
    /// Keys of plain passwords, by user, salt and iterations.
    derived: Mutex<HashMap<Derivation, (String, Keys)>>,
    /// Keys that clients' SCRAM proofs revealed, by user.
    revealed: Mutex<HashMap<String, (Verifier, Keys)>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// Most derived keys kept: one for each user and salt met.
const DERIVED_MAX: usize = 10_000;

impl Secrets {
    pub(super) fn verifier(&self, user: &str, password: &str) -> Option<Arc<Verifier>> {
        let verifiers = lock(&self.verifiers);
        let (known, verifier) = verifiers.get(user)?;
        (known == password).then(|| verifier.clone())
    }

    pub(super) fn add_verifier(&self, user: &str, password: &str, verifier: Arc<Verifier>) {
        let mut verifiers = lock(&self.verifiers);
        if verifiers.len() >= DERIVED_MAX {
            verifiers.clear();
        }
        verifiers.insert(user.to_owned(), (password.to_owned(), verifier));
    }

    /// Keys to log in as `user` where the salt is `salt`, if known already.
    pub(super) fn keys(
        &self,
        user: &str,
        secret: &Secret,
        salt: &[u8],
        iterations: u32,
    ) -> Option<Keys> {
        match secret {
            Secret::Plain(password) => {
                let derived = lock(&self.derived);
                let (known, keys) = derived.get(&(user.to_owned(), salt.to_vec(), iterations))?;
                (known == password).then(|| keys.clone())
            }
            Secret::Scram(verifier) => {
                let revealed = lock(&self.revealed);
                let (known, keys) = revealed.get(user)?;
                (known == verifier && known.salt == salt && known.iterations == iterations)
                    .then(|| keys.clone())
            }
            Secret::Md5(_) => None,
        }
    }

    pub(super) fn add_derived(
        &self,
        user: &str,
        password: &str,
        salt: &[u8],
        iterations: u32,
        keys: Keys,
    ) {
        let mut derived = lock(&self.derived);
        if derived.len() >= DERIVED_MAX {
            derived.clear();
        }
        derived.insert(
            (user.to_owned(), salt.to_vec(), iterations),
            (password.to_owned(), keys),
        );
    }

    pub(super) fn add_revealed(&self, user: &str, verifier: &Verifier, keys: Keys) {
        let mut revealed = lock(&self.revealed);
        let known = revealed
            .get(user)
            .is_some_and(|(known, _)| known == verifier);
        if !known {
            revealed.insert(user.to_owned(), (verifier.clone(), keys));
        }
    }
}

/// More console commands are waiting than are worth keeping.
#[derive(Debug)]
pub(super) struct Overload;

/// Everything shared.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) boot_id: String,
    pub(super) started_at: Timestamp,
    start: Instant,
    live: RwLock<Arc<Live>>,
    pub(super) interner: Interner,
    pub(super) registry: Registry,
    pub(super) pools: Pools,
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) secrets: Secrets,
    /// What is known of PostgreSQL.
    pub(super) upstreams: Upstreams,
    /// Whether clients are served in time.
    pub(super) saturations: Saturations,
    /// Answers of name servers.
    pub(super) names: Names,
    pub(super) peers: Peers,
    /// Makes up verifiers for users who do not exist.
    pub(super) mock_secret: [u8; 32],
    desk: Desk,
    commands: tokio::sync::mpsc::Sender<Command>,
    cancel_keys: Mutex<HashMap<[u8; 8], ClientRef>>,
    ids: AtomicU64,
    /// Clients counted against max_client_conn.
    pub(super) clients: AtomicU32,
    pub(super) listening: AtomicBool,
    /// Address and port clients connect to, for `/status`.
    pub(super) listen: String,
    /// Interval that balancers said they check at, milliseconds; 0 if none did.
    pub(super) check_interval_ms: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        live: Live,
        connector: Arc<Connector>,
        mailboxes: Vec<Mailbox>,
        desk: Desk,
        commands: tokio::sync::mpsc::Sender<Command>,
        listen: String,
    ) -> Self {
        let config = &live.config;
        let tracked = Tracked::new(
            config
                .global
                .track_extra_parameters
                .iter()
                .map(String::as_str),
        );
        let pools = Pools::new(mailboxes.len(), connector);
        pools.begin(config);
        let upstreams = Upstreams::default();
        upstreams.reconfigure(config);
        Self {
            boot_id: boot::id(),
            started_at: Timestamp::now(),
            start: Instant::now(),
            interner: Interner::new(tracked),
            registry: Registry::default(),
            pools,
            live: RwLock::new(Arc::new(live)),
            mailboxes,
            secrets: Secrets::default(),
            upstreams,
            saturations: Saturations::default(),
            names: Names::default(),
            peers: Peers::default(),
            mock_secret: random(),
            desk,
            commands,
            cancel_keys: Mutex::new(HashMap::new()),
            ids: AtomicU64::new(1),
            clients: AtomicU32::new(0),
            listening: AtomicBool::new(false),
            listen,
            check_interval_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Moment {
        let micros = self.start.elapsed().as_micros();
        // Starts at a second, so that "a while before" is never below zero.
        Moment(1_000_000 + u64::try_from(micros).unwrap_or(u64::MAX / 2))
    }

    /// When `moment` was, by the calendar.
    pub(super) fn timestamp(&self, moment: Moment) -> Timestamp {
        let micros = i64::try_from(moment.0).unwrap_or(i64::MAX / 2) - 1_000_000;
        self.started_at
            .checked_add(jiff::SignedDuration::from_micros(micros))
            .unwrap_or(self.started_at)
    }

    pub(super) fn live(&self) -> Arc<Live> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts another configuration in force; loops are told by mail.
    pub(super) fn set_live(&self, newer: Live) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        *live = Arc::new(newer);
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn tell(&self, thread: Thread, mail: Mail) {
        self.mailboxes[thread].send(mail);
    }

    pub(super) fn tell_all(&self, mail: impl Fn() -> Mail) {
        for mailbox in &self.mailboxes {
            mailbox.send(mail());
        }
    }

    /// Hands slow work to the workers; false if they have more than enough.
    pub(super) fn work(&self, job: Job) -> bool {
        self.desk.hand_in(job)
    }

    /// Hands a console command to the control task.
    pub(super) fn command(&self, command: Command) -> Result<(), Overload> {
        self.commands.try_send(command).map_err(|_| Overload)
    }

    /// A new cancel key for `client`, in PgBouncer's layout: bytes 1 and 2 hold
    /// the peer id, the top bit of byte 0 is clear, the low two bits of the last
    /// byte are the hops it may go.
    pub(super) fn new_cancel_key(&self, client: ClientRef, peer_id: u16) -> [u8; 8] {
        let mut keys = lock(&self.cancel_keys);
        loop {
            let mut key: [u8; 8] = random();
            key[0] &= 0x7f;
            key[1..3].copy_from_slice(&peer_id.to_le_bytes());
            key[7] |= 0b11;
            if let std::collections::hash_map::Entry::Vacant(vacant) = keys.entry(key) {
                vacant.insert(client);
                return key;
            }
        }
    }

    pub(super) fn drop_cancel_key(&self, key: [u8; 8]) {
        lock(&self.cancel_keys).remove(&key);
    }

    pub(super) fn cancel_target(&self, key: [u8; 8]) -> Option<ClientRef> {
        lock(&self.cancel_keys).get(&key).copied()
    }

    pub(super) fn state(&self) -> TargetState {
        if self.pools.is_draining() {
            TargetState::Draining
        } else if self.pools.is_paused() {
            TargetState::Paused
        } else {
            TargetState::Ready
        }
    }

    /// What a balancer's check is answered.
    pub(super) fn report(&self) -> TargetReport {
        TargetReport {
            state: self.state(),
            boot_id: self.boot_id.clone(),
            name: boot::host_name(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            config_revision: self.live().config.global.config_revision.clone(),
            clients: self.clients.load(Ordering::Relaxed),
            waiting: self.pools.waiting(),
            upstream: self.upstreams.report(),
            saturation: self.saturations.report(),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fresh random bytes from the system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}
