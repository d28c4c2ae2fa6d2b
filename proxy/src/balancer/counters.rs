//! What sessions count. Loops write, the status pages read.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Bytes moved by one event loop. Only that loop writes, so that adding is a
/// load and a store; each has its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Bytes {
    from_clients: AtomicU64,
    to_clients: AtomicU64,
}

impl Bytes {
    /// Adds bytes relayed from clients and to clients.
    #[inline]
    pub fn add(&self, from_clients: usize, to_clients: usize) {
        let add = |counter: &AtomicU64, count: usize| {
            if count > 0 {
                counter.store(counter.load(Relaxed) + count as u64, Relaxed);
            }
        };
        add(&self.from_clients, from_clients);
        add(&self.to_clients, to_clients);
    }
}

/// Sessions and bytes of one target, or of all.
#[derive(Debug)]
pub struct Traffic {
    /// Sessions now, those still connecting included.
    pub connections: Level,
    /// Sessions begun: connections accepted, or connections made to a target.
    pub total: AtomicU64,
    /// Times a target was chosen.
    pub picked: AtomicU64,
    /// Connects that failed.
    pub connect_failures: AtomicU64,
    /// Connects that failed and were tried again on another target.
    pub redispatched: AtomicU64,
    /// Sessions that broke at the client's side.
    pub client_aborts: AtomicU64,
    /// Sessions that broke at the target's side.
    pub server_aborts: AtomicU64,
    /// Milliseconds since the process began when a session was last begun, plus
    /// one; 0 if there was none.
    pub last_session_ms: AtomicU64,
    /// Milliseconds that connects took.
    pub connect_ms: Average,
    /// Milliseconds that sessions took.
    pub session_ms: Average,
    /// Sessions begun per second.
    pub rate: Rate,
    /// By event loop.
    bytes: Box<[Bytes]>,
}

impl Traffic {
    /// Nothing counted yet, by `loops` event loops.
    #[must_use]
    pub fn new(loops: usize) -> Self {
        Self {
            connections: Level::default(),
            total: AtomicU64::new(0),
            picked: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            redispatched: AtomicU64::new(0),
            client_aborts: AtomicU64::new(0),
            server_aborts: AtomicU64::new(0),
            last_session_ms: AtomicU64::new(0),
            connect_ms: Average::default(),
            session_ms: Average::default(),
            rate: Rate::default(),
            bytes: (0..loops).map(|_| Bytes::default()).collect(),
        }
    }

    /// The counters that event loop `index` alone writes.
    #[inline]
    #[must_use]
    pub fn bytes(&self, index: usize) -> &Bytes {
        &self.bytes[index]
    }

    /// Bytes relayed from clients, by all loops.
    #[must_use]
    pub fn from_clients(&self) -> u64 {
        self.bytes
            .iter()
            .map(|one| one.from_clients.load(Relaxed))
            .sum()
    }

    /// Bytes relayed to clients, by all loops.
    #[must_use]
    pub fn to_clients(&self) -> u64 {
        self.bytes
            .iter()
            .map(|one| one.to_clients.load(Relaxed))
            .sum()
    }

    /// A session began at `now_ms`.
    pub fn begin_session(&self, now_ms: u64) {
        self.total.fetch_add(1, Relaxed);
        self.last_session_ms.store(now_ms + 1, Relaxed);
    }
}

/// A number that goes up and down, and the highest it was.
#[derive(Debug, Default)]
pub struct Level {
    now: AtomicU32,
    max: AtomicU32,
}

impl Level {
    /// One more; returns the new value.
    pub fn raise(&self) -> u32 {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        self.max.fetch_max(now, Relaxed);
        now
    }

    /// One less; returns the new value.
    pub fn lower(&self) -> u32 {
        let before = self.now.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "lowered more often than raised");
        before - 1
    }

    /// The value now.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// The highest value since the start.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }
}

/// A mean over about the last 1,024 values, in constant space: each new value
/// replaces one mean value in a sum of 1,024.
#[derive(Debug, Default)]
pub struct Average {
    sum: AtomicU64,
    count: AtomicU64,
    max: AtomicU64,
}

const AVERAGE_VALUES: u64 = 1024;

impl Average {
    /// Takes one value in.
    pub fn add(&self, value: u64) {
        self.max.fetch_max(value, Relaxed);
        let count = self.count.fetch_add(1, Relaxed);
        let take_in = |sum: u64| {
            let leaves = if count < AVERAGE_VALUES {
                0
            } else {
                sum.div_ceil(AVERAGE_VALUES)
            };
            Some((sum - leaves.min(sum)).saturating_add(value))
        };
        let _ = self.sum.fetch_update(Relaxed, Relaxed, take_in);
    }

    /// The mean, rounded down; 0 before the first value.
    #[must_use]
    pub fn mean(&self) -> u64 {
        let count = self.count.load(Relaxed).clamp(1, AVERAGE_VALUES);
        self.sum.load(Relaxed) / count
    }

    /// The highest value since the start.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }
}

/// Events per second, in the last whole second and at most.
#[derive(Debug, Default)]
pub struct Rate {
    total_before: AtomicU64,
    now: AtomicU64,
    max: AtomicU64,
}

impl Rate {
    /// Called once a second with the events so far.
    pub fn sample(&self, total: u64) {
        let rate = total.saturating_sub(self.total_before.swap(total, Relaxed));
        self.now.store(rate, Relaxed);
        self.max.fetch_max(rate, Relaxed);
    }

    /// Events in the last whole second.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// Most events in a second since the start.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_follows_the_last_values() {
        let average = Average::default();
        assert_eq!(average.mean(), 0);
        average.add(10);
        average.add(20);
        assert_eq!(average.mean(), 15);
        for _ in 0..20_000 {
            average.add(100);
        }
        assert!((99..=100).contains(&average.mean()), "{}", average.mean());
        for _ in 0..20_000 {
            average.add(0);
        }
        assert_eq!((average.mean(), average.max()), (0, 100));
    }

    #[test]
    fn rate_is_per_sample_and_keeps_its_peak() {
        let rate = Rate::default();
        for (total, now, max) in [(5, 5, 5), (25, 20, 20), (25, 0, 20)] {
            rate.sample(total);
            assert_eq!((rate.now(), rate.max()), (now, max));
        }
    }

    #[test]
    fn bytes_are_summed_over_loops() {
        let traffic = Traffic::new(2);
        traffic.bytes(0).add(3, 0);
        traffic.bytes(1).add(4, 10);
        assert_eq!((traffic.from_clients(), traffic.to_clients()), (7, 10));
    }
}
