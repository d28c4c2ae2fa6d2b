//! Clients that come through balancers, and whose they are: PROXY headers.

use std::{
    io::Write,
    net::SocketAddr,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proxy_core::{
    shared_key::SharedKey,
    wire::{self, CheckRequest, DrainOrder, proxy_header},
};

use crate::{
    client::{Answer, Client},
    pooler::{Config, Pooler},
    postgres::Postgres,
    support::{connect, process::Process},
    wait_for,
};

const KEY: &str = "a key of this test alone";

/// Writes the key that all share and gives its file.
fn key_file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{KEY}").unwrap();
    file
}

fn with_mac(postgres: &Postgres, key: &tempfile::NamedTempFile) -> Config {
    Config::over(postgres)
        .set("proxy_protocol", "mac")
        .set("shared_key_file", key.path().to_str().unwrap())
}

/// A balancer in front of poolers.
struct Balancer {
    address: SocketAddr,
    process: Process,
    _directory: tempfile::TempDir,
}

impl Balancer {
    fn start(poolers: &[&Pooler], more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("balancer.yaml");
        let mut yaml = String::from("frontends: [{name: postgres, bind: \"127.0.0.1:0\"}]\n");
        yaml.push_str("targets:\n");
        for (index, pooler) in poolers.iter().enumerate() {
            let address = pooler.address;
            yaml.push_str(&format!("- {{name: p{index}, address: \"{address}\"}}\n"));
        }
        std::fs::write(&file, yaml + more).unwrap();
        let process = Process::start(Command::new(env!("CARGO_BIN_EXE_balancer")).arg(&file));
        let address = wait_for("the balancer", || {
            process.logged("listening, checking targets", "address")
        });
        wait_for("its first checks", || {
            process.log().contains("serving targets").then_some(())
        });
        Self {
            address,
            process,
            _directory: directory,
        }
    }
}

