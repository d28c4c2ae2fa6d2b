//! The process's pools: one for each database and user that met.

mod info;
mod settings;
mod table;

pub(super) use info::{Failure, Known, PoolInfo};
pub(super) use settings::Settings;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use proxy_core::{
    config::{
        PoolerConfig,
        pooler::{CONSOLE, Via},
    },
    pool::{self, Budget, Moment, Obstacle},
    saturation::Reason,
    wire::SqlState,
};

use super::{shared::lock, tls::Connector, upstream::Upstreams};
use table::{DatabaseState, Table, limits};

/// What a database or a user has at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) servers: u32,
    pub(super) clients: u32,
    pub(super) paused: bool,
}

/// Why PAUSE or RESUME is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PauseError {
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    #[error("cannot pause admin db: {CONSOLE}")]
    Console,
    #[error("already suspended/paused")]
    AlreadyPaused,
    #[error("pooler is not paused/suspended")]
    NotPaused,
    #[error("database {0} is not paused")]
    DatabaseNotPaused(String),
}

/// Pools of databases without an entry of their own, at the same time: clients
/// choose their names.
const AUTO_POOLS_MAX: usize = 10_000;

/// Why a client gets no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAdmitted {
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    #[error("no more connections allowed: all {max} clients ({setting}) are connected")]
    Clients { setting: &'static str, max: u32 },
    #[error(
        "no more databases allowed: all {AUTO_POOLS_MAX} pools for databases without an entry are in use"
    )]
    AutoPools,
}

impl NotAdmitted {
    pub(super) fn code(&self) -> SqlState {
        match self {
            Self::NoSuchDatabase(_) => SqlState::INVALID_CATALOG_NAME,
            Self::Clients { .. } | Self::AutoPools => SqlState::TOO_MANY_CONNECTIONS,
        }
    }

    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::NoSuchDatabase(_) => {
                "The section [databases] of the pooler's configuration names those it serves."
            }
            Self::Clients { .. } => "",
            Self::AutoPools => {
                "Give databases entries of their own in the section [databases]: those are not counted."
            }
        }
    }
}

/// The table of pools.
#[derive(Debug)]
pub(super) struct Pools {
    threads: usize,
    table: Mutex<Table>,
    paused_all: AtomicBool,
    draining: AtomicBool,
    /// `max_server_connections`, of all pools.
    budget: Arc<Budget>,
}

impl Pools {
    pub(super) fn new(threads: usize, connector: Arc<Connector>) -> Self {
        Self {
            threads,
            table: Mutex::new(Table::new(connector)),
            paused_all: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            budget: Arc::new(Budget::new(0)),
        }
    }

    /// What the first configuration says of all pools, before there is one.
    pub(super) fn begin(&self, config: &PoolerConfig) {
        let global = &config.global;
        self.budget.set_limit(global.max_server_connections);
        self.paused_all.store(global.paused, Ordering::SeqCst);
    }

    /// Counts a client of `user` in `database`, and gives its pool, made if it
    /// is new.
    pub(super) fn admit(
        &self,
        config: &PoolerConfig,
        database: &str,
        user: &str,
    ) -> Result<Arc<PoolInfo>, NotAdmitted> {
        let no_entry = || NotAdmitted::NoSuchDatabase(database.to_owned());
        let (_, via) = config.database(database).ok_or_else(no_entry)?;
        let mut table = lock(&self.table);
        let connector = &table.connector;
        let settings = Settings::new(config, connector, database, user).ok_or_else(no_entry)?;
        table.check_clients(&settings.pool, database, user)?;
        // Clients whose user is replaced by the entry's share one pool.
        let known = table.pool(database, &settings.server_user).cloned();
        let info = match known {
            Some(info) => info,
            None => self.add(&mut table, config, database, settings, via)?,
        };
        *table.clients_by_user.entry(user.to_owned()).or_default() += 1;
        info.clients.fetch_add(1, Ordering::SeqCst);
        if let Some(state) = table.databases.get_mut(database) {
            state.unused_since = None;
            state.keep_minimum(&info);
        }
        Ok(info)
    }

