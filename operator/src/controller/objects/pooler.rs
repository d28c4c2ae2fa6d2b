//! What sets the Pods of poolers apart.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Secret, Volume};

use super::{
    Images,
    metadata::Family,
    workload::{Mount, Ports, SETTINGS_FOLDER, Workload, secret},
};
use crate::{api::Component, controller::build::Tier};

/// The ini: key in the Secret, file in the Pod.
pub(super) const POOLER_INI: &str = "pooler.ini";

/// The settings that only a restart applies: key in their Secret, file in the Pod.
pub(super) const SETTINGS_INI: &str = "settings.ini";

/// Where a pooler listens in its Pod.
pub(super) const PORTS: Ports = Ports {
    postgres: 6432,
    http: 9127,
};

/// From the end of the drain to the end of the process.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// Characters of the hash in the name of a Secret with settings.
pub(super) const HASH_LENGTH: usize = 10;

/// Whether a Secret of a cluster has the name of one with settings that only a
/// restart applies, of now or of before. It goes when no ReplicaSet uses it.
#[must_use]
pub fn is_settings_name(cluster: &str, name: &str) -> bool {
    let hash = name
        .strip_prefix(cluster)
        .and_then(|rest| rest.strip_prefix("-pooler-"));
    hash.is_some_and(|hash| {
        hash.len() == HASH_LENGTH && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

pub(super) fn workload<'a>(
    family: &Family<'_>,
    tier: &'a Tier,
    images: &'a Images,
    settings: &Secret,
) -> Workload<'a> {
    let (pooler, check) = (&tier.pooler, &tier.balancer.check);
    // A pooler that ends goes on accepting until every balancer has heard of it.
    let heard = 2 * check.interval + Duration::from_secs(1);
    let end = heard + pooler.drain_timeout + END_TIME_MAX;
    let judged = check.interval * check.rise;
    let settings_name = settings.metadata.name.clone().unwrap_or_default();
    Workload {
        component: Component::Pooler,
        replicas: pooler.replicas,
        image: tier.images.pooler.as_deref().unwrap_or(&images.pooler),
        file: POOLER_INI,
        config: secret(family.config_name(Component::Pooler)),
        more: vec![Mount {
            folder: SETTINGS_FOLDER,
            volume: Volume {
                name: "settings".to_owned(),
                ..secret(settings_name)
            },
        }],
        ports: PORTS,
        resources: pooler.resources.as_ref(),
        // One that ends keeps its share of the servers until it has ended: the
        // next must not begin to end before, or more are there than share.
        steady: match pooler.is_budgeted {
            true => judged.max(end),
            false => judged,
        },
        leave: Duration::ZERO,
        end,
        pod_template: pooler.pod_template.as_ref(),
    }
}
