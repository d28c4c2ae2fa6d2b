//! The JSON that poolers and balancers answer on `/status`: what the proxy
//! writes and the operator, a balancer's dashboard and people read.
//!
//! Field names are camelCase. Times are RFC 3339 in UTC. Readers ignore fields
//! that they do not know; a field is never removed within an API version.

use std::hash::{DefaultHasher, Hasher as _};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    config::Problem,
    saturation::SaturationReport,
    upstream::{Reach, Reason, UpstreamReport},
    wire::{TargetReport, TargetState},
};

/// A pooler's `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolerStatus {
    /// Version of the binary.
    pub version: String,
    /// Random, new at each start of the process.
    pub boot_id: String,
    /// Whether it accepts, drains or is paused.
    pub state: TargetState,
    /// Opaque name of the configuration in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_revision: Option<String>,
    /// When the process started.
    pub started_at: Timestamp,
    /// Address and port it listens on.
    pub listen: String,
    /// Client connections.
    pub clients: ClientCounts,
    /// Server connections.
    pub servers: ServerCounts,
    /// Whether PostgreSQL answers, as checks are told; absent while that is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamReport>,
    /// Each PostgreSQL of which something is known, those that cannot be used
    /// first; at most 16.
    #[serde(default)]
    pub upstreams: Vec<UpstreamStatus>,
    /// Whether clients are served in time, as checks are told; absent where that
    /// is not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturation: Option<SaturationReport>,
    /// What became of reloads.
    #[serde(default)]
    pub reloads: ReloadStatus,
}

/// A PostgreSQL, as a pooler sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamStatus {
    /// Host and port, as configured.
    pub address: String,
    /// Reachable or Unreachable.
    pub state: Reach,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Since when it can or cannot be used.
    pub since: Timestamp,
}

/// What became of a process's reloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReloadStatus {
    /// Those that failed: what was in force stayed.
    pub failures_total: u64,
    /// The problems of the newest one, one a line; absent if it succeeded, or
    /// there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ReloadStatus {
    /// Characters kept of the problems.
    const ERROR_LENGTH_MAX: usize = 2_000;

    /// Takes one more in.
    pub fn note<T>(&mut self, result: &Result<T, Vec<Problem>>) {
        match result {
            Ok(_) => self.error = None,
            Err(problems) => {
                self.failures_total += 1;
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let text = lines.join("\n");
                self.error = Some(text.chars().take(Self::ERROR_LENGTH_MAX).collect());
            }
        }
    }

    /// Whether the newest one succeeded, or there was none.
    #[must_use]
    pub const fn last_successful(&self) -> bool {
        self.error.is_none()
    }
}

/// A pooler's client connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCounts {
    /// Logged in, in any state.
    pub total: u32,
    /// Linked to a server.
    pub active: u32,
    /// Waiting for a server.
    pub waiting: u32,
    /// max_client_conn in force.
    pub max: u32,
}

/// A pooler's server connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerCounts {
    /// Linked to a client.
    pub active: u32,
    /// Ready for the next client.
    pub idle: u32,
    /// Connecting or logging in.
    pub login: u32,
}

/// A balancer's `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancerStatus {
    /// Version of the binary.
    pub version: String,
    /// Random, new at each start; transition numbers are meaningful within one.
    pub boot_id: String,
    /// Whether it accepts or drains. Never paused.
    pub state: TargetState,
    /// Opaque name of the configuration in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_revision: Option<String>,
    /// When the process started.
    pub started_at: Timestamp,
    /// Client connections being relayed.
    pub connections: u32,
    /// Limit in force, after lowering it to what the descriptor limit allows.
    pub max_connections: u32,
    /// Every target: those configured in their order, then those discovered, by
    /// address.
    pub targets: Vec<TargetStatus>,
    /// How targets are looked up, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Box<DiscoveryStatus>>,
    /// What became of reloads.
    #[serde(default)]
    pub reloads: ReloadStatus,
    /// Counts changes of what targets say of themselves, their numbers of clients
    /// apart. Ask next with `&reported=NUMBER` to be answered at such a change
    /// too. Absent of versions that do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<u64>,
    /// Transitions after the number asked for, oldest first.
    pub transitions: Vec<Transition>,
    /// Number of the newest transition, 0 if there was none. Ask next with
    /// `?since=BOOTID:NEWEST`.
    pub newest: u64,
    /// True if some transitions after the number asked for are no longer kept,
    /// or the number belongs to another boot: read `targets` anew.
    pub missed: bool,
}

