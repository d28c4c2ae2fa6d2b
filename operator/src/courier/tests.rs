//! Answers, and that nothing secret is told.

use std::io;

use reqwest::Url;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

fn post_and_context() -> (Post, Context) {
    let mut notifier = crate::notify::Notifier::default();
    notifier.configure(&[crate::notify::ChannelConfig {
        name: "ops".to_owned(),
        configured: true,
        ..crate::notify::ChannelConfig::default()
    }]);
    let key = crate::notify::Key::new(crate::api::NotificationEvent::TierDown, "");
    let at = Timestamp::UNIX_EPOCH;
    let alert = crate::notify::Alert::new(key, at, "no pooler is up", None);
    notifier.observe(&[alert], &[], at);
    let _ = notifier.claim(at);
    let post = notifier.claim(Timestamp::from_second(1).unwrap()).remove(0);
    let context = Context {
        cluster: "shop".to_owned(),
        links: Vec::new(),
    };
    (post, context)
}

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: None,
        body: body.as_bytes().to_vec(),
    }
}

fn webhook() -> Destination {
    Destination::SlackWebhook("https://hooks.slack.com/s3cret".parse().unwrap())
}

fn bot() -> Destination {
    Destination::SlackBot {
        api: "https://slack.com/api/".parse().unwrap(),
        token: Token::parse("xoxb-s3cret").unwrap(),
        channel: "C1".to_owned(),
    }
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed(reason.to_owned())
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.to_owned())
}

#[test]
fn answers_of_webhooks_are_told_apart() {
    for (status, body, expected) in [
        (200, "ok", Outcome::delivered()),
        (204, "", Outcome::delivered()),
        (404, "no_service\n", refused("HTTP 404, no_service")),
        (400, "invalid_payload", failed("HTTP 400, invalid_payload")),
        (401, "your token s3cret is bad", refused("HTTP 401")),
        (404, "default backend", failed("HTTP 404")),
        (408, "", failed("HTTP 408")),
        (500, "oops", failed("HTTP 500")),
        (429, "", Outcome::Throttled(THROTTLE_DEFAULT)),
        (
            200,
            "\n<html>Welcome to our network</html>",
            Outcome::Unclear("answered something that is not Slack's".to_owned()),
        ),
    ] {
        assert_eq!(
            judge(&webhook(), &answer(status, body)),
            expected,
            "{status} {body}"
        );
    }
}

#[test]
fn with_a_bot_the_body_decides() {
    let delivered = |reference: &str| Outcome::Delivered {
        reference: Some(reference.to_owned()),
    };
    let unclear = Outcome::Unclear("answered something that is not Slack's".to_owned());
    for (status, body, expected) in [
        (
            200,
            r#"{"ok":true,"channel":"C1","ts":"17.1","message":{}}"#,
            delivered("C1/17.1"),
        ),
        (200, r#"{"ok":true}"#, Outcome::delivered()),
        (
            200,
            r#"{"ok":false,"error":"invalid_auth"}"#,
            refused("invalid_auth"),
        ),
        (
            200,
            r#"{"ok":false,"error":"is_archived"}"#,
            refused("is_archived"),
        ),
        (
            200,
            r#"{"ok":false,"error":"internal_error"}"#,
            failed("internal_error"),
        ),
        (
            200,
            r#"{"ok":false,"error":"message_not_found"}"#,
            Outcome::RootGone,
        ),
        (
            200,
            r#"{"ok":false,"error":"ratelimited"}"#,
            Outcome::Throttled(THROTTLE_DEFAULT),
        ),
        (
            200,
            r#"{"ok":false,"error":"xoxb-s3cret is odd"}"#,
            failed("Slack did not take it and did not say why"),
        ),
        (200, "<html>Welcome to our network</html>", unclear.clone()),
        (200, "", unclear),
        (503, "{}", failed("HTTP 503")),
    ] {
        assert_eq!(
            judge(&bot(), &answer(status, body)),
            expected,
            "{status} {body}"
        );
    }
}

/// Whether the head and as much as it announces have come.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split("content-length: ").nth(1).unwrap();
    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    body.len() >= length
}

/// Serves one connection: reads the request, sends `answer`, returns the request.
async fn serve(answer: &'static str) -> io::Result<(Url, tokio::task::JoinHandle<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/services/s3cret", listener.local_addr()?);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !is_whole(&request) {
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
    let courier = Courier::new().unwrap();
    let (post, context) = post_and_context();
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            Outcome::delivered(),
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
            Outcome::Failed("answered with a redirect, which is not followed".to_owned()),
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
        let webhook = Destination::SlackWebhook(url);
        let now = Timestamp::UNIX_EPOCH;
        let outcome = courier.deliver(&webhook, &post, &context, now).await;
        assert_eq!(outcome, expected);
        let request = server.await.unwrap();
        assert!(
            request.starts_with("POST /services/s3cret HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("the tier is DOWN"), "{request}");
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
    let (post, context) = post_and_context();
    let webhook = Destination::SlackWebhook(url);
    let courier = Courier::new().unwrap();
    let outcome = courier
        .deliver(&webhook, &post, &context, Timestamp::UNIX_EPOCH)
        .await;
    assert_eq!(outcome, Outcome::Failed("cannot connect".to_owned()));
}
