//! From the description of a tier to the Kubernetes objects that realise it. Pure.
//!
//! Pods read their configuration from mounted Secrets and ConfigMaps; what a
//! reload applies changes nothing else, so that it never rolls a Deployment.
//! What only a restart applies is in a Secret whose name says what is in it: a
//! Pod of an older ReplicaSet that starts once more finds its own.
//! Without a podTemplate, every Pod keeps the `restricted` Pod Security Standard.

mod balancer;
mod binding;
mod config;
mod disruption;
mod internal;
mod metadata;
mod network;
mod notifier;
mod pod_template;
mod pooler;
mod service;
mod workload;

#[cfg(test)]
pub(crate) mod tests;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::Resource;
use serde::Serialize;

use super::build::Tier;
use crate::api::Component;
pub use binding::is_binding_name;
pub use disruption::pooler_budget;
pub use internal::{INTERNAL_KEY, internal_name, internal_secret};
use metadata::Family;
pub use metadata::{MANAGED_BY, Owner, pod_selector};
pub use notifier::{notifier_config_map, notifier_name};
pub(super) use pod_template::merge;
pub use pooler::is_settings_name;
pub(super) use workload::{FOLDER, VARIABLES, VOLUMES};

/// Where a balancer serves `/status` in its Pod.
pub const BALANCER_HTTP: u16 = balancer::PORTS.http;

/// What the objects of a tier need to know besides the tier.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// Whose the objects are.
    pub owner: &'a Owner,
    /// What the containers run where the cluster does not say it.
    pub images: &'a Images,
    /// Names the configuration, see [`revision`](super::build::revision).
    pub revision: Option<&'a str>,
}

/// Container images; each starts its program and passes it the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// With the pooler.
    pub pooler: String,
    /// With the balancer.
    pub balancer: String,
}

/// The objects of a tier, in the order in which they are to be applied: what is
/// referred to comes before what refers to it. No `Debug`: it would show what is
/// in the Secrets.
#[derive(Clone, PartialEq)]
pub struct Objects {
    /// `NAME`: whom Pods run as, without a token.
    pub service_account: ServiceAccount,
    /// `NAME-pooler-HASH`: the settings that only a restart applies. Never
    /// changed, and to be kept as long as a ReplicaSet uses it.
    pub pooler_settings: Secret,
    /// `NAME-pooler-config`: the ini, which includes them, and the files beside it.
    pub pooler_config: Secret,
    /// `NAME-balancer-config`: the YAML.
    pub balancer_config: ConfigMap,
    /// `NAME-pooler`: names the Pods of poolers, those not ready too.
    pub pooler_service: Service,
    /// `NAME-balancer`: dashboard, metrics and status.
    pub balancer_service: Service,
    /// `NAME`: what applications connect to.
    pub service: Service,
    /// `NAME-pooler`: who may reach the poolers. None unless asked for.
    pub pooler_network: Option<NetworkPolicy>,
    /// `NAME-balancer`: who may reach the balancers. None unless asked for.
    pub balancer_network: Option<NetworkPolicy>,
    /// `NAME-pooler`: one at a time.
    pub pooler_disruption: PodDisruptionBudget,
    /// `NAME-balancer`: one at a time.
    pub balancer_disruption: PodDisruptionBudget,
    /// `NAME-pooler`.
    pub poolers: Deployment,
    /// `NAME-balancer`.
    pub balancers: Deployment,
    /// `NAME-binding-USER`: what an application needs to connect as a user. The
    /// tier needs none of them.
    pub bindings: Vec<Secret>,
}

/// The objects that realise a tier.
///
/// # Panics
/// Never for a tier that was validated: its podTemplates have been merged once.
#[must_use]
pub fn objects(tier: &Tier, placement: &Placement<'_>) -> Objects {
    let family = Family {
        name: &tier.name,
        owner: placement.owner,
    };
    let (pooler, balancer) = (Component::Pooler, Component::Balancer);
    let settings = config::pooler_settings(&family, tier);
    let poolers = pooler::workload(&family, tier, placement.images, &settings);
    let balancers = balancer::workload(&family, tier, placement.images);
    let networks = tier.network_policy;
    Objects {
        service_account: metadata::service_account(&family),
        pooler_config: config::pooler(&family, tier, placement.revision),
        balancer_config: config::balancer(&family, tier, placement),
        pooler_service: service::poolers(&family),
        balancer_service: service::balancers(&family),
        service: service::applications(&family, tier),
        pooler_network: networks.then(|| network::poolers(&family)),
        balancer_network: networks.then(|| network::balancers(&family)),
        pooler_disruption: disruption::budget(&family, pooler),
        balancer_disruption: disruption::budget(&family, balancer),
        poolers: workload::deployment(&family, tier, poolers),
        balancers: workload::deployment(&family, tier, balancers),
        bindings: binding::secrets(&family, tier),
        pooler_settings: settings,
    }
}

impl Objects {
    /// Shows each of them, in order.
    pub fn each(&self, visitor: &mut impl Visitor) {
        // Every field by name: one that is forgotten does not compile.
        let Self {
            service_account,
            pooler_settings,
            pooler_config,
            balancer_config,
            pooler_service,
            balancer_service,
            service,
            pooler_network,
            balancer_network,
            pooler_disruption,
            balancer_disruption,
            poolers,
            balancers,
            bindings,
        } = self;
        visitor.visit(service_account);
        visitor.visit(pooler_settings);
        visitor.visit(pooler_config);
        visitor.visit(balancer_config);
        visitor.visit(pooler_service);
        visitor.visit(balancer_service);
        visitor.visit(service);
        for network in [pooler_network, balancer_network].into_iter().flatten() {
            visitor.visit(network);
        }
        visitor.visit(pooler_disruption);
        visitor.visit(balancer_disruption);
        visitor.visit(poolers);
        visitor.visit(balancers);
        for binding in bindings {
            visitor.visit(binding);
        }
    }

    /// All of them as YAML documents, in order. Holds the Secrets.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut documents = Documents::default();
        self.each(&mut documents);
        documents.0
    }
}

/// What is done with each of a tier's objects, whatever its kind.
pub trait Visitor {
    /// Takes one.
    fn visit<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K);
}

#[derive(Default)]
struct Documents(String);

impl Visitor for Documents {
    fn visit<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) {
        let yaml = serde_yaml::to_string(object).expect("a Kubernetes object serialises");
        self.0.push_str("---\n");
        self.0.push_str(&yaml);
    }
}
