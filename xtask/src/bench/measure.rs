//! One run, what it cost, and the account of all of them.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Bench,
    column::{self, Column},
    row::Row,
};

/// What one run cost the process in the middle.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// CPU microseconds per transaction, in user mode.
    pub(crate) user_us: f64,
    /// CPU microseconds per transaction, in the kernel.
    pub(crate) system_us: f64,
    /// Transactions per second.
    pub(crate) tps: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of latency in microseconds.
    pub(crate) p99_us: f64,
    /// Bytes of private memory per idle client.
    pub(crate) bytes_per_client: f64,
}

impl Sample {
    pub(crate) fn cpu_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes_per_client > 0.0 {
            return write!(f, "{:.0} bytes/client", self.bytes_per_client);
        }
        write!(
            f,
            "{:.2} + {:.2} us CPU, {:.0}/s, p50 {:.0} us, p99 {:.0} us",
            self.user_us, self.system_us, self.tps, self.p50_us, self.p99_us
        )
    }
}

/// Runs a row through a column that is started for it, and ended after it.
pub(crate) fn one(bench: &Bench, column: Column, row: Row) -> Result<Sample> {
    let running = column::start(bench, column, row, &[])?;
    // Opens the servers and fills what is filled on first use.
    row.pgbench(running.address)
        .time(Duration::from_secs(1))
        .run()?
        .check_clean()?;
    let before = ::tests::cpu_time(running.pid)?;
    let report = row
        .pgbench(running.address)
        .logged()
        .time(bench.seconds)
        .run()?;
    let used = ::tests::cpu_time(running.pid)?.since(before);
    ensure!(
        report.check_clean().is_ok(),
        "{}\n{}",
        report.output,
        running.log()
    );
    let each = |time: Duration| time.as_secs_f64() * 1e6 / report.transactions as f64;
    Ok(Sample {
        user_us: each(used.user),
        system_us: each(used.system),
        tps: report.tps,
        p50_us: report.latency(0.5).as_secs_f64() * 1e6,
        p99_us: report.latency(0.99).as_secs_f64() * 1e6,
        bytes_per_client: 0.0,
    })
}

/// Everything measured.
pub(crate) struct Account {
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) samples: BTreeMap<(Row, Column), Vec<Sample>>,
    pub(crate) instructions: BTreeMap<(Row, Column), f64>,
}

impl Account {
    pub(crate) fn new(bench: &Bench, rounds: usize) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            machine: vec![
                ("cpu", format!("{model}, {cores} cores")),
                (
                    "kernel",
                    read("/proc/sys/kernel/osrelease").trim().to_owned(),
                ),
                (
                    "postgresql",
                    bench.postgres.sql("postgres", "SHOW server_version")?,
                ),
                ("pgbouncer", column::version(Column::Pgbouncer)?),
                ("haproxy", column::version(Column::Haproxy)?),
                ("rounds", rounds.to_string()),
                ("seconds", bench.seconds.as_secs().to_string()),
            ],
            samples: BTreeMap::new(),
            instructions: BTreeMap::new(),
        })
    }

    pub(crate) fn add(&mut self, row: Row, column: Column, sample: Sample) {
        self.samples.entry((row, column)).or_default().push(sample);
    }

    /// Median over the rounds of what `of` reads, and how far apart the rounds lie.
    pub(crate) fn median(
        &self,
        row: Row,
        column: Column,
        of: impl Fn(&Sample) -> f64,
    ) -> Option<Median> {
        let samples = self.samples.get(&(row, column))?;
        Median::of(samples.iter().map(of).collect())
    }

    /// What to count instructions of: both columns that a goal compares where
    /// their difference lies within the spread; `all` that can be counted.
    pub(crate) fn undecided(&self, all: bool) -> Vec<(Row, Column)> {
        let pairs = [
            [Column::Pooler, Column::Pgbouncer],
            [Column::Balancer, Column::Haproxy],
        ];
        let within = |row: Row, column: Column| {
            pairs
                .iter()
                .filter(|pair| pair.contains(&column))
                .any(|pair| {
                    let [Some(ours), Some(theirs)] =
                        pair.map(|column| self.median(row, column, Sample::cpu_us))
                    else {
                        return false;
                    };
                    (ours.value - theirs.value).abs() <= ours.spread + theirs.spread
                })
        };
        self.samples
            .keys()
            .copied()
            .filter(|(row, _)| row.can_be_counted())
            .filter(|&(row, column)| all || within(row, column))
            .collect()
    }
}

/// A median and its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Median {
    pub(crate) value: f64,
    /// Half of the distance between the smallest and the largest.
    pub(crate) spread: f64,
}

impl Median {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let value = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self {
            value,
            spread: (last - first) / 2.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one() {
        let median = Median::of(vec![3.0, 1.0, 10.0]).unwrap();
        assert_eq!((median.value, median.spread), (3.0, 4.5));
        assert_eq!(Median::of(vec![1.0, 2.0]).unwrap().value, 1.5);
        assert_eq!(Median::of(Vec::new()), None);
    }
}
