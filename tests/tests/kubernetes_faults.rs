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
#[path = "kubernetes_faults/refusals.rs"]
mod refusals;
#[path = "kubernetes_faults/replicas.rs"]
mod replicas;
#[path = "kubernetes_faults/shape.rs"]
mod shape;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::{Api, eventually};
use audit::Audit;
use link::{Link, Passes};
use refusals::Refusals;
use serde_json::{Value as Json, json};
use tests::{ControlPlane, Scratch, kubernetes::ClusterOperator};

const QUICKSTART: &str = include_str!("../../examples/quickstart.yaml");
/// Short, so that another need not be waited for, and long enough for a machine
/// that is busy to renew it: two thirds of it are for that.
const LEASE: [&str; 2] = ["--lease-duration", "8"];
const LEASE_S: u64 = 8;
const MASTERS: &[&str] = &["system:masters"];

const CLUSTERS: &str = "/apis/poolkeeper.dev/v1alpha1/namespaces/default/pgpoolclusters";
/// Of these, what the quickstart leaves out: NetworkPolicies, and a limit for the
/// whole tier.
const MORE: [(&str, &str); 2] = [
    (
        "    maxClientConnections: 4000\n",
        "    maxServerConnections: 1100\n",
    ),
    ("  service:\n", "  networkPolicy: {enabled: true}\n"),
];

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
        self.apply_changed(names, &[])
    }

    /// The same, with more lines of the spec before some that it has.
    fn apply_changed(&self, names: &[String], more: &[(&str, &str)]) -> Result<()> {
        let (cluster, secrets) = QUICKSTART
            .split_once("\n---\n")
            .context("the quickstart is of several documents")?;
        let mut manifest = secrets.to_owned();
        for name in names {
            let mut own = cluster.replacen("\n  name: shop\n", &format!("\n  name: {name}\n"), 1);
            for (before, line) in more {
                ensure!(
                    own.contains(before),
                    "the quickstart has no line {before:?}"
                );
                own = own.replacen(before, &format!("{line}{before}"), 1);
            }
            manifest.push_str("\n---\n");
            manifest.push_str(&own);
        }
        self.control_plane.apply(&manifest).map(drop)
    }

    /// Changes a setting that only a restart applies: another Secret holds it.
    fn set_log_format(&self, name: &str, format: &str) -> Result<()> {
        let path = format!("{CLUSTERS}/{name}");
        let change = json!({"spec": {"pool": {"parameters": {"log_format": format}}}});
        self.api.patch(&path, &change)
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
    world.apply_changed(&names, &MORE)?;
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
        let format = ["text", "json"][random.below(2)];
        world.set_log_format(&names[random.below(names.len())], format)?;
        operator = world.operator(&format!("successor-{round}"))?;
    }
    for name in &names {
        world.scale(name, 3)?;
        world.set_log_format(name, "json")?;
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
        let more = [
            &MORE[..],
            &[("      admin_users", "      log_format: json\n")],
        ]
        .concat();
        world.apply_changed(&["whole".to_owned()], &more)?;
        world
            .api
            .wait_for_condition("whole", "Reconciling", "True RollingOut")?;
        let whole = shape::of(&world.api, "whole")?;
        for kind in ["networkpolicies", "poddisruptionbudgets"] {
            ensure!(whole.contains(kind), "there are no {kind}");
        }
        for name in &names {
            // The last look may still remove what is no longer wanted.
            let mut cut = String::new();
            let same = eventually("the same shape", || {
                cut = shape::of(&world.api, name).unwrap_or_else(|error| error.to_string());
                cut == whole
            });
            same.with_context(|| format!("{name} is\n{cut}\nand not\n{whole}"))?;
        }
        Ok(())
    };
    end().with_context(|| format!("cut after {cuts:?} writes; {}", operator.log()))
}

