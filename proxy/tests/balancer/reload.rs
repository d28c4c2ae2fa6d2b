//! SIGHUP: what is taken over, what is kept.

use proxy_core::status::Health;
use rustix::process::Signal;

use crate::{
    balancer::{Balancer, Config, QUICK},
    support::{http, wait_for},
    target::Target,
};

/// A first round that leaves time to reload.
const SLOW: &str = "{interval: 3s, timeout: 3s, rise: 1, fall: 9}";
/// Checks that are soon many.
const OFTEN: &str = "{interval: 100ms, timeout: 100ms, rise: 1, fall: 9}";

fn reload(balancer: &Balancer, config: &Config) {
    let reloads = || balancer.log().matches("configuration reloaded").count();
    let before = reloads();
    std::fs::write(&balancer.file, config.yaml()).unwrap();
    balancer.signal(Signal::HUP);
    wait_for("the reload", || (reloads() > before).then_some(()));
}

fn wait_until_ready(balancer: &Balancer) {
    wait_for("readiness", || {
        (http::get(balancer.web, "/readyz").status == 200).then_some(())
    });
}

#[test]
fn a_target_added_during_the_first_round_gets_one_checker() {
    let targets = ["pooler-0", "pooler-1"].map(Target::start);
    // The first round lasts as long as this one says nothing.
    targets[0].freeze(true);
    let balancer = Balancer::start(&Config::over(&targets[..1]).check(SLOW));
    wait_for("the first check", || {
        (targets[0].checks() == 1).then_some(())
    });
    reload(&balancer, &Config::over(&targets).check(OFTEN));
    assert_eq!(http::get(balancer.web, "/readyz").status, 503);
    targets[0].freeze(false);
    wait_until_ready(&balancer);
    let begun = [0, 1].map(|index: usize| targets[index].checks());
    wait_for("twenty checks", || {
        (targets[0].checks() >= begun[0] + 20).then_some(())
    });
    let checks = targets[1].checks() - begun[1];
    assert!(
        checks <= 30,
        "{checks} checks, twice as many as of the other"
    );
    let status = balancer.status();
    let told: Vec<_> = status
        .transitions
        .iter()
        .map(|one| (one.number, one.target.as_str(), one.to))
        .collect();
    assert_eq!(
        told,
        [(1, "pooler-1", Health::Up), (2, "pooler-0", Health::Up)]
    );
}

#[test]
fn a_target_removed_during_the_first_round_is_checked_no_more() {
    let targets = ["pooler-0", "pooler-1"].map(Target::start);
    targets[0].freeze(true);
    let balancer = Balancer::start(&Config::over(&targets).check(SLOW));
    wait_for("the first checks", || {
        (targets[0].checks() == 1 && targets[1].checks() > 0).then_some(())
    });
    reload(&balancer, &Config::over(&targets[1..]).check(OFTEN));
    wait_until_ready(&balancer);
    let later = targets[1].checks() + 10;
    wait_for("further checks", || {
        (targets[1].checks() >= later).then_some(())
    });
    assert_eq!(targets[0].checks(), 1);
}

#[test]
fn a_reload_keeps_counters_and_numbers_and_tells_nothing_twice() {
    let targets = ["pooler-0", "pooler-1", "pooler-2"].map(Target::start);
    let balancer = Balancer::serving(&Config::over(&targets[..2]).check(QUICK));
    let _client = balancer.client();
    let before = balancer.status();
    assert_eq!(before.newest, 2);
    for _ in 0..3 {
        reload(&balancer, &Config::over(&targets).check(QUICK));
    }
    wait_for("the new target", || {
        (balancer.csv("BACKEND", "act") == "3").then_some(())
    });
    let after = crate::balancer::status(
        balancer.web,
        &format!("?since={}:{}", before.boot_id, before.newest),
    );
    assert!(!after.missed);
    assert_eq!(after.transitions.len(), 1, "{:?}", after.transitions);
    assert_eq!(after.transitions[0].number, 3);
    assert_eq!(after.transitions[0].target, "pooler-2");
    assert_eq!(balancer.csv("FRONTEND", "stot"), "1");
    let sessions: u32 = after.targets.iter().map(|one| one.connections).sum();
    assert_eq!(sessions, 1, "kept, and counted once");
}

/// As Kubernetes mounts it: `file` is a link into `..data`, a link that is
/// swapped.
fn mount(file: &std::path::Path, version: &str, yaml: &str) {
    let directory = file.parent().unwrap();
    let inner = directory.join(version);
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("balancer.yaml"), yaml).unwrap();
    let next = directory.join("..next");
    std::os::unix::fs::symlink(version, &next).unwrap();
    std::fs::rename(next, directory.join("..data")).unwrap();
    if !file.is_symlink() {
        std::fs::remove_file(file).unwrap();
        std::os::unix::fs::symlink("..data/balancer.yaml", file).unwrap();
    }
}

#[test]
fn a_file_that_changes_is_reloaded_however_it_changes() {
    let target = Target::start("pooler-0");
    let with = |revision: &str| {
        let config = Config::over([&target]).with("reload_on_change: true");
        config.with(&format!("revision: {revision}")).yaml()
    };
    let balancer = Balancer::serving(&Config::over([&target]).with("reload_on_change: true"));
    let wait_for_revision = |revision: &str| {
        wait_for(revision, || {
            (balancer.status().config_revision.as_deref() == Some(revision)).then_some(())
        });
    };
    // In place.
    std::fs::write(&balancer.file, with("r1")).unwrap();
    wait_for_revision("r1");
    // Renamed over.
    let next = balancer.file.with_extension("next");
    std::fs::write(&next, with("r2")).unwrap();
    std::fs::rename(next, &balancer.file).unwrap();
    wait_for_revision("r2");
    // Swapped.
    mount(&balancer.file, "v3", &with("r3"));
    wait_for_revision("r3");
    mount(&balancer.file, "v4", &with("r4"));
    wait_for_revision("r4");

    // A bad one is told once, and what was in force stays.
    mount(&balancer.file, "v5", "targets: 7\n");
    let reloads = wait_for("the refusal", || {
        let reloads = balancer.status().reloads;
        reloads.error.is_some().then_some(reloads)
    });
    assert!(reloads.error.unwrap().contains("targets is 7"));
    let status = balancer.status();
    assert_eq!(status.reloads.failures_total, 1, "once per content");
    assert_eq!(status.config_revision.as_deref(), Some("r4"));
    let metrics = http::get(balancer.web, "/metrics").body;
    assert!(metrics.contains("poolkeeper_balancer_reload_failures_total 1"));
    assert!(metrics.contains("poolkeeper_balancer_last_reload_successful 0"));

    // Switched off by the file itself.
    let off = Config::over([&target]).with("revision: r6").yaml();
    mount(&balancer.file, "v6", &off);
    wait_for_revision("r6");
    assert_eq!(balancer.status().reloads.error, None);
}
