//! A limit that pools on different event loops share.

use rustix::process::Signal;

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    wait_for,
};

/// Pools of ann and of app on different loops, one server for both.
fn two_loops_one_place() -> (Postgres, Pooler, [Client; 2]) {
    let postgres = Postgres::start();
    let config = Config::new()
        .database("shop", &postgres.entry_of_each())
        .set("threads", "2");
    // Each pool has had a server, so that nobody waits for what it says of itself.
    let pooler = Pooler::start(&config);
    let clients = ["ann", "app"].map(|user| Client::connect(pooler.address, user, "shop"));
    let mut console = pooler.console();
    console.query("RECONNECT");
    wait_for("no server", || {
        console
            .query("SHOW SERVERS")
            .rows()
            .is_empty()
            .then_some(())
    });
    pooler.rewrite(&config.set("max_db_connections", "1"));
    assert_eq!(console.query("RELOAD").code(), "");
    (postgres, pooler, clients)
}

fn wait_until_it_waits(pooler: &Pooler, user: &str) {
    let mut console = pooler.console();
    wait_for("a waiting client", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("user", user, "cl_waiting") == "1").then_some(())
    });
}

#[test]
fn an_idle_server_of_another_loop_makes_room() {
    let (_postgres, _pooler, mut clients) = two_loops_one_place();
    for client in [0, 1, 0] {
        assert_eq!(clients[client].query("SELECT 1").tags(), ["SELECT 0"]);
    }
}

/// PostgreSQL takes its time to close a server: the others are left alone until
/// then, for one place is enough.
#[test]
fn one_idle_server_makes_room_and_no_more() {
    let postgres = Postgres::start();
    let config = Config::new()
        .database("shop", &postgres.entry_of_each())
        .set("max_db_connections", "3");
    let pooler = Pooler::start(&config);
    let mut clients = [(); 3].map(|()| Client::connect(pooler.address, "ann", "shop"));
    for sql in ["BEGIN", "COMMIT"] {
        for client in &mut clients {
            client.query(sql);
        }
    }
    postgres.linger();
    let mut other = Client::connect(pooler.address, "app", "shop");
    assert_eq!(other.query("SELECT 1").tags(), ["SELECT 0"]);
    let servers = pooler.console().query("SHOW SERVERS");
    assert_eq!(servers.rows().len(), 3, "{servers:?}");
    assert_eq!(postgres.logins(), 4);
}

/// A loop whose clients are all gone still owes the others the places of its
/// servers, which it has until PostgreSQL has closed them.
#[test]
fn a_loop_that_has_drained_gives_its_places_back() {
    let (postgres, mut pooler, [mut done, mut waiting]) = two_loops_one_place();
    done.query("BEGIN");
    waiting.begin("SELECT 'waited'");
    wait_until_it_waits(&pooler, "app");
    postgres.linger();
    pooler.signal(Signal::INT);
    wait_for("the drain", || {
        pooler.log().contains("draining").then_some(())
    });
    done.query("COMMIT");
    drop(done);
    let answer = waiting.read();
    assert_eq!(answer.tags(), ["SELECT 0"], "{answer:?}");
    assert_eq!(waiting.read().code(), "57P01");
    drop(waiting);
    assert!(pooler.wait().0.success());
}

/// `server_lifetime` is looked at when a server is given back: one that is never
/// idle would else never go.
#[test]
fn a_server_whose_lifetime_is_over_serves_nobody_else() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres).set("server_lifetime", "0");
    let pooler = Pooler::start(&config);
    let mut client = pooler.client();
    let statements = ["SELECT 1", "SELECT 2", "SELECT 3", "SELECT 4"];
    let servers = statements.map(|sql| {
        assert_eq!(client.query(sql).tags(), ["SELECT 0"]);
        postgres.server_of(sql).unwrap()
    });
    assert!(servers.is_sorted_by(|a, b| a < b), "{servers:?}");
}

/// `max_server_connections` is of all pools: where it is reached, a server of one
/// that has nothing else in common makes room.
#[test]
fn a_server_of_any_pool_makes_room_where_all_are_counted() {
    let postgres = Postgres::start();
    let entry = postgres.entry_of_each();
    let config = Config::new()
        .database("shop", &entry)
        .database("store", &entry);
    let pooler = Pooler::start(&config.clone().set("max_server_connections", "1"));
    let mut clients = Vec::new();
    for (user, database) in [("ann", "shop"), ("app", "store")] {
        clients.push(Client::connect(pooler.address, user, database));
    }
    let mut console = pooler.console();
    for client in [0, 1, 0] {
        assert_eq!(clients[client].query("SELECT 1").tags(), ["SELECT 0"]);
        assert_eq!(console.query("SHOW SERVERS").rows().len(), 1);
    }
    // Without the limit each has its own; with it again, one goes though idle.
    for (limit, servers) in [("0", 2), ("1", 1)] {
        pooler.rewrite(&config.clone().set("max_server_connections", limit));
        assert_eq!(console.query("RELOAD").code(), "");
        if servers == 2 {
            for client in &mut clients {
                assert_eq!(client.query("SELECT 1").tags(), ["SELECT 0"]);
            }
        }
        wait_for("as many servers as there may be", || {
            (console.query("SHOW SERVERS").rows().len() == servers).then_some(())
        });
    }
}
