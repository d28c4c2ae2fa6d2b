//! What the main loop keeps, posts and shows.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::{READY_PATIENCE, Runner, happenings::Happening};
use crate::{
    api::{Component, PgPoolClusterStatus},
    controller::status::{self, ConditionType, Observed, Pause, Progress},
    http::Snapshot,
    local::output::{self, Event, Running, Table},
    metrics,
    notify::{Outcome, Post},
    random,
};

impl Runner {
    /// Keeps what happened, then posts what should be told, kept before too,
    /// then prints.
    pub(super) fn settle(&mut self) {
        let before = self.dirty;
        if self.keep() {
            let posts = self.state.notifier.claim(Timestamp::now());
            self.dirty |= self.state.notifier.take_changed();
            let kept = self.keep();
            for post in posts {
                self.post(post, kept);
            }
        }
        let is_well = !self.disk_fails && !self.stopping;
        self.is_well.store(is_well, Ordering::Relaxed);
        if before {
            self.publish();
        }
        self.output.flush(Timestamp::now());
    }

    /// Writes what is remembered, if it changed. False if the disk refuses.
    pub(super) fn keep(&mut self) -> bool {
        if !self.dirty {
            return true;
        }
        match self.store.save(&self.state) {
            Ok(()) => {
                self.dirty = false;
                self.disk_fails = false;
            }
            Err(error) if !self.disk_fails => {
                self.disk_fails = true;
                let folder = self.store.folder().display().to_string();
                self.note(&format!(
                    "{folder}: what happens cannot be kept, so nobody is told of it: {error}"
                ));
            }
            Err(_) => {}
        }
        !self.dirty
    }

    pub(super) fn post(&mut self, post: Post, kept: bool) {
        self.posts_under_way += 1;
        let happenings = self.happenings.0.clone();
        let courier = self.courier.clone();
        let destination = self.plan.destinations.get(&post.channel).cloned();
        let context = self.context.clone();
        tokio::spawn(async move {
            let outcome = match destination {
                Some(destination) if kept => {
                    let now = Timestamp::now();
                    courier.deliver(&destination, &post, &context, now).await
                }
                _ => Outcome::Failed("the claim could not be kept".to_owned()),
            };
            let posted = Happening::Posted {
                post: Box::new(post),
                outcome,
            };
            // Without a main loop there is nobody to tell.
            let _ = happenings.send(posted).await;
        });
    }

    /// Brings status, metrics and table up to date.
    pub(super) fn publish(&mut self) {
        let now = Timestamp::now();
        let endpoints = self.state.endpoints.statuses();
        let notifications = self.state.notifier.statuses();
        let observed = Observed {
            generation: None,
            progress: &Progress::Applied,
            revision: Some(&self.plan.revision),
            // Files are the only Secrets here.
            binding: None,
            rollouts: None,
            pause: Pause::default(),
            update: None,
            meaning: Some(&self.plan.meaning),
            endpoints: &endpoints,
            notifications: &notifications,
            untold: self
                .disk_fails
                .then_some("what happens cannot be kept on disk, so nobody is told of it"),
        };
        let before = std::mem::take(&mut self.status);
        self.status = status::status(&observed, &before, now);
        if let Some(changed) = changed(ConditionType::UpstreamReachable, &before, &self.status) {
            self.output.tell(&Event::Upstream(changed), now);
        }
        // That it is as it should be is no news before it was not.
        let is_bad = |status| problem(ConditionType::CapacityAvailable, status).is_some();
        if let Some(changed) = changed(ConditionType::CapacityAvailable, &before, &self.status)
            && (is_bad(&before) || is_bad(&self.status))
        {
            self.output.tell(&Event::Capacity(changed), now);
        }
        let cluster = &self.plan.tier.name;
        let children: Vec<&Running> = self.children.values().map(|child| &child.running).collect();
        let page = metrics::page(cluster, &self.status, &self.counters);
        self.served.metrics.send_replace(page);
        self.served.snapshot.send_replace(Snapshot {
            not_ready: self.stopping.then(|| "stopping".to_owned()),
            status: json!({
                "version": env!("CARGO_PKG_VERSION"),
                "cluster": cluster,
                "service": self.plan.ports.service,
                "stateDir": self.store.folder(),
                "configRevision": self.plan.revision,
                "children": children,
                "status": self.status,
            }),
        });
        let table = self.table();
        self.output.show(table);
    }

