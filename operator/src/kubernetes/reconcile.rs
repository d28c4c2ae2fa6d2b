//! One look at one cluster: dereference → validate → build → apply → status.

use std::{convert::Infallible, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    runtime::{controller::Action, events::Recorder, reflector::ObjectRef},
};
use proxy_core::config::settings::Release;
use tracing::Instrument as _;

use super::{
    Cluster, Settings,
    apply::{Applier, ApplyError, Left},
    children::{self, ChildKind},
    client::{self, CALL_TIME_MAX},
    error::{CallError, CallResult, Kind},
    fence::Fence,
    memory::{Memories, Memory},
    metrics::{Metrics, Step},
    monitor::Monitor,
    observe,
    pods::{Phase, PodView},
    rollout::{self, Running},
    secrets::{self, References},
    stores::Stores,
    telling::Tellers,
    template::{self, Present, Templates},
};
use crate::{
    api::{Component, PgPoolCluster},
    controller::{
        build,
        objects::{
            Objects, Owner, Placement, internal_name, is_settings_name, notifier_name, objects,
            pod_selector, pooler_budget,
        },
        status::{Meaning, Progress},
        validate,
    },
};

/// A cluster is looked at again after so long though nothing changed.
pub(super) const RESYNC: Duration = Duration::from_secs(600);
/// The same while something that it refers to is not there: not all of it is
/// watched.
const LACKING: Duration = Duration::from_secs(15);

