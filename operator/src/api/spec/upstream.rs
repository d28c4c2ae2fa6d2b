//! `spec.upstream`: the PostgreSQL that the tier stands before.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::port_postgres;

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

fn key_uri() -> String {
    "uri".to_owned()
}
