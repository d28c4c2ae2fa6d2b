//! `pgbench`, and what it reports.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Child, Postgres, Scratch, binaries,
    child::{self, As},
};

/// A run to be.
#[derive(Clone, Debug)]
pub struct Pgbench {
    connection: String,
    arguments: Vec<String>,
    script: Option<String>,
    log: bool,
    length: Length,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Time(Duration),
    /// For each client.
    Transactions(u32),
}

/// What a run reported.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Transactions that succeeded.
    pub transactions: u64,
    /// Transactions that failed for good.
    pub failed: u64,
    /// Transactions per second, without the time to connect.
    pub tps: f64,
    /// Whether it ended with exit code 0: no client had to give up.
    pub clean: bool,
    /// Everything it printed.
    pub output: String,
    /// One entry for each transaction, if it was asked to log them.
    pub log: Vec<Logged>,
}

/// A transaction of pgbench's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// When it ended, since the epoch.
    pub ended: Duration,
}

impl Report {
    /// Latency below which `part` (0 to 1) of the logged transactions lie.
    #[must_use]
    pub fn latency(&self, part: f64) -> Duration {
        let mut took: Vec<u64> = self.log.iter().map(|entry| entry.took_us).collect();
        took.sort_unstable();
        let last = took.len().saturating_sub(1);
        let index = (last as f64 * part).round() as usize;
        Duration::from_micros(took.get(index).copied().unwrap_or(0))
    }

    /// Fails unless every client went through without an error.
    ///
    /// # Errors
    /// With pgbench's output.
    pub fn check_clean(&self) -> Result<()> {
        ensure!(
            self.clean && self.failed == 0 && self.transactions > 0,
            "pgbench was not clean: {}",
            self.output
        );
        Ok(())
    }
}

/// Makes pgbench's tables on `database`.
///
/// # Errors
/// With pgbench's own words.
pub fn initialise(postgres: &Postgres, user: &str, database: &str, scale: u32) -> Result<()> {
    let connection = format!(
        "host={} port={} user={user} dbname={database} password=secret",
        postgres.address().ip(),
        postgres.port()
    );
    let output = Command::new(binaries::postgresql("pgbench")?)
        .args(["-i", "-q", "-s", &scale.to_string(), &connection])
        .stdin(Stdio::null())
        .output()
        .context("pgbench does not start")?;
    ensure!(
        output.status.success(),
        "pgbench -i failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Pgbench {
    /// Against `address` as `app` on `shop`, password `secret`; one client, five seconds.
    #[must_use]
    pub fn against(address: SocketAddr) -> Self {
        Self {
            connection: format!(
                "host={} port={} user=app dbname=shop password=secret connect_timeout=10",
                address.ip(),
                address.port()
            ),
            arguments: vec!["-n".to_owned()],
            script: None,
            log: false,
            length: Length::Time(Duration::from_secs(5)),
        }
    }

    /// Further words of the connection string, such as `sslmode=require`.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.connection.push(' ');
        self.connection.push_str(option);
        self
    }

    /// Clients, and threads to drive them.
    #[must_use]
    pub fn clients(self, clients: u32, threads: u32) -> Self {
        self.argument(&format!("--client={clients}"))
            .argument(&format!("--jobs={threads}"))
    }

    /// How long, in whole seconds.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.length = Length::Time(time);
        self
    }

    /// How many transactions each client does, however long that takes.
    #[must_use]
    pub fn transactions(mut self, each: u32) -> Self {
        self.length = Length::Transactions(each);
        self
    }

    /// `simple`, `extended` or `prepared`.
    #[must_use]
    pub fn protocol(self, protocol: &str) -> Self {
        self.argument(&format!("--protocol={protocol}"))
    }

    /// Reads only.
    #[must_use]
    pub fn select_only(self) -> Self {
        self.argument("--select-only")
    }

    /// A script of its own in place of the built-in ones; the last one counts.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.script = Some(script.to_owned());
        self
    }

    /// Any other argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Logs every transaction, for percentiles.
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.log = true;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it does not start or does not end in time; clients that fail are in
    /// the report.
    pub fn run(&self) -> Result<Report> {
        self.start()?.finish()
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self) -> Result<Running> {
        let dir = Scratch::new()?;
        let mut command = child::command(&binaries::postgresql("pgbench")?, As::Ourselves);
        command
            .args(&self.arguments)
            .arg(match self.length {
                Length::Time(time) => format!("--time={}", time.as_secs().max(1)),
                Length::Transactions(each) => format!("--transactions={each}"),
            })
            .current_dir(dir.path());
        if let Some(script) = &self.script {
            command.arg("-f").arg(dir.write("script.sql", script)?);
        }
        if self.log {
            command.args(["--log", "--log-prefix=transactions"]);
        }
        command.arg(&self.connection);
        let output = dir.path().join("output");
        Ok(Running {
            child: Child::start(command, &output)?,
            limit: match self.length {
                Length::Time(time) => time + Duration::from_secs(30),
                Length::Transactions(_) => Duration::from_secs(600),
            },
            dir,
        })
    }
}

