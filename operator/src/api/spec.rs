//! What users write under `spec`: a file for each part of it.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

mod auth;
mod balancer;
mod database;
mod monitoring;
mod notification;
mod pool;
mod poolers;
mod secret;
mod service;
mod tls;
mod upstream;
mod user;

pub use auth::*;
pub use balancer::*;
pub use database::*;
pub use monitoring::*;
pub use notification::*;
pub use pool::*;
pub use poolers::*;
pub use secret::*;
pub use service::*;
pub use tls::*;
pub use upstream::*;
pub use user::*;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{ParameterValue, Period, PgPoolClusterStatus, Resources};

/// Describes the connection tier of one PostgreSQL.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "poolkeeper.dev",
    version = "v1alpha1",
    kind = "PgPoolCluster",
    plural = "pgpoolclusters",
    shortname = "pgpc",
    namespaced,
    cel,
    status = "PgPoolClusterStatus",
    derive = "PartialEq",
    doc = "The connection tier of one PostgreSQL: poolers behind balancers, one address for \
           applications, and word to Slack when one of them changes state.",
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name must be at most 40 characters, so that the names made from it fit"),
    validation = Rule::new("!self.metadata.name.endsWith('-pooler') && !self.metadata.name.endsWith('-balancer')")
        .message("metadata.name must not end in -pooler or -balancer: these are the names of what is made from it"),
    scale(
        spec_replicas_path = ".spec.poolers.replicas",
        status_replicas_path = ".status.poolers.replicas",
        label_selector_path = ".status.poolers.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether applications can be served"
    ),
    printcolumn(
        name = "Poolers",
        type_ = "string",
        json_path = ".status.poolers.summary",
        description = "Poolers that are ready, of those wished"
    ),
    printcolumn(
        name = "Balancers",
        type_ = "string",
        json_path = ".status.balancer.summary",
        description = "Balancers that are ready, of those wished"
    ),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.pool.mode"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PgPoolClusterSpec {
    /// The PostgreSQL that the tier stands before.
    pub upstream: Upstream,

    /// How applications prove who they are.
    pub auth: Auth,

    /// Databases with settings of their own. If the list is empty, every
    /// database of the upstream is served, each by its own name. If it is not,
    /// only those listed are; an entry named `*` stands for all others.
    /// At most 64.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub databases: Vec<Database>,

    /// Users with settings of their own. Users that are not listed are served
    /// too, by the pool's settings. At most 256.
    #[serde(default)]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub users: Vec<User>,

    /// How server connections are shared.
    #[serde(default)]
    pub pool: Pool,

    /// The processes that hold the pools.
    #[serde(default)]
    pub poolers: Poolers,

    /// The processes that spread connections over the poolers.
    #[serde(default)]
    pub balancer: Balancer,

    /// Encryption on both sides.
    #[serde(default)]
    pub tls: Tls,

    /// Where applications connect.
    #[serde(default)]
    pub service: Service,

    /// How the tier is watched.
    #[serde(default)]
    pub monitoring: Monitoring,

    /// Who is told when an endpoint goes down and when it is back. At most 8.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub notifications: Vec<Notification>,

    /// True stops reconciling: what runs goes on running, nothing is changed.
    /// Default false. To pause the pools themselves set pool.state.
    #[serde(default)]
    pub suspend: bool,
}

const fn port_postgres() -> i32 {
    5432
}