    pub(super) fn table(&self) -> Table {
        let rows = self.children.iter().map(|(id, child)| {
            let judgement = self.state.endpoints.judgement(*id);
            output::Row {
                name: id.name(),
                state: judgement.state,
                since: judgement.since,
                pid: child.process.as_ref().map(|process| process.identity.pid),
                address: child.running.address.to_string(),
                http: child.running.http.to_string(),
                reason: judgement.reason.clone(),
            }
        });
        Table {
            title: format!(
                "{} on {} · {} poolers, {} balancers up · operator http://{}/status",
                self.plan.tier.name,
                self.plan.ports.service,
                self.status.poolers.summary,
                self.status.balancer.summary,
                self.plan.ports.operator
            ),
            rows: rows.collect(),
            upstream: problem(ConditionType::UpstreamReachable, &self.status),
            capacity: problem(ConditionType::CapacityAvailable, &self.status),
            notifications: self.state.notifier.statuses(),
        }
    }

    pub(super) fn posted(&mut self, post: &Post, outcome: Outcome) {
        self.posts_under_way -= 1;
        let now = Timestamp::now();
        let arrived = matches!(outcome, Outcome::Delivered { .. });
        let delay = post.delay(now).filter(|_| arrived);
        let messages = self.counters.messages(&post.channel);
        messages.posted(outcome.word(), delay);
        let problem = outcome.problem();
        let event = match &problem {
            None => Event::Notified(post),
            Some(problem) => Event::NotNotified {
                post,
                problem,
                tries_again: outcome.tries_again(),
            },
        };
        self.output.tell(&event, now);
        self.state
            .notifier
            .finished(post, outcome, now, random::fraction());
        self.dirty = true;
    }

    pub(super) fn tell_when_ready(&mut self) {
        if self.ready_told || self.stopping {
            return;
        }
        let (poolers_up, poolers) = self.state.endpoints.count(Component::Pooler);
        let (balancers_up, balancers) = self.state.endpoints.count(Component::Balancer);
        let all = poolers_up == poolers && balancers_up == balancers;
        let some = poolers_up > 0 && balancers_up > 0 && self.begun.elapsed() > READY_PATIENCE;
        if !all && !some {
            return;
        }
        self.ready_told = true;
        if std::mem::take(&mut self.state.forgot) {
            self.state.notifier.begin_anew();
            self.dirty = true;
        }
        self.publish();
        let ready = output::Ready {
            cluster: self.plan.tier.name.clone(),
            service: self.plan.ports.service,
            operator: self.plan.ports.operator,
            state_dir: self.store.folder().to_owned(),
            poolers_up,
            poolers,
            balancers_up,
            balancers,
            endpoints: self
                .children
                .values()
                .map(|child| child.running.clone())
                .collect(),
        };
        self.output.tell(&Event::Ready(&ready), Timestamp::now());
    }
}

fn condition(type_: ConditionType, status: &PgPoolClusterStatus) -> Option<&Condition> {
    let mut all = status.conditions.iter();
    all.find(|one| one.type_ == type_.word())
}

/// What a condition that is False says.
fn problem(type_: ConditionType, status: &PgPoolClusterStatus) -> Option<String> {
    let found = condition(type_, status).filter(|one| one.status == "False");
    found.map(|one| one.message.clone())
}

/// A condition, if it is another than before; that nothing is known at first is
/// no news.
fn changed<'a>(
    type_: ConditionType,
    before: &PgPoolClusterStatus,
    now: &'a PgPoolClusterStatus,
) -> Option<&'a Condition> {
    let now = condition(type_, now)?;
    let same = match condition(type_, before) {
        Some(before) => (&before.status, &before.reason) == (&now.status, &now.reason),
        None => now.status == "Unknown",
    };
    (!same).then_some(now)
}
