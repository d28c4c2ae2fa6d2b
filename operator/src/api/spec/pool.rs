//! `spec.pool`: how server connections are shared.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ParameterValue;

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
