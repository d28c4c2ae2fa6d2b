//! What a pool connects to and how its clients are treated.

use std::{sync::Arc, time::Duration};

use proxy_core::config::{Database, PoolMode, PoolerConfig, Secret, pooler::PoolSettings};

use crate::pooler::tls::Connector;

/// What a pool connects to and how its clients are treated; replaced by a reload.
#[derive(Clone, Debug)]
pub(in crate::pooler) struct Settings {
    /// Servers opened under an earlier one are to be replaced.
    pub(in crate::pooler) generation: u64,
    pub(in crate::pooler) pool: PoolSettings,
    /// A name, an address, or the directory of a Unix socket.
    pub(in crate::pooler) host: String,
    pub(in crate::pooler) port: u16,
    /// With or without TLS.
    pub(in crate::pooler) connector: Arc<Connector>,
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
        connector: &Arc<Connector>,
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
            generation: 0,
            pool: config.pool(entry, user),
            host: entry
                .host
                .clone()
                .unwrap_or_else(|| global.unix_socket_dir.clone()),
            port: entry.port,
            connector: connector.clone(),
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

    /// The same, with all servers to be replaced.
    pub(super) fn renewed(&self) -> Self {
        Self {
            generation: self.generation + 1,
            ..self.clone()
        }
    }

    /// These, in place of `old`.
    pub(super) fn after(self, old: &Self) -> Self {
        let generation = old.generation + u64::from(!self.fit_servers_of(old));
        Self { generation, ..self }
    }

    /// Whether servers opened under `old` would be opened in the same way now.
    fn fit_servers_of(&self, old: &Self) -> bool {
        // Taken apart by name: whether a new field matters must be decided.
        let Self {
            generation: _,
            pool: _,
            host,
            port,
            connector,
            dbname,
            server_user,
            secret,
            connect_query,
            startup,
            reset_query: _,
            reset_always: _,
            check_query: _,
            check_delay: _,
            max_prepared_statements,
        } = old;
        self.host == *host
            && self.port == *port
            && self.connector == *connector
            && self.dbname == *dbname
            && self.server_user == *server_user
            && self.secret == *secret
            && self.connect_query == *connect_query
            && self.startup == *startup
            && self.max_prepared_statements == *max_prepared_statements
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
