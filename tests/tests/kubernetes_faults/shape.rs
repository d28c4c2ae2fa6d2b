//! What a cluster's objects are, but for what no two clusters have in common.

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use crate::api::Api;

pub(crate) const RESOURCES: &[(&str, &str)] = &[
    ("/api/v1", "serviceaccounts"),
    ("/api/v1", "secrets"),
    ("/api/v1", "configmaps"),
    ("/api/v1", "services"),
    ("/apis/policy/v1", "poddisruptionbudgets"),
    ("/apis/networking.k8s.io/v1", "networkpolicies"),
    ("/apis/apps/v1", "deployments"),
];

/// All objects of a cluster as text.
pub(crate) fn of(api: &Api, cluster: &str) -> Result<String> {
    let uid = api.cluster(cluster)?["metadata"]["uid"].clone();
    let uid = uid.as_str().context("a uid")?.to_owned();
    let revision = api.revision(cluster)?;
    let selector = format!("app.kubernetes.io/instance={cluster}");
    let mut objects = Vec::new();
    for (group, resource) in RESOURCES {
        for object in api.list(group, resource, &selector)? {
            objects.push((*resource, object));
        }
    }
    let settings: Vec<String> = objects
        .iter()
        .filter_map(|(_, object)| object["metadata"]["name"].as_str())
        .filter_map(|name| name.strip_prefix(&format!("{cluster}-pooler-")))
        .filter(|rest| *rest != "config")
        .map(str::to_owned)
        .collect();
    anyhow::ensure!(settings.len() == 1, "{cluster}: settings {settings:?}");
    let shapes = objects.into_iter().map(|(resource, object)| {
        let text = serde_json::to_string_pretty(&shape(object)).expect("JSON is text");
        let text = text
            .replace(&uid, "UID")
            .replace(&revision, "REVISION")
            .replace(&settings[0], "HASH")
            .replace(cluster, "CLUSTER");
        format!("{resource} {text}\n")
    });
    // A hash in a name orders them anew.
    let mut shapes: Vec<String> = shapes.collect();
    shapes.sort();
    Ok(shapes.concat())
}

fn shape(mut object: Json) -> Json {
    let metadata = &mut object["metadata"];
    for own in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
        metadata[own] = Json::Null;
    }
    // A hash of a template in which the cluster's name is.
    if let Some(hash) = metadata.pointer_mut("/annotations/poolkeeper.dev~1template-hash") {
        *hash = json!("HASH");
    }
    // Whose its fields are matters; which the server filled in does not.
    let managers = metadata["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let managers: Vec<Json> = managers
        .into_iter()
        .filter(|one| one["manager"] == "poolkeeper-operator")
        .map(|one| one["operation"].clone())
        .collect();
    metadata["managedFields"] = managers.into();
    object["status"] = Json::Null;
    for address in ["clusterIP", "clusterIPs"] {
        if object["spec"][address] != "None" && object["spec"][address] != json!(["None"]) {
            object["spec"][address] = Json::Null;
        }
    }
    // How many may be evicted follows from Pods, which had other stories.
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.retain(|key, _| !["maxUnavailable", "minAvailable"].contains(&key.as_str()));
    }
    let is_internal = object["data"]["key"].is_string();
    for (key, value) in object["data"].as_object_mut().into_iter().flatten() {
        let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok());
        *value = match bytes.map(String::from_utf8) {
            _ if is_internal => json!("KEY"),
            Some(Ok(text)) => json!(text),
            _ => json!(format!("{key}: {value}")),
        };
    }
    object
}
