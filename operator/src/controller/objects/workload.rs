//! Deployments: what the Pods of both components have in common.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, Lifecycle,
            LifecycleHandler, LocalObjectReference, ObjectFieldSelector, PodSecurityContext,
            PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
            SecretVolumeSource, SecurityContext, SleepAction, TopologySpreadConstraint, Volume,
            VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};

use super::{internal_name, merge, metadata::Family};
use crate::{
    api::{Component, ParameterValue, PodTemplate, Resources},
    controller::build::{RESTART, Tier},
};

/// The folder below which everything is mounted that the operator provides.
pub(in crate::controller) const FOLDER: &str = "/etc/poolkeeper";
/// The folder of a Pod's configuration.
pub(super) const CONFIG_FOLDER: &str = "/etc/poolkeeper/config";
/// The folder of settings that only a restart applies.
pub(super) const SETTINGS_FOLDER: &str = "/etc/poolkeeper/settings";
/// The folder of the key by which poolers, balancers and the operator know each
/// other.
const INTERNAL_FOLDER: &str = "/etc/poolkeeper/internal";
/// The key itself.
pub(super) const INTERNAL_KEY_FILE: &str = "/etc/poolkeeper/internal/key";
/// Its files can be read by the Pod's group and by nobody else.
pub(super) const CONFIG_MODE: i32 = 0o440;

/// Name of the port for PostgreSQL's protocol.
pub(super) const PORT_POSTGRES: &str = "postgres";
/// Name of the port for `/livez`, `/readyz` and the like.
pub(super) const PORT_HTTP: &str = "http";

/// Name of the volume with the configuration.
const CONFIG: &str = "config";
/// Name of the volume with the key.
const INTERNAL: &str = "internal";
/// Names of the operator's volumes.
pub(in crate::controller) const VOLUMES: [&str; 3] = [CONFIG, "settings", INTERNAL];

/// The address of a pooler, for its peers.
const ADVERTISED: &str = "POOLER_ADVERTISE_ADDR";
/// The operator's environment variables.
pub(in crate::controller) const VARIABLES: [&str; 3] = ["POD_NAME", "POD_IP", ADVERTISED];

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
    pub(super) resources: Option<&'a Resources>,
    /// What else is mounted.
    pub(super) more: Vec<Mount>,
    /// From ready to counted as available: at least until it is judged up by a
    /// check. Until then it helps nobody, and the next one must not be taken away.
    pub(super) steady: Duration,
    /// How long it goes on as if nothing were before it is told to end.
    pub(super) leave: Duration,
    /// The longest that it takes to end, `leave` included.
    pub(super) end: Duration,
    /// What users add.
    pub(super) pod_template: Option<&'a PodTemplate>,
}

/// A volume and where it is mounted.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) folder: &'static str,
    pub(super) volume: Volume,
}

/// The volume of a Secret; its name is another's to give.
pub(super) fn secret(name: String) -> Volume {
    Volume {
        secret: Some(SecretVolumeSource {
            secret_name: Some(name),
            default_mode: Some(CONFIG_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn deployment(family: &Family<'_>, tier: &Tier, workload: Workload<'_>) -> Deployment {
    let component = workload.component;
    let steady = seconds(workload.steady);
    let step = STEP_TIME_MAX + workload.steady + workload.end;
    let replicas = number(workload.replicas);
    let one = |count| Some(IntOrString::Int(count));
    Deployment {
        metadata: family.metadata(family.component_name(component), component),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
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
            template: whole_template(family, tier, workload),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// With the volumes that all Pods have, and what users add.
fn whole_template(family: &Family<'_>, tier: &Tier, mut workload: Workload<'_>) -> PodTemplateSpec {
    let config = mount(CONFIG, CONFIG_FOLDER, std::mem::take(&mut workload.config));
    let internal = secret(internal_name(family.name));
    workload.more.insert(0, config);
    workload
        .more
        .push(mount(INTERNAL, INTERNAL_FOLDER, internal));
    let own = workload.pod_template;
    let template = template(family, tier, workload);
    match own {
        Some(own) => merge(template, own).expect("a podTemplate that was validated can be merged"),
        None => template,
    }
}

fn mount(name: &str, folder: &'static str, volume: Volume) -> Mount {
    Mount {
        folder,
        volume: Volume {
            name: name.to_owned(),
            ..volume
        },
    }
}

fn template(family: &Family<'_>, tier: &Tier, workload: Workload<'_>) -> PodTemplateSpec {
    let component = workload.component;
    let container = container(tier, &workload);
    let restart = tier.restart.clone();
    let secrets = &tier.images.pull_secrets;
    let secrets = secrets.iter().map(|secret| LocalObjectReference {
        name: secret.name.clone(),
    });
    let volumes = workload.more.into_iter().map(|mount| mount.volume);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(family.labels(component)),
            annotations: restart.map(|value| BTreeMap::from([(RESTART.to_owned(), value)])),
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
            image_pull_secrets: (secrets.len() > 0).then(|| secrets.collect()),
            volumes: Some(volumes.collect()),
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

fn container(tier: &Tier, workload: &Workload<'_>) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: workload.component.word().to_owned(),
        image: Some(workload.image.to_owned()),
        image_pull_policy: tier
            .images
            .pull_policy
            .map(|policy| policy.word().to_owned()),
        env: Some(environment(workload.component)),
        args: Some(vec![format!("{CONFIG_FOLDER}/{}", workload.file)]),
        ports: Some(vec![
            port(PORT_POSTGRES, workload.ports.postgres),
            port(PORT_HTTP, workload.ports.http),
        ]),
        resources: Some(resources(&resources_of(workload))),
        // The folder, never one file of it: kubelet changes folders under Pods
        // that run, single files it leaves as they were.
        volume_mounts: Some(workload.more.iter().map(mounted).collect()),
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

fn mounted(mount: &Mount) -> VolumeMount {
    VolumeMount {
        name: mount.volume.name.clone(),
        mount_path: mount.folder.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// What a Pod alone knows of itself.
fn environment(component: Component) -> Vec<EnvVar> {
    let [name, address, advertised] = VARIABLES;
    let mut variables = vec![(name, "metadata.name"), (address, "status.podIP")];
    if component == Component::Pooler {
        variables.push((advertised, "status.podIP"));
    }
    let variables = variables.into_iter();
    let of_pod = |(name, path): (&str, &str)| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    variables.map(of_pod).collect()
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

/// Those that the spec names. What a podTemplate names instead is not mixed with
/// ours: requests above a limit would be refused.
fn resources_of(workload: &Workload<'_>) -> Resources {
    if let Some(resources) = workload.resources {
        return resources.clone();
    }
    let spec = workload.pod_template.and_then(|own| own.0.get("spec"));
    let containers = spec.and_then(|spec| spec["containers"].as_array());
    let containers = containers.into_iter().flatten();
    let word = workload.component.word();
    let mut of_own = containers.filter(|one| one["name"] == word);
    match workload.component {
        _ if of_own.any(|one| !one["resources"].is_null()) => Resources::default(),
        Component::Pooler => Resources::of(["100m", "128Mi"], ["1", "512Mi"]),
        // Twice what 12,000 sessions take whose clients read slowly.
        Component::Balancer => Resources::of(["100m", "64Mi"], ["1", "512Mi"]),
    }
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
