use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::notify::{Incident, Kind};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn post(step: Step, reason: &str) -> Post {
    let edge = |sequence, seconds, up| Edge {
        sequence,
        at: at(seconds),
        reason: reason.to_owned(),
        up,
        total: 3,
    };
    Post {
        channel: "ops".to_owned(),
        step,
        incident: Incident {
            endpoint: "pooler-1".to_owned(),
            component: Component::Pooler,
            kind: Kind::Outage,
            began: edge(1, 1000, 2),
            ended: (step != Step::Down).then(|| edge(2, 1065, 3)),
            times: 1,
            lasted_ms: 65_000,
        },
        possibly_repeated: false,
    }
}

fn context() -> Context {
    Context {
        cluster: "shop".to_owned(),
        look_further: "Dashboard: http://127.0.0.1:8404/stats".to_owned(),
    }
}

fn text(post: &Post, now: i64) -> String {
    render(post, &context(), at(now))["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn message_says_what_why_since_when_and_how_many_remain() {
    let message = render(
        &post(Step::Down, "killed by signal 9 (SIGKILL)"),
        &context(),
        at(1001),
    );
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
        "*Why:* killed by signal 9 (SIGKILL)\n*Remaining:* 2 of 3 poolers remain up\n\
         *Time:* <!date^1000^{date_short_pretty} {time_secs}|1970-01-01T00:16:40Z>"
    );
    let remarks = message["blocks"][2]["elements"][0]["text"]
        .as_str()
        .unwrap();
    assert_eq!(remarks, "Dashboard: http://127.0.0.1:8404/stats");
}

#[test]
fn recovery_says_how_long_it_lasted() {
    let text = text(&post(Step::Up, "checks pass"), 1066);
    assert!(
        text.starts_with("shop: pooler-1 is UP again after 1 min 5 s. It was down since 1970-"),
        "{text}"
    );
    assert!(text.ends_with("3 of 3 poolers are up"), "{text}");
}

#[test]
fn several_told_as_one_say_how_many() {
    let mut several = post(Step::Up, "x");
    several.incident.times = 14;
    assert!(text(&several, 1066).contains("it was down 14 times, 1 min 5 s in all"));
    several.step = Step::Down;
    assert!(text(&several, 1066).contains("is DOWN, 14 times since 1970-01-01T00:16:40Z"));
}

#[test]
fn repeated_and_late_messages_say_so() {
    let mut repeated = post(Step::Down, "x");
    repeated.possibly_repeated = true;
    assert!(text(&repeated, 1001).ends_with("(possibly repeated)"));
    let message = render(&repeated, &context(), at(1200));
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
    let message = render(&post(Step::Down, &reason), &context(), at(1001));
    let section = message["blocks"][1]["text"]["text"].as_str().unwrap();
    assert!(section.contains("&lt;!channel&gt; &amp; xxx"));
    assert!(section.chars().count() <= SECTION_LENGTH_MAX);
    assert!(!message.to_string().contains("<!channel"));
    let mut long = context();
    long.cluster = "c".repeat(500);
    let message = render(&post(Step::Down, "x"), &long, at(1001));
    let header = message["blocks"][0]["text"]["text"].as_str().unwrap();
    assert_eq!(header.chars().count(), HEADER_LENGTH_MAX);
}

#[test]
fn answers_are_told_apart() {
    let status = |code| StatusCode::from_u16(code).unwrap();
    let refused = |text: &str| Outcome::Refused(text.to_owned());
    assert_eq!(
        outcome(status(404), b"no_service\n"),
        refused("HTTP 404, no_service")
    );
    assert_eq!(
        outcome(status(400), b"invalid_payload"),
        refused("HTTP 400, invalid_payload")
    );
    assert_eq!(
        outcome(status(403), b"your token s3cret is bad"),
        refused("HTTP 403")
    );
    assert_eq!(
        outcome(status(408), b""),
        Outcome::Failed("HTTP 408".to_owned())
    );
    assert_eq!(
        outcome(status(500), b"oops"),
        Outcome::Failed("HTTP 500".to_owned())
    );
}

/// Serves one connection: reads the request, sends `answer`, returns the request.
async fn serve(answer: &'static str) -> io::Result<(Url, tokio::task::JoinHandle<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/services/s3cret", listener.local_addr()?);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(b"}") {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the request ended early");
            request.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    Ok((url.parse().unwrap(), server))
}

#[tokio::test]
async fn posts_are_judged_by_the_answer() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let slack = Slack::new().unwrap();
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            Outcome::Delivered,
        ),
        (
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 17\r\ncontent-length: 0\r\n\r\n",
            Outcome::Throttled(Duration::from_secs(17)),
        ),
        (
            "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
            Outcome::Throttled(THROTTLE_DEFAULT),
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            Outcome::Refused("answered with a redirect, which is not followed".to_owned()),
        ),
        (
            "HTTP/1.1 410 Gone\r\ncontent-length: 19\r\n\r\nchannel_is_archived",
            Outcome::Refused("HTTP 410, channel_is_archived".to_owned()),
        ),
        (
            "",
            Outcome::Unclear("the connection broke before an answer came".to_owned()),
        ),
    ];
    for (answer, expected) in cases {
        let (url, server) = serve(answer).await.unwrap();
        assert_eq!(slack.post(&url, &json!({"text": "hello"})).await, expected);
        let request = server.await.unwrap();
        assert!(
            request.starts_with("POST /services/s3cret HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.ends_with(r#"{"text":"hello"}"#), "{request}");
    }
}

#[tokio::test]
async fn nobody_there_is_a_failure_without_the_url() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{free}/services/s3cret").parse().unwrap();
    let outcome = Slack::new().unwrap().post(&url, &json!({})).await;
    assert_eq!(outcome, Outcome::Failed("cannot connect".to_owned()));
}
