//! The committed CustomResourceDefinition, and the rules in it.

use kube::core::cel::{ScopeContext, analyze_rule, compile_schema};
use serde_json::{Value, json};

use super::*;
use crate::golden;

#[test]
fn committed_crd_is_what_the_types_say() {
    golden::check("../crds/poolkeeper.dev_pgpoolclusters.yaml", &crd_yaml());
}

#[test]
fn committed_reference_is_what_the_types_say() {
    golden::check("../docs/api.md", &markdown());
}

#[test]
fn the_crd_is_small_enough_to_be_applied() {
    // kubectl apply keeps a copy in an annotation, which may have 256 KiB.
    let bytes = serde_json::to_vec(&crd()).unwrap().len();
    assert!(bytes < 200_000, "{bytes} bytes");
    assert!(crd_yaml().len() < 200_000);
}

/// Calls `visit` on a schema and everything below it.
fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&schema[key], &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn every_field_is_described() {
    let mut fields = 0;
    for part in ["spec", "status"] {
        walk(&schema()["properties"][part], part, &mut |path, schema| {
            if !path.ends_with("[]") {
                let described = schema["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty());
                assert!(described, "{path} has no description");
                fields += 1;
            }
        });
    }
    assert!(fields > 100, "only {fields} fields found");
}

#[test]
fn every_list_map_string_and_number_of_the_spec_is_bounded() {
    walk(
        &schema()["properties"]["spec"],
        "spec",
        &mut |path, schema| {
            let has = |key: &str| !schema[key].is_null();
            let bounded = match schema["type"].as_str() {
                Some("array") => has("maxItems") && has("x-kubernetes-list-type"),
                Some("object") => has("properties") || has("maxProperties"),
                Some("string") => has("maxLength") || has("enum"),
                Some("integer") => has("minimum") && has("maximum"),
                Some("boolean") => true,
                Some(other) => panic!("{path} is of type {other}"),
                None => has("maxLength"),
            };
            assert!(bounded, "{path} is not bounded: {schema}");
        },
    );
}

#[test]
fn rules_compile_and_cost_little() {
    let schema = schema();
    let mut rules = 0;
    walk(&schema, "", &mut |path, schema| {
        let compiled = compile_schema(schema);
        assert!(
            !compiled.has_errors(),
            "{path}: {:?}",
            compiled.compilation_errors()
        );
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let rule = rule["rule"].as_str().unwrap();
            let mut warnings = analyze_rule(rule, &compiled, ScopeContext::CrdValidation);
            // The analysis does not know variables that macros bind.
            warnings.retain(|warning| !warning.message.starts_with("variable 'user' "));
            assert!(warnings.is_empty(), "{path}: {warnings:?}");
            rules += 1;
        }
    });
    assert!(rules >= 10, "only {rules} rules found");
}

fn errors(spec: &Value) -> Vec<String> {
    let object = json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "shop"}, "spec": spec});
    let cluster: PgPoolCluster = serde_json::from_value(object).unwrap();
    match cluster.validate_cel() {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .into_vec()
            .into_iter()
            .map(|error| format!("{}: {}", error.field_path, error.message))
            .collect(),
    }
}

fn minimal() -> Value {
    json!({
        "upstream": {"address": {"host": "db"}},
        "auth": {"userlistSecretRef": {"name": "users"}},
    })
}

#[test]
fn minimal_spec_gets_the_defaults_of_the_reference_system() {
    let spec: PgPoolClusterSpec = serde_json::from_value(minimal()).unwrap();
    assert_eq!(spec.upstream.address.unwrap().port, 5432);
    assert_eq!(spec.poolers.replicas, 3);
    assert_eq!(spec.pool.default_pool_size, 70);
    assert_eq!(spec.pool.max_client_connections, 4000);
    assert_eq!(spec.balancer.replicas, 2);
    assert_eq!(spec.balancer.check.interval, Period::from_secs(2));
    assert_eq!(errors(&minimal()), Vec::<String>::new());
}

#[test]
fn rules_refuse_what_excludes_itself() {
    let cases = [
        (json!({"upstream": {}}), "exactly one of address"),
        (
            json!({"upstream": {"address": {"host": "db"}, "cnpgClusterRef": {"name": "x"}}}),
            "exactly one of address",
        ),
        (
            json!({"balancer": {"check": {"interval": "2s", "timeout": "3s"}}}),
            "spec.balancer.check.timeout: must be 10ms to interval",
        ),
        (
            json!({"balancer": {"check": {"interval": "2h"}}}),
            "spec.balancer.check.interval: must be 100ms to 1h",
        ),
        (
            json!({"poolers": {"drainTimeout": "25h"}}),
            "spec.poolers.drainTimeout: must be at most 24h",
        ),
        (
            json!({"tls": {"client": {"mode": "require"}}}),
            "spec.tls.client.certSecretRef: is needed",
        ),
        (
            json!({"tls": {"server": {"mode": "verify-full"}}}),
            "spec.tls.server.caSecretRef: is needed",
        ),
        (
            json!({"notifications": [{"name": "ops", "slack": {}}]}),
            "spec.notifications[0].slack: exactly one of",
        ),
    ];
    for (change, expected) in cases {
        let mut spec = minimal();
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let errors = errors(&spec);
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{change} gave {errors:?}, expected {expected}"
        );
    }
}

