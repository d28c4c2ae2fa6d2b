//! What users write under `spec`.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
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

/// The PostgreSQL that the tier stands before: exactly one of the fields.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.address) ? 1 : 0) + (has(self.uriSecretRef) ? 1 : 0) + (has(self.cnpgClusterRef) ? 1 : 0) == 1"
).message("exactly one of address, uriSecretRef and cnpgClusterRef must be set"))]
pub struct Upstream {
    /// A host and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<UpstreamAddress>,

    /// A Secret whose key holds a connection URI, `postgresql://HOST:PORT/`.
    /// Default key `uri`. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri_secret_ref: Option<UriSecretRef>,

    /// A CloudNativePG Cluster in the same namespace. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnpg_cluster_ref: Option<CnpgClusterRef>,
}

/// A host and port.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamAddress {
    /// A name or an IP address, at most 253 characters.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[A-Za-z0-9:][A-Za-z0-9._:-]*$")
    )]
    pub host: String,

    /// TCP port, 1 to 65535. Default 5432.
    #[serde(default = "port_postgres")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// A Secret's key that holds a connection URI.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UriSecretRef {
    /// Name of the Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret. Default `uri`.
    #[serde(default = "key_uri")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A CloudNativePG Cluster.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CnpgClusterRef {
    /// Name of the Cluster, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// `rw` follows the primary, `ro` the replicas. Default rw.
    #[serde(default)]
    pub r#type: CnpgService,
}

/// Which Service of a CloudNativePG Cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CnpgService {
    #[default]
    #[allow(
        missing_docs,
        reason = "a variant's doc turns the schema's enum into a oneOf"
    )]
    Rw,
    #[allow(
        missing_docs,
        reason = "a variant's doc turns the schema's enum into a oneOf"
    )]
    Ro,
}

/// How applications prove who they are.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// What a client must show: `scram-sha-256` and `md5` a password (`md5`
    /// uses SCRAM for users whose secret is a SCRAM verifier), `trust` nothing,
    /// `cert` a client certificate, `hba` whatever a pg_hba.conf file says.
    /// Default scram-sha-256. `cert` and `hba` are not supported yet.
    #[serde(default)]
    pub r#type: AuthType,

    /// The Secret whose key `userlist.txt` lists the users, one a line, as
    /// `"user" "password"`; the password is plain text, an MD5 hash or a SCRAM
    /// verifier as in pg_authid. Users in the list may log in to databases;
    /// none of them may use the administration console unless
    /// pool.parameters names them in admin_users or stats_users.
    pub userlist_secret_ref: SecretRef,
}

/// How a client is authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum AuthType {
    #[default]
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    Md5,
    Cert,
    Hba,
    Trust,
}

/// A Secret in the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A key of a Secret in the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A database with settings of its own.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// The name that applications ask for, at most 63 characters. `*` stands
    /// for every database that is not listed.
    #[schemars(length(min = 1, max = 63), regex(pattern = r#"^[^\x00-\x1f"]+$"#))]
    pub name: String,

    /// The database's name on the upstream. Default: the same name.
    /// Not with the name `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[^\x00-\x1f]+$"))]
    pub database: Option<String>,

    /// Another host for this database. Default: the upstream's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[A-Za-z0-9:][A-Za-z0-9._:-]*$")
    )]
    pub host: Option<String>,

    /// Another port for this database, 1 to 65535. Default: the upstream's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,

    /// When a client gives its server connection back. Default: pool.mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PoolMode>,

    /// Server connections of each pool (one for each user) of this database in
    /// each pooler, 1 to 10000. Default: pool.defaultPoolSize.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub pool_size: Option<i32>,

    /// Server connections kept open in each pool even when nobody needs them,
    /// 0 to 10000. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub min_pool_size: Option<i32>,

    /// Server connections beyond the pool's size for clients that wait too
    /// long, 0 to 10000. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub reserve_pool_size: Option<i32>,

    /// Server connections to this database in each pooler, all users together,
    /// 0 to 100000. Default 0: no limit beside the pools'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_connections: Option<i32>,

    /// Any other per-database key of pgbouncer.ini. Never a password: that
    /// belongs into the user list. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, ParameterValue>,
}

/// A user with settings of its own.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The role's name, at most 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = r#"^[^\x00-\x1f"]+$"#))]
    pub name: String,

    /// When this user's clients give their server connection back.
    /// Default: the database's mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PoolMode>,

    /// Server connections of each of this user's pools in each pooler, 1 to
    /// 10000. Default: the database's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub pool_size: Option<i32>,

    /// Server connections of this user in each pooler, all databases together,
    /// 0 to 100000. Default 0: no limit beside the pools'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_connections: Option<i32>,

    /// Client connections of this user in each pooler, 0 to 1000000.
    /// Default 0: no limit beside pool.maxClientConnections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_client_connections: Option<i32>,

    /// Any other per-user key of pgbouncer.ini. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, ParameterValue>,
}

