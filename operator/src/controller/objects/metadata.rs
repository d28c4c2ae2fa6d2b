//! What all objects of a tier have in common: names, labels, their owner.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::ServiceAccount,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
};

use crate::api::{API_VERSION, Component, KIND, PgPoolCluster};

/// The product: `app.kubernetes.io/name` of every object.
const PRODUCT: &str = "poolkeeper";

/// Who makes them: `app.kubernetes.io/managed-by`.
const MANAGER: &str = "poolkeeper-operator";
/// What all objects of all tiers are selected by.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by=poolkeeper-operator";

/// What the Pods of a component of a cluster are selected by, as autoscalers
/// want it.
#[must_use]
pub fn pod_selector(cluster: &str, component: Component) -> String {
    let labels = identity(cluster, component.word());
    labels
        .map(|(key, value)| format!("{key}={value}"))
        .join(",")
}

/// Whose the objects of a tier are.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    /// The namespace of cluster and objects.
    namespace: Option<String>,
    /// What has them deleted with the cluster.
    reference: Option<OwnerReference>,
}

impl Owner {
    /// The owner that a cluster is. One that no API server has given a uid, as
    /// in a file, owns nothing; one without a namespace leaves it to whoever
    /// applies the objects.
    #[must_use]
    pub fn of(cluster: &PgPoolCluster) -> Self {
        let metadata = &cluster.metadata;
        Self {
            namespace: metadata.namespace.clone(),
            reference: metadata.uid.as_ref().map(|uid| OwnerReference {
                api_version: API_VERSION.to_owned(),
                kind: KIND.to_owned(),
                name: metadata.name.clone().unwrap_or_default(),
                uid: uid.clone(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }),
        }
    }
}

/// The objects of one tier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family<'a> {
    /// The cluster's name.
    pub(super) name: &'a str,
    pub(super) owner: &'a Owner,
}

impl Family<'_> {
    /// Name of what a component is made of.
    pub(super) fn component_name(&self, component: Component) -> String {
        format!("{}-{}", self.name, component.word())
    }

    /// Name of what a component reads.
    pub(super) fn config_name(&self, component: Component) -> String {
        format!("{}-config", self.component_name(component))
    }

    /// The DNS name of a Service; of one in a file that leaves the namespace to
    /// whoever applies it, as it is known inside that.
    pub(super) fn host(&self, service: &str) -> String {
        match &self.owner.namespace {
            Some(namespace) => format!("{service}.{namespace}.svc"),
            None => service.to_owned(),
        }
    }

    /// Metadata of an object of a component.
    pub(super) fn metadata(&self, name: String, component: Component) -> ObjectMeta {
        self.metadata_of(name, component.word())
    }

    /// Labels of an object of a component.
    pub(super) fn labels(&self, component: Component) -> BTreeMap<String, String> {
        self.labels_of(component.word())
    }

    pub(super) fn metadata_of(&self, name: String, component: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: self.owner.namespace.clone(),
            labels: Some(self.labels_of(component)),
            owner_references: self.owner.reference.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    /// What tells the Pods of a component from all others. A Deployment's can
    /// never be changed.
    pub(super) fn selecting(&self, component: Component) -> BTreeMap<String, String> {
        self.identity(component.word()).into()
    }

    /// The same as a selector.
    pub(super) fn selector(&self, component: Component) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selecting(component)),
            match_expressions: None,
        }
    }

    fn labels_of(&self, component: &str) -> BTreeMap<String, String> {
        let more = [label("managed-by", MANAGER), label("part-of", PRODUCT)];
        self.identity(component).into_iter().chain(more).collect()
    }

    fn identity(&self, component: &str) -> [(String, String); 3] {
        identity(self.name, component)
    }
}

fn identity(cluster: &str, component: &str) -> [(String, String); 3] {
    [
        label("name", PRODUCT),
        label("instance", cluster),
        label("component", component),
    ]
}

fn label(key: &str, value: &str) -> (String, String) {
    (format!("app.kubernetes.io/{key}"), value.to_owned())
}

/// Whom the Pods run as. It has no rights, and no token says that it is there:
/// Pods that parse bytes from the network hold no credentials.
pub(super) fn service_account(family: &Family<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: family.metadata_of(family.name.to_owned(), "tier"),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
