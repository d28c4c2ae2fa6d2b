//! The end of a look: what is so is observed, told, written into the status, and
//! Pods that lag behind are nudged.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    Cluster,
    apply::{FIELD_MANAGER, Left},
    children::ChildKind,
    client::{self, CALL_TIME_MAX},
    error::{CallError, CallResult, Kind},
    memory::Memory,
    merge_patch::replacing,
    nudge::Nudged,
    observe,
    pods::PodView,
    reconcile::{Context, Look, RESYNC},
    rollout::{self, Running},
    telling::{Observation, Teller},
};
use crate::{
    api::{Check, Component, EndpointStatus, NotificationStatus, PgPoolClusterStatus, PoolState},
    controller::{
        objects::pod_selector,
        status::{self, Observed, Pause, Progress, Rollout, Rollouts},
    },
    endpoints::{Endpoints, Policy, Wished},
    notify,
};

/// Until when what we wrote has come back by the watch, also if that was cut
/// meanwhile without our noticing.
const COMES_BACK: Duration = Duration::from_secs(90);

/// The annotation that asks for a test message to each channel; any other value
/// than the last asks again.
const NOTIFY_TEST: &str = "poolkeeper.dev/notify-test";

impl Look<'_> {
    /// Says that objects of some kinds cannot be listed, and leaves the rest of
    /// the status as it is.
    pub(super) async fn look_in_the_dark(
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
            binding: None,
            rollouts: None,
            pause: Pause::default(),
            update: None,
            meaning: memory.meaning.as_ref(),
            endpoints: &before.endpoints,
            notifications: &before.notifications,
            untold: None,
        };
        let status = PgPoolClusterStatus {
            conditions: status::status(&observed, &before, Timestamp::now()).conditions,
            ..before
        };
        self.write_status(cluster, status, memory).await?;
        Err(error)
    }

    /// Observes, writes what was observed if it is news, and has Pods look that
    /// lag behind.
    pub(super) async fn observe(
        &self,
        cluster: &Cluster,
        progress: &Progress,
        memory: &mut Memory,
    ) -> CallResult<()> {
        let before = memory.status_before(cluster);
        let now = Timestamp::now();
        let pods = &self.own_pods();
        let wanted = memory.revision.clone();
        let spec = cluster.0.as_ref().ok().map(|cluster| &cluster.spec);
        let interval = spec.map_or(RESYNC, |spec| spec.monitoring.interval.0);
        let monitor = &self.context.monitor;
        monitor.follow(self.reference, pods, wanted.as_deref(), interval);
        let answers = monitor.take(self.reference);
        let (poolers, balancers) = self.deployments();
        let rollouts = Rollouts {
            poolers: Rollout {
                held: memory.held,
                ..self.rollout(Component::Pooler, poolers.as_deref(), &memory.left)
            },
            balancers: self.rollout(Component::Balancer, balancers.as_deref(), &memory.left),
        };
        let wished = |rollout: &Rollout| u32::try_from(rollout.wished).unwrap_or(0);
        let wished = Wished {
            poolers: wished(&rollouts.poolers),
            balancers: wished(&rollouts.balancers),
        };
        let policy = policy(spec.map(|spec| &spec.balancer.check));
        let teller = memory.teller.as_ref();
        let judged = memory.endpoints.get_or_insert_with(|| {
            let (outages, cursors) = teller.map(Teller::known).unwrap_or_default();
            Endpoints::resumed(&before.endpoints, &outages, &cursors, now)
        });
        let changes = observe::observe(judged, pods, &answers, wished, policy, now);
        let endpoints = judged.statuses();
        memory.due = judged.due(policy, now);
        let seen = Observation {
            alerts: notify::alerts(judged),
            happenings: notify::happenings(&changes),
            cursors: judged.cursors(),
        };
        let running = Running {
            poolers: poolers.as_deref(),
            balancers: balancers.as_deref(),
        };
        let update = cluster.0.as_ref().ok().and_then(|cluster| {
            let ours = &self.context.settings.images;
            rollout::update(cluster, running, ours, &memory.templates)
        });
        let telling = Telling::of(cluster, memory, &before);
        let observed = Observed {
            generation: cluster.meta().generation,
            progress,
            revision: wanted.as_deref(),
            binding: memory.binding.as_deref(),
            rollouts: Some(&rollouts),
            pause: Pause {
                wished: spec.is_some_and(|spec| spec.pool.state == PoolState::Paused),
                observed: observe::paused(pods, &answers),
            },
            update: update.as_deref(),
            meaning: memory.meaning.as_ref(),
            endpoints: &endpoints,
            notifications: &telling.notifications,
            untold: telling.untold.as_deref(),
        };
        let status = status::status(&observed, &before, now);
        if *progress == Progress::Deleting {
            memory.teller = None;
        }
        if let Some(teller) = &memory.teller {
            self.tell(cluster, progress, teller, seen, &status, now);
        }
        let written = self.write_status(cluster, status, memory).await;
        self.record_outages(cluster, &changes).await;
        written?;
        // After the status: a Pod that cannot be told must not keep it back.
        match wanted.filter(|_| *progress == Progress::Applied) {
            Some(wanted) => {
                self.nudge(pods, &endpoints, &wanted, &mut memory.nudged)
                    .await
            }
            None => Ok(()),
        }
    }

    /// Has people told of what was seen, unless the cluster is left alone.
    fn tell(
        &self,
        cluster: &Cluster,
        progress: &Progress,
        teller: &Teller,
        seen: Observation,
        status: &PgPoolClusterStatus,
        now: Timestamp,
    ) {
        if *progress == Progress::Suspended {
            teller.hush();
            return;
        }
        teller.observe(seen, status, now);
        if let Some(value) = cluster.annotations().get(NOTIFY_TEST) {
            let Context {
                tellers, recorder, ..
            } = self.context;
            tellers.test(teller, value, cluster, recorder);
        }
    }

    /// Writes a status if it is news.
    async fn write_status(
        &self,
        cluster: &Cluster,
        status: PgPoolClusterStatus,
        memory: &mut Memory,
    ) -> CallResult<()> {
        self.record_stall(&status, cluster, memory).await;
        self.context.metrics.record_level(self.reference, &status);
        let object = cluster.0.as_ref().ok();
        let brought = object.and_then(|cluster| cluster.status.as_ref());
        let age = memory.written.map(|at| at.elapsed());
        let known = believed(memory.status.as_ref(), age, brought);
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
            Ok(_) => {
                memory.status = Some(status);
                memory.written = Some(Instant::now());
            }
            // It was deleted meanwhile.
            Err(error) if error.kind() == Kind::Gone => {}
            Err(error) => {
                // What is there now is not known.
                memory.status = None;
                return Err(error);
            }
        }
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
        nudged
            .nudge(client, fence, self.namespace, pods, wanted)
            .await
    }

    /// A component's Deployment, as far as is known.
    pub(super) fn rollout(
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
}

