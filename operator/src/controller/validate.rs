//! From what was written to types that cannot be wrong. Pure.
//!
//! The API server has checked the schema by now; here is checked what a schema
//! cannot say: what Secrets hold, what goes together, what is not built yet,
//! and, by the proxies' own code, every setting that they would refuse. A
//! manifest that a proxy would refuse never reaches one.

mod channels;
mod cluster;
mod pools;
mod settings;
mod tls;

pub use cluster::{
    Balancer, Channel, ClientAuth, ClientTls, Database, HostPort, Pool, Poolers, Setting, User,
    ValidatedCluster,
};

use std::collections::BTreeMap;

use proxy_core::config::balancer;

use super::{
    Fault, Place, build,
    dereference::{Dereferenced, SecretData, SecretValue},
};
pub(crate) use settings::mode;

use crate::{
    api::{self, PoolState, TlsMode},
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
    let mut validator = Validator {
        secrets: &input.secrets,
        faults: Vec::new(),
    };
    let mut cluster = validator.cluster(input, policy);
    if validator.faults.is_empty() {
        let verdict = settings::judged_by_the_proxies(&cluster, input);
        validator.faults = verdict.faults;
        cluster.warnings = verdict.warnings;
        cluster.restart_only = verdict.restart_only;
    }
    if validator.faults.is_empty() {
        Ok(cluster)
    } else {
        Err(validator.faults)
    }
}

struct Validator<'a> {
    secrets: &'a BTreeMap<String, Option<SecretData>>,
    faults: Vec<Fault>,
}

impl Validator<'_> {
    fn cluster(&mut self, input: &Dereferenced, policy: &WebhookPolicy) -> ValidatedCluster {
        let spec = &input.cluster.spec;
        self.not_built_yet(spec);
        let upstream = self.upstream(&spec.upstream);
        ValidatedCluster {
            name: self.name(input.cluster.metadata.name.as_deref().unwrap_or_default()),
            suspend: spec.suspend,
            auth: self.auth(spec.auth.r#type),
            userlist: self.secret(
                "spec.auth.userlistSecretRef.name",
                &spec.auth.userlist_secret_ref.name,
                build::USERLIST,
            ),
            databases: self.databases(&spec.databases, &upstream),
            users: self.users(&spec.users),
            pool: self.pool(&spec.pool),
            poolers: Poolers {
                replicas: self.number("spec.poolers.replicas", spec.poolers.replicas),
                drain_timeout: spec.poolers.drain_timeout.0,
                resources: spec.poolers.resources.clone().unwrap_or_default(),
            },
            balancer: self.balancer(&spec.balancer),
            client_tls: self.client_tls(&spec.tls.client),
            service_port: self.number("spec.service.port", spec.service.port),
            service_type: spec.service.r#type,
            monitoring_interval: spec.monitoring.interval.0,
            channels: self.channels(&spec.notifications, policy),
            restart_only: BTreeMap::new(),
            warnings: Vec::new(),
            upstream,
        }
    }

    fn fault(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Fault::field(path, message));
    }

    /// Fields of the API that nothing behind it can do yet.
    fn not_built_yet(&mut self, spec: &api::PgPoolClusterSpec) {
        let mut refuse = |wanted: bool, path: &str, instead: &str| {
            if wanted {
                self.fault(path, format!("not supported yet; {instead}"));
            }
        };
        refuse(
            spec.upstream.uri_secret_ref.is_some(),
            "spec.upstream.uriSecretRef",
            "use spec.upstream.address",
        );
        refuse(
            spec.upstream.cnpg_cluster_ref.is_some(),
            "spec.upstream.cnpgClusterRef",
            "use spec.upstream.address with the host CLUSTER-rw",
        );
        refuse(
            spec.tls.server.mode != TlsMode::Disable,
            "spec.tls.server.mode",
            "only disable is",
        );
        refuse(
            matches!(
                spec.tls.client.mode,
                TlsMode::VerifyCa | TlsMode::VerifyFull
            ),
            "spec.tls.client.mode",
            "disable, prefer and require are",
        );
        refuse(
            spec.pool.state == PoolState::Paused,
            "spec.pool.state",
            "use PAUSE and RESUME on each pooler's console",
        );
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

    fn upstream(&mut self, upstream: &api::Upstream) -> HostPort {
        match &upstream.address {
            Some(address) => HostPort {
                host: address.host.clone(),
                port: self.number("spec.upstream.address.port", address.port),
            },
            None => {
                if upstream.uri_secret_ref.is_none() && upstream.cnpg_cluster_ref.is_none() {
                    self.fault("spec.upstream.address", "is required");
                }
                HostPort {
                    host: String::new(),
                    port: 1,
                }
            }
        }
    }

    fn auth(&mut self, auth_type: api::AuthType) -> ClientAuth {
        match auth_type {
            api::AuthType::ScramSha256 => ClientAuth::ScramSha256,
            api::AuthType::Md5 => ClientAuth::Md5,
            api::AuthType::Trust => ClientAuth::Trust,
            api::AuthType::Cert | api::AuthType::Hba => {
                self.fault(
                    "spec.auth.type",
                    "not supported yet; scram-sha-256, md5 and trust are",
                );
                ClientAuth::ScramSha256
            }
        }
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
            resources: balancer.resources.clone().unwrap_or_default(),
        }
    }

    fn client_tls(&mut self, client: &api::ClientTls) -> Option<ClientTls> {
        if client.mode == TlsMode::Disable {
            return None;
        }
        let path = "spec.tls.client.certSecretRef";
        let Some(secret) = &client.cert_secret_ref else {
            self.fault(path, "is needed unless mode is disable");
            return None;
        };
        let path = format!("{path}.name");
        let faults_before = self.faults.len();
        let certificate = self.secret(&path, &secret.name, build::TLS_CERTIFICATE);
        let key = self.secret(&path, &secret.name, build::TLS_KEY);
        if self.faults.len() == faults_before
            && let Err((key, message)) = tls::check_pair(certificate.bytes(), key.bytes())
        {
            self.faults.push(Fault {
                place: Place::Secret {
                    name: secret.name.clone(),
                    key: key.to_owned(),
                    line: 1,
                },
                message,
            });
        }
        Some(ClientTls {
            required: client.mode == TlsMode::Require,
            certificate,
            key,
        })
    }

    /// The value of a Secret's key; a fault at `path` if there is none.
    fn secret(&mut self, path: &str, name: &str, key: &str) -> SecretValue {
        let missing = match self.secrets.get(name).and_then(Option::as_ref) {
            Some(data) => match data.get(key) {
                Some(value) => return value.clone(),
                None => format!("Secret {name} has no key {key}"),
            },
            None => format!("Secret {name} does not exist"),
        };
        self.fault(path, missing);
        SecretValue::new(Vec::new())
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

#[cfg(test)]
mod tests;
