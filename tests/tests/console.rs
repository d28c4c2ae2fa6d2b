//! The admin console: what exporters, dashboards and people's fingers rely on.

use anyhow::Result;
use std::time::Duration;
use tests::{
    Pooler, Postgres, Raw, pooler,
    raw::{bind, describe_portal, execute, parse},
    wait,
};

fn tier() -> Result<(Postgres, Pooler)> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres).start()?;
    Ok((postgres, pooler))
}

const POOLS: &str = "database user cl_active cl_waiting cl_active_cancel_req \
    cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested \
    sv_login maxwait maxwait_us pool_mode load_balance_hosts";
const DATABASES: &str = "name host port database force_user pool_size min_pool_size \
    reserve_pool_size server_lifetime pool_mode load_balance_hosts max_connections \
    current_connections max_client_connections current_client_connections paused disabled";
const CONNECTIONS: &str = "type user database replication state addr port local_addr local_port \
    connect_time request_time wait wait_us close_needed ptr link remote_pid tls application_name \
    prepared_statements id";
const STATS: [&str; 11] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "received",
    "sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
];

/// Columns, in order: exporters break when one is added or moved.
#[test]
fn columns_are_those_of_the_original_in_their_order() -> Result<()> {
    if pooler::is_original() {
        // Debian's 1.18 is older than the list.
        return Ok(());
    }
    let (_postgres, pooler) = tier()?;
    let mut client = pooler.client()?;
    client.value("SELECT 1")?;
    let mut console = pooler.console()?;
    let mut columns = |show: &str| -> Result<String> {
        let outcome = console.query(show)?;
        assert_eq!(outcome.code(), "", "{show}");
        Ok(outcome.columns().join(" "))
    };
    assert_eq!(columns("SHOW POOLS")?, POOLS);
    assert_eq!(columns("SHOW DATABASES")?, DATABASES);
    assert_eq!(columns("SHOW CLIENTS")?, CONNECTIONS);
    assert_eq!(columns("SHOW SERVERS")?, CONNECTIONS);
    assert_eq!(columns("SHOW LISTS")?, "list items");
    assert_eq!(columns("SHOW CONFIG")?, "key value default changeable");
    assert_eq!(columns("SHOW VERSION")?, "version");
    let totals = STATS.map(|name| format!("total_{name}")).join(" ");
    let averages = STATS
        .map(|name| format!("avg_{}", name.replace("received", "recv")))
        .join(" ");
    assert_eq!(
        columns("SHOW STATS")?,
        format!("database {totals} {averages}")
    );
    Ok(())
}

#[test]
fn what_monitors_read_is_there() -> Result<()> {
    let (_postgres, pooler) = tier()?;
    let mut client = pooler.client()?;
    for _ in 0..5 {
        client.value("SELECT 1")?;
    }
    let mut console = pooler.console()?;
    let lists = console.query("SHOW LISTS")?.rows();
    for list in [
        "databases",
        "users",
        "pools",
        "used_clients",
        "used_servers",
    ] {
        assert!(
            lists.iter().any(|row| row[0].as_deref() == Some(list)),
            "{list} is missing"
        );
    }
    let settings = console.query("SHOW CONFIG")?.rows();
    for (key, value) in [
        ("max_client_conn", "1000"),
        ("default_pool_size", "20"),
        ("pool_mode", "transaction"),
    ] {
        let row = settings.iter().find(|row| row[0].as_deref() == Some(key));
        assert_eq!(row.and_then(|row| row[1].as_deref()), Some(value), "{key}");
    }
    let version = console.query("SHOW VERSION")?.value().unwrap_or_default();
    let number = version.split(' ').nth(1).unwrap_or("");
    assert!(
        number.split('.').count() >= 2 && number.starts_with(|first: char| first.is_ascii_digit()),
        "exporters take the second word of {version:?} as a version"
    );
    Ok(())
}

#[test]
fn pools_count_what_clients_and_servers_do() -> Result<()> {
    let (_postgres, pooler) = tier()?;
    let mut active = pooler.client()?;
    active.query("BEGIN")?;
    let mut idle = pooler.client()?;
    idle.value("SELECT 1")?;
    let mut console = pooler.console()?;
    let row = named(&console.query("SHOW POOLS")?, "database", "shop");
    let of = |column: &str| {
        row.iter()
            .find(|(name, _)| name == column)
            .map(|(_, value)| value.as_str())
            .unwrap_or("missing")
            .to_owned()
    };
    assert_eq!(of("user"), "app");
    assert_eq!(of("sv_active"), "1");
    assert_eq!(of("cl_waiting"), "0");
    assert_eq!(of("pool_mode"), "transaction");
    Ok(())
}

