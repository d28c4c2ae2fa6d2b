//! `operator run` against a real API server: every flow that a PgPoolCluster
//! goes through, and what its status says at the end of each.
//!
//! There is no node, so no Pod runs; kube-controller-manager makes them, and
//! removes what belongs to what is gone.

#[path = "kubernetes_operator/api.rs"]
mod api;
#[path = "kubernetes_operator/fakes.rs"]
#[allow(dead_code, reason = "other scenarios use the rest")]
mod fakes;

use anyhow::{Context, Result, ensure};
use api::Api;
use serde_json::{Value as Json, json};
use tests::{ControlPlane, kubernetes::ClusterOperator};

const QUICKSTART: &str = include_str!("../../examples/quickstart.yaml");

/// A cluster of this name, with the Secrets that the quickstart needs.
fn quickstart(name: &str) -> String {
    let own = format!("\n  name: {name}\n");
    let manifest = QUICKSTART.replacen("\n  name: shop\n", &own, 1);
    assert!(manifest.contains(&own), "the quickstart has changed");
    manifest
}

#[test]
fn every_flow_ends_as_its_status_says() -> Result<()> {
    let control_plane = ControlPlane::builder().with_controller_manager().start()?;
    control_plane.install_crds()?;
    let operator = ClusterOperator::start(&control_plane.kubeconfig(), &[])?;
    let world = World {
        api: Api::connect(&control_plane.kubeconfig())?,
        control_plane,
        operator,
    };
    for (name, flow) in FLOWS {
        let begin = std::time::Instant::now();
        flow(&world).with_context(|| {
            format!("flow: {name}; the operator says:\n{}", world.operator.log())
        })?;
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f32());
    }
    Ok(())
}

struct World {
    control_plane: ControlPlane,
    operator: ClusterOperator,
    api: Api,
}

type Flow = fn(&World) -> Result<()>;

const FLOWS: &[(&str, Flow)] = &[
    ("a manifest becomes objects", created),
    ("what others change is put right", drift),
    ("what is no longer wanted goes", pruned),
    ("fields that are no longer wanted go", fields_go),
    ("kubectl scale sets the poolers", scaled),
    ("a name that is taken is left alone", name_conflict),
    ("what cannot be carried out leaves what runs alone", invalid),
    ("a Secret that is mended is noticed", mended),
    ("a suspended cluster stays as it is", suspended),
    ("an object that cannot be read stalls no other", unreadable),
    ("status follows the Pods and their balancer", observed),
    ("one that is made anew begins anew", anew),
    ("status says whether PostgreSQL answers", upstream),
    ("status says whether clients are served in time", capacity),
    ("at rest nothing is written", at_rest),
    ("what is deleted takes everything along", deleted),
];