impl BalancerStatus {
    /// Names what is said, as the weak ETag of an HTTP answer (RFC 9110, 8.8.3):
    /// another one means that something else is said. What passes all the time
    /// does not count: numbers of connections and clients, and look-ups that went
    /// well; nor do `transitions`, whose newest does.
    #[must_use]
    pub fn tag(&self) -> String {
        let targets = self.targets.iter().map(|target| TargetStatus {
            connections: 0,
            connections_total: 0,
            report: target.report.clone().map(|report| TargetReport {
                clients: 0,
                waiting: 0,
                ..report
            }),
            ..target.clone()
        });
        let discovery = self.discovery.as_deref().map(|discovery| DiscoveryStatus {
            last_success: None,
            ..discovery.clone()
        });
        // By name, so that the log, which may be long, is not copied.
        let lasting = Self {
            version: self.version.clone(),
            boot_id: self.boot_id.clone(),
            state: self.state,
            config_revision: self.config_revision.clone(),
            started_at: self.started_at,
            connections: 0,
            max_connections: self.max_connections,
            targets: targets.collect(),
            discovery: discovery.map(Box::new),
            reloads: self.reloads.clone(),
            reported: self.reported,
            transitions: Vec::new(),
            newest: self.newest,
            missed: false,
        };
        let text = serde_json::to_vec(&lasting).expect("plain data serialises");
        let mut hasher = DefaultHasher::new();
        hasher.write(&text);
        format!("W/\"{:016x}\"", hasher.finish())
    }
}

/// What became of a balancer's look-ups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryStatus {
    /// The name that is looked up.
    pub dns: String,
    /// Addresses in the last answer.
    pub addresses: u32,
    /// Addresses of the last answer that are no target, for want of room.
    pub left_out: u32,
    /// When the last answer came, with addresses or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// Look-ups that failed.
    pub failures_total: u64,
    /// Why the newest look-up failed; absent if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A target as the balancer judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Health {
    /// Not checked yet.
    Unknown,
    /// Gets connections.
    Up,
    /// Its checks fail.
    Down,
    /// Told us that it is about to end: keeps its connections, gets no new ones.
    Draining,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Unknown",
            Self::Up => "Up",
            Self::Down => "Down",
            Self::Draining => "Draining",
        })
    }
}

/// One target in a balancer's `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Name from the configuration; of a discovered one, its address.
    pub name: String,
    /// Address and port.
    pub address: String,
    /// The balancer's judgement.
    pub state: Health,
    /// Since when it has been in this state.
    pub since: Timestamp,
    /// Why, in the check's own words.
    pub reason: String,
    /// Connections relayed to it now.
    pub connections: u32,
    /// Connections relayed to it since start.
    pub connections_total: u64,
    /// Found by DNS. It is Down, and no transition tells so, until its first
    /// success.
    #[serde(default)]
    pub discovered: bool,
    /// Named by the newest answer of DNS; true of a configured one.
    #[serde(default = "listed")]
    pub listed: bool,
    /// What it says of itself, if it is a pooler of ours that ever answered. Absent
    /// too of one that is not down and was not heard for longer than that may take:
    /// then it is the balancer that was frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<TargetReport>,
}

const fn listed() -> bool {
    true
}

/// A change of a target, numbered from 1 within one boot of a balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Consecutive number.
    pub number: u64,
    /// When it was judged.
    pub at: Timestamp,
    /// Name of the target.
    pub target: String,
    /// State before.
    pub from: Health,
    /// State after; equal to `from` for a restart.
    pub to: Health,
    /// True if the target came back as a new process without having drained.
    pub restarted: bool,
    /// Why, in the check's own words.
    pub reason: String,
    /// bootId the target reported last, if it reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Targets that are up after this transition.
    pub up: u32,
    /// Targets in all.
    pub total: u32,
}
