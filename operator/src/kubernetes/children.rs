//! The objects of a tier, each as one that is sent to the API server.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client, Resource, core::ApiResource, core::DynamicObject};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::controller::objects::{Objects, Visitor};

/// What kinds of objects a tier is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ChildKind {
    ServiceAccount,
    Secret,
    ConfigMap,
    Service,
    PodDisruptionBudget,
    NetworkPolicy,
    Deployment,
}

impl ChildKind {
    const ALL: [Self; 7] = [
        Self::ServiceAccount,
        Self::Secret,
        Self::ConfigMap,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::NetworkPolicy,
        Self::Deployment,
    ];

    /// As people know it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Deployment => "Deployment",
        }
    }

    fn resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
        }
    }

    /// The objects of this kind in a namespace.
    pub(super) fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }
}

/// An object to be. No `Debug`: it may hold a Secret.
#[derive(Clone)]
pub(super) struct Child {
    pub(super) kind: ChildKind,
    pub(super) name: String,
    /// As the API server takes it.
    pub(super) object: Json,
}

impl Child {
    fn new<K: Resource<DynamicType = ()> + Serialize>(kind: ChildKind, object: &K) -> Self {
        let mut value = serde_json::to_value(object).expect("a Kubernetes object serialises");
        value["apiVersion"] = json!(K::api_version(&()));
        value["kind"] = json!(K::kind(&()));
        Self {
            kind,
            name: object.meta().name.clone().unwrap_or_default(),
            object: value,
        }
    }

    /// Kind and name, for people.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.kind.word(), self.name)
    }
}

/// The objects of a tier in the order in which they are applied.
pub(super) fn children(objects: &Objects) -> Vec<Child> {
    let mut children = Children::default();
    objects.each(&mut children);
    children.0
}

#[derive(Default)]
struct Children(Vec<Child>);

impl Visitor for Children {
    fn visit<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) {
        let kind = ChildKind::ALL
            .into_iter()
            .find(|kind| kind.word() == K::kind(&()))
            .expect("a tier is made of these kinds");
        self.0.push(Child::new(kind, object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_what_the_api_calls_them() {
        for kind in ChildKind::ALL {
            assert_eq!(kind.resource().kind, kind.word());
        }
    }
}
