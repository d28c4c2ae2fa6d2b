//! Cancels while the pooler itself has a query under way, and over TLS.

use std::io::Read;

use proxy_core::wire;

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::{Play, Postgres},
    tls, wait_for,
};

/// The request of a client that is cancelled while its server is still being
/// checked or set up: the client is told at once, PostgreSQL nothing, and the
/// server's next client has its answer.
fn cancelled_during(
    config: &Config,
    postgres: &Postgres,
    held: &str,
    mut login: Vec<(&str, &str)>,
) {
    let pooler = Pooler::start(&config.clone().set("default_pool_size", "1"));
    login.extend([("user", "ann"), ("database", "shop")]);
    let mut client = Client::login(pooler.address, &login).unwrap();
    let mut next = pooler.client();
    postgres.play(held, Play::Hold);
    client.begin("SELECT 'cancelled'");
    wait_for(held, || postgres.has_seen(held).then_some(()));
    client.cancel();
    let answer = client.read();
    assert_eq!(
        (answer.kinds().as_str(), answer.code().as_str()),
        ("EZ", "57014")
    );

    next.begin("SELECT 'next'");
    wait_for("a waiting client", || {
        let pools = pooler.console().query("SHOW POOLS");
        (pools.value("database", "shop", "cl_waiting") == "1").then_some(())
    });
    postgres.release(held);
    assert_eq!(next.read().tags(), ["SELECT 0"]);
    assert_eq!(client.query("SELECT 'again'").tags(), ["SELECT 0"]);
    assert_eq!(postgres.cancels(), 0);
    assert!(!postgres.has_seen("SELECT 'cancelled'"));
}

#[test]
fn a_cancel_while_the_server_is_checked_is_not_lost() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("server_check_delay", "0")
        .set("server_check_query", "SELECT 'alive'");
    cancelled_during(&config, &postgres, "SELECT 'alive'", Vec::new());
}

#[test]
fn a_cancel_while_parameters_are_set_is_not_lost() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres);
    let login = vec![("application_name", "till")];
    cancelled_during(&config, &postgres, "SET application_name='till';", login);
}

/// A client in the middle of a query that is held, and a pooler with TLS.
fn held() -> (Postgres, Pooler, Client) {
    let postgres = Postgres::start();
    postgres.play("SELECT 'long'", Play::Hold);
    let config = tls::offered(Config::over(&postgres));
    let pooler = Pooler::start_by(&config, tls::command);
    let mut client = pooler.client();
    client.begin("SELECT 'long'");
    wait_for("the query", || {
        postgres.has_seen("SELECT 'long'").then_some(())
    });
    (postgres, pooler, client)
}

/// libpq 17 takes anything but a goodbye for a failure.
#[test]
fn a_cancel_over_tls_arrives_and_ends_with_a_goodbye() {
    let (postgres, pooler, mut client) = held();
    let mut requester = tls::Client::connect(pooler.address);
    requester.send(&wire::cancel_request(&client.cancel_key));
    let end = requester.read(&mut [0; 1]);
    assert_eq!(end.unwrap(), 0, "an end without a goodbye is an error");
    assert_eq!(client.read().code(), "57014");
    assert_eq!(postgres.cancels(), 1);
}

#[test]
fn a_cancel_over_tls_arrives_though_its_sender_is_gone() {
    for goodbye in [true, false] {
        let (postgres, pooler, mut client) = held();
        let mut requester = tls::Client::connect(pooler.address);
        let request = wire::cancel_request(&client.cancel_key);
        if goodbye {
            requester.send_last(&request);
        } else {
            requester.send(&request);
        }
        drop(requester);
        assert_eq!(client.read().code(), "57014", "goodbye: {goodbye}");
        assert_eq!(postgres.cancels(), 1);
    }
}

/// A cancel is a connection of its own, which a balancer may give to another
/// pooler: the key says to which it belongs.
#[test]
fn a_cancel_that_reaches_another_pooler_finds_its_query() {
    let postgres = Postgres::start();
    postgres.play("SELECT 'long'", Play::Hold);
    let config = |id: &str| Config::over(&postgres).set("peer_id", id);
    let [own, other] = ["1", "2"].map(|id| Pooler::start(&config(id)));
    other.rewrite(&config("2").peer("1", own.address));
    assert_eq!(other.console().query("RELOAD").code(), "");

    let mut client = own.client();
    client.begin("SELECT 'long'");
    wait_for("the query", || {
        postgres.has_seen("SELECT 'long'").then_some(())
    });
    client.cancel_at(other.address);
    assert_eq!(client.read().code(), "57014");
    assert_eq!(postgres.cancels(), 1);
}
