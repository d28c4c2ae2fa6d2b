//! The pools: their settings, and databases and users with settings of their
//! own.

use super::{
    Database, HostPort, Pool, User, ValidatedCluster, Validator,
    settings::{self, mode},
    upstream::Upstream,
};
use crate::{
    api::{self, BudgetStatus},
    controller::{Fault, build},
};

impl Validator<'_> {
    pub(super) fn databases(
        &mut self,
        databases: &[api::Database],
        upstream: &Upstream,
    ) -> Vec<Database> {
        let mut validated = Vec::with_capacity(databases.len());
        for (index, database) in databases.iter().enumerate() {
            let path = format!("spec.databases[{index}]");
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
            settings.add(
                "max_db_client_connections",
                "maxClientConnections",
                database.max_client_connections,
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
                address_origin: match database.host.is_some() || database.port.is_some() {
                    true => path.clone(),
                    false => upstream.origin.clone(),
                },
                address: HostPort {
                    host: database
                        .host
                        .clone()
                        .unwrap_or_else(|| upstream.address.host.clone()),
                    port: match database.port {
                        Some(port) => self.number(&format!("{path}.port"), port),
                        None => upstream.address.port,
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
                "reserve_pool_size",
                "reservePoolSize",
                user.reserve_pool_size,
            );
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
        let path = "spec.pool";
        let seconds = |period: Option<api::Period>| period.map(|period| period.0.as_secs_f64());
        let mut settings = settings::List::new(path);
        settings.add("pool_mode", "mode", Some(mode(pool.mode)));
        settings.add(
            "default_pool_size",
            "defaultPoolSize",
            Some(pool.default_pool_size),
        );
        settings.add("min_pool_size", "minPoolSize", pool.min_pool_size);
        settings.add(
            "reserve_pool_size",
            "reservePoolSize",
            pool.reserve_pool_size,
        );
        settings.add(
            "reserve_pool_timeout",
            "reservePoolTimeout",
            seconds(pool.reserve_pool_timeout),
        );
        settings.add(
            "max_client_conn",
            "maxClientConnections",
            Some(pool.max_client_connections),
        );
        settings.add(
            "query_wait_timeout",
            "queryWaitTimeout",
            seconds(pool.query_wait_timeout),
        );
        settings.add(
            "server_idle_timeout",
            "serverIdleTimeout",
            seconds(pool.server_idle_timeout),
        );
        settings.add(
            "server_lifetime",
            "serverLifetime",
            seconds(pool.server_lifetime),
        );
        let paused = (pool.state == api::PoolState::Paused).then_some(1);
        settings.add("paused", "state", paused);
        let own = settings::parameters(
            &mut self.faults,
            &format!("{path}.parameters"),
            &pool.parameters,
            settings::POOL_FIELDS,
        );
        let limit = pool.max_server_connections;
        Pool {
            settings: settings.with(own),
            max_server_connections: limit
                .map(|limit| self.number(&format!("{path}.maxServerConnections"), limit)),
        }
    }

    /// Whether what pools may open fits what there is.
    pub(super) fn budget(&mut self, spec: &api::PgPoolClusterSpec, cluster: &ValidatedCluster) {
        self.share(spec, cluster);
        // What one pool could take is told above, or by the API's own rules.
        let BudgetStatus {
            server_connections: all,
            upstream_max_connections: Some(most),
        } = cluster.budget
        else {
            return;
        };
        if all > most && self.warnings.is_empty() {
            let message = format!(
                "the pools of its databases can open {all} connections together, more than upstream.maxConnections, {most}: set pool.maxServerConnections"
            );
            self.warnings.push(Fault::field("spec.databases", message));
        }
    }

    fn share(&mut self, spec: &api::PgPoolClusterSpec, cluster: &ValidatedCluster) {
        let pools = build::poolers_at_once(cluster.poolers.replicas);
        let size = i64::from(spec.pool.default_pool_size);
        let path = "spec.pool.maxServerConnections";
        let Some(limit) = cluster.pool.max_server_connections else {
            let all = size * i64::from(pools);
            if let Some(most) = spec.upstream.max_connections
                && all > i64::from(most)
            {
                let message = format!(
                    "would keep the tier within upstream.maxConnections, {most}: one database and user alone can open {size} in each of {pools} poolers, {all}"
                );
                self.warnings.push(Fault::field(path, message));
            }
            return;
        };
        let share = limit / pools;
        if share == 0 {
            let message = format!(
                "must be at least poolers.replicas + {}: as many poolers can be there at once while they are replaced, and each needs one",
                build::POOLERS_IN_CHANGE
            );
            self.fault(path, message);
        } else if i64::from(share) < size {
            let message =
                format!("gives each of {pools} poolers {share}, less than defaultPoolSize, {size}");
            self.warnings.push(Fault::field(path, message));
        }
    }
}

/// The most servers that all poolers open together, and what there is for them.
pub(super) fn budget(spec: &api::PgPoolClusterSpec, cluster: &ValidatedCluster) -> BudgetStatus {
    let poolers = i64::from(build::poolers_at_once(cluster.poolers.replicas));
    let pool = &spec.pool;
    let of_pool = |database: Option<&api::Database>, user: Option<&api::User>| {
        let size = user.and_then(|user| user.pool_size);
        let size = size.or_else(|| database?.pool_size);
        let reserve = user.and_then(|user| user.reserve_pool_size);
        let reserve = reserve.or_else(|| database?.reserve_pool_size);
        i64::from(size.unwrap_or(pool.default_pool_size))
            + i64::from(reserve.or(pool.reserve_pool_size).unwrap_or(0))
    };
    let of_database = |database: Option<&api::Database>| {
        let all = match spec.users.is_empty() {
            true => of_pool(database, None),
            false => {
                let users = spec.users.iter();
                users.map(|user| of_pool(database, Some(user))).sum()
            }
        };
        match database.and_then(|database| database.max_connections) {
            Some(most) if most > 0 => all.min(i64::from(most)),
            _ => all,
        }
    };
    let each: i64 = match spec.databases.is_empty() {
        true => of_database(None),
        false => {
            let databases = spec.databases.iter();
            databases.map(|one| of_database(Some(one))).sum()
        }
    };
    let limit = cluster.pool.max_server_connections.map(i64::from);
    BudgetStatus {
        server_connections: limit.unwrap_or(each * poolers),
        upstream_max_connections: spec.upstream.max_connections.map(i64::from),
    }
}
