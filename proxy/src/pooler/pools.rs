//! The process's pools: one for each database and user that met.

mod settings;

pub(super) use settings::Settings;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use proxy_core::{
    config::{
        PoolerConfig,
        pooler::{CONSOLE, PoolSettings, Via},
    },
    login::server::Welcome,
    parameters::Parameters,
    pool::{self, Budget, Limits, Moment},
    wire::SqlState,
};

use super::shared::lock;

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

/// What the pool's servers say of themselves to clients that log in.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) welcome: Welcome,
    /// The tracked ones among its parameters.
    pub(super) parameters: Parameters,
}

/// Why a server could not be opened, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: SqlState,
    pub(super) reason: String,
}

/// A pool, as all loops see it.
#[derive(Debug)]
pub(super) struct PoolInfo {
    /// Never used twice, so that nothing of a pool that was forgotten is taken
    /// for another's; the scope of its prepared statements.
    pub(super) id: usize,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) shared: Arc<pool::Shared>,
    settings: RwLock<Arc<Settings>>,
    known: RwLock<Option<Arc<Known>>>,
    /// Of the last attempt to open a server.
    failure: Mutex<Option<Failure>>,
    /// Clients logged in, on all loops.
    clients: AtomicU32,
    db_budget: Arc<Budget>,
    user_budget: Arc<Budget>,
    forgotten: AtomicBool,
}

impl PoolInfo {
    /// Whether nobody will use it any more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// Why the last attempt to open a server failed, if it did.
    pub(super) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }

    pub(super) fn set_failure(&self, failure: Option<Failure>) {
        *lock(&self.failure) = failure;
    }

    fn is_used(&self) -> bool {
        self.clients.load(Ordering::SeqCst) > 0 || self.shared.open() > 0
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_settings(&self, settings: Settings) {
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// What servers say of themselves; `None` before the first has answered.
    pub(super) fn known(&self) -> Option<Arc<Known>> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_known(&self, known: Known) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
    }
}

fn limits(settings: &Settings, config: &PoolerConfig, size_min: u32) -> Limits {
    Limits {
        size: settings.pool.pool_size,
        size_min,
        reserve: settings.pool.reserve_pool_size,
        reserve_after: config.global.reserve_pool_timeout,
        login_retry: config.global.server_login_retry,
    }
}

/// The table of pools.
#[derive(Debug)]
pub(super) struct Pools {
    threads: usize,
    table: Mutex<Table>,
    paused_all: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    /// Pools there have been.
    made: usize,
    databases: HashMap<String, DatabaseState>,
    users: HashMap<String, Arc<Budget>>,
    /// Clients logged in, by the name they gave.
    clients_by_user: HashMap<String, u32>,
}

#[derive(Debug)]
struct DatabaseState {
    budget: Arc<Budget>,
    paused: bool,
    via: Via,
    /// By user.
    pools: BTreeMap<String, Arc<PoolInfo>>,
    /// PostgreSQL says that there is no such database.
    missing: bool,
    /// Since when it has been seen without clients and servers.
    unused_since: Option<Moment>,
}

impl DatabaseState {
    fn new(limit: u32, via: Via) -> Self {
        Self {
            budget: Arc::new(Budget::new(limit)),
            paused: false,
            via,
            pools: BTreeMap::new(),
            missing: false,
            unused_since: None,
        }
    }

    fn clients(&self) -> u32 {
        let pools = self.pools.values();
        pools.map(|info| info.clients.load(Ordering::SeqCst)).sum()
    }

    /// Whether it can be forgotten: clients chose its name, and nobody needs it.
    fn is_spare(&self) -> bool {
        self.via == Via::Fallback && !self.paused && !self.pools.values().any(|it| it.is_used())
    }

    /// Servers to keep open: of a database without an entry only for clients.
    fn size_min(&self, info: &PoolInfo, settings: &Settings) -> u32 {
        let kept = self.via == Via::Name || info.clients.load(Ordering::SeqCst) > 0;
        if kept { settings.pool.min_pool_size } else { 0 }
    }

    fn reconfigure(&self, info: &PoolInfo, config: &PoolerConfig) {
        // A database that is gone keeps its settings for the clients it has.
        let Some(settings) = Settings::new(config, &info.database, &info.user) else {
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

    fn keep_minimum(&self, info: &PoolInfo) {
        let size_min = self.size_min(info, &info.settings());
        info.shared.set_size_min(size_min);
    }
}

impl Table {
    fn all(&self) -> impl Iterator<Item = &Arc<PoolInfo>> {
        self.databases
            .values()
            .flat_map(|state| state.pools.values())
    }

    fn pool(&self, database: &str, user: &str) -> Option<&Arc<PoolInfo>> {
        self.databases.get(database)?.pools.get(user)
    }

    fn check_clients(
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
    fn make_room(&mut self) -> Result<(), NotAdmitted> {
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
    fn forget(&mut self, databases: &[String]) {
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
    fn forget_if_missing(&mut self, database: &str) {
        let state = self.databases.get(database);
        if state.is_some_and(|state| state.missing && state.is_spare()) {
            self.forget(&[database.to_owned()]);
        }
    }
}

impl Pools {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            threads,
            table: Mutex::new(Table::default()),
            paused_all: AtomicBool::new(false),
        }
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
        let settings = Settings::new(config, database, user).ok_or_else(no_entry)?;
        let (_, via) = config.database(database).ok_or_else(no_entry)?;
        let mut table = lock(&self.table);
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
            vec![db_budget.clone(), user_budget.clone()],
        );
        shared.set_paused(state.paused || self.is_paused());
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

    /// Puts a new configuration in force: limits at once, the rest as each loop
    /// hears of it.
    pub(super) fn reconfigure(&self, config: &PoolerConfig) {
        for (name, state) in &mut lock(&self.table).databases {
            let entry = config.database(name);
            // One that no entry serves any more ends as those without their own.
            state.via = entry.map_or(Via::Fallback, |(_, via)| via);
            for info in state.pools.values() {
                state.reconfigure(info, config);
            }
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
    pub(super) fn set_all_paused(&self, paused: bool) -> Result<(), PauseError> {
        let table = lock(&self.table);
        if self.paused_all.swap(paused, Ordering::SeqCst) == paused {
            return Err(match paused {
                true => PauseError::AlreadyPaused,
                false => PauseError::NotPaused,
            });
        }
        for state in table.databases.values() {
            for info in state.pools.values() {
                info.shared.set_paused(paused || state.paused);
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
            info.shared.set_paused(paused || self.is_paused());
        }
        Ok(())
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
