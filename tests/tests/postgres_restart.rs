//! PostgreSQL dies and comes back.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tests::{Pooler, Postgres, Raw, pooler, raw, wait};

fn tier() -> Result<(Postgres, Pooler)> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("auth_type", "trust")
        .start()?;
    Ok((postgres, pooler))
}

#[test]
fn a_client_in_a_query_gets_a_clear_error() -> Result<()> {
    let (mut postgres, pooler) = tier()?;
    let mut client = pooler.client()?;
    client.query("BEGIN")?;
    postgres.kill9();
    let ended = match client.query("SELECT 1") {
        Ok(outcome) => outcome.code(),
        Err(error) => raw::code_of(&error),
    };
    // 57P02 and 57P01 are PostgreSQL's own words, if it still had the time.
    ensure!(
        ended.starts_with("08") || ended.starts_with("57P"),
        "the client was told {ended:?}"
    );
    Ok(())
}

/// The promise: within one second of PostgreSQL accepting again, for who waited
/// all along and for who comes then, however long it was away.
#[test]
fn the_first_query_succeeds_within_a_second_of_postgresql_accepting() -> Result<()> {
    let (mut postgres, pooler) = tier()?;
    pooler.client()?.value("SELECT 1")?;
    // Long enough for a back-off to have grown.
    for away in [Duration::from_secs(1), Duration::from_secs(6)] {
        postgres.kill9();
        let address = pooler.address();
        let down = Instant::now();
        let asker = thread::spawn(move || -> Result<Instant> {
            // Asks as an application would: again after each error.
            loop {
                ensure!(down.elapsed() < Duration::from_secs(40), "never answered");
                let answer = Raw::connect(address, "app", "shop")
                    .and_then(|mut client| client.value("SELECT 1"));
                if answer.is_ok() {
                    return Ok(Instant::now());
                }
            }
        });
        wait::holds_for("PostgreSQL is away", away, || true)?;
        postgres.spawn_again()?;
        postgres.wait_until_it_accepts()?;
        let accepting = Instant::now();
        let answered = asker.join().expect("does not panic")?;
        let late = answered.saturating_duration_since(accepting);
        println!("away {away:?}: first answer {late:?} after PostgreSQL accepted");
        if !pooler::is_original() {
            assert!(
                late < Duration::from_secs(1),
                "{late:?} late after {away:?}"
            );
        }
    }
    Ok(())
}

/// A client that is connected and idle notices nothing but a slower query.
#[test]
fn an_idle_client_survives() -> Result<()> {
    let (mut postgres, pooler) = tier()?;
    let mut client = pooler.client()?;
    client.value("SELECT 1")?;
    postgres.kill9();
    postgres.start_again()?;
    wait::until("an answer", Duration::from_secs(20), || {
        client.value("SELECT 1").map_err(|error| error.to_string())
    })?;
    Ok(())
}

/// Readiness is about the pooler: restarting it would not bring PostgreSQL back.
#[test]
fn readiness_does_not_depend_on_postgresql() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let (mut postgres, pooler) = tier()?;
    postgres.kill9();
    for path in ["/livez", "/readyz"] {
        assert_eq!(tests::http::get(pooler.http(), path)?.status, 200, "{path}");
    }
    Ok(())
}

#[test]
fn servers_lost_while_idle_are_replaced_without_an_error() -> Result<()> {
    let (postgres, pooler) = tier()?;
    let mut client = pooler.client()?;
    client.value("SELECT 1")?;
    postgres.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
    )?;
    wait::until_true("the server to be gone", Duration::from_secs(5), || {
        postgres
            .connections_of(&["app"])
            .is_ok_and(|count| count == 0)
    })?;
    assert_eq!(client.value("SELECT 2")?, "2");
    Ok(())
}

/// What checks are told, with no client at all: a wrong host must show before
/// the first application does.
#[test]
fn an_idle_pooler_tells_whether_postgresql_answers() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    for tls in [false, true] {
        let mut postgres = Postgres::builder();
        let certificate = tests::Certificate::new()?;
        if tls {
            postgres = postgres.tls(&certificate);
        }
        let mut postgres = postgres.start()?;
        let mode = if tls { "prefer" } else { "disable" };
        let pooler = Pooler::in_front_of(&postgres)
            .set("auth_type", "trust")
            .set("server_tls_sslmode", mode)
            .set("upstream_check_interval", "1")
            .start()?;
        tells(&pooler, "reachable", None)?;
        // Several questions later.
        let before = postgres.log();
        wait::holds_for("it is asked", Duration::from_secs(4), || true)?;
        let log = postgres.log();
        ensure!(log == before, "a question is logged: {log}");
        postgres.kill9();
        tells(&pooler, "unreachable", Some("refused"))?;
        postgres.start_again()?;
        tells(&pooler, "reachable", None)?;
    }
    Ok(())
}

/// Without a setting it asks nothing, and knows what logins show.
#[test]
fn logins_tell_what_questions_do_not() -> Result<()> {
    if pooler::is_original() {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let pooler = Pooler::builder()
        .database("shop", &postgres)
        .user("app", "wrong")
        .start()?;
    let status = tests::http::get(pooler.http(), "/status")?.json()?;
    ensure!(status.get("upstream").is_none(), "{status}");
    ensure!(
        pooler
            .client()
            .and_then(|mut one| one.value("SELECT 1"))
            .is_err()
    );
    tells(&pooler, "unreachable", Some("credentials"))
}

/// Waits until the pooler's `/status` says so, with the address and no more.
fn tells(pooler: &Pooler, state: &str, reason: Option<&str>) -> Result<()> {
    wait::until(
        "PostgreSQL's state in /status",
        Duration::from_secs(30),
        || {
            let status =
                tests::http::get(pooler.http(), "/status").and_then(|answer| answer.json());
            let status = status.map_err(|error| error.to_string())?;
            let (report, first) = (&status["upstream"], &status["upstreams"][0]);
            let told =
                |one: &serde_json::Value| one["state"] == state && one["reason"].as_str() == reason;
            let address = first["address"].as_str().unwrap_or_default();
            match told(report) && told(first) && address.starts_with("127.0.0.1:") {
                true => Ok(()),
                false => Err(format!("{report} {first}")),
            }
        },
    )
}
