//! Which Pod templates stay as they are.
//!
//! A newer operator may make other Pods of the same wishes: with one more
//! variable, say, or another probe. While nobody asked for what is newer and
//! nothing else was wished of the Pods, their Deployment keeps the template that
//! it has, so that no Pod is replaced for the operator's sake. What an operator
//! rendered itself it renders anew with every look, which puts right what others
//! changed.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Client;
use proxy_core::config::settings::Release;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{
    children::{Child, ChildKind},
    client,
    error::CallResult,
    found::controller,
    rollout::{UPDATE, annotation, is_update_asked},
    stores::Stores,
};
use crate::{
    api::{Component, PgPoolCluster},
    controller::{
        build::{Tier, template_inputs},
        objects::{Objects, is_settings_name},
    },
};

/// Annotation of a Deployment: what was wished of its Pods.
const INPUTS: &str = "poolkeeper.dev/template-inputs";
/// Annotation of a Deployment: what was made of it.
const RENDERING: &str = "poolkeeper.dev/template-hash";
/// Annotation of a Deployment: the version of the operator that made it.
const RENDERED_BY: &str = "poolkeeper.dev/rendered-by";
/// The annotations that belong to a template.
const OF_TEMPLATE: [&str; 3] = [INPUTS, RENDERING, RENDERED_BY];

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Bytes of a hash that are kept; it tells two renderings of the same apart.
const HASH_LENGTH: usize = 8;

/// Notes on the Deployments what their templates are made from, and by whom.
pub(super) fn mark(objects: &mut Objects, tier: &Tier) {
    for (deployment, component) in [
        (&mut objects.poolers, Component::Pooler),
        (&mut objects.balancers, Component::Balancer),
    ] {
        let notes = [
            template_inputs(tier, component),
            rendering(deployment),
            VERSION.to_owned(),
        ];
        let annotations = deployment.metadata.annotations.get_or_insert_default();
        let keys = OF_TEMPLATE.map(str::to_owned);
        annotations.extend(keys.into_iter().zip(notes));
    }
}

fn rendering(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let text = serde_json::to_string(&template).expect("a Kubernetes object serialises");
    let digest = Sha256::digest(text);
    digest[..HASH_LENGTH]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether a Deployment keeps its template rather than get the rendered one.
fn stays(cluster: &PgPoolCluster, live: &ObjectMeta, rendered: &ObjectMeta) -> bool {
    let same = |key| annotation(live, key) == annotation(rendered, key);
    let owner = controller(live).map(|owner| &owner.uid);
    owner.is_some()
        && owner == cluster.metadata.uid.as_ref()
        && same(INPUTS)
        && !same(RENDERED_BY)
        // Another version that makes the same of it may as well be us.
        && !same(RENDERING)
        && !is_update_asked(cluster, live)
}

/// The release of the operator that made a Deployment's template.
pub(super) fn made_by(live: &Deployment) -> Option<Release> {
    Release::parse(annotation(&live.metadata, RENDERED_BY)?)
}

/// The Secrets that Pods of a template mount.
pub(super) fn secrets(template: &PodTemplateSpec) -> impl Iterator<Item = &str> {
    let pods = template.spec.as_ref();
    let volumes = pods.and_then(|pods| pods.volumes.as_deref());
    volumes.unwrap_or_default().iter().flat_map(|volume| {
        let whole = volume
            .secret
            .as_ref()
            .and_then(|source| source.secret_name.as_deref());
        let parts = volume
            .projected
            .iter()
            .flat_map(|projected| projected.sources.iter().flatten());
        let parts = parts.filter_map(|source| Some(source.secret.as_ref()?.name.as_str()));
        whole.into_iter().chain(parts)
    })
}

/// What is there of one cluster.
pub(super) struct Present<'a> {
    pub(super) client: &'a Client,
    pub(super) stores: &'a Stores,
    pub(super) namespace: &'a str,
    pub(super) cluster: &'a PgPoolCluster,
}

