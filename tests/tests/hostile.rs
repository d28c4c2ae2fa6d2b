//! Clients that do what no driver does: each gets an error with a SQLSTATE or
//! a closed connection, memory stays bounded, and others notice nothing.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tests::{Balancer, Pooler, Postgres, Raw, pooler, raw, wait};

const MIB: u64 = 1024 * 1024;

struct Tier {
    _postgres: Postgres,
    pooler: Pooler,
}

fn tier() -> Result<Tier> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("client_login_timeout", "2")
        .set("auth_type", "trust")
        .set("default_pool_size", "80")
        .start()?;
    Ok(Tier {
        _postgres: postgres,
        pooler,
    })
}

impl Tier {
    /// A client that works all the while must see nothing.
    fn others_go_on(&self) -> Result<()> {
        ensure!(self.pooler.client()?.value("SELECT 42")? == "42");
        Ok(())
    }
}

/// Either an error with a SQLSTATE comes, or the connection is closed, in time.
fn ends_clearly(mut client: Raw, limit: Duration) -> Result<String> {
    let started = Instant::now();
    ensure!(client.closed_within(limit)?, "it was left open");
    ensure!(started.elapsed() < limit, "it took {:?}", started.elapsed());
    match client.last_words() {
        Ok(error) => {
            ensure!(error.code.len() == 5, "no SQLSTATE in {error}");
            Ok(error.code)
        }
        Err(_) => Ok(String::new()),
    }
}

#[test]
fn garbage_in_place_of_a_start_up_packet() -> Result<()> {
    let tier = tier()?;
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x08\x00\x02\x00\x00",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2e",
        &[0xff; 4096],
    ];
    for bytes in garbage {
        let mut client = Raw::open(tier.pooler.address())?;
        client.send(bytes)?;
        ends_clearly(client, Duration::from_secs(5))?;
    }
    tier.others_go_on()
}

#[test]
fn half_a_start_up_packet_is_waited_for_but_not_for_ever() -> Result<()> {
    let tier = tier()?;
    let packet = proxy_core::wire::startup(&[("user", "app"), ("database", "shop")]);
    let mut client = Raw::open(tier.pooler.address())?;
    client.send(&packet[..10])?;
    tier.others_go_on()?;
    ends_clearly(client, Duration::from_secs(6))?;
    // And byte by byte is slow, not wrong.
    let mut slow = Raw::open(tier.pooler.address())?;
    for byte in &packet {
        slow.send(&[*byte])?;
    }
    slow.log_in("")?;
    Ok(())
}

#[test]
fn nothing_sent_at_all_is_closed_after_the_login_timeout() -> Result<()> {
    let tier = tier()?;
    let client = Raw::open(tier.pooler.address())?;
    ends_clearly(client, Duration::from_secs(6))?;
    tier.others_go_on()
}

#[test]
fn two_gigabytes_announced_cost_nothing() -> Result<()> {
    let tier = tier()?;
    let before = tier.pooler.rss()?;
    // As a start-up packet.
    let mut client = Raw::open(tier.pooler.address())?;
    client.send(&0x7fff_fff0_u32.to_be_bytes())?;
    client.send(&[0; 100])?;
    ends_clearly(client, Duration::from_secs(5))?;
    // As messages of a session; lengths below four, and beyond PostgreSQL's limit.
    for length in [0x7fff_fff0_u32, 0x4000_0000, 0xffff_ffff, 3, 0] {
        let mut client = tier.pooler.client()?;
        client.value("SELECT 1")?;
        let mut message = vec![b'Q'];
        message.extend(length.to_be_bytes());
        message.extend([b'x'; 100]);
        client.send(&message)?;
        ends_clearly(client, Duration::from_secs(5))?;
    }
    let grown = tier.pooler.rss()?.saturating_sub(before);
    assert!(grown < 8 * MIB, "grew by {grown} bytes");
    tier.others_go_on()
}

/// A length that PostgreSQL would take, of which little ever comes. Each may
/// hold a server, as an open transaction would, and no memory.
#[test]
fn a_large_message_that_never_comes_holds_no_memory() -> Result<()> {
    let tier = tier()?;
    let before = tier.pooler.rss()?;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = tier.pooler.client()?;
        let mut message = vec![b'Q'];
        message.extend((500 * 1024 * 1024_u32).to_be_bytes());
        message.extend(vec![b' '; 8192]);
        client.send(&message)?;
        clients.push(client);
    }
    tier.others_go_on()?;
    let grown = tier.pooler.rss()?.saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes for 10 clients");
    Ok(())
}

#[test]
fn garbage_inside_a_session_ends_it_alone() -> Result<()> {
    let tier = tier()?;
    for message in [
        proxy_core::wire::message(b'!', |out| out.extend(b"what")),
        proxy_core::wire::message(0, |_| {}),
        proxy_core::wire::message(b'P', |out| out.extend(b"no zero")),
        proxy_core::wire::message(b'B', |out| out.extend(b"\0")),
    ] {
        let mut client = tier.pooler.client()?;
        client.send(&[message.clone(), raw::sync()].concat())?;
        let ended = match client.until_ready() {
            Ok(outcome) => outcome.code(),
            Err(error) => raw::code_of(&error),
        };
        // PostgreSQL's own verdict on its own kind of garbage is fine as well.
        ensure!(
            ended.is_empty()
                || ended.starts_with("08")
                || ended.starts_with("26")
                || ended.starts_with("22"),
            "{message:?} ended in {ended}"
        );
        tier.others_go_on()?;
    }
    Ok(())
}

