//! What no key shows by itself: settings that contradict each other.

use super::{
    PoolerConfig,
    load::{Findings, Places, Section},
};
use crate::config::{
    AuthType, Database, Global, Peer, ProxyProtocol, Secret, SslMode, TlsProtocols, User, excerpt,
    settings::{Setting, Support},
};

pub(super) fn check(config: &PoolerConfig, places: &Places, findings: &mut Findings) {
    effects(config, places, findings);
    listening(config, places, findings);
    authentication(config, places, findings);
    client_tls(&config.global, places, findings);
    server_tls(&config.global, places, findings);
    proxy_protocol(&config.global, places, findings);
    peers(config, places, findings);
    pools(config, places, findings);
}

fn proxy_protocol(global: &Global, places: &Places, findings: &mut Findings) {
    if global.proxy_protocol == ProxyProtocol::Mac && global.shared_key_file.is_none() {
        findings.problem(
            places.key("proxy_protocol"),
            "proxy_protocol = mac needs shared_key_file, the key that balancers prove their headers with",
        );
    }
}

/// Warns of keys that are set and change nothing.
fn effects(config: &PoolerConfig, places: &Places, findings: &mut Findings) {
    for (key, text) in without_effect(Global::default().changes(&config.global)) {
        findings.warn(places.key(key), text);
    }
    let mut entry = |section, name: &str, changes| {
        for (_, text) in without_effect(changes) {
            let place = places.entry(section, name);
            findings.warn(place, format!("{}: {text}", excerpt(name)));
        }
    };
    for (name, database) in &config.databases {
        entry(
            Section::Databases,
            name,
            Database::default().changes(database),
        );
    }
    for (name, user) in &config.users {
        entry(Section::Users, name, User::default().changes(user));
    }
    for (id, peer) in &config.peers {
        entry(
            Section::Peers,
            &id.to_string(),
            Peer::default().changes(peer),
        );
    }
}

/// Those of the keys that change nothing, and why.
fn without_effect(keys: Vec<&'static Setting>) -> impl Iterator<Item = (&'static str, String)> {
    keys.into_iter()
        .filter_map(|setting| match setting.support {
            Support::NoEffect(reason) => Some((
                setting.name,
                format!("{} has no effect: {reason}", setting.name),
            )),
            _ => None,
        })
}

fn listening(config: &PoolerConfig, places: &Places, findings: &mut Findings) {
    let global = &config.global;
    if places.right(&["listen_addr", "unix_socket_dir"])
        && global.listen_addr.is_empty()
        && global.unix_socket_dir.is_empty()
    {
        findings.problem(
            places.key("listen_addr"),
            "nowhere to listen: listen_addr and unix_socket_dir are both empty",
        );
    }
    if config.databases.is_empty() {
        findings.warn(
            &places.start,
            "section [databases] is empty, only the console can be reached",
        );
    }
}

/// Peers are listed, or found by name; never both: each way numbers them.
fn peers(config: &PoolerConfig, places: &Places, findings: &mut Findings) {
    let global = &config.global;
    let Some(name) = &global.peer_discovery else {
        if global.peer_id == 0 && !config.peers.is_empty() {
            findings.warn(
                places.key("peer_id"),
                "peer_id is 0, so that [peers] is not used",
            );
        }
        if places.right(&["peer_discovery"]) {
            for (key, set) in [
                ("advertise_addr", global.advertise_addr.is_some()),
                (
                    "peer_discovery_resolver",
                    global.peer_discovery_resolver.is_some(),
                ),
            ] {
                if set {
                    let text = format!("{key} has no effect without peer_discovery");
                    findings.warn(places.key(key), text);
                }
            }
        }
        return;
    };
    if global.peer_id != 0 {
        findings.problem(
            places.key("peer_id"),
            format!(
                "peer_id = {} beside peer_discovery, with which poolers number themselves; remove one of the two",
                global.peer_id
            ),
        );
    }
    if let Some(id) = config.peers.keys().next() {
        findings.problem(
            places.entry(Section::Peers, &id.to_string()),
            "[peers] beside peer_discovery, which finds them; remove one of the two",
        );
    }
    let own_port = global.advertise_addr.is_some_and(|own| own.port.is_some());
    if global.listen_port == 0
        && (name.port.is_none() || !own_port)
        && places.right(&["listen_port", "advertise_addr"])
    {
        findings.problem(
            places.key("peer_discovery"),
            "peer_discovery with listen_port = 0 needs the ports: in peer_discovery, and in advertise_addr",
        );
    }
}

