//! A newer operator takes over a tier that an earlier version rendered, against a
//! real API server: no Pod is replaced until somebody asks for it.
//!
//! There is no node, so no Pod runs; kube-controller-manager makes them, and a
//! ReplicaSet for every template.

#[path = "kubernetes_operator/api.rs"]
#[allow(dead_code, reason = "other scenarios use the rest")]
mod api;

use anyhow::{Context, Result, bail, ensure};
use api::{Api, eventually};
use serde_json::{Value as Json, json};
use tests::{ControlPlane, Scratch, kubernetes::ClusterOperator};

const CLUSTER: &str = include_str!("../fixtures/rendered-by-0.0.9/cluster.yaml");
const OBJECTS: &str = include_str!("../fixtures/rendered-by-0.0.9/objects.yaml");
/// The settings that the earlier version's poolers mount.
const SETTINGS: &str = "shop-pooler-0123456789";
/// The revision of its configuration.
const REVISION: &str = "000000000009";
/// How a Deployment begins.
const DEPLOYMENT: &str = "kind: Deployment\nmetadata:\n";
const UPDATE: &str = "poolkeeper.dev/update";

#[test]
fn a_newer_operator_replaces_no_pod_until_it_is_asked_to() -> Result<()> {
    let control_plane = ControlPlane::builder().with_controller_manager().start()?;
    control_plane.install_crds()?;
    let api = Api::connect(&control_plane.kubeconfig())?;
    let world = World { control_plane, api };
    world.rendered(OBJECTS)?;
    let before = [world.deployment("pooler")?, world.deployment("balancer")?];
    let mut operator = world.operator()?;
    let log = |what, operator: &ClusterOperator| {
        format!("{what}; the operator says:\n{}", operator.log())
    };
    world
        .takes_over(&before)
        .with_context(|| log("take over", &operator))?;
    operator.terminate()?;
    operator = world.operator()?;
    world
        .stays(&before)
        .with_context(|| log("stay", &operator))?;
    world
        .wishes_roll_what_they_concern(&before)
        .with_context(|| log("other wishes", &operator))?;
    world.is_updated().with_context(|| log("update", &operator))
}

/// What the commit before rendered of the quickstart stays as well: it is taken for
/// that of an earlier version with other images.
#[test]
fn what_the_commit_before_rendered_stays() -> Result<()> {
    let (commit, golden) = golden_of_the_commit_before()?;
    eprintln!("as rendered by {commit}");
    let control_plane = ControlPlane::builder().with_controller_manager().start()?;
    control_plane.install_crds()?;
    let api = Api::connect(&control_plane.kubeconfig())?;
    let world = World { control_plane, api };
    world.rendered(&as_of_0_0_9(&golden)?)?;
    let before = [world.deployment("pooler")?, world.deployment("balancer")?];
    let operator = world.operator()?;
    let stays = || {
        world
            .api
            .wait_for_condition("shop", "UpdateAvailable", "True NewImages")?;
        world
            .api
            .wait_for_condition("shop", "ConfigValid", "True Valid")?;
        for before in &before {
            let now = world.api.deployment(name_of(before))?;
            ensure!(template(&now) == template(before), "{before}\n{now}");
        }
        world.ensure_templates("pooler", 1)?;
        world.ensure_templates("balancer", 1)
    };
    stays().with_context(|| format!("the operator says:\n{}", operator.log()))
}

/// The commit before the newest one and its golden file; the newest one's where
/// the history is cut off.
fn golden_of_the_commit_before() -> Result<(&'static str, String)> {
    for commit in ["HEAD~1", "HEAD"] {
        let file = format!("{commit}:operator/tests/golden/quickstart/objects.yaml");
        let shown = std::process::Command::new("git")
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .args(["show", &file])
            .output()
            .context("git")?;
        if shown.status.success() {
            return Ok((commit, String::from_utf8(shown.stdout)?));
        }
    }
    bail!("git shows neither HEAD~1 nor HEAD")
}

