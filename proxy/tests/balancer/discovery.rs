//! Targets found by DNS.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use proxy_core::{
    status::{Health, TargetStatus},
    wire::TargetState,
};
use rustix::process::Signal;

use crate::{
    balancer::{Balancer, Config, QUICK},
    support::{
        dns::{Dns, Mood},
        http, wait_for,
    },
    target::Target,
};

const NAME: &str = "shop-pooler.default.svc";

/// Targets on addresses of their own and one port.
fn group(count: u8) -> Vec<Target> {
    let address = |index, port| SocketAddr::from(([127, 0, 1, index], port));
    loop {
        let first = TcpListener::bind(address(1, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let others = (2..=count).map(|index| TcpListener::bind(address(index, port)));
        let listeners: Result<Vec<_>, _> = [Ok(first)].into_iter().chain(others).collect();
        // Taken by another test: the next port then.
        if let Ok(listeners) = listeners {
            return listeners
                .into_iter()
                .enumerate()
                .map(|(index, listener)| Target::on(&format!("pooler-{index}"), listener))
                .collect();
        }
    }
}

fn ips<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Vec<IpAddr> {
    targets
        .into_iter()
        .map(|target| target.address.ip())
        .collect()
}

/// A port on which nobody listens at 127.0.2.x.
const NOBODY: u16 = 9;

fn config(dns: &Dns, port: u16) -> Config {
    Config::over([]).check(QUICK).with(&format!(
        "discovery: {{dns: {NAME}, port: {port}, resolver: \"{}\"}}",
        dns.address
    ))
}

/// A balancer over the answers of `dns`.
fn serving(dns: &Dns, port: u16) -> Balancer {
    Balancer::serving(&config(dns, port))
}

fn target(balancer: &Balancer, name: &str) -> Option<TargetStatus> {
    let mut targets = balancer.status().targets;
    targets.retain(|target| target.name == name);
    assert!(targets.len() <= 1, "{targets:?}");
    targets.pop()
}

#[track_caller]
fn wait_for_target(balancer: &Balancer, name: &str, state: Health, listed: bool) {
    wait_for(&format!("{name} to be {state}, listed: {listed}"), || {
        target(balancer, name).filter(|one| one.state == state && one.listed == listed)
    });
}

#[track_caller]
fn wait_until_gone(balancer: &Balancer, name: &str) {
    wait_for(&format!("{name} to go"), || {
        target(balancer, name).is_none().then_some(())
    });
}

/// What it warned of, but for the machine's limit of open files.
fn warnings(balancer: &Balancer) -> Vec<String> {
    let log = balancer.log();
    let warnings = log.lines().filter(|line| line.contains(" WARN "));
    warnings
        .filter(|line| !line.contains("max_connections lowered"))
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn failures(balancer: &Balancer) -> u64 {
    balancer.status().discovery.unwrap().failures_total
}

#[test]
fn a_discovered_target_is_down_untold_until_its_first_success() {
    let mut targets = group(2);
    let port = targets[0].address.port();
    targets[1].close_port();
    let dns = Dns::start();
    dns.set(NAME, 30, &ips(&targets));
    let balancer = serving(&dns, port);
    let status = balancer.status();
    let names: Vec<&str> = status.targets.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["127.0.1.1", "127.0.1.2"]);
    assert!(
        status
            .targets
            .iter()
            .all(|one| one.discovered && one.listed)
    );
    assert_eq!(status.targets[1].state, Health::Down);
    wait_for("a few checks of the other", || {
        (balancer.csv("127.0.1.2", "chkfail").parse::<u32>().unwrap() > 4).then_some(())
    });
    let status = balancer.status();
    assert_eq!(status.newest, 1, "{:?}", status.transitions);
    let first = &status.transitions[0];
    assert_eq!(
        (first.target.as_str(), first.from, first.to, first.total),
        ("127.0.1.1", Health::Down, Health::Up, 2)
    );
    assert_eq!(status.targets[1].reason, "connection refused");
    assert_eq!(warnings(&balancer), Vec::<String>::new());
    let discovery = status.discovery.unwrap();
    assert_eq!((discovery.dns.as_str(), discovery.addresses), (NAME, 2));
    assert_eq!((discovery.failures_total, discovery.error), (0, None));
    assert!(discovery.last_success.is_some());

    // What a pooler is called, it says itself.
    let report = status.targets[0].report.as_ref().unwrap();
    assert_eq!(report.name.as_deref(), Some("pooler-0.example"));
    let page = http::get(balancer.web, "/stats").body;
    assert!(page.contains("host pooler-0.example"), "{page}");

    // One success is enough, whatever `rise` says.
    targets[1].open_port();
    wait_for_target(&balancer, "127.0.1.2", Health::Up, true);
    let second = &balancer.status().transitions[1];
    assert_eq!(
        (second.from, second.reason.as_str()),
        (Health::Down, "check passed")
    );
    assert_eq!(balancer.client().target, "pooler-0");
    assert_eq!(balancer.client().target, "pooler-1");
}

#[test]
fn targets_come_with_the_answer_and_go_when_their_checks_fail_too() {
    let mut targets = group(3);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 1, &ips(&targets[..2]));
    let balancer = serving(&dns, port);
    wait_for_target(&balancer, "127.0.1.2", Health::Up, true);
    dns.set(NAME, 1, &ips(&targets[1..]));
    wait_for_target(&balancer, "127.0.1.3", Health::Up, true);
    // It serves, whatever DNS has forgotten.
    wait_for_target(&balancer, "127.0.1.1", Health::Up, false);
    let mut served: Vec<String> = (0..3).map(|_| balancer.client().target.clone()).collect();
    served.sort();
    assert_eq!(served, ["pooler-0", "pooler-1", "pooler-2"]);

    // Down and still listed: it stays.
    targets[1].kill();
    wait_for_target(&balancer, "127.0.1.2", Health::Down, true);
    targets[0].kill();
    wait_until_gone(&balancer, "127.0.1.1");
    assert!(target(&balancer, "127.0.1.2").is_some());
    let downs: Vec<String> = balancer
        .status()
        .transitions
        .into_iter()
        .filter(|one| one.to == Health::Down)
        .map(|one| one.target)
        .collect();
    assert_eq!(downs.len(), 2, "each end is told: {downs:?}");
    assert_eq!(balancer.client().target, "pooler-2");
    // Nothing is left of it but what it did.
    let metrics = http::get(balancer.web, "/metrics").body;
    assert!(!metrics.contains("127.0.1.1"), "{metrics}");
}

#[test]
fn a_draining_target_stays_until_its_last_session_is_over() {
    let mut targets = group(2);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 1, &ips(&targets));
    let balancer = serving(&dns, port);
    let mut clients = [balancer.client(), balancer.client()];
    clients.sort_by(|one, other| one.target.cmp(&other.target));
    targets[0].report(|report| report.state = TargetState::Draining);
    dns.set(NAME, 1, &ips(&targets[1..]));
    wait_for_target(&balancer, "127.0.1.1", Health::Draining, false);
    targets[0].close_port();
    wait_for_target(&balancer, "127.0.1.1", Health::Down, false);
    let asked = dns.asked();
    wait_for("two more look-ups", || {
        (dns.asked() >= asked + 2).then_some(())
    });
    clients[0].talk("still served");
    assert_eq!(target(&balancer, "127.0.1.1").unwrap().connections, 1);
    let [client, _other] = clients;
    drop(client);
    wait_until_gone(&balancer, "127.0.1.1");
}

