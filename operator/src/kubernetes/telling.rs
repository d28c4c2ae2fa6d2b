//! Tells people of a cluster: one task for each that has somebody to tell, which
//! owns who was told what.
//!
//! ```text
//! look ──observe──> Teller ──keep──> ConfigMap
//!                     └─ claim, keep, post, keep ──> Slack …
//! ```
//!
//! A claim is kept before it is posted. A replica that may not write may not post
//! either: the fence ends both. A test message is no news: it is posted at once,
//! and told again if we die before it is kept that it was asked for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::channel::mpsc;
use jiff::Timestamp;
use kube::{
    Client, ResourceExt as _,
    runtime::{events::Recorder, reflector::ObjectRef},
};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    Cluster, World, events,
    fence::Fence,
    ledger::{Ledger, LedgerError, Told},
    metrics::Metrics,
    monitor,
};
use crate::{
    api::{NotificationEvent, NotificationStatus, PgPoolCluster, PgPoolClusterStatus},
    controller::{objects::Owner, validate::Channel},
    courier::Courier,
    destination::Destination,
    endpoints::{Cursors, Lost},
    notify::{self, Alert, Attention, Context, Happening, Outcome, Post},
    notify_test, random,
};

/// How often it is looked whether something is due, while something waits.
const SOON: Duration = Duration::from_millis(100);
/// The same while something is wrong and everything was told.
const SELDOM: Duration = Duration::from_secs(1);
/// Pause after what was told could not be kept: the first, and the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How much the status takes of what hinders delivery, in characters.
const PROBLEM_LENGTH_MAX: usize = 256;
/// How long messages under way may take once the operator ends.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// What a look saw.
#[derive(Debug, Default)]
pub(super) struct Observation {
    /// All that is wrong with endpoints.
    pub(super) alerts: Vec<Alert>,
    /// What happened since the look before.
    pub(super) happenings: Vec<Happening>,
    /// How far the balancers' logs are in it.
    pub(super) cursors: Cursors,
}

/// What every teller of a scope works with.
pub(super) struct Tellers {
    office: Office,
    /// True once no more may be claimed; each teller listens until it has ended.
    ending: watch::Sender<bool>,
}

#[derive(Clone)]
struct Office {
    client: Client,
    courier: Courier,
    fence: Fence,
    metrics: Arc<Metrics>,
    /// Takes clusters whose status is to be written.
    looks: mpsc::Sender<ObjectRef<Cluster>>,
}

impl Tellers {
    /// Begins with nobody to tell. `looks` takes clusters whose status is to be
    /// written.
    pub(super) fn new(world: &World, looks: mpsc::Sender<ObjectRef<Cluster>>) -> Self {
        Self {
            office: Office {
                client: world.client.clone(),
                courier: world.courier.clone(),
                fence: world.fence.clone(),
                metrics: world.metrics.clone(),
                looks,
            },
            ending: watch::channel(false).0,
        }
    }

    /// A teller of the cluster of this name and uid, who knows what a predecessor
    /// told.
    ///
    /// # Errors
    /// If that cannot be read.
    pub(super) async fn begin(
        &self,
        cluster: &ObjectRef<Cluster>,
        uid: &str,
        owner: Owner,
    ) -> Result<Teller, LedgerError> {
        let Office { client, fence, .. } = &self.office;
        let namespace = cluster.namespace.clone().unwrap_or_default();
        let mut ledger = Ledger::new(
            client.clone(),
            fence.clone(),
            (namespace.clone(), cluster.name.clone()),
            uid.to_owned(),
            owner,
        );
        let mut told = ledger.read().await?.unwrap_or_default();
        told.notifier.resume();
        let shared = Arc::new(Shared::default());
        shared.lock().told = told;
        // Until it is known where to, and what is so.
        shared.lock().hushed = true;
        let work = Work {
            shared: shared.clone(),
            office: self.office.clone(),
            ledger,
            cluster: cluster.clone(),
            context: Arc::new(context(&namespace, &cluster.name)),
            namespace,
            shown: Vec::new(),
        };
        let work = work.run(self.ending.subscribe());
        Ok(Teller {
            shared,
            task: tokio::spawn(work).abort_handle(),
        })
    }