/// How server connections are shared.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pool {
    /// When a client gives its server connection back: after each
    /// `transaction`, at the end of its `session`, or after each `statement`
    /// (transactions of several statements are refused). Default transaction.
    pub mode: PoolMode,

    /// Server connections of each pool in each pooler, 1 to 10000. There is one
    /// pool for each database and user, so the upstream sees at most this
    /// number × pools × poolers. Default 70.
    #[schemars(range(min = 1, max = 10000))]
    pub default_pool_size: i32,

    /// Client connections of each pooler, 1 to 1000000. The next one is refused
    /// with SQLSTATE 53300. Default 4000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_client_connections: i32,

    /// `Running` serves; `Paused` lets transactions end and makes new ones
    /// wait. Default Running. Paused is not supported yet.
    pub state: PoolState,

    /// Any key of the section `[pgbouncer]` of pgbouncer.ini that has no field
    /// of its own, with pgbouncer.ini's meaning and units; for example
    /// `max_prepared_statements: 200`, or `admin_users: alice`, without which
    /// nobody may use the administration console. Yes and no are numbers, 1 and
    /// 0. At most 128.
    #[schemars(extend("maxProperties" = 128))]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, ParameterValue>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            mode: PoolMode::default(),
            default_pool_size: 70,
            max_client_connections: 4000,
            state: PoolState::default(),
            parameters: BTreeMap::new(),
        }
    }
}

/// When a client gives its server connection back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum PoolMode {
    Session,
    #[default]
    Transaction,
    Statement,
}

/// Whether the pools serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum PoolState {
    #[default]
    Running,
    Paused,
}

/// The processes that hold the pools.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.drainTimeout) <= duration('24h')", "message": "must be at most 24h", "fieldPath": ".drainTimeout"}
]))]
pub struct Poolers {
    /// How many, 1 to 64. Default 3.
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,

    /// Over how long a pooler that is about to end closes its sessions, each at
    /// the end of its transaction; what is left then is cut. At most 24h.
    /// Default 60s.
    pub drain_timeout: Period,

    /// CPU and memory of each. Has no effect on local processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

impl Default for Poolers {
    fn default() -> Self {
        Self {
            replicas: 3,
            drain_timeout: Period::from_secs(60),
            resources: None,
        }
    }
}

/// The processes that spread connections over the poolers.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Balancer {
    /// How many, 1 to 16. Default 2.
    #[schemars(range(min = 1, max = 16))]
    pub replicas: i32,

    /// Which pooler gets a connection: `leastconn` the one with the fewest,
    /// `roundrobin` each in turn. Default leastconn.
    pub algorithm: Algorithm,

    /// Client connections of each balancer, 1 to 1000000; lowered to what its
    /// descriptor limit allows (two each). Default 12000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: i32,

    /// How poolers are checked.
    pub check: Check,
}

impl Default for Balancer {
    fn default() -> Self {
        Self {
            replicas: 2,
            algorithm: Algorithm::default(),
            max_connections: 12_000,
            check: Check::default(),
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

/// Encryption on both sides.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// Between applications and the tier.
    pub client: ClientTls,

    /// Between the tier and PostgreSQL.
    pub server: ServerTls,
}

/// Encryption between applications and the tier.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.mode == 'disable' || has(self.certSecretRef)", "message": "is needed unless mode is disable", "fieldPath": ".certSecretRef"}
]))]
pub struct ClientTls {
    /// `disable` refuses TLS, `prefer` allows it, `require` insists on it,
    /// `verify-ca` and `verify-full` also ask for the client's certificate.
    /// Default disable. The verify modes are not supported yet.
    pub mode: TlsMode,

    /// A Secret with the keys `tls.crt` (certificate chain) and `tls.key`
    /// (private key), both PEM; the type kubernetes.io/tls fits.
    /// Needed unless mode is disable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<SecretRef>,
}

/// Encryption between the tier and PostgreSQL.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!(self.mode in ['verify-ca', 'verify-full']) || has(self.caSecretRef)", "message": "is needed with verify-ca and verify-full", "fieldPath": ".caSecretRef"}
]))]
pub struct ServerTls {
    /// `disable` uses no TLS, `prefer` uses it where PostgreSQL offers it,
    /// `require` insists, `verify-ca` also checks who signed the certificate,
    /// `verify-full` also that it names the host. Default disable; nothing else
    /// is supported yet.
    pub mode: TlsMode,

    /// A Secret with the key `ca.crt`, PEM: who may sign PostgreSQL's
    /// certificate. Needed with verify-ca and verify-full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretRef>,
}

/// How much encryption is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum TlsMode {
    #[default]
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Where applications connect.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Type of the Kubernetes Service. Default ClusterIP. Has no effect on
    /// local processes.
    pub r#type: ServiceType,

    /// Port that applications connect to, 1 to 65535. Default 5432.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            r#type: ServiceType::default(),
            port: port_postgres(),
        }
    }
}

/// Type of a Kubernetes Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

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

/// Someone to tell.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Name, unique in the list, at most 40 characters of a to z, 0 to 9 and -.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,

    /// A Slack channel.
    pub slack: Slack,

    /// Whether to tell also that an endpoint is up again. Default true.
    #[serde(default = "yes")]
    pub send_resolved: bool,
}

/// A Slack channel: an incoming webhook, or a bot and a channel.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.webhookUrlSecretRef) != has(self.botTokenSecretRef)")
        .message("exactly one of webhookUrlSecretRef and botTokenSecretRef must be set"),
    validation = Rule::new("has(self.botTokenSecretRef) == has(self.channel)")
        .message("channel goes with botTokenSecretRef, and a webhook has a channel of its own")
)]
pub struct Slack {
    /// The Secret's key that holds an incoming webhook's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_url_secret_ref: Option<SecretKeyRef>,

    /// The Secret's key that holds a bot's token. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bot_token_secret_ref: Option<SecretKeyRef>,

    /// The channel that the bot writes to. Only with botTokenSecretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 80))]
    pub channel: Option<String>,
}

const fn port_postgres() -> i32 {
    5432
}

fn key_uri() -> String {
    "uri".to_owned()
}

const fn yes() -> bool {
    true
}
