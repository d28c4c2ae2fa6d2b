//! `spec.upstream`: the PostgreSQL that the tier stands before.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::port_postgres;

/// The PostgreSQL that the tier stands before: exactly one of address,
/// uriSecretRef and cnpgClusterRef.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.address) ? 1 : 0) + (has(self.uriSecretRef) ? 1 : 0) + (has(self.cnpgClusterRef) ? 1 : 0) == 1"
).message("exactly one of address, uriSecretRef and cnpgClusterRef must be set"))]
pub struct Upstream {
    /// A host and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<UpstreamAddress>,

    /// A Secret whose key holds a connection URI,
    /// `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=MODE`. The user,
    /// if it names one, can log in here, and does so at PostgreSQL, with the
    /// password. `databases` says which databases are served; the one named here
    /// is what bindings name, where it is among them. An sslmode that asks for
    /// more than tls.server.mode is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri_secret_ref: Option<UriSecretRef>,

    /// A CloudNativePG Cluster in the same namespace: its Service NAME-rw or
    /// NAME-ro, port 5432; the user of its Secret NAME-app, where there is one,
    /// can log in here, and does so at PostgreSQL, and its `dbname` is what
    /// bindings name; with tls.server.mode verify-ca or verify-full the
    /// certificate must be from NAME-ca, unless tls.server.caSecretRef says
    /// otherwise. Follows a switchover, because the Service does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnpg_cluster_ref: Option<CnpgClusterRef>,

    /// Connections that PostgreSQL has for this tier, 1 to 262143: what remains
    /// of its max_connections. Pools that could never fit are refused. Default:
    /// not known, not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 262_143))]
    pub max_connections: Option<i32>,
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
    /// Name of the Cluster, in the same namespace; at most 50 characters, as
    /// CloudNativePG has it.
    #[schemars(
        length(min = 1, max = 50),
        regex(pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,

    /// `rw` follows the primary, `ro` the replicas. Default rw.
    #[serde(default)]
    pub r#type: CnpgService,
}

impl CnpgClusterRef {
    /// Name of the Service that leads to it.
    #[must_use]
    pub fn service(&self) -> String {
        let suffix = match self.r#type {
            CnpgService::Rw => "rw",
            CnpgService::Ro => "ro",
        };
        format!("{}-{suffix}", self.name)
    }

    /// Name of the Secret, of type kubernetes.io/basic-auth, with the user that
    /// CloudNativePG makes for applications.
    #[must_use]
    pub fn app_secret(&self) -> String {
        format!("{}-app", self.name)
    }

    /// Name of the Secret with the certificate, `ca.crt`, that its own are
    /// signed by.
    #[must_use]
    pub fn ca_secret(&self) -> String {
        format!("{}-ca", self.name)
    }
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
