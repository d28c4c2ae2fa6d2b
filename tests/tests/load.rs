//! pgbench in every way it can talk, through a balancer and two poolers: no
//! error, and no wrong result.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Balancer, Certificate, Pgbench, Pooler, Postgres, pgbench, pooler};

/// Whole seconds of load for each combination; `cargo xtask test` takes 5.
fn seconds() -> u64 {
    std::env::var("POOLKEEPER_LOAD_SECONDS")
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(5)
}

/// What pgbench's transactions keep true: every change is in four places.
fn check_invariant(postgres: &Postgres) -> Result<u64> {
    let sums = postgres.sql(
        "shop",
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
                (SELECT sum(bbalance) FROM pgbench_branches), \
                (SELECT sum(tbalance) FROM pgbench_tellers), \
                (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
                (SELECT count(*) FROM pgbench_history)",
    )?;
    let sums: Vec<i64> = sums
        .split('|')
        .map(|sum| sum.parse().context("not a sum"))
        .collect::<Result<_>>()?;
    ensure!(
        sums[..4].iter().all(|sum| *sum == sums[0]),
        "accounts, branches, tellers and history disagree: {sums:?}"
    );
    Ok(u64::try_from(sums[4])?)
}

fn through_a_tier(threads: u32) -> Result<()> {
    let postgres = Postgres::start()?;
    pgbench::initialise(&postgres, "app", "shop", 10)?;
    let certificate = Certificate::new()?;
    let builder = || {
        let builder = Pooler::in_front_of(&postgres)
            .set("auth_type", "scram-sha-256")
            .database_line(
                "wide",
                &format!(
                    "host=127.0.0.1 port={} dbname=shop pool_size=40",
                    postgres.port()
                ),
            )
            .tls("allow", &certificate);
        if pooler::is_original() {
            builder
                .set("pool_mode", "session")
                .set("default_pool_size", "64")
        } else {
            // Fewer servers than clients, so that clients wait for one.
            builder
                .set("default_pool_size", "20")
                .set("threads", &threads.to_string())
        }
    };
    let poolers = [builder().start()?, builder().start()?];
    let balancer;
    let address = if pooler::is_original() {
        poolers[0].address()
    } else {
        balancer = Balancer::builder()
            .poolers(&poolers)
            .line(&format!("threads: {threads}"))
            .start()?;
        balancer.address()
    };
    let mut history = 0;
    for sslmode in ["disable", "require"] {
        for protocol in ["simple", "extended", "prepared"] {
            for select_only in [true, false] {
                let mut run = Pgbench::against(address)
                    .clients(64, 2)
                    .protocol(protocol)
                    .option(&format!("sslmode={sslmode}"))
                    .time(Duration::from_secs(seconds()));
                if select_only {
                    run = run.select_only();
                } else if protocol == "prepared" {
                    // pgbench waits in PQprepare for one client while others of
                    // its thread hold transactions open: with fewer servers
                    // than clients it would wait for itself.
                    run = run.option("dbname=wide");
                }
                let report = run.run()?;
                let what = format!(
                    "{protocol}, sslmode={sslmode}, {threads} threads, {}",
                    if select_only {
                        "read-only"
                    } else {
                        "read-write"
                    }
                );
                report.check_clean().with_context(|| what.clone())?;
                let written = check_invariant(&postgres).with_context(|| what.clone())?;
                let expected = if select_only { 0 } else { report.transactions };
                ensure!(
                    written - history == expected,
                    "{what}: pgbench counted {expected} transactions, PostgreSQL {}",
                    written - history
                );
                history = written;
                println!("{what}: {:.0} transactions/s", report.tps);
            }
        }
    }
    Ok(())
}

/// Servers by TLS, verified, with two threads between which they move.
fn with_tls_to_postgresql() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let certificate = Certificate::new()?;
    let postgres = Postgres::builder()
        .tls(&certificate)
        .hba("hostssl all all 127.0.0.1/32 scram-sha-256")
        .start()?;
    pgbench::initialise(&postgres, "app", "shop", 10)?;
    let pooler = Pooler::in_front_of(&postgres)
        .server_tls("verify-full", &certificate.cert)
        .set("default_pool_size", "20")
        .set("threads", "2")
        .start()?;
    let mut history = 0;
    for (protocol, select_only) in [("prepared", true), ("extended", false)] {
        let mut run = Pgbench::against(pooler.address())
            .clients(64, 2)
            .protocol(protocol)
            .time(Duration::from_secs(seconds().min(2)));
        if select_only {
            run = run.select_only();
        }
        let report = run.run()?;
        report.check_clean().with_context(|| protocol.to_owned())?;
        let written = check_invariant(&postgres)?;
        let expected = if select_only { 0 } else { report.transactions };
        ensure!(
            written - history == expected,
            "{protocol}: {written} written"
        );
        history = written;
        println!(
            "{protocol}, TLS to PostgreSQL: {:.0} transactions/s",
            report.tps
        );
    }
    Ok(())
}

// One test, so that the two do not share the machine while they run.
#[test]
fn pgbench_is_clean_in_every_mode() -> Result<()> {
    for threads in [1, 2] {
        through_a_tier(threads)?;
    }
    with_tls_to_postgresql()
}
