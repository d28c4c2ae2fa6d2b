//! What the operator counts of its own work.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use web::metrics::Page;

use super::error::Kind;
use crate::metrics::{ALL, API_WRITES, INFO, LEADING, RECONCILE_SECONDS, RECONCILES, RESULT_OK};

/// Counters of a process; they survive a change of the leader.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    leading: bool,
    reconciles: BTreeMap<&'static str, u64>,
    seconds: f64,
    writes: u64,
}

impl Metrics {
    /// A cluster was looked at, and what went wrong.
    pub(super) fn reconciled(&self, failure: Option<Kind>, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = failure.map_or(RESULT_OK, Kind::word);
        *counts.reconciles.entry(result).or_default() += 1;
        counts.seconds += took.as_secs_f64();
    }

    /// So much was written to the API server.
    pub(super) fn wrote(&self, writes: u32) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.writes += u64::from(writes);
    }

    /// Whether we lead.
    pub(super) fn lead(&self, leading: bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.leading = leading;
    }

    /// Whether we lead.
    pub(super) fn leads(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .leading
    }

    /// The page, in Prometheus's text format 0.0.4.
    pub(super) fn page(&self) -> String {
        let counts = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut page = Page::new(ALL);
        page.sample(&INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        page.sample(&LEADING, &[], f64::from(u8::from(counts.leading)));
        let results = [RESULT_OK].into_iter();
        for result in results.chain(Kind::ALL.map(Kind::word)) {
            let count = counts.reconciles.get(result).copied().unwrap_or_default();
            page.sample(&RECONCILES, &[result], count as f64);
        }
        page.sample(&RECONCILE_SECONDS, &[], counts.seconds);
        page.sample(&API_WRITES, &[], counts.writes as f64);
        page.finish()
    }
}
