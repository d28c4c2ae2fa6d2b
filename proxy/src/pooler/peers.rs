//! Peers found by name: who else there is, looked up beside the loops.
//!
//! The last answer that came holds until the next one, however many look-ups
//! fail meanwhile. A cancel request for a peer that is not in it waits for one
//! look-up, and is dropped if the peer is not in that answer either.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use proxy_core::{
    config::{AdvertisedAddress, Global, ListenAddress, PeerName},
    peer::{FoundPeers, PEERS_MAX},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::shared::{ClientRef, Mail, Shared, lock};
use crate::resolve::{LookupError, NameServers, Resolver};

/// Says the own address where `advertise_addr` does not: a file that several
/// poolers read cannot.
const ADVERTISED: &str = "POOLER_ADVERTISE_ADDR";
/// Cancel requests that may wait for a look-up; more are dropped.
const WAITING_MAX: usize = 100;
/// Between two look-ups, however many requests are for nobody who is known:
/// anybody may send them.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest time that an answer is believed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// After a look-up that found nobody, or failed.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The peers of this process, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Peers {
    seen: Mutex<Seen>,
    waiting: Mutex<Vec<Waiting>>,
    /// Somebody waits, or the configuration is another.
    wake: Notify,
}

/// What look-ups have brought so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The last answer.
    pub(super) found: Arc<FoundPeers>,
    /// Look-ups that were answered, with addresses or without.
    pub(super) answered: u64,
    /// Look-ups that failed.
    pub(super) failed: u64,
    /// Whether the newest one failed.
    is_failing: bool,
}

/// A cancel request whose peer is not known.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) requester: ClientRef,
    /// The number in its key.
    pub(super) peer_id: u16,
    /// What to send.
    pub(super) request: Vec<u8>,
}

impl Peers {
    /// Where a key with this number may belong, the own address left out.
    pub(super) fn with_id(&self, id: u16) -> Vec<SocketAddr> {
        lock(&self.seen).found.with_id(id)
    }

    /// What look-ups have brought so far.
    pub(super) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Has the name looked up for a request, whose loop is told what came of it;
    /// false if too many wait already.
    pub(super) fn wait(&self, request: Waiting) -> bool {
        let mut waiting = lock(&self.waiting);
        let room = waiting.len() < WAITING_MAX;
        if room {
            waiting.push(request);
            self.wake.notify_one();
        }
        room
    }

    /// Another configuration is in force.
    pub(super) fn reconfigured(&self) {
        self.wake.notify_one();
    }
}

/// The address that gives this pooler its number, where `global` says that peers
/// find each other.
///
/// # Errors
/// It is not known: the setting that is to be blamed, and why.
pub(super) fn own_address(global: &Global) -> Result<Option<SocketAddr>, (&'static str, String)> {
    match global.peer_discovery {
        Some(_) => {
            let variable = std::env::var(ADVERTISED).ok();
            advertised(global, variable.as_deref()).map(Some)
        }
        None => Ok(None),
    }
}

fn advertised(
    global: &Global,
    variable: Option<&str>,
) -> Result<SocketAddr, (&'static str, String)> {
    let variable = variable.filter(|text| !text.is_empty());
    let own = match (global.advertise_addr, variable, &global.listen_addr[..]) {
        (Some(own), _, _) => own,
        (None, Some(text), _) => AdvertisedAddress::parse(text).map_err(|detail| {
            let detail = detail.map(|detail| format!(" ({detail})"));
            let text = format!(
                "environment variable {ADVERTISED} = {text:?} is invalid{}, expected an IP address, with or without a port",
                detail.unwrap_or_default()
            );
            ("peer_discovery", text)
        })?,
        (None, None, [ListenAddress::One(ip)]) if !ip.is_unspecified() => AdvertisedAddress {
            ip: *ip,
            port: None,
        },
        (None, None, _) => {
            let text = format!(
                "peer_discovery needs this pooler's own address: set advertise_addr, or environment variable {ADVERTISED}"
            );
            return Err(("peer_discovery", text));
        }
    };
    match own.port.unwrap_or(global.listen_port) {
        0 => Err((
            "advertise_addr",
            format!("{} has no port, and listen_port = 0 says none", own.ip),
        )),
        port => Ok(SocketAddr::new(own.ip, port)),
    }
}

/// What is looked up, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    name: PeerName,
    port: u16,
    resolver: Option<SocketAddr>,
    own: SocketAddr,
}

impl Asked {
    fn now(shared: &Shared) -> Option<Self> {
        let live = shared.live();
        let global = &live.config.global;
        let name = global.peer_discovery.clone()?;
        Some(Self {
            port: name.port.unwrap_or(global.listen_port),
            resolver: global.peer_discovery_resolver,
            own: live.own_address?,
            name,
        })
    }
}

/// Follows the name of the configuration in force, for as long as the process
/// lives.
pub(super) async fn follow(shared: Arc<Shared>) {
    let peers = &shared.peers;
    let mut following: Option<Following> = None;
    loop {
        let Some(asked) = Asked::now(&shared) else {
            following = None;
            lock(&peers.seen).found = Arc::default();
            peers.settle(&shared);
            peers.wake.notified().await;
            continue;
        };
        let name = match following.take() {
            Some(name) if name.asked == asked => name,
            _ => {
                // Those of another name are nobody's peers.
                lock(&peers.seen).found = Arc::default();
                Following::new(asked)
            }
        };
        let name = following.insert(name);
        let began = Instant::now();
        let pause = name.look_up(peers).await;
        let due = Instant::now() + pause;
        peers.settle(&shared);
        // Woken early or not, the next one does not come sooner than this.
        sleep_until(began + PAUSE_MIN).await;
        // Not woken is as good.
        let _ = timeout_at(due, peers.wake.notified()).await;
    }
}

