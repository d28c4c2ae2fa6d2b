//! Looks once a second at whether clients are served in time.
//!
//! What is looked at is published anyway: when each loop's oldest waiter queued,
//! how many servers are open, which limits are used up. Loops do nothing for it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proxy_core::{
    saturation::{Reason, Saturation, SaturationReport},
    upstream::Reach,
};

use super::shared::{Shared, lock};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Saturations {
    judged: Mutex<Judged>,
    /// Clients that found no place among `max_client_conn`.
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Judged {
    saturation: Saturation,
    /// Clients that had been refused at the last look.
    refused: u64,
    /// Changes of the reason.
    changes: u32,
    /// `None` while it is not judged.
    report: Option<SaturationReport>,
}

impl Saturations {
    /// A client found no place among `max_client_conn`.
    pub(super) fn client_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What checks are told.
    pub(super) fn report(&self) -> Option<SaturationReport> {
        lock(&self.judged).report
    }

    /// Every reason, and whether it holds.
    pub(super) fn reasons(&self) -> [(Reason, bool); Reason::ALL.len()] {
        let judged = lock(&self.judged);
        Reason::ALL.map(|reason| {
            let holds = judged.saturation.reasons().any(|holding| holding == reason);
            (reason, holds)
        })
    }

    fn look(&self, shared: &Shared) {
        let longest = shared.live().config.global.saturation_wait;
        let refused = self.refused.load(Ordering::Relaxed);
        let upstream = shared.upstreams.report();
        let in_vain = shared.pools.is_paused()
            || upstream.is_some_and(|upstream| upstream.state == Reach::Unreachable);
        let now = shared.now();
        let mut reasons = Vec::new();
        if !longest.is_zero() && !in_vain {
            reasons = shared.pools.late(longest, &shared.upstreams, now);
        }
        let mut judged = lock(&self.judged);
        if std::mem::replace(&mut judged.refused, refused) != refused {
            reasons.push(Reason::ClientsRefused);
        }
        let changed = match longest.is_zero() || in_vain {
            true => judged.saturation.forget(),
            false => judged.saturation.observe(&reasons, now),
        };
        judged.changes = judged.changes.wrapping_add(u32::from(changed));
        let reason = judged.saturation.reason();
        judged.report = (!longest.is_zero()).then_some(SaturationReport {
            reason,
            number: judged.changes,
        });
        drop(judged);
        match (changed, reason) {
            (false, _) => {}
            (true, None) => tracing::info!("clients are served in time again"),
            (true, Some(reason)) => tracing::warn!(
                reason = reason.word(),
                waiting = shared.pools.waiting(),
                "clients are not served in time; SHOW POOLS on the console tells whose"
            ),
        }
    }
}

/// Looks for as long as the process lives.
pub(super) async fn keep_judging(shared: Arc<Shared>) {
    loop {
        shared.saturations.look(&shared);
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