/// A client that asks for much and reads nothing costs a bounded amount, and
/// nobody but itself.
#[test]
fn a_client_that_stops_reading() -> Result<()> {
    let tier = tier()?;
    let before = tier.pooler.rss()?;
    let mut deaf: Vec<Raw> = (0..5)
        .map(|_| tier.pooler.client())
        .collect::<Result<_>>()?;
    for client in &mut deaf {
        client.send(&proxy_core::wire::query(
            "SELECT repeat('x', 1000) FROM generate_series(1, 200000)",
        ))?;
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        tier.others_go_on()?;
    }
    let grown = tier.pooler.rss()?.saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes for 5 deaf clients");
    // When it reads at last, everything is there.
    let outcome = deaf[0].until_ready()?;
    assert_eq!(outcome.rows().len(), 200_000);
    Ok(())
}

/// A client that sends and never reads what it is answered.
#[test]
fn a_client_that_only_sends() -> Result<()> {
    let tier = tier()?;
    let before = tier.pooler.rss()?;
    let client = tier.pooler.client()?;
    let query = proxy_core::wire::query("SELECT repeat('y', 10000)").repeat(1000);
    let mut stream = client.stream().try_clone()?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let sender = thread::spawn(move || {
        // Blocks when the pooler stops taking more, which it must.
        (0..1000)
            .take_while(|_| stream.write_all(&query).is_ok())
            .count()
    });
    let taken = sender.join().expect("does not panic");
    assert!(
        taken < 1000,
        "45 MB of queries were taken in without an answer read"
    );
    let grown = tier.pooler.rss()?.saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes");
    tier.others_go_on()
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() -> Result<()> {
    let tier = tier()?;
    for _ in 0..20 {
        tier.others_go_on()?;
    }
    let settled = tests::descriptors(tier.pooler.pid())?;
    let before = tier.pooler.rss()?;
    for round in 0..2000 {
        let mut client = Raw::open(tier.pooler.address())?;
        match round % 4 {
            0 => {}
            1 => client.send(b"GET / HTTP/1.0\r\n\r\n")?,
            2 => client.send(&proxy_core::wire::ssl_request())?,
            _ => client.send(&proxy_core::wire::startup(&[
                ("user", "app"),
                ("database", "shop"),
            ]))?,
        }
    }
    wait::until_true(
        "descriptors to be given back",
        Duration::from_secs(10),
        || tests::descriptors(tier.pooler.pid()).is_ok_and(|open| open <= settled + 2),
    )?;
    let grown = tier.pooler.rss()?.saturating_sub(before);
    assert!(grown < 8 * MIB, "grew by {grown} bytes");
    tier.others_go_on()
}

/// The balancer reads a first packet at most, and stands what comes instead.
#[test]
fn a_balancer_stands_the_same() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let tier = tier()?;
    let balancer = Balancer::builder()
        .poolers(std::slice::from_ref(&tier.pooler))
        .start()?;
    let before = balancer.rss()?;
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0xff; 4096],
        &[0, 0, 0, 0, 0],
    ] {
        let mut client = Raw::open(balancer.address())?;
        client.send(bytes)?;
        ends_clearly(client, Duration::from_secs(10))?;
    }
    let mut deaf = Raw::connect(balancer.address(), "app", "shop")?;
    deaf.send(&proxy_core::wire::query(
        "SELECT repeat('x', 1000) FROM generate_series(1, 200000)",
    ))?;
    let mut client = Raw::connect(balancer.address(), "app", "shop")?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        assert_eq!(client.value("SELECT 1")?, "1");
    }
    let grown = balancer.rss()?.saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes");
    assert_eq!(deaf.until_ready()?.rows().len(), 200_000);
    Ok(())
}

/// A message cut in two whose rest never reaches the server: the server must
/// not be given to anybody else, for it would take their query for the rest.
#[test]
fn a_server_left_in_mid_message_serves_nobody_else() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("default_pool_size", "1")
        .start()?;
    let mut client = pooler.client()?;
    let mut first = proxy_core::wire::query("SELECT 1");
    let copy = proxy_core::wire::message(b'd', |out| out.extend([b'x'; 1_000]));
    first.extend(&copy[..15]);
    client.send(&first)?;
    ensure!(client.until_ready()?.code().is_empty());
    let mut rest = copy[15..].to_vec();
    rest.extend(proxy_core::wire::message(b'!', |_| {}));
    client.send(&rest)?;
    ends_clearly(client, Duration::from_secs(5))?;
    for _ in 0..3 {
        ensure!(pooler.client()?.value("SELECT 42")? == "42");
    }
    Ok(())
}

/// A name cannot write lines of its own into the log.
#[test]
fn a_name_cannot_forge_the_log() -> Result<()> {
    let tier = tier()?;
    let name = "x\n2026-01-01T00:00:00Z ERROR forged";
    let refused = Raw::connect(tier.pooler.address(), name, "shop").err();
    ensure!(refused.is_some_and(|error| raw::code_of(&error) == "28000"));
    wait::until_true("the refusal in the log", Duration::from_secs(5), || {
        tier.pooler.log().contains("client refused")
    })?;
    ensure!(
        !tier
            .pooler
            .log()
            .lines()
            .any(|line| line.contains("forged") && line.starts_with("2026-01-01")),
        "it did"
    );
    Ok(())
}
