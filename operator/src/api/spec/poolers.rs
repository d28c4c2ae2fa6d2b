//! `spec.poolers`: the processes that hold the pools.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Period, PodTemplate, Resources};

/// The processes that hold the pools.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.drainTimeout) <= duration('24h')", "message": "must be at most 24h", "fieldPath": ".drainTimeout"}
]))]
pub struct Poolers {
    /// How many, 1 to 64. Default 3. `kubectl scale` and autoscalers set it.
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,

    /// Over how long a pooler that is about to end closes its sessions, each at
    /// the end of its transaction; what is left then is cut. At most 24h; 0s
    /// cuts at once. Default 60s. Ours: drain_timeout.
    pub drain_timeout: Period,

    /// CPU and memory of each. Has no effect on local processes. Without it,
    /// and without resources of the container `pooler` in podTemplate: requests
    /// of 100m and 128Mi, limits of 1 and 512Mi. With {} there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// What the Pods are to have besides: a PodTemplateSpec of which only what
    /// is wanted is written, merged strategically over the operator's own
    /// (lists by the names of their entries, as kubectl does): labels,
    /// annotations, tolerations, affinity, priorityClassName, env, volumes,
    /// sidecars. May not touch: image, command, args, ports and lifecycle of
    /// the container `pooler`, what is mounted below /etc/poolkeeper, labels
    /// that begin with app.kubernetes.io/, terminationGracePeriodSeconds. At
    /// most 64 KiB. Has no effect on local processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

impl Default for Poolers {
    fn default() -> Self {
        Self {
            replicas: 3,
            drain_timeout: Period::from_secs(60),
            resources: None,
            pod_template: None,
        }
    }
}
