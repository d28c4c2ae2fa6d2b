//! One look at one cluster: dereference → validate → build → apply → status.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, Shared};
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
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
    children::ChildKind,
    client::{self, CALL_TIME_MAX},
    error::{CallError, CallResult, Kind},
    fence::Fence,
    merge_patch::replacing,
    metrics::Metrics,
    monitor::Monitor,
    nudge::Nudged,
    observe,
    pods::{Phase, PodView},
    rollout::{self, Running},
    secrets::{self, References},
    stores::Stores,
    template::{self, Present, Templates},
};
use crate::{
    api::{Component, EndpointStatus, PgPoolCluster, PgPoolClusterStatus, PoolState},
    controller::{
        build,
        objects::{
            Objects, Owner, Placement, internal_name, is_settings_name, objects, pod_selector,
        },
        status::{self, Meaning, Observed, Pause, Progress, Rollout, Rollouts},
        validate,
    },
};

/// A cluster is looked at again after so long though nothing changed.
const RESYNC: Duration = Duration::from_secs(600);
/// The same while something that it refers to is not there: not all of it is
/// watched.
const LACKING: Duration = Duration::from_secs(15);

/// What every look needs.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) fence: Fence,
    pub(super) settings: Arc<Settings>,
    pub(super) stores: Stores,
    /// Waits until all of them have been listed once.
    pub(super) listed: Shared<BoxFuture<'static, ()>>,
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
    /// Of the cluster that this is about: another one of its name begins anew.
    uid: Option<String>,
    /// How its children were left.
    left: Left,
    /// Its status, as it was written last.
    status: Option<PgPoolClusterStatus>,
    /// Pod templates that stay as an earlier version made them.
    templates: Templates,
    /// The revision that was applied last.
    revision: Option<String>,
    /// What the spec comes to that was valid last.
    meaning: Option<Meaning>,
    /// Looks in a row that failed, and in which way.
    failures: Option<(Kind, u32)>,
    /// Which Pods were told to look for which configuration.
    nudged: Nudged,
    /// Reason of Stalled that an Event told of last; `None` if that is not known.
    told: Option<Option<String>>,
}

impl Memory {
    fn begin(&mut self, uid: Option<String>) {
        if self.uid != uid {
            *self = Self {
                uid,
                ..Self::default()
            };
        }
    }
}

