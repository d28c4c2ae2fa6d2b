//! A cluster that can be built: types that cannot be wrong.

use std::{collections::BTreeMap, fmt, time::Duration};

use proxy_core::config::balancer;

use crate::{
    api::{BudgetStatus, Images, PodTemplate, Resources, Service, TlsMode},
    controller::{Fault, Place, certificates::Certificate, dereference::SecretValue},
    destination::Destination,
    notify::ChannelConfig,
};

/// A cluster that can be built.
#[derive(Clone, Debug)]
pub struct ValidatedCluster {
    /// The object's name, a DNS label of at most 40 characters.
    pub name: String,
    /// Whether nothing may be changed.
    pub suspend: bool,
    /// Where PostgreSQL is.
    pub upstream: HostPort,
    /// The field that says so.
    pub upstream_origin: String,
    /// The database that it names, where it is known by a Secret.
    pub upstream_database: Option<String>,
    /// How clients are authenticated.
    pub auth: ClientAuth,
    /// Who may log in.
    pub userlist: Userlist,
    /// Users that the spec lists, in its order, and then the upstream's: of those
    /// the ones whose password is known.
    pub credentials: Vec<Credentials>,
    /// Databases with settings of their own; empty means all.
    pub databases: Vec<Database>,
    /// Users with settings of their own.
    pub users: Vec<User>,
    /// The pools' settings.
    pub pool: Pool,
    /// Poolers.
    pub poolers: Poolers,
    /// Balancers.
    pub balancer: Balancer,
    /// Between clients and poolers, where TLS is on.
    pub client_tls: Option<ClientTls>,
    /// Between poolers and PostgreSQL.
    pub server_tls: ServerTls,
    /// Every file of certificates of both, by its place.
    pub certificates: Vec<Certificate>,
    /// The port that applications connect to.
    pub service_port: u16,
    /// The rest of the Kubernetes Service with that port.
    pub service: Service,
    /// Whether only those who must may reach the Pods.
    pub network_policy: bool,
    /// What the Pods run.
    pub images: Images,
    /// Value of the annotation [`RESTART`](crate::controller::build::RESTART):
    /// another one rolls the Pods.
    pub restart: Option<String>,
    /// Time between two full resynchronisations.
    pub monitoring_interval: Duration,
    /// Who is told.
    pub channels: Vec<Channel>,
    /// Settings of section `[pgbouncer]` that only a restart applies, as the
    /// pooler reads them; none that has its default. None of them is secret.
    pub restart_only: BTreeMap<&'static str, String>,
    /// Connections to PostgreSQL.
    pub budget: BudgetStatus,
    /// What is accepted and yet worth a look.
    pub warnings: Vec<Fault>,
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl HostPort {
    /// In place of one that is not known.
    pub(super) fn nowhere() -> Self {
        Self {
            host: "unknown".to_owned(),
            port: 1,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.contains(':') {
            true => write!(f, "[{host}]:{port}"),
            false => write!(f, "{host}:{port}"),
        }
    }
}

/// How clients are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// SCRAM-SHA-256.
    ScramSha256,
    /// MD5, or SCRAM for users whose secret is a verifier.
    Md5,
    /// No proof.
    Trust,
    /// A client certificate.
    Cert,
    /// As rules say.
    Hba,
}

/// userlist.txt, and where each line of it is from.
#[derive(Clone, Debug)]
pub struct Userlist {
    /// The file.
    pub content: SecretValue,
    /// The Secret whose lines come first.
    pub secret: Option<String>,
    /// How many lines those are.
    pub lines: u32,
    /// Where the others are from.
    pub added: Vec<Place>,
}

impl Userlist {
    /// Where line `line`, counted from 1, is from.
    #[must_use]
    pub fn place(&self, line: u32) -> Place {
        let added = line.checked_sub(self.lines + 1);
        let added = added.and_then(|index| self.added.get(index as usize));
        match (added, &self.secret) {
            (Some(place), _) => place.clone(),
            (None, Some(secret)) => Place::Secret {
                name: secret.clone(),
                key: crate::controller::build::USERLIST.to_owned(),
                line,
            },
            (None, None) => Place::Field("spec.auth".to_owned()),
        }
    }
}

/// A user and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password itself, never a hash of it.
    pub password: SecretValue,
}

