//! A limit on servers that several pools share.

use std::sync::atomic::{AtomicU32, Ordering};

/// `max_db_connections` or `max_user_connections` of one database or user.
#[derive(Debug)]
pub struct Budget {
    /// 0 means unlimited.
    limit: AtomicU32,
    used: AtomicU32,
}

impl Budget {
    /// A budget of `limit` servers; 0 means unlimited.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: AtomicU32::new(limit),
            used: AtomicU32::new(0),
        }
    }

    /// Changes the limit; servers already open stay.
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

    pub(super) fn take(&self) -> bool {
        let limit = self.limit();
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                (limit == 0 || used < limit).then_some(used + 1)
            })
            .is_ok()
    }

    pub(super) fn give(&self) {
        let before = self.used.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "a budget got back more than it gave");
    }
}
