//! More of something than there is room for.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use proxy_core::wire::{self, CheckReply, CheckRequest, read_check_reply};

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    support::connect,
};

/// Connections beyond `max_client_conn`, as the specification promises.
const LOGINS_MAX: usize = 1_000;

/// Asks as a balancer does that checks once per `interval`.
pub(crate) fn check(address: SocketAddr, interval: Duration) -> CheckReply {
    let mut stream = connect(address);
    stream
        .write_all(
            &CheckRequest {
                interval,
                drain: None,
            }
            .encode(),
        )
        .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    read_check_reply(&bytes)
}

/// Answers the request for a password.
fn log_in(pooler: &Pooler, user: &str, password: &[u8]) -> Client {
    let mut stream = connect(pooler.address);
    let login = [("user", user), ("database", "shop")];
    stream.write_all(&wire::startup(&login)).unwrap();
    let mut asked = [0; 9];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(asked.as_slice(), wire::authentication_cleartext());
    stream.write_all(&wire::password(password)).unwrap();
    Client::from(stream)
}

/// More connections than there is room for, each of which stops after `first`:
/// the oldest make room for checks and for those who log in.
fn flooded_by(first: &[u8]) {
    proxy::net::raise_nofile_limit();
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("max_client_conn", "1")
        .user("ann", "secret")
        .user("admin", "secret")
        .set("auth_type", "plain");
    let pooler = Pooler::start(&config);
    let mut client = log_in(&pooler, "ann", b"secret");
    assert_eq!(client.read().code(), "");
    let open = || {
        let mut stream = connect(pooler.address);
        stream.write_all(first).unwrap();
        stream
    };
    // With the client there is room for all of them, and not for one more.
    let mut flood: Vec<_> = (0..LOGINS_MAX).map(|_| open()).collect();
    for _ in 0..10 {
        flood.push(open());
        let reply = check(pooler.address, Duration::from_secs(2));
        assert!(matches!(reply, CheckReply::Report(_)), "{reply:?}");
    }
    for oldest in &mut flood[..10] {
        oldest.read_to_end(&mut Vec::new()).expect("it made room");
    }
    let login = [("user", "ann"), ("database", "shop")];
    let refused = Client::login(pooler.address, &login).unwrap_err();
    assert_eq!(refused.code(), "53300");
    assert_eq!(client.query("SELECT 1").tags(), ["SELECT 0"]);
}

#[test]
fn checks_get_in_however_many_connections_say_nothing() {
    flooded_by(b"");
}

/// A login to the console takes no place among the clients.
#[test]
fn checks_get_in_however_many_have_begun_to_log_in_to_the_console() {
    flooded_by(&wire::startup(&[
        ("user", "admin"),
        ("database", "pgbouncer"),
    ]));
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
    let mut client = log_in(&pooler, "ann", b"secret");
    assert_eq!(client.read().code(), "");
    // Several, so that the last is far from done however fast the machine.
    let mut slow: Vec<_> = (0..8)
        .map(|_| log_in(&pooler, "slow", b"a guess"))
        .collect();
    assert_eq!(client.query("SELECT 1").tags(), ["SELECT 0"]);
    assert!(slow[7].is_silent(), "judged before the query was answered");
    assert_eq!(slow[0].read().code(), "28P01");
}

#[test]
fn a_password_is_no_longer_than_it_may_be() {
    let pooler = Pooler::start(&Config::new().set("auth_type", "plain"));
    // With type, length and the zero at the end: 4,096 bytes, and one more.
    for (length, code) in [(4_090, "28P01"), (4_091, "08P01")] {
        let mut client = log_in(&pooler, "ann", &vec![b'x'; length]);
        assert_eq!(client.read().code(), code, "{length}");
    }
}
