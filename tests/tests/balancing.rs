//! The balancer in front of real poolers and of targets made for a test.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{Balancer, Pgbench, Pooler, Postgres, Raw, Signal, http, raw, wait};

/// Checks of the balancers here: every 200 ms, rise 2, fall 3.
const INTERVAL: Duration = Duration::from_millis(200);

fn tier(count: usize) -> Result<(Postgres, Vec<Pooler>, Balancer)> {
    let postgres = Postgres::start()?;
    let poolers = (0..count)
        .map(|_| Pooler::in_front_of(&postgres).start())
        .collect::<Result<Vec<_>>>()?;
    let balancer = Balancer::builder().poolers(&poolers).start()?;
    Ok((postgres, poolers, balancer))
}

fn client(balancer: &Balancer) -> Result<Raw> {
    Raw::connect(balancer.address(), "app", "shop")
}

/// Connections by target, as `/status` says them.
fn connections(balancer: &Balancer) -> Result<BTreeMap<String, u64>> {
    let status = balancer.status()?;
    Ok(status["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|target| {
            let name = target["name"].as_str().unwrap_or("").to_owned();
            (name, target["connections"].as_u64().unwrap_or(0))
        })
        .collect())
}

#[test]
fn connections_go_where_the_fewest_are() -> Result<()> {
    let (_postgres, _poolers, balancer) = tier(3)?;
    let mut clients = (0..30)
        .map(|_| client(&balancer))
        .collect::<Result<Vec<_>>>()?;
    let even =
        BTreeMap::from(["pooler-0", "pooler-1", "pooler-2"].map(|name| (name.to_owned(), 10)));
    wait::until_true("the count", Duration::from_secs(5), || {
        connections(&balancer).is_ok_and(|now| now == even)
    })?;
    // Nine leave; whoever comes next fills the places that became free.
    clients.truncate(21);
    wait::until_true("them to be gone", Duration::from_secs(5), || {
        connections(&balancer).is_ok_and(|now| now.values().sum::<u64>() == 21)
    })?;
    let _more = (0..9)
        .map(|_| client(&balancer))
        .collect::<Result<Vec<_>>>()?;
    wait::until_true("the count", Duration::from_secs(5), || {
        connections(&balancer).is_ok_and(|now| now == even)
    })?;
    Ok(())
}

#[test]
fn a_killed_pooler_costs_its_own_clients_a_reconnect_and_others_nothing() -> Result<()> {
    let (_postgres, mut poolers, balancer) = tier(2)?;
    let mut clients = (0..10)
        .map(|_| client(&balancer))
        .collect::<Result<Vec<_>>>()?;
    poolers[0].kill9();
    let killed = Instant::now();
    // Before any check has failed often enough: connecting elsewhere is tried at once.
    for _ in 0..10 {
        assert_eq!(client(&balancer)?.value("SELECT 1")?, "1");
    }
    let lost = clients
        .iter_mut()
        .filter_map(|client| client.value("SELECT 1").err())
        .count();
    assert_eq!(lost, 5, "half of the ten were on it");
    balancer.wait_for_state("pooler-0", "Down", INTERVAL * 3 + Duration::from_secs(1))?;
    println!("down after {:?}", killed.elapsed());
    poolers[0].start_again()?;
    balancer.wait_for_state("pooler-0", "Up", Duration::from_secs(5))?;
    Ok(())
}

#[test]
fn a_frozen_pooler_is_down_by_checks_alone_and_up_again_when_it_goes_on() -> Result<()> {
    let (_postgres, mut poolers, balancer) = tier(2)?;
    poolers[1].signal(Signal::STOP);
    let frozen = balancer.wait_for_state("pooler-1", "Down", Duration::from_secs(5))?;
    assert!(
        frozen < INTERVAL * 3 + Duration::from_secs(2),
        "after {frozen:?}"
    );
    for _ in 0..5 {
        assert_eq!(client(&balancer)?.value("SELECT 1")?, "1");
    }
    poolers[1].signal(Signal::CONT);
    balancer.wait_for_state("pooler-1", "Up", Duration::from_secs(5))?;
    Ok(())
}

