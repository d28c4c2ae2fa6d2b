//! `spec.service`: where applications connect.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::port_postgres;

/// Where applications connect: the Service that has the object's name. All but
/// the port has no effect on local processes.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.loadBalancerClass) || self.type == 'LoadBalancer'", "message": "goes with type LoadBalancer alone", "fieldPath": ".loadBalancerClass"},
    {"rule": "!has(self.loadBalancerSourceRanges) || self.loadBalancerSourceRanges.size() == 0 || self.type == 'LoadBalancer'", "message": "goes with type LoadBalancer alone", "fieldPath": ".loadBalancerSourceRanges"},
    {"rule": "!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'", "message": "goes with type NodePort and LoadBalancer alone", "fieldPath": ".externalTrafficPolicy"},
    {"rule": "!has(self.nodePort) || self.type != 'ClusterIP'", "message": "goes with type NodePort and LoadBalancer alone", "fieldPath": ".nodePort"},
    {"rule": "self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || (has(self.loadBalancerClass) ? self.loadBalancerClass : '') == (has(oldSelf.loadBalancerClass) ? oldSelf.loadBalancerClass : '')", "message": "cannot be changed while type is LoadBalancer, Kubernetes does not let Services: set type to ClusterIP first", "fieldPath": ".loadBalancerClass"}
]))]
pub struct Service {
    /// Type of the Kubernetes Service. Default ClusterIP.
    pub r#type: ServiceType,

    /// Port that applications connect to, 1 to 65535. Default 5432.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Port on every node, 1 to 65535 and within the cluster's range of node
    /// ports. Not with type ClusterIP. Default: Kubernetes chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,

    /// Annotations of the Service, such as those that load balancers of clouds
    /// ask for. At most 64. None may begin with poolkeeper.dev/.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,

    /// Labels of the Service besides the operator's own. At most 64. None may
    /// begin with app.kubernetes.io/ or poolkeeper.dev/.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,

    /// Which load balancer of several is meant. With type LoadBalancer alone,
    /// and fixed as long as that is the type. Default: the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9./_-]*[A-Za-z0-9])?$")
    )]
    pub load_balancer_class: Option<String>,

    /// Networks, as 10.0.0.0/8, that the load balancer lets through. With type
    /// LoadBalancer alone. At most 64. Default: everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "networks")]
    pub load_balancer_source_ranges: Vec<String>,

    /// `Cluster` lets every node pass connections on to every balancer; `Local`
    /// only to those on the same node, which keeps the client's address. Not
    /// with type ClusterIP. Default: Kubernetes', Cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            r#type: ServiceType::default(),
            port: port_postgres(),
            node_port: None,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            load_balancer_class: None,
            load_balancer_source_ranges: Vec::new(),
            external_traffic_policy: None,
        }
    }
}

fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$",
        },
    })
}

fn networks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            "maxLength": 43,
            "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$",
        },
    })
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

impl ServiceType {
    /// The word, as in a Service.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// How far nodes pass on connections from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum ExternalTrafficPolicy {
    Cluster,
    Local,
}

impl ExternalTrafficPolicy {
    /// The word, as in a Service.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}
