//! What people are told, whatever fails.

mod hostile;
mod kept;
mod page;
mod simulation;
mod threads;

use std::time::Duration;

use super::*;
use crate::{
    api::{Component, Severity},
    endpoints::{Change, Id, Outage},
};

pub(super) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

pub(super) fn config(name: &str) -> ChannelConfig {
    ChannelConfig {
        name: name.to_owned(),
        fingerprint: "f".to_owned(),
        configured: true,
        ..ChannelConfig::default()
    }
}

pub(super) fn key(pooler: usize) -> Key {
    Key::new(NotificationEvent::EndpointDown, &Id::pooler(pooler).name())
}

pub(super) fn down(pooler: usize, since: i64) -> Alert {
    Alert::new(key(pooler), at(since), "because", None)
}

pub(super) fn tier_down(since: i64) -> Alert {
    let key = Key::new(NotificationEvent::TierDown, "");
    Alert::new(key, at(since), "no pooler is up", None)
}

/// A notifier, what is wrong, and the time.
struct Bench {
    notifier: Notifier,
    alerts: Vec<Alert>,
    now: i64,
    outcome: Outcome,
}

impl Bench {
    fn with(configs: &[ChannelConfig]) -> Self {
        let mut notifier = Notifier::default();
        notifier.configure(configs);
        Self {
            notifier,
            alerts: Vec::new(),
            now: 0,
            outcome: Outcome::delivered(),
        }
    }

    fn new() -> Self {
        Self::with(&[config("ops")])
    }

    fn begins(&mut self, alert: Alert) {
        self.alerts.push(alert);
        self.observe(&[]);
    }

    fn goes_down(&mut self, pooler: usize) {
        self.begins(down(pooler, self.now));
    }

    fn ends(&mut self, key: &Key) {
        self.alerts.retain(|alert| alert.key != *key);
        self.observe(&[]);
    }

    fn comes_up(&mut self, pooler: usize) {
        self.ends(&key(pooler));
    }

    fn observe(&mut self, happenings: &[Happening]) {
        self.notifier
            .observe(&self.alerts, happenings, at(self.now));
    }

    /// Posts what is due at a time; says it in words.
    fn told(&mut self, now: i64) -> Vec<String> {
        self.now = now;
        let posts = self.notifier.claim(at(now));
        let told = posts.iter().map(|post| {
            self.notifier
                .finished(post, self.outcome.clone(), at(now), 0.5);
            let context = Context {
                cluster: "shop".to_owned(),
                links: Vec::new(),
            };
            let message = Message::new(post, &context, at(now));
            let repeated = if post.possibly_repeated {
                " again?"
            } else {
                ""
            };
            let title = message.title.trim_start_matches("shop: ");
            format!("{} {title}{repeated}", post.channel)
        });
        told.collect()
    }

    fn quiet(&mut self, until: i64) {
        while self.now < until {
            let next = (self.now + 500).min(until);
            assert_eq!(self.told(next), [""; 0], "at {next} ms");
        }
    }

    fn pending(&self) -> i32 {
        self.notifier.statuses()[0].pending
    }

    fn problem(&self) -> Option<String> {
        self.notifier.statuses()[0].problem.clone()
    }
}

#[test]
fn what_happens_together_is_one_message_within_the_group_wait() {
    let mut bench = Bench::new();
    bench.goes_down(0);
    assert_eq!(bench.told(0), [""; 0]);
    bench.now = 300;
    bench.goes_down(2);
    assert_eq!(bench.told(499), [""; 0]);
    assert_eq!(bench.told(500), ["ops pooler-0, pooler-2 are DOWN"]);
    assert_eq!(bench.pending(), 0);
    assert_eq!(bench.notifier.statuses()[0].last_delivery, Some(at(500)));
    bench.quiet(60_000);
}

#[test]
fn bad_news_does_not_wait_for_the_interval_and_good_news_does() {
    let mut bench = Bench::new();
    bench.goes_down(0);
    assert_eq!(bench.told(0), [""; 0]);
    assert_eq!(bench.told(500), ["ops pooler-0 is DOWN"]);
    bench.now = 1000;
    bench.comes_up(0);
    bench.quiet(2000);
    bench.goes_down(1);
    assert_eq!(bench.told(2000), [""; 0]);
    assert_eq!(bench.told(2499), [""; 0]);
    assert_eq!(
        bench.told(2500),
        ["ops pooler-1 is DOWN; pooler-0 is UP again"]
    );
    bench.now = 3000;
    bench.comes_up(1);
    bench.quiet(7400);
    assert_eq!(bench.told(7500), ["ops pooler-1 is UP again after 1.0 s"]);
}