fn proxied(key: &tempfile::NamedTempFile) -> String {
    format!(
        "proxy_protocol: true\nshared_key_file: {}\n",
        key.path().display()
    )
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

/// Logs in after `header`.
fn login_after(pooler: &Pooler, header: &[u8]) -> Result<Client, Answer> {
    let mut client = Client::from(connect(pooler.address));
    // In two parts, cut within the header.
    let (first, second) = header.split_at(header.len() / 2);
    client.send(first);
    let parameters = [("user", "ann"), ("database", "shop")];
    client.send(&[second, &wire::startup(&parameters)].concat());
    let answer = client.read();
    match answer.kinds().ends_with('Z') {
        true => Ok(client),
        false => Err(answer),
    }
}

fn header(key: &str, at_ms: u64) -> Vec<u8> {
    let key = SharedKey::parse(key).unwrap();
    proxy_header(client_address(), balancer_address(), 7, Some((&key, at_ms)))
}

fn client_address() -> SocketAddr {
    "192.0.2.7:40000".parse().unwrap()
}

fn balancer_address() -> SocketAddr {
    "192.0.2.1:5432".parse().unwrap()
}

#[test]
fn the_console_shows_the_application_s_address_through_a_balancer() {
    let (postgres, key) = (Postgres::start(), key_file());
    let config = with_mac(&postgres, &key).set("application_name_add_host", "1");
    let pooler = Pooler::start(&config);
    let balancer = Balancer::start(&[&pooler], &proxied(&key));
    let mut client = Client::connect(balancer.address, "ann", "shop");
    client.query("SELECT 1");
    let own = client.address();
    let clients = pooler.console().query("SHOW CLIENTS");
    assert_eq!(clients.value("user", "ann", "addr"), own.ip().to_string());
    assert_eq!(clients.value("user", "ann", "port"), own.port().to_string());
    let name = clients.value("user", "ann", "application_name");
    assert_eq!(name, format!("app - {own}"));
    // A client that comes directly needs no header.
    assert_eq!(pooler.client().query("SELECT 1").code(), "");
    let metrics = pooler.get("/metrics").body;
    let believed = "poolkeeper_pooler_proxy_headers_total{result=\"believed\"} 1";
    assert!(metrics.contains(believed), "{metrics}");
    assert!(balancer.process.log().contains("serving"));
}

#[test]
fn a_header_without_a_valid_proof_is_refused() {
    let (postgres, key) = (Postgres::start(), key_file());
    let pooler = Pooler::start(&with_mac(&postgres, &key));
    let now_ms = now_ms();
    assert!(login_after(&pooler, &header(KEY, now_ms)).is_ok());
    let unproven = proxy_header(client_address(), balancer_address(), 7, None);
    for (header, reason) in [
        (unproven, "it has no proof"),
        (
            header("another key than ours", now_ms),
            "it was not made with our shared key",
        ),
        (
            header(KEY, now_ms - 3_600_000),
            "at most 120 s are accepted",
        ),
    ] {
        let refused = login_after(&pooler, &header).unwrap_err();
        assert_eq!(refused.code(), "08P01");
        let told = refused.error();
        assert!(
            told.contains("PROXY header refused") && told.contains(reason),
            "{told}"
        );
        wait_for("the log", || pooler.log().contains(reason).then_some(()));
        assert!(!pooler.log().contains(KEY));
    }
    let metrics = pooler.get("/metrics").body;
    let refused = "poolkeeper_pooler_proxy_headers_total{result=\"refused\"} 3";
    assert!(metrics.contains(refused), "{metrics}");
    // A second header is none, nor is one after a packet.
    let twice = [header(KEY, now_ms), header(KEY, now_ms)].concat();
    assert_eq!(login_after(&pooler, &twice).unwrap_err().code(), "08P01");
}

#[test]
fn a_header_counts_from_listed_networks_and_not_at_all_by_default() {
    let postgres = Postgres::start();
    let unproven = proxy_header(client_address(), balancer_address(), 7, None);
    for (setting, refused) in [
        ("off", Some("proxy_protocol is off")),
        ("10.0.0.0/8", Some("is in no network of proxy_protocol")),
        ("10.0.0.0/8, 127.0.0.0/8", None),
    ] {
        let pooler = Pooler::start(&Config::over(&postgres).set("proxy_protocol", setting));
        match (login_after(&pooler, &unproven), refused) {
            (Ok(_client), None) => {
                let clients = pooler.console().query("SHOW CLIENTS");
                assert_eq!(clients.value("user", "ann", "addr"), "192.0.2.7");
            }
            (Err(answer), Some(reason)) => {
                assert!(answer.error().contains(reason), "{}", answer.error());
            }
            (outcome, _) => panic!("{setting}: {outcome:?}"),
        }
    }
}

#[test]
fn a_missing_or_short_key_is_a_problem_of_its_line() {
    let postgres = Postgres::start();
    let directory = tempfile::tempdir().unwrap();
    let check = |more: &str| {
        let file = directory.path().join("pooler.ini");
        let port = postgres.entry();
        let text = format!("[databases]\nshop = {port}\n[pgbouncer]\nauth_type = any\n{more}");
        std::fs::write(&file, text).unwrap();
        let checked = crate::pooler::command()
            .arg("--check")
            .arg(&file)
            .output()
            .unwrap();
        String::from_utf8(checked.stderr).unwrap()
    };
    let told = check("proxy_protocol = mac\n");
    assert!(
        told.contains(":5: proxy_protocol = mac needs shared_key_file"),
        "{told}"
    );
    let short = directory.path().join("short");
    std::fs::write(&short, "geheim").unwrap();
    let told = check(&format!("shared_key_file = {}\n", short.display()));
    assert!(
        told.contains(":5: ") && told.contains("6 bytes, expected 16 to 4096"),
        "{told}"
    );
    assert!(!told.contains("geheim"), "{told}");
}

/// A transaction of three statements; false if the session was ended before it
/// began. One that is cut is a failure.
fn transaction(client: &mut Client) -> bool {
    let begun = client.query("BEGIN");
    if begun.code() == "57P01" {
        return false;
    }
    for answer in [begun, client.query("SELECT 1"), client.query("COMMIT")] {
        assert_eq!(answer.code(), "", "{}", answer.error());
    }
    true
}

#[test]
fn a_balancer_that_drains_has_its_sessions_ended_at_their_boundaries() {
    let (postgres, key) = (Postgres::start(), key_file());
    let poolers = [0, 1].map(|_| Pooler::start(&with_mac(&postgres, &key)));
    let poolers = [&poolers[0], &poolers[1]];
    // Their ends are spread over the first 4 s.
    let more = proxied(&key) + "drain_timeout: 16s\ncheck: {interval: 1s}\n";
    let mut leaving = Balancer::start(&poolers, &more);
    let staying = Balancer::start(&poolers, &more);
    let (there, elsewhere) = (leaving.address, staying.address);
    let over = AtomicBool::new(false);
    let moved = AtomicU32::new(0);
    let connect = |address| Client::connect(address, "ann", "shop");
    // One is in a transaction that outlasts the moments of all others.
    let mut busy = connect(there);
    assert_eq!(busy.query("BEGIN").code(), "");
    let idle = connect(there);
    let (over, moved) = (&over, &moved);
    // Before the balancer is told to leave: then it takes nobody any more.
    let clients = [0; 4].map(|_| (connect(there), connect(elsewhere)));
    std::thread::scope(|scope| {
        // Also when something below fails, or nobody would hear of it.
        let _end = SetAtEnd(over);
        for (mut leaver, mut stayer) in clients {
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    if !transaction(&mut leaver) {
                        moved.fetch_add(1, SeqCst);
                        leaver = connect(elsewhere);
                    }
                }
            });
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    assert!(transaction(&mut stayer), "it is not concerned");
                }
            });
        }
        leaving.process.signal(rustix::process::Signal::TERM);
        wait_for("all who were at a boundary", || {
            (moved.load(SeqCst) == 4).then_some(())
        });
        let mut idle = idle;
        assert_eq!(idle.read().code(), "57P01");
        assert_eq!(busy.query("COMMIT").code(), "", "not cut");
        assert_eq!(busy.read().code(), "57P01");
        drop((idle, busy));
        let (status, log) = leaving.process.wait();
        assert!(status.success(), "{log}");
        assert!(log.contains("asking poolers"), "{log}");
        assert!(!log.contains("sessions left after draining"), "{log}");
    });
}

/// Tells whoever looks that it is over.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn an_order_to_drain_without_a_valid_proof_ends_nothing() {
    let (postgres, key) = (Postgres::start(), key_file());
    let pooler = Pooler::start(&with_mac(&postgres, &key));
    let mut client = login_after(&pooler, &header(KEY, now_ms())).unwrap();
    let order = |key: &str| {
        let key = SharedKey::parse(key).unwrap();
        let order = DrainOrder::new(7, Duration::ZERO, &key, now_ms());
        let mut check = connect(pooler.address);
        let request = CheckRequest {
            interval: Duration::from_secs(1),
            drain: Some(order),
        };
        check.write_all(&request.encode()).unwrap();
        Client::from(check).rest()
    };
    assert!(!order("another key than ours").is_empty(), "it is answered");
    wait_for("the refusal", || {
        pooler
            .log()
            .contains("order to drain refused")
            .then_some(())
    });
    assert!(transaction(&mut client));
    assert!(!order(KEY).is_empty());
    assert_eq!(client.read().code(), "57P01");
}
