//! Which pools there are, and what a pool says that cannot open a server.

use proxy_core::wire::SqlState;

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    wait_for,
};

/// Names of the databases that SHOW `table` has, without the console's.
fn databases(console: &mut Client, table: &str) -> Vec<String> {
    let rows = console.query(&format!("SHOW {table}")).rows();
    let names = rows.into_iter().map(|mut row| row.remove(0));
    names.filter(|name| name != "pgbouncer").collect()
}

#[test]
fn a_database_that_postgresql_does_not_have_leaves_no_pool() {
    let postgres = Postgres::start();
    postgres.refuse(SqlState::INVALID_CATALOG_NAME, "no such database");
    let pooler = Pooler::start(&Config::new().database("*", &postgres.entry()));
    let mut console = pooler.console();
    for name in ["made", "up"] {
        let parameters = [("user", "ann"), ("database", name)];
        let answer = Client::login(pooler.address, &parameters).unwrap_err();
        assert_eq!(answer.code(), "3D000");
        assert!(answer.error().contains("no such database"), "{answer:?}");
    }
    wait_for("the pools' end", || {
        let left = ["POOLS", "DATABASES", "STATS"].map(|table| databases(&mut console, table));
        left.concat().is_empty().then_some(())
    });
    assert!(!pooler.get("/metrics").body.contains("\"made\""));
}

#[test]
fn a_pool_that_nobody_uses_is_forgotten_unless_its_database_has_an_entry() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .database("*", &postgres.entry())
        .set("autodb_idle_timeout", "1")
        .set("server_idle_timeout", "1")
        .set("min_pool_size", "1");
    let pooler = Pooler::start(&config);
    let mut console = pooler.console();
    drop(pooler.client());
    let mut tenant = Client::connect(pooler.address, "ann", "tenant");
    tenant.query("SELECT 1");
    assert_eq!(databases(&mut console, "POOLS"), ["shop", "tenant"]);
    drop(tenant);
    wait_for("the pool's end", || {
        (databases(&mut console, "POOLS") == ["shop"]).then_some(())
    });
    assert_eq!(databases(&mut console, "DATABASES"), ["shop"]);
    assert!(!pooler.get("/metrics").body.contains("\"tenant\""));

    // It begins anew.
    Client::connect(pooler.address, "ann", "tenant").query("SELECT 1");
    assert_eq!(databases(&mut console, "POOLS"), ["shop", "tenant"]);
}

const SHOP: [(&str, &str); 2] = [("user", "ann"), ("database", "shop")];

#[test]
fn who_comes_after_a_rejected_login_is_told_at_once_what_postgresql_said() {
    let postgres = Postgres::start();
    postgres.refuse(SqlState::INVALID_PASSWORD, "wrong password of app");
    for threads in ["1", "2"] {
        let pooler = Pooler::start(&Config::over(&postgres).set("threads", threads));
        let before = postgres.logins();
        for _ in 0..20 {
            let answer = Client::login(pooler.address, &SHOP).unwrap_err();
            assert_eq!(answer.code(), "28P01");
            assert!(
                answer.error().contains("wrong password of app"),
                "{answer:?}"
            );
        }
        let attempts = postgres.logins() - before;
        assert!(attempts < 20, "each was an attempt of its own");
    }
}

#[test]
fn who_comes_while_postgresql_starts_waits_for_it() {
    let postgres = Postgres::start();
    postgres.refuse(SqlState::CANNOT_CONNECT_NOW, "starting up");
    let pooler = Pooler::start(&Config::over(&postgres));
    let address = pooler.address;
    let waiting = std::thread::spawn(move || Client::connect(address, "ann", "shop"));
    wait_for("a second attempt", || (postgres.logins() > 1).then_some(()));
    postgres.accept();
    waiting.join().unwrap().query("SELECT 1");
}

#[test]
fn who_waited_too_long_is_told_what_postgresql_said() {
    let postgres = Postgres::start();
    postgres.refuse(SqlState::TOO_MANY_CONNECTIONS, "too many clients already");
    for (timeout, code) in [
        ("query_wait_timeout", "53300"),
        ("client_login_timeout", "57P03"),
    ] {
        let pooler = Pooler::start(&Config::over(&postgres).set(timeout, "0.3"));
        let answer = Client::login(pooler.address, &SHOP).unwrap_err();
        assert_eq!(answer.code(), code);
        for part in [timeout, "too many clients already"] {
            assert!(answer.error().contains(part), "{answer:?}");
        }
    }
}

/// A server that was being opened when the configuration changed serves nobody.
#[test]
fn a_reload_holds_for_a_server_that_is_being_opened() {
    let [old, new] = [Postgres::start(), Postgres::start()];
    let pooler = Pooler::start(&Config::over(&old));
    let mut console = pooler.console();
    let mut busy = pooler.client();
    busy.query("BEGIN");
    old.hold(true);
    let before = old.logins();
    let mut client = pooler.client();
    client.begin("SELECT 'after'");
    wait_for("an attempt", || (old.logins() > before).then_some(()));
    pooler.rewrite(&Config::over(&new));
    assert_eq!(console.query("RELOAD").tags(), ["RELOAD"]);
    old.hold(false);
    assert_eq!(client.read().tags(), ["SELECT 0"]);
    assert!(new.has_seen("SELECT 'after'"));
    assert!(!old.has_seen("SELECT 'after'"));
}

/// The same, of one that would have been let in nowhere.
#[test]
fn a_login_that_fails_after_a_reload_is_nobodys_failure() {
    let [old, new] = [Postgres::start(), Postgres::start()];
    let pooler = Pooler::start(&Config::over(&old));
    let mut console = pooler.console();
    old.hold(true);
    old.refuse(SqlState::INVALID_PASSWORD, "wrong password of app");
    let address = pooler.address;
    let client = std::thread::spawn(move || Client::connect(address, "ann", "shop"));
    wait_for("an attempt", || (old.logins() > 0).then_some(()));
    pooler.rewrite(&Config::over(&new));
    assert_eq!(console.query("RELOAD").tags(), ["RELOAD"]);
    old.hold(false);
    client.join().unwrap().query("SELECT 1");
}

#[test]
fn a_reconnect_replaces_the_servers_of_one_database() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).database("bank", &postgres.entry()));
    let mut console = pooler.console();
    let mut shop = pooler.client();
    let mut bank = Client::connect(pooler.address, "ann", "bank");
    for client in [&mut shop, &mut bank] {
        client.query("BEGIN");
    }
    let before = postgres.logins();
    console.query("RECONNECT shop");
    for client in [&mut shop, &mut bank] {
        client.query("COMMIT");
        client.query("SELECT 1");
    }
    assert_eq!(postgres.logins(), before + 1);
}
