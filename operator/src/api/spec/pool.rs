//! `spec.pool`: how server connections are shared.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ParameterValue, Period};

/// How server connections are shared.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.minPoolSize) || self.minPoolSize <= self.defaultPoolSize", "message": "must be at most defaultPoolSize", "fieldPath": ".minPoolSize"},
    {"rule": "!has(self.reservePoolTimeout) || duration(self.reservePoolTimeout) <= duration('24h')", "message": "must be at most 24h", "fieldPath": ".reservePoolTimeout"},
    {"rule": "!has(self.queryWaitTimeout) || duration(self.queryWaitTimeout) <= duration('24h')", "message": "must be at most 24h", "fieldPath": ".queryWaitTimeout"},
    {"rule": "!has(self.serverIdleTimeout) || duration(self.serverIdleTimeout) <= duration('720h')", "message": "must be at most 720h", "fieldPath": ".serverIdleTimeout"},
    {"rule": "!has(self.serverLifetime) || duration(self.serverLifetime) <= duration('720h')", "message": "must be at most 720h", "fieldPath": ".serverLifetime"}
]))]
pub struct Pool {
    /// When a client gives its server connection back: after each
    /// `transaction`, at the end of its `session`, or after each `statement`
    /// (transactions of several statements are refused). Default transaction.
    /// PgBouncer: pool_mode.
    pub mode: PoolMode,

    /// Server connections of each pool in each pooler, 1 to 10000. There is one
    /// pool for each database and user, so the upstream sees at most this
    /// number × pools × poolers, unless maxServerConnections bounds it.
    /// Default 70. PgBouncer: default_pool_size.
    #[schemars(range(min = 1, max = 10000))]
    pub default_pool_size: i32,

    /// Server connections that each pool in each pooler keeps open once it is
    /// in use, 0 to defaultPoolSize. Default 0. PgBouncer: min_pool_size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub min_pool_size: Option<i32>,

    /// Server connections that a pool may open beyond its size when a client
    /// has waited for reservePoolTimeout, 0 to 10000; 0 means none. Default 0.
    /// PgBouncer: reserve_pool_size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub reserve_pool_size: Option<i32>,

    /// How long a client waits until the reserve is used, at most 24h; 0s means
    /// that it never is. Default 5s. PgBouncer: reserve_pool_timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_pool_timeout: Option<Period>,

    /// Client connections of each pooler, 1 to 1000000. The next one is refused
    /// with SQLSTATE 53300. Default 4000. PgBouncer: max_client_conn.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_client_connections: i32,

    /// Server connections of the whole tier, all poolers, databases and users
    /// together, 3 to 262143. It is divided evenly among as many poolers as
    /// there can be at once, poolers.replicas + 2: one more while a rollout
    /// starts a new one, and one that is still ending; so it must be at least
    /// that many. Nor is a pooler that is ready evicted, as kubectl drain does,
    /// while two are ending or a rollout is under way. Where more are deleted by
    /// hand, the shares of all are made smaller within seconds; until then those
    /// that end and those in their place may together hold more. Default: no
    /// limit beside the pools'. Ours: max_server_connections, the share of a
    /// pooler.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3, max = 262_143))]
    pub max_server_connections: Option<i32>,

    /// How long a client may wait for a server connection until it gets an
    /// error, at most 24h; 0s means for ever. Default 120s.
    /// PgBouncer: query_wait_timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_wait_timeout: Option<Period>,

    /// How long an unused server connection stays open, at most 720h; 0s means
    /// for ever. Default 600s. PgBouncer: server_idle_timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_idle_timeout: Option<Period>,

    /// How old a server connection gets before it is closed when it is not in
    /// use, at most 720h; 0s means that each is used once. Default 3600s.
    /// PgBouncer: server_lifetime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_lifetime: Option<Period>,

    /// `Running` serves; `Paused` lets transactions end and makes new ones wait
    /// (for at most queryWaitTimeout), also in poolers that start later.
    /// Default Running. PgBouncer: the commands PAUSE and RESUME. Ours: paused.
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
            min_pool_size: None,
            reserve_pool_size: None,
            reserve_pool_timeout: None,
            max_client_connections: 4000,
            max_server_connections: None,
            query_wait_timeout: None,
            server_idle_timeout: None,
            server_lifetime: None,
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
