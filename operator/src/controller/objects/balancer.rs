//! What sets the Pods of balancers apart.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, Volume};

use super::{
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

/// How long a balancer lets sessions go on, `DRAIN_TIME_MAX` in
/// proxy/src/balancer.rs, and 10 s to end.
const END_TIME_MAX: Duration = Duration::from_secs(60 + 10);

pub(super) fn workload<'a>(family: &Family<'_>, tier: &'a Tier, image: &'a str) -> Workload<'a> {
    let (balancer, check) = (&tier.balancer, &tier.balancer.check);
    Workload {
        component: Component::Balancer,
        replicas: balancer.replicas,
        image,
        file: BALANCER_YAML,
        config: Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: family.config_name(Component::Balancer),
                default_mode: Some(CONFIG_MODE),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        ports: PORTS,
        resources: &balancer.resources,
        // Nothing that a manifest says of balancers needs a restart.
        annotations: BTreeMap::new(),
        judged: check.interval * check.rise,
        leave: LEAVE_TIME,
        end: LEAVE_TIME + END_TIME_MAX,
    }
}
