//! What clients get: a target, its bytes, both ends' ends, or a clear error.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use proxy_core::wire;
use socket2::SockRef;

use crate::{
    balancer::{Balancer, Config},
    client::{Client, read_error, read_line},
    support::{PATIENCE, connect, http, wait_for},
    target::Target,
};

fn three_targets() -> [Target; 3] {
    ["pooler-0", "pooler-1", "pooler-2"].map(Target::start)
}

fn count(clients: &[Client], target: &str) -> usize {
    clients
        .iter()
        .filter(|client| client.target == target)
        .count()
}

#[test]
fn new_connections_go_where_the_fewest_are() {
    let targets = three_targets();
    let balancer = Balancer::serving(&Config::over(&targets));
    let mut clients: Vec<Client> = (0..9).map(|_| balancer.client()).collect();
    for target in &targets {
        assert_eq!(count(&clients, &target.name), 3, "{}", target.name);
    }
    clients.retain(|client| client.target != "pooler-1");
    wait_for("the closed sessions to be counted", || {
        (balancer.csv("pooler-1", "scur") == "0").then_some(())
    });
    let next: Vec<Client> = (0..3).map(|_| balancer.client()).collect();
    assert_eq!(count(&next, "pooler-1"), 3);
}

#[test]
fn a_star_listens_on_ipv4_and_ipv6() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]).bind("*:0"));
    let mut hosts: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    if TcpListener::bind("[::1]:0").is_ok() {
        hosts.push(Ipv6Addr::LOCALHOST.into());
    }
    for host in hosts {
        let client = Client::connect((host, balancer.address.port()).into());
        assert_eq!(client.target, "pooler-0", "{host}");
        let web = SocketAddr::new(host, balancer.web.port());
        assert_eq!(http::get(web, "/readyz").status, 200, "{host}");
    }
}

#[test]
fn roundrobin_takes_each_in_turn() {
    let targets = three_targets();
    let config = Config::over(&targets).with("algorithm: roundrobin");
    let balancer = Balancer::serving(&config);
    let names: Vec<String> = (0..6).map(|_| balancer.client().target).collect();
    assert_eq!(names[..3], names[3..]);
    let mut once = names[..3].to_vec();
    once.sort();
    assert_eq!(once, ["pooler-0", "pooler-1", "pooler-2"]);
}

#[test]
fn a_refused_connect_is_tried_on_another_target_and_checked_at_once() {
    let mut targets = three_targets();
    // By the interval alone the second check would come after the test.
    let check = "{interval: 40s, timeout: 1s, rise: 1, fall: 1}";
    let config = Config::over(&targets).check(check);
    let balancer = Balancer::serving(&config);
    targets[0].close_port();
    let clients: Vec<Client> = (0..6).map(|_| balancer.client()).collect();
    assert_eq!(count(&clients, "pooler-0"), 0);
    assert!(balancer.csv("pooler-0", "wredis").parse::<u32>().unwrap() > 0);
    assert_eq!(
        balancer.csv("BACKEND", "wredis"),
        balancer.csv("BACKEND", "econ"),
        "every failed connect was made elsewhere"
    );
    assert_eq!(balancer.status().targets[0].connections, 0);
}

#[test]
fn a_failed_connect_has_its_target_checked_early() {
    let mut targets = three_targets();
    let check = "{interval: 4s, timeout: 1s, rise: 1, fall: 1}";
    let balancer = Balancer::serving(&Config::over(&targets).check(check));
    targets[0].close_port();
    let begin = std::time::Instant::now();
    let _clients: Vec<Client> = (0..3).map(|_| balancer.client()).collect();
    wait_for("the check", || {
        (balancer.csv("pooler-0", "chkfail") == "1").then_some(())
    });
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(balancer.csv("pooler-0", "status"), "DOWN");
}

#[test]
fn without_a_target_a_client_is_told_in_its_own_protocol() {
    let mut target = Target::start("pooler-0");
    target.close_port();
    let balancer = Balancer::serving(&Config::over([&target]).check("{fall: 1}"));
    let startup = wire::startup(&[("user", "ann"), ("database", "shop")]);

    let mut plain = connect(balancer.address);
    plain.write_all(&startup).unwrap();
    let (code, text) = read_error(&mut plain);
    assert_eq!(code, "57P03");
    assert_eq!(text, "no pooler is up: 1 down");

    let mut asks_for_tls = connect(balancer.address);
    asks_for_tls.write_all(&wire::ssl_request()).unwrap();
    let mut answer = [0; 1];
    asks_for_tls.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    // The start-up packet may come in pieces.
    for piece in startup.chunks(7) {
        asks_for_tls.write_all(piece).unwrap();
    }
    assert_eq!(read_error(&mut asks_for_tls).0, "57P03");

    for other in [
        wire::cancel_request(&[1; 8]),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut stream = connect(balancer.address);
        stream.write_all(&other).unwrap();
        assert_eq!(stream.read(&mut answer).unwrap(), 0, "{other:?}");
    }
    assert_eq!(balancer.csv("BACKEND", "econ"), "4");
}

