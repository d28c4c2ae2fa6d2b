//! `spec.balancer`: the processes that spread connections, and their checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Period, PodTemplate, Resources};

/// The processes that spread connections over the poolers.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.drainTimeout) <= duration('24h')", "message": "must be at most 24h", "fieldPath": ".drainTimeout"}
]))]
pub struct Balancer {
    /// How many, 1 to 16. Default 2.
    #[schemars(range(min = 1, max = 16))]
    pub replicas: i32,

    /// Which pooler gets a connection: `leastconn` the one with the fewest,
    /// `roundrobin` each in turn. Default leastconn.
    pub algorithm: Algorithm,

    /// Client connections of each balancer, 1 to 1000000; lowered to what its
    /// descriptor limit allows (two each). Each takes some 8 KiB of memory, most
    /// of it the kernel's: raise resources with it. Default 12000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: i32,

    /// How poolers are checked.
    pub check: Check,

    /// How long a balancer that is about to end waits for its sessions to end,
    /// each at the end of its transaction; what is left then is cut. At most
    /// 24h; 0s cuts at once. Default 60s.
    pub drain_timeout: Period,

    /// CPU and memory of each. Has no effect on local processes. Without it,
    /// and without resources of the container `balancer` in podTemplate: requests
    /// of 100m and 64Mi, limits of 1 and 512Mi. With {} there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// What the Pods are to have besides: a PodTemplateSpec of which only what
    /// is wanted is written, merged strategically over the operator's own
    /// (lists by the names of their entries, as kubectl does). May not touch:
    /// image, command, args, ports and lifecycle of the container `balancer`,
    /// what is mounted below /etc/poolkeeper, labels that begin with
    /// app.kubernetes.io/, terminationGracePeriodSeconds. At most 64 KiB. Has
    /// no effect on local processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

impl Default for Balancer {
    fn default() -> Self {
        Self {
            replicas: 2,
            algorithm: Algorithm::default(),
            max_connections: 12_000,
            check: Check::default(),
            drain_timeout: Period::from_secs(60),
            resources: None,
            pod_template: None,
        }
    }
}

/// Which pooler gets a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum Algorithm {
    #[default]
    Leastconn,
    Roundrobin,
}

/// How poolers are checked. A pooler that stops answering is down after
/// interval × fall.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.interval) >= duration('100ms') && duration(self.interval) <= duration('1h')", "message": "must be 100ms to 1h", "fieldPath": ".interval"},
    {"rule": "duration(self.timeout) >= duration('10ms') && duration(self.timeout) <= duration(self.interval)", "message": "must be 10ms to interval", "fieldPath": ".timeout"}
]))]
pub struct Check {
    /// Time between two checks of a pooler, 100ms to 1h. Default 2s.
    pub interval: Period,

    /// Longest wait for an answer, 10ms to interval. Default 1s.
    pub timeout: Period,

    /// Failed checks in a row until a pooler is down, 1 to 100. Default 3.
    #[schemars(range(min = 1, max = 100))]
    pub fall: i32,

    /// Good checks in a row until it is up again, 1 to 100. Default 2.
    #[schemars(range(min = 1, max = 100))]
    pub rise: i32,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            interval: Period::from_secs(2),
            timeout: Period::from_secs(1),
            fall: 3,
            rise: 2,
        }
    }
}
