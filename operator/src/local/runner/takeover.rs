//! How an operator takes over what runs already.

use futures::future::join_all;
use jiff::Timestamp;

use super::Runner;
use crate::{
    api::Component,
    endpoints::Id,
    local::{
        files,
        process::{Process, Waiter},
    },
    watch::{Connection, Cursor},
};

/// A child that runs already.
#[derive(Debug)]
pub struct Found {
    /// Which.
    pub id: Id,
    /// Its process.
    pub process: Process,
    /// Tells its end.
    pub waiter: Waiter,
    /// What it takes to bring it up to date.
    pub change: files::Change,
}

impl Runner {
    /// Takes over the children that run already, and learns from the balancers
    /// among them what happened while nobody listened.
    pub(super) async fn take_over(&mut self, found: Vec<Found>) {
        let asked: Vec<_> = found
            .iter()
            .filter(|found| found.id.component == Component::Balancer)
            .map(|found| {
                let index = found.id.index;
                let address = self.children[&found.id].running.http;
                let cursor = self.cursor(index);
                let watcher = self.watcher.clone();
                async move {
                    let cursor = cursor.map(Cursor::new);
                    let mut connection = Connection::to(address);
                    let answer = watcher.balancer(&mut connection, cursor.as_ref(), None);
                    let answer = answer.await;
                    Some((index, answer.ok()?))
                }
            })
            .collect();
        let statuses: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        let now = Timestamp::now();
        let gone: Vec<Id> = self
            .state
            .endpoints
            .ids()
            .filter(|id| {
                self.state.endpoints.runs(*id) && found.iter().all(|found| found.id != *id)
            })
            .collect();
        for found in found {
            let Found {
                id,
                process,
                waiter,
                change,
            } = found;
            if !self.state.endpoints.runs(id) {
                self.state.endpoints.started(id, now);
            }
            self.runs(id, process, waiter, true);
            match change {
                files::Change::None => {}
                files::Change::Reload => self.reload(id),
                files::Change::Restart(reason) => {
                    self.note(&format!(
                        "{} will be restarted in its turn: {reason}",
                        id.name()
                    ));
                    self.roll.push_back(id);
                }
            }
        }
        // What the balancers saw comes first: it happened before we found out,
        // and it says who had announced that it would end.
        let changes = self
            .state
            .endpoints
            .balancers_said(&statuses, self.policy, now);
        self.handle(&changes);
        for id in gone {
            self.state.children.remove(&id.name());
            let reason = "ended while no operator ran";
            let changes = self.state.endpoints.ended(id, reason, self.policy, now);
            self.handle(&changes);
        }
    }

    pub(super) fn cursor(&self, balancer: usize) -> Option<(String, u64)> {
        let (boot_id, number) = self.state.endpoints.cursor(balancer)?;
        Some((boot_id.to_owned(), number))
    }

    /// One that was taken over may have missed its reload: the operator before
    /// may have died between the writing and the telling.
    pub(super) fn check_revision(&mut self, id: Id, revision: Option<&str>) {
        let wanted = &self.plan.revision;
        let rolls = self.roll.contains(&id) || self.rolling.is_some_and(|(other, _)| other == id);
        if !self.children[&id].reloaded && !rolls && revision != Some(wanted.as_str()) {
            self.reload(id);
        }
    }
}
