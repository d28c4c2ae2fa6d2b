//! What is remembered of each cluster between two looks, in memory alone: a
//! successor begins without it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;

use super::{
    Cluster,
    apply::Left,
    error::Kind,
    metrics::{Metrics, Step},
    nudge::Nudged,
    secrets::InternalKey,
    telling::Teller,
    template::Templates,
};
use crate::{api::PgPoolClusterStatus, controller::status::Meaning, endpoints::Endpoints};

/// What is remembered of each cluster between two looks.
#[derive(Default)]
pub(super) struct Memories(Mutex<HashMap<ObjectRef<Cluster>, Arc<tokio::sync::Mutex<Memory>>>>);

/// What is remembered of one.
#[derive(Default)]
pub(super) struct Memory {
    /// Of the cluster that this is about: another one of its name begins anew.
    pub(super) uid: Option<String>,
    /// How its children were left.
    pub(super) left: Left,
    /// Its status, as it was written last.
    pub(super) status: Option<PgPoolClusterStatus>,
    /// When that was.
    pub(super) written: Option<Instant>,
    /// The key that its parts share.
    pub(super) key: InternalKey,
    /// Pod templates that stay as an earlier version made them.
    pub(super) templates: Templates,
    /// The revision that was applied last.
    pub(super) revision: Option<String>,
    /// The Secret that applications connect with, if there is one.
    pub(super) binding: Option<String>,
    /// How many poolers may be evicted follows from Pods at present.
    pub(super) holds_evictions: bool,
    /// How many poolers are wished, where they are kept from being added.
    pub(super) held: Option<i32>,
    /// What the spec comes to that was valid last.
    pub(super) meaning: Option<Meaning>,
    /// The step that a look has come to, and since when.
    pub(super) step: Option<(Step, Instant)>,
    /// The step in which it failed.
    pub(super) failed_at: Option<Step>,
    /// Looks in a row that failed, and in which way.
    pub(super) failures: Option<(Kind, u32)>,
    /// Which Pods were told to look for which configuration.
    pub(super) nudged: Nudged,
    /// What is true of the endpoints; none until it is looked at first.
    pub(super) endpoints: Option<Endpoints>,
    /// When something of them will change though nothing is said of them.
    pub(super) due: Option<Timestamp>,
    /// Who tells people; none where there is nobody to tell.
    pub(super) teller: Option<Teller>,
    /// Why there is nobody who could.
    pub(super) untold: Option<String>,
    /// Reason of Stalled that an Event told of last; `None` if that is not known.
    pub(super) told: Option<Option<String>>,
}

impl Memory {
    /// A look begins, at the cluster of this uid.
    pub(super) fn begin(&mut self, uid: Option<String>) {
        if self.uid != uid {
            *self = Self {
                uid,
                ..Self::default()
            };
        }
    }

    /// A look comes to a step.
    pub(super) fn enter(&mut self, step: Step, metrics: &Metrics) {
        let now = Instant::now();
        if let Some((before, since)) = self.step.replace((step, now)) {
            metrics.stepped(before, now - since);
        }
    }

    /// A look is over.
    pub(super) fn leave(&mut self, failure: Option<Kind>, metrics: &Metrics) {
        if let Some((last, since)) = self.step.take() {
            metrics.stepped(last, since.elapsed());
            metrics.ended(failure, self.failed_at.take().unwrap_or(last));
        }
    }

    /// How long it is until something changes by itself.
    pub(super) fn due_in(&self, now: Timestamp) -> Option<Duration> {
        // A clock that was set back makes nobody wait for it.
        let left = self.due?.duration_since(now);
        Some(left.try_into().unwrap_or_default())
    }

    /// The status as it is, as far as is known.
    pub(super) fn status_before(&self, cluster: &Cluster) -> PgPoolClusterStatus {
        match (&self.status, &cluster.0) {
            (Some(status), _) => status.clone(),
            (None, Ok(cluster)) => cluster.status.clone().unwrap_or_default(),
            (None, Err(_)) => PgPoolClusterStatus::default(),
        }
    }
}

impl Memories {
    /// That of a cluster.
    pub(super) fn of(&self, cluster: &ObjectRef<Cluster>) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memories.entry(cluster.clone()).or_default().clone()
    }

    /// Forgets clusters that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(&ObjectRef<Cluster>) -> bool) {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memories.retain(|cluster, _| is_there(cluster));
    }
}
