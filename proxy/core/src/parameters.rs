//! The run-time parameters that follow a client from server to server.
//!
//! A set is interned: two sets with equal values are one allocation, so the
//! question that every checkout asks, does this server have what this client
//! wants, is a comparison of two pointers, and ten thousand clients that want
//! the same share one set.
//!
//! Source: <https://www.postgresql.org/docs/17/protocol-flow.html#PROTOCOL-ASYNC>
//! (which parameters a server reports).

mod startup;

pub use startup::{UnsupportedParameter, wanted};

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

/// The names that are tracked, in a fixed order.
///
/// PostgreSQL reports each of them in a ParameterStatus when it changes, which
/// is what makes following it possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    names: Vec<Box<str>>,
}

impl Tracked {
    /// Always followed, as PgBouncer does.
    pub const ALWAYS: [&str; 5] = [
        "client_encoding",
        "DateStyle",
        "TimeZone",
        "standard_conforming_strings",
        "application_name",
    ];

    /// The names always followed and `extra` (`track_extra_parameters`).
    #[must_use]
    pub fn new<'a>(extra: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<Box<str>> = Self::ALWAYS.iter().map(|&name| name.into()).collect();
        for name in extra {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.into());
            }
        }
        Self { names }
    }

    /// Position of `name`, compared without regard to case.
    #[must_use]
    pub fn index(&self, name: &[u8]) -> Option<usize> {
        self.names
            .iter()
            .position(|known| known.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }
}

/// Values of the tracked parameters, by position; `None` where unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Values(Vec<Option<Box<str>>>);

/// An interned set of values. Cheap to clone; equality is identity.
#[derive(Clone, Debug)]
pub struct Parameters(Arc<Values>);

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Parameters {}

impl Hash for Parameters {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Parameters {
    /// The value at `index` of [`Tracked`].
    #[must_use]
    pub fn value(&self, index: usize) -> Option<&str> {
        self.0.0.get(index)?.as_deref()
    }
}

/// Makes [`Parameters`]; one per process.
#[derive(Debug)]
pub struct Interner {
    tracked: Tracked,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    sets: HashSet<Arc<Values>>,
    /// When to look for sets that nobody uses any more.
    sweep_at: usize,
}

const SWEEP_FIRST: usize = 1_024;

impl Interner {
    /// An interner of sets over `tracked`.
    #[must_use]
    pub fn new(tracked: Tracked) -> Self {
        Self {
            tracked,
            known: Mutex::new(Known {
                sets: HashSet::new(),
                sweep_at: SWEEP_FIRST,
            }),
        }
    }

    /// The names this interner's sets have values for.
    #[must_use]
    pub fn tracked(&self) -> &Tracked {
        &self.tracked
    }

    /// The set in which nothing is known.
    #[must_use]
    pub fn empty(&self) -> Parameters {
        self.intern(Values(vec![None; self.tracked.names.len()]))
    }

    /// `base` with the value at `index` replaced.
    #[must_use]
    pub fn with(&self, base: &Parameters, index: usize, value: &str) -> Parameters {
        if base.value(index) == Some(value) {
            return base.clone();
        }
        let mut values = (*base.0).clone();
        values.0[index] = Some(value.into());
        self.intern(values)
    }

    /// `wanted` where it knows a value, `base` elsewhere.
    #[must_use]
    pub fn over(&self, base: &Parameters, wanted: &Parameters) -> Parameters {
        let values = wanted.0.0.iter().zip(&base.0.0);
        self.intern(Values(
            values
                .map(|(wanted, base)| wanted.clone().or_else(|| base.clone()))
                .collect(),
        ))
    }

    /// `wanted` as a server that was asked for it reports it: the values of
    /// `has` wherever `wanted` knows one.
    #[must_use]
    pub fn as_reported(&self, wanted: &Parameters, has: &Parameters) -> Parameters {
        if wanted == has {
            return wanted.clone();
        }
        let values = wanted.0.0.iter().zip(&has.0.0);
        self.intern(Values(
            values
                .map(|(wanted, has)| {
                    let known = wanted.is_some().then(|| has.clone()).flatten();
                    known.or_else(|| wanted.clone())
                })
                .collect(),
        ))
    }