    /// Has what is under way arrive and kept, and nothing else told, in bounded
    /// time.
    pub(super) async fn end(&self) {
        self.ending.send_replace(true);
        let ended = tokio::time::timeout(END_TIME_MAX, self.ending.closed()).await;
        if ended.is_err() {
            tracing::warn!("a message under way may be repeated by the next operator");
        }
    }

    /// Sends a test message to each channel for a value of the annotation that
    /// asks for it, once; Events say what came of each.
    pub(super) fn test(&self, teller: &Teller, value: &str, cluster: &Cluster, events: &Recorder) {
        let destinations = {
            let mut state = teller.shared.lock();
            // Where nobody is known yet who could be told, a later look asks again.
            if state.told.tested.as_deref() == Some(value) || state.destinations.is_empty() {
                return;
            }
            state.told.tested = Some(value.to_owned());
            state.destinations.clone()
        };
        teller.shared.woken.notify_one();
        let namespace = cluster.namespace().unwrap_or_default();
        let context = context(&namespace, &cluster.name_any());
        let reference = events::reference(cluster);
        let (office, events) = (self.office.clone(), events.clone());
        let shared = teller.shared.clone();
        tokio::spawn(async move {
            let Some(left) = office.fence.time_left() else {
                return;
            };
            let tests = notify_test::send(&office.courier, &context, &destinations);
            if let Ok(tests) = tokio::time::timeout(left, tests).await {
                {
                    let mut state = shared.lock();
                    for test in tests.iter().filter(|test| test.arrived()) {
                        state.told.notifier.is_reached(&test.channel);
                    }
                }
                shared.woken.notify_one();
                events::record_tests(&events, &office.fence, &reference, &tests).await;
            }
        });
    }
}

fn context(namespace: &str, cluster: &str) -> Context {
    Context {
        cluster: format!("{namespace}/{cluster}"),
        links: Vec::new(),
    }
}

/// Tells people of one cluster, until it is dropped.
pub(super) struct Teller {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Default)]
struct State {
    told: Told,
    destinations: BTreeMap<String, Destination>,
    /// What is wrong by the last look: with endpoints, and what the status says;
    /// none before the first.
    seen: Option<(Vec<Alert>, PgPoolClusterStatus)>,
    /// Nothing is to be told for the time being: it is left alone, or goes.
    hushed: bool,
    /// Why nothing can be kept, so that nobody is told.
    problem: Option<String>,
}

impl State {
    /// Everything that is wrong now. The status' part of it depends on the time.
    fn observe(&mut self, happenings: &[Happening], now: Timestamp) {
        let Some((alerts, status)) = self.seen.as_ref().filter(|_| !self.hushed) else {
            return;
        };
        let notifier = &mut self.told.notifier;
        let mut alerts = alerts.clone();
        let known = |key: &notify::Key| notifier.known(key).cloned();
        alerts.extend(notify::of_status(status, &known, now));
        notifier.observe(&alerts, happenings, now);
    }

    fn statuses(&self) -> Vec<NotificationStatus> {
        let statuses = self.told.notifier.statuses().into_iter();
        let problem = self.problem.as_ref();
        statuses
            .map(|status| NotificationStatus {
                problem: problem.cloned().or(status.problem),
                ..status
            })
            .collect()
    }
}

impl Teller {
    /// Takes the channels as they are configured now, as far as they are valid;
    /// one that the spec names and that is not goes on as it was. `key` is one that
    /// nobody else has.
    pub(super) fn configure(&self, cluster: &PgPoolCluster, channels: &[Channel], key: &[u8]) {
        let mut state = self.shared.lock();
        let mut configs: Vec<_> = channels.iter().map(|one| one.config(key)).collect();
        let is_new = |name: &String| channels.iter().all(|one| one.config.name != *name);
        let named = |name: &String| {
            let mut spec = cluster.spec.notifications.iter();
            spec.any(|one| one.name == *name)
        };
        let before = state.told.notifier.configs().into_iter();
        configs.extend(before.filter(|one| is_new(&one.name) && named(&one.name)));
        state.told.notifier.configure(&configs);
        let goes_on = |name: &String| is_new(name) && named(name);
        state.destinations.retain(|name, _| goes_on(name));
        let new = channels.iter();
        let new = new.map(|one| (one.config.name.clone(), one.destination.clone()));
        state.destinations.extend(new);
        drop(state);
        self.shared.woken.notify_one();
    }

