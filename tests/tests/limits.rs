//! The promised numbers of one pooler: 4,000 clients on 70 servers, and what
//! the one too many is told.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{Pooler, Postgres, Raw, pooler, raw, wait};

const CLIENTS: usize = 4000;
const SERVERS: usize = 70;

/// Sums what every client of `clients` gets for a query that all send before
/// anybody's answer is read.
fn all_ask(clients: &mut [Raw], round: usize) -> Result<()> {
    for (number, client) in clients.iter_mut().enumerate() {
        let sql = format!("SELECT {number} + {round}");
        client.send(&proxy_core::wire::query(&sql))?;
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let outcome = client
            .until_ready()
            .with_context(|| format!("client {number} in round {round}"))?;
        ensure!(
            outcome.value() == Some((number + round).to_string()),
            "client {number} got another's answer: {:?}",
            outcome.messages
        );
    }
    Ok(())
}

#[test]
fn four_thousand_clients_share_seventy_servers_and_one_more_is_refused() -> Result<()> {
    let postgres = Postgres::builder().max_connections(300).start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("max_client_conn", &CLIENTS.to_string())
        .set("default_pool_size", &SERVERS.to_string())
        .start()?;
    let address = pooler.address();
    let mut clients = (0..CLIENTS)
        .map(|number| {
            Raw::connect(address, "app", "shop").with_context(|| format!("client {number}"))
        })
        .collect::<Result<Vec<_>>>()?;
    for round in 0..3 {
        all_ask(&mut clients, round)?;
    }
    let servers = postgres.connections_of(&["app"])?;
    assert!(servers <= SERVERS, "{servers} servers");

    let one_more = Raw::connect(address, "app", "shop").expect_err("4,001 clients were let in");
    if pooler::is_original() {
        assert!(
            one_more.to_string().contains("max_client_conn"),
            "{one_more:#}"
        );
    } else {
        assert_eq!(raw::code_of(&one_more), "53300", "{one_more:#}");
        assert!(
            one_more.to_string().contains("4000"),
            "the limit is named: {one_more:#}"
        );
        let status = pooler.status()?;
        assert_eq!(status["clients"]["total"], CLIENTS);
        assert_eq!(status["clients"]["max"], CLIENTS);
    }
    // A place that becomes free is given away again.
    drop(clients.pop());
    wait::until("a place to be free", Duration::from_secs(5), || {
        Raw::connect(address, "app", "shop").map_err(|error| error.to_string())
    })?;
    Ok(())
}

/// Nobody waits longer than the queue explains. Whose turn it is, `proxy-core` tests.
#[test]
fn waiting_clients_are_served_in_turn() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("default_pool_size", "10")
        .start()?;
    let address = pooler.address();
    let started = Instant::now();
    let threads: Vec<_> = (0..100)
        .map(|_| {
            thread::spawn(move || -> Result<Duration> {
                let mut client = Raw::connect(address, "app", "shop")?;
                let started = Instant::now();
                for _ in 0..3 {
                    client.value("SELECT 1 FROM pg_sleep(0.01)")?;
                }
                Ok(started.elapsed())
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for thread in threads {
        slowest = slowest.max(thread.join().expect("does not panic")?);
    }
    // 100 clients × 3 queries of 10 ms on 10 servers are 300 ms of sleep.
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(
        slowest < Duration::from_secs(9),
        "somebody waited {slowest:?}"
    );
    Ok(())
}

#[test]
fn a_client_that_waits_too_long_is_told() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("default_pool_size", "1")
        .set("query_wait_timeout", "1")
        .start()?;
    let mut holder = pooler.client()?;
    holder.query("BEGIN")?;
    let mut waiting = pooler.client()?;
    let started = Instant::now();
    let refused = waiting.query("SELECT 1").map(|outcome| outcome.code());
    let waited = started.elapsed();
    let error = refused.expect_err("the wait ends the session, as in PgBouncer");
    assert!(
        error.to_string().contains("query_wait_timeout"),
        "{error:#}"
    );
    assert!(
        waited >= Duration::from_millis(900) && waited < Duration::from_secs(4),
        "after {waited:?}"
    );
    assert_eq!(holder.value("SELECT 1")?, "1");
    Ok(())
}

/// Clients may invent as many names as they like.
#[test]
fn a_database_that_does_not_exist_leaves_no_pool() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .database("*", &postgres)
        .set("threads", "2")
        .set("min_pool_size", "1")
        .start()?;
    let address = pooler.address();
    let threads: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || Raw::connect(address, "app", &format!("made_up_{}", number / 2)))
        })
        .collect();
    for thread in threads {
        let refused = thread.join().expect("does not panic");
        ensure!(raw::code_of(&refused.expect_err("no such database")) == "3D000");
    }
    ensure!(Raw::connect(address, "app", "shop")?.value("SELECT 1")? == "1");
    let mut console = pooler.console()?;
    wait::until("the pools' end", Duration::from_secs(10), || {
        let rows = console
            .query("SHOW POOLS")
            .map_err(|error| error.to_string())?;
        let names = rows.rows().into_iter().filter_map(|row| row[0].clone());
        let names: Vec<String> = names.filter(|name| name != "pgbouncer").collect();
        (names == ["shop"])
            .then_some(())
            .ok_or(format!("{names:?}"))
    })
}

