//! From a validated cluster to one description of its tier, and from that to
//! the files that poolers and balancers read. Pure.
//!
//! The description does not know where things run: addresses, ports and paths
//! are a [`Realisation`]'s, so that Kubernetes objects and local processes are
//! made from the same [`Tier`].

mod balancer;
mod binding;
mod content;
mod inputs;
mod newer;
mod place;
mod pooler;

use std::{collections::BTreeMap, time::Duration};

use hmac::{Hmac, KeyInit as _, Mac as _};
use proxy_core::config::balancer::{Algorithm, Check};
use sha2::Sha256;

use super::{
    dereference::SecretValue,
    validate::{Setting, ValidatedCluster},
};
use content::{databases, files, settings, user};

use crate::api::{Images, PodTemplate, Resources, Service};

pub use balancer::balancer_yaml;
pub use binding::Binding;
pub use inputs::template_inputs;
pub use place::{
    BalancerPlace, Peers, PoolerAddresses, PoolerPlace, Realisation, balancer_name, pooler_name,
};
pub use pooler::{Ini, Part, pooler_ini, pooler_part};

/// The file of users, and the Secret's key that holds it.
pub const USERLIST: &str = "userlist.txt";
/// The certificate chain shown to clients, file and key.
pub const TLS_CERTIFICATE: &str = "tls.crt";
/// Its private key, file and key.
pub const TLS_KEY: &str = "tls.key";
/// Certificates of authorities, key of a Secret.
pub const TLS_AUTHORITY: &str = "ca.crt";
/// Who may sign clients' certificates, file.
pub const CLIENT_AUTHORITY: &str = "client-ca.crt";
/// Who may sign PostgreSQL's certificate, file.
pub const SERVER_AUTHORITY: &str = "server-ca.crt";
/// The certificate chain shown to PostgreSQL, file.
pub const SERVER_CERTIFICATE: &str = "server.crt";
/// Its private key, file.
pub const SERVER_KEY: &str = "server.key";
/// Key of a Secret of type kubernetes.io/basic-auth.
pub const USERNAME: &str = "username";
/// Key of a Secret of type kubernetes.io/basic-auth.
pub const PASSWORD: &str = "password";
/// Key of the Secret that CloudNativePG makes for applications.
pub const DBNAME: &str = "dbname";
/// Annotation of a cluster: another value rolls all Pods.
pub const RESTART: &str = "poolkeeper.dev/restart";

/// Where a setting would be written that users did not write: it is ours.
const OF_OURS: &str = "spec.pool.parameters";

/// Poolers that may be there beside those wished while they are replaced: a new
/// one starts before an old one is told to end (maxSurge 1), and the next starts
/// while that one is still ending.
pub const POOLERS_IN_CHANGE: u32 = 2;

/// The most poolers there are at once.
#[must_use]
pub const fn poolers_at_once(replicas: u32) -> u32 {
    replicas.saturating_add(POOLERS_IN_CHANGE)
}

/// A connection tier, wherever it runs.
#[derive(Clone, Debug)]
pub struct Tier {
    /// Name of the cluster.
    pub name: String,
    /// What every pooler is.
    pub pooler: Pooler,
    /// What every balancer is.
    pub balancer: Balancer,
    /// The port that applications connect to.
    pub service_port: u16,
    /// The rest of the Kubernetes Service with that port.
    pub service: Service,
    /// Whether only those who must may reach the Pods.
    pub network_policy: bool,
    /// What the Pods run, as far as the cluster says so.
    pub images: Images,
    /// Another value rolls all Pods.
    pub restart: Option<String>,
    /// What applications log in with.
    pub bindings: Vec<Binding>,
}

/// What every pooler is.
#[derive(Clone, Debug)]
pub struct Pooler {
    /// How many.
    pub replicas: u32,
    /// Section `[databases]`.
    pub databases: Vec<Entry>,
    /// Section `[users]`.
    pub users: Vec<Entry>,
    /// Section `[pgbouncer]`, without what a realisation adds.
    pub settings: Vec<Setting>,
    /// Those of the settings that only a restart applies, none of them secret.
    pub restart_only: BTreeMap<&'static str, String>,
    /// Whether the settings bound the servers of the whole tier, each pooler by
    /// its share: then no more Pods may be there than were counted.
    pub is_budgeted: bool,
    /// Files beside the ini. All of them are secret.
    pub files: Vec<File>,
    /// How long one may take to end.
    pub drain_timeout: Duration,
    /// CPU and memory of each, if it is said.
    pub resources: Option<Resources>,
    /// What the Pods are to have besides.
    pub pod_template: Option<PodTemplate>,
}

/// A line of `[databases]` or `[users]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the line is about.
    pub name: String,
    /// The pairs after the equals sign.
    pub settings: Vec<Setting>,
    /// The field of the manifest it is from.
    pub origin: String,
}

