//! What becomes of servers while the pooler drains.

use std::time::{Duration, Instant};

use proxy_core::pool::GIVE_UP_AFTER;
use rustix::process::Signal;

use crate::{
    pooler::{Config, Pooler},
    postgres::Postgres,
    wait_for,
};

/// Time between two looks of the pooler at what is idle.
const TICK: Duration = Duration::from_millis(100);

/// In a drain a server is opened again only after nobody has needed it for a
/// second: what is in use stays, though the pool takes its servers in turns.
#[test]
fn a_draining_pooler_keeps_the_server_in_use_and_gives_up_the_others() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("threads", "2")
        .set("min_pool_size", "4")
        .set("server_round_robin", "1")
        .set("drain_timeout", "86400");
    let pooler = Pooler::start(&config);
    let mut console = pooler.console();
    let mut clients = [(); 4].map(|()| pooler.client());
    for sql in ["BEGIN", "COMMIT"] {
        for client in &mut clients {
            assert_eq!(client.query(sql).code(), "");
        }
    }
    assert!(postgres.logins() >= 4);
    pooler.signal(Signal::TERM);
    let (mut answered_at, mut gaps) = (Instant::now(), 0);
    let mut work = || {
        assert_eq!(clients[0].query("SELECT 1").tags(), ["SELECT 0"]);
        // A busy machine may have kept the test from asking.
        gaps += u32::from(answered_at.elapsed() > GIVE_UP_AFTER - TICK);
        answered_at = Instant::now();
    };
    wait_for("the others to be given up", || {
        work();
        (console.query("SHOW SERVERS").rows().len() == 1).then_some(())
    });
    let (began, opened) = (Instant::now(), postgres.logins());
    wait_for("more than the time of a server that nobody needs", || {
        work();
        (began.elapsed() > GIVE_UP_AFTER + 2 * TICK).then_some(())
    });
    let more = postgres.logins() - opened;
    assert!(more <= gaps, "{more} opened, {gaps} pauses");
    wait_for("the last to be given up", || {
        let servers = console.query("SHOW SERVERS");
        servers.rows().is_empty().then_some(())
    });
}

/// Not the minimum either. One that is resumed serves who waits, and gives the
/// server up again.
#[test]
fn a_paused_pooler_that_drains_opens_nothing() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("min_pool_size", "1")
        .set("drain_timeout", "86400");
    let pooler = Pooler::start(&config);
    let mut console = pooler.console();
    let mut client = pooler.client();
    client.query("SELECT 1");
    assert_eq!(console.query("PAUSE").code(), "");
    assert_eq!(postgres.logins(), 1);
    pooler.signal(Signal::TERM);
    wait_for("the drain", || {
        pooler.log().contains("draining").then_some(())
    });
    client.begin("SELECT 'waited'");
    wait_for("a waiting client", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("database", "shop", "cl_waiting") == "1").then_some(())
    });
    assert_eq!(postgres.logins(), 1);
    assert_eq!(console.query("RESUME").code(), "");
    assert_eq!(client.read().tags(), ["SELECT 0"]);
    wait_for("the server to be given up", || {
        let servers = console.query("SHOW SERVERS");
        servers.rows().is_empty().then_some(())
    });
    assert_eq!(postgres.logins(), 2);
}
