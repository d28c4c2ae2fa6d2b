//! `/metrics`: the balancer's counters as Prometheus reads them.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use proxy_core::health::Health;

use super::shared::Shared;
use crate::metrics::{Page, balancer as series};

/// The whole page.
#[must_use]
pub fn page(shared: &Shared, now: Instant) -> String {
    let mut page = Page::new(series::ALL);
    process(&mut page, shared, now);
    for target in shared.targets().iter() {
        let name = target.name.as_str();
        let traffic = &target.traffic;
        let judged = target.judged();
        let changes = judged.changes;
        let mut one = |series, value: f64| page.sample(series, &[name], value);
        one(&series::TARGET_UP, f64::from(u8::from(target.open())));
        one(
            &series::TARGET_CONNECTIONS,
            f64::from(traffic.connections.now()),
        );
        one(
            &series::TARGET_CONNECTIONS_TOTAL,
            traffic.total.load(Relaxed) as f64,
        );
        one(
            &series::TARGET_CONNECT_FAILURES,
            traffic.connect_failures.load(Relaxed) as f64,
        );
        one(&series::TARGET_RECEIVED, traffic.from_clients() as f64);
        one(&series::TARGET_SENT, traffic.to_clients() as f64);
        if let Some(seen) = &judged.seen {
            one(&series::TARGET_CHECK_DURATION, seen.duration.as_secs_f64());
        }
        let mut each = |series, label: &str, value: u64| {
            page.sample(series, &[name, label], value as f64);
        };
        each(
            &series::TARGET_ABORTED,
            "client",
            traffic.client_aborts.load(Relaxed),
        );
        each(
            &series::TARGET_ABORTED,
            "server",
            traffic.server_aborts.load(Relaxed),
        );
        each(&series::TARGET_CHECKS, "ok", judged.checks_passed);
        each(&series::TARGET_CHECKS, "failed", judged.checks_failed);
        each(&series::TARGET_TRANSITIONS, "up", changes.up);
        each(&series::TARGET_TRANSITIONS, "down", changes.down);
        each(&series::TARGET_TRANSITIONS, "draining", changes.draining);
        each(&series::TARGET_TRANSITIONS, "restarted", changes.restarted);
    }
    page.finish()
}

fn process(page: &mut Page, shared: &Shared, now: Instant) {
    let config = shared.config();
    let revision = config.revision.as_deref().unwrap_or_default();
    let labels = [env!("CARGO_PKG_VERSION"), &shared.boot_id, revision];
    page.sample(&series::INFO, &labels, 1.0);
    page.sample(
        &series::START_TIME,
        &[],
        shared.started_at.as_millisecond() as f64 / 1e3,
    );
    page.sample(
        &series::CONNECTIONS,
        &[],
        f64::from(shared.frontend.connections.now()),
    );
    page.sample(
        &series::CONNECTIONS_LIMIT,
        &[],
        f64::from(shared.connections_max.load(Relaxed)),
    );
    page.sample(
        &series::CONNECTIONS_TOTAL,
        &[],
        shared.frontend.total.load(Relaxed) as f64,
    );
    let refused = [
        ("no_target", &shared.refused_no_target),
        ("limit", &shared.refused_limit),
    ];
    for (reason, count) in refused {
        page.sample(&series::REFUSED, &[reason], count.load(Relaxed) as f64);
    }
    page.sample(&series::RECEIVED, &[], shared.backend.from_clients() as f64);
    page.sample(&series::SENT, &[], shared.backend.to_clients() as f64);
    let targets = shared.targets();
    for (health, label) in [
        (Health::Unknown, "unknown"),
        (Health::Up, "up"),
        (Health::Down, "down"),
        (Health::Draining, "draining"),
    ] {
        let count = targets
            .iter()
            .filter(|target| target.judged().state.health == health)
            .count();
        page.sample(&series::TARGETS, &[label], count as f64);
    }
    let reloads = shared.reloads.lock().expect("no holder panics").clone();
    page.sample(&series::RELOAD_FAILURES, &[], reloads.failures_total as f64);
    let successful = f64::from(reloads.last_successful());
    page.sample(&series::RELOAD_SUCCESSFUL, &[], successful);
    look_ups(page, shared);
    for (index, handle) in shared.loops.iter().enumerate() {
        let age_s = handle.heart.age(now).as_secs_f64();
        page.sample(&series::LOOP_AGE, &[&index.to_string()], age_s);
    }
}

fn look_ups(page: &mut Page, shared: &Shared) {
    let look_ups = shared.look_ups.lock().expect("no holder panics").clone();
    for (result, count) in [("ok", look_ups.answered), ("failed", look_ups.failed)] {
        page.sample(&series::LOOK_UPS, &[result], count as f64);
    }
    let last_success = look_ups.last_success.map_or(0, |at| at.as_millisecond());
    page.sample(&series::LOOK_UP_SUCCESS, &[], last_success as f64 / 1e3);
    let targets = look_ups.addresses - look_ups.left_out;
    for (r#use, count) in [("target", targets), ("left_out", look_ups.left_out)] {
        page.sample(&series::DISCOVERED, &[r#use], count as f64);
    }
}
