use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy { rise: 2, fall: 3 };

/// A story in one letter a check: `r`eady, `p`aused, `d`raining, `s`erves (no
/// report); `x` refused, `t`imeout, `e`rror answered. A digit before changes the
/// process that reports from then on.
fn observations(story: &str) -> Vec<Observation> {
    let mut boot_id = "0".to_owned();
    story
        .chars()
        .filter_map(|letter| {
            let report = |state| {
                Some(Observation::Passed {
                    report: Some(TargetReport {
                        upstream: None,
                        saturation: None,
                        version: None,
                        state,
                        boot_id: boot_id.clone(),
                        name: None,
                        config_revision: None,
                        clients: 0,
                        waiting: 0,
                    }),
                })
            };
            let failed = |failure, reason: &str| {
                Some(Observation::Failed {
                    failure,
                    reason: reason.to_owned(),
                })
            };
            match letter {
                'r' => report(TargetState::Ready),
                'p' => report(TargetState::Paused),
                'd' => report(TargetState::Draining),
                's' => Some(Observation::Passed { report: None }),
                'x' => failed(Failure::Refused, "connection refused"),
                't' => failed(Failure::Silent, "timeout"),
                'e' => failed(Failure::Answered, "57P03 starting up"),
                digit => {
                    boot_id = digit.to_string();
                    None
                }
            }
        })
        .collect()
}

fn at(second: usize) -> Timestamp {
    Timestamp::from_second(second as i64).unwrap()
}

/// The changes of a story as `N:From>To` (N counts checks from 1), with `!` for
/// a restart, `/` where sessions are cut, and the reason.
fn tell(story: &str) -> Vec<String> {
    tell_from(State::new(at(0)), story)
}

fn tell_from(mut state: State, story: &str) -> Vec<String> {
    let mut told = Vec::new();
    for (index, observation) in observations(story).iter().enumerate() {
        let (next, change) = judge(&state, observation, POLICY, at(index + 1));
        if let Some(change) = change {
            assert_eq!(change.to, next.health);
            assert_eq!(change.boot_id, next.boot_id);
            let restarted = if change.restarted { "!" } else { "" };
            let cut = if change.cut_sessions { "/" } else { "" };
            told.push(format!(
                "{}:{}>{}{restarted}{cut} {}",
                index + 1,
                change.from,
                change.to,
                change.reason
            ));
        }
        state = next;
    }
    told
}

#[test]
fn a_discovered_target_is_down_untold_until_one_check_passes() {
    let state = State::discovered(at(0));
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        ("xxxxtttt", &[]),
        ("r", &["1:Down>Up check passed"]),
        ("xxxxr", &["5:Down>Up check passed"]),
        ("dr", &["1:Down>Draining says that it is draining"]),
        // From then on as any other.
        (
            "rxxxrr",
            &[
                "1:Down>Up check passed",
                "4:Up>Down/ connection refused",
                "6:Down>Up 2 checks passed",
            ],
        ),
    ];
    for (story, told) in cases {
        assert_eq!(tell_from(state.clone(), story), *told, "{story}");
    }
    let (state, _) = judge(&state, &observations("t")[0], POLICY, at(1));
    assert_eq!(
        (state.health, state.reason.as_str()),
        (Health::Down, "timeout")
    );
}

