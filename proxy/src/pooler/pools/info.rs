//! A pool, as all loops see it.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use proxy_core::{
    login::server::Welcome,
    parameters::Parameters,
    pool::{self, Budget},
    wire::SqlState,
};

use super::Settings;
use crate::pooler::shared::lock;

/// What the pool's servers say of themselves to clients that log in.
#[derive(Debug)]
pub(in crate::pooler) struct Known {
    pub(in crate::pooler) welcome: Welcome,
    /// The tracked ones among its parameters.
    pub(in crate::pooler) parameters: Parameters,
}

/// Why a server could not be opened, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pooler) struct Failure {
    pub(in crate::pooler) code: SqlState,
    pub(in crate::pooler) reason: String,
}

/// A pool, as all loops see it.
#[derive(Debug)]
pub(in crate::pooler) struct PoolInfo {
    /// Never used twice, so that nothing of a pool that was forgotten is taken
    /// for another's; the scope of its prepared statements.
    pub(in crate::pooler) id: usize,
    pub(in crate::pooler) database: String,
    pub(in crate::pooler) user: String,
    pub(in crate::pooler) shared: Arc<pool::Shared>,
    pub(super) settings: RwLock<Arc<Settings>>,
    pub(super) known: RwLock<Option<Arc<Known>>>,
    /// Of the last attempt to open a server.
    pub(super) failure: Mutex<Option<Failure>>,
    /// Clients logged in, on all loops.
    pub(super) clients: AtomicU32,
    pub(super) db_budget: Arc<Budget>,
    pub(super) user_budget: Arc<Budget>,
    /// Of all pools.
    pub(super) budget: Arc<Budget>,
    pub(super) forgotten: AtomicBool,
}

impl PoolInfo {
    /// Whether nobody will use it any more.
    pub(in crate::pooler) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// Whether closing a server of `other` makes room for one of this pool,
    /// where a limit stands in the way.
    pub(in crate::pooler) fn shares_limit(&self, other: &Self) -> bool {
        let own_full = self.db_budget.is_full() || self.user_budget.is_full();
        let related = self.database == other.database || self.user == other.user;
        self.id != other.id && (related || (!own_full && self.budget.is_full()))
    }

    /// Why the last attempt to open a server failed, if it did.
    pub(in crate::pooler) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }

    pub(in crate::pooler) fn set_failure(&self, failure: Option<Failure>) {
        *lock(&self.failure) = failure;
    }

    pub(super) fn is_used(&self) -> bool {
        self.clients.load(Ordering::SeqCst) > 0 || self.shared.open() > 0
    }

    pub(in crate::pooler) fn settings(&self) -> Arc<Settings> {
        self.settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_settings(&self, settings: Settings) {
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// What servers say of themselves; `None` before the first has answered.
    pub(in crate::pooler) fn known(&self) -> Option<Arc<Known>> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(in crate::pooler) fn set_known(&self, known: Known) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
    }
}
