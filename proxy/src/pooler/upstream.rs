//! What is known of each PostgreSQL that the configuration names: from servers
//! that log in or cannot, and from questions of our own ([`probe`]).
//!
//! Told by loops when a server is opened, not opened, or lost: never on the way
//! of a query. Bounded by the hosts in the configuration in force; clients
//! choose none of them.

mod probe;

pub(super) use probe::{keep_asking, trouble};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use proxy_core::{
    config::PoolerConfig,
    login::server::LoginError,
    pool::Moment,
    status::UpstreamStatus,
    upstream::{Judgement, Observation, Reach, Upstream, UpstreamReport},
};
use tokio::sync::Notify;

use super::shared::{Shared, lock};

/// How many are listed in `/status`.
const LISTED_MAX: usize = 16;

/// A host as the configuration has it (name, address, or directory of a Unix
/// socket), and a port.
type Place = (String, u16);

/// Every PostgreSQL of the configuration in force.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    table: Mutex<Table>,
    /// Something should be asked sooner than was thought.
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<Place, Entry>,
    /// Changes of any judgement.
    changes: u32,
    report: Option<UpstreamReport>,
}

#[derive(Debug, Default)]
struct Entry {
    upstream: Upstream,
    servers: Arc<AtomicU32>,
}

/// Counts as a server that is logged in, until it is dropped.
#[derive(Debug)]
pub(super) struct Presence(Arc<AtomicU32>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstreams {
    /// Those of another configuration.
    pub(super) fn reconfigure(&self, config: &PoolerConfig) {
        let places = places(config);
        let mut table = lock(&self.table);
        table.entries.retain(|place, _| places.contains(place));
        for place in places {
            let entry = table.entries.entry(place).or_default();
            entry.upstream.reconfigured();
        }
        table.changed();
        self.hurry.notify_one();
    }

    /// A server has logged in.
    pub(super) fn logged_in(&self, host: &str, port: u16, now: Moment) -> Option<Presence> {
        let mut table = lock(&self.table);
        let servers = table.entries.get(&place(host, port))?.servers.clone();
        servers.fetch_add(1, Ordering::SeqCst);
        table.observe(host, port, Observation::LoggedIn, now);
        Some(Presence(servers))
    }

    /// A server was refused, or refuses to be logged in to.
    pub(super) fn login_failed(&self, host: &str, port: u16, error: &LoginError, now: Moment) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.entries.get(&place(host, port)) {
            let servers = entry.servers.load(Ordering::SeqCst);
            table.observe(host, port, Observation::of_login(error, servers), now);
        }
    }

    /// Takes in what was seen of one.
    pub(super) fn observe(&self, host: &str, port: u16, observation: Observation, now: Moment) {
        let unsettled = {
            let mut table = lock(&self.table);
            table.observe(host, port, observation, now);
            matches!(observation, Observation::Failed(_))
        };
        if unsettled {
            self.hurry.notify_one();
        }
    }

    /// One could not be asked, for want of our own means.
    fn not_asked(&self, host: &str, port: u16, now: Moment) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.entries.get_mut(&place(host, port)) {
            entry.upstream.not_asked(now);
        }
    }

    /// A server was lost, which may mean that PostgreSQL is gone.
    pub(super) fn doubt(&self, host: &str, port: u16) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.entries.get_mut(&place(host, port)) {
            entry.upstream.doubt();
            self.hurry.notify_one();
        }
    }

    /// What checks are told.
    pub(super) fn report(&self) -> Option<UpstreamReport> {
        lock(&self.table).report
    }

    /// Whether a place is known to be out of reach.
    pub(super) fn is_unreachable(&self, host: &str, port: u16) -> bool {
        let table = lock(&self.table);
        let entry = table.entries.get(&place(host, port));
        entry.is_some_and(|entry| matches!(entry.upstream.judgement(), Judgement::Unreachable(_)))
    }

    /// Since when a place is known to be within reach.
    pub(super) fn reachable_since(&self, host: &str, port: u16) -> Option<Moment> {
        let table = lock(&self.table);
        let upstream = &table.entries.get(&place(host, port))?.upstream;
        matches!(upstream.judgement(), Judgement::Reachable).then(|| upstream.since())
    }

    /// What `/status` and the metrics show, those that cannot be used first.
    pub(super) fn statuses(&self, shared: &Shared) -> Vec<UpstreamStatus> {
        let table = lock(&self.table);
        let known = table.entries.iter().filter_map(|((host, port), entry)| {
            let (state, reason) = match entry.upstream.judgement() {
                Judgement::Unknown => return None,
                Judgement::Reachable => (Reach::Reachable, None),
                Judgement::Unreachable(reason) => (Reach::Unreachable, Some(reason)),
            };
            Some(UpstreamStatus {
                address: address(host, *port),
                state,
                reason,
                since: shared.timestamp(entry.upstream.since()),
            })
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|one| one.reason.is_none());
        known.truncate(LISTED_MAX);
        known
    }

    /// Those that are to be asked now, and when the next one is.
    fn due(&self, interval: Duration, now: Moment) -> (Vec<Place>, Option<Moment>) {
        let table = lock(&self.table);
        let dues = table
            .entries
            .iter()
            .map(|(place, entry)| (place, entry.upstream.due(interval)));
        let (due, later): (Vec<_>, Vec<_>) = dues.partition(|(_, due)| *due <= now);
        let next = later.into_iter().map(|(_, due)| due).min();
        (
            due.into_iter().map(|(place, _)| place.clone()).collect(),
            next,
        )
    }
}

