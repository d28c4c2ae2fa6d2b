//! What a Pod says of the process in it. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt as _;

use super::nudge::WANTED;
use crate::api::Component;

/// A Pod of a tier.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodView {
    /// Name, unique in its namespace.
    pub(super) name: String,
    /// Unique for ever.
    pub(super) uid: String,
    /// What runs in it.
    pub(super) component: Component,
    /// Its address, once it has one.
    pub(super) address: Option<IpAddr>,
    /// What its kubelet says of it.
    pub(super) phase: Phase,
    /// Since when it is there.
    pub(super) created: Timestamp,
    /// The configuration that it was told to look for last.
    pub(super) told: Option<String>,
}

/// What a kubelet says of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its process has not passed its readiness probe yet; why, in words.
    Starting(String),
    /// It passes its readiness probe.
    Ready,
    /// Its process ended, or cannot be started: why, in words.
    Failed(String),
    /// It was told to end.
    Ending,
}

impl PodView {
    /// The Pod as one of a tier; `None` if it is none, or is done with.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let labels = pod.metadata.labels.as_ref()?;
        let component = labels.get("app.kubernetes.io/component")?;
        let component = Component::ALL
            .into_iter()
            .find(|one| one.word() == component)?;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        // An evicted Pod stays listed for people to read.
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        Some(Self {
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            component,
            address: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
            phase: state(pod, component),
            created: pod.metadata.creation_timestamp.as_ref()?.0,
            told: pod.annotations().get(WANTED).cloned(),
        })
    }
}

fn state(pod: &Pod, component: Component) -> Phase {
    if pod.metadata.deletion_timestamp.is_some() {
        return Phase::Ending;
    }
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|one| one.type_ == type_);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return Phase::Ready;
    }
    if let Some(scheduled) = condition("PodScheduled")
        && scheduled.status == "False"
    {
        let why = scheduled.message.as_deref().unwrap_or("no reason is given");
        return Phase::Starting(format!("no node takes it: {}", brief(why)));
    }
    let containers = status.container_statuses.unwrap_or_default();
    match containers.iter().find(|one| one.name == component.word()) {
        Some(container) => container_phase(container),
        None => Phase::Starting("its container is not there yet".to_owned()),
    }
}

fn container_phase(container: &ContainerStatus) -> Phase {
    let last = container.last_state.as_ref().and_then(ended);
    let state = container.state.as_ref();
    if let Some(reason) = state.and_then(ended) {
        return Phase::Failed(reason);
    }
    let waiting = state.and_then(|state| state.waiting.as_ref());
    match waiting.and_then(|waiting| Some((waiting.reason.as_deref()?, waiting))) {
        None if last.is_some() && state.is_some_and(|state| state.running.is_some()) => {
            Phase::Starting(format!("started again; {}", last.unwrap_or_default()))
        }
        None => Phase::Starting("it is not ready yet".to_owned()),
        Some(("ContainerCreating" | "PodInitializing", _)) => {
            Phase::Starting("its container is being created".to_owned())
        }
        Some((reason, waiting)) => {
            let said = last.or_else(|| waiting.message.as_deref().map(brief));
            Phase::Failed(match said {
                Some(said) => format!("{reason}: {said}"),
                None => reason.to_owned(),
            })
        }
    }
}

/// How a process ended, if it did.
fn ended(state: &ContainerState) -> Option<String> {
    let ended = state.terminated.as_ref()?;
    // The end of its log, where it left no message of its own.
    let said = ended
        .message
        .as_deref()
        .and_then(|text| text.trim_end().lines().last());
    let how = how_it_ended(ended);
    Some(match said.filter(|said| !said.is_empty()) {
        Some(said) => format!("{how}; it said last: {}", brief(said)),
        None => how,
    })
}

fn how_it_ended(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref(), ended.signal) {
        (Some("OOMKilled"), _) => "it was killed for taking more memory than its limit".to_owned(),
        (_, Some(signal)) if signal > 0 => format!("ended by signal {signal}"),
        // A shell's habit, and container runtimes': 128 and the signal.
        _ if (129..=159).contains(&ended.exit_code) => {
            format!("ended by signal {}", ended.exit_code - 128)
        }
        _ => format!("ended with exit code {}", ended.exit_code),
    }
}

fn brief(text: &str) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn phase(status: &serde_json::Value) -> Phase {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app.kubernetes.io/component": "pooler"}},
            "status": status,
        }))
        .unwrap();
        PodView::of(&pod).unwrap().phase
    }

    fn container(state: &serde_json::Value, last: &serde_json::Value) -> serde_json::Value {
        json!({"containerStatuses": [{"name": "pooler", "image": "", "imageID": "", "ready": false,
            "restartCount": 1, "state": state, "lastState": last}]})
    }

    #[test]
    fn what_hinders_a_pod_is_told() {
        let none = json!({});
        let oom = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let killed = json!({"terminated": {"exitCode": 139, "reason": "Error"}});
        let wordy = json!({"terminated": {"exitCode": 1, "message": "INFO a\nERROR no file\n"}});
        let pull = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let crash = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
        let cases = [
            (
                container(&oom, &none),
                Phase::Failed("it was killed for taking more memory than its limit".into()),
            ),
            (
                container(&killed, &none),
                Phase::Failed("ended by signal 11".into()),
            ),
            (
                container(&pull, &none),
                Phase::Failed("ImagePullBackOff: no such image".into()),
            ),
            (
                container(&wordy, &none),
                Phase::Failed("ended with exit code 1; it said last: ERROR no file".into()),
            ),
            (
                container(&crash, &killed),
                Phase::Failed("CrashLoopBackOff: ended by signal 11".into()),
            ),
            (
                container(&json!({"running": {}}), &none),
                Phase::Starting("it is not ready yet".into()),
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}),
                Phase::Starting("no node takes it: 0/1 nodes".into()),
            ),
            (
                json!({"conditions": [{"type": "Ready", "status": "True"}]}),
                Phase::Ready,
            ),
        ];
        for (status, wanted) in cases {
            assert_eq!(phase(&status), wanted);
        }
    }
}
