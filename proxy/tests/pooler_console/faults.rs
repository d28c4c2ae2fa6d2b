//! A PostgreSQL that dies, falls silent or refuses.

use std::net::{TcpListener, TcpStream};

use proxy_core::wire::{self, Severity, SqlState};

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::{Play, Postgres},
    support::connect,
    wait_for,
};

/// A DataRow that ends in the middle.
fn half_a_row() -> Vec<u8> {
    let mut row = wire::data_row(&[Some(&[b'x'; 1_000])]);
    row.truncate(500);
    row
}

/// A client of a PostgreSQL of which the query `half` gets half a row.
fn in_mid_row(
    play: impl Fn(Vec<u8>) -> Play,
    config: impl Fn(Config) -> Config,
) -> (Postgres, Pooler, Client) {
    let postgres = Postgres::start();
    postgres.play("half", play(half_a_row()));
    let pooler = Pooler::start(&config(Config::over(&postgres)));
    let mut client = pooler.client();
    client.begin("half");
    (postgres, pooler, client)
}

#[test]
fn a_server_that_dies_in_the_middle_of_a_row_leaves_no_error_inside_it() {
    let (_postgres, pooler, mut client) = in_mid_row(Play::Last, |config| config);
    assert_eq!(client.rest(), half_a_row());
    assert_eq!(pooler.client().query("SELECT 1").tags(), ["SELECT 0"]);
}

#[test]
fn a_query_that_takes_too_long_in_the_middle_of_a_row_leaves_no_error_inside_it() {
    let (_postgres, _pooler, mut client) =
        in_mid_row(Play::Only, |config| config.set("query_timeout", "1"));
    assert_eq!(client.rest(), half_a_row());
}

#[test]
fn a_client_that_breaks_the_protocol_in_the_middle_of_a_row_finds_no_error_inside_it() {
    let (_postgres, pooler, mut client) = in_mid_row(Play::Only, |config| config);
    wait_for("half a row", || (!client.is_silent()).then_some(()));
    client.send(&wire::message(b'!', |_| {}));
    assert_eq!(client.rest(), half_a_row());
    assert_eq!(pooler.client().query("SELECT 1").tags(), ["SELECT 0"]);
}

/// A port where nobody answers: a connection waits to be accepted, no other may,
/// and so the kernel drops what asks for one more.
fn silence() -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let waits = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener, waits)
}

/// A connection that was asked for, in /proc/net/tcp (include/net/tcp_states.h).
const SYN_SENT: &str = "02";

/// In how many hundredths of a second the kernel repeats the requests for
/// connections to `port` that are not answered.
fn repeats(port: u16) -> Vec<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect());
    rows.filter_map(|row: Vec<&str>| {
        let (peer, state, timer) = (row.get(2)?, row.get(3)?, row.get(5)?);
        let asks = peer.ends_with(&format!(":{port:04X}")) && *state == SYN_SENT;
        let (_, when) = timer.split_once(':')?;
        asks.then(|| u64::from_str_radix(when, 16).ok())?
    })
    .collect()
}

/// As when a Pod is gone with its address: what asks there goes on asking, and
/// only somebody new finds the other one.
#[test]
fn a_connect_from_before_postgresql_was_back_holds_nobody_up() {
    let (listener, _waits) = silence();
    let port = listener.local_addr().unwrap().port();
    let config = Config::new()
        .database("shop", &format!("host=127.0.0.1 port={port} user=app"))
        .set("upstream_check_interval", "1")
        .set("server_connect_timeout", "600");
    let pooler = Pooler::start(&config);
    let mut client = Client::from(connect(pooler.address));
    client.send(&wire::startup(&[("user", "ann"), ("database", "shop")]));
    // It asks less and less often, in 4 s at last; our own questions end after one.
    wait_for("a connect that hangs", || {
        repeats(port).iter().any(|when| *when > 400).then_some(())
    });
    let _postgres = Postgres::start_on(listener);
    let greeting = client.read().kinds();
    assert!(greeting.ends_with('Z'), "{greeting}");
    wait_for("the log", || {
        let log = pooler.log();
        log.contains("has not answered since before PostgreSQL was back")
            .then_some(())
    });
}

fn checking(postgres: &Postgres) -> Config {
    Config::over(postgres)
        .set("server_check_delay", "0")
        .set("server_check_query", "alive?")
        .set("server_connect_timeout", "1")
}

#[test]
fn a_check_that_is_never_answered_costs_the_server_and_not_the_client() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&checking(&postgres));
    let mut client = pooler.client();
    postgres.play("alive?", Play::Only(Vec::new()));
    client.begin("SELECT 1");
    wait_for("the check", || postgres.has_seen("alive?").then_some(()));
    postgres.release("alive?");
    assert_eq!(client.read().tags(), ["SELECT 0"]);
    assert_eq!(postgres.logins(), 2);
}

#[test]
fn a_client_waits_for_checks_no_longer_than_for_servers() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&checking(&postgres).set("query_wait_timeout", "2"));
    let mut client = pooler.client();
    postgres.play("alive?", Play::Only(Vec::new()));
    client.begin("SELECT 1");
    let refusal = client.read();
    assert_eq!(refusal.code(), "53300");
    let error = refusal.error();
    assert!(error.contains("within 2 s (query_wait_timeout)"), "{error}");
}

#[test]
fn a_parameter_that_postgresql_refuses_is_told_in_its_words() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres));
    let code = SqlState::INVALID_PARAMETER_VALUE;
    let refusal = wire::error_response(Severity::Error, code, "too short a name", "");
    let answer = [refusal, wire::ready_for_query(b'I').to_vec()].concat();
    postgres.play("SET application_name='till';", Play::Only(answer));
    let parameters = [
        ("user", "ann"),
        ("database", "shop"),
        ("application_name", "till"),
    ];
    let mut client = Client::login(pooler.address, &parameters).unwrap();
    let refusal = client.query("SELECT 1");
    assert_eq!(refusal.code(), "22023");
    let error = refusal.error();
    assert!(error.contains("ERROR 22023: too short a name"), "{error}");
}
