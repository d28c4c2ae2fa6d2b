//! Whether the pooler says of itself that it does not serve its clients in time.

use serde_json::Value;

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    wait_for,
};

/// What `/status` says of it.
fn saturation(pooler: &Pooler) -> Value {
    let status: Value = serde_json::from_str(&pooler.get("/status").body).unwrap();
    status["saturation"].clone()
}

#[track_caller]
fn wait_until_saturated(pooler: &Pooler, reason: &str) {
    wait_for(reason, || {
        (saturation(pooler)["reason"] == reason).then_some(())
    });
}

#[test]
fn a_client_that_waits_too_long_shows_until_nobody_does() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("default_pool_size", "1")
        .set("saturation_wait", "0.2");
    let pooler = Pooler::start(&config);
    wait_for("a look", || saturation(&pooler)["number"].as_u64());
    assert_eq!(saturation(&pooler)["reason"], Value::Null);
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut waiting = pooler.client();
    waiting.begin("SELECT 1");
    wait_until_saturated(&pooler, "clientsWait");
    let page = pooler.get("/metrics").body;
    let series = |reason, value| format!("saturated{{reason=\"{reason}\"}} {value}\n");
    assert!(page.contains(&series("clients_wait", 1)), "{page}");
    assert!(page.contains(&series("clients_refused", 0)), "{page}");
    busy.query("COMMIT");
    assert_eq!(waiting.read().tags(), ["SELECT 0"]);
    wait_for("the end", || {
        saturation(&pooler)["reason"].is_null().then_some(())
    });
    // The log's thread may be later than the status.
    wait_for("the log", || {
        let log = pooler.log();
        log.contains("clients are served in time again")
            .then_some(())
    });
}

#[test]
fn a_limit_that_is_used_up_is_named() {
    let postgres = Postgres::start();
    let config = Config::new()
        .database("shop", &postgres.entry_of_each())
        .set("saturation_wait", "0.2")
        .set("max_db_connections", "1");
    let pooler = Pooler::start(&config);
    let mut waiting = Client::connect(pooler.address, "app", "shop");
    // Its idle server makes room, and then there is none.
    let mut busy = Client::connect(pooler.address, "ann", "shop");
    busy.query("BEGIN");
    waiting.begin("SELECT 1");
    wait_until_saturated(&pooler, "maxDbConnections");
}

#[test]
fn a_refused_client_shows() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("max_client_conn", "1"));
    let _first = pooler.client();
    let login = [("user", "ann"), ("database", "shop")];
    let refused = Client::login(pooler.address, &login).unwrap_err();
    assert_eq!(refused.code(), "53300");
    wait_until_saturated(&pooler, "clientsRefused");
}

#[test]
fn waiting_by_order_is_no_saturation_and_nothing_is_said_where_it_is_off() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("default_pool_size", "1")
        .set("saturation_wait", "0.2");
    let pooler = Pooler::start(&config);
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut waiting = pooler.client();
    waiting.begin("SELECT 1");
    wait_until_saturated(&pooler, "clientsWait");
    let mut console = pooler.console();
    console.begin("PAUSE");
    wait_for("nothing to say", || {
        saturation(&pooler)["reason"].is_null().then_some(())
    });
    pooler.rewrite(&config.set("saturation_wait", "0"));
    let mut other = pooler.console();
    assert_eq!(other.query("RELOAD").code(), "");
    wait_for("silence", || saturation(&pooler).is_null().then_some(()));
}
