//! What concerns the whole process: SHOW VERSION, CONFIG, LISTS, STATE, MEM.

use std::mem::size_of;

use super::super::table::{Column, Row, columns, row};
use crate::pooler::{
    CONSOLE_VERSION, client::Client, event_loop::Buffers, io::READ_SIZE, server::Server, view::View,
};

pub(super) const VERSION: &[Column] = columns![Text: "version"];

pub(super) fn version() -> Vec<Row> {
    vec![row![CONSOLE_VERSION]]
}

pub(super) const CONFIG: &[Column] = columns![Text: "key", "value", "default", "changeable"];

pub(super) fn config(view: &View) -> Vec<Row> {
    let settings = view.live.config.global.rows().into_iter();
    settings
        .map(|setting| {
            row![
                setting.key,
                setting.value,
                setting.default,
                yes(setting.changeable)
            ]
        })
        .collect()
}

pub(super) const LISTS: &[Column] = columns![Text: "list"; Int4: "items"];

pub(super) fn lists(view: &View) -> Vec<Row> {
    let loops = &view.loops;
    let mut used_clients = loops.clients_console;
    let mut used_servers = 0;
    for pool in &loops.pools {
        used_clients += pool.clients_active + pool.clients_idle + pool.clients_waiting;
        used_servers += pool.servers_active
            + pool.servers_being_canceled
            + pool.servers_idle
            + pool.servers_used
            + pool.servers_tested
            + pool.servers_login;
    }
    let peers = super::peers::peers(view).len();
    vec![
        row!["databases", super::pools::databases(view).len()],
        row!["users", super::pools::users(view).len()],
        row!["peers", peers],
        row!["pools", super::pools::pools(view).len()],
        row!["peer_pools", peers],
        row!["free_clients", loops.clients_free],
        row!["used_clients", used_clients],
        row!["login_clients", loops.clients_login],
        row!["free_servers", loops.servers_free],
        row!["used_servers", used_servers],
        row!["dns_names", view.dns_names],
        // Names are looked up one by one, zones are not watched.
        row!["dns_zones", 0_u32],
        row!["dns_queries", 0_u32],
        row!["dns_pending", 0_u32],
    ]
}

pub(super) const STATE: &[Column] = columns![Text: "key", "value"];

pub(super) fn state(view: &View) -> Vec<Row> {
    vec![
        row!["active", yes(!view.is_paused)],
        row!["paused", yes(view.is_paused)],
        row!["suspended", "no"],
    ]
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

pub(super) const MEM: &[Column] =
    columns![Text: "name"; Int4: "size", "used", "free"; Int8: "memtotal"];

/// `size` bytes each, so many in use and free, `memtotal` bytes together.
/// `leftovers` are bytes read or unsent that wait at some socket.
pub(super) fn mem(view: &View) -> Vec<Row> {
    let loops = &view.loops;
    let cache = |name: &'static str, size: usize, used: usize, free: usize| {
        row![name, size, used, free, size * (used + free)]
    };
    let held: usize = loops.clients.iter().map(|client| client.held_bytes).sum();
    vec![
        cache(
            "client_cache",
            size_of::<Client>(),
            loops.clients.len() + loops.clients_login as usize,
            loops.clients_free,
        ),
        cache(
            "server_cache",
            size_of::<Server>(),
            loops.servers.len(),
            loops.servers_free,
        ),
        cache(
            "iobuf_cache",
            READ_SIZE + size_of::<Buffers>(),
            0,
            loops.buffers_free,
        ),
        cache("leftovers", 1, held, 0),
    ]
}
