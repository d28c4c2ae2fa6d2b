use super::*;
use crate::{
    controller::FaultKind,
    destination::Destination,
    manifest::{self, Source},
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
fn a_list_in_which_there_is_nobody_is_refused() {
    let empty = USERS.replace("\"a\" \"b\"", "; nobody yet");
    assert_eq!(
        faults("", &empty),
        ["f:6: spec.auth: nobody could log in: Secret users, key userlist.txt, lists no user"]
    );
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
    assert_eq!(cluster.channels[0].destination, Destination::Placeholder);
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

/// The same with another upstream and other ways to log in.
fn judged(
    upstream: &str,
    auth: &str,
    spec: &str,
    more: &str,
) -> Result<ValidatedCluster, Vec<Fault>> {
    let text = CLUSTER
        .replace("{address: {host: db}}", upstream)
        .replace("  auth: {userlistSecretRef: {name: users}}\n", auth);
    let source = Source {
        name: "f".to_owned(),
        text: format!("{text}{spec}{more}"),
    };
    let manifest = manifest::read(&[source]).unwrap_or_else(|problems| panic!("{problems:#?}"));
    validate(&manifest.dereference(), &WebhookPolicy::default())
}

fn secret(name: &str, values: &str) -> String {
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {values}\n")
}

#[test]
fn cloudnativepg_is_known_by_its_names() {
    let cnpg = "{cnpgClusterRef: {name: pg, type: ro}}";
    let app = secret("pg-app", "{username: app, password: s3cret}");
    let cluster = judged(cnpg, "", "", &app).unwrap();
    assert_eq!(cluster.upstream.to_string(), "pg-ro:5432");
    assert_eq!(
        cluster.userlist.content.text(),
        Some("\"app\" \"s3cret\"\n")
    );
    assert!(!format!("{cluster:?}").contains("s3cret"));
    assert_eq!(cluster.upstream_database, None);
    let app = secret("pg-app", "{username: app, password: s3cret, dbname: shop}");
    let cluster = judged(cnpg, "", "", &app).unwrap();
    assert_eq!(cluster.upstream_database.as_deref(), Some("shop"));

    let faults = judged(cnpg, "", "", "").unwrap_err();
    assert!(
        faults
            .iter()
            .all(|fault| fault.kind == FaultKind::MissingReference),
        "{faults:?}"
    );
    // Somebody else can log in.
    let auth = "  auth: {userlistSecretRef: {name: users}}\n";
    assert!(judged(cnpg, auth, "", USERS).is_ok());
    // The list's word counts.
    let both = judged(
        cnpg,
        auth,
        "",
        &format!(
            "{USERS}{}",
            secret("pg-app", "{username: a, password: other}")
        ),
    )
    .unwrap();
    assert_eq!(both.userlist.content.text(), Some("\"a\" \"b\"\n"));

    let verify = "  tls: {server: {mode: verify-full}}\n";
    let faults = judged(cnpg, "", verify, &app).unwrap_err();
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    // What follows from it is no fault of the manifest, which would never pass.
    assert_eq!(
        shown,
        ["spec.upstream.cnpgClusterRef.name: Secret pg-ca does not exist"]
    );
    assert_eq!(faults[0].kind, FaultKind::MissingReference);
    let faults = judged(cnpg, "", verify, "").unwrap_err();
    assert_eq!(faults.len(), 2, "each Secret once: {faults:#?}");
}

/// An application is to get a password, not what PostgreSQL keeps of one; and not
/// everybody's.
#[test]
fn credentials_are_those_of_listed_users_whose_password_is_known() {
    let md5 = format!("md5{}", "0".repeat(32));
    let users = "  users: [{name: own, passwordSecretRef: {name: own}}, {name: b}, {name: hashed}, {name: nobody}]\n";
    let auth = "  auth: {userlistSecretRef: {name: users}}\n";
    let list = format!("\"a\" \"of-a\"\n\"b\" \"of-b\"\n\"hashed\" \"{md5}\"\n");
    let list = secret(
        "users",
        &format!("{{userlist.txt: {}}}", serde_json::json!(list)),
    );
    let more = format!("{list}{}", secret("own", "{password: of-own}"));
    let found = |upstream: &str, more: &str| -> Vec<(String, String)> {
        let cluster = judged(upstream, auth, users, more).unwrap();
        let found = cluster.credentials.iter();
        found
            .map(|one| (one.user.clone(), one.password.text().unwrap().to_owned()))
            .collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    let listed = [("own", "of-own"), ("b", "of-b")];
    assert_eq!(found("{address: {host: db}}", &more), pairs(&listed));
    // The upstream's comes last, with the password that counts here.
    let by_uri = "{uriSecretRef: {name: pg}}";
    let uri = |user: &str| {
        format!(
            "{more}{}",
            secret("pg", &format!("{{uri: \"postgresql://{user}:x@db\"}}"))
        )
    };
    let with = |user, password| pairs(&[listed[0], listed[1], (user, password)]);
    assert_eq!(found(by_uri, &uri("new")), with("new", "x"));
    assert_eq!(found(by_uri, &uri("a")), with("a", "of-a"));
    assert_eq!(found(by_uri, &uri("b")), pairs(&listed));
}

#[test]
fn a_service_that_was_looked_for_is_missed() {
    let text = CLUSTER.replace("{address: {host: db}}", "{cnpgClusterRef: {name: pg}}");
    let source = Source {
        name: "f".to_owned(),
        text: format!("{text}{USERS}"),
    };
    let manifest = manifest::read(&[source]).map_err(|_| ()).unwrap();
    let mut read = manifest.dereference();
    let references = crate::controller::dereference::references(&read.cluster);
    assert_eq!(Vec::from_iter(&references.services), ["pg-rw"]);
    assert_eq!(Vec::from_iter(&references.secrets), ["pg-app", "users"]);
    assert!(validate(&read, &WebhookPolicy::default()).is_ok());
    read.missing_services.insert("pg-rw".to_owned());
    let faults = validate(&read, &WebhookPolicy::default()).unwrap_err();
    assert_eq!(faults[0].kind, FaultKind::MissingReference);
    assert!(
        faults[0]
            .to_string()
            .contains("Service pg-rw does not exist")
    );
}

#[test]
fn a_uri_says_where_and_who() {
    let by_uri = "{uriSecretRef: {name: pg}}";
    let uri = |uri: &str| secret("pg", &format!("{{uri: \"{uri}\"}}"));
    let cluster = judged(
        by_uri,
        "",
        "",
        &uri("postgresql://app:s3%22cret@db:5433/shop?connect_timeout=3"),
    )
    .unwrap();
    assert_eq!(cluster.upstream.to_string(), "db:5433");
    assert_eq!(cluster.upstream_database.as_deref(), Some("shop"));
    assert_eq!(
        cluster.userlist.content.text(),
        Some("\"app\" \"s3\"\"cret\"\n")
    );
    assert!(
        cluster.warnings[0]
            .to_string()
            .contains("has no effect here: connect_timeout")
    );
    for (text, about) in [
        (
            "postgresql://db:x",
            "Secret pg, key uri, line 1: has a port",
        ),
        (
            "postgresql://a:b%0Ac@db",
            "Secret pg, key uri, line 1: its password holds a control character",
        ),
        (
            "postgresql://a:b@db?sslmode=verify-full",
            "spec.tls.server.mode: is disable, while",
        ),
    ] {
        let faults = judged(by_uri, "", "", &uri(text)).unwrap_err();
        assert!(
            faults
                .iter()
                .any(|fault| fault.to_string().starts_with(about)),
            "{faults:?}"
        );
        assert!(faults.iter().all(|fault| fault.kind == FaultKind::Invalid));
    }
}

#[test]
fn users_bring_their_passwords() {
    let address = "{address: {host: db}}";
    let spec = "  users: [{name: a b, passwordSecretRef: {name: one}}, {name: c}]\n";
    let one = secret("one", "{password: 'x\"y'}");
    let cluster = judged(address, "", spec, &one).unwrap();
    assert_eq!(
        cluster.userlist.content.text(),
        Some("\"a b\" \"x\"\"y\"\n")
    );
    // A secret that the pooler refuses is told at its own place.
    let long = secret("one", &format!("{{password: {}}}", "x".repeat(3_000)));
    let faults = judged(address, "", spec, &long).unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        "Secret one, key password, line 1: the secret is longer than 2047 bytes"
    );
}

#[test]
fn faults_say_what_has_to_happen() {
    for (spec, auth, kind) in [
        (
            "",
            "  auth: {type: cert, userlistSecretRef: {name: users}}\n",
            FaultKind::NotSupportedYet,
        ),
        (
            "",
            "  auth: {userlistSecretRef: {name: none}}\n",
            FaultKind::MissingReference,
        ),
        (
            "  pool: {parameters: {query_timeout: soon}}\n",
            "  auth: {userlistSecretRef: {name: users}}\n",
            FaultKind::Invalid,
        ),
        (
            "  databases: [{name: a, parameters: {target_session_attrs: primary}}]\n",
            "  auth: {userlistSecretRef: {name: users}}\n",
            FaultKind::NotSupportedYet,
        ),
    ] {
        let faults = judged("{address: {host: db}}", auth, spec, USERS).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].kind, kind, "{faults:?}");
    }
}

