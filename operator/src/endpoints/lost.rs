//! Endpoints that are out of service and whose Pod is gone: their incident goes
//! on until as many of their kind are up as are wished.

use jiff::Timestamp;

use super::{Change, Endpoints, Id, Outage};
use crate::api::{Component, EndpointState};

/// How many are kept; what is lost beyond is not told one by one.
pub(super) const LOST_MAX: usize = 64;

/// An endpoint that is out of service and whose Pod is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Name of the Pod.
    pub name: String,
    /// What ran in it.
    pub component: Component,
    /// Since when it is out of service.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
}

impl Endpoints {
    /// Those that are out of service and whose Pod is gone.
    pub fn lost(&self) -> impl Iterator<Item = &Lost> {
        self.lost.iter().map(|(_, lost)| lost)
    }

    /// Ends the incidents of those that are gone, or going, where as many are up
    /// as are wished.
    pub(super) fn end_restored(&mut self, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        for component in Component::ALL {
            let Some(wished) = self.wished else { break };
            let (up, wished) = (self.up(component), wished.of(component));
            if up < wished {
                continue;
            }
            let reason = restored(component, wished);
            let going: Vec<Id> = self
                .ids()
                .filter(|id| id.component == component && self.is_told_to_end(*id))
                .collect();
            for id in going {
                if let Some(since) = self.judgement_mut(id).outage_since.take() {
                    changes.push(self.restored(id, self.name(id), since, &reason, now));
                }
            }
            let (over, stay) = std::mem::take(&mut self.lost)
                .into_iter()
                .partition(|(_, lost)| lost.component == component);
            self.lost = stay;
            for (id, lost) in over {
                changes.push(self.restored(id, lost.name, lost.since, &reason, now));
            }
        }
        changes
    }

    fn restored(
        &self,
        id: Id,
        name: String,
        since: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Change {
        let (up, total) = self.count(id.component);
        Change {
            id,
            name,
            from: EndpointState::Down,
            to: EndpointState::Up,
            at: now.max(since),
            reason: reason.to_owned(),
            outage: Outage::Ends { since },
            up,
            total,
        }
    }
}

/// Why the incident of one that is gone is over.
fn restored(component: Component, wished: u32) -> String {
    let word = component.word();
    match wished {
        0 => format!("no {word} is wished any more"),
        1 => format!("1 {word} is up again"),
        _ => format!("{wished} {word}s are up again"),
    }
}
