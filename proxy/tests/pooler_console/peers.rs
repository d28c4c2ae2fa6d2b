//! Poolers that find each other by name, and pass cancel requests on.

use std::{
    collections::HashMap,
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener},
    process::Command,
};

use proxy_core::{peer::peer_id, wire};
use rustix::process::Signal;

use crate::{
    client::{Client, cancel},
    pooler::{Config, Pooler, command},
    postgres::{Play, Postgres},
    support::dns::{Dns, Mood},
    tls, wait_for,
};

const NAME: &str = "shop-pooler.default.svc";
/// Longer than any test.
const LONG_S: u32 = 3_600;
/// Groups that may fail because somebody else took a port.
const ATTEMPTS: usize = 20;

/// A port that nobody has on any of these addresses.
fn free_port(ips: &[IpAddr]) -> Option<u16> {
    let (first, others) = ips.split_first()?;
    let listener = TcpListener::bind((*first, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let are_free = others
        .iter()
        .all(|ip| TcpListener::bind((*ip, port)).is_ok());
    are_free.then_some(port)
}

/// 127.0.3.1 and so on.
fn ips(count: u8) -> Vec<IpAddr> {
    (1..=count)
        .map(|index| IpAddr::from([127, 0, 3, index]))
        .collect()
}

fn config(postgres: &Postgres, dns: &Dns, address: SocketAddr) -> Config {
    Config::over(postgres)
        .set("listen_addr", &address.ip().to_string())
        .set("listen_port", &address.port().to_string())
        .set("threads", "2")
        .set("peer_discovery", NAME)
        .set("peer_discovery_resolver", &dns.address.to_string())
}

/// Poolers at the addresses that `choose` gives, all on the port that it was given.
fn at(
    postgres: &Postgres,
    dns: &Dns,
    ports: &[IpAddr],
    choose: impl Fn(u16) -> Vec<IpAddr>,
) -> Vec<Pooler> {
    let start =
        |address: SocketAddr| Pooler::spawn(&config(postgres, dns, address), &|_| command());
    (0..ATTEMPTS)
        .find_map(|_| {
            let port = free_port(ports)?;
            let mut chosen = choose(port).into_iter();
            chosen.try_fold(Vec::new(), |mut poolers, ip| {
                poolers.push(start(SocketAddr::new(ip, port))?);
                Some(poolers)
            })
        })
        .expect("ports are free")
}

/// On a port that is free at one address more.
fn group(postgres: &Postgres, dns: &Dns, count: u8) -> Vec<Pooler> {
    at(postgres, dns, &ips(count + 1), |_| ips(count))
}

/// A client of `pooler` in the middle of a query that is held.
fn busy(postgres: &Postgres, pooler: &Pooler, sql: &str) -> Client {
    postgres.play(sql, Play::Hold);
    let mut client = pooler.client();
    client.begin(sql);
    wait_for("the query", || postgres.has_seen(sql).then_some(()));
    client
}

/// Addresses in SHOW PEERS, with their numbers.
fn peers(pooler: &Pooler) -> Vec<(u16, String)> {
    let rows = pooler.console().query("SHOW PEERS").rows();
    rows.iter()
        .map(|row| (row[0].parse().unwrap(), row[1].clone()))
        .collect()
}

fn wait_for_peers(pooler: &Pooler, count: usize) {
    wait_for(&format!("{count} peers"), || {
        (peers(pooler).len() == count).then_some(())
    });
}

#[track_caller]
fn metric(pooler: &Pooler, name: &str) -> u64 {
    let page = pooler.get("/metrics").body;
    let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_cancel_at_any_pooler_finds_its_query() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    let mut listed = ips(3);
    listed.push("::1".parse().unwrap());
    dns.set(NAME, LONG_S, &listed);
    let poolers = group(&postgres, &dns, 3);
    let own = &poolers[0];
    // At once, so that the others' first look-up may still be under way.
    for (index, pooler) in poolers.iter().enumerate() {
        let sql = format!("SELECT 'long {index}'");
        let mut client = busy(&postgres, own, &sql);
        let key = &client.cancel_key;
        assert_eq!(u16::from_le_bytes([key[1], key[2]]), peer_id(own.address));
        client.cancel_at(pooler.address);
        assert_eq!(client.read().code(), "57014");
    }
    assert_eq!(postgres.cancels(), 3);

    let shown = poolers[2].console().query("SHOW PEERS");
    let columns = shown.columns();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["peer_id", "host", "port", "pool_size"]);
    let expected: Vec<Vec<String>> = listed
        .iter()
        .map(|ip| {
            let address = SocketAddr::new(*ip, own.address.port());
            vec![
                peer_id(address).to_string(),
                ip.to_string(),
                address.port().to_string(),
                "20".to_owned(),
            ]
        })
        .collect();
    assert_eq!(shown.rows(), expected);
    assert_eq!(metric(&poolers[2], "poolkeeper_pooler_peers "), 4);
}

/// Its port stays open for that as long as it has sessions, whichever loop has them.
#[test]
fn a_cancel_finds_its_query_in_a_pooler_that_drains() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    dns.set(NAME, LONG_S, &ips(2));
    let mut poolers = group(&postgres, &dns, 2);
    let other = poolers.pop().unwrap();
    let mut draining = poolers.pop().unwrap();
    wait_for_peers(&other, 2);
    let mut idle = draining.client();
    let mut client = busy(&postgres, &draining, "SELECT 'long'");
    draining.signal(Signal::INT);
    assert_eq!(idle.read().code(), "57P01");
    let login = [("user", "ann"), ("database", "shop")];
    let refused = Client::login(draining.address, &login).unwrap_err();
    assert_eq!(refused.code(), "57P03");
    client.cancel_at(other.address);
    assert_eq!(client.read().code(), "57014");
    assert_eq!(client.read().code(), "57P01");
    assert!(draining.wait().0.success());
}