/// As by PostgreSQL itself; and the new password is tried as soon as it is known.
#[test]
fn who_comes_while_a_password_is_wrong_is_told_at_once() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::builder().auth("scram-sha-256").start()?;
    let mut pooler = Pooler::in_front_of(&postgres)
        .set("auth_type", "trust")
        .set("server_login_retry", "60")
        .start()?;
    pooler.client()?.value("SELECT 1")?;
    postgres.sql("postgres", "ALTER ROLE app PASSWORD 'other'")?;
    let mut console = pooler.console()?;
    console.query("RECONNECT")?;
    let started = Instant::now();
    for attempt in 0..30 {
        let refused = pooler
            .client()
            .and_then(|mut client| client.value("SELECT 1"));
        let Err(error) = refused else {
            // The server of before may still be closing.
            ensure!(attempt < 10, "let in with a wrong password");
            continue;
        };
        ensure!(raw::code_of(&error) == "28P01", "{error:#}");
    }
    ensure!(started.elapsed() < Duration::from_secs(20), "they waited");
    pooler.reload(|builder| builder.user("app", "other"))?;
    wait::until("the new password", Duration::from_secs(10), || {
        let answer = pooler
            .client()
            .and_then(|mut client| client.value("SELECT 1"));
        answer.map_err(|error| error.to_string())
    })?;
    Ok(())
}

#[test]
fn a_pool_never_exceeds_its_size_with_two_threads() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("default_pool_size", "5")
        .set("threads", "2")
        .start()?;
    let mut load = tests::Pgbench::against(pooler.address())
        .clients(40, 2)
        .script("SELECT 1;\n")
        .time(Duration::from_secs(3))
        .start()?;
    let mut most = 0;
    while !load.ended() {
        most = most.max(postgres.connections_of(&["app"])?);
    }
    load.finish()?.check_clean()?;
    assert!((1..=5).contains(&most), "{most} servers for a pool of 5");
    Ok(())
}

#[test]
fn limits_of_a_database_and_of_a_user() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .user("second", "secret")
        .set("max_db_connections", "3")
        .start()?;
    postgres.sql("postgres", "CREATE ROLE second LOGIN PASSWORD 'secret'")?;
    let threads: Vec<_> = ["app", "second"]
        .into_iter()
        .flat_map(|user| std::iter::repeat_n(user, 6))
        .map(|user| {
            let address = pooler.address();
            thread::spawn(move || -> Result<String> {
                Raw::connect(address, user, "shop")?.value("SELECT 1 FROM pg_sleep(0.2)")
            })
        })
        .collect();
    let mut most = 0;
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        most = most.max(postgres.connections_of(&["app", "second"])?);
    }
    for thread in threads {
        thread.join().expect("does not panic")?;
    }
    assert!(most <= 3, "{most} servers, and max_db_connections is 3");
    Ok(())
}
