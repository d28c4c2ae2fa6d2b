//! What Pods read: Secrets for poolers, a ConfigMap for balancers, each mounted
//! as a folder, so that a change reaches the Pods that run.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};

use proxy_core::config::{Bind, balancer::Discovery};
use sha2::{Digest as _, Sha256};

use super::{
    Placement,
    balancer::{self, BALANCER_YAML},
    metadata::Family,
    pooler::{self, HASH_LENGTH, POOLER_INI, SETTINGS_INI},
    workload::{CONFIG_FOLDER, INTERNAL_KEY_FILE, SETTINGS_FOLDER},
};
use crate::{
    api::Component,
    controller::build::{
        BalancerPlace, Part, Peers, PoolerPlace, Tier, balancer_yaml, pooler_part,
    },
};

/// What all poolers of a tier are told of their place. `service` is the name that
/// stands for them: a file that all of them read cannot number them.
fn pooler_place<'a>(service: &'a str, revision: Option<&'a str>) -> PoolerPlace<'a> {
    PoolerPlace {
        data: Bind::everywhere(pooler::PORTS.postgres),
        http: Bind::everywhere(pooler::PORTS.http),
        peers: Peers::Found {
            dns: service,
            port: pooler::PORTS.postgres,
        },
        files: Path::new(CONFIG_FOLDER),
        reload_on_change: true,
        shared_key_file: Some(Path::new(INTERNAL_KEY_FILE)),
        revision,
    }
}

/// The settings that only a restart applies. None of them is secret, so that the
/// name may be a plain hash of them.
pub(super) fn pooler_settings(family: &Family<'_>, tier: &Tier) -> Secret {
    let service = pooler_service(family);
    let ini = pooler_part(tier, &pooler_place(&service, None), Part::RestartOnly).text;
    let digest = Sha256::digest(ini.as_bytes());
    let hash: String = digest[..HASH_LENGTH / 2]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name = format!("{}-{hash}", family.component_name(Component::Pooler));
    Secret {
        metadata: family.metadata(name, Component::Pooler),
        immutable: Some(true),
        data: Some(BTreeMap::from([(
            SETTINGS_INI.to_owned(),
            ByteString(ini.into_bytes()),
        )])),
        ..Secret::default()
    }
}

/// The pooler's ini and the files beside it, one for all Pods.
pub(super) fn pooler(family: &Family<'_>, tier: &Tier, revision: Option<&str>) -> Secret {
    let include = format!("{SETTINGS_FOLDER}/{SETTINGS_INI}");
    let service = pooler_service(family);
    let place = pooler_place(&service, revision);
    let ini = pooler_part(tier, &place, Part::Reloadable(&include));
    let ini = ini.text.into_bytes();
    let beside = tier.pooler.files.iter();
    let data = beside
        .map(|file| (file.name, file.content.bytes().to_vec()))
        .chain([(POOLER_INI, ini)])
        .map(|(name, content)| (name.to_owned(), ByteString(content)));
    let name = family.config_name(Component::Pooler);
    Secret {
        metadata: family.metadata(name, Component::Pooler),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

/// The balancer's YAML. Nothing in it is secret.
pub(super) fn balancer(family: &Family<'_>, tier: &Tier, placement: &Placement<'_>) -> ConfigMap {
    let place = BalancerPlace {
        service: Bind::everywhere(balancer::PORTS.postgres),
        shared_service: false,
        reload_on_change: true,
        dashboard: Bind::everywhere(balancer::PORTS.http),
        targets: Vec::new(),
        discovery: Some(Discovery {
            dns: pooler_service(family),
            port: pooler::PORTS.postgres,
            resolver: None,
        }),
        shared_key_file: Some(Path::new(INTERNAL_KEY_FILE)),
        revision: placement.revision,
    };
    let yaml = balancer_yaml(tier, &place);
    let name = family.config_name(Component::Balancer);
    ConfigMap {
        metadata: family.metadata(name, Component::Balancer),
        data: Some(BTreeMap::from([(BALANCER_YAML.to_owned(), yaml)])),
        ..ConfigMap::default()
    }
}

/// The name of the poolers' Service: addresses of Pods come and go, and it lists
/// them.
fn pooler_service(family: &Family<'_>) -> String {
    family.host(&family.component_name(Component::Pooler))
}