/// A file beside the ini.
#[derive(Clone, Debug)]
pub struct File {
    /// Name without a folder.
    pub name: &'static str,
    /// The key of pgbouncer.ini that names it, and the field that says so.
    pub setting: (&'static str, &'static str),
    /// What is in it.
    pub content: SecretValue,
}

/// What every balancer is.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// How many.
    pub replicas: u32,
    /// How a pooler is chosen.
    pub algorithm: Algorithm,
    /// Clients of each.
    pub max_connections: u32,
    /// How poolers are checked.
    pub check: Check,
    /// How long one that ends waits for its sessions.
    pub drain_timeout: Duration,
    /// CPU and memory of each, if it is said.
    pub resources: Option<Resources>,
    /// What the Pods are to have besides.
    pub pod_template: Option<PodTemplate>,
}

/// Describes the tier of a cluster, whose poolers share what PostgreSQL has for
/// it as if the most were there that a change of it can bring about.
#[must_use]
pub fn tier(cluster: &ValidatedCluster) -> Tier {
    tier_among(cluster, 0)
}

/// The same where so many poolers were seen, those that are ending included:
/// after a scale-down, say, they are more than the cluster wishes.
#[must_use]
pub fn tier_among(cluster: &ValidatedCluster, poolers_seen: u32) -> Tier {
    Tier {
        name: cluster.name.clone(),
        pooler: Pooler {
            replicas: cluster.poolers.replicas,
            databases: databases(cluster),
            users: cluster.users.iter().enumerate().map(user).collect(),
            settings: settings(cluster, poolers_seen),
            restart_only: cluster.restart_only.clone(),
            is_budgeted: cluster.pool.max_server_connections.is_some(),
            files: files(cluster),
            drain_timeout: cluster.poolers.drain_timeout,
            resources: cluster.poolers.resources.clone(),
            pod_template: cluster.poolers.pod_template.clone(),
        },
        balancer: Balancer {
            replicas: cluster.balancer.replicas,
            algorithm: cluster.balancer.algorithm,
            max_connections: cluster.balancer.max_connections,
            check: cluster.balancer.check.clone(),
            drain_timeout: cluster.balancer.drain_timeout,
            resources: cluster.balancer.resources.clone(),
            pod_template: cluster.balancer.pod_template.clone(),
        },
        service_port: cluster.service_port,
        service: cluster.service.clone(),
        network_policy: cluster.network_policy,
        images: cluster.images.clone(),
        restart: cluster.restart.clone(),
        bindings: binding::bindings(cluster),
    }
}

fn setting(key: &str, value: &(impl ToString + ?Sized), origin: &str) -> Setting {
    Setting {
        key: key.to_owned(),
        value: value.to_string(),
        origin: origin.to_owned(),
    }
}

/// An opaque name of everything that a tier's processes are told, apart from
/// where they run. Equal names mean equal configuration.
///
/// Keyed, because it is shown to anyone while what it is made of holds
/// passwords, which a plain hash would let people guess.
#[must_use]
pub fn revision(tier: &Tier, key: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    let mut add = |bytes: &[u8]| {
        mac.update(&(bytes.len() as u64).to_be_bytes());
        mac.update(bytes);
    };
    // Every field by its name, so that the compiler asks about a new one. Left
    // out is where things run and how many, and what stands in the settings too.
    let Tier {
        name: _,
        pooler,
        balancer,
        service_port: _,
        service: _,
        network_policy: _,
        images: _,
        restart: _,
        bindings: _,
    } = tier;
    let Pooler {
        replicas: _,
        databases,
        users,
        settings,
        restart_only: _,
        is_budgeted: _,
        files,
        drain_timeout: _,
        resources: _,
        pod_template: _,
    } = pooler;
    let Balancer {
        replicas: _,
        algorithm,
        max_connections,
        check,
        drain_timeout,
        resources: _,
        pod_template: _,
    } = balancer;
    for entry in databases.iter().chain(users) {
        let Entry {
            name,
            settings,
            origin: _,
        } = entry;
        add(name.as_bytes());
        pairs(settings).for_each(&mut add);
    }
    pairs(settings).for_each(&mut add);
    for File {
        name,
        setting: _,
        content,
    } in files
    {
        add(name.as_bytes());
        add(content.bytes());
    }
    add(format!("{algorithm:?} {max_connections} {check:?} {drain_timeout:?}").as_bytes());
    let digest = mac.finalize().into_bytes();
    digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Keys and values in turn.
fn pairs(settings: &[Setting]) -> impl Iterator<Item = &[u8]> {
    settings.iter().flat_map(|setting| {
        let Setting {
            key,
            value,
            origin: _,
        } = setting;
        [key.as_bytes(), value.as_bytes()]
    })
}

#[cfg(test)]
mod tests;
