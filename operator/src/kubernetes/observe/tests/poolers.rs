//! Poolers: their processes, their Pods, and who sees them.

use super::*;

#[test]
fn failed_container_is_an_outage_at_once_until_the_next_process_is_up() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.4);
    tier.look(10.6);
    assert_eq!(tier.told(), ["10 p0 DOWN, 1 of 2: ended by signal 9"]);
    tier.restarts("p0", 2, KILLED, 10.4, 11.0);
    tier.look(11.2);
    // While it starts again it stays Down.
    let status = tier.status("p0");
    assert_eq!(
        (status.state, status.since),
        (EndpointState::Down, at(10.0))
    );
    assert_eq!(status.reason, KILLED);
    tier.judge_all("p0", Health::Up, "b", true, 12.0);
    tier.look(12.1);
    assert_eq!(tier.told().len(), 1, "one good check is not `rise`");
    assert_eq!(tier.endpoints.due(POLICY, at(12.1)), Some(at(14.0)));
    tier.ready("p0");
    tier.look(14.0);
    assert_eq!(
        tier.told()[1..],
        ["14 p0 UP after 4 s, 2 of 2: checks pass"]
    );
    assert_eq!(tier.endpoints.due(POLICY, at(14.0)), None);
    tier.look(60.0);
    assert_eq!(tier.told().len(), 2);
}

#[test]
fn container_that_nobody_saw_fail_is_an_outage_with_its_exit_reason() {
    let mut tier = Tier::running();
    tier.restarts("p0", 2, "ended with exit code 3", 10.2, 10.5);
    tier.look(11.0);
    assert_eq!(tier.told(), ["10 p0 DOWN, 1 of 2: ended with exit code 3"]);
    tier.judge_all("p0", Health::Up, "b", true, 11.5);
    tier.look(20.0);
    assert_eq!(tier.told().len(), 2, "{:?}", tier.told());
    assert!(tier.is_up("p0"));
}

#[test]
fn container_of_which_no_time_is_told_is_told_apart_too() {
    let mut tier = Tier::running();
    tier.pod("p0").container = Some(Container {
        id: "restart 1".to_owned(),
        state: ContainerState::Runs {
            since: None,
            before: None,
        },
    });
    tier.look(10.0);
    assert_eq!(tier.told(), ["10 p0 DOWN, 1 of 2: its process ended"]);
}

#[test]
fn crash_loop_is_one_outage() {
    let mut tier = Tier::running();
    for number in 2..8 {
        let second = f64::from(number) * 10.0;
        tier.fails("p0", KILLED, second);
        tier.look(second);
        tier.pod("p0").phase = Phase::Failed(format!("CrashLoopBackOff: {KILLED}"));
        tier.look(second + 1.0);
        tier.restarts("p0", number, KILLED, second, second + 5.0);
        tier.look(second + 6.0);
    }
    assert_eq!(tier.told(), ["20 p0 DOWN, 1 of 2: ended by signal 9"]);
    let reason = tier.status("p0").reason;
    assert_eq!(reason, "CrashLoopBackOff: ended by signal 9");
}

#[test]
fn pod_that_never_came_up_is_told_by_the_rollout_only() {
    let mut tier = Tier::running();
    tier.wished.poolers = 3;
    tier.comes("p2", 10.0);
    tier.look(10.0);
    let status = tier.status("p2");
    assert_eq!(status.state, EndpointState::Unknown);
    assert_eq!(status.reason, "it is not ready yet");
    tier.fails("p2", "ended with exit code 1", 11.0);
    tier.look(11.0);
    assert_eq!(tier.state("p2"), EndpointState::Down);
    tier.restarts("p2", 2, "ended with exit code 1", 11.0, 12.0);
    tier.look(12.0);
    assert_eq!(tier.state("p2"), EndpointState::Unknown);
    tier.pod("p2").phase = Phase::Failed("ImagePullBackOff: no such image".to_owned());
    tier.look(13.0);
    assert_eq!(tier.status("p2").reason, "ImagePullBackOff: no such image");
    tier.gone("p2");
    tier.look(14.0);
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn pod_that_was_told_to_end_goes_silently() {
    let mut tier = Tier::running();
    tier.told_to_end("p0", 10.0);
    tier.look(10.0);
    let status = tier.status("p0");
    assert_eq!(status.state, EndpointState::Draining);
    assert_eq!(status.reason, "its Pod was told to end");
    tier.judge_all("p0", Health::Draining, "a0", false, 11.0);
    tier.judge_all("p0", Health::Down, "a0", false, 14.0);
    tier.look(14.0);
    tier.gone("p0");
    tier.look(15.0);
    tier.serves("p2", "c", 16.0);
    tier.look(16.0);
    assert_eq!(tier.told(), Vec::<String>::new());
}

/// All between two looks.
#[test]
fn pod_that_is_killed_because_it_was_told_to_end_goes_silently() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Down, "a0", false, 11.5);
    tier.fails("p0", KILLED, 11.5);
    tier.told_to_end("p0", 10.0);
    tier.look(12.0);
    tier.gone("p0");
    tier.look(13.0);
    assert_eq!(tier.told(), Vec::<String>::new());
}

