//! One look at one cluster: dereference → validate → build → apply → status.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder},
        reflector::ObjectRef,
    },
};
use serde_json::json;
use tracing::Instrument as _;

use super::{
    Cluster, Settings,
    apply::{Applier, ApplyError, FIELD_MANAGER, Left},
    client,
    error::{CallError, CallResult, Kind},
    fence::Fence,
    metrics::Metrics,
    monitor::Monitor,
    observe,
    pods::PodView,
    secrets::{self, References},
    stores::Stores,
};
use crate::{
    api::{Component, PgPoolCluster, PgPoolClusterStatus, PoolState},
    controller::{
        build,
        objects::{Owner, Placement, internal_name, is_settings_name, objects, pod_selector},
        status::{self, Observed, Pause, Progress, Rollout, Rollouts},
        validate,
    },
};

/// A cluster is looked at again after so long though nothing changed.
const RESYNC: Duration = Duration::from_secs(600);

/// What every look needs.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) fence: Fence,
    pub(super) settings: Arc<Settings>,
    pub(super) stores: Stores,
    pub(super) references: References,
    pub(super) monitor: Monitor,
    pub(super) recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
    pub(super) memories: Memories,
}

/// What is remembered of each cluster between two looks.
#[derive(Default)]
pub(super) struct Memories(Mutex<HashMap<ObjectRef<Cluster>, Arc<tokio::sync::Mutex<Memory>>>>);

#[derive(Default)]
struct Memory {
    /// How its children were left.
    left: Left,
    /// Its status, as it was written last.
    status: Option<PgPoolClusterStatus>,
    /// The revision that was applied last.
    revision: Option<String>,
    /// Looks in a row that failed, and in which way.
    failures: Option<(Kind, u32)>,
    /// Reason of Stalled that an Event told of last.
    told: Option<String>,
}

impl Memories {
    fn of(&self, cluster: &ObjectRef<Cluster>) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memories.entry(cluster.clone()).or_default().clone()
    }

    /// Forgets clusters that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(&ObjectRef<Cluster>) -> bool) {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memories.retain(|cluster, _| is_there(cluster));
    }
}

/// Looks at a cluster. Never fails: what went wrong is in its status and decides
/// when it is looked at again.
pub(super) async fn reconcile(
    cluster: Arc<Cluster>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    let reference = ObjectRef::from_obj(&*cluster);
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let span = tracing::info_span!("reconcile", namespace, cluster = name);
    let look = async {
        let begin = Instant::now();
        let memory = context.memories.of(&reference);
        let mut memory = memory.lock().await;
        let look = Look {
            context: &context,
            reference: &reference,
            namespace: &namespace,
            name: &name,
        };
        let result = look.look(&cluster, &mut memory).await;
        context
            .metrics
            .reconciled(result.as_ref().err().map(CallError::kind), begin.elapsed());
        match result {
            Ok(()) => {
                memory.failures = None;
                Action::requeue(RESYNC.mul_f64(1.0 + super::random() / 4.0))
            }
            Err(error) => {
                let kind = error.kind();
                let failures = match memory.failures {
                    Some((before, failures)) if before == kind => failures.saturating_add(1),
                    _ => 1,
                };
                memory.failures = Some((kind, failures));
                let pause = kind.pause(failures, super::random());
                match kind {
                    Kind::Conflict | Kind::Gone => {
                        tracing::debug!(%error, ?pause, "again soon");
                    }
                    _ => tracing::warn!(%error, ?pause, "not carried out, tried again"),
                }
                Action::requeue(pause)
            }
        }
    };
    Ok(look.instrument(span).await)
}

/// One look.
struct Look<'a> {
    context: &'a Context,
    reference: &'a ObjectRef<Cluster>,
    namespace: &'a str,
    name: &'a str,
}

