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
        discovery: None,
        algorithm: tier.balancer.algorithm,
        check: tier.balancer.check.clone(),
        max_connections: tier.balancer.max_connections,
        http: Some(Http {
            bind: place.dashboard,
        }),
        threads: 1,
        reload_on_change: false,
        proxy_protocol: false,
        shared_key_file: None,
        shared_key: None,
        drain_timeout: std::time::Duration::from_secs(60),
        revision: place.revision.map(str::to_owned),
    };
    let yaml = serde_saphyr::to_string(&config).expect("plain data serialises");
    format!(
        "# Written by the operator from PgPoolCluster {}. What is changed here is lost.\n{yaml}",
        tier.name
    )
}