/// All between two looks.
#[test]
fn pod_that_was_killed_before_it_was_told_to_end_is_an_outage() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.0);
    tier.told_to_end("p0", 12.0);
    tier.look(13.0);
    assert_eq!(tier.told(), ["10 p0 DOWN, 1 of 2: ended by signal 9"]);
}

#[test]
fn pod_whose_drain_a_balancer_saw_goes_silently() {
    let mut tier = Tier::running();
    // That it was told to end is missed: it is gone at the next look.
    tier.judge_all("p0", Health::Draining, "a0", false, 10.0);
    tier.judge_all("p0", Health::Down, "a0", false, 12.0);
    tier.gone("p0");
    tier.look(13.0);
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn process_that_drained_and_starts_again_is_no_outage() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Draining, "a0", false, 10.0);
    tier.look(10.0);
    assert_eq!(tier.status("p0").reason, "says that it is draining");
    tier.judge_all("p0", Health::Down, "a0", false, 14.0);
    tier.restarts("p0", 2, "ended with exit code 0", 14.0, 15.0);
    tier.look(15.5);
    assert_eq!(tier.state("p0"), EndpointState::Down);
    tier.judge_all("p0", Health::Up, "b", false, 18.0);
    tier.look(18.0);
    assert!(tier.is_up("p0"));
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn pod_that_is_gone_unannounced_is_an_outage_until_the_count_is_restored() {
    let mut tier = Tier::running();
    tier.gone("p0");
    tier.look(10.0);
    assert_eq!(tier.told(), ["10 p0 DOWN, 1 of 2: its Pod is gone"]);
    let lost: Vec<&str> = tier.endpoints.lost().map(|one| one.name.as_str()).collect();
    assert_eq!(lost, ["p0"]);
    let statuses = tier.endpoints.statuses();
    assert!(statuses.iter().all(|status| status.name != "p0"));
    tier.comes("p2", 11.0);
    tier.look(12.0);
    assert_eq!(tier.told().len(), 1);
    tier.ready("p2");
    tier.judge_all("p2", Health::Up, "c", false, 14.0);
    tier.look(14.0);
    assert_eq!(
        tier.told()[1..],
        ["14 p0 UP after 4 s, 2 of 2: 2 poolers are up again"]
    );
    assert_eq!(tier.endpoints.lost().count(), 0);
}

#[test]
fn incident_of_a_replaced_pod_goes_on_until_the_count_is_restored() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.0);
    tier.look(10.0);
    tier.told_to_end("p0", 20.0);
    tier.look(20.0);
    tier.gone("p0");
    tier.look(21.0);
    assert_eq!(tier.told().len(), 1, "{:?}", tier.told());
    let lost = tier.endpoints.lost().next().unwrap();
    assert_eq!((lost.since, lost.reason.as_str()), (at(10.0), KILLED));
    tier.serves("p2", "c", 25.0);
    tier.look(25.0);
    assert_eq!(
        tier.told()[1..],
        ["25 p0 UP after 15 s, 2 of 2: 2 poolers are up again"]
    );
}

/// Its node is gone: it stays listed for as long as nobody removes it.
#[test]
fn incident_of_a_pod_that_does_not_go_ends_when_the_count_is_restored() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Down, "a0", false, 10.0);
    tier.look(10.0);
    tier.told_to_end("p0", 300.0);
    tier.look(300.0);
    assert_eq!(tier.told().len(), 1);
    tier.serves("p2", "c", 310.0);
    tier.look(310.0);
    tier.look(400.0);
    tier.gone("p0");
    tier.look(500.0);
    assert_eq!(
        tier.told()[1..],
        ["310 p0 UP after 300 s, 2 of 2: 2 poolers are up again"]
    );
}

