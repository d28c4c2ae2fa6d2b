use std::{io, path::Path, time::Duration};

use super::{Algorithm, BalancerConfig, Check, CheckType, parse};
use crate::shared_key::SharedKey;

const FULL: &str = r#"
frontends: [{name: postgres, bind: "0.0.0.0:5432", reuse_port: true}]
targets:
  - {name: pooler-0, address: "10.0.0.5:6432"}
  - name: pooler-1
    address: "[::1]:6432"
algorithm: roundrobin
check: {type: tcp, interval: 500ms, rise: 1, fall: 100, timeout: 10ms}
max_connections: 1000000
http: {bind: "0.0.0.0:8404"}
threads: 64
reload_on_change: true
proxy_protocol: true
shared_key_file: /run/key
drain_timeout: 5m
revision: "7"
"#;

/// The problems as `LINE: message`.
fn problems(text: &str) -> Vec<String> {
    match parse("b.yaml", text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems
            .iter()
            .map(|problem| {
                assert_eq!(problem.file, "b.yaml");
                format!("{}: {}", problem.line, problem.message)
            })
            .collect(),
    }
}

#[test]
fn every_key_is_read() {
    let config = parse("b.yaml", FULL).unwrap();
    assert!(config.frontends[0].reuse_port);
    assert_eq!(config.frontends[0].name, "postgres");
    assert_eq!(config.targets[1].name, "pooler-1");
    assert_eq!(config.targets[1].address.to_string(), "[::1]:6432");
    assert_eq!(config.algorithm, Algorithm::Roundrobin);
    assert_eq!(
        config.check,
        Check {
            r#type: CheckType::Tcp,
            interval: Duration::from_millis(500),
            rise: 1,
            fall: 100,
            timeout: Duration::from_millis(10),
        }
    );
    assert_eq!(config.max_connections, 1_000_000);
    assert_eq!(config.http.unwrap().bind.port, 8404);
    assert_eq!(config.threads, 64);
    assert!(config.reload_on_change && config.proxy_protocol);
    assert_eq!(config.shared_key_file.as_deref(), Some("/run/key"));
    assert_eq!(config.drain_timeout, Duration::from_secs(300));
    assert_eq!(config.revision.as_deref(), Some("7"));
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = parse(
        "b.yaml",
        "frontends: [{name: a, bind: \"127.0.0.1:0\"}]\ntargets: [{name: b, address: \"127.0.0.1:1\"}]",
    )
    .unwrap();
    assert!(!config.frontends[0].reuse_port);
    assert_eq!(config.algorithm, Algorithm::Leastconn);
    assert_eq!(config.check, Check::default());
    assert_eq!(config.max_connections, 12_000);
    assert_eq!(config.http, None);
    assert_eq!(config.threads, 1);
    assert!(!config.reload_on_change && !config.proxy_protocol);
    assert_eq!(config.shared_key_file, None);
    assert_eq!(config.drain_timeout, Duration::from_secs(60));
    assert_eq!(config.revision, None);
}

#[test]
fn what_is_written_from_a_configuration_reads_back() {
    let config = parse("b.yaml", FULL).unwrap();
    let text = serde_saphyr::to_string(&config).unwrap();
    assert_eq!(parse("b.yaml", &text), Ok(config.clone()));
    // Deserialize, for those who embed the types, agrees.
    assert_eq!(
        serde_saphyr::from_str::<BalancerConfig>(&text).unwrap(),
        config
    );
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let text = FULL.replace(", timeout: 10ms", "");
    let check = parse("b.yaml", &text).unwrap().check;
    assert_eq!(check.timeout, Duration::from_millis(500));
}

