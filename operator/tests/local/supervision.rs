//! Children: started, restarted, outlived, adopted, never mistaken.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command},
};

use crate::support::{Bench, STEADY, runs, signal, wait_for_end};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn children_run_in_groups_of_their_own_and_end_with_the_tier() {
    let bench = Bench::new(STEADY);
    let mut operator = bench.start();
    for pid in operator.children() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let group = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(2)
            .unwrap();
        assert_eq!(group, pid.to_string(), "Ctrl-C would reach it");
    }
    assert_eq!(operator.stop().code(), Some(0));
    let state: Value =
        serde_json::from_slice(&fs::read(bench.path("state/state.json")).unwrap()).unwrap();
    assert_eq!(state["stopped"], true);
    assert_eq!(state["children"], serde_json::json!({}));
}

#[test]
fn child_that_keeps_ending_is_started_again_ever_later() {
    let bench = Bench::new("#!/bin/sh\necho started; exit 3\n");
    let mut operator = bench.start();
    let delays: Vec<u64> = (0..4)
        .map(|_| {
            let ended = operator.of("ended", "pooler-0");
            assert_eq!(ended["reason"], "exit code 3");
            assert_eq!(ended["planned"], false);
            ended["restartInMs"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(delays, [100, 200, 400, 800]);
    let outages: Vec<&Value> = operator
        .seen
        .iter()
        .filter(|event| event["name"] == "pooler-0" && event["outage"] == "begins")
        .collect();
    assert_eq!(outages.len(), 1, "one outage, however often it ends");
    assert_eq!(operator.stop().code(), Some(0));
    let log = fs::read_to_string(bench.path("state/logs/pooler-0.log")).unwrap();
    assert!(log.starts_with("started\nstarted\n"), "{log}");
}

#[test]
fn killed_child_is_replaced_and_the_killer_named() {
    let bench = Bench::new(STEADY);
    let mut operator = bench.start();
    let [pooler, _] = operator.children();
    signal(pooler, Signal::KILL);
    let down = operator.of("transition", "pooler-0");
    assert_eq!(down["to"], "Down");
    assert_eq!(down["reason"], "killed by signal 9 (SIGKILL)");
    assert_eq!(down["outage"], "begins");
    let again = operator.of("restarted", "pooler-0");
    assert_ne!(again["pid"], pooler);
    assert_eq!(again["restarts"], 1);
    let (code, metrics) = bench.get("/metrics");
    assert_eq!(code, 200);
    assert!(
        metrics.contains(
            "poolkeeper_operator_process_restarts_total{pgpoolcluster=\"shop\",component=\"pooler\"} 1\n"
        ),
        "{metrics}"
    );
    assert_eq!(operator.stop().code(), Some(0));
}

#[test]
fn children_outlive_a_killed_operator_and_are_adopted() {
    let bench = Bench::new(STEADY);
    let mut first = bench.start();
    let children = first.children();
    first.kill();
    assert!(children.into_iter().all(runs), "the children ended with it");
    let mut second = bench.start();
    for (name, pid) in ["pooler-0", "balancer-0"].into_iter().zip(children) {
        let started = second.of("started", name);
        assert_eq!(
            (&started["adopted"], &started["pid"]),
            (&Value::Bool(true), &Value::from(pid))
        );
    }
    // It watches them as it does its own.
    signal(children[0], Signal::KILL);
    let ended = second.of("ended", "pooler-0");
    assert_eq!(
        ended["reason"],
        "ended, how is not known: an earlier operator had started it"
    );
    second.of("restarted", "pooler-0");
    assert_eq!(second.stop().code(), Some(0));
    wait_for_end(children[1]);
}

#[test]
fn child_that_ended_in_the_operators_absence_is_an_outage() {
    let bench = Bench::new(STEADY);
    let mut first = bench.start();
    let [pooler, _] = first.children();
    first.kill();
    signal(pooler, Signal::KILL);
    wait_for_end(pooler);
    let mut second = bench.start();
    let down = second.of("transition", "pooler-0");
    assert_eq!(down["reason"], "ended while no operator ran");
    assert_eq!(down["outage"], "begins");
    assert_eq!(second.of("started", "pooler-0")["adopted"], false);
}

#[test]
fn child_whose_number_was_not_kept_is_found_by_its_mark() {
    let bench = Bench::new(STEADY);
    let mut first = bench.start();
    let children = first.children();
    first.kill();
    // As if it had died between the start and the writing.
    let path = bench.path("state/state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["children"] = serde_json::json!({});
    state.as_object_mut().unwrap().remove("sum");
    fs::write(&path, state.to_string()).unwrap();
    let mut second = bench.start();
    assert_eq!(second.children(), children);
    assert_eq!(second.seen[0]["adopted"], true);
    assert_eq!(second.stop().code(), Some(0));
}

/// A process that is none of ours; ends with the test.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stranger_with_the_number_of_a_child_is_left_alone() {
    let bench = Bench::new(STEADY);
    let mut first = bench.start();
    let [pooler, balancer] = first.children();
    first.kill();
    for pid in [pooler, balancer] {
        signal(pid, Signal::KILL);
        wait_for_end(pid);
    }
    // As if the number had been given to another process since.
    let mut stranger = Stranger(Command::new("sleep").arg("3600").spawn().unwrap());
    let path = bench.path("state/state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["children"]["pooler-0"]["pid"] = Value::from(stranger.0.id());
    state.as_object_mut().unwrap().remove("sum");
    fs::write(&path, state.to_string()).unwrap();
    let mut second = bench.start();
    let [pooler, _] = second.children();
    assert_ne!(u32::try_from(pooler).unwrap(), stranger.0.id());
    assert_eq!(second.stop().code(), Some(0));
    let ended = stranger.0.try_wait().unwrap();
    assert_eq!(ended, None, "a stranger was ended");
}

#[test]
fn damaged_state_is_said_and_kept_and_the_children_are_found() {
    let bench = Bench::new(STEADY);
    let mut first = bench.start();
    let children = first.children();
    first.kill();
    let damaged = "{\"version\": 1, \"clus";
    bench.write("state/state.json", damaged);
    let mut second = bench.start();
    let note = second.event("the word", |event| event["event"] == "note");
    let note = note["message"].as_str().unwrap();
    assert!(
        note.contains("is damaged (EOF") && note.contains("was moved to"),
        "{note}"
    );
    assert_eq!(second.children(), children);
    let kept = fs::read_to_string(bench.path("state/state.json.damaged")).unwrap();
    assert_eq!(kept, damaged);
    assert_eq!(second.stop().code(), Some(0));
}

#[test]
fn second_operator_on_one_state_folder_is_refused() {
    let bench = Bench::new(STEADY);
    let mut first = bench.start();
    let children = first.children();
    let error = bench.refused(&mut bench.command());
    assert!(
        error.contains("another operator runs with the state folder"),
        "{error}"
    );
    assert!(children.into_iter().all(runs));
    assert_eq!(first.stop().code(), Some(0));
}

#[test]
fn port_in_use_is_refused_before_anything_starts() {
    let bench = Bench::new(STEADY);
    let port = 5432 + bench.offset.ports;
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = bench.refused(&mut bench.command());
    let expected = format!(
        "operator: port 127.0.0.1:{port} (the service) is in use; stop who uses it, or move the tier's ports with --port-offset\n"
    );
    assert_eq!(error, expected);
}

#[test]
fn missing_program_is_refused_before_anything_starts() {
    let bench = Bench::new(STEADY);
    fs::remove_file(bench.path("bin/balancer")).unwrap();
    let error = bench.refused(&mut bench.command());
    assert!(error.contains("bin/balancer does not exist"), "{error}");
}

#[test]
fn child_that_does_not_end_is_killed_by_a_second_signal() {
    let bench = Bench::new("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n");
    let mut operator = bench.start();
    let children = operator.children();
    operator.signal(Signal::INT);
    operator.event("stopping", |event| event["event"] == "stopping");
    operator.signal(Signal::INT);
    assert_eq!(operator.wait().code(), Some(0));
    assert!(!children.into_iter().any(runs));
}

#[test]
fn changed_manifest_is_taken_over_by_children_that_run() {
    // Says so when it is told to read its configuration again.
    let bench = Bench::new("#!/bin/sh\ntrap 'echo reloaded' HUP\nwhile :; do sleep 0.05; done\n");
    let mut first = bench.start();
    let children = first.children();
    first.kill();
    let tier = fs::read_to_string(bench.path("tier.yaml")).unwrap();
    let pool = "spec:\n  pool: {defaultPoolSize: 7}\n";
    bench.write("tier.yaml", &tier.replace("spec:\n", pool));
    let mut second = bench.start();
    assert_eq!(second.children(), children, "nothing restarts for a reload");
    let said = |event: &Value| event["message"] == "pooler-0 reads its changed configuration";
    if !second.seen.iter().any(said) {
        second.event("reload", said);
    }
    let log = bench.path("state/logs/pooler-0.log");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !fs::read_to_string(&log).unwrap().contains("reloaded") {
        assert!(
            std::time::Instant::now() < deadline,
            "the pooler was not told"
        );
        std::thread::yield_now();
    }
    let ini = fs::read_to_string(bench.path("state/conf/pooler-0.ini")).unwrap();
    assert!(ini.contains("default_pool_size = 7\n"), "{ini}");
    second.kill();
}

#[test]
fn state_folder_of_another_cluster_is_refused() {
    let bench = Bench::new(STEADY);
    let mut operator = bench.start();
    operator.children();
    assert_eq!(operator.stop().code(), Some(0));
    let tier = fs::read_to_string(bench.path("tier.yaml")).unwrap();
    bench.write("tier.yaml", &tier.replace("name: shop", "name: store"));
    let error = bench.refused(&mut bench.command());
    assert!(
        error.contains("is the state folder of PgPoolCluster shop"),
        "{error}"
    );
}
