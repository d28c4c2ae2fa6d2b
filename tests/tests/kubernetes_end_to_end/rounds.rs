//! pgbench at work beside the applications, whose own account of itself counts.
//!
//! It cannot connect anew: a client whose connection ends is given up, and the
//! others go on without it. With `--connect` it would make a connection for each
//! transaction, and give up as well when one ends before its first statement. So
//! it runs in short rounds of a few transactions a client, and the command in
//! which a client was given up tells the end of an idle connection (BEGIN, which
//! no server has seen) from that of a transaction.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use tests::{Pgbench, pgbench::Report};

use crate::world::World;

const CLIENTS: u32 = 4;
/// A round takes some seconds.
const TRANSACTIONS: u32 = 100;
const SCRIPT: &str = "BEGIN;\nINSERT INTO rounds VALUES (1);\nSELECT pg_sleep(0.02);\nCOMMIT;\n";
/// Of a client that was given up, in the first command of the script.
const IN_BEGIN: &str = " aborted in command 0 ";

pub(crate) struct Rounds {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Sum>>,
}

#[derive(Debug, Default)]
struct Sum {
    rounds: u64,
    transactions: u64,
    failed: u64,
    /// Clients that were given up between two transactions.
    moved: u64,
    /// What else was complained of.
    faults: Vec<String>,
}

impl Rounds {
    pub(crate) fn start(world: &World) -> Result<Self> {
        world.sql(
            &world.password,
            "DROP TABLE IF EXISTS rounds; CREATE TABLE rounds (entry bigint)",
        )?;
        let (address, password) = (world.service()?, world.password.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut sum = Sum::default();
            while !stopped.load(Ordering::Relaxed) {
                sum.add(&round(address, &password)?);
            }
            Ok(sum)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it, and fails unless every transaction that began was answered, and
    /// is in the database.
    pub(crate) fn finish(self, world: &World) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let sum = self.thread.join().expect("the thread does not panic")?;
        println!("    pgbench: {sum:?}");
        ensure!(
            sum.transactions > 0 && sum.failed == 0 && sum.faults.is_empty(),
            "{sum:?}"
        );
        let kept: u64 = world
            .sql(&world.password, "SELECT count(*) FROM rounds")?
            .parse()?;
        ensure!(
            kept == sum.transactions,
            "{kept} are in the database: {sum:?}"
        );
        Ok(())
    }
}

fn round(address: SocketAddr, password: &str) -> Result<Report> {
    Pgbench::against(address)
        .option("dbname=postgres")
        .option(&format!("password={password}"))
        .clients(CLIENTS, 1)
        .transactions(TRANSACTIONS)
        .script(SCRIPT)
        .run()
        .context("a round of pgbench")
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.rounds += 1;
        self.transactions += report.transactions;
        self.failed += report.failed;
        let complaints = report.output.lines().filter(|line| line.contains("error:"));
        let before = (self.moved, self.faults.len());
        for complaint in complaints {
            if complaint.contains(IN_BEGIN) {
                self.moved += 1;
            } else if !complaint.contains("Run was aborted") {
                self.faults.push(complaint.to_owned());
            }
        }
        if !report.clean && before == (self.moved, self.faults.len()) {
            self.faults.push(report.output.clone());
        }
    }
}
