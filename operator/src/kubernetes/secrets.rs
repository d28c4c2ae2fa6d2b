//! Reading the Secrets that clusters refer to, and making the one they share.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, Service},
};
use kube::{Api, Client, api::PostParams, runtime::reflector::ObjectRef};

use super::{
    Cluster,
    apply::{ApplyError, FIELD_MANAGER},
    children::ChildKind,
    client,
    error::{CallResult, Kind},
    fence::Fence,
    found::Found,
    stores::Stores,
};
use crate::{
    api::PgPoolCluster,
    controller::{
        dereference::{self, Dereferenced, SecretData, SecretValue},
        objects::{INTERNAL_KEY, Owner, internal_name, internal_secret},
    },
    random,
};

/// Which clusters refer to a Secret: whom to look at when it changes.
#[derive(Debug, Default)]
pub(super) struct References(Mutex<Referred>);

#[derive(Debug, Default)]
struct Referred {
    /// By namespace and name.
    clusters: HashMap<(String, String), HashSet<ObjectRef<Cluster>>>,
    /// The names that each cluster referred to last, so that noting costs as
    /// much as one cluster has, not as much as all have.
    names: HashMap<ObjectRef<Cluster>, Vec<String>>,
}

impl References {
    /// Notes what a cluster refers to now.
    fn note(&self, cluster: &ObjectRef<Cluster>, namespace: &str, names: &[String]) {
        let mut referred = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Referred {
            clusters,
            names: before,
        } = &mut *referred;
        let former = before
            .insert(cluster.clone(), names.to_vec())
            .unwrap_or_default();
        for name in former.into_iter().filter(|name| !names.contains(name)) {
            let key = (namespace.to_owned(), name);
            if let Some(referring) = clusters.get_mut(&key) {
                referring.remove(cluster);
                if referring.is_empty() {
                    clusters.remove(&key);
                }
            }
        }
        for name in names {
            let key = (namespace.to_owned(), name.clone());
            clusters.entry(key).or_default().insert(cluster.clone());
        }
    }

    /// Clusters that refer to a Secret.
    pub(super) fn of(&self, namespace: &str, name: &str) -> Vec<ObjectRef<Cluster>> {
        let referred = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        let referring = referred.clusters.get(&key);
        referring.into_iter().flatten().cloned().collect()
    }

    /// Forgets clusters that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(&ObjectRef<Cluster>) -> bool) {
        let mut referred = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        referred.names.retain(|cluster, _| is_there(cluster));
        referred.clusters.retain(|_, clusters| {
            clusters.retain(&is_there);
            !clusters.is_empty()
        });
    }
}

/// How many Secrets are asked for at once.
const READS_MAX: usize = 8;

/// Reads every Secret that a cluster refers to.
///
/// # Errors
/// If one can neither be read nor be known to be missing.
pub(super) async fn dereference(
    client: &Client,
    namespace: &str,
    cluster: &PgPoolCluster,
    reference: &ObjectRef<Cluster>,
    references: &References,
) -> CallResult<Dereferenced> {
    let dereference::References { secrets, services } = dereference::references(cluster);
    let names: Vec<String> = secrets.into_iter().collect();
    // Before they are read, so that no change is missed.
    references.note(reference, namespace, &names);
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let gets = names.into_iter().map(|name| {
        let api = &api;
        async move {
            let what = format!("get Secret {name}");
            let secret = client::read(&what, api.get_opt(&name)).await?;
            CallResult::Ok((name, secret.map(data)))
        }
    });
    let read: BTreeMap<String, _> = stream::iter(gets)
        .buffer_unordered(READS_MAX)
        .try_collect()
        .await?;
    let mut read = Dereferenced::new(cluster, |name| read.get(name).cloned().flatten());
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    for name in services {
        let what = format!("get Service {name}");
        if client::read(&what, api.get_metadata_opt(&name))
            .await?
            .is_none()
        {
            read.missing_services.insert(name);
        }
    }
    Ok(read)
}