impl Present<'_> {
    /// A Deployment with its template, of which the store has little.
    async fn read(&self, name: &str) -> CallResult<Option<Kept>> {
        let api = ChildKind::Deployment.api(self.client, self.namespace);
        let what = format!("get Deployment {name}");
        let found = client::read(&what, api.get_opt(name)).await?;
        Ok(found.map(|found| Kept::of(found.metadata, &found.data["spec"]["template"])))
    }

    /// Whether its Pods would find their settings.
    fn has_settings_of(&self, kept: &Kept) -> bool {
        let cluster = self.cluster.metadata.name.as_deref().unwrap_or_default();
        let mut settings = kept
            .secrets
            .iter()
            .filter(|name| is_settings_name(cluster, name));
        settings.all(|name| {
            let found = self.stores.child(ChildKind::Secret, self.namespace, name);
            found.is_some_and(|found| !found.is_ending)
        })
    }
}

/// A Deployment whose template stays, as it was read last.
#[derive(Debug)]
struct Kept {
    /// With our annotations alone.
    metadata: ObjectMeta,
    /// As text, which is small, and with fields that our types may not have.
    template: String,
    /// What it mounts.
    secrets: Vec<String>,
}

impl Kept {
    fn of(mut metadata: ObjectMeta, template: &Json) -> Self {
        metadata.managed_fields = None;
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.retain(|key, _| OF_TEMPLATE.contains(&key.as_str()) || key == UPDATE);
        let typed = serde_json::from_value(template.clone());
        let typed: PodTemplateSpec = typed.unwrap_or_default();
        Self {
            metadata,
            template: template.to_string(),
            secrets: secrets(&typed).map(str::to_owned).collect(),
        }
    }

    /// Whether nothing was wished of the Deployment since.
    fn is_current(&self, live: &ObjectMeta) -> bool {
        self.metadata.uid == live.uid && self.metadata.generation == live.generation
    }
}

/// The templates of one cluster that stay, by the names of their Deployments.
#[derive(Debug, Default)]
pub(super) struct Templates(BTreeMap<String, Kept>);

impl Templates {
    /// Decides whether a Deployment that was rendered, and marked, keeps the
    /// template of the one that is there, and reads it if it is not known.
    ///
    /// # Errors
    /// If it could not be read.
    pub(super) async fn decide(
        &mut self,
        present: &Present<'_>,
        live: Option<&Deployment>,
        rendered: &mut Deployment,
    ) -> CallResult<()> {
        let name = rendered.metadata.name.clone().unwrap_or_default();
        let stays = |live: &ObjectMeta| stays(present.cluster, live, &rendered.metadata);
        let live = live.map(|live| &live.metadata).filter(|live| stays(live));
        let Some(live) = live else {
            self.0.remove(&name);
            return Ok(());
        };
        if !self.0.get(&name).is_some_and(|kept| kept.is_current(live)) {
            // What was known of another version of it says nothing.
            self.0.remove(&name);
            // The store may lag behind what is there.
            let found = present.read(&name).await?;
            match found.filter(|found| stays(&found.metadata)) {
                Some(found) => self.0.insert(name.clone(), found),
                None => return Ok(()),
            };
        }
        match self.0.get(&name) {
            Some(kept) if present.has_settings_of(kept) => carry_notes(kept, rendered),
            _ => drop(self.0.remove(&name)),
        }
        Ok(())
    }

    /// Puts the template that stays in place of the rendered one.
    pub(super) fn put_into(&self, child: &mut Child) {
        if child.kind != ChildKind::Deployment {
            return;
        }
        if let Some(kept) = self.0.get(&child.name) {
            let template = serde_json::from_str(&kept.template).expect("it was JSON");
            child.object["spec"]["template"] = template;
        }
    }

    /// Whether Pods of a template that stays mount a Secret.
    pub(super) fn mount(&self, secret: &str) -> bool {
        let mut secrets = self.0.values().flat_map(|kept| &kept.secrets);
        secrets.any(|name| name == secret)
    }

    /// What an update would change of them, in words.
    pub(super) fn newer(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, kept)| {
            let by = annotation(&kept.metadata, RENDERED_BY).unwrap_or("another version");
            format!("the Pods of {name} are as operator {by} made them and could become as {VERSION} does")
        })
    }
}

