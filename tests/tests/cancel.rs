//! Cancelling: the query asked for, never another's.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{Balancer, Pooler, Postgres, Raw, raw};

#[allow(dead_code, unreachable_pub, reason = "it answers other tests too")]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#[path = "../../proxy/tests/support/dns.rs"]
mod dns;

use dns::Dns;

const LIMIT: Duration = Duration::from_secs(30);

fn one_server() -> Result<(Postgres, Pooler)> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("default_pool_size", "1")
        .start()?;
    Ok((postgres, pooler))
}

/// Or has slept: a short sleep may be over before a busy machine has looked.
fn wait_until_it_sleeps(postgres: &Postgres) -> Result<()> {
    tests::wait::until_true("the query to run", LIMIT, || {
        postgres
            .sql(
                "postgres",
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' \
                 AND query LIKE '%pg_sleep%' AND (wait_event = 'PgSleep' OR state = 'idle')",
            )
            .is_ok_and(|count| count == "1")
    })?;
    Ok(())
}

#[test]
fn a_running_query_ends_with_57014() -> Result<()> {
    let (postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.send(&proxy_core::wire::query("SELECT pg_sleep(300)"))?;
    wait_until_it_sleeps(&postgres)?;
    raw::cancel(pooler.address(), &client.key)?;
    assert_eq!(client.until_ready()?.code(), "57014");
    assert_eq!(client.value("SELECT 1")?, "1", "the session goes on");
    Ok(())
}

#[test]
fn a_wrong_key_cancels_nothing() -> Result<()> {
    let (postgres, pooler) = one_server()?;
    let mut client = pooler.client()?;
    client.send(&proxy_core::wire::query("SELECT pg_sleep(1), 'done'"))?;
    wait_until_it_sleeps(&postgres)?;
    let mut key = client.key.clone();
    key[5] ^= 0x55;
    raw::cancel(pooler.address(), &key)?;
    assert_eq!(client.until_ready()?.code(), "");
    Ok(())
}

#[test]
fn an_idle_client_has_nothing_to_cancel() -> Result<()> {
    let (postgres, pooler) = one_server()?;
    let mut idle = pooler.client()?;
    idle.value("SELECT 1")?;
    // The server that the idle client used is now somebody else's.
    let mut other = pooler.client()?;
    other.send(&proxy_core::wire::query("SELECT pg_sleep(1), 'mine'"))?;
    wait_until_it_sleeps(&postgres)?;
    for _ in 0..5 {
        raw::cancel(pooler.address(), &idle.key)?;
    }
    assert_eq!(
        other.until_ready()?.code(),
        "",
        "another's query was cancelled"
    );
    Ok(())
}

/// A client that waits with `request`, for another holds the only server.
fn waiting(pooler: &Pooler, request: &[u8]) -> Result<Raw> {
    let mut waiting = pooler.client()?;
    waiting.send(request)?;
    // Seen waiting, or the cancel could overtake the query.
    let mut console = pooler.console()?;
    tests::wait::until_true("it to wait", LIMIT, || {
        console.query("SHOW POOLS").is_ok_and(|outcome| {
            let columns = outcome.columns();
            let at = columns.iter().position(|name| name == "cl_waiting");
            outcome
                .rows()
                .iter()
                .any(|row| at.is_some_and(|at| row[at].as_deref() == Some("1")))
        })
    })?;
    Ok(waiting)
}

#[test]
fn a_waiting_client_can_be_cancelled() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut holder = pooler.client()?;
    holder.query("BEGIN")?;
    let mut waiting = waiting(&pooler, &proxy_core::wire::query("SELECT 1"))?;
    raw::cancel(pooler.address(), &waiting.key)?;
    // PgBouncer closes such a client; an error to it is as good.
    match waiting.until_ready() {
        Ok(outcome) => assert_eq!(outcome.code(), "57014"),
        Err(error) => drop(error),
    }
    assert_eq!(holder.value("SELECT 2")?, "2", "the holder goes on");
    Ok(())
}

