use super::*;
use crate::{
    api::{NotificationEvent, Severity},
    notify::{Alert, ChannelConfig, Context, Count, Entry, Key, Notifier, Root, Style, What},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn entry(what: What, reason: &str) -> Entry {
    Entry {
        sequence: 1,
        key: Key::new(NotificationEvent::EndpointDown, "pooler-1"),
        what,
        at: at(1000),
        since: at(1000),
        reason: reason.to_owned(),
        count: Some(Count {
            of: crate::api::Component::Pooler,
            up: 2,
            total: 3,
        }),
        times: 1,
        lasted_ms: 0,
    }
}

fn post(items: Vec<Entry>) -> Post {
    let mut notifier = Notifier::default();
    notifier.configure(&[ChannelConfig {
        name: "ops".to_owned(),
        configured: true,
        style: Style::Threads,
        ..ChannelConfig::default()
    }]);
    let alert = Alert::new(items[0].key.clone(), at(1000), "x", None);
    notifier.observe(&[alert], &[], at(1000));
    let _ = notifier.claim(at(1000));
    let post = notifier.claim(at(1001)).remove(0);
    Post { items, ..post }
}

fn rendered(post: &Post, cluster: &str, now: i64) -> Json {
    let context = Context {
        cluster: cluster.to_owned(),
        links: vec![(
            "Dashboard".to_owned(),
            "http://127.0.0.1:8404/stats".to_owned(),
        )],
    };
    render(&Message::new(post, &context, at(now)))
}

#[test]
fn message_says_what_why_since_when_and_how_many_remain() {
    let mut down = post(vec![entry(What::Began, "killed by signal 9 (SIGKILL)")]);
    let runbook = "https://wiki.example/poolers?a=1&b=2";
    down.links = vec![("Runbook".to_owned(), runbook.to_owned())];
    let message = rendered(&down, "shop", 1001);
    assert_eq!(
        message["text"],
        "shop: pooler-1 is DOWN since 1970-01-01T00:16:40Z: killed by signal 9 (SIGKILL). 2 of 3 poolers remain up"
    );
    assert_eq!(
        message["blocks"][0]["text"]["text"],
        ":red_circle: shop: pooler-1 is DOWN"
    );
    let facts = message["blocks"][1]["text"]["text"].as_str().unwrap();
    assert_eq!(
        facts,
        "*Why:* killed by signal 9 (SIGKILL)\n*Remaining:* 2 of 3 poolers are up\n\
         *Time:* <!date^1000^{date_short_pretty} {time_secs}|1970-01-01T00:16:40Z>"
    );
    let remarks = message["blocks"][2]["elements"][0]["text"]
        .as_str()
        .unwrap();
    assert_eq!(
        remarks,
        "Runbook: https://wiki.example/poolers?a=1&amp;b=2 · Dashboard: http://127.0.0.1:8404/stats"
    );
}

#[test]
fn repeated_and_late_messages_say_so() {
    let mut repeated = post(vec![entry(What::Began, "x")]);
    repeated.possibly_repeated = true;
    let message = rendered(&repeated, "shop", 1200);
    assert!(
        message["text"]
            .as_str()
            .unwrap()
            .ends_with("(possibly repeated)")
    );
    let remarks = message["blocks"][2]["elements"][0]["text"]
        .as_str()
        .unwrap();
    assert!(
        remarks.contains("possibly repeated") && remarks.contains("told late, 3 min 20 s after"),
        "{remarks}"
    );
}

#[test]
fn nothing_in_a_reason_becomes_markup_or_too_long() {
    let reason = format!("<!channel> & {}", "x".repeat(10_000));
    let message = rendered(&post(vec![entry(What::Began, &reason)]), "shop", 1001);
    let section = message["blocks"][1]["text"]["text"].as_str().unwrap();
    assert!(section.contains("&lt;!channel&gt; &amp; xxx"));
    assert!(section.chars().count() <= SECTION_LENGTH_MAX);
    assert!(!message.to_string().contains("<!channel"));
    let message = rendered(&post(vec![entry(What::Began, "x")]), &"c".repeat(500), 1001);
    let header = message["blocks"][0]["text"]["text"].as_str().unwrap();
    assert_eq!(header.chars().count(), HEADER_LENGTH_MAX);
}

#[test]
fn long_story_is_cut_into_sections_that_slack_takes() {
    let items = (0..40)
        .map(|index| Entry {
            key: Key::new(NotificationEvent::EndpointDown, &format!("pooler-{index}")),
            ..entry(What::Began, &"<".repeat(120))
        })
        .collect();
    let message = rendered(&post(items), "shop", 1001);
    let blocks = message["blocks"].as_array().unwrap();
    assert!(blocks.len() > 5 && blocks.len() <= 50, "{}", blocks.len());
    for block in blocks {
        let text = block["text"]["text"].as_str().unwrap_or_default();
        assert!(text.chars().count() <= SECTION_LENGTH_MAX);
    }
    assert!(message.to_string().contains("pooler-39 is DOWN"));
    let text = message["text"].as_str().unwrap();
    assert!(text.chars().count() <= TEXT_LENGTH_MAX);
}

#[test]
fn bot_begins_a_thread_answers_in_it_and_edits_its_first_message() {
    let api: Url = "https://slack.com/api/".parse().unwrap();
    let token = Token::parse("xoxb-s3cret").unwrap();
    let first = post(vec![entry(What::Began, "x")]);
    let message = Message::new(&first, &Context::default(), at(1001));
    let sent = |post: &Post| {
        let letter = bot(&api, &token, "#ops", &message, post);
        assert_eq!(letter.bearer, Some(token.clone()));
        assert!(!letter.body.contains("s3cret"));
        let body: Json = serde_json::from_str(&letter.body).unwrap();
        (letter.url.to_string(), body)
    };
    let (url, body) = sent(&first);
    assert_eq!(url, "https://slack.com/api/chat.postMessage");
    assert_eq!(body["channel"], "#ops");
    assert!(body["thread_ts"].is_null());
    let root: Root = serde_json::from_value(json!({
        "message": "C1/17.1", "shown": 1, "worst": Severity::Warning, "since": 0, "about": "x",
    }))
    .unwrap();
    let mut answer = Post {
        root: Some(root),
        broadcast: true,
        ..first
    };
    let (url, body) = sent(&answer);
    assert_eq!(url, "https://slack.com/api/chat.postMessage");
    assert_eq!(
        (&body["channel"], &body["thread_ts"]),
        (&json!("C1"), &json!("17.1"))
    );
    assert_eq!(body["reply_broadcast"], true);
    answer.form = Form::Edit;
    let (url, body) = sent(&answer);
    assert_eq!(url, "https://slack.com/api/chat.update");
    assert_eq!(
        (&body["channel"], &body["ts"]),
        (&json!("C1"), &json!("17.1"))
    );
    assert!(body["thread_ts"].is_null());
}