/// Whatever the answer's time to live.
#[test]
fn a_new_pooler_is_looked_up_for_its_first_cancel() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    dns.set(NAME, LONG_S, &ips(1));
    let poolers = group(&postgres, &dns, 2);
    wait_for_peers(&poolers[0], 1);
    dns.set(NAME, LONG_S, &ips(2));
    let mut client = busy(&postgres, &poolers[1], "SELECT 'long'");
    client.cancel_at(poolers[0].address);
    assert_eq!(client.read().code(), "57014");
}

#[test]
fn keys_of_nobody_cost_few_look_ups_and_go_nowhere() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    dns.set(NAME, LONG_S, &ips(2));
    let poolers = group(&postgres, &dns, 2);
    wait_for_peers(&poolers[1], 2);
    let mut client = busy(&postgres, &poolers[0], "SELECT 'long'");
    let before = dns.asked();
    let [own, other] = [0, 1].map(|index| peer_id(poolers[index].address));
    let nobody = (1..).find(|id| *id != own && *id != other).unwrap();
    let mut foreign = client.cancel_key.clone();
    foreign[1..3].copy_from_slice(&nobody.to_le_bytes());
    let address = poolers[1].address;
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| cancel(address, &foreign));
        }
    });
    let asked = dns.asked() - before;
    assert!((1..25).contains(&asked), "{asked}");
    // One that has gone its way, as if two poolers took each other for the owner.
    let mut gone = client.cancel_key.clone();
    gone[7] &= !0b11;
    cancel(address, &gone);
    // The own number, and a key that is not known.
    let mut stale = client.cancel_key.clone();
    stale[1..3].copy_from_slice(&other.to_le_bytes());
    cancel(address, &stale);
    assert_eq!(postgres.cancels(), 0);
    client.cancel_at(address);
    assert_eq!(client.read().code(), "57014");
}

/// No two poolers can send a request back and forth.
#[test]
fn what_is_passed_on_goes_no_further() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    dns.set(NAME, LONG_S, &ips(2));
    let poolers = group(&postgres, &dns, 1);
    let address = SocketAddr::new(ips(2)[1], poolers[0].address.port());
    let peer = TcpListener::bind(address).unwrap();
    let mut key = poolers[0].client().cancel_key;
    key[1..3].copy_from_slice(&peer_id(address).to_le_bytes());
    assert_eq!(key[7] & 0b11, 0b11);
    std::thread::scope(|scope| {
        scope.spawn(|| cancel(poolers[0].address, &key));
        let (mut stream, _) = peer.accept().unwrap();
        let mut request = [0; 16];
        stream.read_exact(&mut request).unwrap();
        let mut passed_on = key.clone();
        passed_on[7] &= !0b11;
        assert_eq!(request[..], wire::cancel_request(&passed_on));
    });
}