/// As drivers do that read what a statement returns before they go on: the
/// Sync comes later, and the session goes on behind it.
#[test]
fn a_waiting_batch_without_its_sync_can_be_cancelled() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let mut holder = pooler.client()?;
    holder.query("BEGIN")?;
    let batch = [raw::parse("", "SELECT 1"), raw::flush()].concat();
    let mut waiting = waiting(&pooler, &batch)?;
    raw::cancel(pooler.address(), &waiting.key)?;
    waiting.send(&raw::sync())?;
    assert_eq!(waiting.until_ready()?.code(), "57014");
    holder.query("COMMIT")?;
    assert_eq!(waiting.value("SELECT 2")?, "2", "the session goes on");
    Ok(())
}

/// Cancels race with the end of their query, while others reuse the server: a
/// late one must never hit the next client.
#[test]
fn a_late_cancel_never_hits_the_next_client() -> Result<()> {
    let (_postgres, pooler) = one_server()?;
    let address = pooler.address();
    let deadline = Instant::now() + Duration::from_secs(4);
    let victim = thread::spawn(move || -> Result<u32> {
        let mut client = Raw::connect(address, "app", "shop")?;
        let mut rounds = 0;
        while Instant::now() < deadline {
            let outcome = client.query("SELECT pg_sleep(0.002), 'untouched'")?;
            anyhow::ensure!(
                outcome.error().is_none(),
                "the bystander was hit in round {rounds}: {:?}",
                outcome.error()
            );
            rounds += 1;
        }
        Ok(rounds)
    });
    let mut client = pooler.client()?;
    let mut cancelled = 0;
    let mut round = 0_u64;
    while Instant::now() < deadline {
        // It has its server when the cancel is sent, and gives it up to the
        // bystander at about the time when the cancel arrives.
        client.query("BEGIN")?;
        let sleep_ms = round % 4;
        client.send(&proxy_core::wire::query(&format!(
            "SELECT pg_sleep(0.00{sleep_ms}); COMMIT"
        )))?;
        raw::cancel(address, &client.key)?;
        if client.until_ready()?.code() == "57014" {
            cancelled += 1;
            client.query("ROLLBACK")?;
        }
        round += 1;
    }
    let untouched = victim.join().expect("does not panic")?;
    assert!(
        untouched > 20 && cancelled > 5,
        "{untouched} untouched, {cancelled} cancelled"
    );
    Ok(())
}

/// A balancer may send a cancel to any pooler: the others are found by name.
#[test]
fn a_cancel_at_a_peer_that_was_found_by_name_finds_its_query() -> Result<()> {
    if tests::pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let dns = Dns::start();
    let ips = [1, 2].map(|index| std::net::IpAddr::from([127, 0, 4, index]));
    dns.set("poolers.test", 3_600, &ips);
    let port = tests::ports::free()?;
    let start = |ip: &std::net::IpAddr| {
        Pooler::in_front_of(&postgres)
            .set("listen_addr", &ip.to_string())
            .set("listen_port", &port.to_string())
            .set("peer_discovery", "poolers.test")
            .set("peer_discovery_resolver", &dns.address.to_string())
            .start()
    };
    let _poolers = [start(&ips[0])?, start(&ips[1])?];
    let [own, other] = ips.map(|ip| SocketAddr::new(ip, port));
    for at in [other, own] {
        let mut client = Raw::connect(own, "app", "shop")?;
        client.send(&proxy_core::wire::query("SELECT pg_sleep(300)"))?;
        wait_until_it_sleeps(&postgres)?;
        raw::cancel(at, &client.key)?;
        assert_eq!(client.until_ready()?.code(), "57014");
        assert_eq!(client.value("SELECT 1")?, "1", "the session goes on");
    }
    Ok(())
}

/// The cancel is a connection of its own, and may reach the balancer too.
#[test]
fn a_cancel_through_a_balancer_finds_its_pooler() -> Result<()> {
    if tests::pooler::is_original() {
        return Ok(());
    }
    let (postgres, pooler) = one_server()?;
    let balancer = Balancer::builder()
        .poolers(std::slice::from_ref(&pooler))
        .start()?;
    let mut client = Raw::connect(balancer.address(), "app", "shop")?;
    client.send(&proxy_core::wire::query("SELECT pg_sleep(300)"))?;
    wait_until_it_sleeps(&postgres)?;
    raw::cancel(balancer.address(), &client.key)?;
    assert_eq!(client.until_ready()?.code(), "57014");
    Ok(())
}
