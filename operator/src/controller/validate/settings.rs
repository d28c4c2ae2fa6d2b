//! Settings of pgbouncer.ini inside a manifest.

use std::{collections::BTreeMap, io, path::Path};

use proxy_core::config::{
    Global, Problem, balancer, pooler,
    settings::{DATABASE_KEYS, SETTINGS, USER_KEYS},
};

use super::{Setting, ValidatedCluster};
use crate::{
    api::{ParameterValue, PoolMode},
    controller::{Fault, FaultKind, build},
};

/// Why a key is not taken among `parameters`.
pub(super) enum Instead {
    /// It has a field of its own.
    Field(&'static str),
    /// Something else.
    Because(&'static str),
}

use Instead::{Because, Field};

const BY_OPERATOR: Instead = Because("is set by the operator");
const ONE_FILE: Instead = Because("would be one file for all poolers");

/// Keys of section `[pgbouncer]` that are not parameters.
pub(super) const POOL_FIELDS: &[(&str, Instead)] = &[
    ("pool_mode", Field("spec.pool.mode")),
    ("default_pool_size", Field("spec.pool.defaultPoolSize")),
    ("min_pool_size", Field("spec.pool.minPoolSize")),
    ("reserve_pool_size", Field("spec.pool.reservePoolSize")),
    (
        "reserve_pool_timeout",
        Field("spec.pool.reservePoolTimeout"),
    ),
    ("max_client_conn", Field("spec.pool.maxClientConnections")),
    (
        "max_server_connections",
        Field("spec.pool.maxServerConnections"),
    ),
    ("query_wait_timeout", Field("spec.pool.queryWaitTimeout")),
    ("server_idle_timeout", Field("spec.pool.serverIdleTimeout")),
    ("server_lifetime", Field("spec.pool.serverLifetime")),
    ("paused", Field("spec.pool.state")),
    ("auth_type", Field("spec.auth.type")),
    ("auth_file", Field("spec.auth.userlistSecretRef")),
    ("drain_timeout", Field("spec.poolers.drainTimeout")),
    ("client_tls_sslmode", Field("spec.tls.client.mode")),
    (
        "client_tls_cert_file",
        Field("spec.tls.client.certSecretRef"),
    ),
    (
        "client_tls_key_file",
        Field("spec.tls.client.certSecretRef"),
    ),
    ("client_tls_ca_file", Field("spec.tls.client.caSecretRef")),
    ("server_tls_sslmode", Field("spec.tls.server.mode")),
    ("server_tls_ca_file", Field("spec.tls.server.caSecretRef")),
    (
        "server_tls_cert_file",
        Field("spec.tls.server.certSecretRef"),
    ),
    (
        "server_tls_key_file",
        Field("spec.tls.server.certSecretRef"),
    ),
    ("listen_addr", BY_OPERATOR),
    ("listen_port", BY_OPERATOR),
    ("so_reuseport", BY_OPERATOR),
    ("http_addr", BY_OPERATOR),
    ("http_port", BY_OPERATOR),
    ("config_revision", BY_OPERATOR),
    ("peer_id", BY_OPERATOR),
    ("peer_discovery", BY_OPERATOR),
    ("peer_discovery_resolver", BY_OPERATOR),
    ("advertise_addr", BY_OPERATOR),
    ("proxy_protocol", BY_OPERATOR),
    ("conffile", BY_OPERATOR),
    ("reload_on_change", BY_OPERATOR),
    ("shared_key_file", BY_OPERATOR),
    ("user", BY_OPERATOR),
    ("logfile", ONE_FILE),
    ("pidfile", ONE_FILE),
    (
        "auth_hba_file",
        Because("is read with auth.type hba alone, which is not supported yet"),
    ),
    (
        "auth_ident_file",
        Because("is read with auth.type hba alone, which is not supported yet"),
    ),
];

/// Keys of a database that are not parameters.
pub(super) const DATABASE_FIELDS: &[(&str, Instead)] = &[
    ("host", Field("host")),
    ("port", Field("port")),
    ("dbname", Field("database")),
    ("pool_mode", Field("mode")),
    ("pool_size", Field("poolSize")),
    ("min_pool_size", Field("minPoolSize")),
    ("reserve_pool_size", Field("reservePoolSize")),
    ("reserve_pool", Field("reservePoolSize")),
    ("max_db_connections", Field("maxConnections")),
    ("max_db_client_connections", Field("maxClientConnections")),
    (
        "password",
        Because("is a secret and belongs into the user list, or users[].passwordSecretRef"),
    ),
];

/// Keys of a user that are not parameters.
pub(super) const USER_FIELDS: &[(&str, Instead)] = &[
    ("pool_mode", Field("mode")),
    ("pool_size", Field("poolSize")),
    ("reserve_pool_size", Field("reservePoolSize")),
    ("max_user_connections", Field("maxConnections")),
    ("max_user_client_connections", Field("maxClientConnections")),
];

/// The word of pgbouncer.ini.
pub(crate) const fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// Settings from fields below a path.
pub(super) struct List<'a> {
    path: &'a str,
    settings: Vec<Setting>,
}

impl<'a> List<'a> {
    pub(super) const fn new(path: &'a str) -> Self {
        Self {
            path,
            settings: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, key: &str, field: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.settings.push(Setting {
                key: key.to_owned(),
                value: value.to_string(),
                origin: format!("{}.{field}", self.path),
            });
        }
    }

