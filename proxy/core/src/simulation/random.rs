//! A small generator of pseudo-random numbers (splitmix64): one seed, one run.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another generator, independent of what this one gives from now on.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `limit - 1`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "nothing to choose from");
        (self.next() % limit as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The time a message takes: short mostly, long at times.
    pub(super) fn delay(&mut self) -> Duration {
        let micros = match self.below(20) {
            0..=1 => self.between(1_000, 5_000),
            2..=5 => self.between(200, 1_000),
            _ => self.between(5, 200),
        };
        Duration::from_micros(micros as u64)
    }

    /// Where to cut `length` bytes: mostly not at all.
    pub(super) fn cut(&mut self, length: usize) -> usize {
        match self.below(10) {
            0 => self.between(1, length.min(7)),
            1..=3 => self.between(1, length),
            _ => length,
        }
    }
}
