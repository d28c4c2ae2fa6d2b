//! The HTTP port while others misuse it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use proxy_core::upstream::{Reach, Reason, UpstreamReport};
use web::{polls::POLLS_MAX, server::CONNECTIONS_MAX};

use crate::{
    balancer::{Balancer, Config},
    support::{connect, http},
    target::Target,
};

/// Kubelets give a probe one second unless told otherwise.
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

#[track_caller]
fn assert_probes_get_in(balancer: &Balancer) {
    for path in ["/livez", "/readyz"] {
        let begin = Instant::now();
        assert_eq!(http::get(balancer.web, path).status, 200, "{path}");
        let took = begin.elapsed();
        assert!(took < PROBE_TIME_MAX, "{path} took {took:?}");
    }
}

#[test]
fn probes_are_answered_while_silent_connections_flood_the_port() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]));
    let _silent: Vec<TcpStream> = (0..4 * CONNECTIONS_MAX)
        .map(|_| connect(balancer.web))
        .collect();
    assert_probes_get_in(&balancer);
}

#[test]
fn long_polls_beyond_the_limit_are_told_to_come_later_and_keep_no_probe_out() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]));
    let status = balancer.status();
    let since = format!("/status?since={}:{}", status.boot_id, status.newest);
    let poll = |_| {
        let mut stream = connect(balancer.web);
        let request = format!("GET {since}&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let mut polls: Vec<TcpStream> = (0..=POLLS_MAX).map(poll).collect();
    // Which of them came last is the kernel's to say; it alone is answered.
    let answer = crate::support::wait_for("a refusal", || {
        polls.iter_mut().find_map(|stream| {
            stream.set_nonblocking(true).unwrap();
            let mut answer = [0; 1024];
            let length = stream.read(&mut answer).ok()?;
            Some(String::from_utf8_lossy(&answer[..length]).into_owned())
        })
    });
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert_probes_get_in(&balancer);
    // Who does not wait is no poll.
    assert_eq!(http::get(balancer.web, &since).status, 200);
    // A poll that ends makes place.
    drop(polls);
    crate::support::wait_for("a place", || {
        let poll = http::get(balancer.web, &format!("{since}&wait=1ms"));
        (poll.status == 200).then_some(())
    });
}

#[test]
fn a_poll_ends_when_targets_say_something_else() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]));
    let before = balancer.status();
    let reported = before.reported.unwrap();
    let since = format!("?since={}:{}", before.boot_id, before.newest);
    target.report(|report| {
        report.clients += 1;
        report.upstream = Some(UpstreamReport {
            state: Reach::Unreachable,
            reason: Some(Reason::Refused),
            number: 2,
        });
    });
    let query = format!("{since}&wait=20s&reported={reported}");
    let status = crate::balancer::status(balancer.web, &query);
    let report = status.targets[0].report.as_ref().unwrap();
    assert_eq!(report.upstream.unwrap().reason, Some(Reason::Refused));
    assert_eq!(status.reported, Some(reported + 1));
    assert_eq!(status.newest, before.newest, "it is no transition");
    // Numbers of clients are no news.
    target.report(|report| report.clients += 1);
    let query = format!("{since}&wait=50ms&reported={}", reported + 1);
    let status = crate::balancer::status(balancer.web, &query);
    assert_eq!(status.reported, Some(reported + 1));
}

#[test]
fn a_status_is_not_sent_again_while_it_says_the_same() {
    let target = Target::start("pooler-0");
    let balancer = Balancer::serving(&Config::over([&target]));
    let first = http::get(balancer.web, "/status").tag.unwrap();
    let again = |path: &str| http::get_unless(balancer.web, path, Some(&first));
    // Connections come and go all the time.
    let _client = balancer.client();
    let same = again("/status");
    assert_eq!((same.status, &*same.body), (304, ""));
    assert_eq!(same.tag.as_deref(), Some(&*first));
    let reported = balancer.status().reported.unwrap();
    target.report(|report| report.boot_id = "another".to_owned());
    let status = balancer.status();
    let query = format!(
        "?since={}:{}&wait=20s&reported={reported}",
        status.boot_id, status.newest
    );
    let other = again(&format!("/status{query}"));
    assert_eq!(other.status, 200);
    assert_ne!(other.tag.as_deref(), Some(&*first));
}