/// A process that was replaced before three checks failed is told all the same.
#[test]
fn a_quick_restart_is_a_transition_of_its_own() -> Result<()> {
    let postgres = Postgres::start()?;
    let mut poolers = vec![Pooler::in_front_of(&postgres).start()?];
    let balancer = Balancer::builder()
        .poolers(&poolers)
        .check("{type: postgres, interval: 3s, rise: 1, fall: 5, timeout: 1s}")
        .start()?;
    poolers[0].start_again()?;
    let transition = wait::until("the restart", Duration::from_secs(10), || {
        let status = balancer.status().map_err(|error| error.to_string())?;
        status["transitions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|transition| transition["restarted"] == true)
            .cloned()
            .ok_or_else(|| status.to_string())
    })?;
    assert_eq!(transition["target"], "pooler-0");
    assert!(transition["bootId"].is_string(), "{transition}");
    Ok(())
}

#[test]
fn transitions_are_numbered_and_a_long_poll_misses_none() -> Result<()> {
    let (_postgres, mut poolers, balancer) = tier(2)?;
    let status = balancer.status()?;
    let boot = status["bootId"].as_str().context("no bootId")?.to_owned();
    let newest = status["newest"].as_u64().context("no newest")?;
    let poll = |since: u64, wait: &str| -> Result<serde_json::Value> {
        let path = format!("/status?since={boot}:{since}&wait={wait}");
        http::get_within(balancer.http(), &path, Duration::from_secs(40))?.json()
    };
    let started = Instant::now();
    assert_eq!(poll(newest, "1s")?["newest"], newest, "nothing happened");
    assert!(
        started.elapsed() >= Duration::from_millis(900),
        "it did not wait"
    );
    poolers[0].kill9();
    let started = Instant::now();
    let answer = poll(newest, "30s")?;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it waited for the whole time"
    );
    let transitions = answer["transitions"].as_array().context("none")?.clone();
    let first = &transitions[0];
    assert_eq!(first["number"], newest + 1);
    assert_eq!(
        (&first["target"], &first["to"]),
        (&"pooler-0".into(), &"Down".into())
    );
    assert_eq!((&first["up"], &first["total"]), (&1.into(), &2.into()));
    poolers[0].start_again()?;
    let answer = poll(newest + 1, "30s")?;
    assert_eq!(answer["transitions"][0]["number"], newest + 2);
    assert_eq!(answer["transitions"][0]["to"], "Up");
    // Everything from the beginning, and a number of another boot.
    assert_eq!(
        poll(0, "0s")?["transitions"].as_array().map(Vec::len),
        usize::try_from(newest + 2).ok()
    );
    let other = http::get(balancer.http(), "/status?since=another:1&wait=0s")?.json()?;
    assert_eq!(other["missed"], true);
    Ok(())
}

#[test]
fn without_a_target_clients_are_told_57p03() -> Result<()> {
    let (_postgres, mut poolers, balancer) = tier(1)?;
    poolers[0].kill9();
    let immediately = client(&balancer).unwrap_err();
    assert_eq!(raw::code_of(&immediately), "57P03", "{immediately:#}");
    balancer.wait_for_state("pooler-0", "Down", Duration::from_secs(5))?;
    let later = client(&balancer).unwrap_err();
    assert_eq!(raw::code_of(&later), "57P03", "{later:#}");
    // libpq asks for encryption first, and must still see the words.
    let psql = tests::psql::run(
        balancer.address(),
        "app",
        "shop",
        "sslmode=prefer",
        "SELECT 1",
    );
    let words = psql.unwrap_err().to_string();
    assert!(
        !words.contains("server closed the connection unexpectedly"),
        "{words}"
    );
    assert_eq!(
        http::get(balancer.http(), "/readyz")?.status,
        200,
        "ready all the same"
    );
    assert_eq!(http::get(balancer.http(), "/livez")?.status, 200);
    Ok(())
}

