//! Which databases, users and pools there are. Under one lock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use proxy_core::{
    config::{
        PoolerConfig,
        pooler::{PoolSettings, Via},
    },
    pool::{Budget, Limits, Moment},
};

use super::{AUTO_POOLS_MAX, NotAdmitted, PoolInfo, Settings};
use crate::pooler::tls::Connector;

#[derive(Debug)]
pub(super) struct Table {
    /// How servers are connected to.
    pub(super) connector: Arc<Connector>,
    /// Pools there have been.
    pub(super) made: usize,
    pub(super) databases: HashMap<String, DatabaseState>,
    pub(super) users: HashMap<String, Arc<Budget>>,
    /// Clients logged in, by the name they gave.
    pub(super) clients_by_user: HashMap<String, u32>,
}

#[derive(Debug)]
pub(super) struct DatabaseState {
    pub(super) budget: Arc<Budget>,
    pub(super) paused: bool,
    pub(super) via: Via,
    /// By user.
    pub(super) pools: BTreeMap<String, Arc<PoolInfo>>,
    /// PostgreSQL says that there is no such database.
    pub(super) missing: bool,
    /// Since when it has been seen without clients and servers.
    pub(super) unused_since: Option<Moment>,
}

impl DatabaseState {
    pub(super) fn new(limit: u32, via: Via) -> Self {
        Self {
            budget: Arc::new(Budget::new(limit)),
            paused: false,
            via,
            pools: BTreeMap::new(),
            missing: false,
            unused_since: None,
        }
    }

    pub(super) fn clients(&self) -> u32 {
        let pools = self.pools.values();
        pools.map(|info| info.clients.load(Ordering::SeqCst)).sum()
    }

    /// Whether it can be forgotten: clients chose its name, and nobody needs it.
    pub(super) fn is_spare(&self) -> bool {
        self.via == Via::Fallback && !self.paused && !self.pools.values().any(|it| it.is_used())
    }

    /// Servers to keep open: of a database without an entry only for clients.
    pub(super) fn size_min(&self, info: &PoolInfo, settings: &Settings) -> u32 {
        let kept = self.via == Via::Name || info.clients.load(Ordering::SeqCst) > 0;
        if kept { settings.pool.min_pool_size } else { 0 }
    }

    pub(super) fn reconfigure(
        &self,
        info: &PoolInfo,
        config: &PoolerConfig,
        connector: &Arc<Connector>,
    ) {
        // A database that is gone keeps its settings for the clients it has.
        let Some(settings) = Settings::new(config, connector, &info.database, &info.user) else {
            return self.keep_minimum(info);
        };
        let size_min = self.size_min(info, &settings);
        info.shared.set_limits(limits(&settings, config, size_min));
        // What was wrong may have been mended.
        info.shared.retry_now();
        info.db_budget.set_limit(settings.pool.max_db_connections);
        info.user_budget
            .set_limit(settings.pool.max_user_connections);
        info.set_settings(settings.after(&info.settings()));
    }

    pub(super) fn keep_minimum(&self, info: &PoolInfo) {
        let size_min = self.size_min(info, &info.settings());
        info.shared.set_size_min(size_min);
    }
}

impl Table {
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            made: 0,
            databases: HashMap::new(),
            users: HashMap::new(),
            clients_by_user: HashMap::new(),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<PoolInfo>> {
        self.databases
            .values()
            .flat_map(|state| state.pools.values())
    }

    pub(super) fn pool(&self, database: &str, user: &str) -> Option<&Arc<PoolInfo>> {
        self.databases.get(database)?.pools.get(user)
    }

    pub(super) fn check_clients(
        &self,
        limits: &PoolSettings,
        database: &str,
        user: &str,
    ) -> Result<(), NotAdmitted> {
        let state = self.databases.get(database);
        let max = limits.max_db_client_connections;
        if max > 0 && state.map_or(0, DatabaseState::clients) >= max {
            let setting = "max_db_client_connections";
            return Err(NotAdmitted::Clients { setting, max });
        }
        let of_user = self.clients_by_user.get(user).copied().unwrap_or_default();
        let max = limits.max_user_client_connections;
        if max > 0 && of_user >= max {
            let setting = "max_user_client_connections";
            return Err(NotAdmitted::Clients { setting, max });
        }
        Ok(())
    }

    /// Makes room for one more pool of a database without an entry.
    pub(super) fn make_room(&mut self) -> Result<(), NotAdmitted> {
        let auto = self.databases.values();
        let auto = auto.filter(|state| state.via == Via::Fallback);
        if auto.map(|state| state.pools.len()).sum::<usize>() < AUTO_POOLS_MAX {
            return Ok(());
        }
        let spare = self.databases.iter();
        let spare = spare.filter(|(_, state)| state.is_spare() && !state.pools.is_empty());
        let longest = spare.min_by_key(|(_, state)| state.unused_since.unwrap_or(Moment(u64::MAX)));
        let name = longest.map(|(name, _)| name.clone());
        self.forget(&[name.ok_or(NotAdmitted::AutoPools)?]);
        Ok(())
    }

    /// Forgets databases with their pools, and users who have no pool any more.
    pub(super) fn forget(&mut self, databases: &[String]) {
        for database in databases {
            tracing::debug!(database = database.as_str(), "pools forgotten");
            let state = self.databases.remove(database);
            for info in state.iter().flat_map(|state| state.pools.values()) {
                info.forgotten.store(true, Ordering::SeqCst);
            }
        }
        let pools = self.databases.values().flat_map(|state| &state.pools);
        let users: HashSet<&String> = pools.map(|(user, _)| user).collect();
        self.users.retain(|user, _| users.contains(user));
    }

    /// Forgets a database that PostgreSQL does not have, once nobody needs it.
    pub(super) fn forget_if_missing(&mut self, database: &str) {
        let state = self.databases.get(database);
        if state.is_some_and(|state| state.missing && state.is_spare()) {
            self.forget(&[database.to_owned()]);
        }
    }
}

pub(super) fn limits(settings: &Settings, config: &PoolerConfig, size_min: u32) -> Limits {
    Limits {
        size: settings.pool.pool_size,
        size_min,
        reserve: settings.pool.reserve_pool_size,
        reserve_after: config.global.reserve_pool_timeout,
        login_retry: config.global.server_login_retry,
    }
}