#[test]
fn incident_of_a_lost_pod_ends_when_fewer_are_wished() {
    let mut tier = Tier::running();
    tier.gone("p0");
    tier.look(10.0);
    tier.wished.poolers = 1;
    tier.look(20.0);
    assert_eq!(
        tier.told()[1..],
        ["20 p0 UP after 10 s, 1 of 1: 1 pooler is up again"]
    );
    tier.gone("p1");
    tier.look(30.0);
    tier.wished.poolers = 0;
    tier.look(40.0);
    assert_eq!(
        tier.told()[3..],
        ["40 p1 UP after 10 s, 0 of 0: no pooler is wished any more"]
    );
}

#[test]
fn not_more_are_kept_as_lost_than_there_is_room_for() {
    let mut tier = Tier::running();
    let names: Vec<String> = (2..102).map(|number| format!("p{number}")).collect();
    tier.wished.poolers = 102;
    for name in &names {
        tier.serves(name, &format!("boot-{name}"), 10.0);
    }
    tier.look(10.0);
    for name in &names {
        tier.gone(name);
    }
    tier.look(20.0);
    assert_eq!(tier.endpoints.lost().count(), 64);
    assert_eq!(tier.told().len(), 64);
}

#[test]
fn restart_that_only_a_boot_id_shows_is_told_once_whoever_confirms_it() {
    let mut tier = Tier::running();
    tier.judge("b0", "p0", Health::Up, "b", true, 10.4);
    tier.look(10.5);
    assert_eq!(tier.told(), ["10.4 p0 RESTARTED, 2 of 2: check passed"]);
    assert!(tier.is_up("p0"));
    // The other balancer, which lagged behind, and the kubelet tell the same.
    tier.look(10.6);
    tier.judge("b1", "p0", Health::Up, "b", true, 11.0);
    tier.look(11.0);
    tier.fails("p0", KILLED, 10.1);
    tier.look(11.2);
    tier.restarts("p0", 2, KILLED, 10.1, 10.2);
    tier.look(11.4);
    tier.ready("p0");
    tier.look(12.0);
    tier.look(60.0);
    assert_eq!(tier.told().len(), 1, "{:?}", tier.told());
    assert!(tier.is_up("p0"));
    // The next end is another one.
    tier.fails("p0", KILLED, 70.0);
    tier.look(70.0);
    assert_eq!(tier.told().len(), 2, "{:?}", tier.told());
}

#[test]
fn restart_that_a_kubelet_told_is_not_told_by_balancers_again() {
    let mut tier = Tier::running();
    tier.restarts("p0", 2, KILLED, 10.1, 10.2);
    tier.judge("b0", "p0", Health::Up, "b", true, 10.6);
    tier.look(10.8);
    tier.judge("b1", "p0", Health::Up, "b", true, 11.6);
    tier.look(12.0);
    tier.look(20.0);
    let told = tier.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "10 p0 DOWN, 1 of 2: ended by signal 9");
    assert!(told[1].contains("p0 UP"), "{told:?}");
}

#[test]
fn process_that_balancers_knew_before_its_kubelet_told_of_it_is_up() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.0);
    tier.look(10.1);
    tier.judge_all("p0", Health::Up, "b", true, 12.0);
    tier.look(12.0);
    assert_eq!(tier.state("p0"), EndpointState::Down);
    tier.restarts("p0", 2, KILLED, 10.0, 11.0);
    tier.look(14.0);
    assert!(tier.is_up("p0"));
    // Of a new Pod too.
    tier.comes("p2", 20.0);
    let container = tier.pod("p2").container.take();
    tier.judge_all("p2", Health::Up, "c", false, 21.0);
    tier.look(21.0);
    tier.pod("p2").container = container;
    tier.look(22.0);
    assert!(tier.is_up("p2"));
    tier.look(23.0);
    assert_eq!(tier.told().len(), 2, "{:?}", tier.told());
}

#[test]
fn two_ends_of_which_balancers_saw_one_are_two() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Up, "b", true, 10.5);
    tier.look(10.6);
    // The kubelet shows the process after: the one with bootId b ended too.
    tier.restarts("p0", 3, KILLED, 30.0, 40.0);
    tier.look(40.5);
    let told = tier.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1], "30 p0 DOWN, 1 of 2: ended by signal 9");
    assert_eq!(tier.state("p0"), EndpointState::Down);
    tier.judge_all("p0", Health::Up, "c", true, 41.0);
    tier.look(50.0);
    assert_eq!(tier.told().len(), 3);
}

