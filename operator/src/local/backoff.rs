//! How long to wait before a child that ended is started again. Pure.

use std::time::Duration;

const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(10);
/// A process that lived so long did not fail at its start.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// Grows from 100 ms to 10 s while a child keeps ending soon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after a process that lived so long.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived >= GOOD_LIFE {
            self.failures = 0;
        }
        let delay = DELAY_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(DELAY_MAX);
        self.failures = self.failures.saturating_add(1);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_ten_seconds_and_begin_again_after_a_good_life() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(5);
        let delays: Vec<u128> = (0..9).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(
            delays,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(backoff.after(Duration::from_secs(10)).as_millis(), 100);
        assert_eq!(backoff.after(short).as_millis(), 200);
    }
}
