//! `/metrics` and `/status`.

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    wait_for,
};

/// The value of a series with its labels.
#[track_caller]
fn metric(page: &str, series: &str) -> f64 {
    let name = format!("poolkeeper_pooler_{series} ");
    let line = page.lines().find(|line| line.starts_with(&name));
    let line = line.unwrap_or_else(|| panic!("no {series} in {page}"));
    line[name.len()..].parse().unwrap()
}

#[test]
fn metrics_count_what_was_done() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("threads", "2")
        .set("config_revision", "r7");
    let pooler = Pooler::start(&config);
    let mut client = pooler.client();
    client.query("SELECT 1");
    client.query("BEGIN");
    let _console = pooler.console();
    let answer = pooler.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain"));
    let page = answer.body;
    assert!(page.contains("config_revision=\"r7\"} 1\n"), "{page}");
    assert!(metric(&page, "start_time_seconds") > 1.7e9);
    assert_eq!(metric(&page, "clients{state=\"active\"}"), 1.0);
    assert_eq!(metric(&page, "clients{state=\"console\"}"), 1.0);
    assert_eq!(metric(&page, "clients_limit"), 100.0);
    assert_eq!(metric(&page, "connections_total"), 2.0);
    assert_eq!(metric(&page, "paused"), 0.0);
    assert_eq!(metric(&page, "draining"), 0.0);
    let pool = |series: &str| {
        metric(
            &page,
            &format!("{series}{{database=\"shop\",user=\"app\"}}"),
        )
    };
    assert_eq!(pool("pool_queries_total"), 2.0);
    assert_eq!(pool("pool_transactions_total"), 1.0);
    assert_eq!(pool("pool_assignments_total"), 2.0);
    assert_eq!(pool("pool_logins_total"), 1.0);
    assert_eq!(pool("pool_received_bytes_total"), 25.0);
    assert_eq!(pool("pool_servers_limit"), 20.0);
    let servers = "pool_servers{database=\"shop\",user=\"app\",state=\"active\"}";
    assert_eq!(metric(&page, servers), 1.0);
    for thread in 0..2 {
        assert!(metric(&page, &format!("loop_age_seconds{{loop=\"{thread}\"}}")) < 10.0);
    }
}

#[test]
fn metrics_count_what_went_wrong() {
    let postgres = Postgres::start();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let config = Config::over(&postgres)
        .database("away", &format!("host=127.0.0.1 port={port} user=app"))
        .set("query_wait_timeout", "0.2")
        .set("max_client_conn", "1");
    let pooler = Pooler::start(&config);
    let login =
        |user, database| Client::login(pooler.address, &[("user", user), ("database", database)]);
    assert_eq!(login("ann", "none").unwrap_err().code(), "3D000");
    assert_eq!(login("eve", "shop").unwrap_err().code(), "28000");
    let away = login("ann", "away").unwrap_err();
    assert_eq!(away.code(), "53300");
    assert!(away.error().contains("Connection refused"), "{away:?}");
    let _first = pooler.client();
    assert_eq!(login("ann", "shop").unwrap_err().code(), "53300");
    let page = pooler.get("/metrics").body;
    assert_eq!(metric(&page, "auth_failures_total"), 1.0);
    for (code, count) in [("3D000", 1.0), ("28000", 1.0), ("53300", 2.0)] {
        let series = format!("clients_refused_total{{sqlstate=\"{code}\"}}");
        assert_eq!(metric(&page, &series), count, "{code}");
    }
    let failures = |reason| {
        let series = format!("server_connect_failures_total{{reason=\"{reason}\"}}");
        metric(&page, &series)
    };
    assert!(failures("unreachable") >= 1.0);
    assert_eq!(failures("rejected"), 0.0);
    assert_eq!(failures("name"), 0.0);
}

#[test]
fn waiting_shows_in_metrics_and_status() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("default_pool_size", "1"));
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut waiting = pooler.client();
    waiting.begin("SELECT 1");
    wait_for("the wait", || {
        let page = pooler.get("/metrics").body;
        let wait = "pool_wait_max_seconds{database=\"shop\",user=\"app\"}";
        (metric(&page, wait) > 0.0).then_some(())
    });
    let status = pooler.get("/status").body;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["clients"]["waiting"], 1);
    assert_eq!(status["clients"]["active"], 1);
    assert_eq!(status["clients"]["total"], 2);
    assert_eq!(status["servers"]["active"], 1);
    assert_eq!(status["listen"], pooler.address.to_string());
}
