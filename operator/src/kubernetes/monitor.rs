//! Asks the balancers of every cluster how their tier does: one long poll each.
//!
//! What is told of a pooler comes from them too, so that a tier with many
//! poolers costs no more than one with few. A tier is looked at again when an
//! answer says something new.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::channel::mpsc;
use kube::runtime::reflector::ObjectRef;
use proxy_core::status::BalancerStatus;
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle, time::Instant};

use super::{
    Cluster,
    observe::{Answer, Answers},
    pods::{Phase, PodView},
};
use crate::{
    api::Component,
    controller::objects::BALANCER_HTTP,
    watch::{Connection, Cursor, Watcher},
};

/// How long a balancer keeps a poll while nothing changes.
const POLL: Duration = Duration::from_secs(30);
/// The same while a change of the configuration is expected to be seen.
const POLL_EXPECTING: Duration = Duration::from_secs(1);
/// Least time between two questions to a balancer.
const PACE: Duration = Duration::from_millis(200);
/// Pause after a balancer did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Failures in a row until a balancer counts as silent.
const SILENT_AFTER: u32 = 3;
/// Transitions of a balancer that wait for a look.
const TRANSITIONS_MAX: usize = 1_000;

/// Follows the balancers of every cluster.
pub(super) struct Monitor {
    watcher: Watcher,
    thread: Handle,
    looks: mpsc::Sender<ObjectRef<Cluster>>,
    tiers: Mutex<HashMap<ObjectRef<Cluster>, Tier>>,
}

#[derive(Default)]
struct Tier {
    followed: HashMap<String, Followed>,
}

/// A balancer's Pod that is being asked.
struct Followed {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Default)]
struct Shared {
    answer: Mutex<Option<Answer>>,
    /// Of the last answer.
    gist: Mutex<String>,
    wanted: Mutex<Wanted>,
    /// Something else is wanted: a poll under way would wait too long.
    other_wanted: Notify,
}

#[derive(Clone, Default, PartialEq)]
struct Wanted {
    /// Revision that the endpoints should come to have.
    revision: Option<String>,
    /// Longest time between two answers.
    interval: Duration,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Monitor {
    /// What asks balancers.
    pub(super) const fn watcher() -> Watcher {
        Watcher::new(POLL, Duration::from_secs(5), POLL)
    }

    /// Begins with no balancer. `thread` asks, `looks` takes the clusters that
    /// should be looked at.
    pub(super) fn new(
        watcher: Watcher,
        thread: Handle,
        looks: mpsc::Sender<ObjectRef<Cluster>>,
    ) -> Self {
        Self {
            watcher,
            thread,
            looks,
            tiers: Mutex::default(),
        }
    }

    /// Follows just the balancers among these Pods. `wanted` is the revision that
    /// they should come to have, `interval` the longest time between two answers.
    pub(super) fn follow(
        &self,
        cluster: &ObjectRef<Cluster>,
        pods: &[PodView],
        wanted: Option<&str>,
        interval: Duration,
    ) {
        let mut tiers = self.tiers.lock().unwrap_or_else(PoisonError::into_inner);
        let tier = tiers.entry(cluster.clone()).or_default();
        let addresses: BTreeMap<&str, SocketAddr> = pods
            .iter()
            .filter(|pod| pod.component == Component::Balancer)
            .filter(|pod| !matches!(pod.phase, Phase::Failed(_)))
            .filter_map(|pod| {
                let address = SocketAddr::new(pod.address?, BALANCER_HTTP);
                Some((pod.uid.as_str(), address))
            })
            .collect();
        tier.followed
            .retain(|uid, followed| addresses.get(uid.as_str()) == Some(&followed.address));
        for (uid, address) in addresses {
            let followed = tier
                .followed
                .entry(uid.to_owned())
                .or_insert_with(|| self.begin(cluster, address));
            followed.shared.want(wanted, interval);
        }
    }

    /// What the balancers of a cluster answered last, without their transitions.
    pub(super) fn answers(&self, cluster: &ObjectRef<Cluster>) -> Answers {
        self.each(cluster, |answer| match answer {
            Answer::Said(status) => {
                let transitions = std::mem::take(&mut status.transitions);
                let bare = status.clone();
                status.transitions = transitions;
                Answer::Said(bare)
            }
            Answer::Silent(why) => Answer::Silent(why.clone()),
        })
    }

    /// The same with all transitions that were not taken yet.
    pub(super) fn take(&self, cluster: &ObjectRef<Cluster>) -> Answers {
        self.each(cluster, |answer| match answer {
            Answer::Said(status) => {
                let transitions = std::mem::take(&mut status.transitions);
                let missed = std::mem::take(&mut status.missed);
                let status = BalancerStatus {
                    transitions,
                    missed,
                    ..(**status).clone()
                };
                Answer::Said(Box::new(status))
            }
            Answer::Silent(why) => Answer::Silent(why.clone()),
        })
    }

    fn each(&self, cluster: &ObjectRef<Cluster>, view: impl Fn(&mut Answer) -> Answer) -> Answers {
        let tiers = self.tiers.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = tiers.get(cluster).map(|tier| &tier.followed);
        let answers = followed.into_iter().flatten().filter_map(|(uid, one)| {
            let answer = &one.shared.answer;
            let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
            Some((uid.clone(), view(answer.as_mut()?)))
        });
        answers.collect()
    }

    /// Forgets clusters that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(&ObjectRef<Cluster>) -> bool) {
        let mut tiers = self.tiers.lock().unwrap_or_else(PoisonError::into_inner);
        tiers.retain(|cluster, _| is_there(cluster));
    }