/// The manifests of `tests/manifests/bounds`. The scenario `kubernetes_manifests`
/// holds a real API server against the same files.
fn at_the_bounds() -> Vec<Value> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/bounds");
    let files = std::fs::read_dir(folder).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    texts
        .map(|text| serde_yaml::from_str(&text).unwrap())
        .collect()
}

/// What stands at a path, as [`walk`] names it, in a manifest.
fn standing<'a>(manifest: &'a Value, path: &str) -> Vec<&'a Value> {
    path.split('.').fold(vec![manifest], |values, step| {
        let name = step.trim_end_matches("[]");
        let below = values.into_iter().map(|value| &value[name]);
        match step.ends_with("[]") {
            true => below
                .flat_map(|list| list.as_array().into_iter().flatten())
                .collect(),
            false => below.collect(),
        }
    })
}

/// The field and the durations that a rule bounds it by.
fn durations(rule: &str) -> impl Iterator<Item = (&str, &str)> {
    rule.split("duration(self.").skip(1).filter_map(|part| {
        let (field, bound) = part.split_once(')')?;
        let (_, bound) = bound.split_once("= duration('")?;
        Some((field, bound.split_once('\'')?.0))
    })
}

#[test]
fn what_is_just_within_its_bounds_is_accepted() {
    let manifests = at_the_bounds();
    for manifest in &manifests {
        let cluster: PgPoolCluster = serde_json::from_value(manifest.clone()).unwrap();
        let result = cluster.validate_cel();
        assert!(result.is_ok(), "{manifest}: {result:?}");
    }
    let mut bounds = 0;
    let mut is_reached = |path: &str, bound: &Value| {
        let mut found = manifests.iter().flat_map(|one| standing(one, path));
        let is_there = found.any(|value| match (value.as_i64(), bound.as_f64()) {
            (Some(value), Some(bound)) => value as f64 == bound,
            _ => value == bound,
        });
        assert!(is_there, "no manifest has {path}: {bound}");
        bounds += 1;
    };
    walk(
        &schema()["properties"]["spec"],
        "spec",
        &mut |path, schema| {
            for bound in [&schema["minimum"], &schema["maximum"]] {
                if !bound.is_null() {
                    is_reached(path, bound);
                }
            }
            let rules = schema["x-kubernetes-validations"].as_array();
            for rule in rules.into_iter().flatten() {
                for (field, bound) in durations(rule["rule"].as_str().unwrap()) {
                    is_reached(&format!("{path}.{field}"), &json!(bound));
                }
            }
        },
    );
    assert!(bounds > 60, "only {bounds} bounds found");
}

/// The chart holds the CRD as a template, because helm never upgrades what lies in
/// a chart's folder `crds`; what would be an action of a template is written as one
/// that prints it.
#[test]
fn the_chart_holds_the_crd_as_a_template() {
    let mut crd = crd();
    let keep = ("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    crd.metadata.annotations = Some([keep].into());
    let yaml = serde_yaml::to_string(&crd).unwrap();
    let escaped = yaml.replace("{{", "{{ \"{{\" }}");
    golden::check(
        "../charts/poolkeeper/templates/crd.yaml",
        &format!(
            "# Generated by `cargo xtask generate` from operator/src/api. Do not edit.\n\
             {{{{- if .Values.crds.install }}}}\n{escaped}{{{{- end }}}}\n"
        ),
    );
}

#[test]
fn a_load_balancer_class_stays_as_long_as_the_type_does() {
    let cluster = |service: Value| {
        let mut spec = minimal();
        spec["service"] = service;
        let object = json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "shop"}, "spec": spec});
        serde_json::from_value::<PgPoolCluster>(object).unwrap()
    };
    let one = cluster(json!({"type": "LoadBalancer", "loadBalancerClass": "a"}));
    let other = cluster(json!({"type": "LoadBalancer", "loadBalancerClass": "b"}));
    let none = cluster(json!({"type": "LoadBalancer"}));
    let inside = cluster(json!({"type": "ClusterIP"}));
    for (before, after, allowed) in [
        (&one, &one, true),
        (&one, &other, false),
        (&one, &none, false),
        (&none, &one, false),
        (&one, &inside, true),
        (&inside, &other, true),
    ] {
        let result = after.validate_cel_update(before);
        assert_eq!(result.is_ok(), allowed, "{result:?}");
    }
}
