//! What users write under `spec`: a file for each part of it.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

mod auth;
mod balancer;
mod database;
mod images;
mod monitoring;
mod network;
mod notification;
mod pod_template;
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
pub use images::*;
pub use monitoring::*;
pub use network::*;
pub use notification::*;
pub use pod_template::*;
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
    label("servicebinding.io/provisioned-service", "true"),
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
#[x_kube(
    validation = Rule::new("!has(self.upstream.address) || has(self.auth.userlistSecretRef) || self.users.exists(user, has(user.passwordSecretRef))")
        .message("nobody could log in: name a userlistSecretRef, or give users a passwordSecretRef")
        .field_path(".auth"),
    validation = Rule::new("!(self.tls.server.mode in ['verify-ca', 'verify-full']) || has(self.tls.server.caSecretRef) || has(self.upstream.cnpgClusterRef)")
        .message("is needed with verify-ca and verify-full")
        .field_path(".tls.server.caSecretRef"),
    validation = Rule::new("!has(self.upstream.maxConnections) || self.pool.defaultPoolSize + (has(self.pool.reservePoolSize) ? self.pool.reservePoolSize : 0) <= self.upstream.maxConnections")
        .message("together with reservePoolSize must be at most upstream.maxConnections: a single pool could ask for more than PostgreSQL has")
        .field_path(".pool.defaultPoolSize"),
    validation = Rule::new("!has(self.upstream.maxConnections) || !has(self.pool.maxServerConnections) || self.pool.maxServerConnections <= self.upstream.maxConnections")
        .message("must be at most upstream.maxConnections")
        .field_path(".pool.maxServerConnections"),
    validation = Rule::new("!has(self.pool.maxServerConnections) || self.pool.maxServerConnections >= self.poolers.replicas + 2")
        .message("must be at least poolers.replicas + 2: as many poolers can be there at once while they are replaced, and each needs one")
        .field_path(".pool.maxServerConnections")
)]
pub struct PgPoolClusterSpec {
    /// The PostgreSQL that the tier stands before.
    pub upstream: Upstream,

    /// How applications prove who they are.
    #[serde(default)]
    pub auth: Auth,

    /// Databases with settings of their own. If the list is empty, every
    /// database of the upstream is served, each by its own name. If it is not,
    /// only those listed are; an entry named `*` stands for all others.
    /// At most 64.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub databases: Vec<Database>,

    /// Users with settings of their own, or with a name alone. Each whose
    /// password is known in plain text has a Secret NAME-binding-USER with all
    /// that an application needs to connect; so has the upstream's own user.
    /// Each counts in status.budget. Users that are not listed are served too,
    /// by the pool's settings. At most 256.
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

    /// Who may reach the Pods.
    #[serde(default)]
    pub network_policy: NetworkPolicy,

    /// What the Pods run.
    #[serde(default)]
    pub images: Images,

    /// `OnRequest` keeps the images in use when a newer operator brings newer
    /// ones, and Pods as an earlier operator made them, until the annotation
    /// `poolkeeper.dev/update` asks for what is newer; the condition
    /// UpdateAvailable says that there is something. `Automatic` rolls to it at
    /// once. Default OnRequest. Has no effect on images that `images` names,
    /// nor on local processes.
    #[serde(default)]
    pub update_policy: UpdatePolicy,

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