fn authentication(config: &PoolerConfig, places: &Places, findings: &mut Findings) {
    if !places.right(&["auth_type", "auth_file"]) {
        return;
    }
    let auth_type = config.global.auth_type;
    let place = places.key("auth_type");
    match auth_type {
        AuthType::Trust | AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 => {
            if config.global.auth_file.is_none() {
                findings.problem(
                    place,
                    format!(
                        "auth_type = {auth_type} needs auth_file, without it nobody can log in"
                    ),
                );
            }
        }
        AuthType::Any => {
            for (name, database) in &config.databases {
                if database.user.is_none() {
                    findings.problem(
                        places.entry(Section::Databases, name),
                        format!(
                            "{}: auth_type = any needs user= in every database",
                            excerpt(name)
                        ),
                    );
                }
            }
        }
        AuthType::Cert | AuthType::Hba | AuthType::Pam | AuthType::Ldap => {}
    }
    if auth_type == AuthType::ScramSha256 {
        let unusable = config
            .userlist
            .users()
            .filter(|(_, secret)| matches!(secret, Some(Secret::Md5(_))))
            .count();
        if unusable > 0 {
            findings.warn(
                place,
                format!(
                    "auth_type = scram-sha-256 cannot use md5 secrets: {unusable} of {} users in auth_file cannot log in",
                    config.userlist.len()
                ),
            );
        }
    }
}

fn client_tls(global: &Global, places: &Places, findings: &mut Findings) {
    let mode = global.client_tls_sslmode;
    if mode == SslMode::Disable || !places.right(&["client_tls_sslmode"]) {
        return;
    }
    let files = [
        ("client_tls_key_file", &global.client_tls_key_file),
        ("client_tls_cert_file", &global.client_tls_cert_file),
    ];
    let missing: Vec<&str> = files
        .into_iter()
        .filter(|(_, file)| file.is_none())
        .map(|(key, _)| key)
        .collect();
    if !missing.is_empty() {
        findings.problem(
            places.key("client_tls_sslmode"),
            format!(
                "client_tls_sslmode = {mode} needs {}",
                missing.join(" and ")
            ),
        );
    }
    older_protocols(
        "client_tls_protocols",
        global.client_tls_protocols,
        places,
        findings,
    );
}

fn server_tls(global: &Global, places: &Places, findings: &mut Findings) {
    let mode = global.server_tls_sslmode;
    if mode == SslMode::Disable || !places.right(&["server_tls_sslmode"]) {
        return;
    }
    let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    if verifies && global.server_tls_ca_file.is_none() {
        findings.problem(
            places.key("server_tls_sslmode"),
            format!("server_tls_sslmode = {mode} needs server_tls_ca_file"),
        );
    }
    let (cert, key) = ("server_tls_cert_file", "server_tls_key_file");
    let lonely = match (&global.server_tls_cert_file, &global.server_tls_key_file) {
        (Some(_), None) => Some((cert, key)),
        (None, Some(_)) => Some((key, cert)),
        _ => None,
    };
    if let Some((set, missing)) = lonely {
        findings.problem(places.key(set), format!("{set} needs {missing}"));
    }
    older_protocols(
        "server_tls_protocols",
        global.server_tls_protocols,
        places,
        findings,
    );
}

fn older_protocols(
    key: &'static str,
    protocols: TlsProtocols,
    places: &Places,
    findings: &mut Findings,
) {
    if protocols.older {
        findings.warn(
            places.key(key),
            format!("{key} names tlsv1.0 or tlsv1.1, which are never spoken"),
        );
    }
}

fn pools(config: &PoolerConfig, places: &Places, findings: &mut Findings) {
    let global = &config.global;
    let default_size = global.default_pool_size;
    if global.min_pool_size > default_size {
        findings.warn(
            places.key("min_pool_size"),
            format!(
                "min_pool_size = {} is more than default_pool_size = {default_size}, which limits it",
                global.min_pool_size
            ),
        );
    }
    for (name, database) in &config.databases {
        let place = places.entry(Section::Databases, name);
        let size = database.pool_size.unwrap_or(default_size);
        if let Some(min) = database.min_pool_size.filter(|min| *min > size) {
            findings.warn(
                place,
                format!(
                    "{}: min_pool_size = {min} is more than the pool size {size}, which limits it",
                    excerpt(name)
                ),
            );
        }
        if let Some(user) = &database.user
            && database.password.is_none()
            && matches!(config.userlist.secret(user), Some(Secret::Scram(_)))
        {
            findings.warn(
                place,
                format!(
                    "{}: user {} has only a SCRAM verifier in auth_file, which cannot log in to PostgreSQL; add password=",
                    excerpt(name),
                    excerpt(user)
                ),
            );
        }
    }
}
