//! The pools: their settings, and databases and users with settings of their
//! own.

use super::{
    Database, HostPort, Pool, User, Validator,
    settings::{self, mode},
};
use crate::api;

impl Validator<'_> {
    pub(super) fn databases(
        &mut self,
        databases: &[api::Database],
        upstream: &HostPort,
    ) -> Vec<Database> {
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

    pub(super) fn users(&mut self, users: &[api::User]) -> Vec<User> {
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

    pub(super) fn pool(&mut self, pool: &api::Pool) -> Pool {
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
}