/// A server that says nothing, and one that is gone, are waited for.
#[test]
fn an_api_server_that_does_not_answer_is_waited_for() -> Result<()> {
    let mut world = World::start()?;
    let link = Link::to(world.control_plane.address())?;
    let operator = world.operator_by(&link, "one")?;
    world.apply(&["shop".to_owned()])?;
    world
        .api
        .wait_for_condition("shop", "ConfigValid", "True Valid")?;
    let http = operator.http();

    eventually("it to show that it leads", || operator.leads())?;
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

    eventually("it to show that it leads again", || operator.leads())?;
    world.control_plane.kill_api_server();
    eventually("a replica without a server to stop leading", || {
        !operator.leads()
    })?;
    world.control_plane.restart_api_server()?;
    world.scale("shop", 5)?;
    world
        .wait_for_replicas("shop", 5)
        .with_context(|| operator.log())?;

    // The server is well, and only the way there is not.
    for (passes, replicas) in [(Passes::NoConnection, 6), (Passes::Nothing, 7)] {
        // What it shows of itself is up to a second old.
        eventually("it to show that it leads", || operator.leads())?;
        link.let_pass(passes);
        world.scale("shop", replicas)?;
        eventually("a replica without a way to stop leading", || {
            !operator.leads()
        })?;
        link.let_pass(Passes::Everything);
        world
            .wait_for_replicas("shop", replicas)
            .with_context(|| format!("after {passes:?}; {}", operator.log()))?;
    }
    let turns = world.audit.writes()?;
    ensure!(turns.iter().all(|write| write.who == "one"), "{turns:?}");
    Ok(())
}

/// Who the operator is where it has not every right.
const CLERK: &str = "clerk";

/// What the clerk may: everything but what concerns budgets, and to read what
/// people were told. `more` adds to it.
fn rules(more: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: op}}\nrules:\n\
         - {{apiGroups: ['poolkeeper.dev', apps, coordination.k8s.io, events.k8s.io, networking.k8s.io], \
         resources: ['*'], verbs: ['*']}}\n\
         - {{apiGroups: [''], resources: [secrets, services, serviceaccounts, pods], verbs: ['*']}}\n\
         - {{apiGroups: [''], resources: [configmaps], verbs: [list, watch, create, patch, delete]}}\n{more}\
         ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: op}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: op}}\n\
         subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {CLERK}}}]\n"
    )
}

/// What it may not do it says, and does once it may.
#[test]
fn a_right_that_is_missing_is_named_and_its_return_noticed() -> Result<()> {
    let world = World::start()?;
    world.control_plane.apply(&rules(""))?;
    let kubeconfig = world.control_plane.kubeconfig_for(CLERK, &[])?;
    world.apply(&["shop".to_owned()])?;
    let told = left_by_a_former_one(&world)?;
    let operator = ClusterOperator::start(&kubeconfig, &LEASE)?;
    let condition = |type_: &str, wanted: &str| world.api.wait_for_condition("shop", type_, wanted);
    let says = |type_: &str, words: &str| -> Result<()> {
        let message = world.api.condition("shop", type_)?["message"].to_string();
        ensure!(message.contains(words), "{message}");
        Ok(())
    };
    let flow = || -> Result<()> {
        // What it may not even list.
        condition("Reconciling", "True Retrying")?;
        says("Reconciling", "list PodDisruptionBudget (has")?;
        let read = "- {apiGroups: [policy], resources: ['*'], verbs: [get, list, watch]}\n";
        world.control_plane.apply(&rules(read))?;
        condition("Stalled", "True Refused")?;
        says("Stalled", "PodDisruptionBudget shop-pooler")?;
        let write = "- {apiGroups: [policy], resources: ['*'], verbs: ['*']}\n";
        world.control_plane.apply(&rules(write))?;
        condition("Stalled", "False NotStalled")?;
        world.wait_for_replicas("shop", 3)?;

        what_was_told_stays(&world, &told)?;
        says("NotificationsDelivered", "get ConfigMap shop-notifier")?;
        let all = "- {apiGroups: [policy, ''], resources: ['*'], verbs: ['*']}\n";
        world.control_plane.apply(&rules(all))?;
        world.scale("shop", 4)?;
        world.wait_for_replicas("shop", 4)?;
        // The quickstart's own webhook is nobody's, and it is known again who was told.
        eventually("what was told to be read", || {
            says("NotificationsDelivered", "ops: not configured").is_ok()
        })?;

        taken_away_in_mid_run(&world, &operator, &rules(all))
    };
    flow().with_context(|| operator.log())
}

/// What people were told by a former leader, and a Service that it had use for.
fn left_by_a_former_one(world: &World) -> Result<Json> {
    let metadata = |name: &str, uid: &Json| {
        json!({"name": name, "labels": {"app.kubernetes.io/managed-by": "poolkeeper-operator"},
            "ownerReferences": [{"apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster",
                "name": "shop", "uid": uid, "controller": true}]})
    };
    let uid = &world.api.cluster("shop")?["metadata"]["uid"];
    let told = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": metadata("shop-notifier", uid), "data": {"told.json": ""}});
    world.control_plane.apply(&told.to_string())?;
    let former = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": metadata("shop-former", uid), "spec": {"ports": [{"port": 1}]}});
    world.control_plane.apply(&former.to_string())?;
    world.api.core("configmaps", "shop-notifier")
}