#[test]
fn one_connection_more_than_the_limit_is_told_53300() -> Result<()> {
    let postgres = Postgres::start()?;
    let poolers = [Pooler::in_front_of(&postgres).start()?];
    let balancer = Balancer::builder()
        .poolers(&poolers)
        .line("max_connections: 3")
        .start()?;
    let mut clients = (0..3)
        .map(|_| client(&balancer))
        .collect::<Result<Vec<_>>>()?;
    assert_eq!(raw::code_of(&client(&balancer).unwrap_err()), "53300");
    clients.pop();
    wait::until("a free place", Duration::from_secs(5), || {
        client(&balancer).map_err(|error| error.to_string())
    })?;
    Ok(())
}

#[test]
fn the_csv_is_haproxys() -> Result<()> {
    let (_postgres, mut poolers, balancer) = tier(2)?;
    let _client = client(&balancer)?;
    let response = http::get(balancer.http(), "/stats;csv")?;
    assert_eq!(response.status, 200);
    assert!(
        response
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain"))
    );
    let lines: Vec<&str> = response
        .body
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    let header: Vec<&str> = lines[0].split(',').collect();
    assert_eq!(
        (header[0], header[1], header[17], header[header.len() - 2]),
        ("# pxname", "svname", "status", "-")
    );
    for line in &lines {
        assert!(line.ends_with(','), "{line}");
        assert_eq!(line.split(',').count(), header.len(), "{line}");
    }
    let names: Vec<&str> = lines[1..]
        .iter()
        .filter_map(|line| line.split(',').nth(1))
        .collect();
    assert_eq!(names, ["FRONTEND", "pooler-0", "pooler-1", "BACKEND"]);
    let value = |name: &str, column: &str| -> Result<String> {
        let row = balancer.csv_row(name)?;
        let found = row.iter().find(|(key, _)| key == column);
        Ok(found.context("no such column")?.1.clone())
    };
    assert_eq!(value("FRONTEND", "status")?, "OPEN");
    assert_eq!(value("BACKEND", "status")?, "UP");
    assert_eq!(value("pooler-0", "status")?, "UP");
    assert_eq!(value("pooler-0", "type")?, "2");
    poolers[0].kill9();
    balancer.wait_for_state("pooler-0", "Down", Duration::from_secs(5))?;
    assert_eq!(value("pooler-0", "status")?, "DOWN");
    assert_eq!(value("pooler-0", "chkdown")?, "1");
    for path in ["/stats/;csv", "/;csv;norefresh"] {
        assert_eq!(
            http::get(balancer.http(), path)?.body.lines().next(),
            Some(lines[0]),
            "{path}"
        );
    }
    Ok(())
}

#[test]
fn the_dashboard_and_the_metrics_answer() -> Result<()> {
    let (_postgres, _poolers, balancer) = tier(1)?;
    let page = http::get(balancer.http(), "/stats")?;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    assert!(page.body.contains("pooler-0"));
    let metrics = http::get(balancer.http(), "/metrics")?;
    assert!(
        metrics.body.contains("poolkeeper_balancer_"),
        "{}",
        metrics.body
    );
    assert_eq!(http::get(balancer.http(), "/nowhere")?.status, 404);
    Ok(())
}

/// A target that a test plays itself, checked by a TCP connect.
fn scripted(play: fn(TcpStream) -> Result<()>) -> Result<(SocketAddr, Balancer)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A check closes without a word; that is no failure of the play.
            thread::spawn(move || play(stream));
        }
    });
    let balancer = Balancer::builder()
        .target("scripted", address)
        .check("{type: tcp, interval: 200ms, rise: 1, fall: 3, timeout: 150ms}")
        .start()?;
    Ok((address, balancer))
}

/// What begins as a start-up packet would, so that it is relayed.
fn start_up() -> Vec<u8> {
    proxy_core::wire::startup(&[("user", "app"), ("database", "shop")])
}