    /// Takes what a look saw, and the status that followed from it.
    pub(super) fn observe(&self, seen: Observation, status: &PgPoolClusterStatus, now: Timestamp) {
        let mut state = self.shared.lock();
        let status = PgPoolClusterStatus {
            // The alerts tell of them.
            endpoints: Vec::new(),
            ..status.clone()
        };
        state.hushed = false;
        state.seen = Some((seen.alerts, status));
        state.told.cursors = seen.cursors;
        state.observe(&seen.happenings, now);
        drop(state);
        self.shared.woken.notify_one();
    }

    /// Nothing is to be told until something is observed again.
    pub(super) fn hush(&self) {
        self.shared.lock().hushed = true;
    }

    /// The endpoints that people were told are out of service, and how far the
    /// balancers' logs were read.
    pub(super) fn known(&self) -> (Vec<Lost>, Cursors) {
        let state = self.shared.lock();
        let open = state.told.notifier.open();
        let outages = open.filter_map(|alert| {
            let of_endpoint = alert.key.event == NotificationEvent::EndpointDown;
            Some(Lost {
                name: alert.key.subject.clone(),
                component: alert.count.filter(|_| of_endpoint)?.of,
                since: alert.since,
                reason: alert.reason.clone(),
            })
        });
        (outages.collect(), state.told.cursors.clone())
    }

    /// How each channel does.
    pub(super) fn statuses(&self) -> Vec<NotificationStatus> {
        self.shared.lock().statuses()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the task of a teller owns.
struct Work {
    shared: Arc<Shared>,
    office: Office,
    ledger: Ledger,
    cluster: ObjectRef<Cluster>,
    namespace: String,
    context: Arc<Context>,
    /// How each channel did when the status was written last.
    shown: Vec<NotificationStatus>,
}

type Posts = JoinSet<(Post, Outcome)>;

impl Drop for Work {
    fn drop(&mut self) {
        let (namespace, cluster) = (&self.namespace, &self.cluster.name);
        self.office.metrics.tells_no_more(namespace, cluster);
    }
}

/// Whether what was told is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// It is.
    Well,
    /// What somebody else wrote is what counts now.
    Anew,
    /// It could not be written.
    Not,
}

impl Work {
    async fn run(mut self, mut ending: watch::Receiver<bool>) {
        let mut posts = Posts::new();
        let mut retry = RETRY;
        loop {
            let kept = self.keep(&mut posts).await;
            let ends = *ending.borrow_and_update();
            match kept {
                Kept::Well if ends && posts.is_empty() => return,
                Kept::Well if !ends => self.claim(&mut posts).await,
                _ => {}
            }
            self.show().await;
            let pause = match kept {
                Kept::Not => {
                    let pause = retry;
                    retry = (2 * retry).min(RETRY_MAX);
                    Some(pause)
                }
                Kept::Well | Kept::Anew => {
                    retry = RETRY;
                    self.pause()
                }
            };
            tokio::select! {
                () = self.shared.woken.notified() => {}
                Some(posted) = posts.join_next() => {
                    if let Ok((post, outcome)) = posted {
                        self.finished(&post, outcome);
                    }
                }
                _ = ending.changed(), if !ends => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    self.shared.lock().observe(&[], Timestamp::now());
                }
            }
        }
    }

    /// Writes down who was told what, if it changed.
    async fn keep(&mut self, posts: &mut Posts) -> Kept {
        let told = self.shared.lock().told.clone();
        let result = match self.ledger.write(&told).await {
            Ok(()) => Ok(Kept::Well),
            Err(LedgerError::Overtaken(_)) => self.begin_again(posts).await,
            Err(error) => Err(error),
        };
        let mut state = self.shared.lock();
        match result {
            Ok(kept) => {
                state.problem = None;
                kept
            }
            Err(error) => {
                let problem = format!("nobody is told, for it cannot be kept: {error}");
                let problem: String = problem.chars().take(PROBLEM_LENGTH_MAX).collect();
                if state.problem.is_none() {
                    tracing::warn!(cluster = self.context.cluster, problem);
                }
                state.problem = Some(problem);
                Kept::Not
            }
        }
    }

