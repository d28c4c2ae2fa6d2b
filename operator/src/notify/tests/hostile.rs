//! What others may do to those who are told: answer oddly, and too much at once.

use super::*;

/// Everything that is posted between two seconds, each second.
fn posted(bench: &mut Bench, from_s: i64, until_s: i64) -> Vec<String> {
    let seconds = from_s..until_s;
    seconds.flat_map(|s| bench.told(s * 1_000)).collect()
}

#[test]
fn of_any_number_of_endpoints_that_go_at_once_the_tier_is_told() {
    let mut bench = Bench::new();
    let poolers = 0..64;
    let happenings: Vec<Happening> = poolers
        .clone()
        .map(|pooler| Happening::Began(down(pooler, 0)))
        .collect();
    bench.alerts = poolers.map(|pooler| down(pooler, 0)).collect();
    bench.alerts.push(tier_down(0));
    bench.observe(&happenings);
    let told = posted(&mut bench, 0, 60).join("\n");
    assert!(told.contains("the tier is DOWN, nothing serves"), "{told}");
}

#[test]
fn what_is_worse_always_finds_a_place() {
    let mut bench = Bench::new();
    for pooler in 0..70 {
        bench.now += 10;
        bench.goes_down(pooler);
    }
    for number in 0..20 {
        let key = Key::new(NotificationEvent::CertificateExpiring, &number.to_string());
        bench.begins(Alert::new(key, at(bench.now), "soon", None));
    }
    let _ = posted(&mut bench, 1, 30);
    let key = Key::new(NotificationEvent::UpstreamUnreachable, "");
    bench.now = 30_000;
    bench.begins(Alert::new(key, at(30_000), "refused", None));
    let told = posted(&mut bench, 30, 60).join("\n");
    assert!(told.contains("PostgreSQL is UNREACHABLE"), "{told}");
}

#[test]
fn what_the_former_address_asked_for_does_not_bind_the_new_one() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    bench.outcome = Outcome::Throttled(Duration::from_secs(3_600));
    let _ = posted(&mut bench, 0, 10);
    bench.outcome = Outcome::delivered();
    let moved = ChannelConfig {
        fingerprint: "another".to_owned(),
        ..config("ops")
    };
    bench.notifier.configure(&[moved]);
    assert_eq!(posted(&mut bench, 10, 15).len(), 1);
}

#[test]
fn a_channel_that_knows_no_message_of_its_own_is_not_asked_all_the_time() {
    let mut bench = Bench::with(&[ChannelConfig {
        style: Style::Threads,
        ..config("ops")
    }]);
    bench.goes_down(1);
    bench.outcome = Outcome::RootGone;
    let tries: usize = (0..600).map(|tick| bench.told(tick * 100).len()).sum();
    assert!((2..12).contains(&tries), "{tries} tries in a minute");
    let statuses = bench.notifier.statuses();
    assert!(statuses[0].problem.is_some(), "{statuses:?}");
}

#[test]
fn what_may_have_arrived_is_repeated_less_and_less() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    bench.outcome = Outcome::Unclear("no answer within 10 s".to_owned());
    let tries = posted(&mut bench, 0, 3_600).len();
    assert!((4..40).contains(&tries), "{tries} copies in an hour");
}

#[test]
fn a_test_message_that_arrives_ends_a_refusal() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    bench.outcome = Outcome::Refused("channel_is_archived".to_owned());
    assert_eq!(posted(&mut bench, 0, 100).len(), 1);
    bench.outcome = Outcome::delivered();
    assert!(posted(&mut bench, 100, 200).is_empty());
    bench.notifier.is_reached("ops");
    assert_eq!(posted(&mut bench, 200, 203).len(), 1);
}