#[test]
fn a_client_that_never_speaks_is_not_waited_for() {
    let mut target = Target::start("pooler-0");
    target.close_port();
    let balancer = Balancer::serving(&Config::over([&target]));
    let begin = std::time::Instant::now();
    let mut silent = connect(balancer.address);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    assert!(
        begin.elapsed() > Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn above_the_limit_a_client_is_told() {
    let target = Target::start("pooler-0");
    let config = Config::over([&target]).with("max_connections: 2");
    let balancer = Balancer::serving(&config);
    let mut first = balancer.client();
    let _second = balancer.client();
    let mut third = connect(balancer.address);
    third.write_all(&wire::startup(&[("user", "ann")])).unwrap();
    let (code, text) = read_error(&mut third);
    assert_eq!(code, "53300");
    assert_eq!(text, "the balancer is at its limit of 2 connections");
    first.talk("others are served");
    drop(first);
    wait_for("a place", || {
        (balancer.status().connections == 1).then_some(())
    });
    balancer.client().talk("now there is room");
}

#[test]
fn half_a_close_is_forwarded_both_ways() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]));
    let mut client = balancer.client();
    client.stream.write_all(b"last words\n").unwrap();
    client.stream.shutdown(Shutdown::Write).unwrap();
    // The target sees the end and still answers.
    assert_eq!(read_line(&mut client.stream), "last words");
    assert_eq!(read_line(&mut client.stream), "bye");
    assert!(client.is_closed());

    // The other way round: the server ends first, the client still sends.
    let (balancer, server) = over_raw_target();
    let mut client = connect(balancer.address);
    client.write_all(b"hello").unwrap();
    let mut server = accept(&server);
    server.write_all(b"greetings").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "greetings");
    client.write_all(b" after the end").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello after the end");
    wait_for("the session's end", || {
        (balancer.status().connections == 0).then_some(())
    });
    assert_eq!(balancer.csv("raw", "cli_abrt"), "0");
    assert_eq!(balancer.csv("raw", "srv_abrt"), "0");
}

#[test]
fn a_reset_is_forwarded_as_a_reset() {
    let (balancer, server) = over_raw_target();
    let mut client = connect(balancer.address);
    let mut accepted = accept(&server);
    // A reset before the first byte would be a failed connect.
    client.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0; 1]).unwrap();
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let error = accepted.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    wait_for("the count", || {
        (balancer.csv("raw", "cli_abrt") == "1").then_some(())
    });

    let mut client = connect(balancer.address);
    let mut accepted = accept(&server);
    accepted.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    SockRef::from(&accepted)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(accepted);
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    wait_for("the count", || {
        (balancer.csv("raw", "srv_abrt") == "1").then_some(())
    });
}

#[test]
fn a_servers_last_words_reach_a_client_that_is_still_sending() {
    let (balancer, server) = over_raw_target();
    let mut client = connect(balancer.address);
    client.write_all(b"x").unwrap();
    let mut accepted = accept(&server);
    accepted.read_exact(&mut [0; 1]).unwrap();
    accepted.write_all(b"FATAL: going away").unwrap();
    // What is unread at a close makes it a reset.
    client.write_all(&[b'x'; 10_000]).unwrap();
    wait_for("unread bytes", || {
        accepted.set_nonblocking(true).unwrap();
        (accepted.peek(&mut [0; 1]).is_ok_and(|count| count == 1)).then_some(())
    });
    drop(accepted);
    let mut words = [0; 17];
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"FATAL: going away");
}

#[test]
fn a_client_that_stops_reading_holds_its_server_back_and_costs_little() {
    let (balancer, server) = over_raw_target();
    let mut client = connect(balancer.address);
    SockRef::from(&client)
        .set_recv_buffer_size(64 * 1024)
        .unwrap();
    let mut accepted = accept(&server);
    let before_kb = resident_kb(balancer.pid());

    // Writes until nothing goes any more.
    accepted.set_nonblocking(true).unwrap();
    let mut sent = Pattern::default();
    let mut stuck_since = None;
    wait_for("the server to be held back", || {
        let piece = sent.clone().take(64 * 1024);
        match accepted.write(&piece) {
            Ok(count) => {
                sent.at += count;
                stuck_since = None;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let since = stuck_since.get_or_insert_with(std::time::Instant::now);
                return (since.elapsed() > Duration::from_millis(300)).then_some(());
            }
        }
        None
    });
    assert!(sent.at < 64 << 20, "{} bytes went somewhere", sent.at);
    let grown_kb = resident_kb(balancer.pid()).saturating_sub(before_kb);
    assert!(grown_kb < 1024, "{grown_kb} kB more");

    // Then everything arrives, in order.
    accepted.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), sent.at);
    assert!(received == Pattern::default().take(sent.at), "bytes differ");
}