/// A database with settings of its own.
#[derive(Clone, Debug)]
pub struct Database {
    /// What clients ask for; `*` for all others.
    pub name: String,
    /// Its name on the upstream, if another.
    pub upstream_name: Option<String>,
    /// The field that says where it is.
    pub address_origin: String,
    /// Where it is.
    pub address: HostPort,
    /// Settings by their key in pgbouncer.ini, each with the field it is from.
    pub settings: Vec<Setting>,
}

/// A user with settings of its own.
#[derive(Clone, Debug)]
pub struct User {
    /// The role.
    pub name: String,
    /// Settings by their key in pgbouncer.ini, each with the field it is from.
    pub settings: Vec<Setting>,
}

/// A key of pgbouncer.ini, its value, and the field that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Lower-case letters, digits and underscores.
    pub key: String,
    /// One line.
    pub value: String,
    /// Such as `spec.pool.parameters.max_prepared_statements`.
    pub origin: String,
}

/// The pools' settings.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Settings of section `[pgbouncer]`.
    pub settings: Vec<Setting>,
    /// Servers of the whole tier; no limit without.
    pub max_server_connections: Option<u32>,
}

/// Poolers.
#[derive(Clone, Debug)]
pub struct Poolers {
    /// How many, at least 1.
    pub replicas: u32,
    /// Over how long one that ends closes its sessions.
    pub drain_timeout: Duration,
    /// CPU and memory of each, if it is said.
    pub resources: Option<Resources>,
    /// What the Pods are to have besides; fits what they have.
    pub pod_template: Option<PodTemplate>,
}

/// Balancers.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// How many, at least 1.
    pub replicas: u32,
    /// How a pooler is chosen.
    pub algorithm: balancer::Algorithm,
    /// Clients of each.
    pub max_connections: u32,
    /// How poolers are checked.
    pub check: balancer::Check,
    /// How long one that ends waits for its sessions.
    pub drain_timeout: Duration,
    /// CPU and memory of each, if it is said.
    pub resources: Option<Resources>,
    /// What the Pods are to have besides; fits what they have.
    pub pod_template: Option<PodTemplate>,
}

/// TLS between clients and poolers.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// How much.
    pub mode: TlsMode,
    /// What clients are shown.
    pub pair: Pair,
    /// Who may sign clients' certificates.
    pub authority: Option<SecretValue>,
}

/// TLS between poolers and PostgreSQL.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// How much.
    pub mode: TlsMode,
    /// What PostgreSQL is shown.
    pub pair: Option<Pair>,
    /// Who may sign PostgreSQL's certificate.
    pub authority: Option<SecretValue>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM chain.
    pub certificate: SecretValue,
    /// PEM private key that belongs to it.
    pub key: SecretValue,
}

/// Someone to tell.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Where.
    pub destination: Destination,
    /// What and how often, but for the fingerprint.
    pub config: ChannelConfig,
}

impl Channel {
    /// What the notifier needs to know. `key` is one that nobody else has.
    #[must_use]
    pub fn config(&self, key: &[u8]) -> ChannelConfig {
        ChannelConfig {
            fingerprint: self.destination.fingerprint(key),
            ..self.config.clone()
        }
    }
}

impl ValidatedCluster {
    /// Replaces hosts that are known only inside Kubernetes by addresses that
    /// can be reached from here. Returns the names that occur nowhere.
    pub fn resolve(&mut self, names: &BTreeMap<String, HostPort>) -> Vec<String> {
        let mut unused: Vec<String> = names.keys().cloned().collect();
        let databases = self
            .databases
            .iter_mut()
            .map(|database| &mut database.address);
        for address in std::iter::once(&mut self.upstream).chain(databases) {
            if let Some(replacement) = names.get(&address.host) {
                unused.retain(|name| *name != address.host);
                *address = replacement.clone();
            }
        }
        unused
    }
}