#[test]
fn statistics_grow_by_what_was_done() -> Result<()> {
    let (_postgres, pooler) = tier()?;
    let mut client = pooler.client()?;
    let mut console = pooler.console()?;
    for _ in 0..10 {
        client.value("SELECT 1")?;
    }
    client.query("BEGIN")?;
    client.value("SELECT 2")?;
    client.query("COMMIT")?;
    let total = |console: &mut Raw, column: &str| -> Result<u64> {
        let row = named(&console.query("SHOW STATS")?, "database", "shop");
        let value = row.iter().find(|(name, _)| name == column);
        Ok(value
            .map(|(_, value)| value.parse())
            .transpose()?
            .unwrap_or(0))
    };
    // PgBouncer sums up now and then.
    wait::until_true("the counters", Duration::from_secs(65), || {
        total(&mut console, "total_query_count").is_ok_and(|count| count >= 13)
    })?;
    assert_eq!(total(&mut console, "total_query_count")?, 13);
    assert_eq!(total(&mut console, "total_xact_count")?, 11);
    Ok(())
}

/// The Prometheus exporter's driver sends extra_float_digits; some tools use
/// the extended protocol.
#[test]
fn drivers_get_in_and_may_use_the_extended_protocol() -> Result<()> {
    let postgres = Postgres::start()?;
    let pooler = Pooler::in_front_of(&postgres)
        .set("ignore_startup_parameters", "extra_float_digits")
        .start()?;
    let mut console = Raw::connect_with(
        pooler.address(),
        &[
            ("user", "stats"),
            ("database", "pgbouncer"),
            ("extra_float_digits", "2"),
            ("client_encoding", "UTF8"),
            ("datestyle", "ISO, MDY"),
        ],
    )?;
    assert_eq!(console.query("SHOW STATS")?.code(), "");
    assert_eq!(
        console.query("show pools;")?.code(),
        "",
        "lower case, semicolon"
    );
    if pooler::is_original() {
        return Ok(());
    }
    let outcome = console.batch(&[
        parse("", "SHOW VERSION"),
        bind("", "", &[]),
        describe_portal(""),
        execute("", 0),
    ])?;
    assert_eq!(outcome.kinds(), "12TDCZ");
    Ok(())
}

#[test]
fn only_those_named_get_in_and_only_admins_change_anything() -> Result<()> {
    let (_postgres, pooler) = tier()?;
    assert!(Raw::connect(pooler.address(), "app", "pgbouncer").is_err());
    let mut stats = Raw::connect(pooler.address(), "stats", "pgbouncer")?;
    assert_eq!(stats.query("SHOW POOLS")?.code(), "");
    for command in ["PAUSE", "RELOAD", "RESUME"] {
        assert_ne!(stats.query(command)?.error(), None, "{command}");
    }
    let mut console = pooler.console()?;
    assert_ne!(console.query("SHOW NONSENSE")?.error(), None);
    assert_ne!(console.query("DROP TABLE t")?.error(), None);
    assert_eq!(
        console.query("SHOW VERSION")?.code(),
        "",
        "the session goes on"
    );
    Ok(())
}

#[test]
fn pause_waits_for_transactions_and_resume_lets_go_on() -> Result<()> {
    let (postgres, pooler) = tier()?;
    let mut busy = pooler.client()?;
    busy.query("BEGIN")?;
    let mut console = pooler.console()?;
    console.send(&proxy_core::wire::query("PAUSE"))?;
    assert_eq!(busy.value("SELECT 1")?, "1", "an open transaction goes on");
    assert_eq!(busy.query("COMMIT")?.status, 'I');
    assert_eq!(console.until_ready()?.tags(), ["PAUSE"]);
    wait::until_true("no server", Duration::from_secs(5), || {
        postgres
            .connections_of(&["app"])
            .is_ok_and(|count| count == 0)
    })?;
    let mut waiting = pooler.client()?;
    waiting.send(&proxy_core::wire::query("SELECT 'late'"))?;
    assert!(!waiting.closed_within(Duration::from_millis(300))?);
    if !pooler::is_original() {
        assert_eq!(pooler.status()?["state"], "paused");
    }
    assert_eq!(console.query("RESUME")?.tags(), ["RESUME"]);
    assert_eq!(waiting.until_ready()?.value().as_deref(), Some("late"));
    Ok(())
}

#[test]
fn reload_takes_up_a_changed_file() -> Result<()> {
    let (_postgres, mut pooler) = tier()?;
    let mut console = pooler.console()?;
    pooler.reload(|builder| builder.set("default_pool_size", "7"))?;
    assert_eq!(console.query("RELOAD")?.tags(), ["RELOAD"]);
    wait::until_true("the new value", Duration::from_secs(5), || {
        console.query("SHOW CONFIG").is_ok_and(|outcome| {
            outcome.rows().iter().any(|row| {
                row[0].as_deref() == Some("default_pool_size") && row[1].as_deref() == Some("7")
            })
        })
    })?;
    Ok(())
}

/// The row whose `column` is `value`, as (column, value).
fn named(outcome: &tests::raw::Outcome, column: &str, value: &str) -> Vec<(String, String)> {
    let columns = outcome.columns();
    outcome
        .rows()
        .into_iter()
        .map(|row| {
            columns
                .iter()
                .cloned()
                .zip(row.into_iter().map(Option::unwrap_or_default))
                .collect::<Vec<_>>()
        })
        .find(|row| row.contains(&(column.to_owned(), value.to_owned())))
        .unwrap_or_default()
}