impl Memory {
    /// The status as it is, as far as is known.
    fn status_before(&self, cluster: &Cluster) -> PgPoolClusterStatus {
        match (&self.status, &cluster.0) {
            (Some(status), _) => status.clone(),
            (None, Ok(cluster)) => cluster.status.clone().unwrap_or_default(),
            (None, Err(_)) => PgPoolClusterStatus::default(),
        }
    }
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
        memory.begin(cluster.uid());
        let listed = tokio::time::timeout(CALL_TIME_MAX, context.listed.clone()).await;
        let pods = context.stores.pods(&namespace, &name);
        let look = Look {
            context: &context,
            reference: &reference,
            namespace: &namespace,
            name: &name,
            pods: pods.iter().filter_map(|pod| PodView::of(pod)).collect(),
            created: cluster.creation_timestamp().map(|time| time.0),
        };
        let result = match listed {
            Ok(()) => look.look(&cluster, &mut memory).await,
            // Nothing can be told from what is missing before all is known.
            Err(_) => look.look_in_the_dark(&cluster, &mut memory).await,
        };
        context
            .metrics
            .reconciled(result.as_ref().err().map(CallError::kind), begin.elapsed());
        match result {
            Ok(progress) => {
                memory.failures = None;
                let pause = match progress.lacks_reference() {
                    true => LACKING,
                    false => RESYNC,
                };
                Action::requeue(pause.mul_f64(1.0 + crate::random::fraction() / 4.0))
            }
            Err(error) => {
                let kind = error.kind();
                let failures = match memory.failures {
                    Some((before, failures)) if before == kind => failures.saturating_add(1),
                    _ => 1,
                };
                memory.failures = Some((kind, failures));
                let pause = kind.pause(failures, crate::random::fraction());
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
    /// The Pods of the tier; one that comes meanwhile leads to another look.
    pods: Vec<PodView>,
    /// When the cluster was.
    created: Option<Timestamp>,
}

impl Look<'_> {
    /// Without those of a cluster of the same name before it, which are going.
    fn own_pods(&self) -> Vec<PodView> {
        let pods = self.pods.iter();
        pods.filter(|pod| self.created.is_none_or(|created| pod.created >= created))
            .cloned()
            .collect()
    }

    async fn look(&self, cluster: &Cluster, memory: &mut Memory) -> CallResult<Progress> {
        let (progress, failure) = match &cluster.0 {
            Err(invalid) => (Progress::Unreadable(invalid.error.clone()), None),
            Ok(cluster) => self.carry_out(cluster, memory).await,
        };
        let written = self.observe(cluster, &progress, memory).await;
        match failure {
            Some(failure) => Err(failure),
            None => written.map(|()| progress),
        }
    }

    /// Says that objects of some kinds cannot be listed, and leaves the rest of
    /// the status as it is.
    async fn look_in_the_dark(
        &self,
        cluster: &Cluster,
        memory: &mut Memory,
    ) -> CallResult<Progress> {
        let kinds = self.context.stores.unlisted();
        let error = CallError::Silent {
            what: format!("list {} (has the operator the right?)", kinds.join(", ")),
            time: CALL_TIME_MAX,
        };
        let before = memory.status_before(cluster);
        let progress = Progress::Interrupted(error.to_string());
        let observed = Observed {
            generation: cluster.meta().generation,
            progress: &progress,
            revision: None,
            rollouts: None,
            pause: Pause::default(),
            update: None,
            meaning: memory.meaning.as_ref(),
            endpoints: &before.endpoints,
            notifications: &before.notifications,
            tells: !wants_to_be_told(cluster),
        };
        let status = PgPoolClusterStatus {
            conditions: status::status(&observed, &before, Timestamp::now()).conditions,
            ..before
        };
        self.write_status(cluster, status, memory).await?;
        Err(error)
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
            Err(error @ ApplyError::NoRandomness) => {
                let text = error.to_string();
                let call = CallError::Refused {
                    what: "make a key".to_owned(),
                    code: 0,
                    text: text.clone(),
                };
                (Progress::Interrupted(text), Some(call))
            }
            Err(error @ ApplyError::NameConflict { .. }) => {
                // Nobody tells us when the other object goes: a look now and then.
                let kind = CallError::Refused {
                    what: "apply".to_owned(),
                    code: 409,
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
        memory.meaning = Some(Meaning::of(&validated));
        let tier = build::tier_among(&validated, self.poolers_seen());
        let key = secrets::internal_key(client, fence, cluster, self.namespace).await?;
        let revision = build::revision(&tier, key.bytes());
        let owner = Owner::of(cluster);
        let (poolers, balancers) = self.deployments();
        let running = Running {
            poolers: poolers.as_deref(),
            balancers: balancers.as_deref(),
        };
        let images = rollout::images(cluster, running, &settings.images);
        let placement = Placement {
            owner: &owner,
            images: &images,
            revision: Some(&revision),
        };
        let mut objects = objects(&tier, &placement);
        rollout::mark(&mut objects, cluster);
        template::mark(&mut objects, &tier);
        let present = Present {
            client,
            stores,
            namespace: self.namespace,
            cluster,
        };
        for (live, rendered) in [
            (&poolers, &mut objects.poolers),
            (&balancers, &mut objects.balancers),
        ] {
            let templates = &mut memory.templates;
            templates
                .decide(&present, live.as_deref(), rendered)
                .await?;
        }
        if tier.pooler.is_budgeted
            && let Some(poolers) = &poolers
            && !self.all_took(&revision, memory)
        {
            rollout::hold_back(&mut objects.poolers, poolers);
        }
        let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
        let internal = internal_name(self.name);
        let mut applier = Applier {
            client,
            fence,
            stores,
            namespace: self.namespace,
            cluster: self.name,
            uid,
            left: &mut memory.left,
            templates: &memory.templates,
            writes: 0,
        };
        // Settings of before may still be mounted.
        let keep = |_, name: &str| name == internal || is_settings_name(self.name, name);
        let applied = applier.apply(&objects, keep).await;
        let removed = match &applied {
            Ok(()) => self.remove_settings(&mut applier, &objects).await,
            Err(_) => Ok(()),
        };
        metrics.wrote(applier.writes);
        applied?;
        removed?;
        memory.revision = Some(revision);
        Ok(Progress::Applied)
    }

    /// Removes Secrets with settings of before that no ReplicaSet would mount.
    async fn remove_settings(
        &self,
        applier: &mut Applier<'_>,
        objects: &Objects,
    ) -> CallResult<()> {
        let present = objects.pooler_settings.metadata.name.as_deref();
        let mut former = self.context.stores.owned(self.namespace, applier.uid);
        former.retain(|(kind, found)| {
            let name = found.name.as_deref();
            *kind == ChildKind::Secret
                && name != present
                && !name.is_some_and(|name| applier.templates.mount(name))
                && name.is_some_and(|name| is_settings_name(self.name, name))
        });
        if former.is_empty() {
            return Ok(());
        }
        let api: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), self.namespace);
        let ours = ListParams::default().labels(&pod_selector(self.name, Component::Pooler));
        let sets = client::read("list ReplicaSets", api.list(&ours)).await?;
        for (kind, found) in former {
            let name = found.name.as_deref().unwrap_or_default();
            if !sets.iter().any(|set| mounts(set, name)) {
                applier.remove(kind, &found).await?;
            }
        }
        Ok(())
    }

    /// Whether every pooler that may hold servers has said that it took a
    /// configuration, and with it no more than its share of the limit. One that
    /// cannot be asked may hold more.
    fn all_took(&self, revision: &str, memory: &Memory) -> bool {
        let wanted = memory.revision.as_deref();
        let answers = self
            .context
            .monitor
            .follow(self.reference, &self.pods, wanted);
        let endpoints = observe::endpoints(&self.pods, &answers, &[], Timestamp::now());
        let poolers = self.pods.iter().filter(|pod| {
            pod.component == Component::Pooler && !matches!(pod.phase, Phase::Failed(_))
        });
        poolers.into_iter().all(|pod| {
            endpoints.iter().any(|endpoint| {
                endpoint.name == pod.name && endpoint.config_revision.as_deref() == Some(revision)
            })
        })
    }

    /// How many poolers there are, those that are ending too.
    fn poolers_seen(&self) -> u32 {
        let poolers = self
            .pods
            .iter()
            .filter(|pod| pod.component == Component::Pooler);
        u32::try_from(poolers.count()).unwrap_or(u32::MAX)
    }

    /// Those of the poolers and of the balancers, as far as is known.
    fn deployments(&self) -> (Option<Arc<Deployment>>, Option<Arc<Deployment>>) {
        let of = |component: Component| {
            let name = format!("{}-{}", self.name, component.word());
            self.context.stores.deployment(self.namespace, &name)
        };
        (of(Component::Pooler), of(Component::Balancer))
    }

    /// Observes, writes what was observed if it is news, and has Pods look that
    /// lag behind.
    async fn observe(
        &self,
        cluster: &Cluster,
        progress: &Progress,
        memory: &mut Memory,
    ) -> CallResult<()> {
        let before = memory.status_before(cluster);
        let now = Timestamp::now();
        let pods = &self.own_pods();
        let wanted = memory.revision.clone();
        let answers = self
            .context
            .monitor
            .follow(self.reference, pods, wanted.as_deref());
        let endpoints = observe::endpoints(pods, &answers, &before.endpoints, now);
        let spec = cluster.0.as_ref().ok().map(|cluster| &cluster.spec);
        let (poolers, balancers) = self.deployments();
        let rollouts = Rollouts {
            poolers: self.rollout(Component::Pooler, poolers.as_deref(), &memory.left),
            balancers: self.rollout(Component::Balancer, balancers.as_deref(), &memory.left),
        };
        let running = Running {
            poolers: poolers.as_deref(),
            balancers: balancers.as_deref(),
        };
        let update = cluster.0.as_ref().ok().and_then(|cluster| {
            let ours = &self.context.settings.images;
            rollout::update(cluster, running, ours, &memory.templates)
        });
        let observed = Observed {
            generation: cluster.meta().generation,
            progress,
            revision: wanted.as_deref(),
            rollouts: Some(&rollouts),
            pause: Pause {
                wished: spec.is_some_and(|spec| spec.pool.state == PoolState::Paused),
                observed: observe::paused(pods, &answers),
            },
            update: update.as_deref(),
            meaning: memory.meaning.as_ref(),
            endpoints: &endpoints,
            notifications: &[],
            tells: !wants_to_be_told(cluster),
        };
        let status = status::status(&observed, &before, now);
        self.write_status(cluster, status, memory).await?;
        // After the status: a Pod that cannot be told must not keep it back.
        match wanted.filter(|_| *progress == Progress::Applied) {
            Some(wanted) => {
                self.nudge(pods, &endpoints, &wanted, &mut memory.nudged)
                    .await
            }
            None => Ok(()),
        }
    }

    /// Writes a status if it is news.
    async fn write_status(
        &self,
        cluster: &Cluster,
        status: PgPoolClusterStatus,
        memory: &mut Memory,
    ) -> CallResult<()> {
        self.tell(&status, cluster, memory).await;
        let known = cluster
            .0
            .as_ref()
            .ok()
            .and_then(|cluster| cluster.status.as_ref());
        let known = memory.status.as_ref().or(known);
        if known == Some(&status) {
            memory.status = Some(status);
            return Ok(());
        }
        // What comes back may be as unreadable as what was read.
        let clusters: Api<Cluster> = Api::namespaced(self.context.client.clone(), self.namespace);
        let wanted = replacing(&json!(known), json!(status));
        let patch = json!({"status": wanted, "metadata": {"uid": cluster.uid()}});
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

    /// Has Pods whose endpoint has not taken up the configuration look at once.
    async fn nudge(
        &self,
        pods: &[PodView],
        endpoints: &[EndpointStatus],
        wanted: &str,
        nudged: &mut Nudged,
    ) -> CallResult<()> {
        for pod in pods {
            let has = endpoints.iter().any(|endpoint| {
                endpoint.name == pod.name && endpoint.config_revision.as_deref() == Some(wanted)
            });
            if has {
                nudged.has(&pod.uid, wanted);
            }
        }
        let Context { client, fence, .. } = self.context;
        let told = nudged
            .nudge(client, fence, self.namespace, pods, wanted)
            .await?;
        self.context.metrics.wrote(told);
        Ok(())
    }

    fn rollout(
        &self,
        component: Component,
        deployment: Option<&Deployment>,
        left: &Left,
    ) -> Rollout {
        let mut rollout = deployment.map_or_else(Rollout::default, observed);
        // What was written a moment ago may not have come back yet.
        let name = format!("{}-{}", self.name, component.word());
        let seen = deployment.and_then(|deployment| deployment.metadata.generation);
        rollout.outdated |= seen < left.generation(ChildKind::Deployment, &name);
        rollout.selector = pod_selector(self.name, component);
        rollout
    }

    /// An Event when something stalls, and when it goes on.
    async fn tell(&self, status: &PgPoolClusterStatus, cluster: &Cluster, memory: &mut Memory) {
        let before = memory.status_before(cluster);
        let Some(stalled) = status.conditions.iter().find(|one| one.type_ == "Stalled") else {
            return;
        };
        let now = reason_of(stalled);
        // A former leader told of what it wrote.
        let told = memory.told.get_or_insert_with(|| {
            let before = before.conditions.iter();
            before
                .clone()
                .find(|one| one.type_ == "Stalled")
                .and_then(reason_of)
        });
        if now == *told {
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
            Ok(()) => memory.told = Some(now),
            Err(error) => tracing::debug!(%error, "no Event"),
        }
    }
}

/// Whether the cluster names somebody to tell.
fn wants_to_be_told(cluster: &Cluster) -> bool {
    let spec = cluster.0.as_ref().ok().map(|cluster| &cluster.spec);
    spec.is_none_or(|spec| !spec.notifications.is_empty())
}

/// Why it stalls, if it does.
fn reason_of(stalled: &Condition) -> Option<String> {
    (stalled.status == "True").then(|| stalled.reason.clone())
}

/// Whether Pods of a ReplicaSet mount a Secret.
fn mounts(set: &ReplicaSet, secret: &str) -> bool {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    template.is_some_and(|template| template::secrets(template).any(|name| name == secret))
}

/// A Deployment, as its controller reports it.
fn observed(deployment: &Deployment) -> Rollout {
    let status = deployment.status.clone().unwrap_or_default();
    let wished = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let conditions = status.conditions.unwrap_or_default();
    let late = |one: &&DeploymentCondition| {
        one.type_ == "Progressing"
            && one.status == "False"
            && one.reason.as_deref() == Some("ProgressDeadlineExceeded")
    };
    // The API server does not take the Pods: a quota, or a security standard.
    let refused =
        |one: &&DeploymentCondition| one.type_ == "ReplicaFailure" && one.status == "True";
    let stuck = conditions
        .iter()
        .find(refused)
        .or_else(|| conditions.iter().find(late))
        .map(|one| one.message.clone().unwrap_or_default());
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
