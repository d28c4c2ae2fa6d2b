//! `cargo xtask bench`: the same pgbench work through everything that could
//! stand between applications and PostgreSQL, in interleaved rounds.
//!
//! [`mod@column`] starts what is compared, [`row`] is the work, [`measure`] runs one
//! through the other, [`idle`] weighs clients that do nothing, [`instructions`]
//! counts where a clock cannot tell, [`table`] prints and keeps the account.
//! [`operator`] is another measurement altogether.

mod column;
mod goals;
mod idle;
mod instructions;
mod measure;
mod operator;
mod row;
mod table;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{Certificate, Postgres, pgbench};

use crate::{
    calls::{cargo, root, succeeds},
    packages::{self, For},
    stage::seconds,
};
use column::Column;
use measure::Account;
use row::Row;

/// pgbench's scale: a million accounts, all of them in memory.
const SCALE: u32 = 10;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    part: Option<Part>,
    /// One short round: to see that it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Rounds; columns take turns within each, so that drift hits all alike.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Seconds of each measurement.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Rows to run, separated by commas; without it, all.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    rows: Vec<Row>,
    /// Columns to run, separated by commas; without it, all.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    columns: Vec<Column>,
    /// Count instructions for every row that can, not only where the clock does not decide.
    #[arg(long)]
    instructions: bool,
    /// Where to write the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured otherwise than by rows and columns.
#[derive(clap::Subcommand)]
enum Part {
    /// The operator with a thousand PgPoolClusters: start, CPU and memory at rest.
    Operator(operator::Flags),
}

/// What all measurements share.
struct Bench {
    postgres: Postgres,
    certificate: Certificate,
    seconds: Duration,
    /// Whether the PgBouncer at hand follows prepared statements in transaction mode.
    pgbouncer_prepares: bool,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    if let Some(Part::Operator(flags)) = &flags.part {
        return operator::run(flags);
    }
    packages::install(For::Bench)?;
    build()?;
    let rounds = flags.rounds.unwrap_or(if flags.quick { 1 } else { 3 });
    let time = flags.seconds.unwrap_or(if flags.quick { 2 } else { 5 });
    ensure!(rounds > 0 && time > 0, "rounds and seconds start at 1");
    let bench = Bench::start(Duration::from_secs(time))?;
    let mut rows: Vec<Row> = if flags.rows.is_empty() {
        Row::ALL
            .into_iter()
            .filter(|row| !(flags.quick && *row == Row::Load))
            .collect()
    } else {
        flags.rows.clone()
    };
    let load = rows.contains(&Row::Load);
    rows.retain(|row| *row != Row::Load);
    let columns = if flags.columns.is_empty() {
        Column::ALL.to_vec()
    } else {
        flags.columns.clone()
    };

    let mut account = Account::new(&bench, rounds)?;
    for round in 1..=rounds {
        for &row in &rows {
            // Whoever runs first finds the caches cold: not always the same one.
            let first = round % columns.len();
            for &column in columns[first..].iter().chain(&columns[..first]) {
                if !row.is_for(column, &bench) {
                    continue;
                }
                let sample = if row.is_idle() {
                    idle::weigh(&bench, column, row)
                } else {
                    measure::one(&bench, column, row)
                }
                .with_context(|| format!("{row} through {column}"))?;
                println!("  round {round}: {row:<16} {column:<10} {sample}");
                account.add(row, column, sample);
            }
        }
    }
    for (row, column) in account.undecided(flags.instructions) {
        let counted = instructions::count(&bench, column, row)
            .with_context(|| format!("instructions of {row} through {column}"))?;
        println!("  callgrind: {row:<16} {column:<10} {counted:.0} instructions/transaction");
        account.instructions.insert((row, column), counted);
    }
    println!("\n{}", table::text(&account, &rows, &columns));
    println!("{}", goals::text(&account));
    let json = flags
        .json
        .clone()
        .unwrap_or_else(|| root().join("target/bench.json"));
    fs::write(&json, table::json(&account)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    println!("as JSON: {}", json.display());
    if load {
        drop(bench);
        under_load(time)?;
    }
    Ok(())
}

/// The scenario that `test` runs for 5 s a combination, for a minute.
fn under_load(time: u64) -> Result<()> {
    println!("\nload: every protocol, plain and TLS, one thread and two, a minute each");
    let seconds = if time >= 5 { 60 } else { time };
    let built = succeeds(&mut cargo(&["build", "--workspace", "--bins", "--quiet"]))?;
    ensure!(built, "the workspace does not build");
    let clean = succeeds(
        cargo(&["test", "--workspace", "--quiet", "--test", "load"])
            .args(["--", "--nocapture"])
            .env("POOLKEEPER_LOAD_SECONDS", seconds.to_string()),
    )?;
    ensure!(clean, "the load was not clean");
    Ok(())
}

fn build() -> Result<()> {
    let started = std::time::Instant::now();
    println!("building what we ship (release profile) and the relay");
    let built = succeeds(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "proxy",
        "--bins",
        "--example",
        "relay",
    ]))?;
    ensure!(built, "it does not build");
    println!("  built in {}", seconds(started.elapsed()));
    Ok(())
}

impl Bench {
    fn start(seconds: Duration) -> Result<Self> {
        let postgres = Postgres::builder()
            .auth("trust")
            .max_connections(300)
            .set("synchronous_commit", "off")
            .set("shared_buffers", "512MB")
            .start()?;
        pgbench::initialise(&postgres, "app", "shop", SCALE)?;
        // Two thousand rows of a thousand bytes: a result of 2 MB.
        for sql in [
            "CREATE TABLE wide AS SELECT repeat('w', 1000) AS filler FROM generate_series(1, 2000)",
            "GRANT ALL ON wide TO app",
            "VACUUM ANALYZE",
        ] {
            postgres.sql("shop", sql)?;
        }
        Ok(Self {
            postgres,
            certificate: Certificate::new()?,
            seconds,
            pgbouncer_prepares: column::pgbouncer_version()? >= (1, 21),
        })
    }
}