    pub(super) fn with(mut self, more: Vec<Setting>) -> Vec<Setting> {
        self.settings.extend(more);
        self.settings
    }
}

/// The entries of a map of parameters that can be written into an ini file.
/// Whether the proxy knows them is asked later.
pub(super) fn parameters(
    faults: &mut Vec<Fault>,
    path: &str,
    parameters: &BTreeMap<String, ParameterValue>,
    fields: &[(&str, Instead)],
) -> Vec<Setting> {
    let mut settings = Vec::with_capacity(parameters.len());
    for (key, value) in parameters {
        let origin = format!("{path}.{key}");
        let value = value.to_string();
        let reserved = fields.iter().find(|(name, _)| name == key);
        let plain = key
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        match reserved {
            Some((_, Field(field))) => {
                faults.push(Fault::field(
                    origin,
                    format!("has a field of its own: {field}"),
                ));
            }
            Some((_, Because(reason))) => faults.push(Fault::field(origin, *reason)),
            None if !plain || key.is_empty() => faults.push(Fault::field(
                origin,
                "is not a key: keys are of a to z, 0 to 9 and _",
            )),
            None if value.chars().any(char::is_control) => {
                faults.push(Fault::field(origin, "must be a single line"));
            }
            None => settings.push(Setting {
                key: key.clone(),
                value,
                origin,
            }),
        }
    }
    settings
}

/// What the proxies' own configuration code says.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
    /// See [`ValidatedCluster::restart_only`].
    pub(super) restart_only: BTreeMap<&'static str, String>,
}

/// Has the proxies' own configuration code read the files that would be written.
pub(super) fn judged_by_the_proxies(cluster: &ValidatedCluster) -> Verdict {
    let tier = build::tier(cluster);
    let example = build::Realisation::example(&tier);
    let mut verdict = Verdict::default();
    let ini = build::pooler_ini(&tier, &example.pooler(0));
    let translate = |problem: &Problem| {
        let (line, message) = (problem.line, problem.message.clone());
        if problem.file.ends_with(build::USERLIST) {
            return Fault {
                kind: FaultKind::Invalid,
                place: cluster.userlist.place(line),
                message,
            };
        }
        let waits = ini.settings(line).iter().any(|(key, value)| {
            let tables = [SETTINGS, DATABASE_KEYS, USER_KEYS];
            let mut settings = tables.into_iter().flatten();
            settings.any(|setting| setting.name == key && setting.waits_for_support(value))
                && message.contains(key.as_str())
        });
        let kind = match waits {
            true => FaultKind::NotSupportedYet,
            false => FaultKind::Invalid,
        };
        let origin = ini.origin(line).unwrap_or("spec");
        Fault::field(origin, message).of_kind(kind)
    };
    let mut read = |path: &Path| {
        if path == Path::new(INI) {
            return Ok(ini.text.clone());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        tier.pooler
            .files
            .iter()
            .find(|file| file.name == name)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .and_then(|file| {
                let text = file.content.text();
                text.map(str::to_owned)
                    .ok_or_else(|| io::Error::other("is not UTF-8"))
            })
    };
    match pooler::load(Path::new(INI), &mut read) {
        Ok(config) => {
            verdict.warnings = config.warnings.iter().map(translate).collect();
            verdict.restart_only = restart_only(&tier, &config.global);
        }
        Err(problems) => verdict.faults = problems.iter().map(translate).collect(),
    }
    let yaml = build::balancer_yaml(&tier, &example.balancer(0));
    if let Err(problems) = balancer::parse("balancer.yaml", &yaml) {
        let problems = problems.into_iter();
        let faults = problems.map(|problem| Fault::field("spec.balancer", problem.message));
        verdict.faults.extend(faults);
    }
    verdict
}

/// Settings of the tier, not of where it runs, that only a restart applies.
/// Those with their default are left out, so that a setting that a later version
/// adds changes nothing here.
fn restart_only(tier: &build::Tier, global: &Global) -> BTreeMap<&'static str, String> {
    let of_the_tier = |key: &str| tier.pooler.settings.iter().any(|own| own.key == key);
    let changed = Global::default().changes(global);
    global
        .rows()
        .into_iter()
        .filter(|row| !row.changeable && of_the_tier(row.key))
        .filter(|row| changed.iter().any(|setting| setting.name == row.key))
        .map(|row| (row.key, row.value))
        .collect()
}

/// A file that exists in memory alone.
const INI: &str = "pooler.ini";
