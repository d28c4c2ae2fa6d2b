//! A user's podTemplate over the operator's own Pod template, as a strategic
//! merge patch: maps field by field, lists of things with names entry by entry,
//! all else replaced; null removes.
//! <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

use crate::api::PodTemplate;

/// Lists that are merged, with the field that tells their entries apart: the
/// patchMergeKey of the fields in a PodTemplateSpec.
const MERGED_BY: [(&str, &str); 10] = [
    ("containers", "name"),
    ("env", "name"),
    ("hostAliases", "ip"),
    ("imagePullSecrets", "name"),
    ("initContainers", "name"),
    ("ports", "containerPort"),
    ("topologySpreadConstraints", "topologyKey"),
    ("volumeDevices", "devicePath"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
];

/// Merges `patch` over `template`.
///
/// # Errors
/// What of the result is no PodTemplateSpec.
pub(in crate::controller) fn merge(
    template: PodTemplateSpec,
    patch: &PodTemplate,
) -> Result<PodTemplateSpec, String> {
    let mut merged = serde_json::to_value(template).map_err(|error| error.to_string())?;
    if let Value::Object(merged) = &mut merged {
        maps(merged, &patch.0);
    }
    serde_json::from_value(merged).map_err(|error| error.to_string())
}

fn maps(into: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (into.get_mut(key), value) {
            (_, Value::Null) => {
                into.remove(key);
            }
            (Some(Value::Object(into)), Value::Object(patch)) => maps(into, patch),
            (Some(Value::Array(into)), Value::Array(patch)) if merge_key(key).is_some() => {
                lists(into, patch, merge_key(key).unwrap_or_default());
            }
            _ => {
                into.insert(key.clone(), without_nulls(value));
            }
        }
    }
}

/// New entries come after the operator's, so that its container stays first.
fn lists(into: &mut Vec<Value>, patch: &[Value], key: &str) {
    for entry in patch {
        let known = into.iter_mut().find(|known| known[key] == entry[key]);
        match (known, entry) {
            (Some(Value::Object(known)), Value::Object(entry)) => maps(known, entry),
            _ => into.push(without_nulls(entry)),
        }
    }
}

fn merge_key(list: &str) -> Option<&'static str> {
    let mut keys = MERGED_BY.iter();
    keys.find(|(name, _)| *name == list).map(|(_, key)| *key)
}

/// There is nothing that a null in something new could remove.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(template: Value, patch: Value) -> Value {
        let template = serde_json::from_value(template).unwrap();
        let patch = serde_json::from_value(patch).unwrap();
        serde_json::to_value(merge(template, &patch).unwrap()).unwrap()
    }

    #[test]
    fn lists_are_merged_by_their_keys_and_others_replaced() {
        let template = json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {
                "containers": [{"name": "pooler", "image": "i", "env": [{"name": "A", "value": "1"}], "args": ["x"]}],
                "volumes": [{"name": "config"}],
                "priorityClassName": "low",
            },
        });
        let patch = json!({
            "metadata": {"labels": {"b": "2"}, "annotations": {"c": "3"}},
            "spec": {
                "containers": [
                    {"name": "side", "image": "s", "stdin": null},
                    {"name": "pooler", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}], "args": ["y"]},
                ],
                "volumes": [{"name": "own", "emptyDir": {}}],
                "tolerations": [{"key": "k", "operator": "Exists"}],
                "priorityClassName": null,
            },
        });
        assert_eq!(
            merged(template, patch),
            json!({
                "metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"c": "3"}},
                "spec": {
                    "containers": [
                        {"name": "pooler", "image": "i", "args": ["y"],
                         "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]},
                        {"name": "side", "image": "s"},
                    ],
                    "volumes": [{"name": "config"}, {"name": "own", "emptyDir": {}}],
                    "tolerations": [{"key": "k", "operator": "Exists"}],
                },
            })
        );
    }

    #[test]
    fn what_is_no_template_any_more_is_an_error() {
        let template = PodTemplateSpec::default();
        let patch = serde_json::from_value(json!({"spec": {"containers": "none"}})).unwrap();
        assert!(merge(template, &patch).is_err());
    }
}