#[test]
fn a_failed_look_up_keeps_the_last_answer_and_a_new_one_counts() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    dns.set(NAME, 1, &ips(2));
    let poolers = group(&postgres, &dns, 2);
    let other = &poolers[1];
    wait_for_peers(other, 2);
    dns.mood(NAME, Mood::Failing);
    let failed = "poolkeeper_pooler_peer_lookups_total{result=\"failed\"}";
    wait_for("look-ups that fail", || {
        (metric(other, failed) > 1).then_some(())
    });
    let mut client = busy(&postgres, &poolers[0], "SELECT 'one'");
    client.cancel_at(other.address);
    assert_eq!(client.read().code(), "57014");
    let log = other.log();
    assert_eq!(log.matches("peers not looked up").count(), 1, "{log}");

    // It has gone: what is meant for it goes nowhere.
    dns.set(NAME, 1, &ips(2)[1..]);
    wait_for_peers(other, 1);
    let mut client = busy(&postgres, &poolers[0], "SELECT 'two'");
    client.cancel_at(other.address);
    assert_eq!(postgres.cancels(), 1);
    dns.set(NAME, 1, &ips(2));
    wait_for_peers(other, 2);
    client.cancel_at(other.address);
    assert_eq!(client.read().code(), "57014");

    // Not by name any more.
    other.rewrite(&config(&postgres, &dns, other.address).set("peer_discovery", ""));
    assert_eq!(other.console().query("RELOAD").code(), "");
    wait_for_peers(other, 0);
}

/// A cancel request comes before TLS, and needs none.
#[test]
fn a_cancel_gets_through_where_clients_must_have_tls() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    dns.set(NAME, LONG_S, &ips(2));
    let start = |address| {
        let config = tls::offered(config(&postgres, &dns, address));
        let config = config.set("client_tls_sslmode", "require");
        Pooler::spawn(&config, &tls::command)
    };
    let poolers = (0..ATTEMPTS).find_map(|_| {
        let port = free_port(&ips(2))?;
        let [first, second] = [1, 2].map(|index| SocketAddr::from(([127, 0, 3, index], port)));
        Some([start(first)?, start(second)?])
    });
    let [own, other] = poolers.expect("ports are free");
    let mut client = tls::Client::connect(own.address);
    let key = client.log_in();
    postgres.play("SELECT 'long'", Play::Hold);
    client.send(&wire::query("SELECT 'long'"));
    wait_for("the query", || {
        postgres.has_seen("SELECT 'long'").then_some(())
    });
    cancel(other.address, &key);
    let answer = client.until_ready();
    assert!(answer.windows(5).any(|bytes| bytes == b"57014"));
    assert_eq!(postgres.cancels(), 1);
}

/// Two addresses with one number on `port`, and another.
fn colliding(port: u16) -> Vec<IpAddr> {
    let mut seen = HashMap::new();
    let pair = (0..=u16::MAX).find_map(|index| {
        let [high, low] = index.to_be_bytes();
        let ip = IpAddr::from([127, 1, high, low.max(1)]);
        let earlier = seen.insert(peer_id(SocketAddr::new(ip, port)), ip)?;
        (earlier != ip).then_some([earlier, ip])
    });
    let [first, second] = pair.expect("65,536 addresses have 16,383 numbers");
    vec![first, second, IpAddr::from([127, 0, 3, 1])]
}

#[test]
fn poolers_of_one_number_both_get_the_request() {
    let (postgres, dns) = (Postgres::start(), Dns::start());
    let poolers = at(&postgres, &dns, &ips(1), colliding);
    let listed: Vec<IpAddr> = poolers.iter().map(|pooler| pooler.address.ip()).collect();
    dns.set(NAME, LONG_S, &listed);
    assert_eq!(peer_id(poolers[0].address), peer_id(poolers[1].address));
    for pooler in &poolers {
        wait_for_peers(pooler, 3);
    }
    for (index, own) in poolers[..2].iter().enumerate() {
        for asked in &poolers {
            let sql = format!("SELECT '{index} at {}'", asked.address);
            let mut client = busy(&postgres, own, &sql);
            client.cancel_at(asked.address);
            assert_eq!(client.read().code(), "57014", "{sql}");
        }
    }
    assert_eq!(postgres.cancels(), 6);
}

#[test]
fn the_own_address_comes_from_the_environment_where_a_file_cannot_say_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pooler.ini");
    let ini = "[databases]\nshop = host=h\n[pgbouncer]\nlisten_addr = *\nauth_type = any\npeer_discovery = peers.test\n";
    std::fs::write(&file, ini.replace("host=h", "host=h user=app")).unwrap();
    let check = |variable: Option<&str>| {
        let mut command: Command = command();
        command.arg("--check").arg(&file);
        command.env_remove("POOLER_ADVERTISE_ADDR");
        command.envs(variable.map(|value| ("POOLER_ADVERTISE_ADDR", value)));
        let output = command.output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), printed)
    };
    let (good, printed) = check(Some("10.0.0.5"));
    assert!(good, "{printed}");
    let (good, printed) = check(None);
    let told = "pooler.ini:6: peer_discovery needs this pooler's own address: set advertise_addr";
    assert!(!good && printed.contains(told), "{printed}");
    let (good, printed) = check(Some("shop-pooler-0"));
    assert!(!good && printed.contains("is invalid"), "{printed}");
}
