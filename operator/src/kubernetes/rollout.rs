//! Which images Pods run, when more of them may be added, and when one may be
//! evicted. Pure.
//!
//! A newer operator with an unchanged spec rolls nothing: Pods go on with the
//! images that they have until somebody asks for newer ones, and so does all
//! else of their template (`template`).

use k8s_openapi::{
    api::{apps::v1::Deployment, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use proxy_core::config::settings::Release;

use super::{pods::PodView, template::Templates};
use crate::{
    api::{Component, PgPoolCluster, UpdatePolicy},
    controller::{
        build::poolers_at_once,
        objects::{Images, Objects},
        status::Rollout,
    },
};

/// Annotation of a cluster: another value takes the operator's images. On a
/// Deployment, the value for which it last did.
pub(super) const UPDATE: &str = "poolkeeper.dev/update";

/// Annotation of a Deployment whose image the spec names: when the spec names none
/// any more, its Pods go back to the operator's, not on with that one.
const IMAGE_OF_SPEC: &str = "poolkeeper.dev/image-of-spec";

/// What the Deployments of a cluster say of themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running<'a> {
    pub(super) poolers: Option<&'a Deployment>,
    pub(super) balancers: Option<&'a Deployment>,
}

/// What Pods are to run where the spec does not say it.
pub(super) fn images(cluster: &PgPoolCluster, running: Running<'_>, ours: &Images) -> Images {
    let chosen = |deployment: Option<&Deployment>, component, ours: &String| {
        let Some(deployment) = deployment else {
            return ours.clone();
        };
        if annotation(&deployment.metadata, IMAGE_OF_SPEC).is_some() {
            return ours.clone();
        }
        if is_update_asked(cluster, &deployment.metadata) {
            return ours.clone();
        }
        image(deployment, component).unwrap_or(ours).to_owned()
    };
    Images {
        pooler: chosen(running.poolers, Component::Pooler, &ours.pooler),
        balancer: chosen(running.balancers, Component::Balancer, &ours.balancer),
    }
}

/// Whether a Deployment is to take what is newer.
pub(super) fn is_update_asked(cluster: &PgPoolCluster, deployment: &ObjectMeta) -> bool {
    let update = annotation(&cluster.metadata, UPDATE);
    let asked = update.is_some() && annotation(deployment, UPDATE) != update;
    asked || cluster.spec.update_policy == UpdatePolicy::Automatic
}

/// What an update would change, in words; `None` if nothing.
pub(super) fn update(
    cluster: &PgPoolCluster,
    running: Running<'_>,
    ours: &Images,
    kept: &Templates,
) -> Option<String> {
    let spec = &cluster.spec.images;
    let change = |deployment: Option<&Deployment>, component, own: &Option<String>, ours: &str| {
        let running = image(deployment?, component)?;
        (own.is_none() && running != ours).then(|| format!("{running} could become {ours}"))
    };
    let changes = [
        change(
            running.poolers,
            Component::Pooler,
            &spec.pooler,
            &ours.pooler,
        ),
        change(
            running.balancers,
            Component::Balancer,
            &spec.balancer,
            &ours.balancer,
        ),
    ];
    let images = changes.into_iter().flatten();
    let changes: Vec<String> = images.chain(kept.newer()).collect();
    (!changes.is_empty()).then(|| changes.join(", "))
}

/// Notes on the Deployments what was asked for by annotation, and whose image
/// they run.
pub(super) fn mark(objects: &mut Objects, cluster: &PgPoolCluster) {
    let images = &cluster.spec.images;
    for (deployment, own) in [
        (&mut objects.poolers, &images.pooler),
        (&mut objects.balancers, &images.balancer),
    ] {
        if own.is_some() {
            let annotations = deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(IMAGE_OF_SPEC.to_owned(), "true".to_owned());
        }
        if let Some(update) = annotation(&cluster.metadata, UPDATE) {
            let annotations = deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(UPDATE.to_owned(), update.to_owned());
        }
    }
}

/// Keeps poolers from being added, unless `all_took` says that those that are
/// there take the shares of more: otherwise these would pass the limit of the
/// whole tier. It is asked only where some are to be added. Returns how many are
/// wished, if they are kept from it.
pub(super) fn hold_back(
    wished: &mut Deployment,
    present: &Deployment,
    all_took: impl FnOnce() -> bool,
) -> Option<i32> {
    let present = present.spec.as_ref().and_then(|spec| spec.replicas);
    let spec = wished.spec.as_mut()?;
    let is_held = spec.replicas > present && !all_took();
    is_held.then(|| std::mem::replace(&mut spec.replicas, present))?
}

/// Keeps poolers that are ready from being evicted while that would make them more
/// than were counted: those that were told to end may hold their share until they
/// have, and for one that is evicted another one comes. A rollout needs all that was
/// counted for itself, unless it is stuck. Returns whether this is another budget
/// than at rest: it follows from Pods, and must be looked at again as they change.
///
/// What is not ready may always go, and holds next to nothing.
pub(super) fn hold_evictions(
    wished: &mut PodDisruptionBudget,
    replicas: u32,
    pods: &[PodView],
    present: &Rollout,
) -> bool {
    let poolers = || pods.iter().filter(|pod| pod.component == Component::Pooler);
    let others = || poolers().filter(|pod| pod.told_to_end.is_none());
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let there = count(others().count()).max(replicas);
    let ending = count(poolers().count() - others().count());
    let after = there.saturating_add(ending + 1);
    let fits = after <= poolers_at_once(replicas) && !present.is_under_way();
    if there == replicas && fits {
        return false;
    }
    // maxUnavailable is counted from the replicas of the Deployment: it would let
    // one more go for each that is there beside them.
    let ready = others().filter(|pod| pod.phase.was_ready()).count();
    let least = count(ready).saturating_sub(fits.into());
    if let Some(spec) = &mut wished.spec {
        spec.max_unavailable = None;
        spec.min_available = Some(IntOrString::Int(i32::try_from(least).unwrap_or(i32::MAX)));
    }
    true
}

pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The release that an image's tag names, if it names one.
fn release(image: &str) -> Option<Release> {
    let name = image.split('@').next()?;
    let (_, tag) = name
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))?;
    Release::parse(tag)
}

