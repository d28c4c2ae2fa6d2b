//! What a reload changes at once, and what it must not.

use std::{
    io::{ErrorKind, Read},
    time::{Duration, Instant},
};

use proxy_core::wire::{self, SqlState};
use rustix::process::Signal;

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    support::connect,
    wait_for,
};

fn reload(pooler: &Pooler, config: &Config) {
    pooler.rewrite(config);
    assert_eq!(pooler.console().query("RELOAD").code(), "");
}

/// Refused again and again, PostgreSQL is asked less and less often; a reload
/// may have mended what was wrong.
#[test]
fn a_corrected_address_is_tried_at_once() {
    let (wrong, right) = (Postgres::start(), Postgres::start());
    wrong.refuse(SqlState::INVALID_PASSWORD, "wrong password of app");
    let config = |postgres: &Postgres| Config::over(postgres).set("server_login_retry", "600");
    let pooler = Pooler::start(&config(&wrong));
    let login = [("user", "ann"), ("database", "shop")];
    wait_for("eight attempts", || {
        let refused = Client::login(pooler.address, &login).unwrap_err();
        assert_eq!(refused.code(), "28P01");
        (wrong.logins() >= 8).then_some(())
    });
    // 20 ms doubled seven times.
    let pause = Duration::from_millis(2_560);
    let began = Instant::now();
    reload(&pooler, &config(&right));
    assert_eq!(pooler.client().query("SELECT 1").tags(), ["SELECT 0"]);
    let took = began.elapsed();
    assert!(took < pause / 2, "{took:?} with a pause of {pause:?}");
}

#[test]
fn round_robin_holds_from_the_reload_on() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres);
    let pooler = Pooler::start(&config);
    let mut clients = [pooler.client(), pooler.client()];
    for sql in ["BEGIN", "COMMIT"] {
        for client in &mut clients {
            client.query(sql);
        }
    }
    assert_eq!(postgres.logins(), 2);
    let mut server_of = |sql: &str| {
        clients[0].query(sql);
        postgres.server_of(sql).unwrap()
    };
    assert_eq!(server_of("1"), server_of("2"), "the last one used");
    reload(&pooler, &config.set("server_round_robin", "1"));
    assert_ne!(server_of("3"), server_of("4"), "each in its turn");
}

/// Connections are counted when they are accepted, and go to their loop by
/// letter. Were those on their way lost from the count, it would be below zero
/// once they have left, which looks like a crowd that has not logged in.
#[test]
fn connections_on_their_way_to_a_loop_are_counted_through_a_reload() {
    proxy::net::raise_nofile_limit();
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("threads", "2")
        .set("max_client_conn", "1");
    let pooler = Pooler::start(&config);
    let _known = pooler.client().query("SELECT 1");
    for round in 1..=3 {
        // Accepted all at once when the process goes on, while it reloads.
        pooler.signal(Signal::STOP);
        let crowd: Vec<_> = (0..800).map(|_| connect(pooler.address)).collect();
        pooler.signal(Signal::HUP);
        pooler.signal(Signal::CONT);
        wait_for("the reload", || {
            let reloads = pooler.log().matches("configuration reloaded").count();
            (reloads == round).then_some(())
        });
        let descriptors = || {
            let open = std::fs::read_dir(format!("/proc/{}/fd", pooler.pid())).unwrap();
            open.count()
        };
        wait_for("all to be accepted", || {
            (descriptors() > crowd.len()).then_some(())
        });
        // Its own are few.
        let few = crowd.len() / 4;
        drop(crowd);
        wait_for("all to leave", || (descriptors() < few).then_some(()));

        let mut first = connect(pooler.address);
        let client = pooler.client();
        let login = [("user", "ann"), ("database", "shop")];
        let refused = Client::login(pooler.address, &login).unwrap_err();
        assert_eq!(refused.code(), "53300", "round {round}");
        first.set_nonblocking(true).unwrap();
        let open = first.read(&mut [0; 1]).unwrap_err();
        assert_eq!(open.kind(), ErrorKind::WouldBlock, "round {round}");
        drop(client);
    }
}

