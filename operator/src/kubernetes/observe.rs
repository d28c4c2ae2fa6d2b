//! What is true of every endpoint, from Pods and from what balancers say. Pure.
//!
//! Balancers judge poolers by checking them, and relay what poolers say of
//! themselves; they are believed. Where none can be asked, the kubelet's
//! readiness has to do.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proxy_core::{
    config::settings::Release,
    health::NOT_CHECKED,
    status::{BalancerStatus, Health, TargetStatus},
    wire::TargetState,
};

use super::pods::{Phase, PodView};
use crate::api::{Component, EndpointCapacity, EndpointState, EndpointStatus, EndpointUpstream};

/// How much of a reason is kept, in characters.
const REASON_LENGTH_MAX: usize = 500;
/// How much of a revision is kept, in characters; ours are 16.
const REVISION_LENGTH_MAX: usize = 64;

/// The last answer of each balancer that was asked, by the uid of its Pod.
pub(super) type Answers = BTreeMap<String, Answer>;

/// What a balancer said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// Its status.
    Said(Box<BalancerStatus>),
    /// Nothing, several times in a row: why.
    Silent(String),
}

/// Every endpoint, poolers first. `before` gives those whose state did not
/// change the time since which it holds.
pub(super) fn endpoints(
    pods: &[PodView],
    answers: &Answers,
    before: &[EndpointStatus],
    now: Timestamp,
) -> Vec<EndpointStatus> {
    let heard = heard(pods, answers);
    let mut pods: Vec<&PodView> = pods.iter().collect();
    pods.sort_by(|a, b| (a.component, &a.name).cmp(&(b.component, &b.name)));
    let statuses = pods.iter().map(|pod| {
        let seen = match pod.component {
            Component::Pooler => pooler(pod, &heard),
            Component::Balancer => balancer(pod, answers.get(&pod.uid)),
        };
        let since = before
            .iter()
            .find(|old| old.name == pod.name && old.state == seen.state)
            .map_or_else(|| seen.since.unwrap_or(now), |old| old.since);
        EndpointStatus {
            name: pod.name.clone(),
            component: pod.component,
            state: seen.state,
            since,
            reason: cut(&seen.reason, REASON_LENGTH_MAX),
            config_revision: seen
                .revision
                .map(|revision| cut(&revision, REVISION_LENGTH_MAX)),
            upstream: upstream(pod, &heard),
            capacity: capacity(pod, &heard),
        }
    });
    statuses.collect()
}

/// Poolers that say that they are paused.
pub(super) fn paused(pods: &[PodView], answers: &Answers) -> i32 {
    let heard = heard(pods, answers);
    let poolers = pods
        .iter()
        .filter(|pod| pod.component == Component::Pooler && pod.phase != Phase::Ending);
    let paused = poolers.filter(|pod| {
        views(pod, &heard).any(|target| {
            target
                .report
                .as_ref()
                .is_some_and(|report| report.state == TargetState::Paused)
        })
    });
    i32::try_from(paused.count()).unwrap_or(i32::MAX)
}

/// The oldest release among the poolers that say theirs.
pub(super) fn oldest(pods: &[PodView], answers: &Answers) -> Option<Release> {
    let heard = heard(pods, answers);
    let poolers = pods.iter().filter(|pod| pod.component == Component::Pooler);
    let versions = poolers
        .flat_map(|pod| views(pod, &heard))
        .filter_map(|target| {
            let version = target.report.as_ref()?.version.as_deref()?;
            Release::parse(version)
        });
    versions.min()
}

/// What a pooler said of PostgreSQL: of what several balancers relay, the newest.
fn upstream(pod: &PodView, heard: &[&BalancerStatus]) -> Option<EndpointUpstream> {
    if pod.component != Component::Pooler {
        return None;
    }
    let reports = views(pod, heard).filter_map(|target| target.report.as_ref()?.upstream);
    EndpointUpstream::of(reports.max_by_key(|report| report.number)?)
}

/// What a pooler said of its capacity, likewise.
fn capacity(pod: &PodView, heard: &[&BalancerStatus]) -> Option<EndpointCapacity> {
    if pod.component != Component::Pooler {
        return None;
    }
    let reports = views(pod, heard).filter_map(|target| target.report.as_ref()?.saturation);
    EndpointCapacity::of(reports.max_by_key(|report| report.number)?)
}

/// What is thought of an endpoint.
struct Seen {
    state: EndpointState,
    since: Option<Timestamp>,
    reason: String,
    revision: Option<String>,
}

