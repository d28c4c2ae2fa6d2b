//! `operator run` when things go wrong: it ends between any two writes, the API
//! server does not answer, or refuses, or is written to by others meanwhile.
//!
//! The API server's audit log says who wrote what and when.

#[path = "kubernetes_operator/api.rs"]
#[allow(dead_code, reason = "other scenarios use the rest")]
mod api;
#[path = "kubernetes_faults/audit.rs"]
mod audit;
#[path = "kubernetes_faults/link.rs"]
mod link;
#[path = "kubernetes_faults/replicas.rs"]
mod replicas;
#[path = "kubernetes_faults/shape.rs"]
mod shape;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::{Api, eventually};
use audit::Audit;
use serde_json::json;
use tests::{ControlPlane, Scratch, kubernetes::ClusterOperator};

const QUICKSTART: &str = include_str!("../../examples/quickstart.yaml");
/// Short, so that another need not be waited for, and long enough for a machine
/// that is busy to renew it: two thirds of it are for that.
const LEASE: [&str; 2] = ["--lease-duration", "8"];
const MASTERS: &[&str] = &["system:masters"];

struct World {
    control_plane: ControlPlane,
    api: Api,
    audit: Audit,
    dir: Scratch,
}

impl World {
    fn start() -> Result<Self> {
        let dir = Scratch::new()?;
        let audit = Audit::new(&dir)?;
        let mut builder = ControlPlane::builder();
        for flag in audit.flags() {
            builder = builder.flag(&flag);
        }
        let control_plane = builder.start()?;
        control_plane.install_crds()?;
        Ok(Self {
            api: Api::connect(&control_plane.kubeconfig())?,
            control_plane,
            audit,
            dir,
        })
    }

    /// A replica of this name.
    fn operator(&self, name: &str) -> Result<ClusterOperator> {
        let kubeconfig = self.control_plane.kubeconfig_for(name, MASTERS)?;
        ClusterOperator::start(&kubeconfig, &[&LEASE[..], &["--identity", name]].concat())
    }

    /// Clusters of these names, and the Secrets that they share.
    fn apply(&self, names: &[String]) -> Result<()> {
        let (cluster, secrets) = QUICKSTART
            .split_once("\n---\n")
            .context("the quickstart is of several documents")?;
        let mut manifest = secrets.to_owned();
        for name in names {
            let own = cluster.replacen("\n  name: shop\n", &format!("\n  name: {name}\n"), 1);
            manifest.push_str("\n---\n");
            manifest.push_str(&own);
        }
        self.control_plane.apply(&manifest).map(drop)
    }

    fn scale(&self, name: &str, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.control_plane
            .kubectl(&["scale", "pgpc", name, &replicas])
            .map(drop)
    }

    fn wait_for_replicas(&self, name: &str, replicas: u32) -> Result<()> {
        eventually(&format!("{replicas} poolers of {name}"), || {
            let poolers = self.api.deployment(&format!("{name}-pooler"));
            poolers.is_ok_and(|one| one["spec"]["replicas"] == replicas)
        })
    }
}

/// Wherever it is killed, its successor brings everything to the same end.
#[test]
fn killed_between_any_two_writes_it_converges() -> Result<()> {
    let world = World::start()?;
    let mut random = Random::seeded();
    let names: Vec<String> = (0..6).map(|index| format!("cut-{index}")).collect();
    world.apply(&names)?;
    let mut cuts = Vec::new();
    let mut operator = world.operator("first")?;
    for round in 0..6 {
        let begin = world.audit.writes()?.len();
        // All of them at once, each somewhere else when it is cut.
        let cut = begin + 1 + random.below(if round < 3 { 60 } else { 12 });
        cuts.push(cut - begin);
        let patience = Instant::now() + Duration::from_secs(30);
        eventually("so many writes, or none any more", || {
            world.audit.writes().is_ok_and(|writes| writes.len() >= cut)
                || Instant::now() > patience
        })?;
        operator.kill();
        // Something changed while nobody looked.
        world.scale(&names[random.below(names.len())], 4 + round)?;
        operator = world.operator(&format!("successor-{round}"))?;
    }
    for name in &names {
        world.scale(name, 3)?;
    }
    let end = || -> Result<()> {
        for name in &names {
            world.wait_for_replicas(name, 3)?;
            world
                .api
                .wait_for_condition(name, "Reconciling", "True RollingOut")?;
            world
                .api
                .wait_for_condition(name, "Stalled", "False NotStalled")?;
        }
        // One that nobody ever interrupted.
        world.apply(&["whole".to_owned()])?;
        world
            .api
            .wait_for_condition("whole", "Reconciling", "True RollingOut")?;
        let whole = shape::of(&world.api, "whole")?;
        for name in &names {
            let cut = shape::of(&world.api, name)?;
            ensure!(cut == whole, "{name} is\n{cut}\nand not\n{whole}");
        }
        Ok(())
    };
    end().with_context(|| format!("cut after {cuts:?} writes; {}", operator.log()))
}

