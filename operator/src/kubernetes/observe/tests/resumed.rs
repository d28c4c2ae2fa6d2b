//! An operator takes over from one that is gone.

use super::*;

#[test]
fn operator_that_takes_over_at_rest_changes_nothing() {
    let mut tier = Tier::running();
    let before = tier.endpoints.statuses();
    tier.is_taken_over(10.0);
    assert_eq!(tier.endpoints.statuses(), before);
    // No balancer was asked yet.
    tier.unasked = vec!["b0".to_owned(), "b1".to_owned()];
    tier.look(10.0);
    for (was, is) in before.iter().zip(tier.endpoints.statuses()) {
        assert_eq!((was.state, was.since), (is.state, is.since));
    }
    tier.unasked.clear();
    tier.look(11.0);
    assert_eq!(tier.endpoints.statuses(), before);
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn outage_goes_on_and_ends_once() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Down, "a0", false, 10.0);
    tier.look(10.0);
    tier.is_taken_over(20.0);
    // It is ready, says the kubelet; the balancers know better and were not asked.
    tier.unasked = vec!["b0".to_owned(), "b1".to_owned()];
    tier.look(20.0);
    assert_eq!(tier.state("p0"), EndpointState::Down);
    tier.unasked.clear();
    tier.look(21.0);
    tier.judge_all("p0", Health::Up, "a0", false, 30.0);
    tier.look(30.0);
    assert_eq!(
        tier.told(),
        [
            "10 p0 DOWN, 1 of 2: no answer",
            "30 p0 UP after 20 s, 2 of 2: checks pass"
        ]
    );
}

#[test]
fn lost_endpoints_are_known_to_the_next_operator() {
    let mut tier = Tier::running();
    tier.gone("p0");
    tier.look(10.0);
    tier.is_taken_over(20.0);
    tier.look(20.0);
    assert_eq!(tier.told().len(), 1);
    tier.serves("p2", "c", 30.0);
    tier.look(30.0);
    let told = tier.told();
    assert_eq!(told.len(), 2);
    assert!(told[1].contains("p0 UP after 20 s"), "{told:?}");
}

#[test]
fn pod_in_an_outage_that_went_meanwhile_is_lost() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.0);
    tier.look(10.0);
    tier.is_taken_over(20.0);
    tier.gone("p0");
    tier.look(20.0);
    let lost = tier.endpoints.lost().next().unwrap();
    assert_eq!((lost.name.as_str(), lost.since), ("p0", at(10.0)));
    tier.serves("p2", "c", 30.0);
    tier.look(30.0);
    assert_eq!(tier.told().len(), 2);
}

/// Whether it was told to end nobody can say: a rollout may have come to its end.
#[test]
fn pod_that_went_meanwhile_is_not_told() {
    let mut tier = Tier::running();
    tier.is_taken_over(20.0);
    tier.gone("p0");
    tier.look(20.0);
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn what_balancers_saw_meanwhile_is_told_once() {
    let mut tier = Tier::running();
    for (balancer, offset) in [("b0", 0.0), ("b1", 0.7)] {
        tier.judge(balancer, "p0", Health::Down, "a0", false, 20.0 + offset);
        tier.judge(balancer, "p0", Health::Up, "a0", false, 26.0 + offset);
        tier.judge(balancer, "p1", Health::Up, "b", true, 28.0 + offset);
    }
    tier.restarts("p1", 2, KILLED, 27.5, 27.6);
    tier.ready("p1");
    tier.is_taken_over(40.0);
    tier.look(40.0);
    tier.look(60.0);
    assert_eq!(
        tier.told(),
        [
            "20 p0 DOWN, 1 of 2: no answer",
            "26.7 p0 UP after 6.7 s, 2 of 2: checks pass",
            "28 p1 RESTARTED, 2 of 2: check passed"
        ]
    );
}

#[test]
fn restart_that_one_balancer_told_the_former_operator_is_not_told_again() {
    let mut tier = Tier::running();
    tier.judge("b0", "p0", Health::Up, "b", true, 10.0);
    tier.look(10.1);
    tier.is_taken_over(11.0);
    tier.judge("b1", "p0", Health::Up, "b", true, 10.9);
    tier.look(20.0);
    assert_eq!(tier.told(), ["10 p0 RESTARTED, 2 of 2: check passed"]);
}

#[test]
fn balancer_that_goes_on_saying_down_is_not_outvoted_by_one_with_news() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Down, "a0", false, 10.0);
    tier.look(10.0);
    tier.is_taken_over(11.0);
    tier.judge("b1", "p0", Health::Up, "a0", false, 15.0);
    tier.look(20.0);
    assert_eq!(tier.state("p0"), EndpointState::Down);
    tier.judge("b0", "p0", Health::Up, "a0", false, 21.0);
    tier.look(21.0);
    assert!(tier.is_up("p0"));
    assert_eq!(tier.told().len(), 2, "{:?}", tier.told());
}

