//! What SHOW prints: columns, types, values.

use std::time::{Duration, Instant};

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
    wait_for,
};

const TEXT: u32 = 25;
const INT4: u32 = 23;
const INT8: u32 = 20;
const NUMERIC: u32 = 1700;

const CONNECTIONS: &str = "type:t user:t database:t replication:t state:t addr:t port:i \
    local_addr:t local_port:i connect_time:t request_time:t wait:i wait_us:i close_needed:i ptr:t \
    link:t remote_pid:i tls:t application_name:t prepared_statements:i id:I";
const STATS_TOTALS: &str = "database:t server_assignment_count:n xact_count:n query_count:n \
    bytes_received:n bytes_sent:n xact_time:n query_time:n wait_time:n client_parse_count:n \
    server_parse_count:n bind_count:n";

/// Exporters break when a column is added, moved, or of another type.
#[test]
fn columns_keep_their_number_order_and_types() {
    let pooler = Pooler::start(&Config::new());
    let mut console = pooler.console();
    for (table, expected) in [
        ("VERSION", "version:t"),
        (
            "POOLS",
            "database:t user:t cl_active:i cl_waiting:i cl_active_cancel_req:i \
             cl_waiting_cancel_req:i sv_active:i sv_active_cancel:i sv_being_canceled:i sv_idle:i \
             sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i pool_mode:t \
             load_balance_hosts:t",
        ),
        ("CLIENTS", CONNECTIONS),
        ("SERVERS", CONNECTIONS),
        (
            "STATS",
            "database:t total_server_assignment_count:n total_xact_count:n total_query_count:n \
             total_received:n total_sent:n total_xact_time:n total_query_time:n total_wait_time:n \
             total_client_parse_count:n total_server_parse_count:n total_bind_count:n \
             avg_server_assignment_count:n avg_xact_count:n avg_query_count:n avg_recv:n \
             avg_sent:n avg_xact_time:n avg_query_time:n avg_wait_time:n avg_client_parse_count:n \
             avg_server_parse_count:n avg_bind_count:n",
        ),
        ("STATS_TOTALS", STATS_TOTALS),
        ("STATS_AVERAGES", STATS_TOTALS),
        ("TOTALS", "name:t value:n"),
        (
            "DATABASES",
            "name:t host:t port:i database:t force_user:t pool_size:i min_pool_size:i \
             reserve_pool_size:i server_lifetime:i pool_mode:t load_balance_hosts:t \
             max_connections:i current_connections:i max_client_connections:i \
             current_client_connections:i paused:i disabled:i",
        ),
        ("CONFIG", "key:t value:t default:t changeable:t"),
        ("LISTS", "list:t items:i"),
        (
            "USERS",
            "name:t pool_size:i reserve_pool_size:i pool_mode:t max_user_connections:i \
             current_connections:i max_user_client_connections:i current_client_connections:i",
        ),
        ("STATE", "key:t value:t"),
        ("MEM", "name:t size:i used:i free:i memtotal:I"),
    ] {
        let answer = console.query(&format!("SHOW {table}"));
        let letter = |oid| match oid {
            TEXT => 't',
            INT4 => 'i',
            INT8 => 'I',
            NUMERIC => 'n',
            other => panic!("{table}: type {other}"),
        };
        let columns: Vec<String> = answer
            .columns()
            .iter()
            .map(|column| format!("{}:{}", column.name, letter(column.type_oid)))
            .collect();
        assert_eq!(columns.join(" "), expected, "{table}");
        assert_eq!(answer.tags(), ["SHOW"], "{table}");
        for row in answer.rows() {
            assert_eq!(row.len(), columns.len(), "{table}");
        }
    }
}

#[test]
fn the_version_is_one_that_exporters_can_read() {
    let pooler = Pooler::start(&Config::new());
    let version = pooler.console().query("SHOW VERSION").rows()[0][0].clone();
    assert!(version.starts_with("PgBouncer 1."), "{version}");
    assert!(version.contains("(Poolkeeper "), "{version}");
}

