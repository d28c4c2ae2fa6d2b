//! Targets found by DNS: the addresses of one name.
//!
//! An answer adds targets and takes the mark *listed* from those it no longer
//! names. Only checks decide what gets connections: a target that is not listed
//! goes when its checks fail too and its last session is over. So neither a
//! name server that fails, nor one that forgets, takes a pooler away that
//! serves; and a pooler that drains stays until it is done.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::Timestamp;
use proxy_core::{
    config::balancer::{BalancerConfig, Discovery},
    health::Health,
    status::DiscoveryStatus,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    checker,
    shared::Shared,
    target::{Origin, Target},
};
use crate::resolve::{Found, LookupError, NameServers, Resolver};

/// Targets that one name may have.
pub const TARGETS_MAX: usize = 256;
/// Bounds of an answer's time to live: below, name servers would be flooded;
/// above, a new pooler would wait for long.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(30);
/// Pause after a look-up that found nothing, or failed: poolers that start now
/// are to be found soon.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How often targets that may go are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What became of look-ups.
#[derive(Clone, Debug, Default)]
pub struct LookUps {
    /// Those answered, with addresses or without.
    pub answered: u64,
    /// Those that failed.
    pub failed: u64,
    /// When the last answer came.
    pub last_success: Option<Timestamp>,
    /// Why the newest look-up failed; `None` if it did not.
    pub error: Option<String>,
    /// Addresses in the last answer.
    pub addresses: usize,
    /// Addresses of the last answer that are no target, for want of room.
    pub left_out: usize,
}

/// Follows the name of the configuration in force, for as long as the process
/// lives. `first` is dropped when the targets of the first answer are checked,
/// or there is none.
pub async fn run(shared: Arc<Shared>, first: mpsc::Sender<()>) {
    let mut configured = shared.config.subscribe();
    let mut first = Some(first);
    // Targets found under another name go at the first answer.
    let mut renamed = false;
    loop {
        let asked = configured.borrow_and_update().discovery.clone();
        match asked {
            Some(asked) => {
                let mut name = Name::new(&shared, asked, std::mem::take(&mut renamed));
                name.follow(&mut configured, &mut first).await;
            }
            None => {
                first = None;
                if configured.changed().await.is_err() {
                    return;
                }
            }
        }
        renamed = true;
    }
}

/// A name being followed.
struct Name<'a> {
    shared: &'a Arc<Shared>,
    asked: Discovery,
    resolver: Option<Resolver>,
    /// No answer has come since the name was configured in another's place.
    renamed: bool,
}

impl<'a> Name<'a> {
    fn new(shared: &'a Arc<Shared>, asked: Discovery, renamed: bool) -> Self {
        Self {
            shared,
            asked,
            resolver: None,
            renamed,
        }
    }

    /// Until another name is configured.
    async fn follow(
        &mut self,
        configured: &mut watch::Receiver<Arc<BalancerConfig>>,
        first: &mut Option<mpsc::Sender<()>>,
    ) {
        let mut due = Instant::now();
        let mut sweep = due + SWEEP_INTERVAL;
        loop {
            tokio::select! {
                biased;
                changed = configured.changed() => {
                    let same = configured.borrow().discovery.as_ref() == Some(&self.asked);
                    if changed.is_err() || !same {
                        return;
                    }
                }
                () = sleep_until(due) => {
                    let looked_up = self.look_up().await;
                    let pause = self.take(looked_up, first.take().as_ref());
                    due = Instant::now() + pause;
                }
                () = sleep_until(sweep) => {
                    self.shared.forget_gone();
                    sweep = Instant::now() + SWEEP_INTERVAL;
                    // However long the last answer may be used: it is of no use.
                    if !self.shared.has_target_up() {
                        due = Instant::now();
                    }
                }
            }
        }
    }

    /// What the name stands for, `None` if for nothing; or why that is not known.
    async fn look_up(&mut self) -> Result<Option<Found>, String> {
        let resolver = match &self.resolver {
            Some(resolver) => resolver,
            None => {
                let servers = match self.asked.resolver {
                    Some(server) => NameServers::At(server),
                    None => NameServers::System,
                };
                let made = Resolver::new(&servers).map_err(|error| error.to_string())?;
                self.resolver.insert(made)
            }
        };
        match resolver.look_up(&self.asked.dns, self.asked.port).await {
            Ok(found) => Ok(Some(found)),
            Err(LookupError::NotFound { .. }) => Ok(None),
            Err(error @ (LookupError::Malformed { .. } | LookupError::Failed { .. })) => {
                Err(error.to_string())
            }
        }
    }

    /// Acts on a look-up, and says how long to wait before the next.
    fn take(
        &mut self,
        looked_up: Result<Option<Found>, String>,
        first: Option<&mpsc::Sender<()>>,
    ) -> Duration {
        let (addresses, pause) = match looked_up {
            Ok(Some(found)) => (found.addresses, found.ttl.clamp(TTL_MIN, TTL_MAX)),
            Ok(None) => (Vec::new(), RETRY_PAUSE),
            Err(error) => {
                self.failed(error);
                return RETRY_PAUSE;
            }
        };
        let (added, left_out) = self.shared.discover(&addresses, self.renamed);
        self.renamed = false;
        self.answered(addresses.len(), left_out);
        for target in added {
            tracing::info!(target = target.name, "target discovered");
            checker::add(self.shared, target, first.cloned());
        }
        pause
    }

