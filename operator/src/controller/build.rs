//! From a validated cluster to one description of its tier, and from that to
//! the files that poolers and balancers read. Pure.
//!
//! The description does not know where things run: addresses, ports and paths
//! are a [`Realisation`]'s, so that Kubernetes objects and local processes are
//! made from the same [`Tier`].

mod balancer;
mod pooler;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use proxy_core::config::balancer::{Algorithm, Check, Discovery, Target};
use sha2::Sha256;

use super::{
    dereference::SecretValue,
    validate::{ClientAuth, Database, HostPort, Setting, User, ValidatedCluster},
};
use crate::api::{Images, PodTemplate, Resources, Service};

pub use balancer::balancer_yaml;
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
/// Annotation of a cluster: another value rolls all Pods.
pub const RESTART: &str = "poolkeeper.dev/restart";

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
    /// CPU and memory of each.
    pub resources: Resources,
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
    /// CPU and memory of each.
    pub resources: Resources,
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
    }
}

fn databases(cluster: &ValidatedCluster) -> Vec<Entry> {
    if cluster.databases.is_empty() {
        return vec![Entry {
            name: "*".to_owned(),
            settings: address(&cluster.upstream, &cluster.upstream_origin),
            origin: "spec.upstream".to_owned(),
        }];
    }
    cluster.databases.iter().enumerate().map(database).collect()
}

fn database((index, database): (usize, &Database)) -> Entry {
    let origin = format!("spec.databases[{index}]");
    let mut settings = address(&database.address, &database.address_origin);
    if let Some(name) = &database.upstream_name {
        settings.push(setting("dbname", name, &format!("{origin}.database")));
    }
    settings.extend(database.settings.iter().cloned());
    Entry {
        name: database.name.clone(),
        settings,
        origin,
    }
}

fn user((index, user): (usize, &User)) -> Entry {
    Entry {
        name: user.name.clone(),
        settings: user.settings.clone(),
        origin: format!("spec.users[{index}]"),
    }
}

fn address(address: &HostPort, origin: &str) -> Vec<Setting> {
    // A URI has no fields.
    let field = |name: &str| match origin.ends_with("address") || origin.ends_with(']') {
        true => format!("{origin}.{name}"),
        false => origin.to_owned(),
    };
    vec![
        setting("host", &address.host, &field("host")),
        setting("port", &address.port, &field("port")),
    ]
}

fn settings(cluster: &ValidatedCluster, poolers_seen: u32) -> Vec<Setting> {
    let auth_type = match cluster.auth {
        ClientAuth::ScramSha256 => "scram-sha-256",
        ClientAuth::Md5 => "md5",
        ClientAuth::Trust => "trust",
        ClientAuth::Cert => "cert",
        ClientAuth::Hba => "hba",
    };
    let client_tls = cluster.client_tls.as_ref().map(|tls| tls.mode);
    let pool = &cluster.pool;
    let drain_timeout_s = cluster.poolers.drain_timeout.as_secs_f64();
    let mut settings = vec![
        setting("auth_type", auth_type, "spec.auth.type"),
        setting(
            "drain_timeout",
            &drain_timeout_s,
            "spec.poolers.drainTimeout",
        ),
        setting(
            "client_tls_sslmode",
            client_tls.unwrap_or_default().word(),
            "spec.tls.client.mode",
        ),
        setting(
            "server_tls_sslmode",
            cluster.server_tls.mode.word(),
            "spec.tls.server.mode",
        ),
    ];
    // Poolers are reached by TCP alone; PgBouncer's default would put a socket
    // into /tmp, which several on one machine share.
    if pool.settings.iter().all(|own| own.key != "unix_socket_dir") {
        settings.push(setting("unix_socket_dir", "", "spec.pool.parameters"));
    }
    if let Some(limit) = pool.max_server_connections {
        let poolers = poolers_at_once(cluster.poolers.replicas).max(poolers_seen);
        // 0 would mean no limit.
        let share = (limit / poolers).max(1);
        let origin = "spec.pool.maxServerConnections";
        settings.push(setting("max_server_connections", &share, origin));
    }
    settings.extend(pool.settings.iter().cloned());
    settings
}

fn files(cluster: &ValidatedCluster) -> Vec<File> {
    let (client, server) = (cluster.client_tls.as_ref(), &cluster.server_tls);
    let pair = client.map(|tls| &tls.pair);
    let shown = server.pair.as_ref();
    let authority = client.and_then(|tls| tls.authority.as_ref());
    let file = |name, setting, content: &SecretValue| File {
        name,
        setting,
        content: content.clone(),
    };
    let tls = [
        (
            TLS_CERTIFICATE,
            "client_tls_cert_file",
            "spec.tls.client.certSecretRef",
            pair.map(|it| &it.certificate),
        ),
        (
            TLS_KEY,
            "client_tls_key_file",
            "spec.tls.client.certSecretRef",
            pair.map(|it| &it.key),
        ),
        (
            CLIENT_AUTHORITY,
            "client_tls_ca_file",
            "spec.tls.client.caSecretRef",
            authority,
        ),
        (
            SERVER_AUTHORITY,
            "server_tls_ca_file",
            "spec.tls.server.caSecretRef",
            server.authority.as_ref(),
        ),
        (
            SERVER_CERTIFICATE,
            "server_tls_cert_file",
            "spec.tls.server.certSecretRef",
            shown.map(|it| &it.certificate),
        ),
        (
            SERVER_KEY,
            "server_tls_key_file",
            "spec.tls.server.certSecretRef",
            shown.map(|it| &it.key),
        ),
    ];
    let userlist = file(
        USERLIST,
        ("auth_file", "spec.auth.userlistSecretRef"),
        &cluster.userlist.content,
    );
    let tls = tls
        .into_iter()
        .filter_map(|(name, key, origin, content)| Some(file(name, (key, origin), content?)));
    std::iter::once(userlist).chain(tls).collect()
}