#[test]
fn everything_down_at_once_is_one_message_and_so_is_its_end() {
    let mut bench = Bench::new();
    bench.alerts = (0..3).map(|pooler| down(pooler, 0)).collect();
    bench.begins(tier_down(0));
    assert_eq!(bench.told(0), [""; 0]);
    let first = bench.told(500);
    assert_eq!(first, ["ops the tier is DOWN, nothing serves"]);
    // They try to start, and fail, and nobody needs to hear of each.
    bench.now = 2000;
    bench.comes_up(0);
    bench.goes_down(0);
    bench.quiet(10_000);
    bench.ends(&tier_down(0).key);
    bench.comes_up(1);
    assert_eq!(bench.told(10_000), [""; 0]);
    assert_eq!(
        bench.told(10_500),
        ["ops pooler-0 is DOWN; the tier is UP again; pooler-1 is UP again"]
    );
}

#[test]
fn pooler_that_is_down_when_the_tier_serves_again_is_told() {
    let mut bench = Bench::new();
    bench.begins(tier_down(0));
    assert_eq!(bench.told(0), [""; 0]);
    assert_eq!(bench.told(500).len(), 1);
    bench.goes_down(0);
    bench.quiet(20_000);
    bench.ends(&tier_down(0).key);
    assert_eq!(bench.told(20_000), [""; 0]);
    assert_eq!(
        bench.told(20_500),
        ["ops pooler-0 is DOWN; the tier is UP again"]
    );
}

#[test]
fn reminder_comes_while_it_stays() {
    let mut bench = Bench::new();
    bench.goes_down(0);
    let _ = bench.told(0);
    assert_eq!(bench.told(500).len(), 1);
    let four_hours = 4 * 3_600_000;
    assert_eq!(bench.told(four_hours), [""; 0]);
    assert_eq!(
        bench.told(four_hours + 500),
        ["ops pooler-0 is still DOWN for 4 h"]
    );
    assert_eq!(bench.told(four_hours + 60_000), [""; 0]);
    assert_eq!(bench.told(2 * four_hours + 1000).len(), 1);
    bench.comes_up(0);
    let _ = bench.told(2 * four_hours + 20_000);
    assert_eq!(bench.told(2 * four_hours + 20_500).len(), 1);
    assert_eq!(bench.told(9 * four_hours), [""; 0]);
}

#[test]
fn flapping_is_one_message_and_its_end_another() {
    let mut bench = Bench::new();
    let mut told = Vec::new();
    for turn in 0..30_i64 {
        bench.now = turn * 20_000;
        bench.goes_down(1);
        told.extend(bench.told(bench.now));
        told.extend(bench.told(bench.now + 500));
        bench.now += 7000;
        bench.comes_up(1);
        told.extend(bench.told(bench.now));
        told.extend(bench.told(bench.now + 500));
    }
    let (outage, back) = (
        "ops pooler-1 is DOWN",
        "ops pooler-1 is UP again after 7.5 s",
    );
    assert_eq!(
        told,
        [
            outage,
            back,
            outage,
            back,
            outage,
            back,
            "ops pooler-1 is FLAPPING"
        ]
    );
    let steady = 29 * 20_000 + 7500 + 300_000;
    bench.quiet(steady - 1);
    assert_eq!(bench.told(steady), [""; 0]);
    assert_eq!(
        bench.told(steady + 500),
        ["ops pooler-1 is UP again and steady"]
    );
    bench.quiet(steady + 5_000_000);
    bench.goes_down(1);
    let _ = bench.told(bench.now);
    assert_eq!(bench.told(bench.now + 500), [outage], "it begins anew");
}

