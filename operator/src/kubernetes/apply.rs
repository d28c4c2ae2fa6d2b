//! The writes of children, but for the Secret that they share
//! ([`super::secrets`]).
//!
//! A child that is not there is created; one that the cluster controls is
//! server-side applied, with its uid, so that another one of its name is never
//! touched; one that somebody else controls is a conflict of names. What is as
//! it was left is not written again: its uid and version say so.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta};
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::DynamicObject,
};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{
    children::{Child, ChildKind},
    client,
    error::{CallError, CallResult, Kind},
    fence::Fence,
    stores::{Stores, controller},
    template::Templates,
};
use crate::{api::KIND, controller::objects::Objects};

/// Who writes, in every object's managedFields.
pub(super) const FIELD_MANAGER: &str = "poolkeeper-operator";

/// How often in a row somebody else may write in between, where it is tried again
/// at once.
const CONFLICTS_MAX: u32 = 4;

/// What was left of each child when it was last written or found as wanted.
#[derive(Debug, Default)]
pub(super) struct Left(HashMap<(ChildKind, String), Version>);

impl Left {
    /// The generation of a child as it was left.
    pub(super) fn generation(&self, kind: ChildKind, name: &str) -> Option<i64> {
        self.0.get(&(kind, name.to_owned()))?.generation
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    /// Of what was wanted. Never shown.
    wanted: [u8; 32],
    uid: Option<String>,
    /// Changes with every write.
    resource_version: Option<String>,
    /// Changes with what is wished of it; not every kind has one.
    generation: Option<i64>,
}

/// Why not everything is as wanted.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// There is an object of that name that the cluster does not control.
    #[error(
        "{child} exists and is not controlled by this PgPoolCluster; \
         delete or rename it, or rename the cluster"
    )]
    NameConflict { child: String },
    /// The system gives no random numbers, so that no key can be made.
    #[error("this system gives no random numbers")]
    NoRandomness,
    #[error(transparent)]
    Call(#[from] CallError),
}

impl ApplyError {
    /// What an object means that `cluster` needs and does not control. Those of a
    /// cluster of the same name before it are still being removed.
    pub(super) fn conflict(child: String, found: &ObjectMeta, cluster: &str) -> Self {
        let former =
            controller(found).is_some_and(|owner| owner.kind == KIND && owner.name == cluster);
        if !former {
            return Self::NameConflict { child };
        }
        Self::Call(CallError::Refused {
            what: format!("apply {child}"),
            code: 409,
            text: "that of the PgPoolCluster of this name before is still being removed".to_owned(),
        })
    }
}

/// One cluster's children and how they are written.
pub(super) struct Applier<'a> {
    pub(super) client: &'a Client,
    pub(super) fence: &'a Fence,
    pub(super) stores: &'a Stores,
    pub(super) namespace: &'a str,
    /// Name of the cluster.
    pub(super) cluster: &'a str,
    /// Of the cluster.
    pub(super) uid: &'a str,
    pub(super) left: &'a mut Left,
    /// Pod templates that stay as they are.
    pub(super) templates: &'a Templates,
}

