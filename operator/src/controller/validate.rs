//! From what was written to types that cannot be wrong. Pure.
//!
//! The API server has checked the schema by now; here is checked what a schema
//! cannot say: what Secrets hold, what goes together, what is not built yet,
//! and, by the proxies' own code, every setting that they would refuse. A
//! manifest that a proxy would refuse never reaches one.

mod channels;
mod cluster;
mod logins;
mod pod_template;
mod pools;
mod service;
mod settings;
mod tls;
mod upstream;
mod uri;

pub use cluster::{
    Balancer, Channel, ClientAuth, ClientTls, Credentials, Database, HostPort, Pair, Pool, Poolers,
    ServerTls, Setting, User, Userlist, ValidatedCluster,
};

use std::collections::{BTreeMap, BTreeSet};

use proxy_core::config::balancer;

use super::{
    Fault, FaultKind, build,
    certificates::Certificate,
    dereference::{Dereferenced, SecretData, SecretValue},
};

use crate::{
    api::{self, Component},
    webhook::WebhookPolicy,
};

/// Validates a cluster and what it refers to.
///
/// # Errors
/// Every fault found.
pub fn validate(
    input: &Dereferenced,
    policy: &WebhookPolicy,
) -> Result<ValidatedCluster, Vec<Fault>> {
    let mut validator = Validator::of(input);
    let mut cluster = validator.cluster(input, policy);
    let verdict = settings::judged_by_the_proxies(&cluster);
    let mut faults = validator.faults;
    // What is at fault already may look wrong to the proxies for that alone.
    let known: BTreeSet<String> = faults.iter().map(ToString::to_string).collect();
    // So does what needs a certificate that is not there: it may yet come.
    let lacks = faults.iter().any(|fault| {
        let text = fault.to_string();
        let of_tls = ["spec.tls.", "spec.upstream."];
        fault.kind == FaultKind::MissingReference
            && of_tls.iter().any(|path| text.starts_with(path))
    });
    let theirs = verdict.faults.into_iter().filter(|fault| {
        let text = fault.to_string();
        let follows = lacks && text.starts_with("spec.tls.");
        !(follows || known.contains(&text))
    });
    faults.extend(theirs);
    cluster.certificates = validator.certificates;
    cluster.warnings = validator.warnings;
    cluster.warnings.extend(verdict.warnings);
    cluster.restart_only = verdict.restart_only;
    if faults.is_empty() {
        Ok(cluster)
    } else {
        Err(faults)
    }
}

/// The channels of a cluster that are valid by themselves, whatever else is not.
#[must_use]
pub fn channels(input: &Dereferenced, policy: &WebhookPolicy) -> Vec<Channel> {
    let mut validator = Validator::of(input);
    validator.channels(&input.cluster.spec.notifications, policy)
}

struct Validator<'a> {
    secrets: &'a BTreeMap<String, Option<SecretData>>,
    missing_services: &'a BTreeSet<String>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
    /// Those that were met.
    certificates: Vec<Certificate>,
}

