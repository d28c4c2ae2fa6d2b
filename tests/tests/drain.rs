//! Planned work: SIGTERM drains, SIGHUP reloads, and neither cuts a transaction.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use proxy_core::wire;
use tests::{Balancer, Pooler, Postgres, Raw, Signal, http, pooler, raw, wait};

const LIMIT: Duration = Duration::from_secs(20);

fn tier() -> Result<(Postgres, Pooler)> {
    let postgres = Postgres::start()?;
    let mut builder = Pooler::in_front_of(&postgres);
    if !pooler::is_original() {
        builder = builder.set("drain_timeout", "5");
    }
    let pooler = builder.start()?;
    Ok((postgres, pooler))
}

#[test]
fn an_open_transaction_finishes_and_then_the_process_ends() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let (_postgres, mut pooler) = tier()?;
    let mut busy = pooler.client()?;
    let mut idle = pooler.client()?;
    idle.value("SELECT 1")?;
    busy.query("BEGIN")?;
    let started = Instant::now();
    pooler.signal(Signal::TERM);
    wait::until_true("it to say that it drains", Duration::from_secs(2), || {
        pooler
            .status()
            .is_ok_and(|status| status["state"] == "draining")
    })?;
    assert_eq!(http::get(pooler.http(), "/readyz")?.status, 503);
    assert_eq!(http::get(pooler.http(), "/livez")?.status, 200);
    ensure!(
        idle.closed_within(Duration::from_secs(15))?,
        "the idle client was kept"
    );
    assert_eq!(busy.value("SELECT 7")?, "7");
    assert_eq!(busy.query("COMMIT")?.tags(), ["COMMIT"]);
    ensure!(
        busy.closed_within(Duration::from_secs(15))?,
        "kept after its transaction"
    );
    let status = pooler.child().wait(Duration::from_secs(15))?;
    assert!(status.success(), "{status}");
    println!("drained in {:?}", started.elapsed());
    Ok(())
}

/// It goes on accepting for a while, because balancers learn of it only at
/// their next check; a client that comes then is served and moved on later.
#[test]
fn new_clients_are_served_while_balancers_do_not_know_yet() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let (_postgres, mut pooler) = tier()?;
    pooler.signal(Signal::TERM);
    wait::until_true("it to say that it drains", Duration::from_secs(2), || {
        pooler
            .status()
            .is_ok_and(|status| status["state"] == "draining")
    })?;
    assert_eq!(pooler.client()?.value("SELECT 1")?, "1");
    Ok(())
}

/// Their places are for the poolers that come after; who is still here gets one
/// when it needs it, within the limits.
#[test]
fn a_draining_pooler_gives_up_its_servers_while_clients_are_connected() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let mut pooler = Pooler::in_front_of(&postgres)
        // Nobody's turn to go comes before the test is over.
        .set("drain_timeout", "86400")
        .set("default_pool_size", "2")
        .set("min_pool_size", "1")
        .start()?;
    let mut clients = [pooler.client()?, pooler.client()?, pooler.client()?];
    for client in &mut clients[..2] {
        client.query("BEGIN")?;
    }
    assert_eq!(postgres.connections_of(&["app"])?, 2);
    clients[0].query("COMMIT")?;
    pooler.signal(Signal::TERM);
    let servers = |count: usize| {
        wait::until("servers to be given up", LIMIT, || {
            match postgres.connections_of(&["app"]) {
                Ok(open) if open == count => Ok(()),
                other => Err(format!("{other:?} instead of {count}")),
            }
        })
    };
    servers(1)?;
    assert_eq!(clients[1].value("SELECT 1")?, "1", "it is in a transaction");
    clients[1].query("COMMIT")?;
    servers(0)?;

    for client in &mut clients[..2] {
        client.query("BEGIN")?;
    }
    clients[2].send(&wire::query("SELECT 'third'"))?;
    wait::until_true("a client that waits", LIMIT, || {
        let status = pooler.status();
        status.is_ok_and(|status| status["clients"]["waiting"] == 1)
    })?;
    assert_eq!(
        postgres.connections_of(&["app"])?,
        2,
        "no more than the limit"
    );
    for client in &mut clients[..2] {
        assert_eq!(client.query("COMMIT")?.tags(), ["COMMIT"]);
    }
    assert_eq!(clients[2].until_ready()?.value().as_deref(), Some("third"));
    servers(0)?;

    clients[0].send(&wire::query("SELECT pg_sleep(300)"))?;
    wait::until_true("the query to run", LIMIT, || {
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        postgres.sql("postgres", asleep).is_ok_and(|it| it == "1")
    })?;
    raw::cancel(pooler.address(), &clients[0].key)?;
    assert_eq!(clients[0].until_ready()?.code(), "57014");
    servers(0)?;
    assert_eq!(clients[0].value("SELECT 7")?, "7", "it is still connected");
    Ok(())
}

