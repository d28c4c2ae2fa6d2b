//! NetworkPolicies: who may reach the Pods.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{
    metadata::Family,
    workload::{PORT_HTTP, PORT_POSTGRES},
};
use crate::api::Component;

/// Poolers: balancers bring clients, and poolers each other's cancel requests.
/// Whatever else in the cluster would come round checks and limits.
pub(super) fn poolers(family: &Family<'_>) -> NetworkPolicy {
    let peers = Component::ALL.map(|component| family.selector(component));
    policy(family, Component::Pooler, Some(peers.into()))
}

/// Balancers: applications are anywhere.
pub(super) fn balancers(family: &Family<'_>) -> NetworkPolicy {
    policy(family, Component::Balancer, None)
}

/// PostgreSQL's protocol from `clients`, or from everywhere; HTTP, which tells
/// no secret and changes nothing without the tier's key, from everywhere,
/// because nobody knows where operator and monitoring are.
fn policy(
    family: &Family<'_>,
    component: Component,
    clients: Option<Vec<LabelSelector>>,
) -> NetworkPolicy {
    let peers = clients.map(|clients| {
        clients
            .into_iter()
            .map(|pods| NetworkPolicyPeer {
                pod_selector: Some(pods),
                ..NetworkPolicyPeer::default()
            })
            .collect()
    });
    NetworkPolicy {
        metadata: family.metadata(family.component_name(component), component),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(family.selector(component)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![rule(PORT_POSTGRES, peers), rule(PORT_HTTP, None)]),
            egress: None,
        }),
    }
}

/// Who may reach a port, by its name; everybody without `from`.
fn rule(port: &str, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::String(port.to_owned())),
            protocol: Some("TCP".to_owned()),
            end_port: None,
        }]),
        from,
    }
}
