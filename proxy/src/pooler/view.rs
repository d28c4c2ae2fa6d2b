//! Everything that can be seen from outside, gathered once: what the console,
//! the metrics and `/status` print from.

use std::{collections::BTreeMap, sync::Arc};

use proxy_core::config::pooler::CONSOLE;

use super::{
    counters::PoolCounters,
    peers::Seen,
    pools::{PoolInfo, Usage},
    shared::Live,
    snapshot::{LoopSnapshot, PoolSnapshot},
    stats::{Change, Totals},
};

/// The process at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) live: Arc<Live>,
    /// All loops as one.
    pub(super) loops: LoopSnapshot,
    /// The pools, by id.
    pub(super) infos: Vec<Arc<PoolInfo>>,
    /// Databases that have pools.
    pub(super) databases: BTreeMap<String, Usage>,
    /// Users of PostgreSQL who have pools, and users who have clients.
    pub(super) users: BTreeMap<String, Usage>,
    /// The last whole stats_period, by database.
    pub(super) changes: BTreeMap<String, Change>,
    pub(super) is_paused: bool,
    /// Console commands dealt with.
    pub(super) commands: u64,
    /// Names of hosts that have been looked up.
    pub(super) dns_names: usize,
    /// Peers found by name.
    pub(super) peers: Seen,
}

impl View {
    /// Each pool with its present numbers.
    pub(super) fn pools(&self) -> impl Iterator<Item = (&PoolInfo, &PoolSnapshot)> {
        self.loops.pools.iter().filter_map(|pool| {
            let at = self.infos.binary_search_by_key(&pool.id, |info| info.id);
            Some((&*self.infos[at.ok()?], pool))
        })
    }

    /// Counters by database; the console's commands count as its queries.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::new();
        for (info, pool) in self.pools() {
            totals
                .entry(info.database.clone())
                .or_default()
                .add(&pool.counters);
        }
        let console = PoolCounters {
            transactions: self.commands,
            queries: self.commands,
            ..PoolCounters::default()
        };
        totals.insert(CONSOLE.to_owned(), console);
        totals
    }
}
