//! A limit on servers that several pools share.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::{LOOK_AGAIN, Moment};

/// For how long a place is kept for a waiter that was refused one. It asks
/// again every [`LOOK_AGAIN`].
const WANTED: Duration = LOOK_AGAIN.saturating_mul(10);

/// `max_db_connections` or `max_user_connections` of one database or user, or
/// `max_server_connections` of all.
#[derive(Debug)]
pub struct Budget {
    /// 0 means unlimited.
    limit: AtomicU32,
    used: AtomicU32,
    /// When a waiter was last refused a place; 0 is never.
    wanted_us: AtomicU64,
}

impl Budget {
    /// A budget of `limit` servers; 0 means unlimited.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: AtomicU32::new(limit),
            used: AtomicU32::new(0),
            wanted_us: AtomicU64::new(0),
        }
    }

    /// Changes the limit. Servers beyond it are closed as they return to their
    /// pools, when these are told
    /// ([`Shared::budgets_changed`](super::Shared::budgets_changed)); idle ones
    /// are [`Shared::excess`](super::Shared::excess).
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// The limit in force; 0 means unlimited.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::SeqCst)
    }

    /// Servers counted.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::SeqCst)
    }

    /// Whether there is no place left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let limit = self.limit();
        limit > 0 && self.used() >= limit
    }

    /// Servers beyond the limit, after it was lowered.
    pub(super) fn excess(&self) -> u32 {
        match self.limit() {
            0 => 0,
            limit => self.used().saturating_sub(limit),
        }
    }

    /// Takes note that a waiter has been refused a place.
    pub(super) fn want(&self, now: Moment) {
        self.wanted_us.store(now.0, Ordering::SeqCst);
    }

    /// Whether the next place is for a waiter, not for a pool's minimum.
    pub(super) fn is_wanted(&self, now: Moment) -> bool {
        let wanted = self.wanted_us.load(Ordering::SeqCst);
        wanted > 0 && now.since(Moment(wanted)) < WANTED
    }

    pub(super) fn take(&self) -> bool {
        loop {
            let limit = self.limit();
            let taken = self
                .used
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                    (limit == 0 || used < limit).then_some(used + 1)
                })
                .is_ok();
            // Changed meanwhile: who looked for an excess may not have seen this.
            if !taken || self.limit() == limit {
                return taken;
            }
            self.give();
        }
    }

    pub(super) fn give(&self) {
        let before = self.used.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "a budget got back more than it gave");
    }
}