#[test]
fn what_flapped_and_stays_down_is_told_as_down() {
    let mut bench = Bench::new();
    for turn in 0..4_i64 {
        bench.now = turn * 10_000;
        bench.goes_down(1);
        let _ = bench.told(bench.now);
        let _ = bench.told(bench.now + 500);
        if turn < 3 {
            bench.comes_up(1);
            let _ = bench.told(bench.now + 500);
        }
    }
    bench.quiet(bench.now + 290_000);
    let _ = bench.told(335_000);
    assert_eq!(bench.told(335_500), ["ops pooler-1 is DOWN"]);
    bench.comes_up(1);
    let _ = bench.told(336_000);
    assert_eq!(bench.told(345_000).len(), 1);
}

#[test]
fn restart_is_one_message() {
    let mut bench = Bench::new();
    bench.observe(&[Happening::Restarted(down(1, 0))]);
    assert_eq!(bench.told(0), [""; 0]);
    assert_eq!(bench.told(500), ["ops pooler-1 RESTARTED"]);
    bench.quiet(60_000);
}

#[test]
fn outage_that_nobody_watched_is_one_message() {
    let mut bench = Bench::new();
    let ended = Happening::Ended {
        key: key(0),
        at: at(4000),
        reason: "checks pass".to_owned(),
        count: None,
    };
    bench.now = 60_000;
    bench.observe(&[Happening::Began(down(0, 0)), ended]);
    let _ = bench.told(60_000);
    assert_eq!(
        bench.told(60_500),
        ["ops pooler-0 was DOWN for 4.0 s and is UP again"]
    );
}

#[test]
fn channels_hear_what_they_chose() {
    let mut bench = Bench::with(&[
        ChannelConfig {
            events: vec![NotificationEvent::TierDown],
            ..config("a")
        },
        ChannelConfig {
            minimum_severity: Severity::Warning,
            send_resolved: false,
            ..config("b")
        },
    ]);
    bench.goes_down(0);
    bench.observe(&[Happening::Restarted(down(1, 0))]);
    let _ = bench.told(0);
    assert_eq!(bench.told(500), ["b pooler-0 is DOWN"]);
    bench.comes_up(0);
    bench.quiet(30_000);
    bench.begins(tier_down(30_000));
    let _ = bench.told(30_000);
    assert_eq!(bench.told(30_500).len(), 2);
    assert!(bench.notifier.statuses().iter().all(|one| one.pending == 0));
}

/// Who did not choose to hear of the tier hears of its endpoints.
#[test]
fn tier_speaks_for_its_endpoints_only_where_it_is_heard() {
    let mut bench = Bench::with(&[ChannelConfig {
        events: vec![NotificationEvent::EndpointDown],
        ..config("ops")
    }]);
    bench.begins(tier_down(0));
    bench.goes_down(0);
    let _ = bench.told(0);
    assert_eq!(bench.told(500), ["ops pooler-0 is DOWN"]);
}

#[test]
fn failures_back_off_and_lose_nothing() {
    let mut bench = Bench::new();
    bench.outcome = Outcome::Failed("HTTP 503".to_owned());
    bench.goes_down(1);
    let _ = bench.told(0);
    let mut now = 500;
    for expected in [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
        assert_eq!(bench.told(now), ["ops pooler-1 is DOWN"]);
        now += expected;
        assert_eq!(bench.told(now - 1), [""; 0]);
    }
    assert_eq!(bench.problem().as_deref(), Some("HTTP 503"));
    bench.comes_up(1);
    bench.outcome = Outcome::delivered();
    assert_eq!(
        bench.told(now),
        ["ops pooler-1 was DOWN for 1 min 31 s and is UP again"]
    );
    assert_eq!((bench.problem(), bench.pending()), (None, 0));
}

#[test]
fn retry_after_is_honoured_within_reason_and_a_clock_set_back_ends_it() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    let _ = bench.told(0);
    bench.outcome = Outcome::Throttled(Duration::from_secs(7));
    assert_eq!(bench.told(500).len(), 1);
    bench.outcome = Outcome::Throttled(Duration::from_secs(999_999));
    assert_eq!(bench.told(7499), [""; 0]);
    assert_eq!(bench.told(7500).len(), 1);
    assert_eq!(bench.told(7500 + 3_599_999), [""; 0]);
    assert_eq!(bench.told(7500 + 3_600_000).len(), 1);
    bench.outcome = Outcome::delivered();
    assert_eq!(bench.told(8000).len(), 1);
}

