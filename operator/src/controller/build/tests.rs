//! Each manifest of `examples/` against the files made from it.

use std::path::Path;

use proxy_core::config::pooler;
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    controller::{dereference::Dereferenced, validate::validate},
    golden,
    manifest::{self, Source},
    webhook::WebhookPolicy,
};

fn example(path: &Path) -> Tier {
    let manifest = manifest::read(&[Source::read(path).unwrap()])
        .unwrap_or_else(|problems| panic!("{problems:#?}"));
    let cluster = validate(&manifest.dereference(), &WebhookPolicy::default())
        .unwrap_or_else(|faults| panic!("{faults:#?}"));
    tier(&cluster)
}

/// That of a cluster with these fields of the spec, in JSON.
pub(super) fn tier_of(fields: &str) -> Tier {
    let mut spec = json!({
        "upstream": {"address": {"host": "pg"}},
        "auth": {"type": "scram-sha-256", "userlistSecretRef": {"name": "users"}},
    });
    let fields: serde_json::Map<String, Json> = serde_json::from_str(fields).unwrap();
    spec.as_object_mut().unwrap().extend(fields);
    let cluster = serde_json::from_value(json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster",
        "metadata": {"name": "shop"}, "spec": spec,
    }))
    .unwrap();
    let read = Dereferenced::new(&cluster, |name| {
        let list = SecretValue::new(b"\"app\" \"secret\"\n".to_vec());
        (name == "users").then(|| [(USERLIST.to_owned(), list)].into())
    });
    let cluster = validate(&read, &WebhookPolicy::default());
    tier(&cluster.unwrap_or_else(|faults| panic!("{faults:#?}")))
}

fn quickstart() -> Tier {
    example(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml"))
}

#[test]
fn every_example_renders_as_committed() {
    let mut examples = 0;
    for (name, _) in golden::examples() {
        examples += 1;
        let path = format!("../examples/{name}.yaml");
        let tier = example(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
        let mut realisation = Realisation::example(&tier);
        realisation.revision = revision(&tier, b"golden");
        let golden =
            |file: &str, text: &str| golden::check(&format!("tests/golden/{name}/{file}"), text);
        golden(
            "pooler-0.ini",
            &pooler_ini(&tier, &realisation.pooler(0)).text,
        );
        golden(
            "balancer-0.yaml",
            &balancer_yaml(&tier, &realisation.balancer(0)),
        );
        for file in &tier.pooler.files {
            golden(file.name, file.content.text().unwrap());
        }
    }
    assert!(examples > 0);
}

#[test]
fn poolers_differ_only_in_their_place() {
    let tier = quickstart();
    let realisation = Realisation::example(&tier);
    let first = pooler_ini(&tier, &realisation.pooler(0)).text;
    let second = pooler_ini(&tier, &realisation.pooler(1)).text;
    let differing: Vec<&str> = first
        .lines()
        .zip(second.lines())
        .filter(|(one, other)| one != other)
        .map(|(one, _)| one.split(' ').next().unwrap())
        .collect();
    assert_eq!(differing, ["listen_port", "http_port", "peer_id"]);
}

#[test]
fn revision_follows_content_and_key_but_not_place() {
    let tier = quickstart();
    let before = revision(&tier, b"key");
    assert_eq!(before, revision(&tier, b"key"));
    assert_ne!(before, revision(&tier, b"another"));
    let mut changed = tier.clone();
    changed.pooler.files[0].content = SecretValue::new(b"\"a\" \"b\"".to_vec());
    assert_ne!(before, revision(&changed, b"key"));
    for change in [
        |tier: &mut Tier| tier.balancer.check.fall += 1,
        |tier: &mut Tier| tier.balancer.max_connections += 1,
        |tier: &mut Tier| tier.pooler.databases[0].settings[0].value.push('x'),
        |tier: &mut Tier| tier.pooler.settings[0].value.push('x'),
    ] {
        let mut changed = tier.clone();
        change(&mut changed);
        assert_ne!(before, revision(&changed, b"key"));
    }
    let mut moved = tier.clone();
    moved.service_port += 1;
    moved.pooler.replicas += 1;
    assert_eq!(before, revision(&moved, b"key"));
}

#[test]
fn names_and_values_survive_the_ini_file() {
    let mut tier = quickstart();
    let odd = [
        "plain",
        "with space",
        "it's",
        "semi;colon",
        "#hash",
        "päron",
        "%include x",
    ];
    tier.pooler.databases = odd
        .iter()
        .map(|name| Entry {
            name: (*name).to_owned(),
            settings: vec![setting("host", "h", ""), setting("dbname", name, "")],
            origin: String::new(),
        })
        .collect();
    tier.pooler.users = odd
        .iter()
        .map(|name| Entry {
            name: (*name).to_owned(),
            settings: Vec::new(),
            origin: String::new(),
        })
        .collect();
    let ini = pooler_ini(&tier, &Realisation::example(&tier).pooler(0)).text;
    let mut read = |path: &Path| {
        Ok(if path.ends_with(USERLIST) {
            "\"a\" \"b\"".to_owned()
        } else {
            ini.clone()
        })
    };
    let config = pooler::load(Path::new("x.ini"), &mut read).unwrap();
    for name in odd {
        assert_eq!(config.databases[name].dbname.as_deref(), Some(name));
        assert!(config.users.contains_key(name));
    }
}
