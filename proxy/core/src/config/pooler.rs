//! The pooler's configuration: pgbouncer.ini and userlist.txt, read and checked.

mod check;
mod load;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub use load::load;

use super::{Database, Global, Peer, PoolMode, Problem, User, Userlist, ini::Place};
use crate::shared_key::SharedKey;

/// The console's name: no database may have it.
pub const CONSOLE: &str = "pgbouncer";

/// The entry for databases that have none of their own.
const FALLBACK: &str = "*";

/// Everything the pooler is told, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolerConfig {
    /// Section `[pgbouncer]`.
    pub global: Global,
    /// Section `[databases]`, by the name clients use; `*` is the fallback.
    pub databases: BTreeMap<String, Database>,
    /// Section `[users]`.
    pub users: BTreeMap<String, User>,
    /// Section `[peers]`, by peer id.
    pub peers: BTreeMap<u16, Peer>,
    /// `auth_file`.
    pub userlist: Userlist,
    /// What is in `shared_key_file`.
    pub shared_key: Option<SharedKey>,
    /// What is accepted and yet worth a look, by file and line.
    pub warnings: Vec<Problem>,
    /// Where the keys of section `[pgbouncer]` are set.
    places: BTreeMap<&'static str, Place>,
    /// Where the file begins: the place of keys that are not set.
    start: Place,
}

/// How a database was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By its own entry.
    Name,
    /// By the entry `*`.
    Fallback,
}

/// What holds for one pool and its clients, inheritance done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// When a server goes back to the pool.
    pub pool_mode: PoolMode,
    /// Servers of the pool.
    pub pool_size: u32,
    /// Servers kept open, at most `pool_size`.
    pub min_pool_size: u32,
    /// Servers beyond `pool_size` after a long wait.
    pub reserve_pool_size: u32,
    /// Servers of the database, 0 for no limit.
    pub max_db_connections: u32,
    /// Clients of the database, 0 for no limit.
    pub max_db_client_connections: u32,
    /// Servers of the pool's user, 0 for no limit.
    pub max_user_connections: u32,
    /// Clients of the client's user, 0 for no limit.
    pub max_user_client_connections: u32,
    /// Age at which an unused server is closed.
    pub server_lifetime: Duration,
    /// Longest query, zero for no limit.
    pub query_timeout: Duration,
    /// Longest wait for a server, zero for no limit.
    pub query_wait_timeout: Duration,
    /// Longest idleness outside a transaction, zero for no limit.
    pub client_idle_timeout: Duration,
    /// Longest idleness inside a transaction, zero for no limit.
    pub idle_transaction_timeout: Duration,
    /// Longest transaction, zero for no limit.
    pub transaction_timeout: Duration,
}

impl PoolerConfig {
    /// What was found wrong with `key` of section `[pgbouncer]` only after the
    /// files were read, at the line that sets it.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        self.places.get(key).unwrap_or(&self.start).problem(message)
    }

    /// The entry that serves clients of database `name`, by name or by `*`.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<(&Database, Via)> {
        match self.databases.get(name) {
            Some(database) => Some((database, Via::Name)),
            None => Some((self.databases.get(FALLBACK)?, Via::Fallback)),
        }
    }

    /// What holds for clients of `user` in `database`.
    ///
    /// A user's own setting comes before the database's, the database's before
    /// section `[pgbouncer]`'s. Limits of servers are those of the user who logs
    /// in to PostgreSQL, which a database may force; limits of clients are those
    /// of the client's user.
    #[must_use]
    pub fn pool(&self, database: &Database, user: &str) -> PoolSettings {
        let global = &self.global;
        let none = User::default();
        let client = self.users.get(user).unwrap_or(&none);
        let server = match &database.user {
            Some(forced) => self.users.get(forced).unwrap_or(&none),
            None => client,
        };
        let pool_size = server
            .pool_size
            .or(database.pool_size)
            .unwrap_or(global.default_pool_size);
        PoolSettings {
            pool_mode: server
                .pool_mode
                .or(database.pool_mode)
                .unwrap_or(global.pool_mode),
            pool_size,
            min_pool_size: database
                .min_pool_size
                .unwrap_or(global.min_pool_size)
                .min(pool_size),
            reserve_pool_size: server
                .reserve_pool_size
                .or(database.reserve_pool_size)
                .unwrap_or(global.reserve_pool_size),
            max_db_connections: database
                .max_db_connections
                .unwrap_or(global.max_db_connections),
            max_db_client_connections: database
                .max_db_client_connections
                .unwrap_or(global.max_db_client_connections),
            max_user_connections: server
                .max_user_connections
                .unwrap_or(global.max_user_connections),
            max_user_client_connections: client
                .max_user_client_connections
                .unwrap_or(global.max_user_client_connections),
            server_lifetime: database.server_lifetime.unwrap_or(global.server_lifetime),
            query_timeout: client.query_timeout.unwrap_or(global.query_timeout),
            query_wait_timeout: client
                .query_wait_timeout
                .or(database.query_wait_timeout)
                .unwrap_or(global.query_wait_timeout),
            client_idle_timeout: client
                .client_idle_timeout
                .unwrap_or(global.client_idle_timeout),
            idle_transaction_timeout: client
                .idle_transaction_timeout
                .unwrap_or(global.idle_transaction_timeout),
            transaction_timeout: client
                .transaction_timeout
                .unwrap_or(global.transaction_timeout),
        }
    }

    /// Keys whose new value only a restart applies.
    #[must_use]
    pub fn changes_needing_restart(&self, newer: &Self) -> Vec<&'static str> {
        self.global
            .changes(&newer.global)
            .into_iter()
            .filter(|setting| !setting.changeable)
            .map(|setting| setting.name)
            .collect()
    }
}