/// The oldest release among poolers, which all read one file: as they say
/// (`told`), and while none does as the template that they are made of; never a
/// later one than the image names that new ones get, or than `ours`.
pub(super) fn oldest(
    told: Option<Release>,
    made_by: Option<Release>,
    image: &str,
    ours: Release,
) -> Release {
    let known = [told.or(made_by), release(image)].into_iter().flatten();
    // Tags may be of somebody's own counting.
    known.fold(ours, Release::min).max(Release::FIRST)
}

fn image(deployment: &Deployment, component: Component) -> Option<&String> {
    let pods = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let container = pods
        .containers
        .iter()
        .find(|one| one.name == component.word());
    container?.image.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        controller::{
            build::tier,
            dereference::{Dereferenced, SecretValue},
            objects::{Owner, Placement, objects},
            validate::validate,
        },
        webhook::WebhookPolicy,
    };

    fn cluster(more: &serde_json::Value, update: Option<&str>) -> PgPoolCluster {
        let mut spec = json!({
            "upstream": {"address": {"host": "pg"}},
            "auth": {"type": "scram-sha-256", "userlistSecretRef": {"name": "users"}},
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut cluster: PgPoolCluster = serde_json::from_value(json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster",
            "metadata": {"name": "shop"}, "spec": spec,
        }))
        .unwrap();
        if let Some(update) = update {
            cluster.metadata.annotations = Some([(UPDATE.to_owned(), update.to_owned())].into());
        }
        cluster
    }

    fn deployment(component: &str, update: Option<&str>) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"annotations": update.map(|update| json!({UPDATE: update}))},
            "spec": {"selector": {}, "template": {"spec": {"containers": [
                {"name": "sidecar", "image": "s:1"},
                {"name": component, "image": format!("{component}:1")},
            ]}}},
        }))
        .unwrap()
    }

    /// The poolers' image of a cluster whose Deployments run version 1 and last
    /// took an update for `taken`, and what would be updated.
    fn chosen(cluster: &PgPoolCluster, taken: Option<&str>) -> (String, bool) {
        let (poolers, balancers) = (deployment("pooler", taken), deployment("balancer", taken));
        let running = Running {
            poolers: Some(&poolers),
            balancers: Some(&balancers),
        };
        let ours = Images {
            pooler: "pooler:2".to_owned(),
            balancer: "balancer:2".to_owned(),
        };
        let images = images(cluster, running, &ours);
        let update = update(cluster, running, &ours, &Templates::default());
        (images.pooler, update.is_some())
    }

    #[test]
    fn images_stay_until_asked_for() {
        let asked = |update| cluster(&json!({}), update);
        assert_eq!(chosen(&asked(None), None), ("pooler:1".to_owned(), true));
        assert_eq!(chosen(&asked(Some("a")), None).0, "pooler:2");
        assert_eq!(
            chosen(&asked(Some("a")), Some("a")).0,
            "pooler:1",
            "taken once"
        );
        assert_eq!(chosen(&asked(Some("b")), Some("a")).0, "pooler:2");
        let automatic = cluster(&json!({"updatePolicy": "Automatic"}), None);
        assert_eq!(chosen(&automatic, None).0, "pooler:2");
    }

    #[test]
    fn an_image_that_the_spec_names_no_more_goes_back_to_ours() {
        let mut poolers = deployment("pooler", None);
        let annotations = poolers.metadata.annotations.get_or_insert_default();
        annotations.insert(IMAGE_OF_SPEC.to_owned(), "true".to_owned());
        let running = Running {
            poolers: Some(&poolers),
            balancers: None,
        };
        let ours = Images {
            pooler: "pooler:2".to_owned(),
            balancer: "balancer:2".to_owned(),
        };
        assert_eq!(images(&cluster(&json!({}), None), running, &ours), ours);
    }

    #[test]
    fn whose_image_it_is_is_noted() {
        let named = cluster(&json!({"images": {"pooler": "own:7"}}), None);
        let noted = |cluster: &PgPoolCluster| {
            let read = Dereferenced::new(cluster, |name| {
                (name == "users").then(|| {
                    let list = SecretValue::new(b"\"app\" \"secret\"\n".to_vec());
                    [("userlist.txt".to_owned(), list)].into()
                })
            });
            let validated = validate(&read, &WebhookPolicy::default()).unwrap();
            let ours = Images {
                pooler: "pooler:2".to_owned(),
                balancer: "balancer:2".to_owned(),
            };
            let placement = Placement {
                owner: &Owner::of(cluster),
                images: &ours,
                revision: None,
            };
            let mut objects = objects(&tier(&validated), &placement);
            mark(&mut objects, cluster);
            [objects.poolers, objects.balancers]
                .map(|one| annotation(&one.metadata, IMAGE_OF_SPEC).is_some())
        };
        assert_eq!(noted(&named), [true, false]);
        assert_eq!(noted(&cluster(&json!({}), None)), [false, false]);
    }

    #[test]
    fn poolers_that_are_held_back_may_become_fewer() {
        let poolers = |replicas: i32| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {}, "spec": {"replicas": replicas, "selector": {}, "template": {}},
            }))
            .unwrap()
        };
        for (wished, held, kept_from) in [(5, 3, Some(5)), (3, 3, None), (2, 2, None)] {
            let mut wished = poolers(wished);
            assert_eq!(hold_back(&mut wished, &poolers(3), || false), kept_from);
            assert_eq!(wished.spec.unwrap().replicas, Some(held));
        }
        let mut wished = poolers(5);
        assert_eq!(hold_back(&mut wished, &poolers(3), || true), None);
        assert_eq!(wished.spec.unwrap().replicas, Some(5));
    }

    #[test]
    fn none_is_evicted_while_there_would_be_more_than_were_counted() {
        let pod = |component: &str, is_ending: bool, is_ready: bool| {
            let told = is_ending.then_some("2026-01-01T00:00:00Z");
            let ready = if is_ready { "True" } else { "False" };
            let pod = json!({
                "metadata": {
                    "name": "a", "uid": "a", "creationTimestamp": "2026-01-01T00:00:00Z",
                    "deletionTimestamp": told,
                    "labels": {"app.kubernetes.io/component": component},
                },
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            });
            PodView::of(&serde_json::from_value(pod).unwrap()).unwrap()
        };
        let (complete, rolling, stuck) = (None, Some(false), Some(true));
        // Of 3 there may be 5.
        for (ready, unready, ending, rollout, may_go) in [
            (3, 0, 0, complete, 1),
            (3, 0, 1, complete, 1),
            (3, 0, 2, complete, 0),
            // What comes in its place is not there, or not ready, yet.
            (2, 0, 1, complete, 0),
            (2, 1, 1, complete, 0),
            (2, 1, 2, complete, 0),
            (0, 3, 3, complete, 0),
            // One beside those wished.
            (4, 0, 0, complete, 1),
            (4, 0, 1, complete, 0),
            (5, 0, 0, complete, 0),
            // They are being replaced, or cannot be.
            (3, 0, 0, rolling, 0),
            (4, 0, 0, rolling, 0),
            (3, 1, 0, rolling, 0),
            (3, 0, 1, rolling, 0),
            (3, 1, 0, stuck, 1),
        ] {
            let mut pods = vec![pod("pooler", false, true); ready];
            pods.extend(vec![pod("pooler", false, false); unready]);
            pods.extend(vec![pod("pooler", true, true); ending]);
            pods.extend(vec![pod("balancer", true, true); 4]);
            let rollout = Rollout {
                wished: 3,
                replicas: 3,
                updated: if rollout.is_some() { 1 } else { 3 },
                stuck: rollout.filter(|stuck| *stuck).map(|_| String::new()),
                ..Rollout::default()
            };
            let mut budget: PodDisruptionBudget =
                serde_json::from_value(json!({"spec": {"maxUnavailable": 1}})).unwrap();
            let holds = hold_evictions(&mut budget, 3, &pods, &rollout);
            // As the disruption controller counts, whose expected number is that of
            // the Deployment.
            let spec = budget.spec.unwrap();
            let least = match (spec.min_available.clone(), spec.max_unavailable) {
                (Some(IntOrString::Int(least)), None) => least,
                (None, Some(IntOrString::Int(most))) => 3 - most,
                other => panic!("{other:?}"),
            };
            let allowed = (i32::try_from(ready).unwrap() - least).max(0);
            let case = format!("{ready} {unready} {ending} {rollout:?}");
            assert_eq!(allowed, may_go, "{case}");
            assert_eq!(holds, spec.min_available.is_some(), "{case}");
        }
    }

    #[test]
    fn an_image_of_the_spec_is_no_update() {
        let own = json!({"images": {"pooler": "own:7", "balancer": "own:8"}});
        assert!(!chosen(&cluster(&own, None), None).1);
    }

    #[test]
    fn the_oldest_pooler_decides_what_all_are_told() {
        let (ours, newest) = (Release::new(0, 3), "poolkeeper.dev/pooler:latest");
        let release = |minor| Some(Release::new(0, minor));
        for (told, made_by, image, wanted) in [
            (None, None, newest, 3),
            (None, release(1), newest, 1),
            (release(2), None, newest, 2),
            (release(3), release(1), newest, 3),
            (release(3), None, "registry:5000/pooler:0.2.9@sha256:00", 2),
            (None, None, "registry:5000/pooler", 3),
            // One that is ahead of us is told what we know.
            (release(9), release(9), "pooler:v0.9", 3),
            (None, None, "pooler:0.0.7", 1),
        ] {
            let oldest = oldest(told, made_by, image, ours);
            assert_eq!(
                oldest,
                Release::new(0, wanted),
                "{told:?} {made_by:?} {image}"
            );
        }
    }

    #[test]
    fn the_first_pods_run_the_operators_images() {
        let running = Running {
            poolers: None,
            balancers: None,
        };
        let ours = Images {
            pooler: "pooler:2".to_owned(),
            balancer: "balancer:2".to_owned(),
        };
        assert_eq!(images(&cluster(&json!({}), None), running, &ours), ours);
        let kept = Templates::default();
        assert_eq!(
            update(&cluster(&json!({}), None), running, &ours, &kept),
            None
        );
    }
}