    fn add(
        &self,
        table: &mut Table,
        config: &PoolerConfig,
        database: &str,
        settings: Settings,
        via: Via,
    ) -> Result<Arc<PoolInfo>, NotAdmitted> {
        if via == Via::Fallback {
            table.make_room()?;
        }
        let id = table.made;
        table.made += 1;
        let user = settings.server_user.clone();
        let limit = settings.pool.max_user_connections;
        let user_budget = table.users.entry(user.clone());
        let user_budget = user_budget
            .or_insert_with(|| Arc::new(Budget::new(limit)))
            .clone();
        let limit = settings.pool.max_db_connections;
        let state = table.databases.entry(database.to_owned());
        let state = state.or_insert_with(|| DatabaseState::new(limit, via));
        // It may have been made by PAUSE, which knows no limit.
        state.budget.set_limit(limit);
        let db_budget = state.budget.clone();
        let shared = pool::Shared::new(
            self.threads,
            limits(&settings, config, 0),
            vec![db_budget.clone(), user_budget.clone(), self.budget.clone()],
        );
        shared.set_paused(state.paused || self.is_paused(), Moment(0));
        if self.is_draining() {
            shared.begin_drain();
        }
        let info = Arc::new(PoolInfo {
            id,
            database: database.to_owned(),
            user: user.clone(),
            shared,
            settings: RwLock::new(Arc::new(settings)),
            known: RwLock::new(None),
            failure: Mutex::new(None),
            clients: AtomicU32::new(0),
            db_budget,
            user_budget,
            budget: self.budget.clone(),
            forgotten: AtomicBool::new(false),
        });
        state.pools.insert(user, info.clone());
        Ok(info)
    }