/// Rendered objects with what is added when they are written, by version 0.0.9 and
/// with its images.
fn as_of_0_0_9(golden: &str) -> Result<String> {
    let annotations = |text: &'static str| text.split_once("  labels:\n").map(|(before, _)| before);
    let annotations: Vec<&str> = OBJECTS
        .split(DEPLOYMENT)
        .skip(1)
        .filter_map(annotations)
        .collect();
    let parts: Vec<&str> = golden.split(DEPLOYMENT).collect();
    ensure!(
        annotations.len() == 2 && parts.len() == 3,
        "two Deployments are expected"
    );
    let [first, poolers, balancers] = [parts[0], parts[1], parts[2]];
    let [of_poolers, of_balancers] = [annotations[0], annotations[1]];
    let text = [
        first,
        DEPLOYMENT,
        of_poolers,
        poolers,
        DEPLOYMENT,
        of_balancers,
        balancers,
    ];
    let text = text.concat();
    ensure!(text.contains("example.org/pooler:1"), "no image: {text}");
    Ok(text
        .replace("8e1f0f6c-0000-4000-8000-000000000000", "UID-OF-THE-CLUSTER")
        .replace("example.org/pooler:1", "example.org/pooler:0")
        .replace("example.org/balancer:1", "example.org/balancer:0"))
}

struct World {
    control_plane: ControlPlane,
    api: Api,
}

impl World {
    fn operator(&self) -> Result<ClusterOperator> {
        ClusterOperator::start(&self.control_plane.kubeconfig(), &[])
    }

    /// What is there when the newer operator begins.
    fn rendered(&self, objects: &str) -> Result<()> {
        self.control_plane.apply(CLUSTER)?;
        let cluster = self.api.cluster("shop")?;
        let uid = cluster["metadata"]["uid"].as_str().context("no uid")?;
        let dir = Scratch::new()?;
        let objects = objects.replace("UID-OF-THE-CLUSTER", uid);
        let file = dir.write("objects.yaml", &objects)?;
        self.control_plane.kubectl(&[
            "apply",
            "--server-side",
            "--field-manager=poolkeeper-operator",
            "-f",
            file.to_str().context("a path in UTF-8")?,
        ])?;
        eventually("the earlier version's Pods", || {
            ["pooler", "balancer"].iter().all(|component| {
                self.deployment(component).is_ok_and(|one| {
                    one["status"]["observedGeneration"] == one["metadata"]["generation"]
                        && one["status"]["replicas"] == one["spec"]["replicas"]
                })
            })
        })
    }

    fn takes_over(&self, before: &[Json; 2]) -> Result<()> {
        self.api
            .wait_for_condition("shop", "UpdateAvailable", "True NewImages")?;
        self.api
            .wait_for_condition("shop", "ConfigValid", "True Valid")?;
        // What a reload applies is as this version renders it.
        let status = &self.api.cluster("shop")?["status"];
        let revision = status["configRevision"].as_str().unwrap_or_default();
        ensure!(!revision.is_empty() && revision != REVISION, "{status}");
        ensure!(self.api.revision("shop")? == revision, "the poolers' ini");
        let config = self.api.core("configmaps", "shop-balancer-config")?;
        let yaml = config["data"]["balancer.yaml"].to_string();
        ensure!(yaml.contains(revision), "{yaml}");
        // What is no part of the template is, too; the template is not.
        for before in before {
            let name = name_of(before);
            let now = self.api.deployment(name)?;
            ensure!(before["spec"]["minReadySeconds"] == 3, "{before}");
            ensure!(now["spec"]["minReadySeconds"] == 4, "{now}");
            ensure!(template(&now) == template(before), "{name}: {now}");
        }
        let message = self.api.condition("shop", "UpdateAvailable")?["message"].to_string();
        for part in [
            "example.org/pooler:0 could become example.org/pooler:1",
            "shop-pooler",
            "shop-balancer",
            "0.0.9",
            env!("CARGO_PKG_VERSION"),
        ] {
            ensure!(message.contains(part), "{part} is not in {message}");
        }
        Ok(())
    }

