//! What people type, and what they are told.

use std::{fs, io::Read as _};

use crate::support::{Bench, STEADY, example, operator, text};

#[test]
fn example_is_valid() {
    let file = example().display().to_string();
    let output = operator(&["check", "-f", &file]);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(
        text(&output.stdout),
        format!("{file}: PgPoolCluster shop is valid\n")
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn every_problem_is_named_and_nothing_started() {
    let bench = Bench::new(STEADY);
    let bad = "\
apiVersion: poolkeeper.dev/v1alpha1
kind: PgPoolCluster
metadata: {name: shop}
spec:
  upstream: {address: {host: db, port: 99999}}
  auth:
    userlistSecretRef: {name: users}
  pool: {mod: session}
  balancer: {check: {timeout: 1h}}
";
    bench.write("tier.yaml", bad);
    let file = bench.path("tier.yaml").display().to_string();
    let expected = format!(
        "{file}:5: spec.upstream.address.port: 99999 is out of range, expected 1 to 65535\n\
         {file}:7: spec.auth.userlistSecretRef.name: Secret users does not exist\n\
         {file}:8: spec.pool.mod: unknown field, did you mean \"mode\"?\n\
         {file}:9: spec.balancer.check.timeout: must be 10ms to interval\n"
    );
    let output = operator(&["check", "-f", &file]);
    assert_eq!(text(&output.stderr), expected);
    assert_eq!(output.status.code(), Some(1));
    let error = bench.refused(&mut bench.command());
    assert_eq!(
        error,
        format!("{expected}operator: 4 problems in the manifest, nothing was started\n")
    );
    assert!(!bench.path("state").exists(), "the state folder was made");
}

#[test]
fn missing_file_and_unused_resolve_are_named() {
    let bench = Bench::new(STEADY);
    let output = operator(&["check", "-f", "nowhere.yaml"]);
    assert!(text(&output.stderr).starts_with("nowhere.yaml:1: cannot be read: "));
    let error = bench.refused(bench.command().args(["--resolve", "nobody=127.0.0.1:1"]));
    assert_eq!(
        error,
        "operator: --resolve nobody=…: the manifest names no such host\n"
    );
    fs::write(
        bench.path("tier.yaml"),
        fs::read_to_string(bench.path("tier.yaml"))
            .unwrap()
            .replace("spec:\n", "spec:\n  suspend: true\n"),
    )
    .unwrap();
    let error = bench.refused(&mut bench.command());
    assert!(error.contains("spec.suspend is true"), "{error}");
}

#[test]
fn render_prints_the_objects() {
    let file = example().display().to_string();
    let mut command = vec!["render", "-f", &file];
    let output = operator(&command);
    assert_eq!(output.status.code(), Some(2), "images have no default");
    command.extend(["--pooler-image", "example.org/p:1"]);
    command.extend(["--balancer-image", "example.org/b:1"]);
    let output = operator(&command);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    let objects = text(&output.stdout);
    assert_eq!(objects.matches("\nkind: ").count(), 12, "{objects}");
    assert!(objects.contains("image: example.org/p:1"), "{objects}");
    assert!(objects.contains("dns: shop-pooler"), "{objects}");
}

#[test]
fn render_refuses_what_check_refuses() {
    let bench = Bench::new(STEADY);
    bench.write("bad.yaml", "apiVersion: v1\nkind: Secret\n");
    let file = bench.path("bad.yaml").display().to_string();
    let checked = operator(&["check", "-f", &file]);
    let images = ["--pooler-image", "p", "--balancer-image", "b"];
    let rendered = operator(&[&["render", "-f", &file], &images[..]].concat());
    assert_eq!(rendered.status.code(), Some(1));
    assert_eq!(text(&rendered.stderr), text(&checked.stderr));
    assert_eq!(text(&rendered.stdout), "");
}

#[test]
fn crd_is_the_committed_one() {
    let output = operator(&["crd"]);
    assert_eq!(
        text(&output.stdout),
        include_str!("../../../crds/poolkeeper.dev_pgpoolclusters.yaml")
    );
}

#[test]
fn what_is_not_built_says_so() {
    let output = operator(&["convert"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("operator: not built yet: "));
}

#[test]
fn status_without_an_api_server_says_what_to_set() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_operator"))
        .args(["status", "shop"])
        .env("KUBECONFIG", "/proc/none/kubeconfig")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("cannot find the API server"), "{said}");
    assert!(said.contains("set KUBECONFIG"), "{said}");
}

#[test]
fn probes_are_answered_while_silent_connections_flood_the_port() {
    let bench = Bench::new(STEADY);
    let mut operator = bench.start();
    operator.children();
    let silent: Vec<_> = (0..4 * web::server::CONNECTIONS_MAX)
        .map(|_| bench.connect())
        .collect();
    let begin = std::time::Instant::now();
    for path in ["/livez", "/readyz"] {
        assert_eq!(bench.get(path).0, 200, "{path}");
    }
    let took = begin.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    // The oldest made place; nothing was said to it.
    match (&silent[0]).read(&mut [0; 1]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn own_http_answers_and_shows_no_secret() {
    let bench = Bench::new(STEADY);
    let tier = fs::read_to_string(bench.path("tier.yaml")).unwrap();
    let notifications = "spec:\n  notifications:\n  - name: ops\n    slack: {webhookUrlSecretRef: {name: slack, key: url}}\n";
    let secret = |url: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: slack}}\nstringData: {{url: '{url}'}}\n"
        )
    };
    let with = |url: &str| {
        bench.write(
            "tier.yaml",
            &(tier.replace("spec:\n", notifications) + &secret(url)),
        );
    };
    with("https://hooks.slack.com/services/REPLACE/ME/PLEASE");
    let mut first = bench.start();
    first.children();
    for path in ["/livez", "/readyz"] {
        assert_eq!(bench.get(path).0, 200, "{path}");
    }
    let (_, status) = bench.get("/status");
    assert!(
        status.contains("not configured: the Secret holds the example's placeholder"),
        "{status}"
    );
    first.kill();
    // Nobody listens there, so posting fails as well.
    with("http://127.0.0.1:1/services/webhookS3cret");
    let mut second = bench.start();
    second.children();
    crate::support::signal(
        i32::try_from(second.seen[0]["pid"].as_i64().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    );
    let failed = second.event("failure", |event| event["event"] == "notNotified");
    assert_eq!(failed["problem"], "cannot connect");
    assert_eq!(failed["triesAgain"], true);
    let (_, status) = bench.get("/status");
    let (_, metrics) = bench.get("/metrics");
    assert!(
        metrics.contains(
            "notifications_total{namespace=\"\",pgpoolcluster=\"shop\",channel=\"ops\",result=\"failed\"}"
        ),
        "{metrics}"
    );
    assert_eq!(second.stop().code(), Some(0));
    let state = fs::read_to_string(bench.path("state/state.json")).unwrap();
    let printed = format!("{:?}", second.seen);
    for (what, shown) in [
        ("/status", &status),
        ("/metrics", &metrics),
        ("state.json", &state),
        ("the output", &printed),
    ] {
        for secret in ["webhookS3cret", "hunter2"] {
            assert!(!shown.contains(secret), "{what} shows {secret}");
        }
    }
}
