//! What balancers say of poolers, merged into one story.

use jiff::Timestamp;
use proxy_core::{
    status::{BalancerStatus, Health},
    wire::TargetState,
};

use super::{Change, Endpoints, Policy, REASON_LENGTH_MAX, boot, cut, pooler::View};
use crate::controller::build::pooler_name;

impl Endpoints {
    /// Balancers answered. Their logs are merged by time, so that what both
    /// saw while nobody listened is one story.
    #[must_use]
    pub fn balancers_said(
        &mut self,
        statuses: &[(usize, BalancerStatus)],
        policy: Policy,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut log = Vec::new();
        for (index, status) in statuses {
            let balancer = &mut self.balancers[*index];
            balancer.answered(status, policy, now);
            let known = balancer.known(status);
            let news = status
                .transitions
                .iter()
                .filter(|transition| known.is_some_and(|known| transition.number > known));
            log.extend(news.map(|transition| (*index, transition.clone())));
            balancer.advance(status);
        }
        log.sort_by_key(|(_, transition)| transition.at);
        for (index, mut transition) in log {
            // Whose clock is ahead tells no future.
            transition.at = transition.at.min(now);
            let Some(pooler) = self.pooler_index(&transition.target) else {
                continue;
            };
            let view = View {
                health: transition.to,
                since: transition.at,
                reason: cut(&transition.reason, REASON_LENGTH_MAX),
                boot_id: transition.boot_id.as_deref().map(boot),
                // Where the judgement changed too, good checks were counted.
                restarted_at: (transition.restarted && transition.from == transition.to)
                    .then_some(transition.at),
                says_draining: transition.to == Health::Draining,
            };
            let old = transition.at < self.poolers[pooler].judgement.since;
            if let Some(restart) = self.poolers[pooler].seen(index, view) {
                changes.push(self.restarted(pooler, &restart, transition.at));
            }
            // A balancer that could not be reached for a while tells old news:
            // what was judged since holds, and its levels follow below.
            if !old {
                // The time of the story, not of its telling.
                changes.extend(self.settle(policy, transition.at));
            }
        }
        for (index, status) in statuses {
            for target in &status.targets {
                let Some(pooler) = self.pooler_index(&target.name) else {
                    continue;
                };
                let view = View {
                    health: target.state,
                    since: target.since.min(now),
                    reason: cut(&target.reason, REASON_LENGTH_MAX),
                    boot_id: target.report.as_ref().map(|report| boot(&report.boot_id)),
                    restarted_at: None,
                    // A balancer that judges Draining may mean the process
                    // before: only what the process says of itself counts.
                    says_draining: target
                        .report
                        .as_ref()
                        .is_some_and(|report| report.state == TargetState::Draining),
                };
                if let Some(restart) = self.poolers[pooler].seen(*index, view) {
                    changes.push(self.restarted(pooler, &restart, now));
                }
                if let Some(report) = &target.report {
                    let (pooler, boot_id) = (&mut self.poolers[pooler], boot(&report.boot_id));
                    pooler.said_of_upstream(&boot_id, report.upstream);
                    pooler.said_of_saturation(&boot_id, report.saturation);
                }
            }
        }
        changes.extend(self.settle(policy, now));
        changes
    }

    fn pooler_index(&self, name: &str) -> Option<usize> {
        (0..self.poolers.len()).find(|index| pooler_name(*index) == name)
    }
}
