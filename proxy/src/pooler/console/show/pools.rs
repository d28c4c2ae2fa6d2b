//! SHOW POOLS, SHOW DATABASES and SHOW USERS.

use std::collections::BTreeSet;

use proxy_core::config::pooler::CONSOLE;

use super::super::table::{Column, Row, Value, columns, row};
use crate::pooler::view::View;

pub(super) const POOLS: &[Column] = columns![
    Text: "database", "user";
    Int4: "cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req",
        "sv_active", "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used", "sv_tested",
        "sv_login", "maxwait", "maxwait_us";
    Text: "pool_mode", "load_balance_hosts";
];

/// A row per database and user, and one for the console.
pub(super) fn pools(view: &View) -> Vec<Row> {
    let mut rows: Vec<Row> = view
        .pools()
        .map(|(info, pool)| {
            row![
                info.database.clone(),
                info.user.clone(),
                // Idle ones belong here, as in PgBouncer.
                pool.clients_active + pool.clients_idle,
                pool.clients_waiting,
                pool.cancels,
                // Cancel requests do not wait here.
                0_u32,
                pool.servers_active,
                pool.cancels,
                pool.servers_being_canceled,
                pool.servers_idle,
                pool.servers_used,
                pool.servers_tested,
                pool.servers_login,
                pool.wait_us_max / 1_000_000,
                pool.wait_us_max % 1_000_000,
                info.settings().pool.pool_mode.word(),
                Value::Null,
            ]
        })
        .collect();
    let mut console = row![CONSOLE, CONSOLE, view.loops.clients_console];
    console.resize_with(15, || Value::Number(0));
    console.extend(row!["statement", Value::Null]);
    rows.push(console);
    rows.sort_by(|a, b| key(a).cmp(&key(b)));
    rows
}

fn key(row: &Row) -> Vec<&str> {
    let texts = row.iter().map_while(|value| match value {
        Value::Text(text) => Some(text.as_ref()),
        _ => None,
    });
    texts.collect()
}

pub(super) const DATABASES: &[Column] = columns![
    Text: "name", "host";
    Int4: "port";
    Text: "database", "force_user";
    Int4: "pool_size", "min_pool_size", "reserve_pool_size", "server_lifetime";
    Text: "pool_mode", "load_balance_hosts";
    Int4: "max_connections", "current_connections", "max_client_connections",
        "current_client_connections", "paused", "disabled";
];

/// A row per entry, per database served by `*` at the moment, and the console's.
/// `pool_mode` is NULL where it is the default.
pub(super) fn databases(view: &View) -> Vec<Row> {
    let config = &view.live.config;
    let global = &config.global;
    let mut names: BTreeSet<&str> = config.databases.keys().map(String::as_str).collect();
    names.remove("*");
    names.extend(view.databases.keys().map(String::as_str));
    names.insert(CONSOLE);
    let rows = names.into_iter().filter_map(|name| {
        if name == CONSOLE {
            return Some(row![
                CONSOLE,
                Value::Null,
                global.listen_port,
                CONSOLE,
                CONSOLE,
                2_u32,
                0_u32,
                0_u32,
                0_u32,
                "statement",
                Value::Null,
                0_u32,
                0_u32,
                0_u32,
                view.loops.clients_console,
                false,
                false,
            ]);
        }
        let (entry, _) = config.database(name)?;
        let usage = view.databases.get(name).copied().unwrap_or_default();
        let pool = config.pool(entry, "");
        Some(row![
            name.to_owned(),
            entry.host.clone(),
            entry.port,
            entry.dbname.clone().unwrap_or_else(|| name.to_owned()),
            entry.user.clone(),
            pool.pool_size,
            pool.min_pool_size,
            pool.reserve_pool_size,
            pool.server_lifetime.as_secs(),
            entry.pool_mode.map(|mode| mode.word()),
            Value::Null,
            pool.max_db_connections,
            usage.servers,
            pool.max_db_client_connections,
            usage.clients,
            usage.paused,
            false,
        ])
    });
    rows.collect()
}

pub(super) const USERS: &[Column] = columns![
    Text: "name";
    Int4: "pool_size", "reserve_pool_size";
    Text: "pool_mode";
    Int4: "max_user_connections", "current_connections", "max_user_client_connections",
        "current_client_connections";
];

/// A row per user of auth_file, of section [users], or at work.
pub(super) fn users(view: &View) -> Vec<Row> {
    let config = &view.live.config;
    let global = &config.global;
    let mut names: BTreeSet<&str> = config.users.keys().map(String::as_str).collect();
    names.extend(config.userlist.users().map(|(name, _)| name));
    names.extend(view.users.keys().map(String::as_str));
    let rows = names.into_iter().map(|name| {
        let own = config.users.get(name).cloned().unwrap_or_default();
        let usage = view.users.get(name).copied().unwrap_or_default();
        row![
            name.to_owned(),
            own.pool_size,
            own.reserve_pool_size,
            own.pool_mode.map(|mode| mode.word()),
            own.max_user_connections
                .unwrap_or(global.max_user_connections),
            usage.servers,
            own.max_user_client_connections
                .unwrap_or(global.max_user_client_connections),
            usage.clients,
        ]
    });
    rows.collect()
}
