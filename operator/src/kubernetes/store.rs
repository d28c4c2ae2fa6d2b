//! Objects of one kind as a watch tells of them, by name and by whom they belong
//! to: what a look asks for costs as much as one cluster has, not as much as all.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Arc, PoisonError, RwLock},
};

use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use kube::{
    Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::sync::watch;

use super::{
    found::controller,
    stores::{backoff, instance},
};
use crate::api::KIND;

/// An object that appeared, changed in what is kept of it, or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The clusters that it belongs to, or did.
    pub(super) clusters: BTreeSet<String>,
}

/// What is kept of the objects of a kind; clones share it.
pub(super) struct Store<V> {
    kind: &'static str,
    kept: Arc<RwLock<Kept<V>>>,
    listed: watch::Receiver<bool>,
}

/// What a watch tells of goes in here.
pub(super) struct Writer<V> {
    kept: Arc<RwLock<Kept<V>>>,
    /// A list that is being read, and then replaces what is kept.
    list: Kept<V>,
    /// What of it is not kept.
    unkept: Vec<Touched>,
    listed: watch::Sender<bool>,
}

/// Namespace and name, or namespace and group.
type Key = (String, String);

struct Kept<V> {
    objects: HashMap<Key, Entry<V>>,
    groups: HashMap<Key, Vec<Arc<V>>>,
}

struct Entry<V> {
    value: Arc<V>,
    group: Option<String>,
    clusters: BTreeSet<String>,
}

/// A store of a kind, and what fills it.
pub(super) fn store<V: PartialEq>(kind: &'static str) -> (Store<V>, Writer<V>) {
    let kept = Arc::<RwLock<Kept<V>>>::default();
    let (sender, listed) = watch::channel(false);
    let writer = Writer {
        kept: kept.clone(),
        list: Kept::default(),
        unkept: Vec::new(),
        listed: sender,
    };
    (Store { kind, kept, listed }, writer)
}

/// Keeps what `keep` makes of each object, and tells which were touched. What it
/// makes nothing of is not kept, and touched all the same.
pub(super) fn follow<K, V>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    keep: impl Fn(K) -> Option<(V, Option<String>)> + Send + 'static,
) -> (Store<V>, BoxStream<'static, Touched>)
where
    K: Resource<DynamicType = ()> + Send + 'static,
    V: PartialEq + Send + Sync + 'static,
{
    let kind = match K::kind(&()) {
        Cow::Borrowed(kind) => kind,
        Cow::Owned(_) => "objects",
    };
    let (store, mut writer) = store(kind);
    let touched = events.backoff(backoff()).flat_map(move |event| {
        let touched = match event {
            Ok(event) => writer.take(event, &keep),
            Err(error) => {
                tracing::debug!(kind, %error, "a watch");
                Vec::new()
            }
        };
        stream::iter(touched)
    });
    (store, touched.boxed())
}

impl<V> Clone for Store<V> {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            kept: self.kept.clone(),
            listed: self.listed.clone(),
        }
    }
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            groups: HashMap::new(),
        }
    }
}

impl<V> Store<V> {
    /// What is kept of an object, if there is one of that name.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<V>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let found = kept.objects.get(&key(namespace, name))?;
        Some(found.value.clone())
    }

    /// What is kept of the objects of a group.
    pub(super) fn group(&self, namespace: &str, group: &str) -> Vec<Arc<V>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let found = kept.groups.get(&key(namespace, group));
        found.cloned().unwrap_or_default()
    }

    /// Waits until all objects have been listed once. Everyone who waits is woken.
    pub(super) async fn listed(&self) {
        // A writer that is gone takes its readers with it: nobody waits then.
        let _ = self.listed.clone().wait_for(|listed| *listed).await;
    }

    /// The kind, if its objects have not been listed yet.
    pub(super) fn unlisted(&self) -> Option<&'static str> {
        (!*self.listed.borrow()).then_some(self.kind)
    }
}

impl<V: PartialEq> Writer<V> {
    /// Takes what the watch told, and says what was touched.
    pub(super) fn take<K: Resource>(
        &mut self,
        event: Event<K>,
        keep: impl Fn(K) -> Option<(V, Option<String>)>,
    ) -> Vec<Touched> {
        match event {
            Event::Init => {
                self.list = Kept::default();
                self.unkept.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let place = Touched::of(&object);
                match keep(object) {
                    Some(kept) => {
                        let entry = Entry::new(kept, place.clusters.clone());
                        self.list.put(&place, Some(entry));
                    }
                    None => self.unkept.push(place),
                }
                // Whoever looks now would see what was there before.
                Vec::new()
            }
            Event::InitDone => self.replace_all(),
            Event::Apply(object) => {
                let place = Touched::of(&object);
                let kept = keep(object).map(|kept| Entry::new(kept, place.clusters.clone()));
                self.replace(place, kept)
            }
            Event::Delete(object) => self.replace(Touched::of(&object), None),
        }
    }