/// A pgbench that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    limit: Duration,
    dir: Scratch,
}

impl Running {
    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.exited().is_some()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end half a minute after its time, or ten minutes
    /// after the start where it has none.
    pub fn finish(mut self) -> Result<Report> {
        let status = self.child.wait(self.limit)?;
        let output = self.child.log();
        let mut report = parse(&output);
        report.clean = status.success();
        report.log = read_log(self.dir.path())?;
        Ok(report)
    }
}

fn parse(output: &str) -> Report {
    let after = |start: &str| {
        output.lines().find_map(|line| {
            let rest = line.strip_prefix(start)?;
            rest.split([' ', '/', '(']).find(|word| !word.is_empty())
        })
    };
    let number = |start: &str| after(start).and_then(|word| word.parse().ok()).unwrap_or(0);
    Report {
        transactions: number("number of transactions actually processed:"),
        failed: number("number of failed transactions:"),
        tps: after("tps =")
            .and_then(|word| word.parse().ok())
            .unwrap_or(0.0),
        clean: false,
        output: output.to_owned(),
        log: Vec::new(),
    }
}

/// Lines of `client transaction latency script seconds microseconds`, a file
/// for each thread.
fn read_log(dir: &Path) -> Result<Vec<Logged>> {
    let mut log = Vec::new();
    for file in log_files(dir)? {
        for line in fs::read_to_string(file)?.lines() {
            let mut fields = line.split(' ');
            let entry = (|| {
                let took_us = fields.nth(2)?.parse().ok()?;
                let seconds: u64 = fields.nth(1)?.parse().ok()?;
                let microseconds: u64 = fields.next()?.parse().ok()?;
                Some(Logged {
                    took_us,
                    ended: Duration::from_secs(seconds) + Duration::from_micros(microseconds),
                })
            })();
            // A line may be cut, or say `failed` in place of a number.
            log.extend(entry);
        }
    }
    Ok(log)
}

fn log_files(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(dir)?
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("transactions")
        })
        .map(|entry| entry.path())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let report = parse(
            "number of transactions actually processed: 45241\n\
             number of failed transactions: 3 (0.007%)\n\
             latency average = 0.441 ms\n\
             tps = 45300.123456 (without initial connection time)\n",
        );
        assert_eq!((report.transactions, report.failed), (45_241, 3));
        assert!((report.tps - 45_300.123_456).abs() < 1e-6);
    }

    #[test]
    fn percentiles_are_of_the_log() {
        let log = (1..=100)
            .map(|took_us| Logged {
                took_us,
                ended: Duration::ZERO,
            })
            .collect();
        let report = Report {
            log,
            ..Report::default()
        };
        assert_eq!(report.latency(0.0), Duration::from_micros(1));
        assert_eq!(report.latency(1.0), Duration::from_micros(100));
    }
}