#[test]
fn every_problem_is_told_with_its_line() {
    assert_eq!(
        problems(
            r#"
frontends:
  - {name: "a b", bind: localhost:5432}
  - {bind: "0.0.0.0:5432", reuseport: true}
targets:
  - {name: pooler-0, address: "10.0.0.5"}
  - {name: pooler-0, address: "10.0.0.5:0"}
  - pooler-2
algorithm: random
check: {interval: 99ms, rise: 0, fall: 101, timeout: 3s, type: http, every: 2s}
max_connections: 0
max_connection: 5
http: {}
threads: 1.5
revision: 7
"#
        ),
        [
            "3: frontends[0].name is \"a b\", expected 1 to 100 letters, digits, dots, colons, _ and -",
            "3: frontends[0].bind is \"localhost:5432\", expected a numeric address and a port, such as 10.0.0.5:6432 or [::1]:6432, or *:6432 for all",
            "4: frontends has 2 entries, expected exactly one",
            "4: unknown key frontends[1].reuseport, did you mean reuse_port?",
            "4: frontends[1].name is missing",
            "6: targets[0].address is \"10.0.0.5\", expected a numeric address and a port, such as 10.0.0.5:6432 or [::1]:6432",
            "7: targets[1].name is \"pooler-0\", as in line 6; names must differ",
            "7: targets[1].address is 10.0.0.5:0, which nobody can connect to",
            "8: targets[2] is \"pooler-2\", expected keys and values",
            "9: algorithm is \"random\", expected leastconn or roundrobin",
            "10: unknown key check.every, expected type, interval, rise, fall, timeout",
            "10: check.type is \"http\", expected postgres or tcp",
            "10: check.interval is \"99ms\", expected a time from 100ms to 1h, such as 500ms, 2s or 1m",
            "10: check.rise is 0, expected a whole number from 1 to 100",
            "10: check.fall is 101, expected a whole number from 1 to 100",
            "10: check.timeout is \"3s\", expected a time from 10ms to 2s, such as 500ms, 2s or 1m",
            "11: max_connections is 0, expected a whole number from 1 to 1000000",
            "12: unknown key max_connection, did you mean max_connections?",
            "13: http.bind is missing",
            "14: threads is 1.5, expected a whole number from 1 to 64",
            "15: revision is 7, expected text (put it in quotes)",
        ]
    );
}

#[test]
fn missing_and_empty_lists_are_problems() {
    assert_eq!(
        problems("threads: 1"),
        ["1: frontends is missing", "1: targets is missing"]
    );
    assert_eq!(
        problems("frontends: []\ntargets: {}"),
        [
            "1: frontends is empty, expected at least one",
            "2: targets is a mapping, expected a list"
        ]
    );
    assert_eq!(
        problems("- a"),
        ["1: the file is a list, expected keys and values"]
    );
    assert_eq!(
        problems(""),
        ["1: the file is null, expected keys and values"]
    );
}

#[test]
fn repeated_keys_are_problems() {
    let twice = format!("{FULL}threads: 2\n");
    assert_eq!(problems(&twice), ["17: threads is set twice"]);
}

const FRONTEND: &str = "frontends: [{name: a, bind: \"127.0.0.1:0\"}]\n";

#[test]
fn targets_are_listed_or_discovered_or_both() {
    let line = "discovery: {dns: shop-pooler.default.svc, port: 6432, resolver: \"[::1]:53\"}\n";
    let config = parse("b.yaml", &format!("{FRONTEND}{line}")).unwrap();
    assert!(config.targets.is_empty());
    let discovery = config.discovery.clone().unwrap();
    assert_eq!(discovery.dns, "shop-pooler.default.svc");
    assert_eq!(discovery.port, 6432);
    assert_eq!(discovery.resolver, Some("[::1]:53".parse().unwrap()));
    let text = serde_saphyr::to_string(&config).unwrap();
    assert_eq!(parse("b.yaml", &text), Ok(config));

    let both = parse("b.yaml", &format!("{FULL}{line}")).unwrap();
    assert_eq!((both.targets.len(), both.discovery.is_some()), (2, true));
    for absolute in ["a", "a.", "_pg._tcp.example.com"] {
        let line = format!("discovery: {{dns: {absolute}, port: 1}}\n");
        let config = parse("b.yaml", &format!("{FRONTEND}{line}")).unwrap();
        assert_eq!(config.discovery.unwrap().resolver, None);
    }
}