fn setting(key: &str, value: &(impl ToString + ?Sized), origin: &str) -> Setting {
    Setting {
        key: key.to_owned(),
        value: value.to_string(),
        origin: origin.to_owned(),
    }
}

/// Where a tier runs.
#[derive(Clone, Debug)]
pub struct Realisation {
    /// Where applications connect.
    pub service: SocketAddr,
    /// Whether balancers share that address with each other.
    pub shared_service: bool,
    /// One for each pooler.
    pub poolers: Vec<PoolerAddresses>,
    /// Where each balancer serves its dashboard.
    pub dashboards: Vec<SocketAddr>,
    /// The folder of the pooler's files.
    pub files: PathBuf,
    /// Names the configuration, see [`revision`].
    pub revision: String,
}

/// Where a pooler listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolerAddresses {
    /// For clients.
    pub data: SocketAddr,
    /// For `/status` and the like.
    pub http: SocketAddr,
}

impl Realisation {
    /// A realisation that exists on paper: what is checked before anything is
    /// started.
    #[must_use]
    pub fn example(tier: &Tier) -> Self {
        let address = |port: u32| {
            let port = u16::try_from(port).expect("replicas are few");
            SocketAddr::from(([127, 0, 0, 1], port))
        };
        Self {
            service: address(u32::from(tier.service_port)),
            shared_service: true,
            poolers: (0..tier.pooler.replicas)
                .map(|index| PoolerAddresses {
                    data: address(6432 + index),
                    http: address(9127 + index),
                })
                .collect(),
            dashboards: (0..tier.balancer.replicas)
                .map(|index| address(8404 + index))
                .collect(),
            files: PathBuf::from("/etc/poolkeeper"),
            revision: "example".to_owned(),
        }
    }

    /// Pooler `index` of it.
    #[must_use]
    pub fn pooler(&self, index: usize) -> PoolerPlace<'_> {
        PoolerPlace {
            addresses: self.poolers[index],
            peers: Some(Peers {
                all: &self.poolers,
                own: index,
            }),
            files: &self.files,
            revision: Some(&self.revision),
        }
    }

    /// Balancer `index` of it.
    #[must_use]
    pub fn balancer(&self, index: usize) -> BalancerPlace<'_> {
        let poolers = self.poolers.iter().enumerate();
        BalancerPlace {
            service: self.service,
            shared_service: self.shared_service,
            dashboard: self.dashboards[index],
            targets: poolers
                .map(|(index, pooler)| Target {
                    name: pooler_name(index),
                    address: pooler.data,
                })
                .collect(),
            discovery: None,
            revision: Some(&self.revision),
        }
    }
}

/// What a pooler is told of where it and others run.
#[derive(Clone, Copy, Debug)]
pub struct PoolerPlace<'a> {
    /// Where it listens.
    pub addresses: PoolerAddresses,
    /// The poolers that know each other, and which of them it is.
    pub peers: Option<Peers<'a>>,
    /// The folder of its files.
    pub files: &'a Path,
    /// Names the configuration, see [`revision`].
    pub revision: Option<&'a str>,
}

/// Poolers that know each other.
#[derive(Clone, Copy, Debug)]
pub struct Peers<'a> {
    /// Where all of them listen.
    pub all: &'a [PoolerAddresses],
    /// Which of them is told, from 0.
    pub own: usize,
}

/// What a balancer is told of where it and the poolers run.
#[derive(Clone, Debug)]
pub struct BalancerPlace<'a> {
    /// Where applications connect.
    pub service: SocketAddr,
    /// Whether it shares that address with other balancers.
    pub shared_service: bool,
    /// Where it serves its dashboard.
    pub dashboard: SocketAddr,
    /// The poolers, where they are known.
    pub targets: Vec<Target>,
    /// Where they are found by name otherwise.
    pub discovery: Option<Discovery>,
    /// Names the configuration, see [`revision`].
    pub revision: Option<&'a str>,
}

/// Name of pooler `index`, from 0.
#[must_use]
pub fn pooler_name(index: usize) -> String {
    format!("pooler-{index}")
}

/// Name of balancer `index`, from 0.
#[must_use]
pub fn balancer_name(index: usize) -> String {
    format!("balancer-{index}")
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
