//! The console as drivers see it.

use proxy_core::wire::{self, frontend};

use crate::{
    client::Client,
    pooler::{Config, Pooler},
    postgres::Postgres,
};

fn parse(name: &str, sql: &str) -> Vec<u8> {
    let rest = [sql.as_bytes(), &[0, 0, 0]].concat();
    wire::parse(name.as_bytes(), &rest)
}

fn bind(statement: &str, formats: &[u16]) -> Vec<u8> {
    wire::message(frontend::BIND, |out| {
        out.push(0);
        out.extend([statement.as_bytes(), &[0, 0, 0, 0, 0]].concat());
        out.extend((formats.len() as u16).to_be_bytes());
        out.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    })
}

fn describe(what: u8, name: &str) -> Vec<u8> {
    wire::message(frontend::DESCRIBE, |out| {
        out.push(what);
        out.extend([name.as_bytes(), &[0]].concat());
    })
}

fn execute() -> Vec<u8> {
    wire::message(frontend::EXECUTE, |out| out.extend([0; 5]))
}

#[test]
fn simple_queries_are_answered_one_by_one() {
    let pooler = Pooler::start(&Config::new());
    let mut console = pooler.console();
    assert_eq!(console.query("SHOW STATE;").kinds(), "TDDDCZ");
    assert_eq!(console.query("").kinds(), "IZ");
    assert_eq!(console.query("-- ping").kinds(), "IZ");
    let both = console.query("SHOW VERSION; RELOAD");
    assert_eq!(both.kinds(), "TDCCZ");
    assert_eq!(both.tags(), ["SHOW", "RELOAD"]);
    let cut = console.query("SHOW VERSION; RESUME; SHOW VERSION");
    assert_eq!(cut.kinds(), "TDCEZ", "the first error is the last command");
    let help = console.query("SHOW HELP");
    assert_eq!(help.kinds(), "NCZ");
    assert!(help.notices()[0].contains("KILL_CLIENT"), "{help:?}");
    assert_eq!(console.query("SET extra_float_digits = 3").tags(), ["SET"]);
    assert_eq!(console.query("SHOW client_encoding").rows(), [["UTF8"]]);

    console.begin("SHOW VERSION");
    console.begin("SHOW STATE");
    assert_eq!(console.read().kinds(), "TDCZ", "pipelined");
    assert_eq!(console.read().kinds(), "TDDDCZ");
}

#[test]
fn errors_name_what_is_wrong_and_the_session_goes_on() {
    let pooler = Pooler::start(&Config::new());
    let mut console = pooler.console();
    for (command, code, text) in [
        (
            "SELECT 1",
            "42601",
            "invalid command 'SELECT 1', use SHOW HELP",
        ),
        (
            "SHOW X",
            "42601",
            "invalid SHOW argument 'X', use SHOW HELP",
        ),
        ("SHOW FDS", "0A000", "SHOW FDS is not supported yet"),
        ("SUSPEND", "0A000", "SUSPEND is not supported yet"),
        ("RECONNECT x", "3D000", "no such database: x"),
        ("KILL_CLIENT 4711", "22023", "client 4711 not found"),
    ] {
        let answer = console.query(command);
        assert_eq!(answer.code(), code, "{command}");
        assert_eq!(answer.error(), text);
        assert!(answer.kinds().ends_with("EZ"), "{answer:?}");
    }
    assert_eq!(console.query("SHOW VERSION").kinds(), "TDCZ");
}

#[test]
fn the_extended_protocol_gives_the_same_in_text_and_binary() {
    let pooler = Pooler::start(&Config::new());
    let mut console = pooler.console();
    let batch = [
        parse("", "SHOW LISTS"),
        bind("", &[]),
        describe(b'P', ""),
        execute(),
    ];
    let text = console.batch(&batch);
    assert_eq!(text.kinds(), format!("12T{}CZ", "D".repeat(14)));
    assert_eq!(text.value("list", "used_clients", "items"), "1");

    let prepared = console.batch(&[parse("lists", "SHOW LISTS"), describe(b'S', "lists")]);
    assert_eq!(prepared.kinds(), "1tTZ");
    let binary = console.batch(&[bind("lists", &[0, 1]), describe(b'P', ""), execute()]);
    assert_eq!(binary.columns()[1].format, 1);
    let clients = &binary.values()[6];
    assert_eq!(clients[0].as_deref(), Some(&b"used_clients"[..]));
    assert_eq!(clients[1].as_deref(), Some(&[0, 0, 0, 1][..]));

    let command = console.batch(&[
        parse("", "RELOAD"),
        describe(b'S', ""),
        bind("", &[]),
        execute(),
    ]);
    assert_eq!(command.kinds(), "1tn2CZ");
}

