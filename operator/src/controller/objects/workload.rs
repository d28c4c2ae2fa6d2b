//! Deployments: what the Pods of both components have in common.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, Container, ContainerPort, HTTPGetAction, Lifecycle, LifecycleHandler,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, SecurityContext, SleepAction, TopologySpreadConstraint, Volume,
            VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};

use super::metadata::Family;
use crate::api::{Component, ParameterValue, Resources};

/// The folder of a Pod's configuration.
pub(super) const CONFIG_FOLDER: &str = "/etc/poolkeeper";
/// Its files can be read by the Pod's group and by nobody else.
pub(super) const CONFIG_MODE: i32 = 0o440;

/// Name of the port for PostgreSQL's protocol.
pub(super) const PORT_POSTGRES: &str = "postgres";
/// Name of the port for `/livez`, `/readyz` and the like.
pub(super) const PORT_HTTP: &str = "http";

/// Name of the volume with the configuration.
const CONFIG: &str = "config";
/// The user and group that processes run as: nobody in particular, and not root
/// whatever the image says.
const USER: i64 = 65_532;
/// How long a rollout may take one step, beyond what the Pods need to begin and
/// to end, until it counts as stuck.
const STEP_TIME_MAX: Duration = Duration::from_secs(600);

/// Ports of a container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) postgres: u16,
    pub(super) http: u16,
}

/// What sets the Pods of a component apart.
#[derive(Debug)]
pub(super) struct Workload<'a> {
    pub(super) component: Component,
    pub(super) replicas: u32,
    pub(super) image: &'a str,
    /// The file that the program is started with, in [`CONFIG_FOLDER`].
    pub(super) file: &'static str,
    /// Where the files are from; its name is not looked at.
    pub(super) config: Volume,
    pub(super) ports: Ports,
    pub(super) resources: &'a Resources,
    /// Of the Pods: a change of these rolls.
    pub(super) annotations: BTreeMap<String, String>,
    /// From ready to judged up by a check: until then it helps nobody, and the
    /// next one must not be taken away.
    pub(super) judged: Duration,
    /// How long it goes on as if nothing were before it is told to end.
    pub(super) leave: Duration,
    /// The longest that it takes to end, `leave` included.
    pub(super) end: Duration,
}

pub(super) fn deployment(family: &Family<'_>, workload: Workload<'_>) -> Deployment {
    let component = workload.component;
    let steady = seconds(workload.judged);
    let step = STEP_TIME_MAX + workload.judged + workload.end;
    let one = |count| Some(IntOrString::Int(count));
    Deployment {
        metadata: family.metadata(family.component_name(component), component),
        spec: Some(DeploymentSpec {
            replicas: Some(number(workload.replicas)),
            selector: family.selector(component),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: one(1),
                    max_unavailable: one(0),
                }),
            }),
            min_ready_seconds: Some(steady),
            progress_deadline_seconds: Some(seconds(step)),
            template: template(family, workload),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn template(family: &Family<'_>, workload: Workload<'_>) -> PodTemplateSpec {
    let component = workload.component;
    let container = container(&workload);
    let annotations = workload.annotations;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(family.labels(component)),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(family.name.to_owned()),
            automount_service_account_token: Some(false),
            // Addresses of other Services are of no use to a proxy.
            enable_service_links: Some(false),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(seconds(workload.end).into()),
            topology_spread_constraints: Some(
                ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
                    .map(|topology| spread(family, component, topology))
                    .into(),
            ),
            containers: vec![container],
            volumes: Some(vec![Volume {
                name: CONFIG.to_owned(),
                ..workload.config
            }]),
            ..PodSpec::default()
        }),
    }
}

/// A wish, not a rule: two Pods on one node are better than one Pod.
fn spread(family: &Family<'_>, component: Component, topology: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        topology_key: topology.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(family.selector(component)),
        // Pods that a rollout is about to end do not count.
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..TopologySpreadConstraint::default()
    }
}

fn container(workload: &Workload<'_>) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: workload.component.word().to_owned(),
        image: Some(workload.image.to_owned()),
        args: Some(vec![format!("{CONFIG_FOLDER}/{}", workload.file)]),
        ports: Some(vec![
            port(PORT_POSTGRES, workload.ports.postgres),
            port(PORT_HTTP, workload.ports.http),
        ]),
        resources: Some(resources(workload.resources)),
        // The folder, never one file of it: kubelet changes folders under Pods
        // that run, single files it leaves as they were.
        volume_mounts: Some(vec![VolumeMount {
            name: CONFIG.to_owned(),
            mount_path: CONFIG_FOLDER.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        startup_probe: Some(probe("/livez", 1, 60)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        // Only an event loop that hangs fails it, never PostgreSQL: a new
        // process would find the same PostgreSQL.
        liveness_probe: Some(probe("/livez", 10, 3)),
        lifecycle: leave(workload.leave),
        // What a process says last is seen in its Pod's status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(PORT_HTTP.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// The kubelet waits before it sends SIGTERM; images have no program that could.
fn leave(time: Duration) -> Option<Lifecycle> {
    (!time.is_zero()).then(|| Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction {
                seconds: seconds(time).into(),
            }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    })
}

fn resources(resources: &Resources) -> ResourceRequirements {
    let quantities = |values: &BTreeMap<String, ParameterValue>| {
        let quantities = values
            .iter()
            .map(|(name, value)| (name.clone(), Quantity(value.to_string())));
        (!values.is_empty()).then(|| quantities.collect())
    };
    ResourceRequirements {
        requests: quantities(&resources.requests),
        limits: quantities(&resources.limits),
        claims: None,
    }
}

/// Whole seconds, never too few.
fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}

fn number(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