/// How those do who are told.
struct Telling {
    notifications: Vec<NotificationStatus>,
    /// Why nobody can be told, if that is so.
    untold: Option<String>,
}

impl Telling {
    fn of(cluster: &Cluster, memory: &Memory, before: &PgPoolClusterStatus) -> Self {
        let teller = memory.teller.as_ref();
        let notifications = teller.map(Teller::statuses).unwrap_or_default();
        let spec = cluster.0.as_ref().ok().map(|cluster| &cluster.spec);
        let nobody = spec.is_some_and(|spec| spec.notifications.is_empty());
        if nobody || !notifications.is_empty() {
            return Self {
                notifications,
                untold: memory.untold.clone(),
            };
        }
        // It is left alone, or what it says cannot be carried out.
        let unknown = before.notifications.is_empty();
        let why = "nobody is told before the spec is carried out";
        let untold = memory.untold.clone();
        Self {
            notifications: before.notifications.clone(),
            untold: untold.or_else(|| unknown.then(|| why.to_owned())),
        }
    }
}

/// What the status is taken for. What was written a moment ago may not have come
/// back by the watch yet; what that brings otherwise later was written by somebody
/// else.
fn believed<T>(written: Option<T>, age: Option<Duration>, brought: Option<T>) -> Option<T> {
    match age {
        Some(age) if age < COMES_BACK => written.or(brought),
        _ => brought.or(written),
    }
}

/// How endpoints are judged; of a spec that cannot be read, as by default.
fn policy(check: Option<&Check>) -> Policy {
    let default = Check::default();
    let check = check.unwrap_or(&default);
    // One that is not valid may ask for anything.
    let count = |count| u32::try_from(count).unwrap_or(1).clamp(1, 100);
    Policy {
        interval: check.interval.0.min(Duration::from_secs(3_600)),
        rise: count(check.rise),
        fall: count(check.fall),
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
        held: None,
        stuck,
        selector: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_somebody_else_wrote_is_noticed_once_ours_must_have_come_back() {
        let (soon, late) = (Some(Duration::from_secs(1)), Some(COMES_BACK));
        assert_eq!(believed(Some("ours"), soon, Some("theirs")), Some("ours"));
        assert_eq!(believed(Some("ours"), late, Some("theirs")), Some("theirs"));
        assert_eq!(believed(Some("ours"), late, None), Some("ours"));
        assert_eq!(believed(None, soon, Some("theirs")), Some("theirs"));
        assert_eq!(believed(None, None, Some("theirs")), Some("theirs"));
    }
}
