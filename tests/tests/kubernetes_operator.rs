//! `operator run` against a real API server: every flow that a PgPoolCluster
//! goes through, and what its status says at the end of each.
//!
//! There is no node, so no Pod runs; kube-controller-manager makes them, and
//! removes what belongs to what is gone.

#[path = "kubernetes_operator/api.rs"]
mod api;
#[path = "kubernetes_operator/cnpg.rs"]
mod cnpg;
#[path = "kubernetes_operator/examples.rs"]
mod examples;
#[path = "kubernetes_operator/fakes.rs"]
#[allow(dead_code, reason = "other scenarios use the rest")]
mod fakes;
#[path = "kubernetes_operator/rollouts.rs"]
mod rollouts;
#[path = "kubernetes_operator/secrets.rs"]
mod secrets;

use anyhow::{Context, Result, ensure};
use api::Api;
use serde_json::{Value as Json, json};
use tests::{
    ControlPlane,
    kubernetes::{ClusterOperator, TierImages, kubectl},
};

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
    // Pods that are ending are ended by nobody here; that would take them for lost.
    let no_collector = "--controllers=*,-pod-garbage-collector-controller";
    let control_plane = ControlPlane::builder()
        .with_controller_manager()
        .controller_flag(no_collector)
        .start()?;
    control_plane.install_crds()?;
    let kubeconfig = control_plane.kubeconfig();
    // What it puts up with is in the log too.
    let log = [("RUST_LOG", "info,operator=debug,kube_client=off".as_ref())];
    let operator = ClusterOperator::start_in(&kubeconfig, &[], &log)?;
    let mut world = World {
        api: Api::connect(&control_plane.kubeconfig())?,
        control_plane,
        operator,
        logs: Vec::new(),
    };
    for (name, flow) in FLOWS {
        let begin = std::time::Instant::now();
        flow(&mut world).with_context(|| {
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
    /// Of operators that have ended.
    logs: Vec<String>,
}

type Flow = fn(&mut World) -> Result<()>;

const FLOWS: &[(&str, Flow)] = &[
    ("a manifest becomes objects", created),
    ("what others change is put right", drift),
    ("what is no longer wanted goes", pruned),
    ("fields that are no longer wanted go", fields_go),
    ("kubectl scale sets the poolers", scaled),
    (
        "Secrets that are deleted come back as they were",
        secrets::configuration,
    ),
    (
        "applications find what they need to connect",
        secrets::bindings,
    ),
    ("a rollout without Pods says why", rollouts::refused),
    (
        "a rollout that is late says so until the next",
        rollouts::late,
    ),
    ("a name that is taken is left alone", name_conflict),
    ("what cannot be carried out leaves what runs alone", invalid),
    ("a Secret that is mended is noticed", mended),
    ("a suspended cluster stays as it is", suspended),
    ("an object that cannot be read stalls no other", unreadable),
    ("an upstream of CloudNativePG is followed", cnpg::followed),
    ("status follows the Pods and their balancer", observed),
    (
        "a key that is deleted is replaced, and no Pod",
        secrets::key,
    ),
    (
        "none is evicted while others are ending",
        rollouts::evictions,
    ),
    ("one that is made anew begins anew", anew),
    ("status says whether PostgreSQL answers", upstream),
    ("status says whether clients are served in time", capacity),
    ("every example is carried out", examples::carried_out),
    ("an autoscaler finds what it scales", autoscaled),
    ("at rest nothing is written", at_rest),
    ("Pods are updated when they are to be", updated),
    ("every line of the log is an object", logged),
    ("what is deleted takes everything along", deleted),
];

fn created(world: &mut World) -> Result<()> {
    world.control_plane.apply(&quickstart("shop"))?;
    world.condition("shop", "Reconciling", "True RollingOut")?;
    for (resource, names) in [
        ("serviceaccounts", &["shop"][..]),
        (
            "secrets",
            &["shop-pooler-config", "shop-internal", "shop-binding-app"],
        ),
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
    ensure!(status["binding"]["name"] == "shop-binding-app", "{status}");
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

fn drift(world: &mut World) -> Result<()> {
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
fn pruned(world: &mut World) -> Result<()> {
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

fn fields_go(world: &mut World) -> Result<()> {
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

fn scaled(world: &mut World) -> Result<()> {
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
    let scale = || -> Result<Json> {
        let get = ["get", "pgpc", "shop", "--subresource=scale", "-o", "json"];
        Ok(serde_json::from_str(&world.control_plane.kubectl(&get)?)?)
    };
    world.eventually("three poolers, observed", || {
        scale().is_ok_and(|one| one["spec"]["replicas"] == 3 && one["status"]["replicas"] == 3)
    })?;
    // What an autoscaler measures are the poolers, all of them and nothing else.
    let scale = scale()?;
    let selector = scale["status"]["selector"].as_str().unwrap_or_default();
    let names = |selector: &str| -> Result<Vec<Json>> {
        let pods = world.api.list("/api/v1", "pods", selector)?;
        Ok(pods
            .iter()
            .map(|one| one["metadata"]["name"].clone())
            .collect())
    };
    let labels = "app.kubernetes.io/instance=shop,app.kubernetes.io/component=pooler";
    world.eventually("the Pods of the selector to be the poolers", || {
        let (selected, poolers) = (names(selector), names(labels));
        matches!((selected, poolers), (Ok(selected), Ok(poolers))
            if !selector.is_empty() && poolers.len() == 3 && selected == poolers)
    })?;
    let autoscale = [
        "autoscale",
        "pgpc",
        "shop",
        "--min=1",
        "--max=9",
        "--cpu-percent=80",
    ];
    world.control_plane.kubectl(&autoscale).map(drop)
}

/// There are no measurements here: that the target is found is what there is to see.
fn autoscaled(world: &mut World) -> Result<()> {
    let mut found = Json::Null;
    world.eventually("the autoscaler to find its target", || {
        let group = "/apis/autoscaling/v2";
        let autoscaler = world.api.named(group, "horizontalpodautoscalers", "shop");
        found = autoscaler.unwrap_or_default();
        let conditions = found["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| {
            one["type"] == "AbleToScale"
                && one["status"] == "True"
                && one["reason"] == "SucceededGetScale"
        })
    })?;
    let target = &found["spec"]["scaleTargetRef"];
    ensure!(target["kind"] == "PgPoolCluster", "{target}");
    ensure!(
        found["status"]["currentReplicas"] == 3,
        "{}",
        found["status"]
    );
    Ok(())
}

fn name_conflict(world: &mut World) -> Result<()> {
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
    // Looks that find the same tell nothing.
    for round in 0..3 {
        let looks = || {
            world
                .operator
                .sum("poolkeeper_operator_reconciles_total", |_| true)
        };
        let before = looks()?;
        let note = format!("example.org/note={round}");
        kubectl(&["annotate", "pgpc", "taken", &note, "--overwrite"])?;
        world.eventually("another look", || looks().is_ok_and(|now| now > before))?;
    }
    let mut events = world.api.events("taken");
    events.retain(|one| one["reason"] == "NameConflict");
    ensure!(
        events.len() == 1 && events[0]["series"].is_null(),
        "{events:?}"
    );
    kubectl(&["delete", "service", "taken"])?;
    // Sooner than it would look by itself, after so many times in vain.
    kubectl(&[
        "annotate",
        "pgpc",
        "taken",
        "example.org/note=gone",
        "--overwrite",
    ])?;
    world.condition("taken", "Stalled", "False NotStalled")?;
    kubectl(&["delete", "pgpc", "taken"])?;
    Ok(())
}

/// Deleted and made anew at once, as people do: nothing of the one before is
/// remembered, and what is still being removed of it is nobody's mistake.
fn anew(world: &mut World) -> Result<()> {
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

fn invalid(world: &mut World) -> Result<()> {
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

fn mended(world: &mut World) -> Result<()> {
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

fn suspended(world: &mut World) -> Result<()> {
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
fn unreadable(world: &mut World) -> Result<()> {
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

fn observed(world: &mut World) -> Result<()> {
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

fn upstream(world: &mut World) -> Result<()> {
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

fn capacity(world: &mut World) -> Result<()> {
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

/// A look that finds everything as it should be writes nothing, of the examples
/// too. What others did just now may still be told, so the first looks do not count.
fn at_rest(world: &mut World) -> Result<()> {
    let operator = &world.operator;
    let clusters = || -> Result<usize> {
        let path = "/apis/poolkeeper.dev/v1alpha1/pgpoolclusters";
        Ok(world.api.get(path)?["items"].as_array().map_or(0, Vec::len))
    };
    ensure!(clusters()? >= 7, "there are only {}", clusters()?);
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
        let (written, looked, clusters) = (writes()?, looks()?, clusters()?);
        let note = format!("example.org/note={round}");
        let all = ["annotate", "pgpc", "--all", "--all-namespaces", &note];
        world
            .control_plane
            .kubectl(&[&all[..], &["--overwrite"]].concat())?;
        world.eventually("another look at each", || {
            looks().is_ok_and(|now| now >= looked + clusters as f64)
        })?;
        let more = writes()? - written;
        log.push(more);
        quiet = if more == 0.0 { quiet + 1 } else { 0 };
        if quiet == 3 {
            return Ok(());
        }
    }
    anyhow::bail!("every look writes: {log:?}")
}

/// A newer operator replaces no Pod unless it was asked to, once or for good.
fn updated(world: &mut World) -> Result<()> {
    let automatic = json!({"spec": {"updatePolicy": "Automatic"}}).to_string();
    world.control_plane.apply(&quickstart("follows"))?;
    let patch = ["patch", "pgpc", "follows", "--type=merge", "-p", &automatic];
    world.control_plane.kubectl(&patch)?;
    let image = |world: &World, name: &str| {
        let deployment = world.api.deployment(name).unwrap_or_default();
        let containers = &deployment["spec"]["template"]["spec"]["containers"];
        containers[0]["image"].as_str().map(str::to_owned)
    };
    let has = |world: &World, cluster: &str, tag: u32| {
        world.eventually(&format!("{cluster} to have images {tag}"), || {
            ["pooler", "balancer"].iter().all(|component| {
                let wanted = format!("example.org/{component}:{tag}");
                image(world, &format!("{cluster}-{component}")) == Some(wanted)
            })
        })
    };
    has(world, "follows", 1)?;
    has(world, "shop", 1)?;
    world.operator.terminate()?;
    world.logs.push(world.operator.log());
    let newer = TierImages {
        pooler: "example.org/pooler:2",
        balancer: "example.org/balancer:2",
    };
    let kubeconfig = world.control_plane.kubeconfig();
    world.operator = ClusterOperator::start_with(&kubeconfig, newer, &[], &[])?;
    has(world, "follows", 2)?;
    world.condition("follows", "UpdateAvailable", "False UpToDate")?;
    world.condition("shop", "UpdateAvailable", "True NewImages")?;
    let message = world.api.condition("shop", "UpdateAvailable")?["message"].to_string();
    let could = "example.org/pooler:1 could become example.org/pooler:2";
    ensure!(message.contains(could), "{message}");
    has(world, "shop", 1)?;
    let asked = json!({"metadata": {"annotations": {"poolkeeper.dev/update": "2"}}});
    world.patch("shop", &asked)?;
    has(world, "shop", 2)?;
    world.condition("shop", "UpdateAvailable", "False UpToDate")?;
    world
        .control_plane
        .kubectl(&["delete", "pgpc", "follows"])
        .map(drop)
}

/// What went wrong above is in it, with the cluster that it is about.
fn logged(world: &mut World) -> Result<()> {
    world.logs.push(world.operator.log());
    let mut about = Vec::new();
    for line in world.logs.iter().flat_map(|log| log.lines()) {
        let object: Json = serde_json::from_str(line).with_context(|| line.to_owned())?;
        for field in ["timestamp", "level", "target"] {
            ensure!(object[field].is_string(), "no {field} in {line}");
        }
        if object["span"]["name"] == "reconcile" {
            about.push(object["span"].clone());
        }
    }
    let taken = json!({"name": "reconcile", "namespace": "default", "cluster": "taken"});
    ensure!(about.contains(&taken), "no such span: {about:?}");
    ensure!(
        about
            .iter()
            .all(|span| span["cluster"].is_string() && span["namespace"].is_string()),
        "{about:?}"
    );
    Ok(())
}

fn deleted(world: &mut World) -> Result<()> {
    world.control_plane.kubectl(&["delete", "pgpc", "shop"])?;
    world.eventually("everything to go", || {
        let left = world.api.ours();
        left.is_ok_and(|left| left.is_empty())
    })?;
    // What people wrote stays.
    world.api.core("secrets", "shop-users").map(drop)
}

impl World {
    fn apply_within(&self, namespace: &str, yaml: &str) -> Result<()> {
        let apply = ["apply", "--namespace", namespace, "-f", "-"];
        kubectl(&self.control_plane.kubeconfig(), &apply, Some(yaml)).map(drop)
    }

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