#[test]
fn pools_clients_and_servers_show_who_does_what() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("default_pool_size", "1"));
    let mut console = pooler.console();
    let parameters = [
        ("user", "ann"),
        ("database", "shop"),
        ("application_name", "till"),
    ];
    let mut busy = Client::login(pooler.address, &parameters).unwrap();
    busy.query("BEGIN");
    let _idle = pooler.client();
    let mut waiting = pooler.client();
    waiting.begin("SELECT 1");
    let pools = wait_for("a waiting client", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("database", "shop", "cl_waiting") == "1").then_some(pools)
    });
    let shop = |column| pools.value("database", "shop", column);
    assert_eq!(shop("user"), "app", "the user in PostgreSQL");
    assert_eq!(shop("cl_active"), "2", "one linked, one idle");
    assert_eq!(shop("sv_active"), "1");
    assert_eq!(shop("sv_idle"), "0");
    assert_eq!(shop("pool_mode"), "transaction");
    assert_eq!(shop("load_balance_hosts"), "-");
    assert_eq!(pools.value("database", "pgbouncer", "cl_active"), "1");

    let clients = console.query("SHOW CLIENTS");
    let servers = console.query("SHOW SERVERS");
    let till = |column| clients.value("application_name", "till", column);
    assert_eq!(till("state"), "active");
    assert_eq!(till("type"), "C");
    assert_eq!(till("user"), "ann");
    assert_eq!(till("database"), "shop");
    assert_eq!(till("port"), busy.address().port().to_string());
    assert_eq!(till("local_port"), pooler.address.port().to_string());
    assert_eq!(till("link"), servers.rows()[0][14], "ptr of its server");
    assert_eq!(servers.rows()[0][15], till("ptr"));
    assert_eq!(servers.value("type", "S", "state"), "active");
    assert_eq!(servers.value("type", "S", "remote_pid"), "1");
    let waited = clients.value("state", "waiting", "wait_us");
    assert_ne!(waited, "0");
    assert_eq!(clients.value("database", "pgbouncer", "user"), "admin");
    assert_eq!(clients.value("state", "idle", "link"), "");

    let lists = console.query("SHOW LISTS");
    let list = |name| lists.value("list", name, "items");
    assert_eq!(list("used_clients"), "4");
    assert_eq!(list("used_servers"), "1");
    assert_eq!(list("login_clients"), "0");
    assert_eq!(list("databases"), "2");
    assert_eq!(list("pools"), "2");
    assert_eq!(list("users"), "4");
    let users = console.query("SHOW USERS");
    assert_eq!(
        users.value("name", "ann", "current_client_connections"),
        "3"
    );
    assert_eq!(users.value("name", "app", "current_connections"), "1");
    let databases = console.query("SHOW DATABASES");
    assert_eq!(databases.value("name", "shop", "current_connections"), "1");
    let clients_now = databases.value("name", "shop", "current_client_connections");
    assert_eq!(clients_now, "3");
    assert_eq!(databases.value("name", "shop", "force_user"), "app");
    assert_eq!(databases.value("name", "shop", "pool_size"), "1");
    assert_eq!(databases.value("name", "shop", "pool_mode"), "-", "default");

    busy.query("COMMIT");
    assert_eq!(waiting.read().tags(), ["SELECT 0"]);
}

/// With several loops everything is the sum of what each knows.
#[test]
fn all_loops_are_shown_as_one() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("threads", "3"));
    let clients: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = pooler.client();
            client.query("SELECT 1");
            client
        })
        .collect();
    let mut console = pooler.console();
    let pools = console.query("SHOW POOLS");
    assert_eq!(pools.value("database", "shop", "cl_active"), "6");
    assert_eq!(console.query("SHOW CLIENTS").rows().len(), 7);
    let stats = console.query("SHOW STATS");
    assert_eq!(stats.value("database", "shop", "total_query_count"), "6");
    drop(clients);
    wait_for("their end", || {
        let pools = console.query("SHOW POOLS");
        (pools.value("database", "shop", "cl_active") == "0").then_some(())
    });
}

#[test]
fn totals_are_exact_and_averages_those_of_the_last_period() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("stats_period", "1"));
    let mut client = pooler.client();
    for _ in 0..50 {
        client.query("SELECT 1");
    }
    client.query("BEGIN");
    client.query("SELECT 1");
    client.query("COMMIT");
    let mut console = pooler.console();
    let stats = console.query("SHOW STATS");
    let total = |column: &str| -> u64 {
        let value = stats.value("database", "shop", &format!("total_{column}"));
        value.parse().unwrap()
    };
    assert_eq!(total("query_count"), 53);
    assert_eq!(total("xact_count"), 51);
    assert_eq!(total("server_assignment_count"), 51);
    assert_eq!(total("received"), 50 * 14 + 11 + 14 + 12);
    assert!(total("query_time") > 0);
    assert!(total("xact_time") >= total("query_time"));
    let totals = console.query("SHOW STATS_TOTALS");
    assert_eq!(totals.value("database", "shop", "query_count"), "53");
    wait_for("a period's average", || {
        let averages = console.query("SHOW STATS_AVERAGES");
        let count: u64 = averages
            .value("database", "shop", "query_count")
            .parse()
            .unwrap();
        (count > 0).then(|| assert!(count <= 53))
    });
    wait_for("the log", || {
        pooler
            .log()
            .contains("stats transactions_per_s=")
            .then_some(())
    });
    wait_for("an idle period", || {
        let averages = console.query("SHOW STATS_AVERAGES");
        (averages.value("database", "shop", "query_count") == "0").then_some(())
    });
}

/// Time in transactions is not time in sessions.
#[test]
fn session_pooling_counts_transactions() {
    let postgres = Postgres::start();
    let config = Config::over(&postgres).set("pool_mode", "session");
    let pooler = Pooler::start(&config.set("transaction_timeout", "0.3"));
    let mut client = pooler.client();
    client.query("SELECT 1");
    let mut console = pooler.console();
    // An idle session is in no transaction, however long.
    let since = Instant::now();
    wait_for("time to pass", || {
        (since.elapsed() > Duration::from_millis(600)).then_some(())
    });
    assert_eq!(client.query("SELECT 1").code(), "");
    let stats = console.query("SHOW STATS");
    let spent: u64 = stats
        .value("database", "shop", "total_xact_time")
        .parse()
        .unwrap();
    assert!(spent < 300_000, "{spent} us in two transactions");
    client.query("BEGIN");
    assert_eq!(client.read().code(), "57014", "it took too long");
}

#[test]
fn the_configuration_shows_values_and_defaults() {
    let pooler = Pooler::start(&Config::new().set("max_client_conn", "4000"));
    let config = pooler.console().query("SHOW CONFIG");
    let row = |key, column| config.value("key", key, column);
    assert_eq!(row("max_client_conn", "value"), "4000");
    assert_eq!(row("max_client_conn", "default"), "100");
    assert_eq!(row("max_client_conn", "changeable"), "yes");
    assert_eq!(row("listen_port", "changeable"), "no");
    assert_eq!(row("max_user_connections", "value"), "0");
    assert_eq!(row("auth_user", "default"), "-");
}
