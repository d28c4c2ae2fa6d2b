//! Balancers, and the tier as a whole.

use super::*;
use crate::{api::NotificationEvent, notify};

const CUT_OFF: &str = "does not answer the operator: no answer within 5s";

#[test]
fn balancer_is_up_by_its_answers_and_its_readiness() {
    let mut tier = Tier::new();
    tier.comes("b0", 0.0);
    tier.look(1.0);
    let status = tier.status("b0");
    assert_eq!(status.state, EndpointState::Unknown);
    assert_eq!(status.reason, "it is not ready yet");
    tier.unasked.push("b0".to_owned());
    tier.ready("b0");
    tier.look(2.0);
    assert_eq!(tier.status("b0").reason, "its Pod is ready");
    tier.unasked.clear();
    tier.look(3.0);
    let status = tier.status("b0");
    assert_eq!((status.state, status.since), (EndpointState::Up, at(2.0)));
    assert_eq!(status.reason, "answers");
    assert!(tier.told().is_empty());
}

#[test]
fn killed_balancer_is_down_at_once_and_up_when_it_answers() {
    let mut tier = Tier::running();
    tier.fails("b0", KILLED, 10.0);
    tier.look(10.1);
    // What it said last is still there.
    tier.restarts("b0", 2, KILLED, 10.0, 11.0);
    tier.look(11.5);
    tier.ready("b0");
    tier.look(12.0);
    assert_eq!(tier.state("b0"), EndpointState::Down);
    let address = tier.address("p0");
    let mut script = Script::new("boot-b0-2");
    script.judges(&address, Health::Up, "a0", false, 12.0);
    tier.balancers.insert("b0".to_owned(), script);
    tier.look(13.0);
    assert_eq!(
        tier.told(),
        [
            "10 b0 DOWN, 1 of 2: ended by signal 9",
            "13 b0 UP after 3 s, 2 of 2: answers"
        ]
    );
    assert!(tier.is_up("p0"));
}

#[test]
fn balancer_that_answers_as_a_new_process_is_told_once() {
    let mut tier = Tier::running();
    tier.balancers.insert("b0".to_owned(), Script::new("again"));
    tier.look(10.5);
    tier.restarts("b0", 2, KILLED, 10.0, 10.2);
    tier.ready("b0");
    tier.look(12.0);
    assert_eq!(tier.told().len(), 1, "{:?}", tier.told());
    assert!(tier.told()[0].contains("b0 RESTARTED"), "{:?}", tier.told());
}