    fn intern(&self, values: Values) -> Parameters {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = known.sets.get(&values) {
            return Parameters(set.clone());
        }
        if known.sets.len() >= known.sweep_at {
            known.sets.retain(|set| Arc::strong_count(set) > 1);
            known.sweep_at = (known.sets.len() * 2).max(SWEEP_FIRST);
        }
        let set = Arc::new(values);
        known.sets.insert(set.clone());
        Parameters(set)
    }

    /// The SQL that gives a server with `has` what a client with `wants` needs;
    /// `None` if nothing differs.
    #[must_use]
    pub fn set_statements(&self, wants: &Parameters, has: &Parameters) -> Option<String> {
        if wants == has {
            return None;
        }
        let mut sql = String::new();
        for (index, name) in self.tracked.names.iter().enumerate() {
            let Some(value) = wants.value(index) else {
                continue;
            };
            if has.value(index) == Some(value) {
                continue;
            }
            if is_name_list(name) {
                // SET would take the whole list for one name.
                let _ = write!(
                    sql,
                    "SELECT pg_catalog.set_config('{name}',{},false);",
                    Literal(value)
                );
            } else {
                let _ = write!(sql, "SET {name}={};", Literal(value));
            }
        }
        (!sql.is_empty()).then_some(sql)
    }
}

/// Whether the value of `name` is a list of names, reported with the quotes
/// that they need (`GUC_LIST_QUOTE` in PostgreSQL).
fn is_name_list(name: &str) -> bool {
    ["search_path", "temp_tablespaces"]
        .iter()
        .any(|list| list.eq_ignore_ascii_case(name))
}

/// A string literal that means the same whatever
/// `standard_conforming_strings` is, which another client may have changed.
struct Literal<'a>(&'a str);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doubled = self.0.replace('\'', "''");
        if doubled.contains('\\') {
            write!(f, " E'{}'", doubled.replace('\\', "\\\\"))
        } else {
            write!(f, "'{doubled}'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_cannot_end_a_literal() {
        let interner = Interner::new(Tracked::new([]));
        let wants = interner.with(&interner.empty(), 4, r"\'; drop table t; --");
        assert_eq!(
            interner
                .set_statements(&wants, &interner.empty())
                .as_deref(),
            Some(r"SET application_name= E'\\''; drop table t; --';")
        );
    }

    #[test]
    fn a_list_of_names_is_set_as_a_list() {
        let interner = Interner::new(Tracked::new(["Search_Path"]));
        let wants = interner.with(&interner.empty(), 5, r#""$user", public"#);
        assert_eq!(
            interner
                .set_statements(&wants, &interner.empty())
                .as_deref(),
            Some(r#"SELECT pg_catalog.set_config('Search_Path','"$user", public',false);"#)
        );
    }

    #[test]
    fn equal_sets_are_one() {
        let interner = Interner::new(Tracked::new([]));
        let a = interner.with(&interner.empty(), 2, "UTC");
        let b = interner.with(&interner.empty(), 2, "UTC");
        assert_eq!(a, b);
        assert_ne!(a, interner.empty());
    }

    #[test]
    fn only_differences_are_set_and_quotes_are_doubled() {
        let interner = Interner::new(Tracked::new(["IntervalStyle"]));
        let has = interner.with(&interner.empty(), 2, "UTC");
        let wants = interner.with(&has, 4, "it's");
        assert_eq!(
            interner.set_statements(&wants, &has).as_deref(),
            Some("SET application_name='it''s';")
        );
        assert_eq!(interner.set_statements(&has, &has), None);
    }

    #[test]
    fn unused_sets_are_swept() {
        let interner = Interner::new(Tracked::new([]));
        for n in 0..10_000 {
            drop(interner.with(&interner.empty(), 4, &n.to_string()));
        }
        assert!(interner.known.lock().unwrap().sets.len() <= SWEEP_FIRST * 2);
    }
}
