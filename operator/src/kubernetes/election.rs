//! Which of several operators acts: the one that holds the Lease.
//!
//! ```text
//!  candidate ──the lease is free, or nobody renewed it for as long as it says──> leader
//!      ^                                                                           │
//!      └──── another took it, or it could not be renewed in two thirds of its time ┘
//! ```
//!
//! Times are measured by each process for itself, from when it saw the lease
//! change, so that clocks need not agree. Every write of the lease carries its
//! resourceVersion: of two who try, one gets a conflict. A leader stops acting
//! ([`Fence`]) a third of the lease's time before anyone may take it.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{sleep, sleep_until};

use super::{
    client::{self, CALL_TIME_MAX},
    error::{CallError, CallResult, Kind},
    fence::{Fence, SinceBoot},
};

/// Where the lease is and how long it lasts.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are: unique for each process.
    pub identity: String,
    /// How long the lease of a leader that says nothing more lasts. At least 3 s.
    pub duration: Duration,
}

/// One who wants to lead.
pub(super) struct Election {
    leases: Api<Lease>,
    options: LeaseOptions,
    fence: Fence,
    /// What was seen last, and since when it is so.
    seen: Option<(Option<String>, Instant)>,
}

impl Election {
    pub(super) fn new(client: Client, options: LeaseOptions, fence: Fence) -> Self {
        Self {
            leases: Api::namespaced(client, &options.namespace),
            options,
            fence,
            seen: None,
        }
    }

    /// Waits until we lead.
    pub(super) async fn win(&mut self) {
        loop {
            let (begin, since) = (Instant::now(), SinceBoot::now());
            match self.try_once(begin).await {
                Ok(true) => {
                    self.hold(since);
                    tracing::info!(
                        lease = self.options.name,
                        identity = self.options.identity,
                        "leading"
                    );
                    return;
                }
                Ok(false) => {}
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) => tracing::warn!(%error, "cannot ask for the lease"),
            }
            sleep(self.spread(self.options.duration / 6)).await;
        }
    }

    /// Keeps the lease for as long as it can, then returns. The fence is closed
    /// by then.
    pub(super) async fn keep(&mut self) {
        let mut held_since = Instant::now();
        loop {
            let end = held_since + self.time_to_act();
            sleep(self.spread(self.options.duration / 5)).await;
            let (begin, since) = (Instant::now(), SinceBoot::now());
            let renewed = tokio::select! {
                renewed = self.try_once(begin) => renewed,
                () = sleep_until(end.into()) => Err(CallError::NotLeading),
            };
            match renewed {
                Ok(true) => {
                    held_since = begin;
                    self.hold(since);
                    continue;
                }
                Ok(false) => tracing::warn!("another operator took the lease"),
                Err(error) if Instant::now() < end => {
                    tracing::warn!(%error, "cannot renew the lease yet");
                    continue;
                }
                Err(error) => tracing::warn!(%error, "the lease could not be renewed in time"),
            }
            self.fence.close();
            return;
        }
    }

    /// Gives the lease up, so that another need not wait for its end.
    pub(super) async fn give_up(&mut self) {
        self.fence.close();
        let given = async {
            let Some(mut lease) = self.get().await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.options.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.put(&lease).await
        };
        if let Err(error) = given.await {
            tracing::warn!(%error, "cannot give the lease up; it ends by itself");
        }
    }

    fn hold(&self, since: SinceBoot) {
        self.fence.move_to(since.later(self.time_to_act()));
    }

    /// A leader acts so long after a renewal began.
    fn time_to_act(&self) -> Duration {
        self.options.duration * 2 / 3
    }

    /// Takes or renews the lease if it is free or ours. True if it is ours now.
    async fn try_once(&mut self, now: Instant) -> CallResult<bool> {
        let Some(mut lease) = self.get().await? else {
            return self.create().await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec
            .holder_identity
            .as_deref()
            .filter(|name| !name.is_empty());
        let ours = holder == Some(&self.options.identity);
        if !ours && holder.is_some() && !self.is_over(&lease, now) {
            return Ok(false);
        }
        let time = MicroTime(Timestamp::now());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: Some(seconds(self.options.duration)),
            renew_time: Some(time.clone()),
            acquire_time: if ours { spec.acquire_time } else { Some(time) },
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..spec
        });
        self.put(&lease).await.map(|()| true)
    }

    /// Whether nobody changed the lease for as long as it lasts, as far as we saw.
    fn is_over(&mut self, lease: &Lease, now: Instant) -> bool {
        let version = lease.metadata.resource_version.clone();
        let lasts = lease
            .spec
            .as_ref()
            .and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok())
            .map_or(self.options.duration, Duration::from_secs);
        match &self.seen {
            Some((seen, since)) if *seen == version => now.duration_since(*since) > lasts,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    async fn get(&self) -> CallResult<Option<Lease>> {
        client::read("get the lease", self.leases.get_opt(&self.options.name)).await
    }

    async fn create(&self) -> CallResult<bool> {
        let time = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.options.name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.options.identity.clone()),
                lease_duration_seconds: Some(seconds(self.options.duration)),
                acquire_time: Some(time.clone()),
                renew_time: Some(time),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        let params = PostParams::default();
        let created = self.leases.create(&params, &lease);
        client::read("create the lease", created)
            .await
            .map(|_| true)
    }

    /// Replaces the lease, if it is still as it was read.
    async fn put(&self, lease: &Lease) -> CallResult<()> {
        let params = PostParams::default();
        let put = self.leases.replace(&self.options.name, &params, lease);
        client::read("write the lease", put).await.map(|_| ())
    }

    /// Up to a tenth longer, so that replicas do not ask in step.
    fn spread(&self, time: Duration) -> Duration {
        time.min(CALL_TIME_MAX)
            .mul_f64(1.0 + crate::random::fraction() / 10.0)
    }
}

fn seconds(duration: Duration) -> i32 {
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| i32::try_from(duration.as_secs()).ok())
        .unwrap_or(i32::MAX)
}