#[test]
fn balancer_that_drains_or_ends_is_no_outage() {
    let mut tier = Tier::running();
    tier.balancers.get_mut("b0").unwrap().state = TargetState::Draining;
    tier.look(10.0);
    assert_eq!(tier.status("b0").reason, "says that it is draining");
    tier.told_to_end("b0", 10.0);
    tier.look(11.0);
    assert_eq!(tier.status("b0").reason, "its Pod was told to end");
    tier.fails("b0", "ended with exit code 0", 12.0);
    tier.pod("b0").phase = Phase::Ending;
    tier.look(12.0);
    tier.gone("b0");
    tier.look(13.0);
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn balancer_that_is_gone_unannounced_is_an_outage() {
    let mut tier = Tier::running();
    tier.gone("b0");
    tier.look(10.0);
    tier.comes("b2", 11.0);
    tier.ready("b2");
    tier.look(12.0);
    assert_eq!(
        tier.told(),
        [
            "10 b0 DOWN, 1 of 2: its Pod is gone",
            "12 b0 UP after 2 s, 2 of 2: 2 balancers are up again"
        ]
    );
}

#[test]
fn one_silent_balancer_is_down() {
    let mut tier = Tier::running();
    tier.silent.push("b0".to_owned());
    tier.look(10.0);
    assert_eq!(tier.told(), [format!("10 b0 DOWN, 1 of 2: {CUT_OFF}")]);
    tier.silent.clear();
    tier.look(12.0);
    assert_eq!(tier.told()[1..], ["12 b0 UP after 2 s, 2 of 2: answers"]);
}

#[test]
fn operator_that_reaches_no_balancer_tells_of_no_outage() {
    let mut tier = Tier::running();
    tier.silent = vec!["b0".to_owned(), "b1".to_owned()];
    tier.look(10.0);
    for name in ["b0", "b1"] {
        let status = tier.status(name);
        assert_eq!(status.state, EndpointState::Unknown);
        assert_eq!(status.reason, CUT_OFF);
    }
    assert!(tier.is_up("p0"));
    tier.silent.clear();
    tier.look(20.0);
    assert!(tier.is_up("b0"));
    assert_eq!(tier.told(), Vec::<String>::new());
    assert!(notify::alerts(&tier.endpoints).is_empty());
}

/// A kubelet that is gone, and a node that is.
#[test]
fn on_a_node_that_is_not_heard_from_those_who_answer_are_up_and_others_down() {
    let mut tier = Tier::running();
    let names: Vec<String> = tier.pods.keys().cloned().collect();
    for name in &names {
        tier.pod(name).phase = Phase::Unheard;
    }
    tier.look(10.0);
    assert!(names.iter().all(|name| tier.is_up(name)));
    assert_eq!(tier.told(), Vec::<String>::new());
    tier.silent = vec!["b0".to_owned(), "b1".to_owned()];
    tier.look(20.0);
    assert!(
        names
            .iter()
            .all(|name| tier.state(name) == EndpointState::Down)
    );
    let told = tier.told();
    assert_eq!(told.len(), names.len(), "{told:?}");
    for line in &told {
        assert!(
            line.contains("its node is not heard from any more"),
            "{line}"
        );
    }
    let alerts = notify::alerts(&tier.endpoints);
    assert!(!alerts.is_empty(), "nobody is served");
    // The node is back.
    tier.silent.clear();
    for name in &names {
        tier.ready(name);
    }
    tier.look(30.0);
    assert!(tier.is_up("b0") && tier.is_up("b1"));
}

#[test]
fn balancer_whose_pod_is_not_ready_any_more_is_down_and_not_heard() {
    let mut tier = Tier::running();
    tier.not_ready("b0");
    tier.look(10.0);
    assert_eq!(
        tier.told(),
        ["10 b0 DOWN, 1 of 2: its Pod is not ready any more"]
    );
    // It hangs: what it said last is not true any more.
    tier.restarts("p0", 2, KILLED, 11.0, 11.5);
    tier.judge("b1", "p0", Health::Up, "b", true, 12.0);
    tier.look(14.0);
    assert!(tier.is_up("p0"));
    tier.judge("b0", "p0", Health::Up, "b", true, 20.0);
    tier.ready("b0");
    tier.look(20.0);
    assert!(tier.is_up("b0"));
    assert!(tier.is_up("p0"));
    assert_eq!(tier.told().len(), 4, "{:?}", tier.told());
}

#[test]
fn tier_is_down_while_all_that_served_are_lost() {
    let mut tier = Tier::running();
    tier.gone("p0");
    tier.gone("p1");
    tier.look(10.0);
    let is_down = |tier: &Tier| {
        let alerts = notify::alerts(&tier.endpoints);
        let mut events = alerts.iter().map(|alert| alert.key.event);
        events.any(|event| event == NotificationEvent::TierDown)
    };
    assert!(is_down(&tier));
    tier.comes("p2", 11.0);
    tier.look(11.0);
    assert!(is_down(&tier), "what starts does not serve yet");
    tier.ready("p2");
    tier.judge_all("p2", Health::Up, "c", false, 12.0);
    tier.look(12.0);
    assert!(!is_down(&tier));
    let alerts = notify::alerts(&tier.endpoints).into_iter();
    let subjects: Vec<String> = alerts.map(|alert| alert.key.subject).collect();
    assert_eq!(subjects, ["p0", "p1"], "one of two is up");
}

#[test]
fn alert_goes_on_with_the_reason_for_which_it_began() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.0);
    tier.look(10.0);
    tier.told_to_end("p0", 20.0);
    tier.look(20.0);
    let alert = notify::alerts(&tier.endpoints).remove(0);
    assert_eq!(alert.reason, KILLED);
    assert_eq!(notify::happenings(&tier.changes).len(), 1);
}
