//! Prepared statements that follow a client from server to server.
//!
//! A client's name maps to a process-wide [`Statement`], one per distinct
//! query, parameter types and scope. A server holds a bounded set of them under
//! names of ours, and is taught one when it first meets it.
//!
//! The role is part of the scope, and so is `search_path` where it is followed
//! (`track_extra_parameters = search_path`; PostgreSQL 18 reports it). Where it
//! is not, PostgreSQL itself re-analyses a statement under the present path, and
//! refuses it (0A000) should its columns be others there.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// A prepared statement as servers know it.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    scope: u64,
    search_path: Box<str>,
    /// Body of the Parse after the name: query with its zero, parameter types.
    definition: Box<[u8]>,
}

impl Statement {
    /// Unique in the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Body of its Parse message after the statement's name.
    #[must_use]
    pub fn definition(&self) -> &[u8] {
        &self.definition
    }

    /// Its name on servers.
    #[must_use]
    pub fn server_name(&self) -> ServerName {
        ServerName::new(self.id)
    }
}

/// The name of a statement on servers: `pk` and its id, without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerName {
    text: [u8; 22],
    len: u8,
}

impl ServerName {
    fn new(id: u64) -> Self {
        let mut text = [0; 22];
        text[..2].copy_from_slice(b"pk");
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = id;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let count = digits.len() - at;
        text[2..2 + count].copy_from_slice(&digits[at..]);
        Self {
            text,
            len: (2 + count) as u8,
        }
    }

    /// The name, without a terminating zero.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

/// All statements of the process; one per process.
#[derive(Debug, Default)]
pub struct Registry {
    next_id: AtomicU64,
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_hash: HashMap<u64, Vec<Weak<Statement>>>,
    sweep_at: usize,
}

const SWEEP_FIRST: usize = 1_024;

impl Registry {
    /// The statement for `definition` within `scope` (the pool: one database,
    /// one role) and under `search_path` (empty where it is not followed),
    /// known already or new.
    #[must_use]
    pub fn intern(&self, scope: u64, search_path: &str, definition: &[u8]) -> Arc<Statement> {
        let hash = self.hasher.hash_one((scope, search_path, definition));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.by_hash.get(&hash).and_then(|same_hash| {
            same_hash.iter().filter_map(Weak::upgrade).find(|known| {
                known.scope == scope
                    && *known.search_path == *search_path
                    && *known.definition == *definition
            })
        }) {
            return found;
        }
        if known.by_hash.len() >= known.sweep_at {
            known.by_hash.retain(|_, statements| {
                statements.retain(|statement| statement.strong_count() > 0);
                !statements.is_empty()
            });
            known.sweep_at = (known.by_hash.len() * 2).max(SWEEP_FIRST);
        }
        let statement = Arc::new(Statement {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            scope,
            search_path: search_path.into(),
            definition: definition.into(),
        });
        let same_hash = known.by_hash.entry(hash).or_default();
        same_hash.retain(|statement| statement.strong_count() > 0);
        same_hash.push(Arc::downgrade(&statement));
        statement
    }
}

/// Named statements of one client.
pub type ClientStatements = HashMap<Box<[u8]>, Arc<Statement>>;

/// The statements that one server has been taught, least recently used first
/// to go.
#[derive(Debug)]
pub struct ServerStatements {
    entries: HashMap<u64, Entry, rustc_hash::FxBuildHasher>,
    capacity: usize,
    uses: u64,
    /// Counts checkouts: what was used in the present one must not be closed,
    /// for a portal may still depend on it.
    checkout: u64,
}

#[derive(Debug)]
struct Entry {
    statement: Arc<Statement>,
    used: u64,
    checkout: u64,
}

impl ServerStatements {
    /// Holds at most `capacity` statements, more only while one checkout uses more.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::default(),
            capacity,
            uses: 0,
            checkout: 0,
        }
    }

    /// Number of statements held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The statements held.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Statement> {
        self.entries.values().map(|entry| &*entry.statement)
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Marks the end of a transaction: portals are gone, everything may be evicted.
    pub fn end_transaction(&mut self) {
        self.checkout += 1;
    }

    /// Whether the server has `statement`; if so it counts as used now.
    pub fn touch(&mut self, statement: &Statement) -> bool {
        self.uses += 1;
        let Some(entry) = self.entries.get_mut(&statement.id) else {
            return false;
        };
        entry.used = self.uses;
        entry.checkout = self.checkout;
        true
    }

    /// Takes out the statement to close if there is no room for another one;
    /// `None` if there is, or if all are in use.
    pub fn evict(&mut self) -> Option<Arc<Statement>> {
        if self.entries.len() < self.capacity {
            return None;
        }
        let unused = self
            .entries
            .values()
            .filter(|entry| entry.checkout != self.checkout)
            .min_by_key(|entry| entry.used)?;
        let statement = unused.statement.clone();
        self.entries.remove(&statement.id);
        Some(statement)
    }

    /// Adds `statement`.
    pub fn insert(&mut self, statement: Arc<Statement>) {
        self.uses += 1;
        let entry = Entry {
            used: self.uses,
            checkout: self.checkout,
            statement,
        };
        self.entries.insert(entry.statement.id, entry);
    }

    /// Takes note that the server no longer has, or never got, `statement`.
    pub fn remove(&mut self, statement: &Statement) {
        self.entries.remove(&statement.id);
    }

    /// Takes note that the server still has `statement`: its Close was skipped.
    pub fn restore(&mut self, statement: Arc<Statement>) {
        self.entries.insert(
            statement.id,
            Entry {
                statement,
                used: 0,
                checkout: self.checkout,
            },
        );
    }

    /// Takes note that the server dropped every statement.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_per_definition_and_scope() {
        let registry = Registry::default();
        let a = registry.intern(1, "", b"select 1\0\0\0");
        assert!(Arc::ptr_eq(&a, &registry.intern(1, "", b"select 1\0\0\0")));
        assert!(!Arc::ptr_eq(&a, &registry.intern(2, "", b"select 1\0\0\0")));
        assert!(!Arc::ptr_eq(&a, &registry.intern(1, "", b"select 2\0\0\0")));
        assert!(!Arc::ptr_eq(
            &a,
            &registry.intern(1, "own", b"select 1\0\0\0")
        ));
    }

    #[test]
    fn unused_statements_are_swept() {
        let registry = Registry::default();
        for n in 0..10_000 {
            drop(registry.intern(1, "", n.to_string().as_bytes()));
        }
        assert!(registry.known.lock().unwrap().by_hash.len() <= SWEEP_FIRST * 2);
    }

    #[test]
    fn names_are_decimal() {
        assert_eq!(ServerName::new(0).as_bytes(), b"pk0");
        assert_eq!(
            ServerName::new(u64::MAX).as_bytes(),
            b"pk18446744073709551615"
        );
    }

    #[test]
    fn a_statement_of_this_checkout_is_never_evicted() {
        let registry = Registry::default();
        let mut server = ServerStatements::new(1);
        let [a, b, c] = ["a", "b", "c"].map(|sql| registry.intern(1, "", sql.as_bytes()));
        server.insert(a.clone());
        assert!(server.evict().is_none());
        server.insert(b.clone());
        server.end_transaction();
        assert!(server.touch(&b));
        assert_eq!(server.evict().map(|evicted| evicted.id()), Some(a.id()));
        assert!(server.evict().is_none());
        server.insert(c);
    }
}
