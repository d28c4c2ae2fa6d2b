//! SHOW: a table for each of its arguments.
//!
//! Columns, their number, order and types are PgBouncer's: exporters and
//! scripts rely on them. What has no place there belongs into the metrics.

mod connections;
mod peers;
mod pools;
mod process;
mod stats;

use super::table::{Column, Row};
use crate::pooler::view::View;

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pooler) enum Show {
    Clients,
    Config,
    Databases,
    Help,
    Lists,
    Mem,
    Peers,
    Pools,
    Servers,
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
    Version,
}

impl Show {
    /// All, by name.
    pub(super) const ALL: [(&'static str, Self); 16] = [
        ("CLIENTS", Self::Clients),
        ("CONFIG", Self::Config),
        ("DATABASES", Self::Databases),
        ("HELP", Self::Help),
        ("LISTS", Self::Lists),
        ("MEM", Self::Mem),
        ("PEERS", Self::Peers),
        ("POOLS", Self::Pools),
        ("SERVERS", Self::Servers),
        ("STATE", Self::State),
        ("STATS", Self::Stats),
        ("STATS_AVERAGES", Self::StatsAverages),
        ("STATS_TOTALS", Self::StatsTotals),
        ("TOTALS", Self::Totals),
        ("USERS", Self::Users),
        ("VERSION", Self::Version),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|&(_, show)| show)
    }

    /// Whether it needs every client and server, not only their numbers.
    pub(super) fn needs_detail(self) -> bool {
        matches!(self, Self::Clients | Self::Servers | Self::Mem)
    }

    /// The columns of its table; none for HELP, which is a notice.
    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Clients | Self::Servers => connections::COLUMNS,
            Self::Config => process::CONFIG,
            Self::Databases => pools::DATABASES,
            Self::Help => &[],
            Self::Lists => process::LISTS,
            Self::Mem => process::MEM,
            Self::Peers => peers::PEERS,
            Self::Pools => pools::POOLS,
            Self::State => process::STATE,
            Self::Stats => stats::STATS,
            Self::StatsAverages => stats::AVERAGES,
            Self::StatsTotals => stats::TOTALS_BY_DATABASE,
            Self::Totals => stats::TOTALS,
            Self::Users => pools::USERS,
            Self::Version => process::VERSION,
        }
    }

    /// The rows of its table.
    pub(super) fn rows(self, view: &View) -> Vec<Row> {
        match self {
            Self::Clients => connections::clients(view),
            Self::Config => process::config(view),
            Self::Databases => pools::databases(view),
            Self::Help => Vec::new(),
            Self::Lists => process::lists(view),
            Self::Mem => process::mem(view),
            Self::Peers => peers::peers(view),
            Self::Pools => pools::pools(view),
            Self::Servers => connections::servers(view),
            Self::State => process::state(view),
            Self::Stats => stats::stats(view),
            Self::StatsAverages => stats::averages(view),
            Self::StatsTotals => stats::totals_by_database(view),
            Self::Totals => stats::totals(view),
            Self::Users => pools::users(view),
            Self::Version => process::version(),
        }
    }
}