#[test]
fn a_discovery_that_cannot_work_is_told() {
    let told = |discovery: &str| problems(&format!("{FRONTEND}discovery: {discovery}\n"));
    assert_eq!(
        told("{dns: a..b, port: 0, resolver: \"1.2.3.4:0\", ttl: 5s}"),
        [
            "2: unknown key discovery.ttl, expected dns, port, resolver",
            "2: discovery.dns is \"a..b\", expected a DNS name, such as shop-pooler.default.svc",
            "2: discovery.port is 0, expected a whole number from 1 to 65535",
            "2: discovery.resolver is 1.2.3.4:0, which nobody can ask",
        ]
    );
    assert_eq!(
        told("{resolver: localhost}"),
        [
            "2: discovery.resolver is \"localhost\", expected a numeric address and a port, such as 10.0.0.5:6432 or [::1]:6432",
            "2: discovery.dns is missing",
            "2: discovery.port is missing",
        ]
    );
    for name in ["10.0.0.5", "\"fd00::1\""] {
        let name = told(&format!("{{dns: {name}, port: 1}}"));
        assert!(
            name[0].ends_with("expected a DNS name, addresses go into targets"),
            "{name:?}"
        );
    }
    let long = format!("{}.a", "a".repeat(64));
    for name in ["-a", "a-", "\"\"", "\".\"", "a/b", "\u{e4}", &long] {
        let problem = told(&format!("{{dns: {name}, port: 1}}"));
        assert!(problem[0].contains("expected a DNS name"), "{problem:?}");
    }
    assert_eq!(
        told("headless"),
        ["2: discovery is \"headless\", expected keys and values"]
    );
}

#[test]
fn the_dashboard_cannot_have_the_port_of_a_frontend() {
    let text = FULL.replace("8404", "5432");
    assert_eq!(
        problems(&text),
        ["10: http.bind is 0.0.0.0:5432, which frontend postgres has taken"]
    );
}

#[test]
fn text_that_is_not_yaml_is_told_with_its_line() {
    assert_eq!(
        problems("frontends:\n  - {name: a\ntargets: [\n"),
        ["3: not valid YAML: unclosed bracket '['"]
    );
    assert_eq!(
        problems("a: *nothing\n"),
        ["1: not valid YAML: alias references unknown anchor"]
    );
    assert_eq!(
        problems("a: 1\n---\nb: 2\n"),
        ["3: not valid YAML: multiple YAML documents detected"]
    );
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let text = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(problems(&text).len(), 1);
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        let _ = parse("b.yaml", &text);
    }

    #[test]
    fn damaged_files_never_panic(
        place in proptest::prelude::any::<proptest::sample::Index>(),
        with in "[\\[\\]{}:&*!|>'\"%@`, \n\t-]{0,3}",
    ) {
        let mut text = FULL.to_owned();
        let place = place.index(text.len());
        text.replace_range(place..=place, &with);
        let _ = parse("b.yaml", &text);
    }
}

#[test]
fn the_shared_key_is_read_and_its_problems_have_their_line() {
    let load = |text: &str, key: Option<&str>| {
        super::load(
            Path::new("b.yaml"),
            &mut |path| match (path.to_str(), key) {
                (Some("b.yaml"), _) => Ok(text.to_owned()),
                (Some("/run/key"), Some(key)) => Ok(key.to_owned()),
                _ => Err(io::ErrorKind::NotFound.into()),
            },
        )
    };
    let config = load(FULL, Some("0123456789abcdef\n")).unwrap();
    assert_eq!(config.shared_key, SharedKey::parse("0123456789abcdef").ok());
    assert!(!format!("{config:?}").contains("0123"));
    for (key, told) in [
        (
            Some("short secret"),
            "the shared key has 12 bytes, expected 16 to 4096",
        ),
        (None, "entity not found"),
    ] {
        let problems = load(FULL, key).unwrap_err();
        assert_eq!((problems.len(), problems[0].line), (1, 14));
        assert_eq!(
            problems[0].message,
            format!("shared_key_file /run/key: {told}")
        );
    }
}