    /// Also after a restart of the operator, and when poolers are added.
    fn stays(&self, before: &[Json; 2]) -> Result<()> {
        self.patch(&json!({"spec": {"poolers": {"replicas": 4}}}))?;
        eventually("four poolers", || {
            let poolers = self.deployment("pooler");
            poolers.is_ok_and(|poolers| {
                poolers["spec"]["replicas"] == 4
                    && poolers["status"]["observedGeneration"] == poolers["metadata"]["generation"]
            })
        })?;
        for before in before {
            let now = self.api.deployment(name_of(before))?;
            ensure!(template(&now) == template(before), "{now}");
        }
        self.api.core("secrets", SETTINGS)?;
        self.ensure_templates("pooler", 1)?;
        self.ensure_templates("balancer", 1)
    }

    /// Other wishes for balancers: they are made anew by this version, with the
    /// images that they have, and poolers stay.
    fn wishes_roll_what_they_concern(&self, before: &[Json; 2]) -> Result<()> {
        let wish = json!({"spec": {"balancer": {"resources": {"requests": {"cpu": "50m"}}}}});
        self.patch(&wish)?;
        eventually("balancers with other resources", || {
            let balancers = self.deployment("balancer").unwrap_or_default();
            container(&balancers)["resources"]["requests"]["cpu"] == "50m"
        })?;
        let balancers = self.deployment("balancer")?;
        ensure!(is_of_now(&balancers), "{balancers}");
        let image = &container(&balancers)["image"];
        ensure!(image == "example.org/balancer:0", "{image}");
        let poolers = self.deployment("pooler")?;
        ensure!(template(&poolers) == template(&before[0]), "{poolers}");
        Ok(())
    }

    fn is_updated(&self) -> Result<()> {
        let annotations = json!({"metadata": {"annotations": {UPDATE: "1"}}});
        self.patch(&annotations)?;
        self.api
            .wait_for_condition("shop", "UpdateAvailable", "False UpToDate")?;
        for component in ["pooler", "balancer"] {
            let now = self.deployment(component)?;
            ensure!(is_of_now(&now), "{now}");
            let image = &container(&now)["image"];
            ensure!(*image == format!("example.org/{component}:1"), "{image}");
            let by = &now["metadata"]["annotations"]["poolkeeper.dev/rendered-by"];
            ensure!(by == env!("CARGO_PKG_VERSION"), "{by}");
        }
        let poolers = self.deployment("pooler")?.to_string();
        ensure!(!poolers.contains(SETTINGS), "{poolers}");
        // Pods of the former template may still start.
        self.api.core("secrets", SETTINGS)?;
        self.ensure_templates("pooler", 2)
    }

    /// How many templates there were of a component: each has a ReplicaSet.
    fn ensure_templates(&self, component: &str, count: usize) -> Result<()> {
        let selector = format!("app.kubernetes.io/component={component}");
        let mut found = 0;
        eventually("the ReplicaSets", || {
            let sets = self.api.list("/apis/apps/v1", "replicasets", &selector);
            found = sets.map_or(0, |sets| sets.len());
            found >= count
        })?;
        ensure!(found == count, "{component}: {found} ReplicaSets");
        Ok(())
    }

    fn deployment(&self, component: &str) -> Result<Json> {
        self.api.deployment(&format!("shop-{component}"))
    }

    fn patch(&self, patch: &Json) -> Result<()> {
        let patch = patch.to_string();
        let arguments = ["patch", "pgpc", "shop", "--type=merge", "-p", &patch];
        self.control_plane.kubectl(&arguments).map(drop)
    }
}

fn name_of(deployment: &Json) -> &str {
    deployment["metadata"]["name"].as_str().unwrap_or_default()
}

fn template(deployment: &Json) -> &Json {
    &deployment["spec"]["template"]
}

fn container(deployment: &Json) -> &Json {
    &template(deployment)["spec"]["containers"][0]
}

/// Whether the template has what the earlier version's lacks.
fn is_of_now(deployment: &Json) -> bool {
    container(deployment)["readinessProbe"]["periodSeconds"] == 2
        && container(deployment)["env"].to_string().contains("POD_IP")
}
