//! What sets the Pods of balancers apart.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, Volume};

use super::{
    Images,
    metadata::Family,
    workload::{CONFIG_MODE, Ports, Workload},
};
use crate::{api::Component, controller::build::Tier};

/// The YAML: key in the ConfigMap, file in the Pod.
pub(super) const BALANCER_YAML: &str = "balancer.yaml";

/// Where a balancer listens in its Pod. The port that applications connect to is
/// the Service's.
pub(super) const PORTS: Ports = Ports {
    postgres: 5432,
    http: 8404,
};

/// A balancer closes its port as soon as it is told to end, while nodes go on
/// sending it connections until they have heard of it.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// From the end of the drain to the end of the process.
const END_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) fn workload<'a>(
    family: &Family<'_>,
    tier: &'a Tier,
    images: &'a Images,
) -> Workload<'a> {
    let (balancer, check) = (&tier.balancer, &tier.balancer.check);
    Workload {
        component: Component::Balancer,
        replicas: balancer.replicas,
        image: tier.images.balancer.as_deref().unwrap_or(&images.balancer),
        file: BALANCER_YAML,
        config: Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: family.config_name(Component::Balancer),
                default_mode: Some(CONFIG_MODE),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        // Nothing that a manifest says of balancers needs a restart.
        more: Vec::new(),
        ports: PORTS,
        resources: balancer.resources.as_ref(),
        steady: check.interval * check.rise,
        leave: LEAVE_TIME,
        end: LEAVE_TIME + balancer.drain_timeout + END_TIME_MAX,
        pod_template: balancer.pod_template.as_ref(),
    }
}
