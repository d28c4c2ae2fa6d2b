//! How kstatus reads a custom resource: what Flux, kpt and `helm --wait` wait
//! for. Its rules are few; source: sigs.k8s.io/cli-utils,
//! pkg/kstatus/status/generic.go (`checkGenericProperties`) and core.go
//! (`checkReadyCondition`), which reads a False Ready as still under way.

use serde_json::Value as Json;

/// What kstatus says of an object.
pub(super) fn kstatus(object: &Json) -> &'static str {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating";
    }
    let observed = &object["status"]["observedGeneration"];
    if observed.is_number() && *observed != object["metadata"]["generation"] {
        return "InProgress";
    }
    let none = Vec::new();
    let conditions = object["status"]["conditions"].as_array().unwrap_or(&none);
    for condition in conditions {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Reconciling"), Some("True")) => return "InProgress",
            (Some("Stalled"), Some("True")) => return "Failed",
            _ => {}
        }
    }
    let ready = conditions.iter().find(|one| one["type"] == "Ready");
    match ready.map(|one| &one["status"]) {
        Some(status) if *status != "True" => "InProgress",
        _ => "Current",
    }
}
