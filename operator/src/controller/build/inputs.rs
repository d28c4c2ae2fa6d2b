//! What users say of the Pods of a component.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Balancer, OF_OURS, Pooler, Tier};
use crate::api::{Component, Images, PodTemplate, PullPolicy, Resources, SecretRef};

/// Bytes of the hash that are kept: they tell apart what one cluster wished
/// once from what it wishes now.
const HASH_LENGTH: usize = 8;

/// A name of everything in a spec that the Pods of a component are made from,
/// whatever is made from it: a newer version that renders other Pods from the
/// same wishes has the same name for them. None of it is secret.
#[must_use]
pub fn template_inputs(tier: &Tier, component: Component) -> String {
    let digest = Sha256::digest(json(tier, component));
    digest[..HASH_LENGTH]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Other versions compare hashes of this: a field, once here, stays as it is, and
/// one that is added is left out where it has its default.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inputs<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull_policy: Option<PullPolicy>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pull_secrets: &'a [SecretRef],
    #[serde(skip_serializing_if = "Option::is_none")]
    restart: Option<&'a str>,
    resources: Resources,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_template: Option<&'a PodTemplate>,
    drain_timeout_ms: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_interval_ms: Option<u128>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    settings: BTreeMap<&'a str, &'a str>,
}

fn json(tier: &Tier, component: Component) -> String {
    // By name, so that the compiler asks about a new field. Left out is what no
    // Pod template holds: a reload applies it, or it concerns other objects.
    let Tier {
        name: _,
        pooler,
        balancer,
        service_port: _,
        service: _,
        network_policy: _,
        images,
        restart,
        bindings: _,
    } = tier;
    let Images {
        pooler: pooler_image,
        balancer: balancer_image,
        pull_policy,
        pull_secrets,
    } = images;
    let Pooler {
        replicas: _,
        databases: _,
        users: _,
        settings: _, // Those that need a restart: below.
        restart_only: _,
        is_budgeted: _,
        files: _,
        drain_timeout: pooler_drain_timeout,
        resources: pooler_resources,
        pod_template: pooler_template,
    } = pooler;
    let Balancer {
        replicas: _,
        algorithm: _,
        max_connections: _,
        check,
        drain_timeout: balancer_drain_timeout,
        resources: balancer_resources,
        pod_template: balancer_template,
    } = balancer;
    let of_both =
        |image, drain_timeout: &Duration, resources: &Option<Resources>, template| Inputs {
            image,
            pull_policy: *pull_policy,
            pull_secrets,
            restart: restart.as_deref(),
            // What is not said is not wished: what we render then is ours to change.
            resources: resources.clone().unwrap_or_default(),
            pod_template: template,
            drain_timeout_ms: drain_timeout.as_millis(),
            check_interval_ms: None,
            settings: BTreeMap::new(),
        };
    let inputs = match component {
        Component::Pooler => Inputs {
            // It ends later than every balancer has heard of it.
            check_interval_ms: Some(check.interval.as_millis()),
            settings: settings(tier),
            ..of_both(
                pooler_image.as_deref(),
                pooler_drain_timeout,
                pooler_resources,
                pooler_template.as_ref(),
            )
        },
        Component::Balancer => of_both(
            balancer_image.as_deref(),
            balancer_drain_timeout,
            balancer_resources,
            balancer_template.as_ref(),
        ),
    };
    serde_json::to_string(&inputs).expect("plain data serialises")
}

/// Values that only a restart applies, but for those that users did not set.
fn settings(tier: &Tier) -> BTreeMap<&str, &str> {
    let of_users = |key: &str| {
        let settings = tier.pooler.settings.iter();
        settings
            .filter(|setting| setting.origin != OF_OURS)
            .any(|setting| setting.key == key)
    };
    let values = tier.pooler.restart_only.iter();
    values
        .filter(|(key, _)| of_users(key))
        .map(|(key, value)| (*key, value.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::tier_of, *};

    /// As every version has to say it from the first release on: to edit this rolls
    /// the Pods of everybody who upgrades.
    #[test]
    fn every_version_says_the_same_of_the_quickstart() {
        let tier = tier_of("{}");
        assert_eq!(
            json(&tier, Component::Pooler),
            r#"{"resources":{},"drainTimeoutMs":60000,"checkIntervalMs":2000}"#
        );
        assert_eq!(
            json(&tier, Component::Balancer),
            r#"{"resources":{},"drainTimeoutMs":60000}"#
        );
    }

    #[test]
    fn what_a_reload_applies_is_no_input() {
        let plain = tier_of("{}");
        for spec in [
            r#"{"pool": {"defaultPoolSize": 7}}"#,
            r#"{"poolers": {"replicas": 7}}"#,
            r#"{"service": {"port": 6000}}"#,
            r#"{"pool": {"parameters": {"unix_socket_mode": "0777"}}}"#,
        ] {
            let other = tier_of(spec);
            for component in Component::ALL {
                assert_eq!(
                    template_inputs(&plain, component),
                    template_inputs(&other, component),
                    "{spec}"
                );
            }
        }
    }

    #[test]
    fn what_is_wished_of_pods_is_an_input() {
        let plain = tier_of("{}");
        for (spec, changed) in [
            (r#"{"images": {"pooler": "own:1"}}"#, [true, false]),
            (r#"{"images": {"pullPolicy": "Always"}}"#, [true, true]),
            (
                r#"{"images": {"pullSecrets": [{"name": "a"}]}}"#,
                [true, true],
            ),
            (
                r#"{"poolers": {"resources": {"limits": {"cpu": "1"}}}}"#,
                [true, false],
            ),
            (
                r#"{"balancer": {"podTemplate": {"spec": {"priorityClassName": "a"}}}}"#,
                [false, true],
            ),
            (r#"{"poolers": {"drainTimeout": "61s"}}"#, [true, false]),
            (r#"{"balancer": {"drainTimeout": "61s"}}"#, [false, true]),
            (
                r#"{"balancer": {"check": {"interval": "3s"}}}"#,
                [true, false],
            ),
            (r#"{"pool": {"parameters": {"threads": 2}}}"#, [true, false]),
        ] {
            let other = tier_of(spec);
            let differs = Component::ALL
                .map(|one| template_inputs(&plain, one) != template_inputs(&other, one));
            assert_eq!(differs, changed, "{spec}");
        }
    }
}