fn created(world: &World) -> Result<()> {
    world.control_plane.apply(&quickstart("shop"))?;
    world.condition("shop", "Reconciling", "True RollingOut")?;
    for (resource, names) in [
        ("serviceaccounts", &["shop"][..]),
        ("secrets", &["shop-pooler-config", "shop-internal"]),
        ("services", &["shop", "shop-pooler", "shop-balancer"]),
    ] {
        for name in names {
            world.api.core(resource, name)?;
        }
    }
    let poolers = world.api.deployment("shop-pooler")?;
    ensure!(poolers["spec"]["replicas"] == 3, "{}", poolers["spec"]);
    world.condition("shop", "ConfigValid", "True Valid")?;
    world.condition("shop", "Ready", "False Starting")?;
    let status = &world.api.cluster("shop")?["status"];
    ensure!(status["observedGeneration"] == 1, "{status}");
    ensure!(
        status["poolers"]["selector"]
            == "app.kubernetes.io/name=poolkeeper,app.kubernetes.io/instance=shop,app.kubernetes.io/component=pooler",
        "{status}"
    );
    // Only what was applied is the operator's, so that a field it drops goes.
    let managers = poolers["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ours: Vec<&Json> = managers
        .iter()
        .filter(|one| one["manager"] == "poolkeeper-operator")
        .map(|one| &one["operation"])
        .collect();
    ensure!(ours == ["Apply"], "{ours:?}");
    Ok(())
}

fn drift(world: &World) -> Result<()> {
    let kubectl = |arguments: &[&str]| world.control_plane.kubectl(arguments);
    kubectl(&["delete", "service", "shop-balancer"])?;
    kubectl(&["scale", "deployment", "shop-pooler", "--replicas=9"])?;
    kubectl(&[
        "label",
        "pdb",
        "shop-pooler",
        "app.kubernetes.io/part-of=x",
        "--overwrite",
    ])?;
    let config = json!({"data": {"pooler.ini": "eA=="}}).to_string();
    kubectl(&[
        "patch",
        "secret",
        "shop-pooler-config",
        "--type=merge",
        "-p",
        &config,
    ])?;
    world.eventually("the Service to be back", || {
        world.api.core("services", "shop-balancer").is_ok()
    })?;
    world.eventually("three poolers", || {
        world
            .api
            .deployment("shop-pooler")
            .is_ok_and(|one| one["spec"]["replicas"] == 3)
    })?;
    world.eventually("the label to be back", || {
        let budget = world
            .api
            .named("/apis/policy/v1", "poddisruptionbudgets", "shop-pooler");
        budget
            .is_ok_and(|one| one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "poolkeeper")
    })?;
    world.eventually("the configuration to be back", || {
        let secret = world.api.core("secrets", "shop-pooler-config");
        secret.is_ok_and(|one| one["data"]["pooler.ini"] != "eA==")
    })?;
    // One that is nobody's would outlive the cluster.
    let orphan = json!([{"op": "remove", "path": "/metadata/ownerReferences"}]).to_string();
    let patch = ["patch", "deployment", "shop-balancer", "--type=json", "-p"];
    kubectl(&[&patch[..], &[&orphan]].concat())?;
    world.condition("shop", "Stalled", "True NameConflict")?;
    kubectl(&["delete", "deployment", "shop-balancer"])?;
    world.condition("shop", "Stalled", "False NotStalled")
}

/// An object that an earlier version of the spec, or of the operator, made.
fn pruned(world: &World) -> Result<()> {
    let owner = &world.api.cluster("shop")?["metadata"]["uid"];
    let left = |name: &str, controller: bool| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "poolkeeper-operator"},
            "ownerReferences": [{"apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster",
                "name": "shop", "uid": owner, "controller": controller}],
        }, "spec": {"ports": [{"port": 1}]}})
        .to_string()
    };
    world.control_plane.apply(&left("shop-former", true))?;
    world.control_plane.apply(&left("shop-friend", false))?;
    world.eventually("the orphan to go", || {
        world.api.core("services", "shop-former").is_err()
    })?;
    // One that the cluster does not control is nobody's to remove.
    world.api.core("services", "shop-friend")?;
    world
        .control_plane
        .kubectl(&["delete", "service", "shop-friend"])?;
    Ok(())
}

