//! podTemplates: whether Kubernetes knows what they hold, and whether they leave
//! alone what the operator answers for.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

use super::{Validator, service::is_key};
use crate::{
    api::{Component, PodTemplate},
    controller::objects,
    manifest,
};

/// Longest podTemplate, in bytes of JSON.
const LENGTH_MAX: usize = 64 * 1024;

/// Fields of the component's own container, and whose they are.
const CONTAINER: [(&str, &str); 5] = [
    ("args", "the operator's"),
    ("command", "the operator's"),
    ("image", "a field of its own, spec.images"),
    (
        "lifecycle",
        "the operator's: Pods end in the order that drains them",
    ),
    ("ports", "the operator's"),
];

/// Fields of the Pod, and whose they are.
const POD: [(&str, &str); 3] = [
    ("ephemeralContainers", "no part of a template"),
    ("restartPolicy", "the operator's"),
    (
        "terminationGracePeriodSeconds",
        "the operator's, it follows from drainTimeout",
    ),
];

impl Validator<'_> {
    pub(super) fn pod_template(
        &mut self,
        component: Component,
        template: Option<&PodTemplate>,
    ) -> Option<PodTemplate> {
        let template = template?;
        let path = match component {
            Component::Pooler => "spec.poolers.podTemplate",
            Component::Balancer => "spec.balancer.podTemplate",
        };
        let length = serde_json::to_vec(template).map_or(usize::MAX, |json| json.len());
        if length > LENGTH_MAX {
            let message = format!("is {length} bytes long, at most {LENGTH_MAX} are allowed");
            self.fault(path, message);
            return None;
        }
        let faults_before = self.faults.len();
        let mut template = template.clone();
        template.0.values_mut().for_each(quantities_as_text);
        let whole = Value::Object(template.0.clone());
        for (path, message) in manifest::misfits_of_pod_template(&whole, path) {
            self.fault(path, message);
        }
        for (above, field) in [("", "metadata"), ("", "spec"), ("metadata", "labels")] {
            let above = if above.is_empty() {
                &whole
            } else {
                &whole[above]
            };
            if fields(above).get(field).is_some_and(Value::is_null) {
                self.fault(path, format!("{field} cannot be removed"));
            }
        }
        self.metadata(path, &whole["metadata"]);
        self.pod(component, path, &whole["spec"]);
        if self.faults.len() > faults_before {
            return None;
        }
        match objects::merge(PodTemplateSpec::default(), &template) {
            Ok(_) => Some(template),
            Err(message) => {
                self.fault(path, message);
                None
            }
        }
    }

    fn metadata(&mut self, path: &str, metadata: &Value) {
        for field in fields(metadata).keys() {
            if !["labels", "annotations"].contains(&field.as_str()) {
                let path = format!("{path}.metadata.{field}");
                self.fault(
                    path,
                    "is the operator's; labels and annotations may be added",
                );
            }
        }
        for (field, own) in [
            ("labels", &["app.kubernetes.io/", "poolkeeper.dev/"][..]),
            ("annotations", &["poolkeeper.dev/"][..]),
        ] {
            for (key, value) in fields(&metadata[field]) {
                let path = format!("{path}.metadata.{field}.{key}");
                if let Some(own) = own.iter().find(|own| key.starts_with(**own)) {
                    self.fault(path, format!("begins with {own}, which is the operator's"));
                } else if !is_key(key) {
                    self.fault(path, "is no key that Kubernetes takes");
                } else if field == "labels" && !value.as_str().is_none_or(is_label) {
                    self.fault(path, "is no value that Kubernetes takes for a label");
                }
            }
        }
    }

    fn pod(&mut self, component: Component, path: &str, pod: &Value) {
        let path = format!("{path}.spec");
        self.owned(&path, pod, &POD);
        for field in ["containers", "volumes"] {
            if fields(pod).get(field).is_some_and(Value::is_null) {
                self.fault(format!("{path}.{field}"), "cannot be removed");
            }
        }
        for (index, volume) in list(&pod["volumes"]).iter().enumerate() {
            let name = volume["name"].as_str().unwrap_or_default();
            if objects::VOLUMES.contains(&name) {
                let path = format!("{path}.volumes[{index}].name");
                self.fault(path, format!("{name:?} is the operator's volume"));
            }
        }
        for (index, container) in list(&pod["containers"]).iter().enumerate() {
            if container["name"].as_str() == Some(component.word()) {
                self.container(&format!("{path}.containers[{index}]"), container);
            }
        }
    }

    fn container(&mut self, path: &str, container: &Value) {
        self.owned(path, container, &CONTAINER);
        for field in ["env", "volumeMounts"] {
            if fields(container).get(field).is_some_and(Value::is_null) {
                self.fault(format!("{path}.{field}"), "cannot be removed");
            }
        }
        for (index, variable) in list(&container["env"]).iter().enumerate() {
            let name = variable["name"].as_str().unwrap_or_default();
            if objects::VARIABLES.contains(&name) {
                let path = format!("{path}.env[{index}].name");
                self.fault(path, format!("{name:?} is the operator's variable"));
            }
        }
        for (index, mount) in list(&container["volumeMounts"]).iter().enumerate() {
            let folder = mount["mountPath"].as_str().unwrap_or_default();
            if hides(folder, objects::FOLDER) {
                let path = format!("{path}.volumeMounts[{index}].mountPath");
                self.fault(path, format!("{folder:?} would hide {}", objects::FOLDER));
            }
        }
    }

    fn owned(&mut self, path: &str, object: &Value, owned: &[(&str, &str)]) {
        for (field, whose) in owned {
            if fields(object).contains_key(*field) {
                self.fault(format!("{path}.{field}"), format!("is {whose}"));
            }
        }
    }
}

