//! A cluster that can be built: types that cannot be wrong.

use std::{collections::BTreeMap, time::Duration};

use proxy_core::config::balancer;

use crate::{
    api::{PoolMode, Resources, ServiceType},
    controller::{Fault, dereference::SecretValue},
    webhook::Webhook,
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
    /// How clients are authenticated.
    pub auth: ClientAuth,
    /// userlist.txt.
    pub userlist: SecretValue,
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
    /// Certificate and key shown to clients, where TLS is on.
    pub client_tls: Option<ClientTls>,
    /// The port that applications connect to.
    pub service_port: u16,
    /// Type of the Kubernetes Service with that port.
    pub service_type: ServiceType,
    /// Time between two full resynchronisations.
    pub monitoring_interval: Duration,
    /// Who is told.
    pub channels: Vec<Channel>,
    /// Settings of section `[pgbouncer]` that only a restart applies, as the
    /// pooler reads them; none that has its default. None of them is secret.
    pub restart_only: BTreeMap<&'static str, String>,
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

/// How clients are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// SCRAM-SHA-256.
    ScramSha256,
    /// MD5, or SCRAM for users whose secret is a verifier.
    Md5,
    /// No proof.
    Trust,
}

/// A database with settings of its own.
#[derive(Clone, Debug)]
pub struct Database {
    /// What clients ask for; `*` for all others.
    pub name: String,
    /// Its name on the upstream, if another.
    pub upstream_name: Option<String>,
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
    /// When a server goes back.
    pub mode: PoolMode,
    /// Servers of each pool.
    pub default_pool_size: u32,
    /// Clients of each pooler.
    pub max_client_connections: u32,
    /// Other settings of section `[pgbouncer]`.
    pub settings: Vec<Setting>,
}

/// Poolers.
#[derive(Clone, Debug)]
pub struct Poolers {
    /// How many, at least 1.
    pub replicas: u32,
    /// Over how long one that ends closes its sessions.
    pub drain_timeout: Duration,
    /// CPU and memory of each.
    pub resources: Resources,
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
    /// CPU and memory of each.
    pub resources: Resources,
}

/// What clients are shown.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Whether clients must use TLS.
    pub required: bool,
    /// PEM chain.
    pub certificate: SecretValue,
    /// PEM private key that belongs to it.
    pub key: SecretValue,
}

/// Someone to tell.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Name, unique.
    pub name: String,
    /// Where.
    pub webhook: Webhook,
    /// Whether to tell recoveries too.
    pub send_resolved: bool,
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