    /// What was told is not there as we left it: goes on from what is there.
    async fn begin_again(&mut self, posts: &mut Posts) -> Result<Kept, LedgerError> {
        let theirs = self.ledger.read().await?;
        let kept = match theirs {
            // It is gone, or ours after all: what we know counts.
            None => Kept::Well,
            Some(mut told) => {
                // Whether those arrived that are under way is for the other to say.
                posts.abort_all();
                told.notifier.resume();
                let mut state = self.shared.lock();
                told.notifier.configure(&state.told.notifier.configs());
                told.tested = state.told.tested.take().or(told.tested);
                state.told = told;
                state.observe(&[], Timestamp::now());
                Kept::Anew
            }
        };
        let told = self.shared.lock().told.clone();
        self.ledger.write(&told).await?;
        Ok(kept)
    }

    /// Claims what may be posted, keeps that, and posts.
    async fn claim(&mut self, posts: &mut Posts) {
        let claimed = {
            let mut state = self.shared.lock();
            // Where to is not known before the spec was valid.
            match state.hushed || state.destinations.is_empty() {
                true => Vec::new(),
                false => state.told.notifier.claim(Timestamp::now()),
            }
        };
        if claimed.is_empty() {
            return;
        }
        let kept = self.keep(posts).await;
        if kept == Kept::Anew {
            // They are not claimed any more.
            return;
        }
        for post in claimed {
            let destination = self.shared.lock().destinations.get(&post.channel).cloned();
            let why_not = match (kept, self.office.fence.time_left(), destination) {
                (Kept::Well, Some(left), Some(destination)) => Ok((left, destination)),
                (Kept::Well, Some(_), None) => Err("the channel is not there any more"),
                (Kept::Well, None, _) => Err("another replica leads"),
                _ => Err("the claim could not be kept"),
            };
            let (left, destination) = match why_not {
                Ok(ready) => ready,
                Err(why) => {
                    self.finished(&post, Outcome::Failed(why.to_owned()));
                    continue;
                }
            };
            let (courier, context) = (self.office.courier.clone(), self.context.clone());
            posts.spawn(async move {
                let now = Timestamp::now();
                let deliver = courier.deliver(&destination, &post, &context, now);
                let outcome = tokio::time::timeout(left, deliver).await;
                let unclear = "the operator may not act any more; whether it arrived is not known";
                let outcome = outcome.unwrap_or_else(|_| Outcome::Unclear(unclear.to_owned()));
                (post, outcome)
            });
        }
    }

    fn finished(&self, post: &Post, outcome: Outcome) {
        let now = Timestamp::now();
        let (channel, result) = (&post.channel, outcome.word());
        let delay = matches!(outcome, Outcome::Delivered { .. }).then(|| post.delay(now));
        let of = (self.namespace.as_str(), self.cluster.name.as_str());
        let metrics = &self.office.metrics;
        metrics.posted(of, channel, result, delay.flatten());
        let (form, about) = (post.form.word(), post.subjects());
        match outcome.problem() {
            None => {
                tracing::info!(cluster = self.context.cluster, channel, form, about, "told");
            }
            Some(problem) => {
                tracing::warn!(
                    cluster = self.context.cluster,
                    channel,
                    form,
                    about,
                    result,
                    problem,
                    "not told"
                );
            }
        }
        let mut state = self.shared.lock();
        let notifier = &mut state.told.notifier;
        notifier.finished(post, outcome, now, random::fraction());
    }

    /// Has the status written if a channel does otherwise than before.
    async fn show(&mut self) {
        let statuses = self.shared.lock().statuses();
        let (namespace, cluster) = (&self.namespace, &self.cluster.name);
        self.office.metrics.channels(namespace, cluster, &statuses);
        if statuses != self.shown {
            self.shown = statuses;
            monitor::look(&mut self.office.looks, &self.cluster).await;
        }
    }

    /// How soon to look again though nobody wakes us.
    fn pause(&self) -> Option<Duration> {
        let state = self.shared.lock();
        let seen = state.seen.as_ref();
        let waits = seen.is_some_and(|(_, status)| notify::is_waiting(status));
        let attention = match state.hushed || state.destinations.is_empty() {
            true => Attention::Never,
            false => state.told.notifier.attention(Timestamp::now()),
        };
        match attention {
            Attention::Soon => Some(SOON),
            Attention::Seldom => Some(SELDOM),
            Attention::Never => (waits || self.ledger.lags()).then_some(SELDOM),
        }
    }
}