#[test]
fn a_tier_that_may_not_fit_is_warned_of() {
    let warnings = |upstream: &str, spec: &str| {
        let auth = "  auth: {userlistSecretRef: {name: users}}\n";
        let cluster = judged(upstream, auth, spec, USERS).unwrap();
        Vec::from_iter(cluster.warnings.iter().map(ToString::to_string))
    };
    let limited = "{address: {host: db}, maxConnections: 100}";
    assert_eq!(
        warnings(limited, "  pool: {defaultPoolSize: 50}\n"),
        [
            "spec.pool.maxServerConnections: would keep the tier within upstream.maxConnections, 100: one database and user alone can open 50 in each of 5 poolers, 250"
        ]
    );
    assert_eq!(
        warnings(
            limited,
            "  pool: {defaultPoolSize: 50, maxServerConnections: 100}\n"
        ),
        [
            "spec.pool.maxServerConnections: gives each of 5 poolers 20, less than defaultPoolSize, 50"
        ]
    );
    assert!(warnings(limited, "  pool: {defaultPoolSize: 20}\n").is_empty());
    // Each user that is listed has a pool of its own: (20 + 30 + 4) × 5.
    let users = "  users: [{name: ann}, {name: bob, poolSize: 30, reservePoolSize: 4}]\n";
    assert_eq!(
        warnings(
            limited,
            &format!("  pool: {{defaultPoolSize: 20}}\n{users}")
        ),
        [
            "spec.databases: the pools of its databases can open 270 connections together, more than upstream.maxConnections, 100: set pool.maxServerConnections"
        ]
    );
}
