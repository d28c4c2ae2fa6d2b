//! Until when we may write: what keeps a leader that lost its lease from acting.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time until which whoever holds it may write. Clones share it.
///
/// The election moves it on with every renewal of the lease; every write looks
/// at it before it begins and ends with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Fence {
    /// Writing is allowed until then.
    pub(super) fn move_to(&self, until: Instant) {
        *self.lock() = Some(until);
    }

    /// Writing is not allowed any more.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    /// How long writing is still allowed, by a clock that nobody sets.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let left = (*self.lock())?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_is_allowed_between_move_and_close_alone() {
        let fence = Fence::default();
        assert_eq!(fence.time_left(), None);
        let hour = Duration::from_secs(3600);
        fence.clone().move_to(Instant::now() + hour);
        assert!(fence.time_left().is_some_and(|left| left <= hour));
        fence.close();
        assert_eq!(fence.time_left(), None);
        fence.move_to(Instant::now());
        assert_eq!(fence.time_left(), None);
    }
}