/// What is noted of a template goes with it.
fn carry_notes(kept: &Kept, rendered: &mut Deployment) {
    let annotations = rendered.metadata.annotations.get_or_insert_default();
    for key in OF_TEMPLATE {
        match annotation(&kept.metadata, key) {
            Some(value) => annotations.insert(key.to_owned(), value.to_owned()),
            None => annotations.remove(key),
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(value: Json) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    fn cluster(policy: &str, update: Option<&str>) -> PgPoolCluster {
        serde_json::from_value(json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster",
            "metadata": {"name": "shop", "uid": "u1",
                "annotations": update.map(|update| json!({UPDATE: update}))},
            "spec": {
                "upstream": {"address": {"host": "pg"}}, "updatePolicy": policy,
                "auth": {"type": "scram-sha-256", "userlistSecretRef": {"name": "users"}},
            },
        }))
        .unwrap()
    }

    fn live(inputs: &str, rendering: &str, by: &str, owner: &str) -> ObjectMeta {
        metadata(json!({
            "annotations": {INPUTS: inputs, RENDERING: rendering, RENDERED_BY: by},
            "ownerReferences": [{"apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster",
                "name": "shop", "uid": owner, "controller": true}],
        }))
    }

    #[test]
    fn another_versions_template_stays_while_nothing_else_is_wished() {
        let rendered = live("i1", "new", "0.2.0", "u1");
        let stays = |live: &ObjectMeta| stays(&cluster("OnRequest", None), live, &rendered);
        assert!(stays(&live("i1", "old", "0.1.0", "u1")));
        assert!(stays(&live("i1", "old", "0.3.0", "u1")), "a later one's");
        assert!(!stays(&live("i2", "old", "0.1.0", "u1")), "other wishes");
        assert!(!stays(&live("i1", "new", "0.1.0", "u1")), "the same Pods");
        assert!(!stays(&live("i1", "old", "0.2.0", "u1")), "our own");
        assert!(!stays(&live("i1", "old", "0.1.0", "u2")), "somebody else's");
        assert!(!stays(&ObjectMeta::default()), "nobody's");
    }

    #[test]
    fn an_update_that_is_asked_for_takes_the_template() {
        let (rendered, live) = (
            live("i1", "new", "0.2.0", "u1"),
            live("i1", "old", "0.1.0", "u1"),
        );
        assert!(!stays(&cluster("Automatic", None), &live, &rendered));
        assert!(!stays(&cluster("OnRequest", Some("a")), &live, &rendered));
        let mut taken = live;
        let annotations = taken.annotations.get_or_insert_default();
        annotations.insert(UPDATE.to_owned(), "a".to_owned());
        assert!(stays(&cluster("OnRequest", Some("a")), &taken, &rendered));
    }

    #[test]
    fn what_stays_is_put_in_place_with_what_our_types_do_not_know() {
        let template = json!({"spec": {"containers": [], "ofLaterKubernetes": 1,
            "volumes": [{"name": "settings", "secret": {"secretName": "shop-pooler-0000000000"}}]}});
        let kept = Kept::of(live("i1", "old", "0.1.0", "u1"), &template);
        let mut rendered = Deployment {
            metadata: live("i1", "new", "0.2.0", "u1"),
            ..Deployment::default()
        };
        carry_notes(&kept, &mut rendered);
        assert_eq!(annotation(&rendered.metadata, RENDERED_BY), Some("0.1.0"));
        assert_eq!(annotation(&rendered.metadata, RENDERING), Some("old"));
        let templates = Templates([("shop-pooler".to_owned(), kept)].into());
        let child = |name: &str| Child {
            kind: ChildKind::Deployment,
            name: name.to_owned(),
            object: json!({"spec": {"replicas": 3, "template": {}}}),
        };
        let mut poolers = child("shop-pooler");
        templates.put_into(&mut poolers);
        assert_eq!(
            poolers.object,
            json!({"spec": {"replicas": 3, "template": template}})
        );
        let mut balancers = child("shop-balancer");
        templates.put_into(&mut balancers);
        assert_eq!(balancers.object, child("shop-balancer").object);
        assert!(templates.mount("shop-pooler-0000000000"));
        assert!(!templates.mount("shop-pooler-1111111111"));
        let newer: Vec<String> = templates.newer().collect();
        assert!(newer[0].contains("0.1.0"), "{newer:?}");
    }
}
