use super::*;

fn source(name: &str, text: &str) -> Source {
    Source {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

fn problems(sources: &[Source]) -> Vec<String> {
    match read(sources) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

const CLUSTER: &str = "\
apiVersion: poolkeeper.dev/v1alpha1
kind: PgPoolCluster
metadata:
  name: shop
  labels: {team: a}
  annotations:
    note: x
spec:
  upstream: {address: {host: db}}
  auth: {userlistSecretRef: {name: users}}
";

const USERS: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: users}
stringData:
  userlist.txt: |
    \"a\" \"b\"
";

#[test]
fn minimal_manifest_is_read_with_defaults() {
    let manifest = read(&[source("a.yaml", CLUSTER)]).map_err(|_| ()).unwrap();
    assert_eq!(manifest.cluster.metadata.name.as_deref(), Some("shop"));
    assert_eq!(manifest.cluster.spec.poolers.replicas, 3);
    assert!(manifest.notes.is_empty());
}

#[test]
fn every_problem_is_named_by_file_line_and_value() {
    let text = "\
apiVersion: poolkeeper.dev/v1alpha1
kind: PgPoolCluster
metadata:
  name: shop-pooler
  lables: {}
spec:
  upstream: {}
  auth:
    type: password
    userlistSecretRef: {name: users}
  pool:
    defaultPoolSize: 0
    parameters:
      server_round_robin: true
  poolers: {replicas: three}
  balancer:
    check: {interval: 2s,
      timeout: 3s}
  databses: []
  monitoring:
    interval: 10 s
---
apiVersion: v2
kind: Secret
metadata: {name: users}
data: {userlist.txt: 'not base64!'}
stringDatas: {}
";
    assert_eq!(
        problems(&[source("shop.yaml", text)]),
        [
            "shop.yaml:4: metadata.name must not end in -pooler or -balancer: these are the names of what is made from it",
            "shop.yaml:5: metadata.lables: unknown field, did you mean \"labels\"?",
            "shop.yaml:7: spec.upstream: exactly one of address, uriSecretRef and cnpgClusterRef must be set",
            "shop.yaml:9: spec.auth.type: \"password\" is not one of scram-sha-256, md5, cert, hba, trust",
            "shop.yaml:12: spec.pool.defaultPoolSize: 0 is out of range, expected 1 to 10000",
            "shop.yaml:14: spec.pool.parameters.server_round_robin: expected an integer or text, got true (quote it if it is meant as text)",
            "shop.yaml:15: spec.poolers.replicas: expected an integer, got the text \"three\"",
            "shop.yaml:18: spec.balancer.check.timeout: must be 10ms to interval",
            "shop.yaml:19: spec.databses: unknown field, did you mean \"databases\"?",
            "shop.yaml:21: spec.monitoring.interval: \"10 s\" does not match ^[0-9]{1,9}(ms|s|m|h)$",
            "shop.yaml:23: apiVersion: is \"v2\", Secret is in v1",
            "shop.yaml:26: data.userlist.txt: is not base64; plain text goes under stringData",
            "shop.yaml:27: stringDatas: unknown field, did you mean \"stringData\"?",
        ]
    );
}

#[test]
fn syntax_errors_have_their_line() {
    assert_eq!(
        problems(&[
            source("a.yaml", "a: [1\n"),
            source("b.yaml", "a: 1\na: 2\n")
        ]),
        [
            "a.yaml:1: unclosed bracket '['",
            "b.yaml:2: duplicate mapping key: a",
        ]
    );
}

#[test]
fn later_file_replaces_and_the_same_file_does_not() {
    let other = USERS.replace("\"b\"", "\"c\"");
    let manifest = read(&[
        source("a.yaml", &format!("{CLUSTER}---\n{USERS}")),
        source("b.yaml", &other),
    ])
    .map_err(|_| ())
    .unwrap();
    let secrets = manifest.dereference().secrets;
    let users = secrets["users"].as_ref().unwrap();
    assert_eq!(users["userlist.txt"].text(), Some("\"a\" \"c\"\n"));
    assert_eq!(
        problems(&[source(
            "a.yaml",
            &format!("{CLUSTER}---\n{USERS}---\n{USERS}")
        )]),
        ["a.yaml:19: Secret users is already in this file, at line 12"]
    );
}

#[test]
fn exactly_one_cluster_is_needed() {
    assert_eq!(
        problems(&[source("a.yaml", USERS)]),
        ["a.yaml:1: no PgPoolCluster in the files given, exactly one is needed"]
    );
    let other = CLUSTER.replace("shop", "store");
    assert_eq!(
        problems(&[source("a.yaml", CLUSTER), source("b.yaml", &other)]),
        [
            "b.yaml:1: PgPoolCluster store is one too many: run one operator for each, with a --state-dir of its own"
        ]
    );
}

#[test]
fn other_kinds_are_noted() {
    let text = format!(
        "{CLUSTER}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{whatever: 1}}\n"
    );
    let manifest = read(&[source("a.yaml", &text)]).map_err(|_| ()).unwrap();
    assert_eq!(
        manifest.notes,
        ["a.yaml:12: Deployment web is of no use here and is ignored"]
    );
}

#[test]
fn string_data_wins_over_data() {
    let text = "\
apiVersion: v1
kind: Secret
metadata: {name: users}
data: {userlist.txt: YQ==, other: Yg==}
stringData: {userlist.txt: c}
";
    let manifest = read(&[source("a.yaml", &format!("{CLUSTER}---\n{text}"))])
        .map_err(|_| ())
        .unwrap();
    let secrets = manifest.dereference().secrets;
    let users = secrets["users"].as_ref().unwrap();
    assert_eq!(users["userlist.txt"].text(), Some("c"));
    assert_eq!(users["other"].text(), Some("b"));
}

#[test]
fn secret_in_another_namespace_is_not_found() {
    let other = USERS.replace("{name: users}", "{name: users, namespace: else}");
    let manifest = read(&[source("a.yaml", &format!("{CLUSTER}---\n{other}"))])
        .map_err(|_| ())
        .unwrap();
    assert_eq!(manifest.dereference().secrets["users"], None);
}

#[test]
fn faults_in_secrets_have_the_line_of_the_value() {
    let manifest = read(&[source("a.yaml", &format!("{CLUSTER}---\n{USERS}"))])
        .map_err(|_| ())
        .unwrap();
    let fault = |key: &str, line| Fault::secret("users", key, line, "wrong");
    for (key, line, expected) in [
        ("userlist.txt", 1, 17),
        ("userlist.txt", 2, 18),
        ("missing", 1, 12),
    ] {
        let problem = manifest.problem(&fault(key, line));
        assert_eq!(problem.line, expected, "{key}");
        assert_eq!(problem.message, format!("Secret users, key {key}: wrong"));
    }
}

#[test]
fn misspelt_kind_is_not_just_another() {
    let text = CLUSTER.replace("kind: PgPoolCluster", "kind: PgPoolcluster");
    assert_eq!(
        problems(&[source("a.yaml", &text)]),
        ["a.yaml:2: kind: \"PgPoolcluster\" is unknown, did you mean \"PgPoolCluster\"?"]
    );
    let text = CLUSTER.replace("kind: PgPoolCluster", "kind: Pool");
    assert_eq!(
        problems(&[source("a.yaml", &text)]),
        ["a.yaml:2: kind: \"Pool\" is unknown, did you mean \"PgPoolCluster\"?"]
    );
}

#[test]
fn the_postgres_of_the_examples_goes_with_the_quickstart() {
    let postgres = include_str!("../../../examples/postgres.yaml");
    let quickstart = include_str!("../../../examples/quickstart.yaml");
    let manifest = read(&[source("p", postgres), source("q", quickstart)])
        .unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(manifest.notes.len(), 2, "{:?}", manifest.notes);
    let upstream = manifest.cluster.spec.upstream.address.unwrap();
    assert!(postgres.contains("name: postgres\n  namespace: default"));
    assert_eq!(upstream.host, "postgres.default.svc");
}

/// The manifests of `tests/manifests/bad`, each with what `operator check` says
/// of it and, if it refuses it too, the API server. The scenario
/// `kubernetes_manifests` holds a real one against the same files.
#[test]
fn bad_manifests_get_the_message_they_want() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/bad");
    let mut refused_by_server = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let wants = wanted("# wants: ").unwrap_or_else(|| panic!("{path:?} wants nothing"));
        refused_by_server.push_str(wanted("# server: ").unwrap_or_default());
        refused_by_server.push('\n');
        let policy = crate::webhook::WebhookPolicy::default();
        let Err(problems) = crate::local::check(std::slice::from_ref(&path), &policy) else {
            panic!("{path:?} is valid");
        };
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let found = problems.iter().any(|problem| problem.contains(wants));
        assert!(found, "{path:?} got {problems:#?}");
        assert!(!problems.concat().contains("change-me"), "{problems:?}");
    }
    let mut rules = 0;
    every_rule(&api::schema(), &mut |rule, message| {
        rules += 1;
        // Those about a change take two manifests.
        let covered = rule.contains("oldSelf") || refused_by_server.contains(message);
        assert!(covered, "no bad manifest breaks the rule: {message}");
    });
    assert!(rules > 25, "{rules}");
}

fn every_rule(schema: &Json, visit: &mut dyn FnMut(&str, &str)) {
    match schema {
        Json::Object(fields) => {
            for (key, value) in fields {
                if key != "x-kubernetes-validations" {
                    every_rule(value, visit);
                    continue;
                }
                for rule in value.as_array().into_iter().flatten() {
                    let text = |key: &str| rule[key].as_str().unwrap_or_default();
                    visit(text("rule"), text("message"));
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|item| every_rule(item, visit)),
        _ => {}
    }
}
