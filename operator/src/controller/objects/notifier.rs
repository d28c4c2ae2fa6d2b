//! What has been told of a tier, so that a successor of the operator goes on
//! where it stopped.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata::{Family, Owner};

/// Name of the ConfigMap.
#[must_use]
pub fn notifier_name(cluster: &str) -> String {
    format!("{cluster}-notifier")
}

/// The ConfigMap, with this in it. No secret is.
#[must_use]
pub fn notifier_config_map(
    cluster: &str,
    owner: &Owner,
    data: BTreeMap<String, String>,
) -> ConfigMap {
    let family = Family {
        name: cluster,
        owner,
    };
    ConfigMap {
        metadata: family.metadata_of(notifier_name(cluster), "tier"),
        data: Some(data),
        ..ConfigMap::default()
    }
}