/// While it cannot be read it is not taken for something that nobody wants.
fn what_was_told_stays(world: &World, told: &Json) -> Result<()> {
    eventually("what nobody wants to go", || {
        world.api.core("services", "shop-former").is_err()
    })?;
    world
        .api
        .wait_for_condition("shop", "NotificationsDelivered", "False NotDelivered")?;
    let now = world.api.core("configmaps", "shop-notifier")?;
    ensure!(now == *told, "it is {now}, was {told}");
    Ok(())
}

/// Without its rights it cannot even say so in a status: its log does.
fn taken_away_in_mid_run(world: &World, operator: &ClusterOperator, rules: &str) -> Result<()> {
    eventually("it to show that it leads", || operator.leads())?;
    let before = operator.log().len();
    let binding = ["delete", "clusterrolebinding", "op"];
    world.control_plane.kubectl(&binding)?;
    world.scale("shop", 5)?;
    eventually("a replica that may not renew to stop leading", || {
        !operator.leads()
    })?;
    let log = operator.log();
    let said = log.get(before..).unwrap_or_default();
    for words in ["cannot renew the lease yet", "forbidden", CLERK] {
        ensure!(said.contains(words), "no {words:?} in:\n{said}");
    }
    let poolers = world.api.deployment("shop-pooler")?;
    ensure!(poolers["spec"]["replicas"] == 4, "it has no right to it");
    world.control_plane.apply(rules)?;
    world.wait_for_replicas("shop", 5)?;
    world
        .api
        .wait_for_condition("shop", "Stalled", "False NotStalled")
}

/// Of every object, the first writes that are refused.
const REFUSALS: usize = 2;

/// Somebody who writes all the time makes conflicts, and in the end loses.
#[test]
fn others_who_write_meanwhile_are_put_up_with() -> Result<()> {
    let world = World::start()?;
    every_first_write_conflicts(&world)?;
    let operator = world.operator("one")?;
    world.wait_for_replicas("shop", 3)?;
    let path = "/apis/apps/v1/namespaces/default/deployments/shop-pooler";
    for round in 0..40 {
        world.api.patch(path, &json!({"spec": {"replicas": 7}, "metadata": {"annotations": {"meddler": round.to_string()}}}))?;
        world.api.patch(
            &format!("{CLUSTERS}/shop"),
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

/// Whatever conflicts, and however often: what comes about is the same.
fn every_first_write_conflicts(world: &World) -> Result<()> {
    let kubeconfig = world.control_plane.kubeconfig();
    let refusals = Refusals::before(&kubeconfig, REFUSALS)?;
    let mut operator = world.operator_in_clear(refusals.address(), "refused")?;
    world.apply(&["shop".to_owned()])?;
    let begin = Instant::now();
    let flow = || -> Result<()> {
        world.wait_for_replicas("shop", 3)?;
        world
            .api
            .wait_for_condition("shop", "Reconciling", "True RollingOut")?;
        world
            .api
            .wait_for_condition("shop", "Stalled", "False NotStalled")
    };
    flow().with_context(|| format!("{:?}; {}", refusals.counts(), operator.log()))?;
    println!("{:.1} s with conflicts", begin.elapsed().as_secs_f32());
    let counts = refusals.counts();
    let selector = "app.kubernetes.io/instance=shop";
    let written: usize = shape::RESOURCES
        .iter()
        .map(|(group, resource)| Ok(world.api.list(group, resource, selector)?.len()))
        .sum::<Result<usize>>()?;
    // The lease, the status and the children, each as often as it can be.
    let all = counts.values().all(|count| *count == REFUSALS);
    ensure!(all && counts.len() == written + 2, "{written}: {counts:#?}");
    operator.terminate()?;
    let refused = shape::of(&world.api, "shop")?;

    let mut plain = world.operator("plain")?;
    world.apply(&["whole".to_owned()])?;
    world
        .api
        .wait_for_condition("whole", "Reconciling", "True RollingOut")?;
    let whole = shape::of(&world.api, "whole")?;
    ensure!(refused == whole, "it is\n{refused}\nand not\n{whole}");
    plain.terminate()
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