fn data(secret: Secret) -> SecretData {
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(key, ByteString(value))| (key, SecretValue::new(value)))
        .collect()
}

/// The key that the parts of a tier share, as it was read or written last.
#[derive(Default)]
pub(super) struct InternalKey(Option<(Found, SecretValue)>);

impl InternalKey {
    /// The key, unless its Secret is another by now.
    fn current(&self, present: Option<&Found>) -> Option<SecretValue> {
        let (seen, key) = self.0.as_ref()?;
        (present == Some(seen)).then(|| key.clone())
    }
}

/// The key that the parts of a tier share, if there is one.
///
/// # Errors
/// If the server does not say.
pub(super) async fn known_key(
    client: &Client,
    stores: &Stores,
    cluster: &PgPoolCluster,
    namespace: &str,
    last: &mut InternalKey,
) -> CallResult<Option<SecretValue>> {
    let name = internal_name(cluster.metadata.name.as_deref().unwrap_or_default());
    let Some(present) = stores.child(ChildKind::Secret, namespace, &name) else {
        return Ok(None);
    };
    if let Some(key) = last.current(Some(&present)) {
        return Ok(Some(key));
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let what = format!("get Secret {name}");
    let found = client::read(&what, api.get_opt(&name)).await?;
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    last.0 = found.and_then(|found| {
        let seen = Found::of(&found.metadata);
        let key = data(found).remove(INTERNAL_KEY);
        key.filter(|_| seen.belongs_to(uid)).map(|key| (seen, key))
    });
    Ok(last.0.as_ref().map(|(_, key)| key.clone()))
}

/// The key that the parts of a tier share, made when there is none yet. It is read
/// again when its Secret is another than it was.
///
/// # Errors
/// If there is a Secret of that name that is not the cluster's, or the server
/// does not do as asked.
pub(super) async fn internal_key(
    client: &Client,
    fence: &Fence,
    stores: &Stores,
    cluster: &PgPoolCluster,
    namespace: &str,
    last: &mut InternalKey,
) -> Result<SecretValue, ApplyError> {
    let owner = Owner::of(cluster);
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let mut wanted = internal_secret(name, &owner);
    let child = wanted.metadata.name.clone().unwrap_or_default();
    let title = format!("Secret {child}");
    let present = stores.child(ChildKind::Secret, namespace, &child);
    if let Some(key) = last.current(present.as_ref()) {
        return Ok(key);
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut conflict = None;
    for _ in 0..2 {
        let what = format!("get {title}");
        if let Some(found) = client::read(&what, api.get_opt(&child)).await? {
            let seen = Found::of(&found.metadata);
            if !seen.belongs_to(uid) {
                return Err(ApplyError::conflict(title, &seen, name));
            }
            // If somebody emptied it, the resourceVersion keeps two from filling it.
            wanted.metadata.resource_version = found.metadata.resource_version.clone();
            if let Some(key) = data(found).remove(INTERNAL_KEY) {
                last.0 = Some((seen, key.clone()));
                return Ok(key);
            }
        }
        let key = random::key()
            .map_err(|_| ApplyError::NoRandomness)?
            .into_bytes();
        wanted.data = Some([(INTERNAL_KEY.to_owned(), ByteString(key.clone()))].into());
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let what = format!("write {title}");
        let written = if wanted.metadata.resource_version.is_some() {
            client::write(fence, &what, api.replace(&child, &params, &wanted)).await
        } else {
            client::write(fence, &what, api.create(&params, &wanted)).await
        };
        match written {
            Ok(written) => {
                let key = SecretValue::new(key);
                last.0 = Some((Found::of(&written.metadata), key.clone()));
                return Ok(key);
            }
            // Another was faster, or an earlier answer was lost: read it.
            Err(error) if error.kind() == Kind::Conflict => conflict = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(conflict.expect("it was tried").into())
}