#[test]
fn an_error_skips_the_rest_of_its_batch() {
    let pooler = Pooler::start(&Config::new());
    let mut console = pooler.console();
    let wrong = console.batch(&[parse("", "SELECT 1"), bind("", &[]), execute()]);
    assert_eq!(wrong.kinds(), "EZ");
    let batch = [
        parse("", "RESUME"),
        bind("", &[]),
        execute(),
        parse("after", "RELOAD"),
    ];
    let wrong = console.batch(&batch);
    assert_eq!(wrong.kinds(), "12EZ", "not paused");
    assert_eq!(wrong.error(), "pooler is not paused/suspended");
    let skipped = console.batch(&[describe(b'S', "after")]);
    assert_eq!(skipped.code(), "26000", "it was never parsed");
}

/// A driver as exporters use it: prepares, describes, asks for binary numbers.
#[test]
fn a_driver_reads_tables_with_its_own_types() {
    let pooler = Pooler::start(&Config::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let parameters = format!(
            "host=127.0.0.1 port={} user=stats dbname=pgbouncer application_name=exporter",
            pooler.address.port()
        );
        let (client, connection) = tokio_postgres::connect(&parameters, tokio_postgres::NoTls)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.query("SHOW CLIENTS", &[]).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].get::<_, &str>("application_name"), "exporter");
        assert!(rows[0].get::<_, i32>("port") > 0);
        assert!(rows[0].get::<_, i64>("id") > 0);
        let rows = client.query("SHOW DATABASES", &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, Option<&str>>("host"), None);
        let error = client.query("SHOW NOTHING", &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42601");
        let rows = client.simple_query("SHOW STATS").await.unwrap();
        assert!(rows.len() >= 2);
        drop(client);
        connection.await.unwrap().unwrap();
    });
}

#[test]
fn any_startup_parameter_is_welcome_and_databases_stay_strict() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres));
    let login = |database| {
        let parameters = [
            ("user", "stats"),
            ("database", database),
            ("extra_float_digits", "2"),
            ("options", "-c geqo=off"),
        ];
        Client::login(pooler.address, &parameters)
    };
    assert_eq!(login("pgbouncer").unwrap().query("SHOW STATS").code(), "");
    let refused = login("shop").unwrap_err();
    assert_eq!(refused.code(), "08P01");
    assert!(
        refused.error().contains("extra_float_digits"),
        "{refused:?}"
    );
}

#[test]
fn only_those_named_get_in_and_only_admins_change_anything() {
    let pooler = Pooler::start(&Config::new());
    let login = |user| Client::login(pooler.address, &[("user", user), ("database", "pgbouncer")]);
    assert_eq!(login("ann").unwrap_err().code(), "42501");
    assert_eq!(login("nobody").unwrap_err().code(), "28000");
    let mut stats = login("stats").unwrap();
    assert_eq!(stats.query("SHOW POOLS").code(), "");
    for command in [
        "PAUSE",
        "RESUME",
        "RELOAD",
        "RECONNECT",
        "SHUTDOWN",
        "KILL_CLIENT 1",
    ] {
        let answer = stats.query(command);
        assert_eq!(answer.code(), "42501", "{command}");
        assert_eq!(answer.error(), "admin access needed");
    }
}

/// Its places are not those of max_client_conn: who looks after a full pooler
/// must get in.
#[test]
fn a_full_pooler_can_still_be_looked_at() {
    let postgres = Postgres::start();
    let pooler = Pooler::start(&Config::over(&postgres).set("max_client_conn", "1"));
    let _first = pooler.client();
    let parameters = [("user", "ann"), ("database", "shop")];
    let refused = Client::login(pooler.address, &parameters).unwrap_err();
    assert_eq!(refused.code(), "53300");
    assert_eq!(pooler.console().query("SHOW VERSION").code(), "");
}

#[test]
fn what_is_too_long_or_no_message_ends_the_session() {
    let pooler = Pooler::start(&Config::new());
    let mut console = pooler.console();
    console.send(&wire::query(&"x".repeat(20_000)));
    let answer = console.read();
    assert_eq!(answer.code(), "54000");
    assert!(answer.kinds().ends_with('E'), "closed");
    let mut console = pooler.console();
    console.send(&wire::message(frontend::FUNCTION_CALL, |_| {}));
    assert_eq!(console.read().code(), "08P01");
    let mut console = pooler.console();
    console.send(&[b'Q', 0, 0, 0, 1]);
    assert_eq!(console.read().code(), "08P01");
    // A message in single bytes is a message.
    let mut console = pooler.console();
    for byte in wire::query("SHOW VERSION") {
        console.send(&[byte]);
    }
    assert_eq!(console.read().kinds(), "TDCZ");
}
