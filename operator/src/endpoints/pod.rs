//! The Pod of an endpoint, and the process in it, as its kubelet tells.
//!
//! A kubelet tells late and by levels: which container there is, and how the one
//! before it ended. Balancers may know the next process by its bootId before;
//! what is the same end is told once, whoever tells it first.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::api::Component;

/// Why one that was ready is out of service, in the words of nobody else.
pub(super) const NOT_READY: &str = "its Pod is not ready any more";
/// Why one is out of service that nobody can say anything of.
pub(super) const UNHEARD: &str = "its node is not heard from any more";
/// Why one is draining whose Pod is being deleted.
pub(super) const TOLD_TO_END: &str = "its Pod was told to end";

/// What a kubelet says of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its process has not passed its readiness probe yet; why, in words.
    Starting(String),
    /// It passes its readiness probe.
    Ready,
    /// It did when its kubelet was heard last; its node is not heard from any more.
    Unheard,
    /// Its process ended, or cannot be started: why, in words.
    Failed(String),
    /// It was told to end.
    Ending,
}

impl Phase {
    /// Whether its kubelet said last that it is ready.
    pub(crate) fn was_ready(&self) -> bool {
        matches!(self, Self::Ready | Self::Unheard)
    }

    /// Its process runs, and nothing else is known.
    pub(crate) fn starting() -> Self {
        Self::Starting("it is not ready yet".to_owned())
    }
}

/// The container of a process of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Another one for each process.
    pub id: String,
    /// Whether its process runs.
    pub state: ContainerState,
}

/// Whether a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// It runs.
    Runs {
        /// Since when.
        since: Option<Timestamp>,
        /// How the one before it ended.
        before: Option<Ended>,
    },
    /// It ended.
    Over(Ended),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Option<Timestamp>,
    /// In which way.
    pub reason: String,
}

/// A Pod as its kubelet tells of it now.
#[derive(Clone, Copy, Debug)]
pub struct PodNews<'a> {
    /// Name, unique in its namespace.
    pub name: &'a str,
    /// Unique for ever.
    pub uid: &'a str,
    /// What runs in it.
    pub component: Component,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// Since when it is there.
    pub created: Timestamp,
    /// When it was told to end, if it was.
    pub told_to_end: Option<Timestamp>,
    /// What its kubelet says of it.
    pub phase: &'a Phase,
    /// The container of our process, once there is one.
    pub container: Option<&'a Container>,
}

/// A Pod and what is known of the process in it.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    /// Not known of one that only a former operator saw.
    pub(super) uid: Option<String>,
    pub(super) address: Option<IpAddr>,
    pub(super) created: Timestamp,
    pub(super) phase: Phase,
    /// Whether it was ever up: before, its absence is missed by nobody.
    pub(super) served: bool,
    /// Container of the process that runs or ran last, as far as that is told.
    container: Option<String>,
    /// Container before it. What is still told of it is old.
    over: Option<String>,
    /// When the bootId of the process that runs was first told.
    identified: Timestamp,
}

/// What follows from a kubelet's word for the process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The process that was known ended: when, and in which way.
    pub(super) ended: Option<(Timestamp, String)>,
    /// The one that runs began.
    pub(super) started: Option<Timestamp>,
    /// It is the one whose bootId was told already.
    pub(super) is_known: bool,
}

/// What is known of a process otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// It has ended.
    pub(super) ended: bool,
    /// Its bootId was told.
    pub(super) identified: bool,
    /// Since when it was what it is, as an operator before this one saw it, if an
    /// end since then is news.
    pub(super) seen_since: Option<Timestamp>,
}

impl Pod {
    pub(super) fn new(name: &str, served: bool, now: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            uid: None,
            address: None,
            created: Timestamp::MIN,
            phase: Phase::starting(),
            served,
            container: None,
            over: None,
            identified: now,
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    /// A kubelet's word that is older than what is known of the process.
    pub(super) fn is_old(&self, container: Option<&Container>) -> bool {
        container.is_some_and(|container| self.over.as_ref() == Some(&container.id))
    }

    /// The process that runs was told by its bootId.
    pub(super) fn identified(&mut self, at: Timestamp) {
        self.identified = at;
    }

    /// Another process was told by its bootId, before the kubelet told of it.
    pub(super) fn replaced(&mut self, at: Timestamp) {
        self.over = self.container.take().or_else(|| self.over.take());
        self.identified = at;
    }

    /// The kubelet tells of the container.
    pub(super) fn hear(
        &mut self,
        container: &Container,
        known: Known,
        now: Timestamp,
    ) -> Option<Turn> {
        if self.is_old(Some(container)) {
            return None;
        }
        let same = self.container.as_ref() == Some(&container.id);
        let first = self.container.is_none() && self.over.is_none();
        let ended = |ended: &Ended| (ended.at.unwrap_or(now).min(now), ended.reason.clone());
        match &container.state {
            ContainerState::Runs { .. } if same && !known.ended => None,
            ContainerState::Runs { since, before } => {
                let since = since.unwrap_or(now).min(now);
                // The process in it is the one whose bootId was told already.
                let is_known = known.identified && self.identified >= since;
                let unseen = |before: &Ended| known.seen_since < before.at;
                self.changed(&container.id);
                let before = before.as_ref();
                let end = match (known.ended, first) {
                    (true, _) => None,
                    (false, true) => before.filter(|one| known.seen_since.is_some() && unseen(one)),
                    (false, false) if is_known => return None,
                    (false, false) => {
                        let how = before.map_or((now, "its process ended".to_owned()), ended);
                        return Some(Turn {
                            ended: Some(how),
                            started: Some(since),
                            is_known: false,
                        });
                    }
                };
                // Of one that is seen for the first time nothing contradicts it.
                let is_same = is_known || (first && !known.identified);
                Some(Turn {
                    is_known: is_same && end.is_none(),
                    ended: end.map(ended),
                    started: Some(since),
                })
            }
            ContainerState::Over(_) if same && known.ended => None,
            ContainerState::Over(how) => {
                let how = ended(how);
                let is_matched = same || first || !known.identified;
                // A kubelet's times are whole seconds.
                let older = self.identified.as_second() > how.0.as_second();
                if !is_matched && self.container.is_none() && older {
                    self.over = Some(container.id.clone());
                    return None;
                }
                self.changed(&container.id);
                Some(Turn {
                    ended: Some(how),
                    started: None,
                    is_known: false,
                })
            }
        }
    }

    fn changed(&mut self, container: &str) {
        if self.container.as_deref() != Some(container) {
            self.over = self.container.take().or_else(|| self.over.take());
            self.container = Some(container.to_owned());
        }
    }
}

impl Container {
    /// When what it tells of happened.
    pub(super) fn at(&self) -> Option<Timestamp> {
        match &self.state {
            ContainerState::Runs { since, before } => {
                before.as_ref().and_then(|before| before.at).or(*since)
            }
            ContainerState::Over(ended) => ended.at,
        }
    }
}