impl Look<'_> {
    async fn look(&self, cluster: &Cluster, memory: &mut Memory) -> CallResult<()> {
        let (progress, failure) = match &cluster.0 {
            Err(invalid) => (Progress::Unreadable(invalid.error.clone()), None),
            Ok(cluster) => self.carry_out(cluster, memory).await,
        };
        let written = self.write_status(cluster, &progress, memory).await;
        match failure {
            Some(failure) => Err(failure),
            None => written,
        }
    }

    /// Brings everything to what the spec wants, or says why not.
    async fn carry_out(
        &self,
        cluster: &PgPoolCluster,
        memory: &mut Memory,
    ) -> (Progress, Option<CallError>) {
        if cluster.metadata.deletion_timestamp.is_some() {
            return (Progress::Deleting, None);
        }
        if cluster.spec.suspend {
            return (Progress::Suspended, None);
        }
        match self.apply(cluster, memory).await {
            Ok(progress) => (progress, None),
            Err(error @ (ApplyError::NameConflict { .. } | ApplyError::NoRandomness)) => {
                // Nobody tells us when the other object goes: a look now and then.
                let kind = CallError::Refused {
                    what: "apply".to_owned(),
                    code: 422,
                    text: error.to_string(),
                };
                (Progress::NameConflict(error.to_string()), Some(kind))
            }
            Err(ApplyError::Call(error)) => {
                let text = error.to_string();
                let progress = match error.kind() {
                    Kind::Forbidden | Kind::Invalid => Progress::Refused(text),
                    _ => Progress::Interrupted(text),
                };
                (progress, Some(error))
            }
        }
    }

    async fn apply(
        &self,
        cluster: &PgPoolCluster,
        memory: &mut Memory,
    ) -> Result<Progress, ApplyError> {
        let Context {
            client,
            fence,
            settings,
            stores,
            references,
            metrics,
            ..
        } = self.context;
        let read =
            secrets::dereference(client, self.namespace, cluster, self.reference, references)
                .await?;
        let validated = match validate::validate(&read, &settings.webhooks) {
            Ok(validated) => validated,
            Err(faults) => return Ok(Progress::Invalid(faults)),
        };
        let tier = build::tier(&validated);
        let key = secrets::internal_key(client, fence, cluster, self.namespace).await?;
        let revision = build::revision(&tier, key.bytes());
        let owner = Owner::of(cluster);
        let placement = Placement {
            owner: &owner,
            images: &settings.images,
            revision: Some(&revision),
        };
        let objects = objects(&tier, &placement);
        let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
        let internal = internal_name(self.name);
        let mut applier = Applier {
            client,
            fence,
            stores,
            namespace: self.namespace,
            uid,
            left: &mut memory.left,
            writes: 0,
        };
        // Settings of before may still be mounted.
        let keep = |_, name: &str| name == internal || is_settings_name(self.name, name);
        let applied = applier.apply(&objects, keep).await;
        metrics.wrote(applier.writes);
        applied?;
        memory.revision = Some(revision);
        Ok(Progress::Applied)
    }

    /// Observes, and writes what was observed if it is news.
    async fn write_status(
        &self,
        cluster: &Cluster,
        progress: &Progress,
        memory: &mut Memory,
    ) -> CallResult<()> {
        let before = match &memory.status {
            Some(status) => status.clone(),
            None => match &cluster.0 {
                Ok(cluster) => cluster.status.clone().unwrap_or_default(),
                Err(_) => PgPoolClusterStatus::default(),
            },
        };
        let now = Timestamp::now();
        let pods = self.context.stores.pods(self.namespace, self.name);
        let pods: Vec<PodView> = pods.iter().filter_map(|pod| PodView::of(pod)).collect();
        let wanted = memory.revision.as_deref();
        let answers = self.context.monitor.follow(self.reference, &pods, wanted);
        let endpoints = observe::endpoints(&pods, &answers, &before.endpoints, now);
        let spec = cluster.0.as_ref().ok().map(|cluster| &cluster.spec);
        let rollouts = Rollouts {
            poolers: self.rollout(Component::Pooler),
            balancers: self.rollout(Component::Balancer),
        };
        let observed = Observed {
            generation: cluster.meta().generation,
            progress,
            revision: wanted,
            rollouts: Some(&rollouts),
            pause: Pause {
                wished: spec.is_some_and(|spec| spec.pool.state == PoolState::Paused),
                observed: observe::paused(&pods, &answers),
            },
            update: None,
            endpoints: &endpoints,
            notifications: &[],
            tells: spec.is_none_or(|spec| spec.notifications.is_empty()),
        };
        let status = status::status(&observed, &before, now);
        self.tell(&status, cluster, memory).await;
        let known = cluster
            .0
            .as_ref()
            .ok()
            .and_then(|cluster| cluster.status.as_ref());
        if memory.status.as_ref().or(known) == Some(&status) {
            memory.status = Some(status);
            return Ok(());
        }
        let clusters: Api<PgPoolCluster> =
            Api::namespaced(self.context.client.clone(), self.namespace);
        // All of it is replaced: what was there is nobody else's.
        let mut patch = json!({"status": status, "metadata": {"uid": cluster.uid()}});
        absent_as_null(&mut patch["status"]);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(&patch);
        let call = clusters.patch_status(self.name, &params, &patch);
        match client::write(&self.context.fence, "write the status", call).await {
            Ok(_) => memory.status = Some(status),
            // It was deleted meanwhile.
            Err(error) if error.kind() == Kind::Gone => {}
            Err(error) => {
                // What is there now is not known.
                memory.status = None;
                return Err(error);
            }
        }
        self.context.metrics.wrote(1);
        Ok(())
    }

    fn rollout(&self, component: Component) -> Rollout {
        let name = format!("{}-{}", self.name, component.word());
        let deployment = self.context.stores.deployment(self.namespace, &name);
        let mut rollout = deployment.map_or_else(Rollout::default, |found| observed(&found));
        rollout.selector = pod_selector(self.name, component);
        rollout
    }

    /// An Event when something stalls, and when it goes on.
    async fn tell(&self, status: &PgPoolClusterStatus, cluster: &Cluster, memory: &mut Memory) {
        let Some(stalled) = status.conditions.iter().find(|one| one.type_ == "Stalled") else {
            return;
        };
        let now = (stalled.status == "True").then(|| stalled.reason.clone());
        if now == memory.told {
            return;
        }
        let mut reference = cluster.object_ref(&());
        reference.kind = Some(crate::api::KIND.to_owned());
        let message = match &now {
            Some(_) => {
                let valid = status
                    .conditions
                    .iter()
                    .find(|one| one.type_ == "ConfigValid");
                valid
                    .filter(|valid| valid.status == "False")
                    .map_or(&stalled.message, |valid| &valid.message)
                    .clone()
            }
            None => "what was in the way is gone".to_owned(),
        };
        let event = Event {
            type_: if now.is_some() {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: now.clone().unwrap_or_else(|| "Resumed".to_owned()),
            note: Some(message.chars().take(1_000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let publish = self.context.recorder.publish(&event, &reference);
        match client::write(&self.context.fence, "record an Event", publish).await {
            Ok(()) => memory.told = now,
            Err(error) => tracing::debug!(%error, "no Event"),
        }
    }
}

/// A Deployment, as its controller reports it.
fn observed(deployment: &Deployment) -> Rollout {
    let status = deployment.status.clone().unwrap_or_default();
    let wished = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let stuck = status
        .conditions
        .unwrap_or_default()
        .into_iter()
        .find(|one| {
            one.type_ == "Progressing"
                && one.status == "False"
                && one.reason.as_deref() == Some("ProgressDeadlineExceeded")
        })
        .map(|one| one.message.unwrap_or_default());
    Rollout {
        wished,
        replicas: status.replicas.unwrap_or(0),
        updated: status.updated_replicas.unwrap_or(0),
        available: status.available_replicas.unwrap_or(0),
        outdated: status.observed_generation < deployment.metadata.generation,
        stuck,
        selector: String::new(),
    }
}

/// A merge patch leaves what it does not name: optional fields at the top are
/// named, so that they go.
fn absent_as_null(status: &mut serde_json::Value) {
    if let Some(fields) = status.as_object_mut() {
        for field in ["observedGeneration"] {
            fields.entry(field).or_insert(serde_json::Value::Null);
        }
    }
}
