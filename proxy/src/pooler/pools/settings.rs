//! What a pool connects to and how its clients are treated.

use std::time::Duration;

use proxy_core::config::{Database, PoolMode, PoolerConfig, Secret, pooler::PoolSettings};

/// What a pool connects to and how its clients are treated; replaced by a reload.
#[derive(Clone, Debug)]
pub(in crate::pooler) struct Settings {
    pub(in crate::pooler) pool: PoolSettings,
    /// A name, an address, or the directory of a Unix socket.
    pub(in crate::pooler) host: String,
    pub(in crate::pooler) port: u16,
    /// Name of the database on the server.
    pub(in crate::pooler) dbname: String,
    /// User on the server.
    pub(in crate::pooler) server_user: String,
    pub(in crate::pooler) secret: Option<Secret>,
    pub(in crate::pooler) connect_query: Option<String>,
    /// Start-up parameters that the database's entry asks for.
    pub(in crate::pooler) startup: Vec<(&'static str, String)>,
    pub(in crate::pooler) reset_query: String,
    pub(in crate::pooler) reset_always: bool,
    /// `None` for no check.
    pub(in crate::pooler) check_query: Option<String>,
    pub(in crate::pooler) check_delay: Duration,
    pub(in crate::pooler) max_prepared_statements: usize,
}

impl Settings {
    /// What holds for clients of `user` in `database`; `None` if no entry
    /// serves that database any more.
    pub(in crate::pooler) fn new(
        config: &PoolerConfig,
        database: &str,
        user: &str,
    ) -> Option<Self> {
        let (entry, _) = config.database(database)?;
        let server_user = entry.user.clone().unwrap_or_else(|| user.to_owned());
        let secret = entry
            .password
            .clone()
            .or_else(|| config.userlist.secret(&server_user).cloned());
        let global = &config.global;
        Some(Self {
            pool: config.pool(entry, user),
            host: entry
                .host
                .clone()
                .unwrap_or_else(|| global.unix_socket_dir.clone()),
            port: entry.port,
            dbname: entry.dbname.clone().unwrap_or_else(|| database.to_owned()),
            server_user,
            secret,
            connect_query: entry.connect_query.clone(),
            startup: startup_of(entry),
            reset_query: global.server_reset_query.clone(),
            reset_always: global.server_reset_query_always,
            check_query: match global.server_check_query.as_str() {
                "" => None,
                "<empty>" => Some(String::new()),
                sql => Some(sql.to_owned()),
            },
            check_delay: global.server_check_delay,
            max_prepared_statements: global.max_prepared_statements as usize,
        })
    }

    pub(in crate::pooler) fn follow_statements(&self) -> bool {
        self.pool.pool_mode != PoolMode::Session && self.max_prepared_statements > 0
    }
}

fn startup_of(entry: &Database) -> Vec<(&'static str, String)> {
    let parameters = [
        ("client_encoding", &entry.client_encoding),
        ("datestyle", &entry.datestyle),
        ("timezone", &entry.timezone),
        ("application_name", &entry.application_name),
    ];
    parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect()
}