/// What every look needs.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) fence: Fence,
    pub(super) settings: Arc<Settings>,
    pub(super) stores: Stores,
    pub(super) references: References,
    pub(super) monitor: Monitor,
    pub(super) tellers: Tellers,
    pub(super) recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
    pub(super) memories: Memories,
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
        let memory = context.memories.of(&reference);
        let mut memory = memory.lock().await;
        context.metrics.begun(&reference);
        memory.begin(cluster.uid());
        memory.enter(Step::Wait, &context.metrics);
        let listed = tokio::time::timeout(CALL_TIME_MAX, context.stores.listed()).await;
        let look = Look {
            context: &context,
            reference: &reference,
            namespace: &namespace,
            name: &name,
            pods: context.stores.pods(&namespace, &name),
            created: cluster.creation_timestamp().map(|time| time.0),
        };
        let result = match listed {
            Ok(()) => look.look(&cluster, &mut memory).await,
            // Nothing can be told from what is missing before all is known.
            Err(_) => look.look_in_the_dark(&cluster, &mut memory).await,
        };
        let failure = result.as_ref().err().map(CallError::kind);
        memory.leave(failure, &context.metrics);
        match result {
            Ok(progress) => {
                memory.failures = None;
                let pause = match progress.lacks_reference() || memory.untold.is_some() {
                    true => LACKING,
                    false => RESYNC,
                };
                let pause = pause.mul_f64(1.0 + crate::random::fraction() / 4.0);
                Action::requeue(memory.due_in(Timestamp::now()).unwrap_or(pause).min(pause))
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
pub(super) struct Look<'a> {
    pub(super) context: &'a Context,
    pub(super) reference: &'a ObjectRef<Cluster>,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// The Pods of the tier; one that comes meanwhile leads to another look.
    pub(super) pods: Vec<PodView>,
    /// When the cluster was.
    pub(super) created: Option<Timestamp>,
}

impl Look<'_> {
    /// Without those of a cluster of the same name before it, which are going.
    pub(super) fn own_pods(&self) -> Vec<PodView> {
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
        memory.failed_at = failure.as_ref().and_then(|_| Some(memory.step?.0));
        memory.enter(Step::Status, &self.context.metrics);
        let written = self.observe(cluster, &progress, memory).await;
        match failure {
            Some(failure) => Err(failure),
            None => written.map(|()| progress),
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
        self.find_teller(cluster, memory).await;
        if cluster.spec.suspend {
            let failure = self.let_go(cluster, memory).await.err();
            return (Progress::Suspended, failure);
        }
        match self.apply(cluster, memory).await {
            Ok(progress @ Progress::Invalid(_)) => {
                let failure = self.let_go(cluster, memory).await.err();
                (progress, failure)
            }
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
            monitor,
            ..
        } = self.context;
        memory.enter(Step::Dereference, metrics);
        let read =
            secrets::dereference(client, self.namespace, cluster, self.reference, references)
                .await?;
        memory.enter(Step::Validate, metrics);
        let validated = match validate::validate(&read, &settings.webhooks) {
            Ok(validated) => validated,
            Err(faults) => {
                // What is wrong elsewhere keeps nobody from being told of it, once
                // the cluster had a key.
                let channels = validate::channels(&read, &settings.webhooks);
                let key = &mut memory.key;
                match secrets::known_key(client, stores, cluster, self.namespace, key).await {
                    Ok(Some(key)) => {
                        if let Some(teller) = &memory.teller {
                            teller.configure(cluster, &channels, key.bytes());
                        }
                    }
                    Ok(None) => {}
                    Err(error) => memory.untold = Some(format!("nobody is told: {error}")),
                }
                return Ok(Progress::Invalid(faults));
            }
        };
        memory.meaning = Some(Meaning::of(&validated));
        let mut tier = build::tier_among(&validated, self.poolers_seen());
        let key = &mut memory.key;
        let key =
            secrets::internal_key(client, fence, stores, cluster, self.namespace, key).await?;
        if let Some(teller) = &memory.teller {
            teller.configure(cluster, &validated.channels, key.bytes());
        }
        let owner = Owner::of(cluster);
        let (poolers, balancers) = self.deployments();
        let running = Running {
            poolers: poolers.as_deref(),
            balancers: balancers.as_deref(),
        };
        let images = rollout::images(cluster, running, &settings.images);
        let answers = monitor.answers(self.reference);
        let told = observe::oldest(&self.pods, &answers);
        let made_by = poolers.as_deref().and_then(template::made_by);
        let oldest = rollout::oldest(told, made_by, &images.pooler, Release::ours());
        let left_out = tier.leave_out_newer(oldest);
        if let Some(meaning) = &mut memory.meaning
            && !left_out.is_empty()
        {
            let what = left_out.join(", ");
            let warning = format!("poolers of version {oldest} do not know {what}: it is left out");
            meaning.warnings.push(warning);
        }
        let revision = build::revision(&tier, key.bytes());
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
        memory.held = match &poolers {
            Some(poolers) if tier.pooler.is_budgeted => {
                let all_took = || self.all_took(&revision, &answers);
                rollout::hold_back(&mut objects.poolers, poolers, all_took)
            }
            _ => None,
        };
        memory.holds_evictions = tier.pooler.is_budgeted && {
            let rollout = self.rollout(Component::Pooler, poolers.as_deref(), &memory.left);
            let budget = &mut objects.pooler_disruption;
            rollout::hold_evictions(budget, tier.pooler.replicas, &self.pods, &rollout)
        };
        let bindings = objects.bindings.iter();
        let bindings: Vec<_> = bindings.map(|one| one.metadata.name.clone()).collect();
        // One that is about to go is none any more.
        if !bindings.contains(&memory.binding) {
            memory.binding = None;
        }
        let internal = internal_name(self.name);
        memory.enter(Step::Apply, metrics);
        let mut applier = self.applier(cluster, &mut memory.left, &memory.templates);
        let notifier = notifier_name(self.name);
        // Also while it cannot be read: nobody else knows what was told.
        let tells = !cluster.spec.notifications.is_empty();
        // Settings of before may still be mounted.
        let keep = |kind, name: &str| match kind {
            ChildKind::ConfigMap => tells && name == notifier,
            _ => name == internal || is_settings_name(self.name, name),
        };
        let applied = applier.apply(&objects, keep).await;
        let removed = match &applied {
            Ok(()) => self.remove_settings(&mut applier, &objects).await,
            Err(_) => Ok(()),
        };
        applied?;
        memory.revision = Some(revision);
        applier.bind(&objects.bindings).await?;
        memory.binding = bindings.into_iter().next().flatten();
        removed?;
        Ok(Progress::Applied)
    }

    fn applier<'b>(
        &'b self,
        cluster: &'b PgPoolCluster,
        left: &'b mut Left,
        templates: &'b Templates,
    ) -> Applier<'b> {
        Applier {
            client: &self.context.client,
            fence: &self.context.fence,
            stores: &self.context.stores,
            namespace: self.namespace,
            cluster: self.name,
            uid: cluster.metadata.uid.as_deref().unwrap_or_default(),
            left,
            templates,
        }
    }

    /// Lets poolers be evicted where nothing is carried out that would: what was to
    /// be held for a moment would be for ever.
    async fn let_go(&self, cluster: &PgPoolCluster, memory: &mut Memory) -> CallResult<()> {
        if !memory.holds_evictions {
            return Ok(());
        }
        let budget = pooler_budget(self.name, &Owner::of(cluster));
        let mut applier = self.applier(cluster, &mut memory.left, &memory.templates);
        if let Err(ApplyError::Call(error)) = applier.bring(&children::child(&budget)).await {
            return Err(error);
        }
        memory.holds_evictions = false;
        Ok(())
    }

    /// Has somebody tell people, if there is anybody to tell, from what a
    /// predecessor told on. Before anything else: what was told says how endpoints
    /// were left, and where the balancers' logs are to be continued.
    async fn find_teller(&self, cluster: &PgPoolCluster, memory: &mut Memory) {
        let untold = memory.untold.take();
        if cluster.spec.notifications.is_empty() {
            memory.teller = None;
            return;
        }
        if memory.teller.is_some() {
            return;
        }
        let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
        let (tellers, owner) = (&self.context.tellers, Owner::of(cluster));
        match tellers.begin(self.reference, uid, owner).await {
            Ok(teller) => memory.teller = Some(teller),
            Err(error) => {
                let error = format!("nobody is told: {error}");
                if untold.as_ref() != Some(&error) {
                    tracing::warn!(error);
                }
                memory.untold = Some(error);
            }
        }
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
            let name = found.name.as_str();
            *kind == ChildKind::Secret
                && Some(name) != present
                && !applier.templates.mount(name)
                && is_settings_name(self.name, name)
        });
        if former.is_empty() {
            return Ok(());
        }
        let api: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), self.namespace);
        let ours = ListParams::default().labels(&pod_selector(self.name, Component::Pooler));
        let sets = client::read("list ReplicaSets", api.list(&ours)).await?;
        for (kind, found) in former {
            if !sets.iter().any(|set| mounts(set, &found.name)) {
                applier.remove(kind, &found).await?;
            }
        }
        Ok(())
    }

    /// Whether every pooler that may hold servers has said that it took a
    /// configuration, and with it no more than its share of the limit. One that
    /// cannot be asked may hold more.
    fn all_took(&self, revision: &str, answers: &observe::Answers) -> bool {
        let poolers = self.pods.iter().filter(|pod| {
            pod.component == Component::Pooler && !matches!(pod.phase, Phase::Failed(_))
        });
        observe::all_took(poolers, &self.pods, answers, revision)
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
    pub(super) fn deployments(&self) -> (Option<Arc<Deployment>>, Option<Arc<Deployment>>) {
        let of = |component: Component| {
            let name = format!("{}-{}", self.name, component.word());
            self.context.stores.deployment(self.namespace, &name)
        };
        (of(Component::Pooler), of(Component::Balancer))
    }
}

/// Whether Pods of a ReplicaSet mount a Secret.
fn mounts(set: &ReplicaSet, secret: &str) -> bool {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    template.is_some_and(|template| template::secrets(template).any(|name| name == secret))
}