#[test]
fn stale_view_makes_no_process_up_too_early() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.0);
    tier.look(10.0);
    tier.restarts("p0", 2, KILLED, 10.0, 11.0);
    tier.ready("p0");
    // Both balancers still say that a0 is up.
    tier.look(12.0);
    tier.look(20.0);
    assert_eq!(tier.state("p0"), EndpointState::Down);
    tier.judge("b0", "p0", Health::Up, "b", true, 20.0);
    tier.look(40.0);
    assert_eq!(tier.state("p0"), EndpointState::Down, "b1 lags behind");
    tier.judge("b1", "p0", Health::Up, "b", true, 41.0);
    tier.look(43.0);
    assert!(tier.is_up("p0"));
    assert_eq!(tier.told().len(), 2);
}

#[test]
fn stale_view_keeps_no_process_down_for_ever() {
    let mut tier = Tier::running();
    tier.fails("p0", KILLED, 10.0);
    tier.look(10.0);
    tier.restarts("p0", 2, KILLED, 10.0, 11.0);
    tier.ready("p0");
    tier.judge("b0", "p0", Health::Up, "b", true, 12.0);
    tier.look(12.0);
    // The balancer that lags behind is one that hangs.
    tier.silent.push("b1".to_owned());
    tier.look(30.0);
    assert!(tier.is_up("p0"));
    // And where a process was thought to be over that is not, time shows it.
    let mut tier = Tier::running();
    tier.restarts("p0", 2, KILLED, 10.0, 11.0);
    tier.ready("p0");
    tier.look(12.0);
    tier.look(100.0);
    assert_eq!(tier.state("p0"), EndpointState::Down);
    tier.look(200.0);
    assert!(tier.is_up("p0"));
}

#[test]
fn frozen_pooler_is_down_by_checks_alone() {
    let mut tier = Tier::running();
    tier.judge("b1", "p0", Health::Down, "a0", false, 15.0);
    tier.look(15.0);
    tier.judge("b0", "p0", Health::Down, "a0", false, 15.5);
    tier.not_ready("p0");
    tier.look(16.0);
    tier.judge_all("p0", Health::Up, "a0", false, 20.0);
    tier.look(20.0);
    assert_eq!(
        tier.told(),
        [
            "15 p0 DOWN, 1 of 2: no answer",
            "20 p0 UP after 5 s, 2 of 2: checks pass"
        ]
    );
}

#[test]
fn of_two_balancers_that_disagree_the_one_that_says_down_counts() {
    let mut tier = Tier::running();
    tier.judge("b0", "p0", Health::Down, "a0", false, 10.0);
    for second in 10..20 {
        tier.look(f64::from(second));
        assert_eq!(tier.state("p0"), EndpointState::Down);
    }
    tier.judge("b0", "p0", Health::Up, "a0", false, 20.0);
    tier.look(20.0);
    assert_eq!(tier.told().len(), 2, "{:?}", tier.told());
}

#[test]
fn nothing_between_two_looks_is_missed() {
    let mut tier = Tier::running();
    for (balancer, offset) in [("b0", 0.0), ("b1", 0.7)] {
        tier.judge(balancer, "p0", Health::Down, "a0", false, 20.0 + offset);
        tier.judge(balancer, "p0", Health::Up, "a0", false, 26.0 + offset);
    }
    tier.look(40.0);
    tier.look(41.0);
    assert_eq!(
        tier.told(),
        [
            "20 p0 DOWN, 1 of 2: no answer",
            "26.7 p0 UP after 6.7 s, 2 of 2: checks pass"
        ]
    );
}

#[test]
fn target_that_is_not_checked_yet_is_no_judgement() {
    let mut tier = Tier::running();
    let address = tier.address("p0");
    let balancer = tier.balancers.get_mut("b1").unwrap();
    balancer.targets.retain(|target| target.address != address);
    balancer.finds(&address, 10.0);
    tier.look(10.0);
    assert!(tier.is_up("p0"));
    tier.comes("p2", 11.0);
    tier.ready("p2");
    let address = tier.address("p2");
    for balancer in tier.balancers.values_mut() {
        balancer.finds(&address, 11.0);
    }
    tier.look(11.0);
    let status = tier.status("p2");
    assert_eq!(status.state, EndpointState::Unknown);
    assert_eq!(status.reason, "no balancer has checked it yet");
    assert!(tier.told().is_empty());
}

#[test]
fn balancer_that_ends_is_not_heard() {
    let mut tier = Tier::running();
    tier.told_to_end("b0", 10.0);
    // It cannot reach the Pod that came after it.
    tier.judge("b0", "p0", Health::Down, "a0", false, 11.0);
    tier.look(11.0);
    assert!(tier.is_up("p0"));
    assert!(tier.told().is_empty(), "{:?}", tier.told());
}

