//! From what was written to types that cannot be wrong. Pure.
//!
//! The API server has checked the schema by now; here is checked what a schema
//! cannot say: what Secrets hold, what goes together, what is not built yet,
//! and, by the proxies' own code, every setting that they would refuse. A
//! manifest that a proxy would refuse never reaches one.

mod settings;
mod tls;

use std::{collections::BTreeMap, time::Duration};

use proxy_core::config::balancer;

use super::{
    Fault, Place, build,
    dereference::{Dereferenced, SecretData, SecretValue},
};
pub(crate) use settings::mode;

use crate::{
    api::{self, PoolMode, PoolState, TlsMode},
    webhook::{Webhook, WebhookPolicy},
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
    /// Time between two full resynchronisations.
    pub monitoring_interval: Duration,
    /// Who is told.
    pub channels: Vec<Channel>,
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
#[derive(Clone, Copy, Debug)]
pub struct Poolers {
    /// How many, at least 1.
    pub replicas: u32,
    /// Over how long one that ends closes its sessions.
    pub drain_timeout: Duration,
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
        let (faults, warnings) = settings::judged_by_the_proxies(&cluster, input);
        validator.faults = faults;
        cluster.warnings = warnings;
    }
    if validator.faults.is_empty() {
        Ok(cluster)
    } else {
        Err(validator.faults)
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
            },
            balancer: self.balancer(&spec.balancer),
            client_tls: self.client_tls(&spec.tls.client),
            service_port: self.number("spec.service.port", spec.service.port),
            monitoring_interval: spec.monitoring.interval.0,
            channels: self.channels(&spec.notifications, policy),
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

    fn databases(&mut self, databases: &[api::Database], upstream: &HostPort) -> Vec<Database> {
        let mut validated = Vec::with_capacity(databases.len());
        for (index, database) in databases.iter().enumerate() {
            let path = format!("spec.databases[{index}]");
            if database.name == "*" && database.database.is_some() {
                self.fault(
                    format!("{path}.database"),
                    "does not go with the name *, which stands for many databases",
                );
            }
            let mut settings = settings::List::new(&path);
            settings.add("pool_mode", "mode", database.mode.map(mode));
            settings.add("pool_size", "poolSize", database.pool_size);
            settings.add("min_pool_size", "minPoolSize", database.min_pool_size);
            settings.add(
                "reserve_pool_size",
                "reservePoolSize",
                database.reserve_pool_size,
            );
            settings.add(
                "max_db_connections",
                "maxConnections",
                database.max_connections,
            );
            let own = settings::parameters(
                &mut self.faults,
                &format!("{path}.parameters"),
                &database.parameters,
                settings::DATABASE_FIELDS,
            );
            validated.push(Database {
                name: database.name.clone(),
                upstream_name: database.database.clone(),
                address: HostPort {
                    host: database
                        .host
                        .clone()
                        .unwrap_or_else(|| upstream.host.clone()),
                    port: match database.port {
                        Some(port) => self.number(&format!("{path}.port"), port),
                        None => upstream.port,
                    },
                },
                settings: settings.with(own),
            });
        }
        validated
    }

    fn users(&mut self, users: &[api::User]) -> Vec<User> {
        let mut validated = Vec::with_capacity(users.len());
        for (index, user) in users.iter().enumerate() {
            let path = format!("spec.users[{index}]");
            let mut settings = settings::List::new(&path);
            settings.add("pool_mode", "mode", user.mode.map(mode));
            settings.add("pool_size", "poolSize", user.pool_size);
            settings.add(
                "max_user_connections",
                "maxConnections",
                user.max_connections,
            );
            settings.add(
                "max_user_client_connections",
                "maxClientConnections",
                user.max_client_connections,
            );
            let own = settings::parameters(
                &mut self.faults,
                &format!("{path}.parameters"),
                &user.parameters,
                settings::USER_FIELDS,
            );
            validated.push(User {
                name: user.name.clone(),
                settings: settings.with(own),
            });
        }
        validated
    }

    fn pool(&mut self, pool: &api::Pool) -> Pool {
        Pool {
            mode: pool.mode,
            default_pool_size: self.number("spec.pool.defaultPoolSize", pool.default_pool_size),
            max_client_connections: self.number(
                "spec.pool.maxClientConnections",
                pool.max_client_connections,
            ),
            settings: settings::parameters(
                &mut self.faults,
                "spec.pool.parameters",
                &pool.parameters,
                settings::POOL_FIELDS,
            ),
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

    fn channels(
        &mut self,
        notifications: &[api::Notification],
        policy: &WebhookPolicy,
    ) -> Vec<Channel> {
        let mut channels = Vec::with_capacity(notifications.len());
        for (index, notification) in notifications.iter().enumerate() {
            let path = format!("spec.notifications[{index}].slack");
            let Some(secret) = &notification.slack.webhook_url_secret_ref else {
                self.fault(
                    format!("{path}.botTokenSecretRef"),
                    "not supported yet; use webhookUrlSecretRef",
                );
                continue;
            };
            let path = format!("{path}.webhookUrlSecretRef");
            let faults_before = self.faults.len();
            let value = self.secret(&path, &secret.name, &secret.key);
            if self.faults.len() > faults_before {
                continue;
            }
            match Webhook::parse(value.text().unwrap_or_default(), policy) {
                Ok(webhook) => channels.push(Channel {
                    name: notification.name.clone(),
                    webhook,
                    send_resolved: notification.send_resolved,
                }),
                Err(message) => self.faults.push(Fault {
                    place: Place::Secret {
                        name: secret.name.clone(),
                        key: secret.key.clone(),
                        line: 1,
                    },
                    message: format!("the webhook's URL {message}"),
                }),
            }
        }
        channels
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
