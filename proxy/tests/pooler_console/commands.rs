//! Commands that change something.

use rustix::process::Signal;

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    wait_for,
};

fn state(pooler: &Pooler) -> String {
    let status = pooler.get("/status").body;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["state"].as_str().unwrap().to_owned()
}

#[test]
fn pause_answers_when_no_server_is_in_use_and_resume_lets_go_on() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("threads", "2"));
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut console = pooler.console();
    let mut other = pooler.console();
    console.begin("PAUSE");
    wait_for("the pause", || (state(&pooler) == "paused").then_some(()));
    assert_eq!(busy.query("SELECT 1").code(), "", "its transaction goes on");
    assert_eq!(
        other.query("SHOW STATE").value("key", "paused", "value"),
        "yes"
    );
    assert_eq!(other.query("PAUSE").error(), "already suspended/paused");
    assert!(console.is_silent(), "a server is in use");
    busy.query("COMMIT");
    assert_eq!(console.read().tags(), ["PAUSE"]);
    assert_eq!(console.query("SHOW SERVERS").rows().len(), 0);

    let mut waiting = pooler.client();
    waiting.begin("SELECT 1");
    wait_for("a waiting client", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("database", "shop", "cl_waiting") == "1").then_some(())
    });
    assert!(waiting.is_silent());
    assert_eq!(other.query("RESUME").tags(), ["RESUME"]);
    assert_eq!(waiting.read().tags(), ["SELECT 0"]);
    assert_eq!(
        other.query("RESUME").error(),
        "pooler is not paused/suspended"
    );
    assert_eq!(state(&pooler), "ready");
}

#[test]
fn one_database_is_paused_by_itself() {
    let postgres = Postgres::start();
    let entry = postgres.entry();
    let pooler = Pooler::start(&Config::over(&postgres).database("bank", &entry));
    let mut console = pooler.console();
    // Also one that nobody has used yet.
    assert_eq!(console.query("PAUSE shop").tags(), ["PAUSE"]);
    assert_eq!(console.query("PAUSE shop").tags(), ["PAUSE"]);
    let databases = console.query("SHOW DATABASES");
    assert_eq!(databases.value("name", "shop", "paused"), "1");
    assert_eq!(databases.value("name", "bank", "paused"), "0");
    let mut bank = Client::connect(pooler.address, "ann", "bank");
    assert_eq!(bank.query("SELECT 1").tags(), ["SELECT 0"]);

    // Everything and one are two things.
    assert_eq!(console.query("PAUSE").tags(), ["PAUSE"]);
    assert_eq!(console.query("RESUME").tags(), ["RESUME"]);
    let databases = console.query("SHOW DATABASES");
    assert_eq!(databases.value("name", "shop", "paused"), "1");
    assert_eq!(console.query("RESUME shop").tags(), ["RESUME"]);
    assert_eq!(pooler.client().query("SELECT 1").tags(), ["SELECT 0"]);

    for (command, text) in [
        ("PAUSE none", "no such database: none"),
        ("RESUME none", "no such database: none"),
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer"),
        ("RESUME shop", "database shop is not paused"),
        ("RESUME bank", "database bank is not paused"),
    ] {
        assert_eq!(console.query(command).error(), text, "{command}");
    }
}

#[test]
fn the_limit_of_a_database_holds_after_a_pause_before_its_first_use() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("max_db_connections", "1"));
    let mut console = pooler.console();
    console.query("PAUSE shop");
    console.query("RESUME shop");
    let mut first = pooler.client();
    first.query("BEGIN");
    let mut second = pooler.client();
    second.begin("SELECT 1");
    wait_for("a waiting client", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("database", "shop", "cl_waiting") == "1").then_some(())
    });
    assert_eq!(postgres.logins(), 1);
    first.query("COMMIT");
    assert_eq!(second.read().tags(), ["SELECT 0"]);
}

#[test]
fn a_pause_that_is_cancelled_is_taken_back() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("threads", "2"));
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut console = pooler.console();
    console.begin("PAUSE");
    wait_for("the pause", || (state(&pooler) == "paused").then_some(()));
    console.cancel();
    let answer = console.read();
    assert_eq!(answer.code(), "57014");
    assert!(answer.kinds().ends_with("EZ"), "{answer:?}");
    assert_eq!(state(&pooler), "ready");
    console.cancel();
    assert_eq!(
        console.query("SHOW VERSION").code(),
        "",
        "nothing to cancel"
    );
}

#[test]
fn a_pause_goes_on_without_its_client_and_ends_with_resume() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres));
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut gone = pooler.console();
    gone.begin("PAUSE");
    wait_for("the pause", || (state(&pooler) == "paused").then_some(()));
    drop(gone);
    let mut console = pooler.console();
    wait_for("its end", || {
        let clients = console.query("SHOW LISTS");
        (clients.value("list", "used_clients", "items") == "2").then_some(())
    });
    assert_eq!(state(&pooler), "paused");
    assert_eq!(console.query("RESUME").tags(), ["RESUME"]);

    console.begin("PAUSE");
    wait_for("the pause", || (state(&pooler) == "paused").then_some(()));
    pooler.console().query("RESUME");
    assert_eq!(console.read().error(), "PAUSE was ended by RESUME");
    assert_eq!(busy.query("COMMIT").code(), "");
}