#[test]
fn stories() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        // The first good check is enough, whatever went before it.
        ("r", &["1:Unknown>Up check passed"]),
        ("s", &["1:Unknown>Up check passed"]),
        ("xxr", &["3:Unknown>Up check passed"]),
        ("rrprsr", &["1:Unknown>Up check passed"]),
        ("xxx", &["3:Unknown>Down/ connection refused"]),
        ("xxxxxx", &["3:Unknown>Down/ connection refused"]),
        // Fall, and the count begins anew after a good check.
        ("rttrttrtt", &["1:Unknown>Up check passed"]),
        ("rttt", &["1:Unknown>Up check passed", "4:Up>Down/ timeout"]),
        // The last failure's words tell, and an answer means sessions may live.
        (
            "rtte",
            &["1:Unknown>Up check passed", "4:Up>Down 57P03 starting up"],
        ),
        // Rise, and the count begins anew after a bad check.
        (
            "xxxrxrxrr",
            &[
                "3:Unknown>Down/ connection refused",
                "9:Down>Up 2 checks passed",
            ],
        ),
        // Draining at once from any state, told once.
        (
            "rddd",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Draining says that it is draining",
            ],
        ),
        ("d", &["1:Unknown>Draining says that it is draining"]),
        (
            "xxxd",
            &[
                "3:Unknown>Down/ connection refused",
                "4:Down>Draining says that it is draining",
            ],
        ),
        // A drained target's closed port is its end, without drama.
        (
            "rdxxx",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Draining says that it is draining",
                "3:Draining>Down drained: connection refused",
            ],
        ),
        // One that freezes while it drains holds its sessions no longer.
        (
            "rdttt",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Draining says that it is draining",
                "5:Draining>Down/ while draining: timeout",
            ],
        ),
        // The process after a drain is no restart.
        (
            "rdx1rr",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Draining says that it is draining",
                "3:Draining>Down drained: connection refused",
                "5:Down>Up 2 checks passed",
            ],
        ),
        (
            "rd1rrr",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Draining says that it is draining",
                "4:Draining>Up 2 checks passed",
            ],
        ),
        // A new process without a drain is told even if no check missed it.
        (
            "r1r",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Up! answers as a new process, without having drained",
            ],
        ),
        (
            "rxx1rr",
            &[
                "1:Unknown>Up check passed",
                "4:Up>Up! answers as a new process, without having drained",
            ],
        ),
        (
            "rxxx1rr",
            &[
                "1:Unknown>Up check passed",
                "4:Up>Down/ connection refused",
                "6:Down>Up! 2 checks passed",
            ],
        ),
        (
            "r1d",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Draining! says that it is draining",
            ],
        ),
        // After it has been up again, a drain long ago excuses nothing.
        (
            "rdx1rr2r",
            &[
                "1:Unknown>Up check passed",
                "2:Up>Draining says that it is draining",
                "3:Draining>Down drained: connection refused",
                "5:Down>Up 2 checks passed",
                "6:Up>Up! answers as a new process, without having drained",
            ],
        ),
        // An answer without a report neither restarts nor forgets.
        (
            "rsr1r",
            &[
                "1:Unknown>Up check passed",
                "4:Up>Up! answers as a new process, without having drained",
            ],
        ),
    ];
    for (story, expected) in cases {
        assert_eq!(tell(story), *expected, "{story}");
    }
}

#[test]
fn since_is_when_the_state_began() {
    let mut state = State::new(at(0));
    for (index, observation) in observations("rr1rttt").iter().enumerate() {
        state = judge(&state, observation, POLICY, at(index + 1)).0;
        let since = if state.health == Health::Up { 1 } else { 6 };
        assert_eq!(state.since, at(since), "check {}", index + 1);
        let reason = if state.health == Health::Up {
            "check passed"
        } else {
            "timeout"
        };
        assert_eq!(
            state.reason, reason,
            "a restart is no reason for what was before"
        );
    }
    assert_eq!(state.health, Health::Down);
}

#[test]
fn unknown_says_what_the_checks_saw() {
    let state = State::new(at(0));
    let (state, change) = judge(&state, &observations("x")[0], POLICY, at(1));
    assert_eq!(change, None);
    assert_eq!(state.reason, "connection refused");
}

proptest! {
    #[test]
    fn judgement_follows_the_policy(
        story in "[rpdsxte01]{0,60}",
        rise in 1u32..4,
        fall in 1u32..4,
    ) {
        let policy = Policy { rise, fall };
        let mut state = State::new(at(0));
        let mut last_told = Health::Unknown;
        let mut drained = false;
        // Counted here apart from the code under test.
        let (mut good, mut bad) = (0, 0);
        for (index, observation) in observations(&story).iter().enumerate() {
            let draining = matches!(
                observation,
                Observation::Passed { report: Some(report) } if report.state == TargetState::Draining
            );
            match observation {
                Observation::Passed { .. } => { good = if draining { 0 } else { good + 1 }; bad = 0; }
                Observation::Failed { .. } => { good = 0; bad += 1; }
            }
            let before = state.clone();
            let (next, change) = judge(&state, observation, policy, at(index + 1));
            if let Some(change) = &change {
                prop_assert_eq!(change.from, last_told, "changes form a chain");
                prop_assert!(change.from != change.to || change.restarted);
                prop_assert!(!(change.restarted && drained), "an announced end is no restart");
                prop_assert!(!change.cut_sessions || change.to == Health::Down);
                prop_assert!(change.to != Health::Unknown, "once seen, never unknown");
                match (change.from, change.to) {
                    (Health::Up | Health::Unknown, Health::Down) => prop_assert!(bad >= fall),
                    (Health::Down | Health::Draining, Health::Up) => prop_assert!(good >= rise),
                    _ => {}
                }
                last_told = change.to;
            } else {
                prop_assert_eq!(next.health, before.health, "no change goes untold");
                prop_assert_eq!(next.since, before.since);
            }
            prop_assert!(!draining || next.health == Health::Draining);
            prop_assert!(bad < fall || next.health == Health::Down);
            prop_assert!(good < rise || next.health == Health::Up);
            drained = match next.health { Health::Draining => true, Health::Up => false, _ => drained };
            state = next;
        }
    }
}