#[test]
fn large_transfers_both_ways_on_two_loops_arrive_whole() {
    let targets = three_targets();
    let balancer = Balancer::serving(&Config::over(&targets).with("threads: 2"));
    let total = 8 << 20;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let Client { stream, .. } = balancer.client();
                let mut writer = stream.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&Pattern::default().take(total)).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut echoed = Vec::new();
                let mut reader = stream;
                reader.read_to_end(&mut echoed).unwrap();
                writing.join().unwrap();
                let mut expected = Pattern::default().take(total);
                expected.extend(b"bye\n");
                assert!(echoed == expected, "{} bytes came back", echoed.len());
            });
        }
    });
    let carried: u64 = balancer.csv("BACKEND", "bin").parse().unwrap();
    assert!(carried >= 6 * total as u64, "{carried}");
    wait_for("the sessions' end", || {
        (balancer.status().connections == 0).then_some(())
    });
}

#[test]
fn many_clients_on_two_loops_are_all_served() {
    let targets = three_targets();
    let balancer = Balancer::serving(&Config::over(&targets).with("threads: 2"));
    let mut clients: Vec<Client> = (0..60).map(|_| balancer.client()).collect();
    for target in &targets {
        assert_eq!(count(&clients, &target.name), 20);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        client.talk(&format!("line {index}"));
    }
}

/// Bytes whose place in the stream shows.
#[derive(Clone, Default)]
struct Pattern {
    at: usize,
}

impl Pattern {
    fn take(self, count: usize) -> Vec<u8> {
        (self.at..self.at + count)
            .map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8)
            .collect()
    }
}

/// A balancer over one target that the test itself is, checked by connects.
fn over_raw_target() -> (Balancer, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let config = Config {
        targets: vec![("raw".into(), address)],
        ..Config::over([]).check("{type: tcp, interval: 1h, timeout: 5s}")
    };
    let balancer = Balancer::serving(&config);
    let (check, _) = listener.accept().unwrap();
    drop(check);
    (balancer, listener)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// However sessions end, and while targets come and go, every place, count and
/// descriptor is given back.
#[test]
fn nothing_is_left_behind() {
    let seed = std::env::var("SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    eprintln!("SEED={seed}");
    let mut targets = three_targets();
    let config = Config::over(&targets)
        .check("{interval: 100ms, timeout: 100ms, rise: 1, fall: 2}")
        .with("threads: 2");
    let balancer = Balancer::serving(&config);
    drop(balancer.client());
    wait_for("the first session's end", || idle(&balancer));
    let descriptors = descriptors(&balancer);
    let address = balancer.address;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut random = Random(seed + thread);
                for _ in 0..60 {
                    // What breaks here was broken on purpose; what hangs was not.
                    if let Err(error) = live_dangerously(address, &mut random) {
                        assert_ne!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    }
                }
            });
        }
        for target in &mut targets {
            target.kill();
            target.open_port();
        }
    });
    wait_for("all sessions to end", || idle(&balancer));
    for row in ["FRONTEND", "pooler-0", "pooler-1", "pooler-2", "BACKEND"] {
        assert_eq!(balancer.csv(row, "scur"), "0", "{row}");
    }
    wait_for("descriptors to be closed", || {
        (self::descriptors(&balancer) <= descriptors).then_some(())
    });
    wait_for("a target", || {
        (balancer.csv("BACKEND", "status") == "UP").then_some(())
    });
    balancer.client().talk("and it goes on");
}

/// One session, ended in one of many ways.
fn live_dangerously(address: SocketAddr, random: &mut Random) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let how = random.below(6);
    if how == 0 {
        return Ok(());
    }
    stream.write_all(&wire::startup(&[("user", "ann")]))?;
    if random.below(2) == 0 {
        stream.read_exact(&mut [0; 9])?;
    }
    stream.write_all(&vec![b'x'; 1_000 + random.below(200_000)])?;
    if random.below(2) == 0 {
        // A reset, perhaps with much on its way.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    match how {
        1 => stream.shutdown(Shutdown::Write)?,
        2 => stream.shutdown(Shutdown::Both)?,
        3 => {
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())?;
        }
        4 => stream.read_exact(&mut vec![0; 1000])?,
        _ => {}
    }
    Ok(())
}

fn idle(balancer: &Balancer) -> Option<()> {
    (balancer.status().connections == 0).then_some(())
}

fn descriptors(balancer: &Balancer) -> usize {
    let directory = format!("/proc/{}/fd", balancer.pid());
    std::fs::read_dir(directory).unwrap().count()
}

/// xorshift64*, for tests.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (mixed >> 33) as usize % limit
    }
}