impl Applier<'_> {
    /// Brings a tier's children to what is wanted, in order, and removes those
    /// that are no longer wanted, but for those that `keep` names.
    ///
    /// # Errors
    /// The first that could not be brought there; those after it are as they
    /// were.
    pub(super) async fn apply(
        &mut self,
        objects: &Objects,
        keep: impl Fn(ChildKind, &str) -> bool,
    ) -> Result<(), ApplyError> {
        let mut children = super::children::children(objects);
        for child in &mut children {
            self.templates.put_into(child);
        }
        for child in &children {
            self.bring(child).await?;
        }
        for (kind, found) in self.stores.owned(self.namespace, self.uid) {
            let name = found.name.as_deref().unwrap_or_default();
            let wanted = children
                .iter()
                .any(|child| child.kind == kind && child.name == name);
            if !wanted && found.deletion_timestamp.is_none() && !keep(kind, name) {
                self.remove(kind, &found).await?;
            }
        }
        self.left.0.retain(|(kind, name), _| {
            children
                .iter()
                .any(|child| child.kind == *kind && child.name == *name)
        });
        Ok(())
    }

    async fn bring(&mut self, child: &Child) -> Result<(), ApplyError> {
        let wanted = fingerprint(child);
        let key = (child.kind, child.name.clone());
        let known = self.stores.child(child.kind, self.namespace, &child.name);
        if let Some(found) = &known
            && let Some(left) = self.left.0.get(&key)
            && left.wanted == wanted
            && as_left(left, found, child)
        {
            return Ok(());
        }
        let found = match known {
            Some(found) => Some(found),
            // The store may lag behind.
            None => self.look(child).await?,
        };
        let now = match found {
            None => self.create(child).await?,
            Some(found) if self.controls(&found) => self.write(child, &found).await?,
            Some(found) => return Err(self.conflict(child.title(), &found)),
        };
        self.left.0.insert(
            key,
            Version {
                wanted,
                uid: now.uid,
                resource_version: now.resource_version,
                generation: now.generation,
            },
        );
        Ok(())
    }

    fn controls(&self, found: &ObjectMeta) -> bool {
        controller(found).is_some_and(|owner| owner.uid == self.uid)
    }

    fn conflict(&self, child: String, found: &ObjectMeta) -> ApplyError {
        ApplyError::conflict(child, found, self.cluster)
    }

    async fn look(&self, child: &Child) -> CallResult<Option<ObjectMeta>> {
        let api = child.kind.api(self.client, self.namespace);
        let what = format!("get {}", child.title());
        let found = client::read(&what, api.get_metadata_opt(&child.name)).await?;
        Ok(found.map(|found| found.metadata))
    }

    async fn create(&mut self, child: &Child) -> Result<ObjectMeta, ApplyError> {
        let api = child.kind.api(self.client, self.namespace);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let object: DynamicObject =
            serde_json::from_value(child.object.clone()).expect("it was one of ours");
        let what = format!("create {}", child.title());
        match client::write(self.fence, &what, api.create(&params, &object)).await {
            // What was created is what is wanted.
            Ok(created) => Ok(self.take_fields(child, created.metadata).await?.into()),
            // Somebody was faster: perhaps we ourselves, and the answer was lost.
            Err(error) if error.kind() == Kind::Conflict => match self.look(child).await? {
                Some(found) if self.controls(&found) => self.write(child, &found).await,
                Some(found) => Err(self.conflict(child.title(), &found)),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn write(&mut self, child: &Child, found: &ObjectMeta) -> Result<ObjectMeta, ApplyError> {
        let written = self.patch(child, found).await?;
        Ok(match self.take_fields(child, written).await? {
            Taken::Whole(metadata) => metadata,
            Taken::Stale(metadata) => self.patch(child, &metadata).await?,
        })
    }

    async fn patch(&mut self, child: &Child, found: &ObjectMeta) -> CallResult<ObjectMeta> {
        let api = child.kind.api(self.client, self.namespace);
        let mut object = child.object.clone();
        // Another object of this name would be a conflict, not overwritten.
        object["metadata"]["uid"] = json!(found.uid);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let what = format!("apply {}", child.title());
        let patch = Patch::Apply(&object);
        let call = api.patch(&child.name, &params, &patch);
        Ok(client::write(self.fence, &what, call).await?.metadata)
    }

    /// Fields that a creation set belong to a manager of another operation than
    /// those that are applied, and would stay when they are no longer wanted.
    /// What the creation set becomes what was applied.
    /// Source: <https://kubernetes.io/docs/reference/using-api/server-side-apply/#upgrading-from-client-side-apply-to-server-side-apply>
    async fn take_fields(&mut self, child: &Child, mut found: ObjectMeta) -> CallResult<Taken> {
        let mut tries = 0;
        loop {
            match self.try_to_take_fields(child, &found).await {
                // Controllers write the status of what was just made.
                Err(error) if error.kind() == Kind::Conflict && tries < CONFLICTS_MAX => {
                    tries += 1;
                    match self.look(child).await? {
                        Some(now) if now.uid == found.uid => found = now,
                        _ => return Err(error),
                    }
                }
                Ok(None) => return Ok(Taken::Whole(found)),
                Ok(Some(taken)) => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
    }

    /// `None` where there is nothing to take.
    async fn try_to_take_fields(
        &mut self,
        child: &Child,
        found: &ObjectMeta,
    ) -> CallResult<Option<Taken>> {
        let entries = found.managed_fields.as_deref().unwrap_or_default();
        let Some((entries, both)) = taken(entries) else {
            return Ok(None);
        };
        let api = child.kind.api(self.client, self.namespace);
        let patch = json!({"metadata": {
            "resourceVersion": found.resource_version,
            "managedFields": entries,
        }});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let what = format!("take the fields of {}", child.title());
        let patch = Patch::Merge(&patch);
        let call = api.patch_metadata(&child.name, &params, &patch);
        let metadata = client::write(self.fence, &what, call).await?.metadata;
        Ok(Some(match both {
            true => Taken::Stale(metadata),
            false => Taken::Whole(metadata),
        }))
    }

    /// Removes a child, if it is still the one that was found.
    ///
    /// # Errors
    /// What the server answered, or that it did not.
    pub(super) async fn remove(&mut self, kind: ChildKind, found: &ObjectMeta) -> CallResult<()> {
        let name = found.name.as_deref().unwrap_or_default();
        let api = kind.api(self.client, self.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: found.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        let what = format!("delete {} {name}", kind.word());
        match client::write(self.fence, &what, api.delete(name, &params)).await {
            Err(error) if error.kind() == Kind::Gone => Ok(()),
            answer => answer.map(|_| ()),
        }
    }
}

/// Whether an object is as it was left: what changes by itself, as a status
/// does, does not count.
fn as_left(left: &Version, found: &ObjectMeta, child: &Child) -> bool {
    if left.uid != found.uid {
        return false;
    }
    if left.resource_version == found.resource_version {
        return true;
    }
    let wanted = &child.object["metadata"];
    left.generation.is_some()
        && left.generation == found.generation
        && has_all(found.labels.as_ref(), &wanted["labels"])
        && has_all(found.annotations.as_ref(), &ours(&wanted["annotations"]))
        && is_controlled(found, wanted)
}

/// Others' annotations are not kept of what is watched, so they are not compared.
fn ours(annotations: &Json) -> Json {
    let annotations = annotations.as_object().into_iter().flatten();
    annotations
        .filter(|(key, _)| key.starts_with("poolkeeper.dev/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn has_all(found: Option<&BTreeMap<String, String>>, wanted: &Json) -> bool {
    let mut wanted = wanted.as_object().into_iter().flatten();
    wanted.all(|(key, value)| {
        found.and_then(|found| found.get(key)).map(String::as_str) == value.as_str()
    })
}

fn is_controlled(found: &ObjectMeta, wanted: &Json) -> bool {
    let owner = controller(found).map(|owner| owner.uid.as_str());
    owner == wanted["ownerReferences"][0]["uid"].as_str()
}

/// An object whose fields are ours as applied ones.
enum Taken {
    /// And no others.
    Whole(ObjectMeta),
    /// Some of them may not be wanted any more: apply again.
    Stale(ObjectMeta),
}

impl From<Taken> for ObjectMeta {
    fn from(taken: Taken) -> Self {
        match taken {
            Taken::Whole(metadata) | Taken::Stale(metadata) => metadata,
        }
    }
}

/// The entries with ours for created fields made one for applied fields, and
/// whether there were both, as there are if we ended in between; `None` if there
/// is nothing to do.
fn taken(entries: &[ManagedFieldsEntry]) -> Option<(Vec<ManagedFieldsEntry>, bool)> {
    let of = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    let created = entries.iter().position(|entry| of(entry, "Update"))?;
    let mut entries = entries.to_vec();
    let mut created = entries.remove(created);
    let applied = entries.iter_mut().find(|entry| of(entry, "Apply"));
    let both = applied.is_some();
    match applied {
        Some(applied) => {
            let mut fields = applied
                .fields_v1
                .take()
                .map(|fields| fields.0)
                .unwrap_or_default();
            if let Some(created) = created.fields_v1 {
                merge(&mut fields, created.0);
            }
            applied.fields_v1 = Some(FieldsV1(fields));
        }
        None => {
            created.operation = Some("Apply".to_owned());
            entries.push(created);
        }
    }
    Some((entries, both))
}

/// The union of two trees of fields.
fn merge(into: &mut Json, from: Json) {
    match (into, from) {
        (Json::Object(into), Json::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert_with(|| json!({})), value);
            }
        }
        (into, from) if into.is_null() => *into = from,
        _ => {}
    }
}

fn fingerprint(child: &Child) -> [u8; 32] {
    Sha256::digest(child.object.to_string()).into()
}
