//! What the operator answers under `status`: what was observed, never a wish.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Endpoints that a status tells of.
pub const ENDPOINTS_MAX: usize = 256;

/// What the operator observed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PgPoolClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The configuration that was applied last: an opaque name. The endpoints
    /// with the same configRevision have it in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub config_revision: Option<String>,

    /// Ready means that applications can be served; the others say why not, or
    /// what is going on: Reconciling, Stalled, ConfigValid, PoolersAvailable,
    /// BalancersAvailable, UpstreamReachable, CapacityAvailable, CertificatesValid,
    /// NotificationsDelivered, Paused, UpdateAvailable.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The poolers, counted.
    #[serde(default)]
    pub poolers: ComponentStatus,

    /// The balancers, counted.
    #[serde(default)]
    pub balancer: ComponentStatus,

    /// Connections to PostgreSQL: what the tier can open, and what there is for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetStatus>,

    /// What applications connect with, as a Provisioned Service of
    /// servicebinding.io says it; absent if there is neither a user in `users`
    /// nor one of the upstream whose password is known in plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingStatus>,

    /// Every pooler and balancer; of more than 256 not those that end.
    #[serde(default)]
    #[schemars(length(max = ENDPOINTS_MAX))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub endpoints: Vec<EndpointStatus>,

    /// Every certificate that the spec names, as the spec that was valid last
    /// has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["secret".into(), "key".into()]))]
    pub certificates: Vec<CertificateStatus>,

    /// Everyone who is told.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub notifications: Vec<NotificationStatus>,
}

/// What applications connect with.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingStatus {
    /// The Secret of the first user that has one, of those in users in their
    /// order, and after them the upstream's: type, provider, host, port, username,
    /// password, uri and, where it is known, database. Another user's is named
    /// alike: NAME-binding-USER; of a user with other characters than a to z, 0 to
    /// 9 and `-`, these are replaced by `-`, and a dot and a hash follow.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// Connections to PostgreSQL, as the spec that was valid last has them.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// The most that all poolers together can open, those included that come and
    /// go while Pods are replaced: pool.maxServerConnections; without it, what the
    /// users that are listed, or one where none is, can make them open in each
    /// database.
    pub server_connections: i64,

    /// upstream.maxConnections; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_max_connections: Option<i64>,
}

/// Poolers or balancers, counted.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentStatus {
    /// How many there are.
    pub replicas: i32,

    /// How many run the present configuration.
    pub updated: i32,

    /// How many are up.
    pub ready: i32,

    /// Those that are up, of those wished, such as 3/3.
    pub summary: String,

    /// Label selector of the pods, for autoscalers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

/// A pooler or a balancer.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Name, unique among all endpoints.
    pub name: String,

    /// What it is.
    pub component: Component,

    /// What is true of it now.
    pub state: EndpointState,

    /// Since when.
    #[schemars(schema_with = "date_time")]
    pub since: Timestamp,

    /// Why, in the words of whoever judged it.
    #[schemars(length(max = 1024))]
    pub reason: String,

    /// Since when it is out of service without having said that it would be;
    /// absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub outage_since: Option<Timestamp>,

    /// The configuration it said was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_revision: Option<String>,

    /// Of a pooler: whether its PostgreSQL answers, as it said last; absent while
    /// it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<EndpointUpstream>,

    /// Of a pooler: Available while it serves its clients in time, or what stands
    /// in the way, as it said last; absent where it does not judge that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<EndpointCapacity>,
}

/// What keeps a pooler from serving its clients in time. Max...Connections: they
/// wait, and that limit is used up. ClientsWait: they wait for a server of their
/// pool. ClientsRefused: max_client_conn is used up.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum EndpointCapacity {
    Available,
    ClientsWait,
    MaxUserConnections,
    MaxDbConnections,
    MaxServerConnections,
    ClientsRefused,
}

/// Whether PostgreSQL answers a pooler.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointUpstream {
    /// Which of those that it serves from can be used.
    pub state: UpstreamState,

    /// Why one cannot: a reason of the condition UpstreamReachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
}

/// Which PostgreSQL of those that a pooler serves from can be used. Partly: some
/// of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum UpstreamState {
    Reachable,
    Partly,
    Unreachable,
}

/// What an endpoint is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum Component {
    Pooler,
    Balancer,
}

impl Component {
    /// Both, in the order of tables.
    pub const ALL: [Self; 2] = [Self::Pooler, Self::Balancer];

    /// The lower-case word, as in labels.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pooler => "pooler",
            Self::Balancer => "balancer",
        }
    }
}

/// What is true of an endpoint now. Unknown: not judged yet. Draining: about to
/// end, keeps its connections, gets no new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum EndpointState {
    Unknown,
    Up,
    Down,
    Draining,
}

impl EndpointState {
    /// All of them, as metric labels need.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Up, Self::Down, Self::Draining];

    /// The word shown to people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Up => "Up",
            Self::Down => "Down",
            Self::Draining => "Draining",
        }
    }
}

/// A certificate with those that it was signed by, or authorities.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The Secret that holds it.
    #[schemars(length(max = 253))]
    pub secret: String,

    /// Its key there.
    #[schemars(length(max = 253))]
    pub key: String,

    /// What is true of it now.
    pub state: CertificateState,

    /// Since when.
    #[schemars(schema_with = "date_time")]
    pub since: Timestamp,

    /// From when it is valid.
    #[schemars(schema_with = "date_time")]
    pub not_before: Timestamp,

    /// Until when: of a chain that which expires first, of authorities that
    /// which expires last.
    #[schemars(schema_with = "date_time")]
    pub not_after: Timestamp,
}

/// What is true of a certificate now. Expiring: within 14 days, or in the last
/// quarter of its life if that is shorter; within 3 days where CloudNativePG
/// renews it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum CertificateState {
    Valid,
    Expiring,
    Expired,
    NotValidYet,
}

/// Someone who is told.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationStatus {
    /// Name from the spec.
    pub name: String,

    /// When the last message was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_delivery: Option<Timestamp>,

    /// Messages that wait to be delivered.
    pub pending: i32,

    /// What hinders delivery, if something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub problem: Option<String>,
}

fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}