#[test]
fn refusal_holds_until_the_configuration_changes() {
    let mut bench = Bench::new();
    bench.outcome = Outcome::Refused("no_service".to_owned());
    bench.goes_down(1);
    let _ = bench.told(0);
    assert_eq!(bench.told(500).len(), 1);
    bench.outcome = Outcome::delivered();
    assert_eq!(bench.told(1_000_000), [""; 0]);
    let problem = bench.problem().unwrap();
    assert!(problem.contains("no_service"), "{problem}");
    bench.notifier.configure(&[config("ops")]);
    assert_eq!(bench.told(1_000_000), [""; 0]);
    bench.notifier.configure(&[ChannelConfig {
        fingerprint: "another".to_owned(),
        ..config("ops")
    }]);
    assert_eq!(bench.told(1_000_000), ["ops pooler-1 is DOWN"]);
}

#[test]
fn failing_channel_is_told_of_on_the_others() {
    let mut bench = Bench::with(&[config("a"), config("b")]);
    bench.goes_down(1);
    let fail = |bench: &mut Bench, now| {
        bench.now = now;
        let mut posts = bench.notifier.claim(at(now));
        posts.retain(|post| {
            let outcome = match post.channel.as_str() {
                "a" => Outcome::Refused("channel_not_found".to_owned()),
                _ => Outcome::delivered(),
            };
            bench.notifier.finished(post, outcome, at(now), 0.5);
            post.channel == "b"
        });
        let message = |post: &Post| Message::new(post, &Context::default(), at(now)).text;
        posts.iter().map(message).collect::<Vec<_>>()
    };
    assert_eq!(fail(&mut bench, 0), [""; 0]);
    assert_eq!(fail(&mut bench, 500).len(), 1);
    assert_eq!(fail(&mut bench, 600), [""; 0]);
    let told = fail(&mut bench, 1600);
    assert!(
        told[0].contains("notifications to a do NOT ARRIVE")
            && told[0].contains("channel_not_found"),
        "{told:?}"
    );
    // It is mended: it is told what it missed, the other that it is.
    let mended = ChannelConfig {
        fingerprint: "another".to_owned(),
        ..config("a")
    };
    bench.notifier.configure(&[mended, config("b")]);
    assert_eq!(bench.told(10_000), ["a pooler-1 is DOWN"]);
    let _ = bench.told(10_000);
    assert_eq!(
        bench.told(12_000),
        ["b notifications to a arrive again after 9.5 s"]
    );
    bench.quiet(30_000);
}

#[test]
fn unclear_message_is_repeated_as_it_was_and_says_so() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    let _ = bench.told(0);
    bench.outcome = Outcome::Unclear("no answer within 10 s".to_owned());
    assert_eq!(bench.told(500), ["ops pooler-1 is DOWN"]);
    bench.outcome = Outcome::Failed("connection refused".to_owned());
    bench.comes_up(1);
    assert_eq!(bench.told(10_000), ["ops pooler-1 is DOWN again?"]);
    bench.outcome = Outcome::delivered();
    assert_eq!(bench.told(90_000), ["ops pooler-1 is DOWN again?"]);
    let _ = bench.told(91_000);
    assert_eq!(bench.told(96_000), ["ops pooler-1 is UP again after 0.5 s"]);
}

#[test]
fn death_between_claim_and_confirmation_repeats_once_and_says_so() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    let _ = bench.told(0);
    let posted = bench.notifier.claim(at(500));
    assert_eq!(posted.len(), 1);
    let kept = serde_json::to_string(&bench.notifier).unwrap();
    bench.notifier = serde_json::from_str(&kept).unwrap();
    bench.notifier.configure(&[config("ops")]);
    bench.notifier.resume();
    bench.now = 1500;
    bench.comes_up(1);
    let again = bench.notifier.claim(at(500)).remove(0);
    assert!(again.possibly_repeated);
    assert_eq!(again.items, posted[0].items);
    bench
        .notifier
        .finished(&again, Outcome::delivered(), at(500), 0.5);
    let _ = bench.told(1600);
    assert_eq!(bench.told(6000), ["ops pooler-1 is UP again after 1.5 s"]);
}

