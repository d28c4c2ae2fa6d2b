//! Load that goes on when connections end: each worker is a pgbench of one
//! client, started again as soon as it has given up, as an application's
//! driver would connect again.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;

use crate::{
    Pgbench,
    pgbench::{Logged, Report},
};

/// Workers under way.
#[derive(Debug)]
pub struct Load {
    workers: Vec<thread::JoinHandle<Result<Vec<Run>>>>,
}

/// What one pgbench of a worker did.
#[derive(Debug)]
struct Run {
    report: Report,
    ended: Duration,
}

/// What all workers did. Times are since the epoch, as pgbench logs them.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Transactions that succeeded.
    pub transactions: u64,
    /// Connections that ended in an error; each may have cut one transaction.
    pub broken: u64,
    /// What pgbench said of those, each text once.
    pub complaints: Vec<String>,
    /// When each transaction ended, in order.
    pub ends: Vec<Duration>,
    /// For each broken connection, how long its worker was without an answer:
    /// from the last transaction before to the first one after.
    pub without_service: Vec<Duration>,
}

impl Load {
    /// Starts `workers` for about `time`; `shape` says what each does.
    #[must_use]
    pub fn start(
        address: SocketAddr,
        workers: usize,
        time: Duration,
        shape: fn(Pgbench) -> Pgbench,
    ) -> Self {
        let deadline = Instant::now() + time;
        let workers = (0..workers)
            .map(|_| thread::spawn(move || work(address, deadline, shape)))
            .collect();
        Self { workers }
    }

    /// Whether every worker has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.workers.iter().all(thread::JoinHandle::is_finished)
    }

    /// Waits for the end and adds up.
    ///
    /// # Errors
    /// When pgbench could not be run at all.
    pub fn finish(self) -> Result<Account> {
        let mut account = Account::default();
        for worker in self.workers {
            let runs = worker.join().expect("a worker does not panic")?;
            account.add(&runs);
        }
        account.ends.sort_unstable();
        account.complaints.sort_unstable();
        account.complaints.dedup();
        Ok(account)
    }
}

fn work(address: SocketAddr, deadline: Instant, shape: fn(Pgbench) -> Pgbench) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // pgbench counts in whole seconds; what is less is not worth a start.
        if left < Duration::from_secs(1) && !runs.is_empty() {
            return Ok(runs);
        }
        let report = shape(Pgbench::against(address).clients(1, 1))
            .logged()
            .time(left)
            .run()?;
        runs.push(Run {
            report,
            ended: now(),
        });
    }
}

/// Now, as pgbench's log counts.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("the clock is past 1970")
}

impl Account {
    fn add(&mut self, runs: &[Run]) {
        let mut waiting_since = None;
        for run in runs {
            let report = &run.report;
            let ends = || report.log.iter().map(|entry: &Logged| entry.ended);
            // The log, not the summary: a pgbench whose only client gave up
            // early prints none.
            self.transactions += report.log.len() as u64;
            self.ends.extend(ends());
            if let (Some(since), Some(first)) = (waiting_since, ends().min()) {
                self.without_service.push(first.saturating_sub(since));
                waiting_since = None;
            }
            if !report.clean {
                self.broken += 1;
                self.complaints.extend(complaint(&report.output));
                waiting_since = waiting_since.or(Some(ends().max().unwrap_or(run.ended)));
            }
        }
    }

    /// Transactions per second that ended from `from` to `to`.
    #[must_use]
    pub fn rate(&self, from: Duration, to: Duration) -> f64 {
        let count = self
            .ends
            .iter()
            .filter(|end| (from..to).contains(end))
            .count();
        count as f64 / to.saturating_sub(from).as_secs_f64().max(1e-9)
    }

    /// How long after `moment` the next transaction of anybody ended.
    #[must_use]
    pub fn next_after(&self, moment: Duration) -> Option<Duration> {
        let index = self.ends.partition_point(|end| *end <= moment);
        Some(*self.ends.get(index)? - moment)
    }

    /// The longest time without any transaction's end, between `from` and `to`.
    #[must_use]
    pub fn longest_gap(&self, from: Duration, to: Duration) -> Duration {
        let within = self
            .ends
            .iter()
            .copied()
            .filter(|end| (from..to).contains(end));
        let moments: Vec<Duration> = [from].into_iter().chain(within).chain([to]).collect();
        moments
            .windows(2)
            .map(|two| two[1] - two[0])
            .max()
            .unwrap_or_default()
    }
}

/// The line in which pgbench says why its client gave up, without what differs
/// from one client to the next.
fn complaint(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains("error:"))?;
    Some(line.replace("pgbench: error: ", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(clean: bool, ends_ms: &[u64]) -> Run {
        let log = ends_ms
            .iter()
            .map(|&ms| Logged {
                took_us: 1,
                ended: Duration::from_millis(ms),
            })
            .collect();
        Run {
            report: Report {
                clean,
                log,
                ..Report::default()
            },
            ended: Duration::from_millis(ends_ms.last().copied().unwrap_or(0)),
        }
    }

    #[test]
    fn a_broken_connection_is_without_service_until_its_next_transaction() {
        let mut account = Account::default();
        account.add(&[run(false, &[10, 20]), run(false, &[]), run(true, &[90, 95])]);
        assert_eq!((account.transactions, account.broken), (4, 2));
        assert_eq!(account.without_service, [Duration::from_millis(70)]);
        assert_eq!(
            account.longest_gap(Duration::from_millis(10), Duration::from_millis(95)),
            Duration::from_millis(70)
        );
    }
}
