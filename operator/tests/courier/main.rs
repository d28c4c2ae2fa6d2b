//! Messages on networks as they are: authorities of one's own, proxies, servers
//! that redirect, flood and say nothing. Each `operator notify-test` is a process
//! of its own, for what decides is in its environment.

#![allow(
    clippy::unwrap_used,
    reason = "all of this crate is tests, which clippy sees only in functions marked so"
)]

mod servers;

use std::process::{Command, Stdio};

use servers::{Answer, Proxy, Server};

const SECRET: &str = "s3cretPath";

/// What `notify-test` says of channels with these URLs.
fn notify_test(urls: &[String], environment: &[(&str, String)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (mut channels, mut keys) = (String::new(), String::new());
    for (index, url) in urls.iter().enumerate() {
        let reference = format!("{{webhookUrlSecretRef: {{name: users, key: url{index}}}}}");
        channels += &format!("  - {{name: channel-{index}, slack: {reference}}}\n");
        keys += &format!("  url{index}: {url}\n");
    }
    let manifest = format!(
        "apiVersion: poolkeeper.dev/v1alpha1\nkind: PgPoolCluster\nmetadata: {{name: shop}}\nspec:\n  \
           upstream: {{address: {{host: db}}}}\n  \
           auth: {{userlistSecretRef: {{name: users}}}}\n  \
           notifications:\n{channels}\
         ---\napiVersion: v1\nkind: Secret\nmetadata: {{name: users}}\nstringData:\n  \
           userlist.txt: '\"app\" \"secret\"'\n{keys}"
    );
    let file = folder.path().join("tier.yaml");
    std::fs::write(&file, manifest).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
    command
        .args(["notify-test", "--webhook-hosts"])
        .arg("hooks.slack.com,localhost,nowhere.invalid")
        .arg("-f")
        .arg(file)
        .stdin(Stdio::null());
    for name in [
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (said, logged) = (text(output.stdout), text(output.stderr));
    assert!(!said.contains(SECRET), "the URL is shown: {said}");
    assert!(!logged.contains(SECRET), "the URL is logged: {logged}");
    said
}

/// That this server's certificate is to be trusted.
fn trusting(server: &Server) -> (&'static str, String) {
    ("SSL_CERT_FILE", server.certificate().display().to_string())
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_ssl_cert_file_names_it() {
    let server = Server::start(Answer::Whole("200 OK", "ok"));
    let urls = [server.url(SECRET)];
    let said = notify_test(&urls, &[]);
    assert_eq!(
        said,
        "channel-0 (slackWebhook): failed: cannot connect; it may help to try again\n"
    );
    assert_eq!(server.requests().len(), 0);
    let said = notify_test(&urls, &[trusting(&server)]);
    assert_eq!(said, "channel-0 (slackWebhook): delivered\n");
    let requests = server.requests();
    assert!(
        requests[0].starts_with(&format!("POST /{SECRET} HTTP/1.1\r\n")),
        "{requests:?}"
    );
}

#[test]
fn a_proxy_is_gone_through_unless_no_proxy_names_the_host() {
    let server = Server::start(Answer::Whole("200 OK", "ok"));
    let proxy = Proxy::start(Some(server.port()));
    let through = ("HTTPS_PROXY", proxy.url());
    // Its name need not be known here: the proxy knows it.
    let slack = format!("https://hooks.slack.com/{SECRET}");
    let said = notify_test(&[slack], &[trusting(&server), through.clone()]);
    assert_eq!(said, "channel-0 (slackWebhook): delivered\n");
    assert_eq!(proxy.asked(), ["CONNECT hooks.slack.com:443 HTTP/1.1"]);
    assert_eq!(server.requests().len(), 1);

    let not_for = ("NO_PROXY", "localhost".to_owned());
    let own = server.url(SECRET);
    let said = notify_test(&[own], &[trusting(&server), through, not_for]);
    assert_eq!(said, "channel-0 (slackWebhook): delivered\n");
    assert_eq!(proxy.asked().len(), 1, "it was asked for localhost");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_proxy_that_refuses_is_a_failure_that_is_tried_again() {
    let proxy = Proxy::start(None);
    let through = ("HTTPS_PROXY", proxy.url());
    let slack = format!("https://hooks.slack.com/{SECRET}");
    let said = notify_test(&[slack], &[through]);
    assert!(said.contains(": failed: "), "{said}");
    assert_eq!(proxy.asked().len(), 1);
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(Answer::Whole("200 OK", "ok"));
    let answer = format!("307 Elsewhere\r\nlocation: {}", elsewhere.url("x"));
    let server = Server::start(Answer::Whole(answer.leak(), ""));
    // One that could be followed, were one to: of a host that is allowed.
    let bundle = elsewhere.certificate_with(&server);
    let trusting = ("SSL_CERT_FILE", bundle.path().display().to_string());
    let said = notify_test(&[server.url(SECRET)], &[trusting]);
    assert_eq!(
        said,
        "channel-0 (slackWebhook): failed: answered with a redirect, which is not followed; it may help to try again\n"
    );
    assert_eq!(
        (server.requests().len(), elsewhere.requests().len()),
        (1, 0)
    );
}

#[test]
fn an_endless_answer_is_read_for_a_while_only() {
    let server = Server::start(Answer::Endless);
    let said = notify_test(&[server.url(SECRET)], &[trusting(&server)]);
    assert_eq!(said, "channel-0 (slackWebhook): delivered\n");
    let sent = server.sent();
    assert!(sent < 8 * 1024 * 1024, "{sent} bytes were taken");
}

/// Both are tried again; of the second it is not known whether it arrived.
#[test]
fn names_that_nobody_knows_and_servers_that_say_nothing_are_told_apart() {
    let silent = Server::start(Answer::Nothing);
    let urls = [
        format!("https://nowhere.invalid/{SECRET}"),
        silent.url(SECRET),
    ];
    let said = notify_test(&urls, &[trusting(&silent)]);
    assert_eq!(
        said,
        "channel-0 (slackWebhook): failed: cannot connect; it may help to try again\n\
         channel-1 (slackWebhook): unclear: no answer within 10 s; look whether it arrived\n"
    );
    assert_eq!(silent.requests().len(), 1);
}
