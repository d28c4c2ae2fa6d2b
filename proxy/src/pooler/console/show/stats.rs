//! SHOW STATS and its relatives. Times in microseconds.

use std::collections::BTreeMap;

use super::super::table::{Column, Kind, Row, Value, columns, row};
use crate::pooler::{counters::PoolCounters, stats::Change, view::View};

pub(super) const STATS: &[Column] = columns![
    Text: "database";
    Numeric: "total_server_assignment_count", "total_xact_count", "total_query_count",
        "total_received", "total_sent", "total_xact_time", "total_query_time", "total_wait_time",
        "total_client_parse_count", "total_server_parse_count", "total_bind_count",
        "avg_server_assignment_count", "avg_xact_count", "avg_query_count", "avg_recv", "avg_sent",
        "avg_xact_time", "avg_query_time", "avg_wait_time", "avg_client_parse_count",
        "avg_server_parse_count", "avg_bind_count";
];

pub(super) const TOTALS_BY_DATABASE: &[Column] = columns![
    Text: "database";
    Numeric: "server_assignment_count", "xact_count", "query_count", "bytes_received",
        "bytes_sent", "xact_time", "query_time", "wait_time", "client_parse_count",
        "server_parse_count", "bind_count";
];

/// The same names: they are per second, or the average of one.
pub(super) const AVERAGES: &[Column] = TOTALS_BY_DATABASE;

pub(super) const TOTALS: &[Column] = &[
    Column {
        name: "name",
        kind: Kind::Text,
    },
    Column {
        name: "value",
        kind: Kind::Numeric,
    },
];

pub(super) fn stats(view: &View) -> Vec<Row> {
    by_database(view, |counters, change| {
        [totals_of(counters), averages_of(change)].concat()
    })
}

pub(super) fn totals_by_database(view: &View) -> Vec<Row> {
    by_database(view, |counters, _| totals_of(counters).to_vec())
}

pub(super) fn averages(view: &View) -> Vec<Row> {
    by_database(view, |_, change| averages_of(change).to_vec())
}

/// All databases as one, a row for each column of SHOW STATS.
pub(super) fn totals(view: &View) -> Vec<Row> {
    let mut counters = PoolCounters::default();
    for database in view.totals().values() {
        counters.add(database);
    }
    let change = Change::sum(view.changes.values());
    STATS[1..]
        .iter()
        .zip([totals_of(&counters), averages_of(&change)].concat())
        .map(|(column, value)| row![column.name, value])
        .collect()
}

fn by_database(view: &View, values: impl Fn(&PoolCounters, &Change) -> Vec<u64>) -> Vec<Row> {
    let changes: &BTreeMap<String, Change> = &view.changes;
    view.totals()
        .into_iter()
        .map(|(database, counters)| {
            let change = changes.get(&database).copied().unwrap_or_default();
            let mut row = row![database];
            row.extend(values(&counters, &change).into_iter().map(Value::Number));
            row
        })
        .collect()
}

fn totals_of(counters: &PoolCounters) -> [u64; 11] {
    [
        counters.assignments,
        counters.transactions,
        counters.queries,
        counters.received_bytes,
        counters.sent_bytes,
        counters.transaction_us,
        counters.query_us,
        counters.wait_us,
        counters.client_parses,
        counters.server_parses,
        counters.binds,
    ]
}

fn averages_of(change: &Change) -> [u64; 11] {
    [
        change.per_second(|counters| counters.assignments),
        change.per_second(|counters| counters.transactions),
        change.per_second(|counters| counters.queries),
        change.per_second(|counters| counters.received_bytes),
        change.per_second(|counters| counters.sent_bytes),
        change.transaction_us(),
        change.query_us(),
        change.wait_us(),
        change.per_second(|counters| counters.client_parses),
        change.per_second(|counters| counters.server_parses),
        change.per_second(|counters| counters.binds),
    ]
}
