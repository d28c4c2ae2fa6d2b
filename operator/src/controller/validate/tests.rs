use super::*;
use crate::{
    manifest::{self, Source},
    webhook::Webhook,
};

const CLUSTER: &str = "\
apiVersion: poolkeeper.dev/v1alpha1
kind: PgPoolCluster
metadata: {name: shop}
spec:
  upstream: {address: {host: db}}
  auth: {userlistSecretRef: {name: users}}
";

const USERS: &str = "\
---
apiVersion: v1
kind: Secret
metadata: {name: users}
stringData:
  userlist.txt: |
    \"a\" \"b\"
";

/// Validates a manifest made of the minimum, with `spec` added; returns the
/// problems as `operator check` prints them.
fn check(spec: &str, more: &str) -> Result<ValidatedCluster, Vec<String>> {
    let source = Source {
        name: "f".to_owned(),
        text: format!("{CLUSTER}{spec}{more}"),
    };
    let show = |problem: &proxy_core::config::Problem| problem.to_string();
    let manifest = manifest::read(&[source])
        .map_err(|problems| problems.iter().map(show).collect::<Vec<_>>())?;
    validate(&manifest.dereference(), &WebhookPolicy::default()).map_err(|faults| {
        faults
            .iter()
            .map(|fault| show(&manifest.problem(fault)))
            .collect()
    })
}

fn faults(spec: &str, more: &str) -> Vec<String> {
    check(spec, more).map_or_else(|faults| faults, |_| Vec::new())
}

#[test]
fn minimum_is_valid() {
    let cluster = check("", USERS).unwrap();
    assert_eq!(cluster.poolers.replicas, 3);
    assert_eq!(cluster.upstream.port, 5432);
    assert!(cluster.client_tls.is_none());
}

#[test]
fn parameters_are_judged_by_the_pooler_itself() {
    let spec = r"  pool:
    parameters:
      max_prepared_statments: 5
      query_timeout: soon
      pool_mode: session
      listen_port: 1
      'x y': 1
      threads: 100
  databases:
  - name: a
    parameters:
      server_lifetime: -5
      password: x
  - name: b
    poolSize: 5
    parameters: {nonsense: 1}
  users:
  - name: u
    parameters: {query_timeout: never}
";
    let faults = faults(spec, USERS);
    assert_eq!(faults.len(), 10, "{faults:?}");
    let theirs = faults.join("\n");
    for (place, about) in [
        (
            "f:11: spec.pool.parameters.pool_mode",
            "has a field of its own: spec.pool.mode",
        ),
        (
            "f:12: spec.pool.parameters.listen_port",
            "is set by the operator",
        ),
        (
            "f:13: spec.pool.parameters.x y",
            "is not a key: keys are of a to z, 0 to 9 and _",
        ),
        (
            "f:19: spec.databases[0].parameters.password",
            "is a secret and belongs into the user list",
        ),
        (
            "f:9: spec.pool.parameters.max_prepared_statments",
            "did you mean max_prepared_statements?",
        ),
        (
            "f:10: spec.pool.parameters.query_timeout",
            "query_timeout = soon is invalid, expected a number of seconds",
        ),
        ("f:14: spec.pool.parameters.threads", "from 1 to 64"),
        ("f:16: spec.databases[0]", "server_lifetime"),
        ("f:20: spec.databases[1]", "nonsense"),
        ("f:24: spec.users[0]", "query_timeout"),
    ] {
        let found = theirs
            .lines()
            .any(|line| line.starts_with(place) && line.contains(about));
        assert!(found, "{place} {about}: {theirs}");
    }
}

#[test]
fn missing_and_broken_secrets_are_named() {
    assert_eq!(
        faults("", ""),
        ["f:6: spec.auth.userlistSecretRef.name: Secret users does not exist"]
    );
    assert_eq!(
        faults("", &USERS.replace("userlist.txt", "users.txt")),
        ["f:6: spec.auth.userlistSecretRef.name: Secret users has no key userlist.txt"]
    );
    let broken = USERS.replace("\"a\" \"b\"", "\"a\" \"b\"\n    c hunter2");
    let faults = faults("", &broken);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("f:14: Secret users, key userlist.txt: expected"),
        "{faults:?}"
    );
    assert!(!faults[0].contains("hunter2"));
}

#[test]
fn webhooks_are_judged_without_being_shown() {
    let spec = "  notifications:\n  - name: ops\n    slack: {webhookUrlSecretRef: {name: slack, key: url}}\n";
    let slack = |url: &str| {
        format!(
            "{USERS}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: slack}}\nstringData:\n  url: {url}\n"
        )
    };
    assert_eq!(
        faults(spec, &slack("https://evil.example/s3cret")),
        [
            "f:22: Secret slack, key url: the webhook's URL is of a host that is not allowed; allowed by --webhook-hosts: hooks.slack.com, slack.com"
        ]
    );
    let cluster = check(spec, &slack("https://hooks.slack.com/services/s3cret")).unwrap();
    assert!(!format!("{cluster:?}").contains("s3cret"));
    let cluster = check(spec, &slack(crate::webhook::PLACEHOLDER)).unwrap();
    assert_eq!(cluster.channels[0].webhook, Webhook::Placeholder);
}

#[test]
fn client_tls_needs_a_pair_that_fits() {
    let spec = "  tls:\n    client: {mode: require, certSecretRef: {name: tls}}\n";
    let certified = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let indent = |pem: String| {
        pem.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    let tls = format!(
        "{USERS}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: tls}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(certified.cert.pem()),
        indent(certified.signing_key.serialize_pem()),
    );
    let cluster = check(spec, &tls).unwrap();
    let mode = cluster.client_tls.as_ref().unwrap().mode;
    assert_eq!(mode, api::TlsMode::Require);
    assert!(!format!("{cluster:?}").contains("PRIVATE KEY"));
    let broken = tls
        .replace("tls.key: |", "tls.key: |\n    x")
        .replace("PRIVATE KEY", "KEY");
    let faults = faults(spec, &broken);
    assert!(
        faults[0].contains("Secret tls, key tls.key: holds no private key"),
        "{faults:?}"
    );
}

#[test]
fn hosts_are_resolved_and_leftovers_reported() {
    let spec = "  databases: [{name: a}, {name: b, host: other}, {name: c, host: third}]\n";
    let mut cluster = check(spec, USERS).unwrap();
    let to = |port| HostPort {
        host: "127.0.0.1".to_owned(),
        port,
    };
    let names = BTreeMap::from([
        ("db".to_owned(), to(1)),
        ("other".to_owned(), to(2)),
        ("nobody".to_owned(), to(3)),
    ]);
    assert_eq!(cluster.resolve(&names), ["nobody"]);
    assert_eq!(cluster.upstream, to(1));
    assert_eq!(cluster.databases[0].address, to(1));
    assert_eq!(cluster.databases[1].address, to(2));
    assert_eq!(cluster.databases[2].address.host, "third");
}