impl Table {
    fn observe(&mut self, host: &str, port: u16, observation: Observation, now: Moment) {
        // One that the configuration no longer names concerns nobody.
        let Some(entry) = self.entries.get_mut(&place(host, port)) else {
            return;
        };
        if !entry.upstream.observe(observation, now) {
            return;
        }
        let address = address(host, port);
        match entry.upstream.judgement() {
            Judgement::Unreachable(reason) => {
                tracing::warn!(address, reason = reason.word(), "PostgreSQL unreachable");
            }
            Judgement::Reachable | Judgement::Unknown => {
                tracing::info!(address, "PostgreSQL reachable");
            }
        }
        self.changed();
    }

    fn changed(&mut self) {
        self.changes = self.changes.wrapping_add(1);
        let judgements = self
            .entries
            .values()
            .map(|entry| entry.upstream.judgement());
        self.report = UpstreamReport::of(judgements, self.changes);
    }
}

fn place(host: &str, port: u16) -> Place {
    (host.to_owned(), port)
}

/// Host and port as people write them.
fn address(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Where a configuration's databases are served from.
fn places(config: &PoolerConfig) -> BTreeSet<Place> {
    let databases = config.databases.values();
    let places = databases.map(|entry| {
        let host = entry.host.as_ref();
        let host = host.unwrap_or(&config.global.unix_socket_dir);
        (host.clone(), entry.port)
    });
    places.filter(|(host, _)| !host.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proxy_core::{config, upstream::Reason};

    use super::*;

    fn config(databases: &str) -> PoolerConfig {
        let databases = databases.replace('\n', " user=u\n");
        let text = format!(
            "[databases]\n{databases} user=u\n[pgbouncer]\nauth_type = any\nunix_socket_dir = /run/pg\n"
        );
        let read = &mut |_: &Path| Ok(text.clone());
        config::load(Path::new("pooler.ini"), read).unwrap()
    }

    #[test]
    fn the_configuration_says_which_there_are() {
        let config = config("a = host=pg1\nb = host=pg1 dbname=x\nc = host=::1 port=6\n* = port=7");
        let addresses: Vec<String> = places(&config)
            .iter()
            .map(|(host, port)| address(host, *port))
            .collect();
        assert_eq!(addresses, ["/run/pg:7", "[::1]:6", "pg1:5432"]);
    }

    #[test]
    fn what_is_not_configured_any_more_is_forgotten() {
        let upstreams = Upstreams::default();
        upstreams.reconfigure(&config("a = host=pg1\nb = host=pg2"));
        let refused = Observation::Failed(Reason::Refused);
        for _ in 0..2 {
            upstreams.observe("pg1", 5432, refused, Moment(1));
            upstreams.observe("elsewhere", 5432, refused, Moment(1));
        }
        assert_eq!(upstreams.report().unwrap().state, Reach::Unreachable);
        upstreams.observe("pg2", 5432, Observation::Answered, Moment(2));
        let report = upstreams.report().unwrap();
        assert_eq!(
            (report.state, report.reason),
            (Reach::Partly, Some(Reason::Refused))
        );
        upstreams.reconfigure(&config("b = host=pg2"));
        let after = upstreams.report().unwrap();
        assert_eq!(after.state, Reach::Reachable);
        assert!(after.number > report.number);
        // What is configured anew is asked at once.
        let (due, _) = upstreams.due(Duration::from_secs(5), Moment(3));
        assert_eq!(due, [place("pg2", 5432)]);
    }

    #[test]
    fn a_user_that_is_refused_beside_others_is_no_news() {
        let upstreams = Upstreams::default();
        upstreams.reconfigure(&config("a = host=pg1"));
        let refused = LoginError::Refused {
            code: "28P01".to_owned(),
            text: String::new(),
        };
        let server = upstreams.logged_in("pg1", 5432, Moment(1));
        upstreams.login_failed("pg1", 5432, &refused, Moment(2));
        assert_eq!(upstreams.report().unwrap().state, Reach::Reachable);
        drop(server);
        upstreams.login_failed("pg1", 5432, &refused, Moment(3));
        let report = upstreams.report().unwrap();
        assert_eq!(report.reason, Some(Reason::Credentials));
    }
}