#[test]
fn new_channel_is_told_what_is_wrong_and_no_old_stories() {
    let mut bench = Bench::with(&[ChannelConfig {
        configured: false,
        ..config("ops")
    }]);
    bench.goes_down(1);
    bench.goes_down(2);
    bench.comes_up(1);
    assert_eq!(bench.told(600), [""; 0]);
    assert!(bench.problem().unwrap().contains("not configured"));
    bench.notifier.configure(&[config("ops")]);
    assert_eq!(bench.told(700), ["ops pooler-2 is DOWN"]);
    bench.quiet(60_000);
}

#[test]
fn endpoint_that_is_gone_is_told_of_only_if_it_was_before() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    bench.alerts.clear();
    bench.notifier.forget("pooler-1", at(100));
    bench.quiet(10_000);
    bench.goes_down(2);
    let _ = bench.told(10_000);
    assert_eq!(bench.told(10_500).len(), 1);
    bench.alerts.clear();
    bench.notifier.forget("pooler-2", at(11_000));
    let _ = bench.told(11_000);
    assert_eq!(bench.told(16_000), ["ops pooler-2 was removed"]);
    bench.goes_down(3);
    let _ = bench.told(20_000);
    assert_eq!(bench.told(20_500).len(), 1);
    bench
        .notifier
        .keep_endpoints(&["pooler-0".to_owned()], at(21_000));
    bench.alerts.clear();
    bench.observe(&[]);
    let _ = bench.told(22_000);
    assert_eq!(bench.told(30_000), ["ops pooler-3 was removed"]);
}

/// Which events it wants to hear of changed while nobody knew whether the
/// message had arrived.
#[test]
fn nothing_is_repeated_that_nobody_wants_to_hear_any_more() {
    let mut bench = Bench::new();
    bench.goes_down(1);
    let _ = bench.told(0);
    bench.outcome = Outcome::Unclear("no answer within 10 s".to_owned());
    assert_eq!(bench.told(500).len(), 1);
    bench.outcome = Outcome::delivered();
    bench.notifier.configure(&[ChannelConfig {
        events: vec![NotificationEvent::TierDown],
        ..config("ops")
    }]);
    bench.quiet(60_000);
    assert_eq!(bench.pending(), 0);
}

/// So much happens to so many that not even merged it can be kept.
#[test]
fn what_cannot_be_kept_is_told_as_how_things_are() {
    let mut bench = Bench::new();
    bench.outcome = Outcome::Unclear("no answer within 10 s".to_owned());
    let _ = bench.told(0);
    for pooler in 0..500 {
        bench.now += 1000;
        bench.alerts = vec![down(pooler, bench.now)];
        bench.observe(&[]);
        let _ = bench.told(bench.now);
    }
    assert!(serde_json::to_vec(&bench.notifier).unwrap().len() < 64 * 1024);
    bench.outcome = Outcome::delivered();
    let told = bench.told(bench.now + 180_000);
    assert_eq!(told, ["ops pooler-499 is DOWN"]);
    assert_eq!(bench.pending(), 0);
    let up = Key::new(NotificationEvent::EndpointDown, "pooler-499");
    bench.ends(&up);
    let _ = bench.told(bench.now + 180_500);
    let told = bench.told(bench.now + 186_000);
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn changes_of_endpoints_become_happenings() {
    let change = |outage| Change {
        id: Id::pooler(1),
        name: "pooler-1".to_owned(),
        from: crate::api::EndpointState::Up,
        to: crate::api::EndpointState::Down,
        at: at(5),
        reason: "killed".to_owned(),
        outage,
        up: 2,
        total: 3,
    };
    let made = happenings(&[
        change(Outage::None),
        change(Outage::Begins),
        change(Outage::Restarted),
        change(Outage::Ends { since: at(1) }),
    ]);
    let count = Count {
        of: Component::Pooler,
        up: 2,
        total: 3,
    };
    let alert = Alert::new(key(1), at(5), "killed", Some(count));
    assert_eq!(
        made,
        [
            Happening::Began(alert.clone()),
            Happening::Restarted(alert),
            Happening::Ended {
                key: key(1),
                at: at(5),
                reason: "killed".to_owned(),
                count: Some(count),
            }
        ]
    );
}
