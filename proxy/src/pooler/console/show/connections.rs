//! SHOW CLIENTS and SHOW SERVERS.

use jiff::Timestamp;

use super::super::table::{Column, Row, columns, row};
use crate::pooler::view::View;

/// Columns of both tables.
pub(super) const COLUMNS: &[Column] = columns![
    Text: "type", "user", "database", "replication", "state", "addr";
    Int4: "port";
    Text: "local_addr";
    Int4: "local_port";
    Text: "connect_time", "request_time";
    Int4: "wait", "wait_us", "close_needed";
    Text: "ptr", "link";
    Int4: "remote_pid";
    Text: "tls", "application_name";
    Int4: "prepared_statements";
    Int8: "id";
];

/// `type` is C. `remote_pid` is 0: only PgBouncer knows it, on a Unix socket.
pub(super) fn clients(view: &View) -> Vec<Row> {
    let clients = view.loops.clients.iter().map(|client| {
        let (address, port) = client.address.parts();
        let (local_address, local_port) = client.local.parts();
        row![
            "C",
            client.user.clone(),
            client.database.clone(),
            "none",
            client.state,
            address,
            port,
            local_address,
            local_port,
            time(client.connected_at),
            time(client.request_at),
            client.wait_us / 1_000_000,
            client.wait_us % 1_000_000,
            false,
            pointer(client.id),
            client.link.map(pointer).unwrap_or_default(),
            0_u32,
            client.tls,
            client.application_name.clone(),
            client.prepared_statements,
            client.id,
        ]
    });
    clients.collect()
}

/// `type` is S, `remote_pid` the process id in PostgreSQL.
pub(super) fn servers(view: &View) -> Vec<Row> {
    let servers = view.loops.servers.iter().map(|server| {
        let (address, port) = server.address.parts();
        let (local_address, local_port) = server.local.parts();
        row![
            "S",
            server.user.clone(),
            server.database.clone(),
            "none",
            server.state,
            address,
            port,
            local_address,
            local_port,
            time(server.connected_at),
            time(server.request_at),
            0_u32,
            0_u32,
            server.close_needed,
            pointer(server.id),
            server.link.map(pointer).unwrap_or_default(),
            server.process_id,
            server.tls,
            server.application_name.clone(),
            server.prepared_statements,
            server.id,
        ]
    });
    servers.collect()
}

/// PgBouncer shows addresses in memory; ours are the ids, which are never used twice.
fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

fn time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
