//! `/metrics`: what the loops count, as Prometheus reads it.

use std::time::Instant;

use super::{
    control::Control, counters::NotOpened, pools::PoolInfo, shared::Shared, snapshot::PoolSnapshot,
    view::View,
};
use crate::metrics::{Page, pooler as series};

/// A state's label, and how many of a pool are in it.
type State = (&'static str, fn(&PoolSnapshot) -> u32);

const CLIENT_STATES: [State; 3] = [
    ("idle", |pool| pool.clients_idle),
    ("active", |pool| pool.clients_active),
    ("waiting", |pool| pool.clients_waiting),
];

const SERVER_STATES: [State; 6] = [
    ("active", |pool| pool.servers_active),
    ("idle", |pool| pool.servers_idle),
    ("used", |pool| pool.servers_used),
    ("tested", |pool| pool.servers_tested),
    ("being_canceled", |pool| pool.servers_being_canceled),
    ("login", |pool| pool.servers_login),
];

/// The whole page.
pub(super) fn page(control: &Control, view: &View, now: Instant) -> String {
    let shared = &*control.shared;
    let mut page = Page::new(series::ALL);
    process(&mut page, shared, view);
    let reloads = control.reloads();
    page.sample(&series::RELOAD_FAILURES, &[], reloads.failures_total as f64);
    let successful = f64::from(reloads.last_successful());
    page.sample(&series::RELOAD_SUCCESSFUL, &[], successful);
    clients_and_servers(&mut page, view);
    for (info, snapshot) in view.pools() {
        pool(&mut page, info, snapshot);
    }
    for (index, mailbox) in shared.mailboxes.iter().enumerate() {
        let age_s = mailbox.heart.age(now).as_secs_f64();
        page.sample(&series::LOOP_AGE, &[&index.to_string()], age_s);
    }
    page.finish()
}

fn process(page: &mut Page, shared: &Shared, view: &View) {
    let global = &view.live.config.global;
    let revision = global.config_revision.as_deref().unwrap_or_default();
    let labels = [env!("CARGO_PKG_VERSION"), &shared.boot_id, revision];
    page.sample(&series::INFO, &labels, 1.0);
    page.sample(
        &series::START_TIME,
        &[],
        shared.started_at.as_millisecond() as f64 / 1e3,
    );
    page.sample(&series::PAUSED, &[], f64::from(view.is_paused));
    page.sample(
        &series::DRAINING,
        &[],
        f64::from(shared.pools.is_draining()),
    );
    page.sample(
        &series::CLIENTS_LIMIT,
        &[],
        f64::from(global.max_client_conn),
    );
    let counters = &view.loops.counters;
    page.sample(&series::CONNECTIONS_TOTAL, &[], counters.accepted as f64);
    page.sample(&series::AUTH_FAILURES, &[], counters.auth_failures as f64);
    for (result, count) in [
        ("believed", counters.proxy_headers),
        ("refused", counters.proxy_headers_refused),
    ] {
        page.sample(&series::PROXY_HEADERS, &[result], count as f64);
    }
    for (reason, holds) in shared.saturations.reasons() {
        page.sample(&series::SATURATED, &[reason.word()], f64::from(holds));
    }
    let peers = view.peers.found.all().len() + view.live.config.peers.len();
    page.sample(&series::PEERS, &[], peers as f64);
    for (result, count) in [
        ("answered", view.peers.answered),
        ("failed", view.peers.failed),
    ] {
        page.sample(&series::PEER_LOOKUPS, &[result], count as f64);
    }
    for (code, count) in &counters.refused {
        page.sample(&series::REFUSED, &[code], *count as f64);
    }
    for (reason, label) in NotOpened::ALL {
        let count = counters.not_opened(reason) as f64;
        page.sample(&series::SERVER_CONNECT_FAILURES, &[label], count);
    }
}

fn clients_and_servers(page: &mut Page, view: &View) {
    let loops = &view.loops;
    let sum = |count: fn(&PoolSnapshot) -> u32| loops.pools.iter().map(count).sum::<u32>();
    for (state, count) in [
        ("login", loops.clients_login),
        ("console", loops.clients_console),
    ] {
        page.sample(&series::CLIENTS, &[state], f64::from(count));
    }
    for (state, count) in CLIENT_STATES {
        page.sample(&series::CLIENTS, &[state], f64::from(sum(count)));
    }
    for (state, count) in SERVER_STATES {
        page.sample(&series::SERVERS, &[state], f64::from(sum(count)));
    }
}

fn pool(page: &mut Page, info: &PoolInfo, pool: &PoolSnapshot) {
    let (database, user) = (info.database.as_str(), info.user.as_str());
    for (state, count) in CLIENT_STATES {
        let labels = [database, user, state];
        page.sample(&series::POOL_CLIENTS, &labels, f64::from(count(pool)));
    }
    for (state, count) in SERVER_STATES {
        let labels = [database, user, state];
        page.sample(&series::POOL_SERVERS, &labels, f64::from(count(pool)));
    }
    let seconds = |micros: u64| micros as f64 / 1e6;
    let counters = &pool.counters;
    for (series, value) in [
        (
            &series::POOL_SERVERS_LIMIT,
            f64::from(info.settings().pool.pool_size),
        ),
        (&series::POOL_WAIT_MAX, seconds(pool.wait_us_max)),
        (&series::POOL_PAUSED, f64::from(info.shared.is_paused())),
        (&series::POOL_LOGINS, counters.logins as f64),
        (&series::POOL_ASSIGNMENTS, counters.assignments as f64),
        (&series::POOL_TRANSACTIONS, counters.transactions as f64),
        (&series::POOL_QUERIES, counters.queries as f64),
        (&series::POOL_RECEIVED, counters.received_bytes as f64),
        (&series::POOL_SENT, counters.sent_bytes as f64),
        (
            &series::POOL_TRANSACTION_TIME,
            seconds(counters.transaction_us),
        ),
        (&series::POOL_QUERY_TIME, seconds(counters.query_us)),
        (&series::POOL_WAIT_TIME, seconds(counters.wait_us)),
        (&series::POOL_CLIENT_PARSES, counters.client_parses as f64),
        (&series::POOL_SERVER_PARSES, counters.server_parses as f64),
        (&series::POOL_BINDS, counters.binds as f64),
    ] {
        page.sample(series, &[database, user], value);
    }
}
