//! `spec.networkPolicy`: who may reach the Pods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may reach the Pods. Has no effect on local processes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicy {
    /// True makes NetworkPolicies: the poolers' port 6432 can be reached from
    /// the tier's balancers and poolers alone; the balancers' 5432, and the
    /// HTTP ports 9127 and 8404 for operator and monitoring, from everywhere;
    /// no other port of the Pods can. What Pods reach themselves is not
    /// limited. Takes a network plug-in that enforces it. Default false.
    pub enabled: bool,
}
