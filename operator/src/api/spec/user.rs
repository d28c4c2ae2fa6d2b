//! `spec.users`: users with settings of their own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ParameterValue, PoolMode, SecretRef};

/// A user with settings or a Secret of its own.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The role's name, at most 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = r#"^[^\x00-\x1f"]+$"#))]
    pub name: String,

    /// A Secret of type kubernetes.io/basic-auth: its key `password` holds what
    /// this user logs in with, here and at PostgreSQL (plain, an MD5 hash or a
    /// SCRAM verifier, as in userlist.txt); its key `username`, where there is
    /// one, is this user's name. Not for users that the user list names too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretRef>,

    /// When this user's clients give their server connection back.
    /// Default: the database's mode. PgBouncer: pool_mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PoolMode>,

    /// Server connections of each of this user's pools in each pooler, 1 to
    /// 10000. Default: the database's size. PgBouncer: pool_size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub pool_size: Option<i32>,

    /// Server connections beyond the pool's size for clients of this user that
    /// wait too long, 0 to 10000; 0 means none. Default: the database's.
    /// PgBouncer: reserve_pool_size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub reserve_pool_size: Option<i32>,

    /// Server connections of this user in each pooler, all databases together,
    /// 0 to 100000. Default 0: no limit beside the pools'.
    /// PgBouncer: max_user_connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_connections: Option<i32>,

    /// Client connections of this user in each pooler, 0 to 1000000.
    /// Default 0: no limit beside pool.maxClientConnections.
    /// PgBouncer: max_user_client_connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_client_connections: Option<i32>,

    /// Any other per-user key of pgbouncer.ini, with its meaning and units, such
    /// as query_timeout. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, ParameterValue>,
}
