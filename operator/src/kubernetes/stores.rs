//! What is known of the objects of one scope, kept current by watches.
//!
//! Of children only what matters of their metadata is kept, of Deployments and
//! Pods also what status is made from. Of Secrets that people wrote nothing: that
//! they changed is told, and what is in them is read when it is needed, one by
//! one, so that a huge or broken one stalls nobody else.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Container, Pod, PodSpec, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        utils::{Backoff, ResetTimerBackoff},
        watcher::{self, watcher},
    },
};

use super::{
    children::ChildKind,
    client::WATCH_TIME_MAX,
    found::{Found, controller, is_ours},
    pods::PodView,
    store::{Store, Touched, follow},
};
use crate::controller::objects::MANAGED_BY;

/// Pauses before a watch that broke is begun again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Objects that are listed with one call. All kinds are listed at the same time,
/// and a page of Pods of this length is half a megabyte.
const PAGE_LENGTH: u32 = 100;

/// What is watched: one namespace, or all.
#[derive(Clone, Debug)]
pub(super) struct Scope(pub(super) Option<String>);

impl Scope {
    pub(super) fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match &self.0 {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }
}

/// What is known.
#[derive(Clone)]
pub(super) struct Stores {
    service_accounts: Store<Found>,
    /// Ours.
    secrets: Store<Found>,
    config_maps: Store<Found>,
    services: Store<Found>,
    budgets: Store<Found>,
    policies: Store<Found>,
    deployments: Store<Deployment>,
    pods: Store<PodView>,
}

/// What keeps it current; each must be polled.
pub(super) struct Watches {
    /// Ours and everyone's.
    pub(super) secrets: BoxStream<'static, Touched>,
    /// Everything else.
    pub(super) others: BoxStream<'static, Touched>,
}

/// How every watch is asked for.
pub(super) fn watch_config() -> watcher::Config {
    let seconds = u32::try_from(WATCH_TIME_MAX.as_secs()).expect("a minute fits");
    watcher::Config::default()
        .timeout(seconds)
        .page_size(PAGE_LENGTH)
}

/// How a watch that broke is begun again: soon, so that an API server that is
/// back is noticed, and not all at once.
pub(super) fn backoff() -> impl Backoff {
    ResetTimerBackoff::new(Pauses(PAUSE_MIN), 2 * PAUSE_MAX)
}

/// Each is up to twice the one before.
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0.mul_f64(1.0 + crate::random::fraction());
        self.0 = (self.0 * 2).min(PAUSE_MAX);
        Some(pause.min(PAUSE_MAX))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = PAUSE_MIN;
    }
}

impl Stores {
    /// Begins to watch a scope.
    pub(super) fn watch(client: &Client, scope: &Scope) -> (Self, Watches) {
        let ours = || watch_config().labels(MANAGED_BY);
        let (service_accounts, a) = children::<ServiceAccount>(scope.api(client), ours());
        let (secrets, secrets_touched) = children::<Secret>(scope.api(client), watch_config());
        let (config_maps, b) = children::<ConfigMap>(scope.api(client), ours());
        let (services, c) = children::<Service>(scope.api(client), ours());
        let (budgets, d) = children::<PodDisruptionBudget>(scope.api(client), ours());
        let (policies, e) = children::<NetworkPolicy>(scope.api(client), ours());
        let (deployments, f) = follow(watcher(scope.api(client), ours()), |deployment| {
            let owner = controller(Deployment::meta(&deployment));
            let group = owner.map(|owner| owner.uid.clone());
            Some((without_template(deployment), group))
        });
        let (pods, g) = follow(watcher(scope.api(client), ours()), |pod: Pod| {
            let cluster = instance(&pod).map(str::to_owned);
            Some((PodView::of(&pod)?, cluster))
        });
        let stores = Self {
            service_accounts,
            secrets,
            config_maps,
            services,
            budgets,
            policies,
            deployments,
            pods,
        };
        let watches = Watches {
            secrets: secrets_touched,
            others: stream::select_all([a, b, c, d, e, f, g]).boxed(),
        };
        (stores, watches)
    }

    /// Waits until everything has been listed once.
    pub(super) async fn listed(&self) {
        let Self {
            service_accounts,
            secrets,
            config_maps,
            services,
            budgets,
            policies,
            deployments,
            pods,
        } = self;
        // One after the other is as good as all at once.
        for metadata in [
            service_accounts,
            secrets,
            config_maps,
            services,
            budgets,
            policies,
        ] {
            metadata.listed().await;
        }
        deployments.listed().await;
        pods.listed().await;
    }