#[test]
fn balancer_that_restarted_is_followed_by_levels() {
    let mut tier = Tier::running();
    let addresses = [tier.address("p0"), tier.address("p1")];
    let mut script = Script::new("boot-b0-2");
    // Numbers begin anew, and what it saw before it was heard is history.
    script.judges(&addresses[0], Health::Up, "a0", false, 11.0);
    script.judges(&addresses[1], Health::Down, "a1", false, 11.0);
    script.judges(&addresses[1], Health::Up, "a1", false, 11.5);
    script.judges(&addresses[0], Health::Down, "a0", false, 12.0);
    tier.balancers.insert("b0".to_owned(), script);
    tier.restarts("b0", 2, KILLED, 10.0, 10.5);
    tier.ready("b0");
    tier.look(13.0);
    let told = tier.told();
    let of_poolers: Vec<&String> = told.iter().filter(|line| line.contains(" p")).collect();
    assert_eq!(of_poolers, ["12 p0 DOWN, 1 of 2: no answer"]);
}

#[test]
fn without_balancers_the_kubelets_readiness_has_to_do() {
    let mut tier = Tier::running();
    tier.silent = vec!["b0".to_owned(), "b1".to_owned()];
    tier.look(10.0);
    let reason = "its Pod is ready; no balancer can be asked";
    assert_eq!(tier.status("p0").reason, reason);
    tier.not_ready("p0");
    tier.look(20.0);
    assert_eq!(
        tier.told(),
        ["20 p0 DOWN, 1 of 2: its Pod is not ready any more"]
    );
    tier.ready("p0");
    tier.look(25.0);
    assert_eq!(tier.told().len(), 2);
    tier.comes("p2", 26.0);
    tier.look(26.0);
    assert_eq!(tier.state("p2"), EndpointState::Unknown);
    tier.ready("p2");
    tier.look(27.0);
    assert!(tier.is_up("p2"));
}

#[test]
fn target_of_a_pod_that_had_the_address_before_says_nothing() {
    let mut tier = Tier::running();
    let address = tier.pods["p0"].address;
    tier.told_to_end("p0", 10.0);
    tier.look(10.0);
    tier.gone("p0");
    tier.look(12.0);
    tier.comes("p2", 20.0);
    tier.pod("p2").address = address;
    tier.ready("p2");
    // The balancers have not noticed: a0 is up, they say, and then it was not.
    tier.look(20.5);
    assert_eq!(tier.state("p2"), EndpointState::Unknown);
    tier.judge("b0", "p2", Health::Down, "a0", false, 19.0);
    tier.look(21.0);
    assert_eq!(tier.state("p2"), EndpointState::Unknown);
    tier.judge_all("p2", Health::Up, "c", true, 22.0);
    tier.look(24.0);
    assert!(tier.is_up("p2"));
    assert_eq!(tier.told(), Vec::<String>::new());
}

#[test]
fn clock_that_is_set_back_leaves_nothing_in_the_future() {
    let mut tier = Tier::running();
    tier.judge_all("p0", Health::Down, "a0", false, 2_000.0);
    tier.look(1_000.0);
    assert_eq!(tier.status("p0").since, at(1_000.0));
    tier.gone("p1");
    tier.look(1_001.0);
    tier.look(10.0);
    assert!(tier.endpoints.lost().all(|lost| lost.since <= at(10.0)));
    tier.judge_all("p0", Health::Up, "a0", false, 12.0);
    tier.look(12.0);
    assert!(tier.is_up("p0"));
    let (pods, answers, wished) = (Vec::new(), Answers::new(), tier.wished);
    for now in [Timestamp::MIN, Timestamp::MAX] {
        let _ = observe(&mut tier.endpoints, &pods, &answers, wished, POLICY, now);
    }
}

#[test]
fn at_rest_nothing_changes() {
    let mut tier = Tier::running();
    tier.fails("p1", KILLED, 5.0);
    tier.comes("p2", 5.0);
    tier.look(9.0);
    tier.look(10.0);
    let before = tier.endpoints.statuses();
    let changes = tier.changes.len();
    for second in 11..200 {
        tier.look(f64::from(second));
        assert_eq!(tier.endpoints.statuses(), before);
    }
    assert_eq!(tier.changes.len(), changes);
    let order: Vec<&str> = before.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(order, ["p0", "p1", "p2", "b0", "b1"]);
    let revisions = before.iter().map(|one| one.config_revision.as_deref());
    let has: Vec<bool> = revisions.map(|one| one == Some("r1")).collect();
    assert_eq!(has, [true, true, false, true, true]);
}