    /// The list is whole: it takes the place of what is kept.
    fn replace_all(&mut self) -> Vec<Touched> {
        let list = mem::take(&mut self.list);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = mem::replace(&mut *kept, list).objects;
        // Whether these changed cannot be said.
        let mut touched = mem::take(&mut self.unkept);
        for (at, now) in &kept.objects {
            let mut clusters = now.clusters.clone();
            match before.remove(at) {
                Some(before) if now.says_as_much_as(&before) => continue,
                Some(before) => clusters.extend(before.clusters),
                None => {}
            }
            touched.push(Touched::at(at, clusters));
        }
        // What went while nobody watched is in no list.
        let gone = before.into_iter();
        touched.extend(gone.map(|(at, entry)| Touched::at(&at, entry.clusters)));
        drop(kept);
        self.listed.send_replace(true);
        touched
    }

    fn replace(&mut self, mut place: Touched, now: Option<Entry<V>>) -> Vec<Touched> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let is_kept = now.is_some();
        let before = kept.put(&place, now);
        let Some(before) = before else {
            return vec![place];
        };
        let now = kept.objects.get(&key(&place.namespace, &place.name));
        if is_kept && now.is_some_and(|now| now.says_as_much_as(&before)) {
            return Vec::new();
        }
        place.clusters.extend(before.clusters);
        vec![place]
    }
}

impl<V> Kept<V> {
    /// Puts an entry in place of the one before, or none, and returns that.
    fn put(&mut self, place: &Touched, entry: Option<Entry<V>>) -> Option<Entry<V>> {
        let at = key(&place.namespace, &place.name);
        let new = entry
            .as_ref()
            .and_then(|entry| Some((entry.group.clone()?, entry.value.clone())));
        let before = match entry {
            Some(entry) => self.objects.insert(at, entry),
            None => self.objects.remove(&at),
        };
        if let Some(before) = &before
            && let Some(group) = &before.group
        {
            let group = key(&place.namespace, group);
            if let Some(values) = self.groups.get_mut(&group) {
                values.retain(|value| !Arc::ptr_eq(value, &before.value));
                if values.is_empty() {
                    self.groups.remove(&group);
                }
            }
        }
        if let Some((group, value)) = new {
            let group = (place.namespace.clone(), group);
            self.groups.entry(group).or_default().push(value);
        }
        before
    }
}

impl<V: PartialEq> Entry<V> {
    fn new((value, group): (V, Option<String>), clusters: BTreeSet<String>) -> Self {
        Self {
            value: Arc::new(value),
            group,
            clusters,
        }
    }

    fn says_as_much_as(&self, before: &Self) -> bool {
        self.value == before.value && self.group == before.group && self.clusters == before.clusters
    }
}

impl Touched {
    fn at((namespace, name): &Key, clusters: BTreeSet<String>) -> Self {
        Self {
            namespace: namespace.clone(),
            name: name.clone(),
            clusters,
        }
    }

