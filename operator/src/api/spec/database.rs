//! `spec.databases`: databases with settings of their own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ParameterValue, PoolMode};

/// A database with settings of its own.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.name != '*' || !has(self.database)", "message": "does not go with the name *, which stands for many databases", "fieldPath": ".database"},
    {"rule": "!has(self.minPoolSize) || !has(self.poolSize) || self.minPoolSize <= self.poolSize", "message": "must be at most poolSize", "fieldPath": ".minPoolSize"}
]))]
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
    /// PgBouncer: pool_mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PoolMode>,

    /// Server connections of each pool (one for each user) of this database in
    /// each pooler, 1 to 10000. Default: pool.defaultPoolSize.
    /// PgBouncer: pool_size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub pool_size: Option<i32>,

    /// Server connections kept open in each pool even when nobody needs them,
    /// 0 to 10000. Default: pool.minPoolSize. PgBouncer: min_pool_size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub min_pool_size: Option<i32>,

    /// Server connections beyond the pool's size for clients that wait too
    /// long, 0 to 10000; 0 means none. Default: pool.reservePoolSize.
    /// PgBouncer: reserve_pool_size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub reserve_pool_size: Option<i32>,

    /// Server connections to this database in each pooler, all users together,
    /// 0 to 100000. Default 0: no limit beside the pools'.
    /// PgBouncer: max_db_connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_connections: Option<i32>,

    /// Client connections to this database in each pooler, all users together,
    /// 0 to 1000000. Default 0: no limit beside pool.maxClientConnections.
    /// PgBouncer: max_db_client_connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_client_connections: Option<i32>,

    /// Any other per-database key of pgbouncer.ini, with its meaning and
    /// units; `user` has all clients of the database log in to PostgreSQL as
    /// that user, whose password is looked up among the users. Never a
    /// password: that belongs into a Secret. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, ParameterValue>,
}