/// Whether a mount at `path` would lie on `folder`, below it or around it.
fn hides(path: &str, folder: &str) -> bool {
    let (path, folder) = (parts(path), parts(folder));
    path.iter().zip(&folder).all(|(a, b)| a == b)
}

/// The names that lead to a path, as a container's file system resolves it.
fn parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts
}

/// Kubernetes takes quantities as numbers too, as in `cpu: 1`; its types for us
/// do not.
fn quantities_as_text(value: &mut Value) {
    let text = |value: &mut Value| {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &mut *value) {
                    ("limits" | "requests", Value::Object(quantities)) => {
                        quantities.values_mut().for_each(text);
                    }
                    ("sizeLimit" | "divisor", quantity) => text(quantity),
                    _ => quantities_as_text(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities_as_text),
        _ => {}
    }
}

fn fields(value: &Value) -> &Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.as_object().unwrap_or(&NONE)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_label(value: &str) -> bool {
    value.is_empty() || (!value.contains('/') && is_key(value))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::json;

    use super::*;

    fn faults(template: Value) -> Vec<String> {
        let (secrets, missing_services) = (BTreeMap::new(), BTreeSet::new());
        let mut validator = Validator {
            secrets: &secrets,
            missing_services: &missing_services,
            faults: Vec::new(),
            warnings: Vec::new(),
            certificates: Vec::new(),
        };
        let template = serde_json::from_value(template).unwrap();
        let kept = validator.pod_template(Component::Balancer, Some(&template));
        assert_eq!(kept.is_some(), validator.faults.is_empty());
        let faults = validator.faults.iter();
        faults.map(ToString::to_string).collect()
    }

    /// Files never get this far with a null; the API server may pass one on.
    #[test]
    fn what_selectors_and_mounts_need_cannot_be_removed() {
        for template in [
            json!({"metadata": null}),
            json!({"spec": null}),
            json!({"metadata": {"labels": null}}),
            json!({"metadata": {"labels": {"app.kubernetes.io/name": null}}}),
            json!({"spec": {"containers": null}}),
            json!({"spec": {"containers": [null]}}),
            json!({"spec": {"volumes": null}}),
            json!({"spec": {"containers": [{"name": "balancer", "volumeMounts": null}]}}),
            json!({"spec": {"containers": [{"name": "balancer", "env": [{"name": "POD_NAME"}]}]}}),
        ] {
            assert!(!faults(template.clone()).is_empty(), "{template}");
        }
    }

    #[test]
    fn what_is_only_added_passes_and_its_size_is_bounded() {
        let added = json!({
            "metadata": {"labels": {"team": "a"}, "annotations": {"example.org/x": "y"}},
            "spec": {
                "affinity": {"nodeAffinity": {}},
                "containers": [{"name": "side", "image": "s", "args": ["x"], "ports": [{"containerPort": 1}]}],
                "securityContext": {"runAsUser": 7},
                "initContainers": [{"name": "first", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}],
                "volumes": [{"name": "own", "emptyDir": {"sizeLimit": 1_000}}],
            },
        });
        assert_eq!(faults(added), Vec::<String>::new());
        let long = json!({"metadata": {"annotations": {"x": "y".repeat(LENGTH_MAX)}}});
        let found = faults(long);
        assert!(found[0].contains("at most 65536 are allowed"), "{found:?}");
    }
}
