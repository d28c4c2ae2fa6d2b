//! More of something than there is room for.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use proxy_core::wire::{self, CheckReply, CheckRequest, read_check_reply};

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    support::connect,
    wait_for,
};

/// Connections beyond `max_client_conn`, as the specification promises.
const LOGINS_MAX: usize = 1_000;

/// Asks as a balancer does that checks once per `interval`.
pub(crate) fn check(address: SocketAddr, interval: Duration) -> CheckReply {
    let mut stream = connect(address);
    stream
        .write_all(&CheckRequest { interval }.encode())
        .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    read_check_reply(&bytes)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0))
}

#[test]
fn checks_get_in_however_many_connections_have_not_logged_in() {
    proxy::net::raise_nofile_limit();
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("max_client_conn", "1"));
    let mut client = pooler.client();
    // With the client there is room for all of them, and not for one more.
    let mut silent: Vec<_> = (0..LOGINS_MAX).map(|_| connect(pooler.address)).collect();
    for _ in 0..10 {
        silent.push(connect(pooler.address));
        let reply = check(pooler.address, Duration::from_secs(2));
        assert!(matches!(reply, CheckReply::Report(_)), "{reply:?}");
    }
    for oldest in &mut silent[..10] {
        assert!(is_closed(oldest), "the oldest make room");
    }
    let mut newest = silent.pop().unwrap();
    newest
        .write_all(&wire::startup(&[("user", "ann"), ("database", "shop")]))
        .unwrap();
    let mut bytes = Vec::new();
    newest.read_to_end(&mut bytes).unwrap();
    let refusal = wire::messages(&bytes).next().unwrap();
    let fields = wire::ErrorFields::read(refusal.body);
    assert_eq!(fields.code, b"53300", "it is still there, and one too many");
    assert_eq!(client.query("SELECT 1").tags(), ["SELECT 0"]);
}

/// A password that takes long to verify is verified beside the loop.
#[test]
fn a_login_that_takes_long_keeps_nobody_waiting() {
    let postgres = Postgres::start();
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let verifier = format!("SCRAM-SHA-256$1000000:AAAAAAAAAAAAAAAAAAAAAA==${zeros}:{zeros}");
    let config = Config::over(&postgres)
        .user("slow", &verifier)
        .user("ann", "secret")
        .set("auth_type", "plain");
    let pooler = Pooler::start(&config);
    let log_in = |user: &str, password: &str| {
        let mut stream = connect(pooler.address);
        stream
            .write_all(&wire::startup(&[("user", user), ("database", "shop")]))
            .unwrap();
        let mut asked = [0; 9];
        stream.read_exact(&mut asked).unwrap();
        assert_eq!(asked.as_slice(), wire::authentication_cleartext());
        stream
            .write_all(&wire::password(password.as_bytes()))
            .unwrap();
        Client::from(stream)
    };
    let mut client = log_in("ann", "secret");
    assert_eq!(client.read().code(), "");
    // Several, so that the last is far from done however fast the machine.
    let mut slow: Vec<_> = (0..8).map(|_| log_in("slow", "a guess")).collect();
    assert_eq!(client.query("SELECT 1").tags(), ["SELECT 0"]);
    assert!(slow[7].is_silent(), "judged before the query was answered");
    assert_eq!(slow[0].read().code(), "28P01");
}

#[test]
fn a_password_is_no_longer_than_it_may_be() {
    let pooler = Pooler::start(&Config::new().set("auth_type", "plain"));
    // With type, length and the zero at the end: 4,096 bytes, and one more.
    for (length, code) in [(4_090, "28P01"), (4_091, "08P01")] {
        let mut stream = connect(pooler.address);
        let login = [("user", "ann"), ("database", "shop")];
        stream.write_all(&wire::startup(&login)).unwrap();
        let mut asked = [0; 9];
        stream.read_exact(&mut asked).unwrap();
        let password = wire::password(&vec![b'x'; length]);
        stream.write_all(&password).unwrap();
        assert_eq!(Client::from(stream).read().code(), code, "{length}");
    }
}

/// Its definition is kept for other servers, so that it is refused by its length
/// before any of it is held.
#[test]
fn a_named_statement_is_no_longer_than_it_may_be() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres));
    let mut client = pooler.client();
    let mut parse = wire::parse(b"long", b"SELECT 1\0\0\0");
    let length = 16 * 1024 * 1024_u32;
    parse[1..5].copy_from_slice(&length.to_be_bytes());
    client.send(&parse);
    assert_eq!(client.read().code(), "54000");
    assert_eq!(pooler.client().query("SELECT 1").tags(), ["SELECT 0"]);
}

#[test]
fn http_connections_are_bounded_and_keep_nobody_else_out() {
    const CONNECTIONS_MAX: usize = 512;
    proxy::net::raise_nofile_limit();
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres));
    let mut client = pooler.client();
    client.query("SELECT 1");
    let descriptors = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", pooler.pid())).unwrap();
        open.count()
    };
    let before = descriptors();
    let silent: Vec<_> = (0..CONNECTIONS_MAX + 50)
        .map(|_| connect(pooler.web))
        .collect();
    wait_for("all that are let in", || {
        (descriptors() >= before + CONNECTIONS_MAX).then_some(())
    });
    for _ in 0..100 {
        client.query("SELECT 1");
        assert!(descriptors() <= before + CONNECTIONS_MAX);
    }
    drop(silent);
    assert_eq!(pooler.get("/livez").status, 200);
}