    fn failed(&self, error: String) {
        let name = &self.asked.dns;
        let mut look_ups = self.shared.look_ups.lock().expect("no holder panics");
        look_ups.failed += 1;
        // Once, not at each try.
        if look_ups.error.is_none() {
            tracing::warn!(name, error, "targets not looked up, keeping those known");
        }
        look_ups.error = Some(error);
    }

    fn answered(&self, addresses: usize, left_out: usize) {
        let name = &self.asked.dns;
        let mut look_ups = self.shared.look_ups.lock().expect("no holder panics");
        if look_ups.error.take().is_some() {
            tracing::info!(name, addresses, "targets looked up again");
        }
        if left_out > 0 && look_ups.left_out == 0 {
            tracing::warn!(
                name,
                addresses,
                left_out,
                limit = TARGETS_MAX,
                "more addresses than there may be targets"
            );
        }
        if addresses != look_ups.addresses {
            let before = look_ups.addresses;
            tracing::info!(name, before, addresses, "answer changed");
        }
        look_ups.answered += 1;
        look_ups.last_success = Some(Timestamp::now());
        look_ups.addresses = addresses;
        look_ups.left_out = left_out;
    }
}

impl Shared {
    /// Makes each of `addresses` a target and marks those that are listed no
    /// more; these go at once if `renamed`, or else when
    /// [`Shared::forget_gone`] finds that they may. Returns the new targets, and
    /// how many addresses found no room.
    fn discover(&self, addresses: &[SocketAddr], renamed: bool) -> (Vec<Arc<Target>>, usize) {
        let mut added = Vec::new();
        let mut left_out = 0;
        let changed = self.targets.send_if_modified(|targets| {
            let before = targets.len();
            let mut all: Vec<Arc<Target>> = targets.to_vec();
            let listed: HashSet<&SocketAddr> = addresses.iter().collect();
            for target in all.iter().filter(|one| one.origin == Origin::Discovered) {
                target
                    .listed
                    .store(listed.contains(&target.address), Relaxed);
            }
            if renamed {
                all.retain(|target| target.listed.load(Relaxed));
            }
            let discovered = all
                .iter()
                .filter(|target| target.origin == Origin::Discovered)
                .count();
            let known: HashSet<SocketAddr> = all.iter().map(|target| target.address).collect();
            let mut unknown: Vec<SocketAddr> = addresses.to_vec();
            unknown.retain(|address| !known.contains(address));
            let room = TARGETS_MAX.saturating_sub(discovered);
            left_out = unknown.len().saturating_sub(room);
            for address in unknown.into_iter().take(room) {
                let name = name(address, &all);
                let target = self.new_target(name, address, Origin::Discovered);
                all.push(target.clone());
                added.push(target);
            }
            if added.is_empty() && all.len() == before {
                return false;
            }
            sort(&mut all);
            *targets = all.into();
            true
        });
        if changed {
            self.targets_changed();
        }
        (added, left_out)
    }

    /// Forgets the discovered targets that are listed no more, fail their checks
    /// and have no session left.
    fn forget_gone(&self) {
        let gone = |target: &Arc<Target>| {
            target.origin == Origin::Discovered
                && !target.listed.load(Relaxed)
                && target.judged().state.health == Health::Down
                && target.traffic.connections.now() == 0
        };
        let changed = self.targets.send_if_modified(|targets| {
            if !targets.iter().any(gone) {
                return false;
            }
            let (out, stay): (Vec<_>, Vec<_>) = targets.iter().cloned().partition(gone);
            for target in out {
                tracing::info!(target = target.name, "target gone: not listed, not serving");
            }
            *targets = stay.into();
            true
        });
        if changed {
            self.targets_changed();
        }
    }

    /// What `/status` says of look-ups, if there are any.
    #[must_use]
    pub fn discovery_status(&self) -> Option<Box<DiscoveryStatus>> {
        let config = self.config();
        let discovery = config.discovery.as_ref()?;
        let look_ups = self.look_ups.lock().expect("no holder panics").clone();
        Some(Box::new(DiscoveryStatus {
            dns: discovery.dns.clone(),
            addresses: u32::try_from(look_ups.addresses).unwrap_or(u32::MAX),
            left_out: u32::try_from(look_ups.left_out).unwrap_or(u32::MAX),
            last_success: look_ups.last_success,
            failures_total: look_ups.failed,
            error: look_ups.error,
        }))
    }
}

/// The address alone, unless another target is called so.
fn name(address: SocketAddr, targets: &[Arc<Target>]) -> String {
    let name = address.ip().to_string();
    match targets.iter().any(|target| target.name == name) {
        true => address.to_string(),
        false => name,
    }
}

/// Those of the configuration in its order, then by address.
fn sort(targets: &mut [Arc<Target>]) {
    targets.sort_by_key(|target| match target.origin {
        Origin::Configured => None,
        Origin::Discovered => Some(target.address),
    });
}