fn fields_go(world: &World) -> Result<()> {
    // The API server's own default shows that ours is gone.
    world.patch("shop", &json!({"spec": {"service": {"port": 6000}}}))?;
    let ports = |world: &World| {
        let service = world.api.core("services", "shop").unwrap_or_default();
        service["spec"]["ports"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    world.eventually("the new port alone", || {
        let ports = ports(world);
        ports.len() == 1 && ports[0]["port"] == 6000
    })?;
    world.patch("shop", &json!({"spec": {"service": {"port": 5432}}}))?;
    world.eventually("the old port alone", || {
        let ports = ports(world);
        ports.len() == 1 && ports[0]["port"] == 5432
    })
}

fn scaled(world: &World) -> Result<()> {
    world
        .control_plane
        .kubectl(&["scale", "pgpc", "shop", "--replicas=5"])?;
    world.eventually("five poolers", || {
        world
            .api
            .deployment("shop-pooler")
            .is_ok_and(|one| one["spec"]["replicas"] == 5)
    })?;
    world
        .control_plane
        .kubectl(&["scale", "pgpc", "shop", "--replicas=3"])?;
    world.eventually("three poolers", || {
        world
            .api
            .deployment("shop-pooler")
            .is_ok_and(|one| one["spec"]["replicas"] == 3)
    })
}

fn name_conflict(world: &World) -> Result<()> {
    let kubectl = |arguments: &[&str]| world.control_plane.kubectl(arguments);
    kubectl(&["create", "service", "clusterip", "taken", "--tcp=1:1"])?;
    let before = world.api.core("services", "taken")?;
    world.control_plane.apply(&quickstart("taken"))?;
    world.condition("taken", "Stalled", "True NameConflict")?;
    let after = world.api.core("services", "taken")?;
    ensure!(before == after, "it was touched: {after}");
    world.eventually("an Event", || {
        world
            .api
            .events("taken")
            .iter()
            .any(|one| one["reason"] == "NameConflict")
    })?;
    kubectl(&["delete", "service", "taken"])?;
    world.condition("taken", "Stalled", "False NotStalled")?;
    kubectl(&["delete", "pgpc", "taken"])?;
    Ok(())
}

/// Deleted and made anew at once, as people do: nothing of the one before is
/// remembered, and what is still being removed of it is nobody's mistake.
fn anew(world: &World) -> Result<()> {
    let kubectl = |arguments: &[&str]| world.control_plane.kubectl(arguments);
    let again = || -> Result<()> {
        kubectl(&["delete", "pgpc", "again"])?;
        world.control_plane.apply(&quickstart("again"))?;
        Ok(())
    };
    let controlled = || -> Result<()> {
        let uid = world.api.cluster("again")?["metadata"]["uid"].clone();
        world.eventually("its Deployment", || {
            let deployment = world.api.deployment("again-pooler");
            deployment.is_ok_and(|one| one["metadata"]["ownerReferences"][0]["uid"] == uid)
        })
    };
    world.control_plane.apply(&quickstart("again"))?;
    controlled()?;
    again()?;
    controlled()?;
    world.condition("again", "ConfigValid", "True Valid")?;
    let events = world.api.events("again");
    let blamed = events.iter().any(|one| one["reason"] == "NameConflict");
    ensure!(!blamed, "{events:?}");

    // The same answer to both, and each has to be told.
    let broken = || {
        let broken = json!({"spec": {"auth": {"userlistSecretRef": {"name": "nobody-has-it"}}}});
        world.patch("again", &broken)?;
        world.condition("again", "ConfigValid", "False ReferenceNotFound")
    };
    broken()?;
    again()?;
    broken()?;
    kubectl(&["delete", "pgpc", "again"])?;
    Ok(())
}

fn invalid(world: &World) -> Result<()> {
    let before = world.api.deployment("shop-pooler")?;
    world.patch(
        "shop",
        &json!({"spec": {"poolers": {"replicas": 2}, "pool": {"parameters": {"no_such_setting": "1"}}}}),
    )?;
    world.condition("shop", "ConfigValid", "False Invalid")?;
    world.condition("shop", "Stalled", "True ConfigInvalid")?;
    let message = world.api.condition("shop", "ConfigValid")?["message"].to_string();
    ensure!(message.contains("no_such_setting"), "{message}");
    let after = world.api.deployment("shop-pooler")?;
    ensure!(
        before["spec"] == after["spec"],
        "it was changed: {}",
        after["spec"]
    );
    world.patch(
        "shop",
        &json!({"spec": {"poolers": {"replicas": 3}, "pool": {"parameters": null}}}),
    )?;
    world.condition("shop", "ConfigValid", "True Valid")?;
    world.condition("shop", "Stalled", "False NotStalled")
}

fn mended(world: &World) -> Result<()> {
    let users = |list: &str| json!({"stringData": {"userlist.txt": list}}).to_string();
    let patch = |list: &str| {
        let patch = ["patch", "secret", "shop-users", "--type=merge", "-p"];
        world
            .control_plane
            .kubectl(&[&patch[..], &[&users(list)]].concat())
    };
    patch("\"app\" \"hunter2")?;
    world.condition("shop", "ConfigValid", "False Invalid")?;
    let cluster = world.api.cluster("shop")?.to_string();
    ensure!(
        !cluster.contains("hunter2"),
        "the secret is shown: {cluster}"
    );
    patch("\"app\" \"correct\"\n")?;
    world.condition("shop", "ConfigValid", "True Valid")?;
    world.eventually("the pooler's configuration to have it", || {
        let secret = world
            .api
            .core("secrets", "shop-pooler-config")
            .unwrap_or_default();
        // "app" "correct"
        secret["data"]["userlist.txt"] == "ImFwcCIgImNvcnJlY3QiCg=="
    })
}

fn suspended(world: &World) -> Result<()> {
    world.patch(
        "shop",
        &json!({"spec": {"suspend": true, "poolers": {"replicas": 4}}}),
    )?;
    world.condition("shop", "Reconciling", "False Suspended")?;
    let poolers = world.api.deployment("shop-pooler")?;
    ensure!(
        poolers["spec"]["replicas"] == 3,
        "{}",
        poolers["spec"]["replicas"]
    );
    world.patch(
        "shop",
        &json!({"spec": {"suspend": false, "poolers": {"replicas": 3}}}),
    )?;
    world.condition("shop", "Reconciling", "True RollingOut")
}

/// What the schema lets through and the types do not: it is written while the
/// schema says nothing, as an older version of it may have.
fn unreadable(world: &World) -> Result<()> {
    let crd = "crd/pgpoolclusters.poolkeeper.dev";
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let open = json!([{"op": "replace", "path": schema,
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]);
    let patch = ["patch", crd, "--type=json", "-p", &open.to_string()];
    world.control_plane.kubectl(&patch)?;
    let odd = json!({"apiVersion": "poolkeeper.dev/v1alpha1", "kind": "PgPoolCluster",
        "metadata": {"name": "odd"}, "spec": {"upstream": 5}});
    world.eventually("the odd one to be taken", || {
        world.control_plane.apply(&odd.to_string()).is_ok()
    })?;
    world.condition("odd", "ConfigValid", "False Unreadable")?;
    world.condition("odd", "Ready", "False ConfigInvalid")?;
    // Others go on.
    world.patch("shop", &json!({"spec": {"poolers": {"replicas": 4}}}))?;
    world.eventually("four poolers", || {
        world
            .api
            .deployment("shop-pooler")
            .is_ok_and(|one| one["spec"]["replicas"] == 4)
    })?;
    world.patch("shop", &json!({"spec": {"poolers": {"replicas": 3}}}))?;
    world.control_plane.kubectl(&["delete", "pgpc", "odd"])?;
    world.control_plane.install_crds()
}

fn observed(world: &World) -> Result<()> {
    let pods = fakes::Pods::find(&world.api, "shop")?;
    let balancer = fakes::Balancer::start(&pods)?;
    let revision = world.api.revision("shop")?;
    balancer.says(&pods, "Up", &revision);
    pods.ready(&world.api)?;
    world.condition("shop", "Ready", "True Serving")?;
    world.condition("shop", "PoolersAvailable", "True AllUp")?;
    world.condition("shop", "BalancersAvailable", "True AllUp")?;
    world.condition("shop", "Reconciling", "False Done")?;
    let status = &world.api.cluster("shop")?["status"];
    ensure!(status["poolers"]["summary"] == "3/3", "{status}");
    ensure!(
        status["endpoints"].as_array().map(Vec::len) == Some(5),
        "{status}"
    );
    // A balancer judges, and the operator believes it at once.
    balancer.says(&pods, "Down", &revision);
    world.condition("shop", "Ready", "False NoPoolerUp")?;
    balancer.says(&pods, "Up", "another");
    world.condition("shop", "Reconciling", "True Reloading")?;
    balancer.says(&pods, "Up", &revision);
    world.condition("shop", "Reconciling", "False Done")?;
    world.condition("shop", "Ready", "True Serving")
}

fn upstream(world: &World) -> Result<()> {
    let pods = fakes::Pods::find(&world.api, "shop")?;
    let balancer = fakes::Balancer::start(&pods)?;
    let revision = world.api.revision("shop")?;
    pods.ready(&world.api)?;
    let says = |said: &[Json]| balancer.relays(&pods, "Up", &revision, said);
    let reached = json!({"upstream": {"state": "reachable", "number": 1}});
    let down = json!({"upstream": {"state": "unreachable", "reason": "refused", "number": 2}});
    says(&[]);
    world.condition("shop", "UpstreamReachable", "Unknown NotReported")?;
    world.condition("shop", "Ready", "True Serving")?;
    says(&[reached.clone(), reached.clone(), reached.clone()]);
    world.condition("shop", "UpstreamReachable", "True Reachable")?;
    says(&[down.clone(), reached.clone(), reached.clone()]);
    world.condition("shop", "UpstreamReachable", "False PartlyReachable")?;
    world.condition("shop", "Ready", "True Serving")?;
    says(&[down.clone(), down.clone(), down]);
    world.condition("shop", "UpstreamReachable", "False ConnectionRefused")?;
    world.condition("shop", "Ready", "False UpstreamUnreachable")?;
    let status = &world.api.cluster("shop")?["status"];
    ensure!(
        status["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| {
                one["upstream"] == json!({"state": "Unreachable", "reason": "ConnectionRefused"})
            }),
        "{status}"
    );
    ensure!(status["budget"]["serverConnections"] == 350, "{status}");
    let again = json!({"upstream": {"state": "reachable", "number": 3}});
    says(&[again.clone(), again.clone(), again]);
    world.condition("shop", "UpstreamReachable", "True Reachable")?;
    world.condition("shop", "Ready", "True Serving")
}

fn capacity(world: &World) -> Result<()> {
    let pods = fakes::Pods::find(&world.api, "shop")?;
    let balancer = fakes::Balancer::start(&pods)?;
    let revision = world.api.revision("shop")?;
    pods.ready(&world.api)?;
    let says = |said: &[Json]| balancer.relays(&pods, "Up", &revision, said);
    let has_capacity = json!({"saturation": {"number": 1}});
    let saturated = |reason: &str| json!({"saturation": {"reason": reason, "number": 2}});
    says(&[]);
    world.condition("shop", "CapacityAvailable", "Unknown NotReported")?;
    says(std::slice::from_ref(&has_capacity));
    world.condition("shop", "CapacityAvailable", "True HasCapacity")?;
    says(&[has_capacity.clone(), saturated("maxServerConnections")]);
    world.condition("shop", "CapacityAvailable", "False ConnectionsUsedUp")?;
    world.condition("shop", "Ready", "True Serving")?;
    let status = &world.api.cluster("shop")?["status"];
    let endpoints = status["endpoints"].as_array();
    let mut capacities = endpoints.into_iter().flatten().map(|one| &one["capacity"]);
    ensure!(
        capacities.any(|capacity| capacity == "MaxServerConnections"),
        "{status}"
    );
    let again = json!({"saturation": {"number": 3}});
    says(&[has_capacity, again]);
    world.condition("shop", "CapacityAvailable", "True HasCapacity")
}

/// A look that finds everything as it should be writes nothing. What others did
/// just now may still be told, so the first looks do not count.
fn at_rest(world: &World) -> Result<()> {
    let operator = &world.operator;
    let writes = || {
        operator.sum("poolkeeper_operator_api_calls_total", |labels| {
            let reads = ["\"get\"", "\"watch\"", "\"leases\""];
            !reads.iter().any(|read| labels.contains(read))
        })
    };
    let looks = || {
        operator.sum("poolkeeper_operator_reconciles_total", |labels| {
            labels.contains("result=\"ok\"")
        })
    };
    let mut quiet = 0;
    let mut log = Vec::new();
    for round in 0..30 {
        let (written, looked) = (writes()?, looks()?);
        let note = format!("example.org/note={round}");
        let annotate = ["annotate", "pgpc", "shop", &note, "--overwrite"];
        world.control_plane.kubectl(&annotate)?;
        world.eventually("another look", || looks().is_ok_and(|now| now > looked))?;
        let more = writes()? - written;
        log.push(more);
        quiet = if more == 0.0 { quiet + 1 } else { 0 };
        if quiet == 3 {
            return Ok(());
        }
    }
    anyhow::bail!("every look writes: {log:?}")
}

fn deleted(world: &World) -> Result<()> {
    world.control_plane.kubectl(&["delete", "pgpc", "shop"])?;
    world.eventually("everything to go", || {
        let left = world.api.ours();
        left.is_ok_and(|left| left.is_empty())
    })?;
    // What people wrote stays.
    world.api.core("secrets", "shop-users").map(drop)
}

impl World {
    fn patch(&self, cluster: &str, patch: &Json) -> Result<()> {
        let patch = patch.to_string();
        let arguments = ["patch", "pgpc", cluster, "--type=merge", "-p", &patch];
        self.control_plane.kubectl(&arguments).map(drop)
    }

    fn condition(&self, cluster: &str, type_: &str, wanted: &str) -> Result<()> {
        self.api.wait_for_condition(cluster, type_, wanted)
    }

    fn eventually(&self, what: &str, is_so: impl FnMut() -> bool) -> Result<()> {
        api::eventually(what, is_so)
    }
}
