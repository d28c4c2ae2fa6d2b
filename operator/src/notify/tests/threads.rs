//! Channels whose messages can be edited and answered, and those that are told
//! levels.

use super::*;

fn reference() -> Outcome {
    Outcome::Delivered {
        reference: Some("17.1".to_owned()),
    }
}

fn threads() -> Bench {
    let mut bench = Bench::with(&[ChannelConfig {
        style: Style::Threads,
        ..config("ops")
    }]);
    bench.outcome = reference();
    bench
}

/// What is posted at a time: form, whether into a thread, whether shown outside
/// of it, title.
fn posted(bench: &mut Bench, now: i64) -> Vec<String> {
    bench.now = now;
    let posts = bench.notifier.claim(at(now));
    let told = posts.iter().map(|post| {
        let outcome = bench.outcome.clone();
        bench.notifier.finished(post, outcome, at(now), 0.5);
        let place = match (&post.root, post.broadcast) {
            (None, _) => "new",
            (Some(_), false) => "thread",
            (Some(_), true) => "both",
        };
        let message = Message::new(post, &Context::default(), at(now));
        format!("{} {place}{}", post.form.word(), message.title)
    });
    told.collect()
}

#[test]
fn incident_is_one_message_that_is_edited_and_a_thread() {
    let mut bench = threads();
    bench.goes_down(0);
    let _ = posted(&mut bench, 0);
    assert_eq!(posted(&mut bench, 500), ["News new: pooler-0 is DOWN"]);
    bench.goes_down(1);
    let _ = posted(&mut bench, 1000);
    assert_eq!(posted(&mut bench, 1500), ["News thread: pooler-1 is DOWN"]);
    assert_eq!(
        posted(&mut bench, 2500),
        ["Edit thread: pooler-0, pooler-1 are DOWN"]
    );
    bench.begins(tier_down(2500));
    let _ = posted(&mut bench, 3500);
    assert_eq!(
        posted(&mut bench, 4000),
        ["News both: the tier is DOWN, nothing serves"]
    );
    bench.alerts.clear();
    bench.observe(&[]);
    let _ = posted(&mut bench, 5000);
    assert_eq!(
        posted(&mut bench, 10_000),
        ["News thread: the tier is UP again; pooler-0, pooler-1 are UP again"]
    );
    assert_eq!(
        posted(&mut bench, 11_000),
        ["Edit thread: over after 4.0 s: pooler-0"]
    );
    assert_eq!(posted(&mut bench, 60_000), [""; 0]);
    bench.goes_down(2);
    let _ = posted(&mut bench, 61_000);
    assert_eq!(posted(&mut bench, 62_000), ["News new: pooler-2 is DOWN"]);
}

#[test]
fn message_that_someone_deleted_is_posted_anew() {
    let mut bench = threads();
    bench.goes_down(0);
    let _ = posted(&mut bench, 0);
    assert_eq!(posted(&mut bench, 500).len(), 1);
    bench.goes_down(1);
    let _ = posted(&mut bench, 1000);
    bench.outcome = Outcome::RootGone;
    assert_eq!(posted(&mut bench, 1500), ["News thread: pooler-1 is DOWN"]);
    bench.outcome = reference();
    assert_eq!(posted(&mut bench, 1600), ["News new: pooler-1 is DOWN"]);
}

#[test]
fn edit_that_may_have_arrived_is_repeated_without_a_word() {
    let mut bench = threads();
    bench.goes_down(0);
    let _ = posted(&mut bench, 0);
    let _ = posted(&mut bench, 500);
    bench.comes_up(0);
    let _ = posted(&mut bench, 1500);
    assert_eq!(posted(&mut bench, 6500).len(), 1);
    let edit = bench.notifier.claim(at(7500)).remove(0);
    assert_eq!(edit.form, Form::Edit);
    let kept = serde_json::to_string(&bench.notifier).unwrap();
    bench.notifier = serde_json::from_str(&kept).unwrap();
    bench.notifier.configure(&[ChannelConfig {
        style: Style::Threads,
        ..config("ops")
    }]);
    bench.notifier.resume();
    let again = bench.notifier.claim(at(7500)).remove(0);
    assert_eq!((again.form, again.possibly_repeated), (Form::Edit, false));
}

#[test]
fn levels_are_told_again_before_they_are_forgotten() {
    let mut bench = Bench::with(&[ChannelConfig {
        style: Style::Levels,
        ..config("am")
    }]);
    bench.begins(tier_down(0));
    bench.goes_down(0);
    let _ = bench.notifier.claim(at(0));
    let post = bench.notifier.claim(at(500)).remove(0);
    assert_eq!((post.items.len(), post.open.len()), (2, 2));
    bench
        .notifier
        .finished(&post, Outcome::Unclear("x".to_owned()), at(500), 0.5);
    let post = bench.notifier.claim(at(2000)).remove(0);
    assert!(!post.possibly_repeated, "levels may be told twice");
    bench
        .notifier
        .finished(&post, Outcome::delivered(), at(2000), 0.5);
    assert!(bench.notifier.claim(at(61_999)).is_empty());
    let post = bench.notifier.claim(at(62_000)).remove(0);
    assert_eq!((post.form, post.open.len()), (Form::Reminder, 2));
    bench
        .notifier
        .finished(&post, Outcome::delivered(), at(62_000), 0.5);
    // One that the tier speaks for elsewhere is told here at once.
    bench.now = 70_000;
    bench.comes_up(0);
    let _ = bench.notifier.claim(at(70_000));
    let post = bench.notifier.claim(at(70_500)).remove(0);
    assert_eq!((post.items.len(), post.open.len()), (1, 1));
}
