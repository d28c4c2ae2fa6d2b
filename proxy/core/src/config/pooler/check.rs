//! What no key shows by itself: settings that contradict each other.

use super::{AuthType, Loader, needs_userlist, without_effect};
use crate::config::{Global, Secret, SslMode, excerpt};

pub(super) fn check(loader: &mut Loader) {
    if !loader.has_main_section {
        let place = loader.start.clone();
        loader.problem(&place, "section [pgbouncer] is missing".to_owned());
        return;
    }
    effects(loader);
    listening(loader);
    authentication(loader);
    tls(loader);
    pools(loader);
}

/// Warns of keys that are set and change nothing.
fn effects(loader: &mut Loader) {
    for setting in Global::default().changes(&loader.config.global) {
        if let Some(reason) = without_effect(setting) {
            let place = loader.place(setting.name);
            loader.warn(&place, format!("{} has no effect: {reason}", setting.name));
        }
    }
}

fn listening(loader: &mut Loader) {
    let global = &loader.config.global;
    if global.listen_addr.is_empty() && global.unix_socket_dir.is_empty() {
        let place = loader.place("listen_addr");
        loader.problem(
            &place,
            "nowhere to listen: listen_addr and unix_socket_dir are both empty".to_owned(),
        );
    }
    if loader.config.databases.is_empty() {
        let place = loader.start.clone();
        loader.warn(
            &place,
            "section [databases] is empty, only the console can be reached".to_owned(),
        );
    }
    if loader.config.global.peer_id == 0 && !loader.config.peers.is_empty() {
        let place = loader.place("peer_id");
        loader.warn(
            &place,
            "peer_id is 0, so that [peers] is not used".to_owned(),
        );
    }
}

fn authentication(loader: &mut Loader) {
    let auth_type = loader.config.global.auth_type;
    let place = loader.place("auth_type");
    if needs_userlist(auth_type) && loader.config.global.auth_file.is_none() {
        loader.problem(
            &place,
            format!("auth_type = {auth_type} needs auth_file, without it nobody can log in"),
        );
    }
    if auth_type == AuthType::Any {
        let names: Vec<String> = loader
            .config
            .databases
            .iter()
            .filter(|(_, database)| database.user.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let place = loader.entry_place(super::Section::Databases, &name);
            loader.problem(
                &place,
                format!(
                    "{}: auth_type = any needs user= in every database",
                    excerpt(&name)
                ),
            );
        }
    }
    if auth_type == AuthType::ScramSha256 {
        let unusable = loader
            .config
            .userlist
            .users()
            .filter(|(_, secret)| matches!(secret, Secret::Md5(_)))
            .count();
        if unusable > 0 {
            loader.warn(
                &place,
                format!(
                    "auth_type = scram-sha-256 cannot use md5 secrets: {unusable} of {} users in auth_file cannot log in",
                    loader.config.userlist.len()
                ),
            );
        }
    }
}

fn tls(loader: &mut Loader) {
    let global = &loader.config.global;
    let mode = global.client_tls_sslmode;
    if mode == SslMode::Disable {
        return;
    }
    let missing: Vec<&str> = [
        ("client_tls_key_file", &global.client_tls_key_file),
        ("client_tls_cert_file", &global.client_tls_cert_file),
    ]
    .into_iter()
    .filter(|(_, file)| file.is_none())
    .map(|(key, _)| key)
    .collect();
    if !missing.is_empty() {
        let place = loader.place("client_tls_sslmode");
        loader.problem(
            &place,
            format!(
                "client_tls_sslmode = {mode} needs {}",
                missing.join(" and ")
            ),
        );
    }
}

fn pools(loader: &mut Loader) {
    let global = loader.config.global.clone();
    if global.min_pool_size > global.default_pool_size {
        let message = format!(
            "min_pool_size = {} is more than default_pool_size = {}, which limits it",
            global.min_pool_size, global.default_pool_size
        );
        let place = loader.place("min_pool_size");
        loader.warn(&place, message);
    }
    let mut warnings = Vec::new();
    for (name, database) in &loader.config.databases {
        let size = database.pool_size.unwrap_or(global.default_pool_size);
        if let Some(min) = database.min_pool_size.filter(|min| *min > size) {
            warnings.push((
                name.clone(),
                format!("min_pool_size = {min} is more than its pool size {size}, which limits it"),
            ));
        }
        if let Some(user) = &database.user
            && database.password.is_none()
            && matches!(loader.config.userlist.secret(user), Some(Secret::Scram(_)))
        {
            warnings.push((
                name.clone(),
                format!(
                    "user {} has only a SCRAM verifier in auth_file, which cannot log in to PostgreSQL; add password=",
                    excerpt(user)
                ),
            ));
        }
    }
    for (name, message) in warnings {
        let place = loader.entry_place(super::Section::Databases, &name);
        loader.warn(&place, format!("{}: {message}", excerpt(&name)));
    }
}
