//! `spec.monitoring`: how the tier is watched.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Period;

/// How the tier is watched.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.interval) >= duration('1s') && duration(self.interval) <= duration('1h')", "message": "must be 1s to 1h", "fieldPath": ".interval"}
]))]
pub struct Monitoring {
    /// Time between two full resynchronisations with every endpoint, 1s to 1h.
    /// Changes of state are seen sooner: balancers announce them. Default 10s.
    pub interval: Period,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            interval: Period::from_secs(10),
        }
    }
}