/// A server that says nothing, and one that is gone, are waited for.
#[test]
fn an_api_server_that_does_not_answer_is_waited_for() -> Result<()> {
    let mut world = World::start()?;
    let operator = world.operator("one")?;
    world.apply(&["shop".to_owned()])?;
    world
        .api
        .wait_for_condition("shop", "ConfigValid", "True Valid")?;
    let http = operator.http();

    world.control_plane.freeze();
    eventually("a replica that cannot renew to stop leading", || {
        !operator.leads()
    })?;
    ensure!(
        tests::http::get(http, "/livez")?.status == 200,
        "it is not its fault"
    );
    world.control_plane.thaw();
    world.scale("shop", 4)?;
    world.wait_for_replicas("shop", 4)?;

    world.control_plane.kill_api_server();
    eventually("a replica without a server to stop leading", || {
        !operator.leads()
    })?;
    world.control_plane.restart_api_server()?;
    world.scale("shop", 5)?;
    world
        .wait_for_replicas("shop", 5)
        .with_context(|| operator.log())
}

/// What it may not write it says, and does once it may.
#[test]
fn a_right_that_is_missing_is_named_and_its_return_noticed() -> Result<()> {
    let world = World::start()?;
    let rules = |more: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: op}}\nrules:\n\
             - {{apiGroups: ['poolkeeper.dev', '', apps, coordination.k8s.io, events.k8s.io, networking.k8s.io], \
             resources: ['*'], verbs: ['*']}}\n{more}\
             ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: op}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: op}}\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: clerk}}]\n"
        )
    };
    let read = "- {apiGroups: [policy], resources: ['*'], verbs: [get, list, watch]}\n";
    world.control_plane.apply(&rules(""))?;
    let kubeconfig = world.control_plane.kubeconfig_for("clerk", &[])?;
    let operator = ClusterOperator::start(&kubeconfig, &LEASE)?;
    world.apply(&["shop".to_owned()])?;
    let flow = || -> Result<()> {
        // What it may not even list.
        world
            .api
            .wait_for_condition("shop", "Reconciling", "True Retrying")?;
        let message = world.api.condition("shop", "Reconciling")?["message"].to_string();
        ensure!(
            message.contains("list PodDisruptionBudget (has"),
            "{message}"
        );
        world.control_plane.apply(&rules(read))?;
        world
            .api
            .wait_for_condition("shop", "Stalled", "True Refused")?;
        let message = world.api.condition("shop", "Stalled")?["message"].to_string();
        ensure!(
            message.contains("PodDisruptionBudget shop-pooler"),
            "{message}"
        );
        world.control_plane.apply(&rules(
            "- {apiGroups: [policy], resources: ['*'], verbs: ['*']}\n",
        ))?;
        world
            .api
            .wait_for_condition("shop", "Stalled", "False NotStalled")?;
        world.wait_for_replicas("shop", 3)
    };
    flow().with_context(|| operator.log())
}

/// Somebody who writes all the time makes conflicts, and in the end loses.
#[test]
fn others_who_write_meanwhile_are_put_up_with() -> Result<()> {
    let world = World::start()?;
    let operator = world.operator("one")?;
    world.apply(&["shop".to_owned()])?;
    world.wait_for_replicas("shop", 3)?;
    let path = "/apis/apps/v1/namespaces/default/deployments/shop-pooler";
    for round in 0..40 {
        world.api.patch(path, &json!({"spec": {"replicas": 7}, "metadata": {"annotations": {"meddler": round.to_string()}}}))?;
        let cluster = "/apis/poolkeeper.dev/v1alpha1/namespaces/default/pgpoolclusters/shop";
        world.api.patch(
            cluster,
            &json!({"metadata": {"annotations": {"meddler": round.to_string()}}}),
        )?;
    }
    world
        .wait_for_replicas("shop", 3)
        .with_context(|| operator.log())?;
    // What others add and the operator does not care for stays.
    let poolers = world.api.deployment("shop-pooler")?;
    ensure!(
        poolers["metadata"]["annotations"]["meddler"] == "39",
        "{poolers}"
    );
    Ok(())
}

/// A generator that says its seed, and takes one from POOLKEEPER_SEED.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let given = std::env::var("POOLKEEPER_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
        println!("POOLKEEPER_SEED={seed}");
        Self(seed)
    }

    /// splitmix64.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}
