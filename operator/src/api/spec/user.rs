//! `spec.users`: users with settings of their own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ParameterValue, PoolMode};

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