impl Peers {
    /// Those who wait get the answer that there is now.
    fn settle(&self, shared: &Shared) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for one in waiting {
            let mail = Mail::PeersFound {
                requester: one.requester,
                addresses: self.with_id(one.peer_id),
                request: one.request,
            };
            shared.tell(one.requester.thread, mail);
        }
    }
}

/// A name, and who is asked for it.
struct Following {
    asked: Asked,
    resolver: Option<Resolver>,
}

impl Following {
    fn new(asked: Asked) -> Self {
        Self {
            asked,
            resolver: None,
        }
    }

    /// Looks the name up, and says how long to wait before the next time.
    async fn look_up(&mut self, peers: &Peers) -> Duration {
        match self.addresses().await {
            Ok((addresses, pause)) => {
                self.found(peers, &addresses);
                pause
            }
            Err(error) => {
                let mut seen = lock(&peers.seen);
                seen.failed += 1;
                // Once, not at each try.
                if !std::mem::replace(&mut seen.is_failing, true) {
                    let name = &self.asked.name.name;
                    tracing::warn!(name, error, "peers not looked up, keeping those known");
                }
                RETRY_PAUSE
            }
        }
    }

    async fn addresses(&mut self) -> Result<(Vec<SocketAddr>, Duration), String> {
        let resolver = match &self.resolver {
            Some(resolver) => resolver,
            None => {
                let servers = self
                    .asked
                    .resolver
                    .map_or(NameServers::System, NameServers::At);
                let made = Resolver::new(&servers).map_err(|error| error.to_string())?;
                self.resolver.insert(made)
            }
        };
        let name = &self.asked.name.name;
        match resolver.look_up(name, self.asked.port).await {
            Ok(found) => Ok((found.addresses, found.ttl.clamp(PAUSE_MIN, PAUSE_MAX))),
            Err(LookupError::NotFound { .. }) => Ok((Vec::new(), RETRY_PAUSE)),
            Err(error @ (LookupError::Malformed { .. } | LookupError::Failed { .. })) => {
                Err(error.to_string())
            }
        }
    }

    fn found(&self, peers: &Peers, addresses: &[SocketAddr]) {
        let name = &self.asked.name.name;
        let found = FoundPeers::new(self.asked.own, addresses);
        let mut seen = lock(&peers.seen);
        seen.answered += 1;
        if std::mem::take(&mut seen.is_failing) {
            tracing::info!(name, "peers looked up again");
        }
        if *seen.found == found {
            return;
        }
        let (before, now) = (seen.found.all().len(), found.all().len());
        // An own address that DNS does not list for long is a mistake in the
        // configuration; for a while it is what every new pooler sees.
        let own_listed = found.lists_own();
        tracing::info!(name, before, now, own = %self.asked.own, own_listed, "peers changed");
        let left_out = found.left_out();
        if left_out > 0 {
            tracing::warn!(
                name,
                left_out,
                limit = PEERS_MAX,
                "more addresses than there may be peers"
            );
        }
        seen.found = Arc::new(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(setting: &str) -> Global {
        let mut global = Global::default();
        let (key, value) = setting.split_once('=').unwrap();
        global.set(key, value).unwrap();
        global
    }

    #[test]
    fn the_own_address_is_said_or_follows_from_where_it_listens() {
        let cases = [
            ("advertise_addr=10.0.0.1:7", Some("10.0.0.2"), "10.0.0.1:7"),
            ("listen_addr=*", Some("10.0.0.2"), "10.0.0.2:6432"),
            ("listen_addr=10.0.0.5", Some("[fd00::2]:7"), "[fd00::2]:7"),
            ("listen_addr=10.0.0.5", None, "10.0.0.5:6432"),
            ("listen_addr=10.0.0.5", Some(""), "10.0.0.5:6432"),
            ("advertise_addr=fd00::1", None, "[fd00::1]:6432"),
        ];
        for (setting, variable, own) in cases {
            let found = advertised(&global(setting), variable);
            assert_eq!(found, Ok(own.parse().unwrap()), "{setting} {variable:?}");
        }
    }

    #[test]
    fn not_endlessly_many_requests_wait_for_a_look_up() {
        let peers = Peers::default();
        let request = || Waiting {
            requester: ClientRef {
                thread: 0,
                key: 0,
                id: 0,
            },
            peer_id: 1,
            request: Vec::new(),
        };
        assert!((0..WAITING_MAX).all(|_| peers.wait(request())));
        assert!(!peers.wait(request()));
    }

    #[test]
    fn without_an_own_address_it_says_what_to_set() {
        let cases = [
            ("*", None, "set advertise_addr, or environment variable"),
            ("0.0.0.0", None, "set advertise_addr"),
            ("10.0.0.5, 10.0.0.6", None, "set advertise_addr"),
            (
                "*",
                Some("pod"),
                "POOLER_ADVERTISE_ADDR = \"pod\" is invalid",
            ),
            ("*", Some("0.0.0.0"), "(nobody can connect to that)"),
        ];
        for (listen, variable, told) in cases {
            let global = global(&format!("listen_addr={listen}"));
            let (_, error) = advertised(&global, variable).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(own_address(&Global::default()), Ok(None));
    }
}