#[test]
fn signals_pause_and_resume() {
    let pooler = Pooler::start(&Config::new());
    pooler.signal(Signal::USR1);
    wait_for("the pause", || (state(&pooler) == "paused").then_some(()));
    wait_for("its log", || pooler.log().contains(" paused").then_some(()));
    pooler.signal(Signal::USR2);
    wait_for("its end", || (state(&pooler) == "ready").then_some(()));
}

#[test]
fn reload_takes_up_what_it_can_and_names_what_it_cannot() {
    let config = Config::new();
    let pooler = Pooler::start(&config);
    let mut console = pooler.console();
    pooler.rewrite(&config.clone().set("default_pool_size", "7"));
    let answer = console.query("RELOAD");
    assert_eq!(answer.kinds(), "CZ");
    let value = |console: &mut Client| {
        let settings = console.query("SHOW CONFIG");
        settings.value("key", "default_pool_size", "value")
    };
    assert_eq!(value(&mut console), "7");
    pooler.rewrite(&config.clone().set("threads", "2"));
    let answer = console.query("RELOAD");
    assert_eq!(answer.kinds(), "NCZ");
    assert!(answer.notices()[0].ends_with(": threads"), "{answer:?}");
    pooler.rewrite(&config.set("default_pool_size", "many"));
    let answer = console.query("RELOAD");
    assert!(
        answer.error().contains("default_pool_size = many"),
        "{answer:?}"
    );
    assert!(answer.error().contains("pooler.ini:"), "file and line");
    assert_eq!(value(&mut console), "20");
    // Who may do what is looked at when they come.
    assert_eq!(console.query("SHOW VERSION").code(), "");
}

#[test]
fn reload_opens_the_log_anew() {
    let pooler = Pooler::start(&Config::new().set("logfile", "{dir}/log"));
    let log = pooler.directory().join("log");
    std::fs::rename(&log, pooler.directory().join("log.1")).unwrap();
    pooler.console().query("RELOAD");
    wait_for("the new file", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("configuration reloaded").then_some(())
    });
}

#[test]
fn reconnect_replaces_servers_when_they_are_free() {
    let postgres = Postgres::start();
    let entry = postgres.entry();
    let pooler = Pooler::start(&Config::over(&postgres).database("bank", &entry));
    let mut client = pooler.client();
    client.query("BEGIN");
    let mut console = pooler.console();
    assert_eq!(console.query("RECONNECT bank").tags(), ["RECONNECT"]);
    assert_eq!(
        console
            .query("SHOW SERVERS")
            .value("type", "S", "close_needed"),
        "0"
    );
    assert_eq!(console.query("RECONNECT").tags(), ["RECONNECT"]);
    let servers = wait_for("the mark", || {
        let servers = console.query("SHOW SERVERS");
        (servers.value("type", "S", "close_needed") == "1").then_some(servers)
    });
    assert_eq!(servers.rows().len(), 1);
    assert_eq!(client.query("COMMIT").code(), "", "nothing was cut");
    assert_eq!(client.query("SELECT 1").code(), "");
    assert_eq!(postgres.logins(), 2);
}

#[test]
fn fast_close_ends_idle_sessions_whose_server_must_go() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres)
        .set("pool_mode", "session")
        .set("server_fast_close", "1");
    let pooler = Pooler::start(&config);
    let mut idle = pooler.client();
    idle.query("SELECT 1");
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut console = pooler.console();
    console.query("RECONNECT");
    assert_eq!(idle.read().code(), "57P01");
    assert_eq!(busy.query("SELECT 1").code(), "");
    busy.begin("COMMIT");
    assert_eq!(busy.read().tags(), ["SELECT 0"]);
    assert_eq!(busy.read().code(), "57P01");
}

#[test]
fn one_client_is_killed_and_no_other() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("threads", "2"));
    let mut clients = [pooler.client(), pooler.client()];
    let mut console = pooler.console();
    let table = console.query("SHOW CLIENTS");
    let id = table.value("port", &clients[1].address().port().to_string(), "id");
    assert_eq!(
        console.query(&format!("KILL_CLIENT {id}")).tags(),
        ["KILL_CLIENT"]
    );
    assert_eq!(clients[1].read().code(), "57P01");
    assert_eq!(clients[0].query("SELECT 1").code(), "");
    let answer = console.query("KILL_CLIENT x");
    assert_eq!(answer.code(), "22023");
}

#[test]
fn shutdown_ends_the_process() {
    let mut pooler = Pooler::start(&Config::new());
    let mut console = pooler.console();
    console.begin("SHUTDOWN");
    assert!(pooler.wait().0.success());
    assert_eq!(console.read().tags(), ["SHUTDOWN"]);
}

#[test]
fn shutdown_that_waits_cuts_no_transaction() {
    let postgres = Postgres::start();
    let mut pooler = Pooler::start(&Config::over(&postgres));
    let mut busy = pooler.client();
    busy.query("BEGIN");
    let mut idle = pooler.client();
    let mut console = pooler.console();
    console.begin("SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(console.read().tags(), ["SHUTDOWN"]);
    assert_eq!(idle.read().code(), "57P01");
    busy.begin("COMMIT");
    assert_eq!(busy.read().tags(), ["SELECT 0"]);
    assert_eq!(busy.read().code(), "57P01");
    assert!(pooler.wait().0.success());
}
