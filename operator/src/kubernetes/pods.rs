//! What a Pod says of the process in it. Pure.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt as _;

pub(super) use crate::endpoints::Phase;

use super::nudge::WANTED;
use crate::{
    api::Component,
    endpoints::{Container, ContainerState as Process, Ended, PodNews},
};

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
    /// The container of our process, once there is one.
    pub(super) container: Option<Container>,
    /// When it was told to end, if it was.
    pub(super) told_to_end: Option<Timestamp>,
    /// Since when it is there.
    pub(super) created: Timestamp,
    /// The configuration that it was told to look for last.
    pub(super) told: Option<String>,
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
            container: container(pod, component),
            told_to_end: told_to_end(pod),
            created: pod.metadata.creation_timestamp.as_ref()?.0,
            told: pod.annotations().get(WANTED).cloned(),
        })
    }

    /// It, as news of an endpoint.
    pub(super) fn news(&self) -> PodNews<'_> {
        PodNews {
            name: &self.name,
            uid: &self.uid,
            component: self.component,
            address: self.address,
            created: self.created,
            told_to_end: self.told_to_end,
            phase: &self.phase,
            container: self.container.as_ref(),
        }
    }
}

/// When it was told to end: what is written is when it will be killed.
fn told_to_end(pod: &Pod) -> Option<Timestamp> {
    let killed = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let told = killed.checked_sub(SignedDuration::from_secs(grace));
    Some(told.unwrap_or(killed))
}

/// The container of our process: the one that runs, or ran last.
fn container(pod: &Pod, component: Component) -> Option<Container> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status = statuses.iter().find(|one| one.name == component.word())?;
    let counted = format!("restart {}", status.restart_count);
    let id = |id: Option<&String>| id.cloned().unwrap_or_else(|| counted.clone());
    let over = |state: Option<&ContainerState>| {
        let reason = state.and_then(ended)?;
        let state = state?.terminated.as_ref()?;
        let at = state.finished_at.as_ref().map(|at| at.0);
        Some((id(state.container_id.as_ref()), Ended { at, reason }))
    };
    let state = status.state.as_ref();
    let last = over(status.last_state.as_ref());
    if let Some(running) = state.and_then(|state| state.running.as_ref()) {
        return Some(Container {
            id: id(status.container_id.as_ref()),
            state: Process::Runs {
                since: running.started_at.as_ref().map(|at| at.0),
                before: last.map(|(_, ended)| ended),
            },
        });
    }
    let (id, ended) = over(state).or(last)?;
    Some(Container {
        id,
        state: Process::Over(ended),
    })
}

fn state(pod: &Pod, component: Component) -> Phase {
    if pod.metadata.deletion_timestamp.is_some() {
        return Phase::Ending;
    }
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|one| one.type_ == type_);
    let holds = |type_: &str| condition(type_).is_some_and(|one| one.status == "True");
    if holds("Ready") {
        return Phase::Ready;
    }
    // A gate of its podTemplate's, as its kubelet says.
    if let Some(ready) = condition("Ready")
        && ready.reason.as_deref() == Some("ReadinessGatesNotReady")
    {
        let why = ready.message.as_deref().unwrap_or("no reason is given");
        return Phase::Starting(format!("a readiness gate is closed: {}", brief(why)));
    }
    // Of a node that is not heard from any more Kubernetes itself takes Ready away:
    // this is what its kubelet said last.
    if holds("ContainersReady") {
        return Phase::Unheard;
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
        None => Phase::starting(),
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
        view(status).phase
    }

    fn view(status: &serde_json::Value) -> PodView {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app.kubernetes.io/component": "pooler"}},
            "status": status,
        }))
        .unwrap();
        PodView::of(&pod).unwrap()
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
            // As the node's controller leaves it, when kubelet is not heard from.
            (
                json!({"conditions": [{"type": "Ready", "status": "False"},
                    {"type": "ContainersReady", "status": "True"}]}),
                Phase::Unheard,
            ),
            (
                json!({"conditions": [{"type": "Ready", "status": "False",
                        "reason": "ReadinessGatesNotReady", "message": "\"example.com/g\" is not \"True\""},
                    {"type": "ContainersReady", "status": "True"}]}),
                Phase::Starting(
                    "a readiness gate is closed: \"example.com/g\" is not \"True\"".into(),
                ),
            ),
        ];
        for (status, wanted) in cases {
            assert_eq!(phase(&status), wanted);
        }
    }

    #[test]
    fn process_in_a_pod_is_told_with_how_the_one_before_ended() {
        let killed = json!({"terminated": {"exitCode": 137, "signal": 9, "containerID": "c1",
            "finishedAt": "2026-01-01T00:00:10Z"}});
        let before = Ended {
            at: Some("2026-01-01T00:00:10Z".parse().unwrap()),
            reason: "ended by signal 9".to_owned(),
        };
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:12Z"}});
        let crash = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let is = |status: serde_json::Value| view(&status).container;
        // Kubelets that name no container count.
        let runs = Container {
            id: "restart 1".to_owned(),
            state: Process::Runs {
                since: Some("2026-01-01T00:00:12Z".parse().unwrap()),
                before: Some(before.clone()),
            },
        };
        assert_eq!(is(container(&running, &killed)), Some(runs.clone()));
        let mut named = container(&running, &killed);
        named["containerStatuses"][0]["containerID"] = json!("c2");
        let runs = Container {
            id: "c2".to_owned(),
            ..runs
        };
        assert_eq!(is(named), Some(runs));
        let over = Container {
            id: "c1".to_owned(),
            state: Process::Over(before),
        };
        assert_eq!(is(container(&killed, &json!({}))), Some(over.clone()));
        assert_eq!(is(container(&crash, &killed)), Some(over));
        let creating = json!({"waiting": {"reason": "ContainerCreating"}});
        assert_eq!(is(container(&creating, &json!({}))), None);
    }

    #[test]
    fn pod_was_told_to_end_its_grace_before_it_is_killed() {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {
            "deletionTimestamp": "2026-01-01T00:01:10Z", "deletionGracePeriodSeconds": 70}}))
        .unwrap();
        let told = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(told_to_end(&pod), Some(told));
        pod.metadata.deletion_grace_period_seconds = Some(i64::MAX);
        assert!(told_to_end(&pod).is_some());
    }
}
