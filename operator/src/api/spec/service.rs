//! `spec.service`: where applications connect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::port_postgres;

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