    /// Clusters are found by owner, and by label: an owner that is taken away is
    /// to be noticed too.
    fn of<K: Resource>(object: &K) -> Self {
        let owner = controller(object.meta()).filter(|owner| owner.kind == KIND);
        let owner = owner.map(|owner| owner.name.as_str());
        let names = owner.into_iter().chain(instance(object));
        Self {
            clusters: names.map(str::to_owned).collect(),
            namespace: object.meta().namespace.clone().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
        }
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    /// A Pod of a cluster, on a node.
    fn pod(name: &str, cluster: &str, node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name,
                "labels": {"app.kubernetes.io/instance": cluster}},
            "spec": {"containers": [], "nodeName": node},
        }))
        .unwrap()
    }

    /// Keeps the node, and nothing of Pods that have none.
    fn node(pod: Pod) -> Option<(String, Option<String>)> {
        let cluster = instance(&pod).map(str::to_owned);
        let node = pod.spec?.node_name?;
        (!node.is_empty()).then_some((node, cluster))
    }

    fn clusters(touched: &[Touched]) -> Vec<(&str, Vec<&str>)> {
        let touched = touched.iter();
        touched
            .map(|one| {
                let clusters = one.clusters.iter().map(String::as_str);
                (one.name.as_str(), clusters.collect())
            })
            .collect()
    }

    fn nodes(store: &Store<String>, cluster: &str) -> Vec<String> {
        let nodes = store.group("n", cluster);
        let mut nodes: Vec<_> = nodes.iter().map(|node| (**node).clone()).collect();
        nodes.sort();
        nodes
    }

    #[test]
    fn objects_are_found_by_name_and_by_cluster_as_they_come_change_and_go() {
        let (store, mut writer) = store::<String>("Pod");
        let take = |writer: &mut Writer<String>, event| writer.take(event, node);
        let touched = take(&mut writer, Event::Apply(pod("a", "shop", "1")));
        assert_eq!(clusters(&touched), [("a", vec!["shop"])]);
        take(&mut writer, Event::Apply(pod("b", "shop", "2")));
        take(&mut writer, Event::Apply(pod("c", "other", "3")));
        assert_eq!(nodes(&store, "shop"), ["1", "2"]);
        assert_eq!(*store.get("n", "c").unwrap(), "3");
        assert!(store.get("m", "c").is_none());
        // What is kept of it is the same.
        let touched = take(&mut writer, Event::Apply(pod("a", "shop", "1")));
        assert_eq!(touched, []);
        let touched = take(&mut writer, Event::Apply(pod("a", "shop", "4")));
        assert_eq!(clusters(&touched), [("a", vec!["shop"])]);
        assert_eq!(nodes(&store, "shop"), ["2", "4"]);
        // Both clusters want to know of one that changes hands.
        let touched = take(&mut writer, Event::Apply(pod("a", "other", "4")));
        assert_eq!(clusters(&touched), [("a", vec!["other", "shop"])]);
        assert_eq!(nodes(&store, "shop"), ["2"]);
        assert_eq!(nodes(&store, "other"), ["3", "4"]);
        // Of one that is done with nothing is kept.
        let touched = take(&mut writer, Event::Apply(pod("b", "shop", "")));
        assert_eq!(clusters(&touched), [("b", vec!["shop"])]);
        assert!(store.get("n", "b").is_none() && nodes(&store, "shop").is_empty());
        let touched = take(&mut writer, Event::Delete(pod("c", "other", "3")));
        assert_eq!(clusters(&touched), [("c", vec!["other"])]);
        assert_eq!(nodes(&store, "other"), ["4"]);
    }

    #[test]
    fn a_list_replaces_what_was_kept_once_it_is_whole() {
        let (store, mut writer) = store::<String>("Pod");
        let mut take = |event| writer.take(event, node);
        take(Event::Apply(pod("a", "shop", "1")));
        take(Event::Apply(pod("b", "shop", "2")));
        take(Event::Init);
        take(Event::InitApply(pod("x", "shop", "9")));
        assert_eq!(nodes(&store, "shop"), ["1", "2"], "half a list is none");
        // The list broke off; the next one begins anew.
        take(Event::Init);
        for one in [
            pod("b", "shop", "3"),
            pod("c", "shop", "4"),
            pod("d", "other", ""),
        ] {
            let touched = take(Event::InitApply(one));
            assert_eq!(touched, [], "who looks now sees what was before");
        }
        let mut touched = clusters(&take(Event::InitDone))
            .into_iter()
            .map(|(name, clusters)| (name.to_owned(), clusters.join(",")))
            .collect::<Vec<_>>();
        touched.sort();
        // One has gone, one has changed, one is new, of one nothing is kept.
        let told = [("a", "shop"), ("b", "shop"), ("c", "shop"), ("d", "other")];
        assert_eq!(touched, told.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(nodes(&store, "shop"), ["3", "4"]);
        take(Event::Init);
        take(Event::InitApply(pod("b", "shop", "3")));
        take(Event::InitApply(pod("c", "shop", "4")));
        assert_eq!(take(Event::InitDone), [], "nothing has changed");
        assert!(store.get("n", "a").is_none() && store.get("n", "x").is_none());
    }

    #[tokio::test]
    async fn everyone_who_waits_is_woken_when_all_is_known() {
        let (store, mut writer) = store::<String>("Pod");
        let wait = || {
            let store = store.clone();
            tokio::spawn(async move { store.listed().await })
        };
        let waiters: Vec<_> = (0..16).map(|_| wait()).collect();
        // All of them wait before anything is listed.
        tokio::task::yield_now().await;
        writer.take(Event::Init, node);
        assert_eq!(store.unlisted(), Some("Pod"));
        assert!(!waiters.iter().any(tokio::task::JoinHandle::is_finished));
        writer.take(Event::InitDone, node);
        assert_eq!(store.unlisted(), None);
        let all = futures::future::join_all(waiters);
        let limit = Duration::from_secs(30);
        for one in tokio::time::timeout(limit, all).await.unwrap() {
            one.unwrap();
        }
    }
}