    fn begin(&self, cluster: &ObjectRef<Cluster>, address: SocketAddr) -> Followed {
        let shared = Arc::new(Shared::default());
        let follow = follow(
            self.watcher.clone(),
            address,
            shared.clone(),
            self.looks.clone(),
            cluster.clone(),
        );
        Followed {
            address,
            shared,
            task: self.thread.spawn(follow).abort_handle(),
        }
    }
}

/// Asks one balancer for ever.
async fn follow(
    watcher: Watcher,
    address: SocketAddr,
    shared: Arc<Shared>,
    mut looks: mpsc::Sender<ObjectRef<Cluster>>,
    cluster: ObjectRef<Cluster>,
) {
    let mut connection = Connection::to(address);
    let mut cursor: Option<Cursor> = None;
    let mut said = None;
    let mut failures = 0;
    loop {
        let begin = Instant::now();
        // One that did not answer is asked at once, not waited for.
        let answers = cursor.is_some() && failures == 0;
        let wait = answers.then(|| shared.wait());
        let answer = tokio::select! {
            biased;
            () = shared.other_wanted.notified() => continue,
            answer = watcher.news(&mut connection, cursor.as_ref(), &mut said, wait) => answer,
        };
        let next = match answer {
            Ok(None) => {
                failures = 0;
                begin + PACE
            }
            Ok(Some(status)) => {
                failures = 0;
                cursor = Some(Cursor::after(&status));
                if shared.take(Answer::Said(Box::new(status))) {
                    look(&mut looks, &cluster).await;
                }
                begin + PACE
            }
            Err(why) => {
                failures += 1;
                if failures >= SILENT_AFTER && shared.take(Answer::Silent(why)) {
                    look(&mut looks, &cluster).await;
                }
                Instant::now() + RETRY
            }
        };
        tokio::time::sleep_until(next).await;
    }
}

/// Has a cluster looked at.
pub(super) async fn look(
    looks: &mut mpsc::Sender<ObjectRef<Cluster>>,
    cluster: &ObjectRef<Cluster>,
) {
    use futures::SinkExt as _;
    // Without a controller there is nobody to look.
    let _ = looks.send(cluster.clone()).await;
}

impl Shared {
    /// Sets the revision that the endpoints should come to have, and how often
    /// they are to answer at least.
    fn want(&self, revision: Option<&str>, interval: Duration) {
        let new = Wanted {
            revision: revision.map(str::to_owned),
            interval,
        };
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *wanted != new {
            *wanted = new;
            self.other_wanted.notify_one();
        }
    }

    /// How long the next poll may last.
    fn wait(&self) -> Duration {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = wanted.interval.min(POLL);
        match (&wanted.revision, &*answer) {
            (Some(wanted), Some(Answer::Said(status))) if !has(status, wanted) => {
                longest.min(POLL_EXPECTING)
            }
            _ => longest,
        }
    }

    /// Keeps an answer. True if it says something that the one before did not.
    fn take(&self, mut answer: Answer) -> bool {
        let gist = gist(&answer);
        let mut last = self.gist.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = *last != gist;
        *last = gist;
        let mut before = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Answer::Said(status) = &mut answer {
            news |= !status.transitions.is_empty();
            if let Some(Answer::Said(before)) = &mut *before {
                put_before(before, status);
            }
        }
        *before = Some(answer);
        news
    }
}

/// Puts the transitions that nobody has taken yet before the new ones.
fn put_before(before: &mut BalancerStatus, status: &mut BalancerStatus) {
    if before.boot_id != status.boot_id {
        return;
    }
    let known = before.transitions.last().map_or(0, |last| last.number);
    let mut transitions = std::mem::take(&mut before.transitions);
    let new = status.transitions.drain(..);
    transitions.extend(new.filter(|transition| transition.number > known));
    let surplus = transitions.len().saturating_sub(TRANSITIONS_MAX);
    transitions.drain(..surplus);
    status.missed |= before.missed || surplus > 0;
    status.transitions = transitions;
}

