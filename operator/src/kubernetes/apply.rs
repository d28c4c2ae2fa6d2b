//! The writes of children, but for the Secret that they share
//! ([`super::secrets`]).
//!
//! Every write is a server-side apply that says what it expects: nothing of that
//! name, or the object of that uid. So another one of its name is never touched,
//! and all fields are ours from the first write on: one that is no longer wanted
//! goes. What somebody else controls is a conflict of names. What is as it was
//! left is not written again.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    children::{Child, ChildKind},
    client,
    error::{CallError, CallResult, Kind},
    fence::Fence,
    found::{Found, Version},
    stores::Stores,
    template::Templates,
};
use crate::controller::objects::{Objects, is_binding_name};

/// Who writes, in every object's managedFields.
pub(super) const FIELD_MANAGER: &str = "poolkeeper-operator";

/// The version of no object: etcd is empty at 1. What is applied with it is
/// created, or refused where there is one; the API server compares versions only
/// where there is one.
const OF_NONE: (&str, &str) = ("resourceVersion", "1");

/// Conflicts over one child after which it is read again, and written again, within
/// the same look. More come of somebody who goes on writing: the next look's.
const CONFLICTS_MAX: u32 = 3;

/// What was left of each child when it was last written or found as wanted.
#[derive(Debug, Default)]
pub(super) struct Left(HashMap<(ChildKind, String), Written>);

impl Left {
    /// The generation of a child as it was left.
    pub(super) fn generation(&self, kind: ChildKind, name: &str) -> Option<i64> {
        match self.0.get(&(kind, name.to_owned()))?.found.version {
            Version::Generation(generation) => Some(generation),
            Version::Resource(_) => None,
        }
    }
}

#[derive(Debug)]
struct Written {
    /// Hash of what was wanted, which is never shown.
    wanted: [u8; 32],
    /// What the API server answered.
    found: Found,
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
    pub(super) fn conflict(child: String, found: &Found, cluster: &str) -> Self {
        let owner = found.owner.as_ref();
        let former = owner.and_then(|owner| owner.cluster.as_deref()) == Some(cluster);
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
    /// that are no longer wanted, but for those that `keep` names. What only
    /// applications need is left to [`Self::bind`].
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
        let is_wanted = |kind, name: &str| {
            let mut same = children.iter().filter(|one| one.kind == kind);
            same.any(|child| child.name == name)
        };
        let mut unwanted = self.stores.owned(self.namespace, self.uid);
        unwanted.retain(|(kind, found)| {
            !found.is_ending && !is_wanted(*kind, &found.name) && !keep(*kind, &found.name)
        });
        // A user's password goes with the user, whatever becomes of the rest.
        let (passwords, others): (Vec<_>, Vec<_>) = unwanted
            .into_iter()
            .partition(|(kind, found)| self.is_binding(*kind, &found.name));
        for (kind, found) in passwords {
            self.remove(kind, &found).await?;
        }
        for child in &children {
            if !self.is_binding(child.kind, &child.name) {
                self.bring(child).await?;
            }
        }
        for (kind, found) in others {
            self.remove(kind, &found).await?;
        }
        self.left.0.retain(|(kind, name), _| is_wanted(*kind, name));
        Ok(())
    }

    /// Brings what applications need to connect to what is wanted.
    ///
    /// # Errors
    /// The first that could not be brought there; the others were.
    pub(super) async fn bind(&mut self, bindings: &[Secret]) -> Result<(), ApplyError> {
        let mut result = Ok(());
        for binding in bindings {
            let brought = self.bring(&super::children::child(binding)).await;
            result = result.and(brought);
        }
        result
    }

    fn is_binding(&self, kind: ChildKind, name: &str) -> bool {
        kind == ChildKind::Secret && is_binding_name(self.cluster, name)
    }

    /// Brings one child to what is wanted.
    ///
    /// # Errors
    /// Why it could not be.
    pub(super) async fn bring(&mut self, child: &Child) -> Result<(), ApplyError> {
        let wanted = fingerprint(child);
        let key = (child.kind, child.name.clone());
        let left = self.left.0.get(&key);
        let is_left =
            |found: &Found| left.is_some_and(|left| left.wanted == wanted && left.found == *found);
        let mut known = match self.stores.child(child.kind, self.namespace, &child.name) {
            // It went, or the store lags behind.
            None if left.is_some() => self.read(child).await?,
            known => known,
        };
        let mut conflicts = 0;
        let found = loop {
            let expected = match &known {
                Some(found) if is_left(found) => return Ok(()),
                Some(found) if !found.belongs_to(self.uid) => {
                    return Err(ApplyError::conflict(child.title(), found, self.cluster));
                }
                Some(found) => ("uid", found.uid.as_deref().unwrap_or_default()),
                None => OF_NONE,
            };
            match self.write(child, expected).await {
                Err(error) if error.kind() == Kind::Conflict && conflicts < CONFLICTS_MAX => {
                    // There is one though none was known, it is another, or somebody
                    // wrote in between.
                    conflicts += 1;
                    known = self.read(child).await?;
                }
                written => break written?,
            }
        };
        self.left.0.insert(key, Written { wanted, found });
        Ok(())
    }

    async fn read(&self, child: &Child) -> CallResult<Option<Found>> {
        let api = child.kind.api(self.client, self.namespace);
        let what = format!("get {}", child.title());
        let found = client::read(&what, api.get_metadata_opt(&child.name)).await?;
        Ok(found.map(|found| Found::of(&found.metadata)))
    }

    /// Applies a child where its metadata has this value, or conflicts.
    async fn write(&self, child: &Child, (field, value): (&str, &str)) -> CallResult<Found> {
        let api = child.kind.api(self.client, self.namespace);
        let mut object = child.object.clone();
        object["metadata"][field] = json!(value);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let what = format!("apply {}", child.title());
        let patch = Patch::Apply(&object);
        let call = api.patch(&child.name, &params, &patch);
        let written = client::write(self.fence, &what, call).await?;
        Ok(Found::of(&written.metadata))
    }

    /// Removes a child, if it is still the one that was found.
    ///
    /// # Errors
    /// What the server answered, or that it did not.
    pub(super) async fn remove(&mut self, kind: ChildKind, found: &Found) -> CallResult<()> {
        let name = found.name.as_str();
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

fn fingerprint(child: &Child) -> [u8; 32] {
    Sha256::digest(child.object.to_string()).into()
}
