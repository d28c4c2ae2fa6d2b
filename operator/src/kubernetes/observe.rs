//! What is true of every endpoint, from Pods and from what balancers say: given
//! to [`Endpoints`], which judge. Pure.

use jiff::Timestamp;
use proxy_core::{
    config::settings::Release,
    status::{BalancerStatus, TargetStatus},
    wire::TargetState,
};

pub(super) use crate::endpoints::{Answer, Answers};

use super::pods::{Phase, PodView};
use crate::{
    api::Component,
    endpoints::{Change, Endpoints, PodNews, Policy, Wished, ip},
};

/// Takes in what there is now, and says what changed.
pub(super) fn observe(
    endpoints: &mut Endpoints,
    pods: &[PodView],
    answers: &Answers,
    wished: Wished,
    policy: Policy,
    now: Timestamp,
) -> Vec<Change> {
    let news: Vec<PodNews<'_>> = pods.iter().map(PodView::news).collect();
    endpoints.look(&news, answers, wished, policy, now)
}

/// Whether each of these Pods of poolers has said, as a balancer relays it, that
/// it took a configuration.
pub(super) fn all_took<'a>(
    poolers: impl IntoIterator<Item = &'a PodView>,
    pods: &[PodView],
    answers: &Answers,
    revision: &str,
) -> bool {
    let heard = heard(pods, answers);
    poolers.into_iter().all(|pod| {
        let mut reports = views(pod, &heard).filter_map(|target| target.report.as_ref());
        let said = reports.find_map(|report| report.config_revision.as_deref());
        said == Some(revision)
    })
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

/// What balancers think of a pooler.
fn views<'a>(
    pod: &'a PodView,
    heard: &'a [&BalancerStatus],
) -> impl Iterator<Item = &'a TargetStatus> {
    let targets = heard.iter().flat_map(|status| &status.targets);
    targets.filter(|target| pod.address.is_some() && ip(&target.address) == pod.address)
}

#[cfg(test)]
mod tests;