/// Whether everyone that a balancer knows has a revision.
fn has(status: &BalancerStatus, wanted: &str) -> bool {
    let own = status.config_revision.as_deref();
    let targets = status
        .targets
        .iter()
        .filter_map(|target| target.report.as_ref());
    let mut all = targets.map(|report| report.config_revision.as_deref());
    own == Some(wanted) && all.all(|revision| revision == Some(wanted))
}

/// What of an answer matters to status: counts of connections change all the time.
fn gist(answer: &Answer) -> String {
    match answer {
        Answer::Silent(_) => "silent".to_owned(),
        Answer::Said(status) => {
            let BalancerStatus {
                boot_id,
                state,
                config_revision,
                ..
            } = &**status;
            let mut gist = format!("{boot_id} {state:?} {config_revision:?}");
            for target in &status.targets {
                let report = target.report.as_ref();
                gist.push_str(&format!(
                    "|{} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
                    target.address,
                    target.state,
                    report.map(|report| &report.boot_id),
                    report.map(|report| report.state),
                    report.map(|report| &report.config_revision),
                    report.map(|report| report.upstream),
                    report.map(|report| report.saturation),
                    report.map(|report| &report.version),
                ));
            }
            gist
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Serves one poll and says which revision is in force; the query is returned.
    async fn answer(listener: &tokio::net::TcpListener, revision: &str) -> String {
        let (mut connection, query) = poll(listener).await;
        let status = json!({
            "version": "1", "bootId": "b1", "state": "ready", "startedAt": "2026-01-01T00:00:00Z",
            "connections": 0, "maxConnections": 1, "targets": [], "transitions": [],
            "newest": 0, "missed": false, "configRevision": revision,
        })
        .to_string();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
        let answer = format!("{head} {}\r\n\r\n{status}", status.len());
        connection.write_all(answer.as_bytes()).await.unwrap();
        query
    }

    /// A status with transitions of these numbers, of a process of this name.
    fn status(boot_id: &str, numbers: std::ops::RangeInclusive<u64>) -> Answer {
        let newest = *numbers.end();
        let transitions: Vec<_> = numbers
            .map(|number| {
                json!({
                    "number": number, "at": "2026-01-01T00:00:00Z", "target": "10.0.0.1:6432",
                    "from": "Up", "to": "Down", "restarted": false, "reason": "", "up": 0, "total": 1,
                })
            })
            .collect();
        let status = json!({
            "version": "1", "bootId": boot_id, "state": "ready", "startedAt": "2026-01-01T00:00:00Z",
            "connections": 0, "maxConnections": 1, "targets": [], "transitions": transitions,
            "newest": newest, "missed": false,
        });
        Answer::Said(serde_json::from_value(status).unwrap())
    }

    /// Numbers of the transitions that wait, and whether some are missing.
    fn waiting(shared: &Shared) -> (Vec<u64>, bool) {
        match &*shared.answer.lock().unwrap() {
            Some(Answer::Said(status)) => {
                let numbers = status.transitions.iter().map(|one| one.number);
                (numbers.collect(), status.missed)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn transitions_wait_until_they_are_taken() {
        let shared = Shared::default();
        assert!(shared.take(status("a", 1..=2)));
        assert!(shared.take(status("a", 2..=3)), "a new one is news");
        assert_eq!(waiting(&shared), (vec![1, 2, 3], false));
        // Another process begins to count anew: levels must do.
        shared.take(status("b", 1..=1));
        assert_eq!(waiting(&shared), (vec![1], false));
        shared.take(status("b", 2..=2_000));
        let (numbers, missed) = waiting(&shared);
        let bounds = (numbers.len(), numbers[0], missed);
        assert_eq!(bounds, (TRANSITIONS_MAX, 1_001, true));
    }

    async fn poll(listener: &tokio::net::TcpListener) -> (tokio::net::TcpStream, String) {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = connection.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            // Of a connection that was opened and not needed there is none.
            if let Some(line) = request.lines().next() {
                return (connection, line.to_owned());
            }
        }
    }

    #[tokio::test]
    async fn a_poll_under_way_does_not_keep_a_new_revision_from_being_seen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (looks, mut to_look) = mpsc::channel(4);
        let watcher = Monitor::watcher();
        let shared = Arc::<Shared>::default();
        shared.want(Some("a"), POLL);
        let cluster = ObjectRef::new("shop");
        let task = tokio::spawn(follow(watcher, address, shared.clone(), looks, cluster));
        answer(&listener, "a").await;
        to_look.next().await.unwrap();
        // Nothing is expected to change: the next poll is a long one.
        let (_long, query) = poll(&listener).await;
        assert!(query.contains("wait=30s"), "{query}");
        shared.want(Some("b"), POLL);
        let limit = Duration::from_secs(20);
        let query = tokio::time::timeout(limit, answer(&listener, "a")).await;
        assert!(query.unwrap().contains("wait=1s"));
        answer(&listener, "b").await;
        to_look.next().await.unwrap();
        task.abort();
    }
}