impl<'a> Validator<'a> {
    const fn of(input: &'a Dereferenced) -> Self {
        Self {
            secrets: &input.secrets,
            missing_services: &input.missing_services,
            faults: Vec::new(),
            warnings: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn cluster(&mut self, input: &Dereferenced, policy: &WebhookPolicy) -> ValidatedCluster {
        let spec = &input.cluster.spec;
        let metadata = &input.cluster.metadata;
        let upstream = self.upstream(spec);
        let (poolers, balancer) = (Component::Pooler, Component::Balancer);
        let userlist = self.userlist(spec, &upstream);
        let mut cluster = ValidatedCluster {
            name: self.name(metadata.name.as_deref().unwrap_or_default()),
            suspend: spec.suspend,
            auth: auth(spec.auth.r#type),
            credentials: logins::plain_credentials(spec, &upstream, &userlist),
            userlist,
            databases: self.databases(&spec.databases, &upstream),
            users: self.users(&spec.users),
            pool: self.pool(&spec.pool),
            poolers: Poolers {
                replicas: self.number("spec.poolers.replicas", spec.poolers.replicas),
                drain_timeout: spec.poolers.drain_timeout.0,
                resources: spec.poolers.resources.clone(),
                pod_template: self.pod_template(poolers, spec.poolers.pod_template.as_ref()),
            },
            balancer: self.balancer(&spec.balancer),
            client_tls: self.client_tls(&spec.tls.client),
            server_tls: self.server_tls(spec),
            certificates: Vec::new(),
            service_port: self.number("spec.service.port", spec.service.port),
            service: self.service(&spec.service),
            network_policy: spec.network_policy.enabled,
            images: spec.images.clone(),
            restart: metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(build::RESTART).cloned()),
            monitoring_interval: spec.monitoring.interval.0,
            channels: self.channels(&spec.notifications, policy),
            restart_only: BTreeMap::new(),
            budget: api::BudgetStatus::default(),
            warnings: Vec::new(),
            upstream: upstream.address,
            upstream_origin: upstream.origin,
            upstream_database: upstream.database,
        };
        cluster.balancer.pod_template =
            self.pod_template(balancer, spec.balancer.pod_template.as_ref());
        cluster.budget = pools::budget(spec, &cluster);
        self.budget(spec, &cluster);
        cluster
    }

    fn fault(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Fault::field(path, message));
    }

    fn name(&mut self, name: &str) -> String {
        let label = name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.ends_with(|last: char| last.is_ascii_lowercase() || last.is_ascii_digit())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !label {
            self.fault(
                "metadata.name",
                format!("{name:?} must be of a to z, 0 to 9 and -, and begin with a letter: a Service gets this name"),
            );
        }
        name.to_owned()
    }

    fn balancer(&mut self, balancer: &api::Balancer) -> Balancer {
        Balancer {
            replicas: self.number("spec.balancer.replicas", balancer.replicas),
            algorithm: match balancer.algorithm {
                api::Algorithm::Leastconn => balancer::Algorithm::Leastconn,
                api::Algorithm::Roundrobin => balancer::Algorithm::Roundrobin,
            },
            max_connections: self.number("spec.balancer.maxConnections", balancer.max_connections),
            check: balancer::Check {
                interval: balancer.check.interval.0,
                timeout: balancer.check.timeout.0,
                fall: self.number("spec.balancer.check.fall", balancer.check.fall),
                rise: self.number("spec.balancer.check.rise", balancer.check.rise),
                ..balancer::Check::default()
            },
            drain_timeout: balancer.drain_timeout.0,
            resources: balancer.resources.clone(),
            pod_template: None,
        }
    }

    /// The value of a Secret's key; a fault at `path` if there is none.
    fn secret(&mut self, path: &str, name: &str, key: &str) -> Option<SecretValue> {
        let missing = match self.secrets.get(name).and_then(Option::as_ref) {
            Some(data) => match data.get(key) {
                Some(value) => return Some(value.clone()),
                None => format!("Secret {name} has no key {key}"),
            },
            None => format!("Secret {name} does not exist"),
        };
        self.missing(path, missing);
        None
    }

    /// A number from 1 to what its type can hold; the schema has checked the
    /// limits that mean something.
    fn number<T: TryFrom<i32> + From<u8>>(&mut self, path: &str, value: i32) -> T {
        T::try_from(value.max(0))
            .ok()
            .filter(|_| value > 0)
            .unwrap_or_else(|| {
                self.fault(path, format!("{value} is out of range"));
                T::from(1)
            })
    }
}

/// What the pooler can do of it, it says itself.
const fn auth(auth_type: api::AuthType) -> ClientAuth {
    match auth_type {
        api::AuthType::ScramSha256 => ClientAuth::ScramSha256,
        api::AuthType::Md5 => ClientAuth::Md5,
        api::AuthType::Trust => ClientAuth::Trust,
        api::AuthType::Cert => ClientAuth::Cert,
        api::AuthType::Hba => ClientAuth::Hba,
    }
}

#[cfg(test)]
mod tests;