#[test]
fn drain_that_went_on_meanwhile_is_no_outage() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Draining, "a0", false, 10.0);
    tier.look(10.0);
    tier.is_taken_over(11.0);
    tier.judge_all("p0", Health::Down, "a0", false, 14.0);
    tier.restarts("p0", 2, "ended with exit code 0", 13.9, 14.5);
    tier.look(17.0);
    tier.judge_all("p0", Health::Up, "b", false, 18.0);
    tier.look(18.0);
    assert!(tier.is_up("p0"));
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn balancer_that_was_killed_meanwhile_is_told_once() {
    let mut tier = Tier::running();
    tier.is_taken_over(20.0);
    tier.restarts("b0", 2, KILLED, 15.0, 16.0);
    tier.ready("b0");
    tier.balancers.get_mut("b0").unwrap().boot_id = "again".to_owned();
    tier.look(20.0);
    let told = tier.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "15 b0 DOWN, 1 of 2: ended by signal 9");
    tier.is_taken_over(30.0);
    tier.look(30.0);
    assert_eq!(tier.told().len(), 2, "{:?}", tier.told());
}

#[test]
fn without_a_cursor_what_was_is_history() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Down, "a0", false, 20.0);
    tier.judge_all("p0", Health::Up, "b", true, 26.0);
    let before = tier.endpoints.statuses();
    tier.endpoints = Endpoints::resumed(&before, &[], &Cursors::new(), at(40.0));
    tier.look(40.0);
    assert_eq!(tier.told(), Vec::<String>::new());
    assert!(tier.is_up("p0"));
}

#[test]
fn cursors_are_few_and_short() {
    let mut tier = Tier::new();
    let long = format!("b{}", "x".repeat(200));
    let mut names: Vec<String> = (0..20).map(|number| format!("b{number}")).collect();
    names.push(long.clone());
    for name in &names {
        tier.comes(name, 0.0);
        let script = tier.balancers.get_mut(name).unwrap();
        script.boot_id = format!("{name}{}", "x".repeat(10_000));
    }
    tier.look(1.0);
    let cursors = tier.endpoints.cursors();
    assert_eq!(cursors.len(), 16);
    assert!(!cursors.contains_key(&long));
    let text = serde_json::to_string(&cursors).unwrap();
    assert!(text.len() < 16 * 200, "{}", text.len());
}

/// The status was written, the ConfigMap was not, or is lost.
#[test]
fn an_outage_that_only_the_status_knows_is_one() {
    let mut tier = Tier::running();
    tier.fails("p0", "ended by signal 9", 10.0);
    tier.judge_all("p0", Health::Down, "a0", false, 10.0);
    tier.look(10.0);
    let before = tier.endpoints.statuses();
    tier.endpoints = Endpoints::resumed(&before, &[], &Cursors::new(), at(11.0));
    tier.look(11.0);
    let alerts = crate::notify::alerts(&tier.endpoints);
    let keys: Vec<String> = alerts.iter().map(|alert| alert.key.to_string()).collect();
    assert_eq!(keys, ["EndpointDown:p0"]);
    assert_eq!(alerts[0].since, at(10.0));
}

/// While it could not be asked, its state was Unknown.
#[test]
fn one_that_could_not_be_asked_is_missed_after_a_takeover() {
    let mut tier = Tier::running();
    tier.silent = vec!["b0".to_owned(), "b1".to_owned()];
    tier.look(20.0);
    tier.is_taken_over(25.0);
    tier.look(25.0);
    tier.silent = vec!["b1".to_owned()];
    tier.changes.clear();
    tier.fails("b1", "ended by signal 9", 30.0);
    tier.look(30.0);
    let told = tier.told();
    assert!(told.iter().any(|one| one.contains("b1")), "{told:?}");
}
