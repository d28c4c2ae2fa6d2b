//! Averages over the last whole `stats_period`, and the line it logs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use proxy_core::pool::Moment;

use super::{control::Control, counters::PoolCounters, shared::lock};

/// Counters by database.
pub(super) type Totals = BTreeMap<String, PoolCounters>;

/// The two latest readings of the counters, `stats_period` apart.
#[derive(Debug, Default)]
pub(super) struct Stats {
    readings: Mutex<Readings>,
}

#[derive(Debug, Default)]
struct Readings {
    older: Reading,
    newer: Reading,
}

#[derive(Debug, Default)]
struct Reading {
    at: Moment,
    totals: Totals,
}

/// What happened in some time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    counters: PoolCounters,
    took: Duration,
}

impl Stats {
    /// `now` is when the process began to serve.
    pub(super) fn new(now: Moment) -> Self {
        let stats = Self::default();
        lock(&stats.readings).newer.at = now;
        stats
    }

    fn take(&self, now: Moment, totals: Totals) {
        let mut readings = lock(&self.readings);
        readings.older = std::mem::replace(&mut readings.newer, Reading { at: now, totals });
    }

    /// What happened in the last whole period, by database; nothing before the
    /// first one is over.
    pub(super) fn changes(&self) -> BTreeMap<String, Change> {
        let readings = lock(&self.readings);
        let took = readings.newer.at.since(readings.older.at);
        let changes = readings.newer.totals.iter().map(|(database, counters)| {
            let older = readings.older.totals.get(database);
            let counters = counters.since(&older.copied().unwrap_or_default());
            (database.clone(), Change { counters, took })
        });
        changes.collect()
    }
}

impl Change {
    /// All of them, which took place at the same time.
    pub(super) fn sum<'a>(changes: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for change in changes {
            sum.counters.add(&change.counters);
            sum.took = sum.took.max(change.took);
        }
        sum
    }

    /// One of the counters, per second.
    pub(super) fn per_second(&self, counter: impl Fn(&PoolCounters) -> u64) -> u64 {
        let micros = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        ratio(counter(&self.counters).saturating_mul(1_000_000), micros)
    }

    /// Average duration of a transaction, microseconds.
    pub(super) fn transaction_us(&self) -> u64 {
        ratio(self.counters.transaction_us, self.counters.transactions)
    }

    /// Average duration of a query, microseconds.
    pub(super) fn query_us(&self) -> u64 {
        ratio(self.counters.query_us, self.counters.queries)
    }

    /// Average wait of those who were given a server, microseconds.
    pub(super) fn wait_us(&self) -> u64 {
        ratio(self.counters.wait_us, self.counters.assignments)
    }
}

fn ratio(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or_default()
}

impl Control {
    /// Takes a reading every `stats_period`, and logs it if that is wished.
    pub(super) async fn keep_stats(self: Arc<Self>) {
        loop {
            let period = self.shared.live().config.global.stats_period;
            tokio::time::sleep(period).await;
            let view = self.view(false).await;
            self.stats.take(self.shared.now(), view.totals());
            if self.shared.live().config.global.log_stats {
                log(&Change::sum(self.stats.changes().values()));
            }
        }
    }
}

fn log(change: &Change) {
    let per_second = |counter: fn(&PoolCounters) -> u64| change.per_second(counter);
    tracing::info!(
        transactions_per_s = per_second(|counters| counters.transactions),
        queries_per_s = per_second(|counters| counters.queries),
        logins_per_s = per_second(|counters| counters.logins),
        client_parses_per_s = per_second(|counters| counters.client_parses),
        server_parses_per_s = per_second(|counters| counters.server_parses),
        binds_per_s = per_second(|counters| counters.binds),
        received_bytes_per_s = per_second(|counters| counters.received_bytes),
        sent_bytes_per_s = per_second(|counters| counters.sent_bytes),
        transaction_us = change.transaction_us(),
        query_us = change.query_us(),
        wait_us = change.wait_us(),
        "stats"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_the_last_whole_period() {
        let at = |seconds: u64| Moment(seconds * 1_000_000);
        let totals = |count: u64| {
            let counters = PoolCounters {
                transactions: count,
                transaction_us: count * 50,
                queries: count * 2,
                ..PoolCounters::default()
            };
            Totals::from([("shop".to_owned(), counters)])
        };
        let stats = Stats::new(at(100));
        assert!(stats.changes().is_empty(), "no period is over");
        stats.take(at(110), totals(1_000));
        let change = stats.changes()["shop"];
        assert_eq!(change.per_second(|counters| counters.transactions), 100);
        stats.take(at(120), totals(1_500));
        let change = stats.changes()["shop"];
        assert_eq!(change.per_second(|counters| counters.transactions), 50);
        assert_eq!(change.per_second(|counters| counters.queries), 100);
        assert_eq!(change.transaction_us(), 50);
        assert_eq!(change.wait_us(), 0, "nobody was given a server");
    }
}
