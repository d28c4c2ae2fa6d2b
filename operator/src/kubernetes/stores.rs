//! What is known of the objects of one scope, kept current by watches.
//!
//! Of children only the metadata is watched, of Deployments and Pods also what
//! status is made from. Of Secrets that people wrote, too, only that they
//! changed: what is in them is read when it is needed, one by one, so that a
//! huge or broken one stalls nobody else.

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::{BoxFuture, Shared},
    stream::BoxStream,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Container, Pod, PodSpec, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store},
        utils::{Backoff, ResetTimerBackoff},
        watcher::{self, watcher},
    },
};

use super::{children::ChildKind, client::WATCH_TIME_MAX};
use crate::controller::objects::MANAGED_BY;

/// Pauses before a watch that broke is begun again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

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

type Metadata<K> = Store<PartialObjectMeta<K>>;
/// Objects that appeared, changed or went.
pub(super) type Touched<K> = BoxStream<'static, watcher::Result<K>>;

/// What is known.
#[derive(Clone)]
pub(super) struct Stores {
    service_accounts: Metadata<ServiceAccount>,
    secrets: Metadata<Secret>,
    config_maps: Metadata<ConfigMap>,
    services: Metadata<Service>,
    budgets: Metadata<PodDisruptionBudget>,
    policies: Metadata<NetworkPolicy>,
    deployments: Store<Deployment>,
    pods: Store<Pod>,
}

/// What keeps it current; each must be polled.
pub(super) struct Watches {
    pub(super) service_accounts: Touched<PartialObjectMeta<ServiceAccount>>,
    /// Ours and everyone's.
    pub(super) secrets: Touched<PartialObjectMeta<Secret>>,
    pub(super) config_maps: Touched<PartialObjectMeta<ConfigMap>>,
    pub(super) services: Touched<PartialObjectMeta<Service>>,
    pub(super) budgets: Touched<PartialObjectMeta<PodDisruptionBudget>>,
    pub(super) policies: Touched<PartialObjectMeta<NetworkPolicy>>,
    pub(super) deployments: Touched<Deployment>,
    pub(super) pods: Touched<Pod>,
}

/// How every watch is asked for.
pub(super) fn watch_config() -> watcher::Config {
    let seconds = u32::try_from(WATCH_TIME_MAX.as_secs()).expect("minutes fit");
    watcher::Config::default().timeout(seconds)
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
        let (service_accounts, a) = metadata(scope.api(client), ours());
        let (secrets, b) = metadata(scope.api(client), watch_config());
        let (config_maps, c) = metadata(scope.api(client), ours());
        let (services, d) = metadata(scope.api(client), ours());
        let (budgets, e) = metadata(scope.api(client), ours());
        let (policies, f) = metadata(scope.api(client), ours());
        let (deployments, g) = kept(watcher(scope.api(client), ours()), forget_template);
        let (pods, h) = kept(watcher(scope.api(client), ours()), forget_spec);
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
            service_accounts: a,
            secrets: b,
            config_maps: c,
            services: d,
            budgets: e,
            policies: f,
            deployments: g,
            pods: h,
        };
        (stores, watches)
    }

    /// Waits until everything has been listed once; clones may wait together. A
    /// store by itself wakes only one of those who wait for it.
    pub(super) fn readiness(&self) -> Shared<BoxFuture<'static, ()>> {
        let stores = self.clone();
        async move {
            let waits = stores.waits().map(|(_, wait)| wait);
            futures::future::join_all(waits).await;
        }
        .boxed()
        .shared()
    }

    /// The kinds that have not been listed yet.
    pub(super) fn unlisted(&self) -> Vec<&'static str> {
        let waits = self.waits().into_iter();
        let unlisted =
            waits.filter_map(|(kind, wait)| wait.now_or_never().is_none().then_some(kind));
        unlisted.collect()
    }

    fn waits(&self) -> [(&'static str, BoxFuture<'_, ()>); 8] {
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
        [
            listed(service_accounts),
            listed(secrets),
            listed(config_maps),
            listed(services),
            listed(budgets),
            listed(policies),
            listed(deployments),
            listed(pods),
        ]
    }

    /// Metadata of a child, if there is one of that name, ours or not.
    pub(super) fn child(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<ObjectMeta> {
        self.of(kind).named(namespace, name)
    }

    /// Everything that an owner controls.
    pub(super) fn owned(&self, namespace: &str, uid: &str) -> Vec<(ChildKind, ObjectMeta)> {
        let kinds = ChildKind::ALL.iter();
        kinds
            .flat_map(|kind| {
                let owned = self.of(*kind).owned(namespace, uid);
                owned.into_iter().map(|found| (*kind, found))
            })
            .collect()
    }

    fn of(&self, kind: ChildKind) -> &dyn Known {
        match kind {
            ChildKind::ServiceAccount => &self.service_accounts,
            ChildKind::Secret => &self.secrets,
            ChildKind::ConfigMap => &self.config_maps,
            ChildKind::Service => &self.services,
            ChildKind::PodDisruptionBudget => &self.budgets,
            ChildKind::NetworkPolicy => &self.policies,
            ChildKind::Deployment => &self.deployments,
        }
    }

    /// A Deployment.
    pub(super) fn deployment(&self, namespace: &str, name: &str) -> Option<Arc<Deployment>> {
        self.deployments
            .get(&ObjectRef::new(name).within(namespace))
    }

    /// The Pods of a cluster.
    pub(super) fn pods(&self, namespace: &str, cluster: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && instance(pod) == Some(cluster)
        })
    }
}

