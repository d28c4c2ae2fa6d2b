use serde_json::json;

use super::*;
use crate::golden;

/// What an API server has of a tier of which a pooler is down.
fn reading() -> Reading {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message,
            "observedGeneration": 4, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let endpoint = |name: &str, component: &str, state: &str, revision: &str, reason: &str| {
        json!({"name": name, "component": component, "state": state, "reason": reason,
            "since": "2026-01-01T00:30:00Z", "configRevision": revision})
    };
    let status = json!({
        "observedGeneration": 4,
        "configRevision": "r2",
        "conditions": [
            condition("Ready", "True", "Serving", "applications are served"),
            condition("Reconciling", "False", "Stalled", "it waits for what Stalled says"),
            condition("Stalled", "True", "ConfigInvalid",
                "the spec is not carried out: ConfigValid says what to mend"),
            condition("ConfigValid", "False", "Invalid", "spec.pool.mode: no"),
            condition("PoolersAvailable", "False", "NotAllUp", "1 of 2 poolers are up"),
            condition("UpstreamReachable", "False", "ConnectionRefused",
                "1 of 1 poolers cannot use PostgreSQL at db:5432: connection refused"),
        ],
        "poolers": {"replicas": 2, "updated": 1, "ready": 1, "summary": "1/2"},
        "balancer": {"replicas": 1, "updated": 1, "ready": 1, "summary": "1/1"},
        "budget": {"serverConnections": 350, "upstreamMaxConnections": 300},
        "endpoints": [
            json!({"name": "shop-pooler-a", "component": "pooler", "state": "Up",
                "reason": "checks pass", "since": "2026-01-01T00:30:00Z", "configRevision": "r2",
                "upstream": {"state": "Unreachable", "reason": "ConnectionRefused"}}),
            endpoint("shop-pooler-b", "pooler", "Down", "r1", "connection refused\u{1b}[31m"),
            json!({"name": "shop-balancer-c", "component": "balancer", "state": "Up",
                "since": "2026-01-01T01:29:50Z", "reason": "its Pod is ready"}),
        ],
        "notifications": [{"name": "ops", "pending": 1, "problem": "channel_not_found"}],
    });
    Reading {
        name: "shop".to_owned(),
        namespace: "web".to_owned(),
        generation: Some(4),
        status: Some(serde_json::from_value(status).unwrap()),
        events: Ok(vec![Happening {
            at: "2026-01-01T01:28:00Z".parse().unwrap(),
            type_: "Warning".to_owned(),
            reason: "ConfigInvalid".to_owned(),
            message: "spec.pool.mode:\nno".to_owned(),
        }]),
    }
}

fn shown(reading: Reading) -> String {
    let now = "2026-01-01T01:30:00Z".parse().unwrap();
    render(&Overview::of(reading), now)
}

#[test]
fn a_tier_at_a_glance() {
    golden::check("tests/golden/status/degraded.txt", &shown(reading()));
}

#[test]
fn one_that_nobody_has_looked_at() {
    let reading = Reading {
        status: None,
        events: Err("cannot list Events: forbidden".to_owned()),
        ..reading()
    };
    assert!(!Overview::of(reading.clone()).ready);
    golden::check("tests/golden/status/unseen.txt", &shown(reading));
}

#[test]
fn programs_get_the_same() {
    let overview = serde_json::to_value(Overview::of(reading())).unwrap();
    assert_eq!(overview["ready"], true);
    assert_eq!(overview["endpoints"][0]["upToDate"], true);
    assert_eq!(overview["endpoints"][1]["upToDate"], false);
    assert_eq!(overview["endpoints"][1]["state"], "Down");
    assert_eq!(overview["endpoints"][2].get("upToDate"), None);
    assert_eq!(overview["events"][0]["type"], "Warning");
}

#[test]
fn a_spec_that_nobody_has_looked_at_is_said_first() {
    let reading = Reading {
        generation: Some(5),
        ..reading()
    };
    let overview = Overview::of(reading.clone());
    assert!(overview.next[0].contains("newest spec"), "{overview:?}");
    assert!(shown(reading).contains("generation 5 of the spec; the operator has looked at 4"));
}

#[test]
fn advice_is_given_once_and_names_the_cluster() {
    let next = Overview::of(reading()).next;
    assert!(
        next[0].starts_with("mend what ConfigValid names"),
        "{next:?}"
    );
    let about_pods: Vec<_> = next.iter().filter(|one| one.contains("get pods")).collect();
    assert_eq!(about_pods.len(), 1, "{next:?}");
    assert!(about_pods[0].contains("-n web get pods -l app.kubernetes.io/instance=shop"));
}

#[test]
fn of_many_events_the_newest_are_shown() {
    let mut reading = reading();
    let event = |second| Happening {
        at: Timestamp::from_second(second).unwrap(),
        type_: "Normal".to_owned(),
        reason: "Resumed".to_owned(),
        message: second.to_string(),
    };
    reading.events = Ok((0..20).rev().map(event).collect());
    let events = Overview::of(reading).events.unwrap();
    let seconds: Vec<_> = events.iter().map(|one| one.at.as_second()).collect();
    assert_eq!(seconds, (12..20).collect::<Vec<_>>());
}

#[test]
fn while_pods_are_replaced_nobody_is_sent_to_look_at_them() {
    let mut reading = reading();
    for condition in &mut reading.status.as_mut().unwrap().conditions {
        if condition.type_ == "Reconciling" {
            condition.status = "True".to_owned();
            condition.reason = "RollingOut".to_owned();
        }
    }
    let next = Overview::of(reading).next;
    assert!(
        next.iter()
            .any(|one| one.starts_with("wait: Pods are replaced")),
        "{next:?}"
    );
    assert!(!next.iter().any(|one| one.contains("get pods")), "{next:?}");
}