#[test]
fn a_failed_look_up_keeps_the_last_answer() {
    let targets = group(2);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 1, &ips(&targets));
    let balancer = serving(&dns, port);
    // A silent server takes four seconds to be given up.
    for (mood, times) in [(Mood::Failing, 2), (Mood::Silent, 1)] {
        let before = failures(&balancer);
        dns.mood(NAME, mood);
        wait_for("failures", || {
            (failures(&balancer) >= before + times).then_some(())
        });
        let status = balancer.status();
        assert!(status.discovery.unwrap().error.is_some());
        for target in status.targets {
            assert!(target.listed && target.state == Health::Up, "{target:?}");
        }
        dns.mood(NAME, Mood::Well);
        wait_for("a look-up that works", || {
            balancer
                .status()
                .discovery
                .unwrap()
                .error
                .is_none()
                .then_some(())
        });
    }
    let log = balancer.log();
    let told = log.matches("targets not looked up").count();
    assert_eq!(told, 2, "told once each: {log}");
    let metrics = http::get(balancer.web, "/metrics").body;
    for series in [
        "poolkeeper_balancer_discovery_look_ups_total{result=\"failed\"}",
        "poolkeeper_balancer_discovery_addresses{use=\"target\"} 2",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
}

#[test]
fn a_name_that_vanishes_takes_no_target_along_that_serves() {
    let mut targets = group(2);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 1, &ips(&targets));
    let balancer = serving(&dns, port);
    dns.mood(NAME, Mood::Unaware);
    for name in ["127.0.1.1", "127.0.1.2"] {
        wait_for_target(&balancer, name, Health::Up, false);
    }
    assert_eq!(failures(&balancer), 0, "no such name is an answer");
    targets[0].kill();
    wait_until_gone(&balancer, "127.0.1.1");
    assert_eq!(balancer.client().target, "pooler-1");
    dns.set(NAME, 1, &[]);
    let asked = dns.asked();
    wait_for("two look-ups", || (dns.asked() >= asked + 2).then_some(()));
    assert_eq!(balancer.client().target, "pooler-1");
    // The same address again is a target anew, told as such.
    targets[0].open_port();
    dns.set(NAME, 1, &ips(&targets));
    wait_for_target(&balancer, "127.0.1.1", Health::Up, true);
}