    /// The kinds that have not been listed yet.
    pub(super) fn unlisted(&self) -> Vec<&'static str> {
        let Self {
            service_accounts,
            secrets,
            config_maps,
            services,
            budgets,
            policies,
            deployments,
            pods,
        } = self;
        let unlisted = [
            service_accounts.unlisted(),
            secrets.unlisted(),
            config_maps.unlisted(),
            services.unlisted(),
            budgets.unlisted(),
            policies.unlisted(),
            deployments.unlisted(),
            pods.unlisted(),
        ];
        unlisted.into_iter().flatten().collect()
    }

    /// A child, if one of that name is known.
    pub(super) fn child(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<Found> {
        match self.of(kind) {
            Some(store) => Some((*store.get(namespace, name)?).clone()),
            None => Some(Found::of(&self.deployment(namespace, name)?.metadata)),
        }
    }

    /// Everything that an owner controls.
    pub(super) fn owned(&self, namespace: &str, uid: &str) -> Vec<(ChildKind, Found)> {
        let mut owned = Vec::new();
        for kind in ChildKind::ALL.iter().copied() {
            match self.of(kind) {
                Some(store) => {
                    let found = store.group(namespace, uid);
                    owned.extend(found.iter().map(|found| (kind, (**found).clone())));
                }
                None => {
                    let found = self.deployments.group(namespace, uid);
                    owned.extend(found.iter().map(|found| (kind, Found::of(&found.metadata))));
                }
            }
        }
        owned
    }

    /// The store of a kind of which no more is kept.
    fn of(&self, kind: ChildKind) -> Option<&Store<Found>> {
        match kind {
            ChildKind::ServiceAccount => Some(&self.service_accounts),
            ChildKind::Secret => Some(&self.secrets),
            ChildKind::ConfigMap => Some(&self.config_maps),
            ChildKind::Service => Some(&self.services),
            ChildKind::PodDisruptionBudget => Some(&self.budgets),
            ChildKind::NetworkPolicy => Some(&self.policies),
            ChildKind::Deployment => None,
        }
    }

    /// A Deployment.
    pub(super) fn deployment(&self, namespace: &str, name: &str) -> Option<Arc<Deployment>> {
        self.deployments.get(namespace, name)
    }

    /// The Pods of a cluster.
    pub(super) fn pods(&self, namespace: &str, cluster: &str) -> Vec<PodView> {
        let pods = self.pods.group(namespace, cluster);
        pods.iter().map(|pod| (**pod).clone()).collect()
    }
}

/// The cluster that an object of a tier belongs to, by its label.
pub(super) fn instance<K: Resource>(object: &K) -> Option<&str> {
    let labels = object.meta().labels.as_ref()?;
    labels.get("app.kubernetes.io/instance").map(String::as_str)
}

/// Objects of a kind of which there may be others that are no tier's.
fn children<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
) -> (Store<Found>, BoxStream<'static, Touched>)
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    K: Send + Sync + 'static,
{
    follow(watcher(api, config), |object: PartialObjectMeta<K>| {
        let found = Found::of(&object.metadata);
        let group = found.owner.as_ref().map(|owner| owner.uid.clone());
        is_of_a_tier(&object, &found).then_some((found, group))
    })
}

/// Whether it is a tier's, or says so: people's own Secrets are many.
fn is_of_a_tier<K: Resource>(object: &K, found: &Found) -> bool {
    let is_owned = found
        .owner
        .as_ref()
        .is_some_and(|owner| owner.cluster.is_some());
    is_owned || instance(object).is_some()
}

/// Of what a Deployment's Pods are made of, only which images they run is asked for.
fn without_template(mut deployment: Deployment) -> Deployment {
    deployment.metadata.managed_fields = None;
    deployment.annotations_mut().retain(|key, _| is_ours(key));
    if let Some(spec) = &mut deployment.spec {
        spec.template.metadata = None;
        spec.template.spec = spec.template.spec.take().map(|pods| PodSpec {
            containers: pods.containers.into_iter().map(image_alone).collect(),
            ..PodSpec::default()
        });
    }
    deployment
}

fn image_alone(container: Container) -> Container {
    Container {
        name: container.name,
        image: container.image,
        ..Container::default()
    }
}
