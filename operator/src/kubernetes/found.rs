//! What is known of an object that is there: of its metadata, what matters here.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::KIND;

/// An object of a kind that tiers are made of. Two that are equal say that
/// nothing was done to the object in between but by its own controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) version: Version,
    /// It was told to go.
    pub(super) is_ending: bool,
    /// Who controls it.
    pub(super) owner: Option<Owner>,
    /// Of its labels and of those annotations that may be ours: only whether they
    /// are the same as before is asked, and there are many objects.
    marks: u64,
}

/// What changes with what is wished of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// A status changes nothing of it.
    Generation(i64),
    /// Of kinds without one: every write changes it.
    Resource(Option<String>),
}

/// The owner that controls an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: String,
    /// Its name, if it is a PgPoolCluster.
    pub(super) cluster: Option<String>,
}

impl Found {
    /// What matters of an object's metadata.
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let mut marks = DefaultHasher::new();
        metadata.labels.hash(&mut marks);
        for mark in metadata.annotations.iter().flatten() {
            if is_ours(mark.0) {
                mark.hash(&mut marks);
            }
        }
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone(),
            version: match metadata.generation {
                Some(generation) => Version::Generation(generation),
                None => Version::Resource(metadata.resource_version.clone()),
            },
            is_ending: metadata.deletion_timestamp.is_some(),
            owner: controller(metadata).map(|owner| Owner {
                uid: owner.uid.clone(),
                cluster: (owner.kind == KIND).then(|| owner.name.clone()),
            }),
            marks: marks.finish(),
        }
    }

    /// Whether the owner of this uid controls it.
    pub(super) fn belongs_to(&self, uid: &str) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.uid == uid)
    }
}

/// Whether an annotation may be ours: people, and kubectl, keep whole manifests
/// in others.
pub(super) fn is_ours(annotation: &str) -> bool {
    annotation.starts_with("poolkeeper.dev/")
}

/// The owner that controls an object.
pub(super) fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn found(changes: &Json) -> Found {
        let mut metadata = json!({
            "name": "shop", "uid": "u1", "resourceVersion": "7", "generation": 2,
            "labels": {"a": "1"}, "annotations": {"poolkeeper.dev/a": "1", "other": "1"},
            "ownerReferences": [{"apiVersion": "poolkeeper.dev/v1alpha1", "kind": KIND,
                "name": "shop", "uid": "c1", "controller": true}],
        });
        for (key, value) in changes.as_object().unwrap() {
            metadata[key] = value.clone();
        }
        Found::of(&serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn what_a_status_or_a_stranger_changes_is_no_difference() {
        let before = found(&json!({}));
        assert!(before.belongs_to("c1"));
        for same in [
            json!({"resourceVersion": "8"}),
            json!({"annotations": {"poolkeeper.dev/a": "1", "other": "2", "more": "3"}}),
        ] {
            assert_eq!(found(&same), before, "{same}");
        }
        for other in [
            json!({"generation": 3}),
            json!({"uid": "u2"}),
            json!({"labels": {}}),
            json!({"annotations": {"poolkeeper.dev/a": "2"}}),
            json!({"annotations": {}}),
            json!({"ownerReferences": []}),
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ] {
            assert_ne!(found(&other), before, "{other}");
        }
    }

    #[test]
    fn every_write_is_a_difference_where_there_is_no_generation() {
        let of = |version: &str| found(&json!({"generation": null, "resourceVersion": version}));
        assert_eq!(of("7"), of("7"));
        assert_ne!(of("7"), of("8"));
    }
}
