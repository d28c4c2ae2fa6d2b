//! The balancer's YAML file.

mod parse;
#[cfg(test)]
mod tests;

pub use parse::{load, parse};

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::Bind;
use crate::shared_key::SharedKey;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalancerConfig {
    /// Where applications connect. Exactly one today.
    pub frontends: Vec<Frontend>,
    /// What connections are relayed to: at least one, or `discovery`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Where further targets are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// How a target is chosen.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How targets are checked.
    #[serde(default)]
    pub check: Check,
    /// Client connections at once, 1 to 1,000,000; lowered, with a warning, to
    /// what the descriptor limit allows (two each).
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
    /// Where dashboard, CSV, metrics and status are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Event loops, 1 to 64.
    #[serde(default = "default_threads")]
    pub threads: u32,
    /// Reload when this file changes on disk, as at SIGHUP.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reload_on_change: bool,
    /// Tell targets whose connection each is, by a PROXY header.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proxy_protocol: bool,
    /// The file with the key that this tier's balancers and poolers share; it
    /// proves headers and orders to drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key_file: Option<String>,
    /// What is in `shared_key_file`; read by [`load`] alone.
    #[serde(skip)]
    pub shared_key: Option<SharedKey>,
    /// How long sessions may go on after SIGTERM, up to 1 h.
    #[serde(
        default = "default_drain_timeout",
        with = "duration",
        skip_serializing_if = "is_default_drain_timeout"
    )]
    pub drain_timeout: Duration,
    /// Opaque name of this configuration, repeated in `/status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_false(value: &bool) -> bool {
    !*value
}

const fn default_max_connections() -> u32 {
    12_000
}

const fn default_drain_timeout() -> Duration {
    Duration::from_secs(60)
}

fn is_default_drain_timeout(time: &Duration) -> bool {
    *time == default_drain_timeout()
}

const fn default_threads() -> u32 {
    1
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontend {
    /// Name, shown on the dashboard.
    pub name: String,
    /// Address and port, or `*` and a port.
    pub bind: Bind,
    /// Share the port with other processes by SO_REUSEPORT: balancer replicas
    /// on one host.
    #[serde(default)]
    pub reuse_port: bool,
}

/// A server that connections are relayed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name, unique.
    pub name: String,
    /// Address and port, numeric.
    pub address: SocketAddr,
}

/// Targets found by DNS: each address of a name, such as a headless Service's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// The name; its A and AAAA records are targets.
    pub dns: String,
    /// The port of each.
    pub port: u16,
    /// The name server to ask. Default: those of /etc/resolv.conf, with its
    /// search domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<SocketAddr>,
}

/// How a target is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// The target with the fewest connections; ties in turn.
    #[default]
    Leastconn,
    /// Each in turn.
    Roundrobin,
}

/// How targets are checked, on their data port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// What is asked.
    pub r#type: CheckType,
    /// Time between two checks of a target, 100 ms to 1 h.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Good checks until a target is up again, 1 to 100.
    pub rise: u32,
    /// Bad checks until a target is down, 1 to 100.
    pub fall: u32,
    /// Longest wait for an answer, connect included, 10 ms to `interval`.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            r#type: CheckType::Postgres,
            interval: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            timeout: Duration::from_secs(1),
        }
    }
}

/// What a check asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckType {
    /// A StartupMessage, see [`crate::wire::CheckRequest`].
    #[default]
    Postgres,
    /// A TCP connect.
    Tcp,
}

/// The HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port, or `*` and a port.
    pub bind: Bind,
}

/// Durations as people write them: `2s`, `500ms`, `1m`, `1h`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Reads a number and a unit of ms, s, m or h.
    ///
    /// # Errors
    /// Says what was read and what is expected.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor_ms: u64 = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => 0,
        };
        number
            .parse::<u64>()
            .ok()
            .filter(|_| factor_ms > 0)
            .and_then(|number| number.checked_mul(factor_ms))
            .map(Duration::from_millis)
            .ok_or_else(|| {
                format!("invalid duration {text:?}, expected a number and a unit such as 500ms, 2s, 1m or 1h")
            })
    }

    /// Writes the largest unit that divides the duration, down to milliseconds.
    #[must_use]
    pub fn format(duration: Duration) -> String {
        let ms = duration.as_millis();
        for (unit, factor_ms) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if ms > 0 && ms.is_multiple_of(factor_ms) {
                return format!("{}{unit}", ms / factor_ms);
            }
        }
        format!("{ms}ms")
    }

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map_err(Error::custom)
    }
}
