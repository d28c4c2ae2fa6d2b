//! What a pooler is told: databases, users, settings, and files beside them.

use super::{
    CLIENT_AUTHORITY, Entry, File, OF_OURS, SERVER_AUTHORITY, SERVER_CERTIFICATE, SERVER_KEY,
    TLS_CERTIFICATE, TLS_KEY, USERLIST, poolers_at_once, setting,
};
use crate::controller::{
    dereference::SecretValue,
    validate::{ClientAuth, Database, HostPort, Setting, User, ValidatedCluster},
};

/// How often a pooler asks whether PostgreSQL answers.
const UPSTREAM_CHECK: &str = "upstream_check_interval";
/// Its value: seconds.
const UPSTREAM_CHECK_INTERVAL_S: u32 = 5;

pub(super) fn databases(cluster: &ValidatedCluster) -> Vec<Entry> {
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

pub(super) fn user((index, user): (usize, &User)) -> Entry {
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

pub(super) fn settings(cluster: &ValidatedCluster, poolers_seen: u32) -> Vec<Setting> {
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
        settings.push(setting("unix_socket_dir", "", OF_OURS));
    }
    // Its status is to tell whether PostgreSQL answers, also while nobody asks.
    if pool.settings.iter().all(|own| own.key != UPSTREAM_CHECK) {
        let own = setting(UPSTREAM_CHECK, &UPSTREAM_CHECK_INTERVAL_S, OF_OURS);
        settings.push(own);
    }
    if let Some(limit) = pool.max_server_connections {
        let poolers = match poolers_at_once(cluster.poolers.replicas) {
            // A new one may start beside all of these.
            wished if poolers_seen > wished => poolers_seen.saturating_add(1),
            wished => wished,
        };
        // 0 would mean no limit.
        let share = (limit / poolers).max(1);
        let origin = "spec.pool.maxServerConnections";
        settings.push(setting("max_server_connections", &share, origin));
    }
    settings.extend(pool.settings.iter().cloned());
    settings
}

pub(super) fn files(cluster: &ValidatedCluster) -> Vec<File> {
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