/// What `/status` says of reloads: how many failed, and why the newest did.
fn reloads(pooler: &Pooler) -> proxy_core::status::ReloadStatus {
    let status: proxy_core::status::PoolerStatus =
        serde_json::from_str(&pooler.get("/status").body).unwrap();
    status.reloads
}

fn reloaded(pooler: &Pooler) -> usize {
    pooler.log().matches("configuration reloaded").count()
}

/// Writes the file, and waits until the pooler has read it again.
fn write_and_wait(pooler: &Pooler, file: &str, text: &str) {
    let before = reloaded(pooler);
    std::fs::write(pooler.directory().join(file), text).unwrap();
    wait_for("a reload", || (reloaded(pooler) > before).then_some(()));
}

#[test]
fn files_that_change_are_reloaded_when_that_is_asked_for() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres).set("reload_on_change", "1");
    let pooler = Pooler::start(&config);
    let login = |user: &str| {
        let user = [("user", user), ("database", "shop")];
        Client::login(pooler.address, &user).is_ok()
    };
    assert!(!login("bob"));
    write_and_wait(&pooler, "userlist.txt", "\"bob\" \"\"\n\"app\" \"\"\n");
    assert!(login("bob"));

    // The ini itself, with a file that it includes and that is not there yet.
    let bad = std::fs::read_to_string(&pooler.file).unwrap() + "%include {}\n";
    let more = pooler.directory().join("more.ini");
    let bad = bad.replace("{}", more.to_str().unwrap());
    std::fs::write(&pooler.file, bad).unwrap();
    let failed = wait_for("the refusal", || {
        Some(reloads(&pooler)).filter(|reloads| reloads.error.is_some())
    });
    assert_eq!(failed.failures_total, 1);
    assert!(failed.error.unwrap().contains("more.ini"));
    assert!(login("bob"), "what was in force stays");
    let metrics = pooler.get("/metrics").body;
    assert!(
        metrics.contains("poolkeeper_pooler_last_reload_successful 0"),
        "{metrics}"
    );
    write_and_wait(&pooler, "more.ini", "application_name_add_host = 1\n");
    let reloads = reloads(&pooler);
    assert_eq!((reloads.failures_total, reloads.error), (1, None));
}

#[test]
fn files_that_change_are_left_alone_unless_that_is_asked_for() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres);
    let pooler = Pooler::start(&config);
    pooler.rewrite(&config.set("reload_on_change", "1"));
    // Nobody looks at the file that asks to be looked at.
    pooler.signal(Signal::HUP);
    wait_for("the reload", || (reloaded(&pooler) == 1).then_some(()));
    write_and_wait(&pooler, "userlist.txt", "\"ann\" \"\"\n");
}

/// A pooler that starts while its tier is paused must not serve, and is no less
/// ready for it.
#[test]
fn pools_can_be_paused_by_the_configuration() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres).set("min_pool_size", "1");
    let paused = config.clone().set("paused", "1");
    let pooler = Pooler::start(&paused);
    let state = || pooler.get("/status").body.contains("\"paused\"");
    assert_eq!(pooler.get("/readyz").status, 200);
    assert!(state());
    // The first of its pool, it would be told what a server says of itself.
    let mut early = Client::from(connect(pooler.address));
    early.send(&wire::startup(&[("user", "ann"), ("database", "shop")]));
    let mut console = pooler.console();
    wait_for("a client that waits", || {
        let pools = console.query("SHOW POOLS");
        let known = pools.rows().iter().any(|row| row[0] == "shop");
        (known && pools.value("database", "shop", "cl_waiting") == "1").then_some(())
    });
    assert_eq!(postgres.logins(), 0, "not for it nor for the minimum");
    assert_eq!(pooler.get("/readyz").status, 200);
    reload(&pooler, &config);
    assert!(!state());
    assert!(early.read().kinds().ends_with('Z'));
    assert_eq!(pooler.client().query("SELECT 1").tags(), ["SELECT 0"]);
    reload(&pooler, &paused);
    assert!(state());
    // What the console says holds until the setting changes again.
    assert_eq!(pooler.console().query("RESUME").code(), "");
    reload(&pooler, &paused.clone().set("server_round_robin", "1"));
    assert!(!state());
    assert_eq!(pooler.client().query("SELECT 1").tags(), ["SELECT 0"]);
}