/// A pooler leaves under load: pgbench's clients reconnect and nothing else.
#[test]
fn a_pooler_leaves_under_load_without_a_cut_transaction() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    postgres.sql(
        "shop",
        "CREATE TABLE done (x int); GRANT ALL ON done TO app",
    )?;
    let builder = || {
        Pooler::in_front_of(&postgres)
            .set("drain_timeout", "2")
            .start()
    };
    let mut poolers = [builder()?, builder()?];
    let balancer = Balancer::builder().poolers(&poolers).start()?;
    let address = balancer.address();
    let deadline = Instant::now() + Duration::from_secs(8);
    let clients: Vec<_> = (0..16)
        .map(|_| thread::spawn(move || keep_working(address, deadline)))
        .collect();
    poolers[0].signal(Signal::TERM);
    balancer.wait_for_state("pooler-0", "Draining", Duration::from_secs(3))?;
    let status = poolers[0].child().wait(Duration::from_secs(15))?;
    assert!(status.success(), "{status}");
    let (mut done, mut cut) = (0, 0);
    for client in clients {
        let (did, lost) = client.join().expect("does not panic")?;
        done += did;
        cut += lost;
    }
    assert_eq!(cut, 0, "of {done} transactions");
    let kept: u64 = postgres.sql("shop", "SELECT count(*) FROM done")?.parse()?;
    assert_eq!(kept, done, "what was committed and what clients were told");
    Ok(())
}

/// Transactions that were answered, and transactions that broke off in the
/// middle; a connection that ends between two is made anew and not counted.
fn keep_working(address: std::net::SocketAddr, deadline: Instant) -> Result<(u64, u64)> {
    let (mut done, mut cut) = (0, 0);
    while Instant::now() < deadline {
        let mut client = Raw::connect(address, "app", "shop")?;
        while Instant::now() < deadline {
            // An idle session may be closed while we send; PostgreSQL has not
            // seen that BEGIN, and the transaction has not begun.
            if client.query("BEGIN").is_err() {
                break;
            }
            let rest = client
                .query("INSERT INTO done VALUES (1)")
                .and_then(|_| client.query("COMMIT"));
            match rest {
                Ok(outcome) if outcome.tags() == ["COMMIT"] => done += 1,
                _ => {
                    cut += 1;
                    break;
                }
            }
        }
    }
    Ok((done, cut))
}

#[test]
fn reload_changes_pool_size_and_users_under_connected_clients() -> Result<()> {
    let postgres = Postgres::start()?;
    let mut pooler = Pooler::in_front_of(&postgres)
        .set("auth_type", "md5")
        .set("default_pool_size", "1")
        .start()?;
    postgres.sql("postgres", "CREATE ROLE late LOGIN PASSWORD 'secret'")?;
    let connected = |user: &str| {
        tests::psql::run(
            pooler.address(),
            user,
            "shop",
            "password=secret",
            "SELECT 1",
        )
    };
    assert!(connected("late").is_err());
    pooler.reload(|builder| builder.user("late", "secret").set("default_pool_size", "3"))?;
    wait::until("the new user", Duration::from_secs(5), || {
        tests::psql::run(
            pooler.address(),
            "late",
            "shop",
            "password=secret",
            "SELECT 1",
        )
        .map_err(|error| error.to_string())
    })?;
    let report = tests::Pgbench::against(pooler.address())
        .clients(6, 1)
        .script("SELECT pg_sleep(0.05);\n")
        .time(Duration::from_secs(1))
        .run()?;
    report.check_clean()?;
    assert_eq!(postgres.connections_of(&["app"])?, 3);
    Ok(())
}

/// A file that has become wrong is told and changes nothing.
#[test]
fn a_broken_reload_keeps_what_was() -> Result<()> {
    let (_postgres, mut pooler) = tier()?;
    let mut client = pooler.client()?;
    pooler.reload(|builder| builder.set("default_pool_size", "many"))?;
    wait::until_true("the log to tell", Duration::from_secs(5), || {
        pooler.log().contains("default_pool_size")
    })?;
    assert_eq!(client.value("SELECT 1")?, "1");
    assert_eq!(pooler.client()?.value("SELECT 1")?, "1");
    Ok(())
}
