//! The process's pools: one for each database and user that met.

mod settings;

pub(super) use settings::Settings;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use proxy_core::{
    config::{PoolerConfig, pooler::CONSOLE},
    login::server::Welcome,
    parameters::Parameters,
    pool::{self, Budget, Limits},
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

/// What the pool's servers say of themselves to clients that log in.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) welcome: Welcome,
    /// The tracked ones among its parameters.
    pub(super) parameters: Parameters,
}

/// A pool, as all loops see it.
#[derive(Debug)]
pub(super) struct PoolInfo {
    /// Position in the table; the scope of its prepared statements.
    pub(super) id: usize,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) shared: Arc<pool::Shared>,
    settings: RwLock<Arc<Settings>>,
    known: RwLock<Option<Arc<Known>>>,
    /// Clients logged in, on all loops.
    clients: AtomicU32,
    db_budget: Arc<Budget>,
    user_budget: Arc<Budget>,
}

impl PoolInfo {
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

fn limits(settings: &Settings, config: &PoolerConfig) -> Limits {
    Limits {
        size: settings.pool.pool_size,
        size_min: settings.pool.min_pool_size,
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
    pools: Vec<Arc<PoolInfo>>,
    by_name: HashMap<(String, String), usize>,
    databases: HashMap<String, DatabaseState>,
    users: HashMap<String, Arc<Budget>>,
    /// Clients logged in, by the name they gave.
    clients_by_user: HashMap<String, u32>,
}

#[derive(Debug)]
struct DatabaseState {
    budget: Arc<Budget>,
    paused: bool,
}

impl Pools {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            threads,
            table: Mutex::new(Table::default()),
            paused_all: AtomicBool::new(false),
        }
    }

    /// The pool for clients of `user` in `database`, made if it is new. `None`
    /// if no entry of the configuration serves the database.
    pub(super) fn find(
        &self,
        config: &PoolerConfig,
        database: &str,
        user: &str,
    ) -> Option<Arc<PoolInfo>> {
        let settings = Settings::new(config, database, user)?;
        // Clients whose user is replaced by the entry's share one pool.
        let user = settings.server_user.clone();
        let mut table = lock(&self.table);
        let name = (database.to_owned(), user.clone());
        if let Some(&id) = table.by_name.get(&name) {
            return Some(table.pools[id].clone());
        }
        let paused_all = self.paused_all.load(Ordering::SeqCst);
        let state = table
            .databases
            .entry(database.to_owned())
            .or_insert_with(|| DatabaseState {
                budget: Arc::new(Budget::new(settings.pool.max_db_connections)),
                paused: false,
            });
        // It may have been made by PAUSE, which knows no limit.
        state.budget.set_limit(settings.pool.max_db_connections);
        let (db_budget, paused) = (state.budget.clone(), state.paused || paused_all);
        let user_budget = table
            .users
            .entry(user.clone())
            .or_insert_with(|| Arc::new(Budget::new(settings.pool.max_user_connections)))
            .clone();
        let shared = pool::Shared::new(
            self.threads,
            limits(&settings, config),
            vec![db_budget.clone(), user_budget.clone()],
        );
        shared.set_paused(paused);
        let id = table.pools.len();
        let info = Arc::new(PoolInfo {
            id,
            database: database.to_owned(),
            user,
            shared,
            settings: RwLock::new(Arc::new(settings)),
            known: RwLock::new(None),
            clients: AtomicU32::new(0),
            db_budget,
            user_budget,
        });
        table.pools.push(info.clone());
        table.by_name.insert(name, id);
        Some(info)
    }

    /// Counts a client of `user`, or says which limit (its name and value) that
    /// would pass.
    pub(super) fn count_client(
        &self,
        info: &PoolInfo,
        user: &str,
    ) -> Result<(), (&'static str, u32)> {
        let limits = info.settings().pool;
        let mut table = lock(&self.table);
        let in_database: u32 = table
            .pools
            .iter()
            .filter(|other| other.database == info.database)
            .map(|other| other.clients.load(Ordering::SeqCst))
            .sum();
        let max = limits.max_db_client_connections;
        if max > 0 && in_database >= max {
            return Err(("max_db_client_connections", max));
        }
        let of_user = table.clients_by_user.entry(user.to_owned()).or_default();
        let max = limits.max_user_client_connections;
        if max > 0 && *of_user >= max {
            return Err(("max_user_client_connections", max));
        }
        *of_user += 1;
        info.clients.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn uncount_client(&self, info: &PoolInfo, user: &str) {
        let mut table = lock(&self.table);
        if let Some(count) = table.clients_by_user.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                table.clients_by_user.remove(user);
            }
        }
        info.clients.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn all(&self) -> Vec<Arc<PoolInfo>> {
        lock(&self.table).pools.clone()
    }

    pub(super) fn get(&self, id: usize) -> Arc<PoolInfo> {
        lock(&self.table).pools[id].clone()
    }

    /// Clients waiting for a server, in all pools.
    pub(super) fn waiting(&self) -> u32 {
        let table = lock(&self.table);
        table.pools.iter().map(|info| info.shared.waiting()).sum()
    }

    /// Puts a new configuration in force: limits at once, the rest as each loop
    /// hears of it.
    pub(super) fn reconfigure(&self, config: &PoolerConfig) {
        for info in self.all() {
            // A database that is gone keeps its settings for the clients it has.
            let Some(settings) = Settings::new(config, &info.database, &info.user) else {
                continue;
            };
            info.shared.set_limits(limits(&settings, config));
            // What was wrong may have been mended.
            info.shared.retry_now();
            info.db_budget.set_limit(settings.pool.max_db_connections);
            info.user_budget
                .set_limit(settings.pool.max_user_connections);
            *info
                .settings
                .write()
                .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
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
        for info in &table.pools {
            let by_itself = table.databases[&info.database].paused;
            info.shared.set_paused(paused || by_itself);
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
        let Some((entry, _)) = config.database(name) else {
            return Err(PauseError::NoSuchDatabase(name.to_owned()));
        };
        let state = match table.databases.get_mut(name) {
            Some(state) => state,
            None if !paused => return Err(PauseError::DatabaseNotPaused(name.to_owned())),
            None => {
                let limit = config.pool(entry, "").max_db_connections;
                table
                    .databases
                    .entry(name.to_owned())
                    .or_insert(DatabaseState {
                        budget: Arc::new(Budget::new(limit)),
                        paused: false,
                    })
            }
        };
        if !std::mem::replace(&mut state.paused, paused) && !paused {
            return Err(PauseError::DatabaseNotPaused(name.to_owned()));
        }
        let paused = paused || self.is_paused();
        for info in table.pools.iter().filter(|info| info.database == name) {
            info.shared.set_paused(paused);
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
        let mut usages: BTreeMap<String, Usage> = table
            .databases
            .iter()
            .map(|(name, state)| {
                let usage = Usage {
                    servers: state.budget.used(),
                    clients: 0,
                    paused: state.paused || paused_all,
                };
                (name.clone(), usage)
            })
            .collect();
        for info in &table.pools {
            if let Some(usage) = usages.get_mut(&info.database) {
                usage.clients += info.clients.load(Ordering::SeqCst);
            }
        }
        usages
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