#[test]
fn readiness_does_not_wait_for_dns() {
    let targets = group(1);
    let dns = Dns::start();
    dns.set(NAME, 1, &ips(&targets));
    dns.mood(NAME, Mood::Silent);
    let balancer = serving(&dns, targets[0].address.port());
    assert_eq!(balancer.status().targets, []);
    dns.mood(NAME, Mood::Well);
    wait_for_target(&balancer, "127.0.1.1", Health::Up, true);
    assert_eq!(balancer.client().target, "pooler-0");
}

#[test]
fn the_time_to_live_is_kept() {
    let targets = group(1);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 30, &ips(&targets));
    let balancer = serving(&dns, port);
    let name = targets[0].address.ip().to_string();
    wait_for_target(&balancer, &name, Health::Up, true);
    let asked = dns.asked();
    let checks = targets[0].checks();
    wait_for("ten checks", || {
        (targets[0].checks() >= checks + 10).then_some(())
    });
    assert_eq!(dns.asked(), asked);
    drop(balancer);

    // Never more often than once a second, whatever it says.
    dns.set(NAME, 0, &ips(&targets));
    let begin = Instant::now();
    let _balancer = serving(&dns, port);
    wait_for("three look-ups more", || (dns.asked() >= 4).then_some(()));
    assert!(begin.elapsed() >= Duration::from_secs(2));
}

/// An answer from before a change of all poolers would keep clients out for as
/// long as it may be used.
#[test]
fn while_no_target_is_up_the_name_is_asked_again() {
    let targets = group(1);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 30, &[Ipv4Addr::new(127, 255, 255, 9).into()]);
    let balancer = serving(&dns, port);
    wait_for("another look-up", || (dns.asked() >= 2).then_some(()));
    dns.set(NAME, 30, &ips(&targets));
    let name = targets[0].address.ip().to_string();
    wait_for_target(&balancer, &name, Health::Up, true);
}

#[test]
fn aaaa_and_long_answers_are_read() {
    let dns = Dns::start();
    let mut addresses: Vec<IpAddr> = (1..=199)
        .map(|last| Ipv4Addr::new(127, 0, 2, last).into())
        .collect();
    addresses.push("::1".parse().unwrap());
    dns.set(NAME, 1, &addresses);
    let balancer = serving(&dns, NOBODY);
    let status = wait_for("200 targets", || {
        let status = balancer.status();
        (status.targets.len() == 200).then_some(status)
    });
    assert_eq!(status.targets[199].address, format!("[::1]:{NOBODY}"));
    assert_eq!(status.targets[199].name, "::1");
    assert!(dns.asked_by_tcp() > 0, "they do not fit into UDP");
    assert_eq!((status.newest, warnings(&balancer).len()), (0, 0));
}

#[test]
fn targets_are_limited_and_that_is_told_once() {
    let dns = Dns::start();
    let addresses: Vec<IpAddr> = (0..300_u16)
        .map(|index| {
            let [high, low] = index.to_be_bytes();
            Ipv4Addr::new(127, 0, 2 + high, low).into()
        })
        .collect();
    dns.set(NAME, 0, &addresses);
    let balancer = serving(&dns, NOBODY);
    wait_for("further look-ups", || (dns.asked() > 3).then_some(()));
    let status = balancer.status();
    let discovery = status.discovery.unwrap();
    assert_eq!((status.targets.len(), discovery.left_out), (256, 44));
    let log = balancer.log();
    assert_eq!(log.matches("more addresses than").count(), 1, "{log}");
}

#[test]
fn listed_and_discovered_targets_go_together() {
    let targets = group(3);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 1, &ips(&targets));
    let mut config = config(&dns, port);
    // One that DNS names too, and one that is called as another's address.
    config.targets = vec![
        ("first".into(), targets[0].address),
        ("127.0.1.3".into(), Target::start("elsewhere").address),
    ];
    let balancer = Balancer::serving(&config);
    let names: Vec<String> = wait_for("all targets", || {
        let targets = balancer.status().targets;
        (targets.len() == 4).then(|| targets.into_iter().map(|one| one.name).collect())
    });
    let ambiguous = format!("127.0.1.3:{port}");
    assert_eq!(names, ["first", "127.0.1.3", "127.0.1.2", &ambiguous]);
}

#[test]
fn a_reload_follows_another_name() {
    let targets = group(2);
    let port = targets[0].address.port();
    let dns = Dns::start();
    dns.set(NAME, 1, &ips(&targets[..1]));
    dns.set("other", 1, &ips(&targets[1..]));
    let balancer = serving(&dns, port);
    let mut client = balancer.client();
    let yaml = config(&dns, port).yaml().replace(NAME, "other");
    std::fs::write(&balancer.file, yaml).unwrap();
    balancer.signal(Signal::HUP);
    wait_for_target(&balancer, "127.0.1.2", Health::Up, true);
    wait_until_gone(&balancer, "127.0.1.1");
    assert_eq!(balancer.client().target, "pooler-1");
    client.talk("served to the end");
    assert_eq!(balancer.status().discovery.unwrap().dns, "other");
}
