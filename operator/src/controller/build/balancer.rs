//! A balancer's YAML.

use proxy_core::config::balancer::{BalancerConfig, Frontend, Http};

use super::{BalancerPlace, Tier};

/// The file of one balancer.
#[must_use]
pub fn balancer_yaml(tier: &Tier, place: &BalancerPlace<'_>) -> String {
    let config = BalancerConfig {
        frontends: vec![Frontend {
            name: "postgres".to_owned(),
            bind: place.service,
            reuse_port: place.shared_service,
        }],
        targets: place.targets.clone(),
        discovery: place.discovery.clone(),
        algorithm: tier.balancer.algorithm,
        check: tier.balancer.check.clone(),
        max_connections: tier.balancer.max_connections,
        http: Some(Http {
            bind: place.dashboard,
        }),
        threads: 1,
        reload_on_change: place.reload_on_change,
        proxy_protocol: place.shared_key_file.is_some(),
        shared_key_file: place.shared_key_file.map(|path| path.display().to_string()),
        shared_key: None,
        drain_timeout: tier.balancer.drain_timeout,
        revision: place.revision.map(str::to_owned),
    };
    let yaml = serde_saphyr::to_string(&config).expect("plain data serialises");
    format!(
        "# Written by the operator from PgPoolCluster {}. What is changed here is lost.\n{yaml}",
        tier.name
    )
}