#[test]
fn one_direction_may_end_before_the_other() -> Result<()> {
    let (_, balancer) = scripted(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        write!(stream, "{} bytes, then the end", all.len())?;
        Ok(())
    })?;
    let mut stream = TcpStream::connect(balancer.address())?;
    stream.write_all(&start_up())?;
    stream.write_all(&[7; 1000])?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(
        answer,
        format!("{} bytes, then the end", start_up().len() + 1000)
    );
    // And the other way round: the target ends first, the client still talks.
    let (_, balancer) = scripted(|mut stream| {
        stream.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        ensure!(all.len() == start_up().len() + 5, "{} bytes", all.len());
        Ok(())
    })?;
    let mut stream = TcpStream::connect(balancer.address())?;
    stream.write_all(&start_up())?;
    assert_eq!(stream.read(&mut [0; 10])?, 0);
    stream.write_all(b"later")?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// A client that sends faster than its target reads is slowed down, not stored.
#[test]
fn a_slow_target_slows_its_client() -> Result<()> {
    let (_, balancer) = scripted(|stream| {
        // Reads nothing until the balancer gives up or the test ends.
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        thread::park_timeout(Duration::from_secs(30));
        Ok(())
    })?;
    let before = balancer.rss()?;
    let mut stream = TcpStream::connect(balancer.address())?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(&start_up())?;
    let block = vec![0; 1024 * 1024];
    let taken = (0..500)
        .take_while(|_| stream.write_all(&block).is_ok())
        .count();
    assert!(taken < 100, "{taken} MB were taken in");
    let grown = balancer.rss()?.saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "grew by {grown} bytes");
    Ok(())
}

#[test]
fn bytes_pass_unchanged_both_ways_at_once() -> Result<()> {
    let (_, balancer) = scripted(|mut stream| {
        let mut reader = stream.try_clone()?;
        std::io::copy(&mut reader, &mut stream)?;
        stream.shutdown(Shutdown::Write)?;
        Ok(())
    })?;
    let mut sender = TcpStream::connect(balancer.address())?;
    let mut receiver = sender.try_clone()?;
    let mut sent = start_up();
    sent.extend((0..8_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8));
    let copy = sent.clone();
    let writer = thread::spawn(move || -> Result<()> {
        sender.write_all(&copy)?;
        sender.shutdown(Shutdown::Write)?;
        Ok(())
    });
    let mut received = Vec::new();
    receiver.read_to_end(&mut received)?;
    writer.join().expect("does not panic")?;
    assert!(
        received == sent,
        "{} bytes came back of {}",
        received.len(),
        sent.len()
    );
    Ok(())
}

#[test]
fn sigterm_ends_it_in_time_and_lets_the_port_go() -> Result<()> {
    let (_postgres, _poolers, mut balancer) = tier(1)?;
    let mut idle = client(&balancer)?;
    let address = balancer.address();
    balancer.signal(Signal::TERM);
    wait::until_true("the port to be free", Duration::from_secs(15), || {
        TcpStream::connect(address).is_err()
    })?;
    drop(idle.closed_within(Duration::from_millis(10)));
    drop(idle);
    let status = balancer.child().wait(Duration::from_secs(70))?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn connections_survive_load_with_two_threads() -> Result<()> {
    let postgres = Postgres::start()?;
    let poolers = [
        Pooler::in_front_of(&postgres).start()?,
        Pooler::in_front_of(&postgres).start()?,
    ];
    let balancer = Balancer::builder()
        .poolers(&poolers)
        .line("threads: 2")
        .start()?;
    Pgbench::against(balancer.address())
        .clients(16, 2)
        .script("SELECT 1;\n")
        .argument("--connect")
        .time(Duration::from_secs(3))
        .run()?
        .check_clean()?;
    wait::until_true("no connection to be left", Duration::from_secs(5), || {
        connections(&balancer).is_ok_and(|now| now.values().sum::<u64>() == 0)
    })?;
    Ok(())
}
