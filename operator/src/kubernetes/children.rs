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

macro_rules! child_kinds {
    ($($kind:ident),+ $(,)?) => {
        /// What kinds of objects a tier is made of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(super) enum ChildKind { $($kind),+ }

        impl ChildKind {
            /// Every one of them.
            pub(super) const ALL: &[Self] = &[$(Self::$kind),+];

            /// As people know it.
            pub(super) const fn word(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),+ }
            }

            fn resource(self) -> ApiResource {
                match self { $(Self::$kind => ApiResource::erase::<$kind>(&())),+ }
            }
        }
    };
}

child_kinds!(
    ServiceAccount,
    Secret,
    ConfigMap,
    Service,
    PodDisruptionBudget,
    NetworkPolicy,
    Deployment,
);

impl ChildKind {
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

/// One of them alone.
pub(super) fn child<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Child {
    let mut children = Children::default();
    children.visit(object);
    children.0.remove(0)
}

#[derive(Default)]
struct Children(Vec<Child>);

impl Visitor for Children {
    fn visit<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) {
        let kind = ChildKind::ALL
            .iter()
            .copied()
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

    /// One that is not in the list would be found by nobody but this.
    #[test]
    fn every_kind_that_an_example_renders_is_in_the_list() {
        let rendered = crate::controller::objects::tests::of_every_example();
        let mut seen = std::collections::BTreeSet::new();
        for objects in rendered {
            seen.extend(children(&objects).into_iter().map(|child| child.kind));
        }
        assert_eq!(seen, ChildKind::ALL.iter().copied().collect());
    }
}