/// Objects of one kind, whatever is kept of them.
trait Known {
    fn named(&self, namespace: &str, name: &str) -> Option<ObjectMeta>;
    fn owned(&self, namespace: &str, uid: &str) -> Vec<ObjectMeta>;
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Known for Store<K> {
    fn named(&self, namespace: &str, name: &str) -> Option<ObjectMeta> {
        let found = self.get(&ObjectRef::new(name).within(namespace))?;
        Some(found.meta().clone())
    }

    fn owned(&self, namespace: &str, uid: &str) -> Vec<ObjectMeta> {
        let ours = self.state_filter(|object| {
            object.meta().namespace.as_deref() == Some(namespace)
                && controller(object.meta()).is_some_and(|owner| owner.uid == uid)
        });
        ours.iter().map(|object| object.meta().clone()).collect()
    }
}

/// A kind, and the wait until its objects have been listed once.
fn listed<K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static>(
    store: &Store<K>,
) -> (&'static str, BoxFuture<'_, ()>) {
    let kind = match K::kind(&()) {
        Cow::Borrowed(kind) => kind,
        Cow::Owned(_) => "objects",
    };
    // A writer that is gone takes its reader with it: nobody waits then.
    let wait = store.wait_until_ready().map(|_| ());
    (kind, wait.boxed())
}

/// The cluster that an object of a tier belongs to, by its label.
pub(super) fn instance<K: Resource>(object: &K) -> Option<&str> {
    let labels = object.meta().labels.as_ref()?;
    labels.get("app.kubernetes.io/instance").map(String::as_str)
}

/// The owner that controls an object.
pub(super) fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

fn metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
) -> (Metadata<K>, Touched<PartialObjectMeta<K>>)
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    K: Send + Sync + 'static,
{
    kept(watcher(api, config), |object| {
        object.metadata.managed_fields = None;
        // People, and kubectl, keep whole manifests here.
        object
            .annotations_mut()
            .retain(|key, _| key.starts_with("poolkeeper.dev/"));
    })
}

fn kept<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    forget: impl FnMut(&mut K) + Send + 'static,
) -> (Store<K>, Touched<K>)
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let touched = events
        .modify(forget)
        .backoff(backoff())
        .reflect(writer)
        .touched_objects()
        .boxed();
    (reader, touched)
}

/// Of what a Deployment's Pods are made of, only which images they run is asked for.
fn forget_template(deployment: &mut Deployment) {
    deployment.metadata.managed_fields = None;
    let Some(spec) = &mut deployment.spec else {
        return;
    };
    spec.template.metadata = None;
    spec.template.spec = spec.template.spec.take().map(|pods| PodSpec {
        containers: pods.containers.into_iter().map(image_alone).collect(),
        ..PodSpec::default()
    });
}

fn image_alone(container: Container) -> Container {
    Container {
        name: container.name,
        image: container.image,
        ..Container::default()
    }
}

fn forget_spec(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.annotations_mut()
        .retain(|key, _| key.starts_with("poolkeeper.dev/"));
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        ..PodSpec::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::{reflector::store::Writer, watcher::Event};

    fn store<K>() -> (Store<K>, Writer<K>)
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        reflector::store()
    }

    fn list_nothing<K: Resource<DynamicType = ()> + Clone + 'static>(mut writer: Writer<K>) {
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
    }

    #[tokio::test]
    async fn everyone_who_waits_is_woken_when_all_is_known() {
        let (service_accounts, a) = store();
        let (secrets, b) = store();
        let (config_maps, c) = store();
        let (services, d) = store();
        let (budgets, e) = store();
        let (policies, f) = store();
        let (deployments, g) = store();
        let (pods, h) = store();
        let stores = Stores {
            service_accounts,
            secrets,
            config_maps,
            services,
            budgets,
            policies,
            deployments,
            pods,
        };
        let ready = stores.readiness();
        let waiters: Vec<_> = (0..16).map(|_| tokio::spawn(ready.clone())).collect();
        // All of them wait before anything is listed.
        tokio::task::yield_now().await;
        list_nothing(a);
        list_nothing(b);
        list_nothing(c);
        list_nothing(d);
        list_nothing(e);
        list_nothing(f);
        list_nothing(g);
        assert!(!waiters.iter().any(tokio::task::JoinHandle::is_finished));
        list_nothing(h);
        let all = futures::future::join_all(waiters);
        let limit = Duration::from_secs(30);
        for one in tokio::time::timeout(limit, all).await.unwrap() {
            one.unwrap();
        }
    }
}
