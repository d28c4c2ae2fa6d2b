//! A balancer's YAML.

use proxy_core::config::balancer::{BalancerConfig, Frontend, Http, Target};

use super::{BalancerPlace, Tier, pooler_name};

/// The file of one balancer.
#[must_use]
pub fn balancer_yaml(tier: &Tier, place: &BalancerPlace<'_>) -> String {
    let realisation = place.realisation;
    let config = BalancerConfig {
        frontends: vec![Frontend {
            name: "postgres".to_owned(),
            bind: realisation.service,
            reuse_port: realisation.shared_service,
        }],
        targets: realisation
            .poolers
            .iter()
            .enumerate()
            .map(|(index, pooler)| Target {
                name: pooler_name(index),
                address: pooler.data,
            })
            .collect(),
        algorithm: tier.balancer.algorithm,
        check: tier.balancer.check.clone(),
        max_connections: tier.balancer.max_connections,
        http: Some(Http {
            bind: realisation.dashboards[place.index],
        }),
        threads: 1,
        revision: Some(realisation.revision.clone()),
    };
    let yaml = serde_saphyr::to_string(&config).expect("plain data serialises");
    format!(
        "# Written by the operator from PgPoolCluster {}. What is changed here is lost.\n{yaml}",
        tier.name
    )
}
