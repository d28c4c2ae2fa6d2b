//! What is kept: its size, and what earlier operators kept.

use super::*;

/// Of a name in Kubernetes, and of a reason full of what JSON escapes.
fn alert(index: usize) -> Alert {
    let name = format!("{}-{index:03}", "p".repeat(59));
    let count = Count {
        of: Component::Balancer,
        up: 4_000_000_000,
        total: 4_000_000_000,
    };
    let key = Key::new(NotificationEvent::EndpointDown, &name);
    let now = at(1_800_000_000_000);
    Alert::new(key, now, &"\"\\".repeat(500), Some(count))
}

#[test]
fn it_takes_at_most_64_kib_for_50_endpoints_and_10_channels() {
    let configs: Vec<ChannelConfig> = (0..10)
        .map(|index| ChannelConfig {
            fingerprint: "0123456789abcdef".to_owned(),
            style: Style::Threads,
            ..config(&format!("{}{index}", "c".repeat(39)))
        })
        .collect();
    let mut notifier = Notifier::default();
    notifier.configure(&configs);
    let mut dice = simulation::Dice::new(7);
    let mut bytes_max = 0;
    let mut now_ms = 1_800_000_000_000;
    let mut wrong = std::collections::BTreeSet::new();
    for _ in 0..700 {
        now_ms += 500;
        let index = dice.roll(50) as usize;
        if !wrong.remove(&index) {
            wrong.insert(index);
        }
        let alerts: Vec<Alert> = wrong.iter().map(|index| alert(*index)).collect();
        notifier.observe(&alerts, &[], at(now_ms));
        for post in notifier.claim(at(now_ms)) {
            let outcome = match dice.roll(40) {
                0 => Outcome::Delivered {
                    reference: Some("1800000000.123456".to_owned()),
                },
                1 => Outcome::Unclear("\"".repeat(1000)),
                2 => Outcome::Refused("\"".repeat(1000)),
                _ => Outcome::Failed("\"".repeat(1000)),
            };
            notifier.finished(&post, outcome, at(now_ms), 0.5);
        }
        if dice.roll(10) == 0 {
            bytes_max = bytes_max.max(serde_json::to_vec(&notifier).unwrap().len());
        }
    }
    println!("{bytes_max} bytes at most");
    assert!(bytes_max < 64 * 1024, "{bytes_max} bytes");
    assert!(bytes_max > 32 * 1024, "{bytes_max} bytes test nothing");
}

/// Channels that are not equally far: neither is told less, or twice.
#[test]
fn merged_entries_tell_each_channel_what_they_told_before() {
    let mut log = Log::default();
    for sequence in 1..=300_u64 {
        let begins = (sequence / 3) % 2 == 0;
        log.push(Entry {
            sequence,
            key: key((sequence % 3) as usize),
            what: if begins { What::Began } else { What::Ended },
            at: at(1000 * sequence as i64),
            since: at(1000 * sequence as i64),
            reason: format!("reason {sequence}"),
            count: None,
            times: u32::from(begins),
            lasted_ms: if begins { 0 } else { 3000 },
        });
    }
    let told = |log: &Log| {
        let ranges = [(0, 100), (100, 201), (201, 300), (100, 300)];
        ranges.map(|(after, upto)| {
            let mut told = log::fold(log.between(after, upto));
            told.sort_by_key(|entry| entry.sequence);
            told
        })
    };
    let before = told(&log);
    assert_eq!(log.bound(&[100, 201]), None);
    assert_eq!(told(&log), before);
    assert!(log.between(0, 300).count() <= 9, "nothing was merged");
}

#[test]
fn what_is_kept_is_read_back_the_same() {
    let mut bench = Bench::new();
    bench.now = 1234;
    bench.goes_down(0);
    bench.comes_up(0);
    bench.goes_down(0);
    let _ = bench.notifier.claim(at(1800));
    let json = serde_json::to_string(&bench.notifier).unwrap();
    let read: Notifier = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), json);
}

/// Of the form before the log: one was told DOWN of pooler-1, which is up again
/// and that is not told; pooler-2 is down still.
const INCIDENTS: &str = r#"{
    "sequence": 5,
    "open": {"pooler-2": {"endpoint": "pooler-2", "component": "pooler", "kind": "Outage",
        "began": {"sequence": 4, "at": "2026-01-01T00:00:00Z", "reason": "killed", "up": 2, "total": 3},
        "times": 1, "lastedMs": 0}},
    "channels": {
        "half": {"fingerprint": "f", "configured": true, "sendResolved": true, "lastDelivery": "2026-01-01T00:00:01Z",
            "claim": {"sequence": 5, "unclear": false},
            "incidents": [{"incident": {"endpoint": "pooler-1", "component": "pooler", "kind": "Outage",
                "began": {"sequence": 3, "at": "2026-01-01T00:00:00Z", "reason": "killed", "up": 2, "total": 3},
                "ended": {"sequence": 5, "at": "2026-01-01T00:00:09Z", "reason": "up", "up": 3, "total": 3},
                "times": 1, "lastedMs": 9000}, "downTold": true}]},
        "done": {"fingerprint": "f", "configured": true, "sendResolved": true, "incidents": []}
    }
}"#;

#[test]
fn who_was_told_half_of_something_by_an_earlier_operator_is_told_how_things_are() {
    let mut bench = Bench::new();
    bench.notifier = serde_json::from_str(INCIDENTS).unwrap();
    bench.notifier.configure(&[config("half"), config("done")]);
    bench.notifier.resume();
    let since = 1_767_225_600_000;
    bench.alerts = vec![down(2, since)];
    bench.now = since + 20_000;
    bench.observe(&[]);
    assert_eq!(bench.told(bench.now), ["half pooler-2 is DOWN"]);
    bench.comes_up(2);
    let _ = bench.told(bench.now + 500);
    let told = bench.told(bench.now + 6000);
    let up = "pooler-2 is UP again after 20 s";
    assert_eq!(told, [format!("done {up}"), format!("half {up}")]);
}

#[test]
fn what_nobody_kept_is_an_error() {
    for text in ["{}", "[]", "{\"format\": 2}"] {
        assert!(serde_json::from_str::<Notifier>(text).is_err(), "{text}");
    }
}