    /// A client that was admitted under the name `user` has gone.
    pub(super) fn leave(&self, info: &PoolInfo, user: &str) {
        let mut table = lock(&self.table);
        if let Some(count) = table.clients_by_user.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                table.clients_by_user.remove(user);
            }
        }
        info.clients.fetch_sub(1, Ordering::SeqCst);
        if let Some(state) = table.databases.get(&info.database) {
            state.keep_minimum(info);
        }
        table.forget_if_missing(&info.database);
    }

    /// PostgreSQL says whether it has the pool's database.
    pub(super) fn set_missing(&self, info: &PoolInfo, missing: bool) {
        let mut table = lock(&self.table);
        if let Some(state) = table.databases.get_mut(&info.database) {
            state.missing = missing;
        }
        table.forget_if_missing(&info.database);
    }

    /// Forgets databases without an entry of their own that have had neither
    /// clients nor servers for `longest`; zero means never.
    pub(super) fn forget_unused(&self, longest: Duration, now: Moment) {
        let mut table = lock(&self.table);
        let mut late = Vec::new();
        for (name, state) in &mut table.databases {
            if !state.is_spare() {
                state.unused_since = None;
                continue;
            }
            let since = *state.unused_since.get_or_insert(now);
            if !longest.is_zero() && now.since(since) >= longest {
                late.push(name.clone());
            }
        }
        if !late.is_empty() {
            table.forget(&late);
        }
    }

    /// By id.
    pub(super) fn all(&self) -> Vec<Arc<PoolInfo>> {
        let mut pools: Vec<_> = lock(&self.table).all().cloned().collect();
        pools.sort_by_key(|info| info.id);
        pools
    }

    /// Clients waiting for a server, in all pools.
    pub(super) fn waiting(&self) -> u32 {
        let table = lock(&self.table);
        table.all().map(|info| info.shared.waiting()).sum()
    }

    /// Why clients have waited for `longest` at `now`, those apart whose
    /// PostgreSQL is out of reach, or was within that time.
    pub(super) fn late(
        &self,
        longest: Duration,
        upstreams: &Upstreams,
        now: Moment,
    ) -> Vec<Reason> {
        let table = lock(&self.table);
        let late = table.all().filter_map(|info| {
            let settings = info.settings();
            // Those that are sent away must not go unseen.
            let longest = match settings.pool.query_wait_timeout {
                Duration::ZERO => longest,
                timeout => longest.min(timeout / 2),
            };
            let obstacle = info.shared.obstacle(longest, now)?;
            let reason = match obstacle {
                Obstacle::Server => Reason::ClientsWait,
                // In the order of `add`.
                Obstacle::Budget(0) => Reason::MaxDbConnections,
                Obstacle::Budget(1) => Reason::MaxUserConnections,
                Obstacle::Budget(_) => Reason::MaxServerConnections,
            };
            let (host, port) = (&settings.host, settings.port);
            let back = upstreams.reachable_since(host, port);
            let in_vain = upstreams.is_unreachable(host, port)
                || back.is_some_and(|since| now.since(since) < longest);
            (!in_vain).then_some(reason)
        });
        let mut reasons: Vec<Reason> = late.collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons
    }

    /// Puts a new configuration in force: limits at once, the rest as each loop
    /// hears of it.
    pub(super) fn reconfigure(&self, config: &PoolerConfig, connector: &Arc<Connector>) {
        self.budget.set_limit(config.global.max_server_connections);
        let mut table = lock(&self.table);
        table.connector = connector.clone();
        for (name, state) in &mut table.databases {
            let entry = config.database(name);
            // One that no entry serves any more ends as those without their own.
            state.via = entry.map_or(Via::Fallback, |(_, via)| via);
            for info in state.pools.values() {
                state.reconfigure(info, config, connector);
            }
        }
        // After the last of them: pools share them.
        for info in table.all() {
            info.shared.budgets_changed();
        }
    }

    /// Has the servers of one database, or of all, replaced, as each loop hears
    /// of it.
    pub(super) fn reconnect(&self, database: Option<&str>) {
        let table = lock(&self.table);
        let chosen = table.all();
        for info in chosen.filter(|info| database.is_none_or(|name| name == info.database)) {
            info.set_settings(info.settings().renewed());
        }
    }

    /// Pauses or resumes everything. Databases paused by themselves stay so.
    pub(super) fn set_all_paused(&self, paused: bool, now: Moment) -> Result<(), PauseError> {
        let table = lock(&self.table);
        if self.paused_all.swap(paused, Ordering::SeqCst) == paused {
            return Err(match paused {
                true => PauseError::AlreadyPaused,
                false => PauseError::NotPaused,
            });
        }
        for state in table.databases.values() {
            for info in state.pools.values() {
                info.shared.set_paused(paused || state.paused, now);
            }
        }
        Ok(())
    }

    /// Pauses or resumes one database. Pausing it again is no error, resuming it
    /// again is: PgBouncer's rule.
    pub(super) fn set_database_paused(
        &self,
        config: &PoolerConfig,
        name: &str,
        paused: bool,
        now: Moment,
    ) -> Result<(), PauseError> {
        if name == CONSOLE {
            return Err(PauseError::Console);
        }
        let mut table = lock(&self.table);
        let Some((entry, via)) = config.database(name) else {
            return Err(PauseError::NoSuchDatabase(name.to_owned()));
        };
        if !paused && !table.databases.contains_key(name) {
            return Err(PauseError::DatabaseNotPaused(name.to_owned()));
        }
        let limit = config.pool(entry, "").max_db_connections;
        let state = table.databases.entry(name.to_owned());
        let state = state.or_insert_with(|| DatabaseState::new(limit, via));
        if !std::mem::replace(&mut state.paused, paused) && !paused {
            return Err(PauseError::DatabaseNotPaused(name.to_owned()));
        }
        for info in state.pools.values() {
            info.shared.set_paused(paused || self.is_paused(), now);
        }
        Ok(())
    }

    /// The process is about to end: servers that nobody needs are given up.
    pub(super) fn begin_drain(&self) {
        // Under the lock: a pool that is being added sees it, or is seen here.
        let table = lock(&self.table);
        self.draining.store(true, Ordering::SeqCst);
        table.all().for_each(|info| info.shared.begin_drain());
    }

    /// Whether the process is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// How servers are connected to.
    pub(super) fn connector(&self) -> Arc<Connector> {
        lock(&self.table).connector.clone()
    }

    /// Whether everything is paused.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_all.load(Ordering::SeqCst)
    }

    /// What each database has that was ever used.
    pub(super) fn databases(&self) -> BTreeMap<String, Usage> {
        let table = lock(&self.table);
        let paused_all = self.is_paused();
        let usages = table.databases.iter().map(|(name, state)| {
            let usage = Usage {
                servers: state.budget.used(),
                clients: state.clients(),
                paused: state.paused || paused_all,
            };
            (name.clone(), usage)
        });
        usages.collect()
    }

    /// What each user has who was ever at work: servers under that name in
    /// PostgreSQL, clients under that name here.
    pub(super) fn users(&self) -> BTreeMap<String, Usage> {
        let table = lock(&self.table);
        let mut usages: BTreeMap<String, Usage> = BTreeMap::new();
        for (name, budget) in &table.users {
            usages.entry(name.clone()).or_default().servers = budget.used();
        }
        for (name, clients) in &table.clients_by_user {
            usages.entry(name.clone()).or_default().clients = *clients;
        }
        usages
    }
}

#[cfg(test)]
mod tests;