fn balancer(pod: &PodView, answer: Option<&Answer>) -> Seen {
    let seen = |state, reason: &str, revision: Option<&String>| Seen {
        state,
        since: None,
        reason: reason.to_owned(),
        revision: revision.cloned(),
    };
    match (&pod.phase, answer) {
        (Phase::Failed(why), _) => seen(EndpointState::Down, why, None),
        (Phase::Ending, _) => seen(EndpointState::Draining, "its Pod was told to end", None),
        (phase, Some(Answer::Said(status))) => {
            let revision = status.config_revision.as_ref();
            match (status.state, phase) {
                (TargetState::Draining, _) => seen(
                    EndpointState::Draining,
                    "says that it is draining",
                    revision,
                ),
                (_, Phase::Ready) => seen(EndpointState::Up, "answers", revision),
                (_, Phase::Starting(why)) => seen(EndpointState::Unknown, why, revision),
                (_, Phase::Failed(_) | Phase::Ending) => unreachable!("matched above"),
            }
        }
        (Phase::Ready, Some(Answer::Silent(why))) => {
            let reason = format!("does not answer the operator: {why}");
            seen(EndpointState::Down, &reason, None)
        }
        (Phase::Ready, None) => seen(EndpointState::Up, "its Pod is ready", None),
        (Phase::Starting(why), _) => seen(EndpointState::Unknown, why, None),
    }
}

fn pooler(pod: &PodView, heard: &[&BalancerStatus]) -> Seen {
    let revision = views(pod, heard)
        .filter_map(|target| target.report.as_ref()?.config_revision.clone())
        .next();
    let seen = |state, since, reason: &str| Seen {
        state,
        since,
        reason: reason.to_owned(),
        revision: revision.clone(),
    };
    match &pod.phase {
        Phase::Ending => return seen(EndpointState::Draining, None, "its Pod was told to end"),
        Phase::Failed(why) => return seen(EndpointState::Down, None, why),
        Phase::Starting(_) | Phase::Ready => {}
    }
    let by_health = |health: Health| {
        let of_health =
            views(pod, heard).filter(move |target| target.state == health && !is_untried(target));
        of_health.min_by_key(|target| target.since)
    };
    let judged = |target: &TargetStatus, state| seen(state, Some(target.since), &target.reason);
    if let Some(target) = by_health(Health::Draining) {
        return judged(target, EndpointState::Draining);
    }
    if let Some(target) = by_health(Health::Down) {
        return match (&target.report, &pod.phase) {
            (None, Phase::Starting(why)) => seen(EndpointState::Unknown, None, why),
            _ => judged(target, EndpointState::Down),
        };
    }
    match (by_health(Health::Up), &pod.phase) {
        (Some(_), _) => seen(EndpointState::Up, None, "checks pass"),
        (None, Phase::Starting(why)) => seen(EndpointState::Unknown, None, why),
        (None, _) if !heard.is_empty() => seen(
            EndpointState::Unknown,
            None,
            "no balancer has checked it yet",
        ),
        (None, _) => seen(
            EndpointState::Up,
            None,
            "its Pod is ready; no balancer can be asked",
        ),
    }
}

/// What balancers say that will go on serving: one that ends finds no pooler
/// that comes after it.
fn heard<'a>(pods: &[PodView], answers: &'a Answers) -> Vec<&'a BalancerStatus> {
    let said = answers.iter().filter_map(|(uid, answer)| match answer {
        Answer::Said(status) => Some((uid, &**status)),
        Answer::Silent(_) => None,
    });
    said.filter(|(uid, _)| {
        let pod = pods.iter().find(|pod| pod.uid == **uid);
        pod.is_some_and(|pod| pod.phase != Phase::Ending)
    })
    .map(|(_, status)| status)
    .collect()
}

/// Whether a balancer has found it and not checked it yet: that is no judgement.
fn is_untried(target: &TargetStatus) -> bool {
    target.discovered && target.reason == NOT_CHECKED
}

/// What balancers think of a pooler.
fn views<'a>(
    pod: &'a PodView,
    heard: &'a [&BalancerStatus],
) -> impl Iterator<Item = &'a TargetStatus> {
    let targets = heard.iter().flat_map(|status| &status.targets);
    targets.filter(|target| {
        let address = target.address.parse().ok();
        address.is_some_and(|address: std::net::SocketAddr| Some(address.ip()) == pod.address)
    })
}

fn cut(text: &str, length_max: usize) -> String {
    text.chars().take(length_max).collect()
}
