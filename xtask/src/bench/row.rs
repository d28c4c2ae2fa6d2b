//! The work.

use std::{fmt, time::Duration};

use tests::Pgbench;

use super::{Bench, column::Column};

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Row {
    /// 32 clients, one indexed SELECT at a time, simple protocol.
    Simple,
    /// The same in the extended protocol.
    Extended,
    /// The same with prepared statements, in transaction mode.
    Prepared,
    /// The same with prepared statements, in session mode: what a PgBouncer
    /// before 1.21 can do.
    PreparedSession,
    /// 8 clients, a new connection for each SELECT, clients trusted.
    Connect,
    /// The same, clients log in by SCRAM.
    ConnectScram,
    /// 4 clients, results of 2 MB.
    Large,
    /// 4,000 clients that have run one query and do nothing.
    Idle,
    /// The same over TLS.
    IdleTls,
    /// Not a comparison: every combination for a minute, no error, no wrong result.
    Load,
}

impl Row {
    pub(crate) const ALL: [Self; 10] = [
        Self::Simple,
        Self::Extended,
        Self::Prepared,
        Self::PreparedSession,
        Self::Connect,
        Self::ConnectScram,
        Self::Large,
        Self::Idle,
        Self::IdleTls,
        Self::Load,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
            Self::PreparedSession => "prepared-session",
            Self::Connect => "connect",
            Self::ConnectScram => "connect-scram",
            Self::Large => "large",
            Self::Idle => "idle",
            Self::IdleTls => "idle-tls",
            Self::Load => "load",
        }
    }

    /// Whether a column can do it and it says something there.
    pub(crate) fn is_for(self, column: Column, bench: &Bench) -> bool {
        match self {
            Self::Prepared => column != Column::Pgbouncer || bench.pgbouncer_prepares,
            // Only where it takes the place of the row above.
            Self::PreparedSession => column.is_pooler() && !bench.pgbouncer_prepares,
            Self::ConnectScram | Self::IdleTls => column.is_pooler(),
            _ => true,
        }
    }

    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Self::Idle | Self::IdleTls)
    }

    /// Whether instructions per transaction mean something: not where logins
    /// are the work or nothing is done.
    pub(crate) fn can_be_counted(self) -> bool {
        matches!(
            self,
            Self::Simple | Self::Extended | Self::Prepared | Self::PreparedSession
        )
    }

    pub(crate) fn pool_mode(self) -> &'static str {
        match self {
            Self::PreparedSession => "session",
            _ => "transaction",
        }
    }

    pub(crate) fn auth(self) -> &'static str {
        match self {
            Self::ConnectScram => "scram-sha-256",
            _ => "trust",
        }
    }

    /// The run against a column of this row, without its length.
    pub(crate) fn pgbench(self, address: std::net::SocketAddr) -> Pgbench {
        // libpq prefers TLS where it is offered, and poolers here offer it.
        let run = Pgbench::against(address).option(match self {
            Self::IdleTls => "sslmode=require",
            _ => "sslmode=disable",
        });
        match self {
            Self::Simple | Self::Load => run.clients(32, 1).select_only().protocol("simple"),
            Self::Extended => run.clients(32, 1).select_only().protocol("extended"),
            Self::Prepared | Self::PreparedSession => {
                run.clients(32, 1).select_only().protocol("prepared")
            }
            Self::Connect | Self::ConnectScram => {
                run.clients(8, 1).select_only().argument("--connect")
            }
            Self::Large => run.clients(4, 1).script("SELECT filler FROM wide;\n"),
            Self::Idle | Self::IdleTls => run
                .clients(IDLE_CLIENTS, 1)
                // One after the other: what four thousand would hold that all
                // ask at once is another measurement.
                .script(
                    "\\set delay :client_id * 500\n\\sleep :delay us\nSELECT 1;\n\\sleep 600 s\n",
                )
                .time(Duration::from_secs(600)),
        }
    }
}

/// How many clients do nothing.
pub(crate) const IDLE_CLIENTS: u32 = 4000;

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
