//! What sets the Pods of poolers apart.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{SecretVolumeSource, Volume};
use sha2::{Digest as _, Sha256};

use super::{
    metadata::Family,
    workload::{CONFIG_MODE, Ports, Workload},
};
use crate::{api::Component, controller::build::Tier};

/// The ini: key in the Secret, file in the Pod.
pub(super) const POOLER_INI: &str = "pooler.ini";

/// Where a pooler listens in its Pod.
pub(super) const PORTS: Ports = Ports {
    postgres: 6432,
    http: 9127,
};

/// A Pod with another value of it is another Pod.
const RESTART_ONLY: &str = "poolkeeper.dev/restart-only-settings";

/// From the end of the drain to the end of the process.
const END_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) fn workload<'a>(family: &Family<'_>, tier: &'a Tier, image: &'a str) -> Workload<'a> {
    let (pooler, check) = (&tier.pooler, &tier.balancer.check);
    // A pooler that ends goes on accepting until every balancer has heard of it.
    let heard = 2 * check.interval + Duration::from_secs(1);
    Workload {
        component: Component::Pooler,
        replicas: pooler.replicas,
        image,
        file: POOLER_INI,
        config: Volume {
            secret: Some(SecretVolumeSource {
                secret_name: Some(family.config_name(Component::Pooler)),
                default_mode: Some(CONFIG_MODE),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        ports: PORTS,
        resources: &pooler.resources,
        annotations: restart_only(&pooler.restart_only),
        judged: check.interval * check.rise,
        leave: Duration::ZERO,
        end: heard + pooler.drain_timeout + END_TIME_MAX,
    }
}

/// Rolls the Deployment when a setting changes that no reload applies. None of
/// these is secret, so that a plain hash tells nothing.
fn restart_only(settings: &BTreeMap<&str, String>) -> BTreeMap<String, String> {
    let mut hash = Sha256::new();
    for (key, value) in settings {
        hash.update(format!("{key} = {value}\n"));
    }
    let digest: String = hash.finalize()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    BTreeMap::from([(RESTART_ONLY.to_owned(), digest)])
}
