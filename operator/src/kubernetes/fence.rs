//! Until when we may write: what keeps a leader that lost its lease from acting.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// The time until which whoever holds it may write. Clones share it.
///
/// The election moves it on with every renewal of the lease; every write looks
/// at it before it begins and ends with it. Its clock goes on while the machine
/// sleeps, which [`std::time::Instant`]'s does not: a machine that wakes up finds
/// the fence closed.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    until: Arc<Mutex<Option<SinceBoot>>>,
}

/// A time since the machine was started, the time that it slept included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SinceBoot(Duration);

impl SinceBoot {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        Self(Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        ))
    }

    pub(super) fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Fence {
    /// Writing is allowed until then.
    pub(super) fn move_to(&self, until: SinceBoot) {
        *self.lock() = Some(until);
    }

    /// Writing is not allowed any more.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    /// How long writing is still allowed, by a clock that nobody sets.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let until = (*self.lock())?;
        let left = until.0.checked_sub(SinceBoot::now().0)?;
        (!left.is_zero()).then_some(left)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SinceBoot>> {
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
        fence.clone().move_to(SinceBoot::now().later(hour));
        assert!(fence.time_left().is_some_and(|left| left <= hour));
        fence.close();
        assert_eq!(fence.time_left(), None);
        fence.move_to(SinceBoot::now());
        assert_eq!(fence.time_left(), None);
    }
}
