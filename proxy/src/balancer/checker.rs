//! When targets are checked.
//!
//! All at once at the start, then each every `check.interval`, a little apart
//! from the others, and early when a connect to it fails. Checks run beside the
//! event loops: a loop that is stuck is `/livez`'s to tell, not its targets'.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    discovery,
    probe::probe,
    shared::{Phase, Shared, Targets},
    target::Target,
};

/// An early check comes at least this part of the interval after the one before
/// it began: `fall` refused connects in a millisecond are one observation.
const EARLY_PER_INTERVAL: u32 = 4;
/// Checks of different targets are spread over this part of the interval.
const PHASES_PER_INTERVAL: u32 = 8;

/// How long the first look-up and the checks after it may keep clients waiting.
/// A name server that is down keeps nobody from being served.
const FIRST_LOOK_UP_TIME_MAX: Duration = Duration::from_secs(2);

/// Checks every target once, those that the first look-up finds included, then
/// lets connections in; goes on checking them.
pub async fn run(shared: Arc<Shared>) {
    let mut first = JoinSet::new();
    for target in shared.targets().iter() {
        first.spawn(begin(&shared, target.clone()));
    }
    // Nothing is ever sent: it ends when nobody is left who could.
    let (checking, mut checked) = mpsc::channel::<()>(1);
    tokio::spawn(discovery::run(shared.clone(), checking));
    let discovered = timeout(FIRST_LOOK_UP_TIME_MAX, checked.recv());
    while first.join_next().await.is_some() {}
    let _ = discovered.await;
    shared.enter(Phase::Serving);
    tracing::info!(targets = shared.states(), "serving");
}

/// Checks a target that a reload or a look-up added, from now on. Drops `first`
/// when it was checked once.
pub fn add(shared: &Arc<Shared>, target: Arc<Target>, first: Option<mpsc::Sender<()>>) {
    let begun = begin(shared, target);
    tokio::spawn(async move {
        begun.await;
        drop(first);
    });
}

/// Checks `target` once, and goes on checking it beside the caller. The one
/// place where a target gets its checker; its removal, even before it is
/// checked, ends that.
fn begin(shared: &Arc<Shared>, target: Arc<Target>) -> impl Future<Output = ()> + use<> {
    let shared = shared.clone();
    let changes = shared.targets.subscribe();
    async move {
        let begin = Instant::now();
        check(shared.clone(), target.clone()).await;
        tokio::spawn(keep_checking(shared, target, changes, begin));
    }
}

/// Checks `target`, first checked at about `begin`, until a list of targets
/// newer than `changes` has seen is without it.
async fn keep_checking(
    shared: Arc<Shared>,
    target: Arc<Target>,
    mut changes: watch::Receiver<Targets>,
    begin: Instant,
) {
    let mut interval = shared.config().check.interval;
    let mut last = begin;
    let mut due = begin + interval + phase(&target.name, interval);
    loop {
        tokio::select! {
            // First: a target that times out is always due again, and what
            // removes it must not wait for its luck.
            biased;
            changed = changes.changed() => {
                let listed = shared.targets().iter().any(|one| one.id == target.id);
                if changed.is_err() || !listed {
                    return;
                }
                interval = shared.config().check.interval;
                due = due.min(Instant::now() + interval);
                continue;
            }
            () = sleep_until(due) => {}
            () = target.check_wanted.notified() => {
                sleep_until(due.min(last + interval / EARLY_PER_INTERVAL)).await;
            }
        }
        last = Instant::now();
        check(shared.clone(), target.clone()).await;
        // Early checks do not shift the beat, and a process that was stopped
        // does not make up for what it missed.
        while due <= last {
            due += interval;
        }
    }
}

async fn check(shared: Arc<Shared>, target: Arc<Target>) {
    let config = shared.config();
    let probe = probe(target.address, &config.check, shared.drain_order()).await;
    shared.observe(&target, probe);
}

/// A delay of a target's own, the same at every start.
fn phase(name: &str, interval: Duration) -> Duration {
    // FNV-1a: a few names need to be apart, not more.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    interval / PHASES_PER_INTERVAL * (hash >> 24) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_short_and_apart() {
        let interval = Duration::from_secs(2);
        let phases: Vec<_> = (0..3)
            .map(|index| phase(&format!("shop-pooler-{index}"), interval))
            .collect();
        for (index, phase) in phases.iter().enumerate() {
            assert!(*phase < interval / PHASES_PER_INTERVAL, "{phases:?}");
            assert!(!phases[..index].contains(phase), "{phases:?}");
        }
    }
}
