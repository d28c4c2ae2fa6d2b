//! The Secrets of a tier: deleted by hand, and those that applications need.

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::{World, fakes};

/// What their contents follow from is still there: they come back as they were.
pub(super) fn configuration(world: &mut World) -> Result<()> {
    let selector = "app.kubernetes.io/instance=shop";
    let secrets = world.api.list("/api/v1", "secrets", selector)?;
    let settings = secrets.iter().find(|one| one["immutable"] == true);
    let settings = settings.context("no Secret with settings that only a restart applies")?;
    let settings = settings["metadata"]["name"].as_str().unwrap_or_default();
    let before = generations(world)?;
    for name in [settings, "shop-pooler-config"] {
        let gone = world.api.core("secrets", name)?;
        let back = deleted(world, name)?;
        for part in ["/data", "/immutable", "/type", "/metadata/labels"] {
            let (was, is) = (gone.pointer(part), back.pointer(part));
            ensure!(was == is, "{name}: {part} is {is:?}, was {was:?}");
        }
    }
    ensure!(generations(world)? == before, "Pods are replaced");
    Ok(())
}

/// Each user that is listed has what it needs, as it is now, and nobody else has.
pub(super) fn bindings(world: &mut World) -> Result<()> {
    let uri = |name: &str| -> Result<String> {
        let secret = world.api.core("secrets", name)?;
        ensure!(secret["type"] == "servicebinding.io/postgresql", "{name}");
        let uri = secret["data"]["uri"].as_str().context("no uri")?;
        Ok(String::from_utf8(STANDARD.decode(uri)?)?)
    };
    let is_bound = |wanted: &Json| {
        let cluster = world.api.cluster("shop");
        cluster.is_ok_and(|cluster| cluster["status"]["binding"]["name"] == *wanted)
    };
    let users = |names: &[&str]| {
        let users: Vec<Json> = names.iter().map(|name| json!({"name": name})).collect();
        world.patch("shop", &json!({"spec": {"users": users}}))
    };
    let of_app = uri("shop-binding-app")?;
    ensure!(
        of_app == "postgresql://app:change-me@shop.default.svc:5432/",
        "it is another"
    );
    users(&["admin", "app"])?;
    world.eventually("the first to be the binding", || {
        is_bound(&json!("shop-binding-admin"))
    })?;
    uri("shop-binding-admin")?;

    let list = "\"app\" \"p@ss\"\n\"admin\" \"change-me-too\"\n";
    let changed = |list: &str| {
        let list = json!({"stringData": {"userlist.txt": list}}).to_string();
        let patch = ["patch", "secret", "shop-users", "--type=merge", "-p", &list];
        world.control_plane.kubectl(&patch).map(drop)
    };
    changed(list)?;
    world.eventually("the new password", || {
        uri("shop-binding-app").is_ok_and(|uri| uri.contains("//app:p%40ss@"))
    })?;
    changed(&list.replace("p@ss", "change-me"))?;

    users(&[])?;
    world.eventually("none to be left", || {
        is_bound(&Json::Null)
            && ["shop-binding-app", "shop-binding-admin"]
                .iter()
                .all(|name| world.api.core("secrets", name).is_err())
    })?;
    users(&["app"])?;
    world.eventually("it to be back", || {
        is_bound(&json!("shop-binding-app"))
            && uri("shop-binding-app").is_ok_and(|uri| uri == of_app)
    })
}

/// Nobody else has the key: there is another, and all are told of it without
/// that one Pod is replaced.
pub(super) fn key(world: &mut World) -> Result<()> {
    let pods = fakes::Pods::find(&world.api, "shop")?;
    let balancer = fakes::Balancer::start(&pods)?;
    let revision = world.api.revision("shop")?;
    balancer.says(&pods, "Up", &revision);
    pods.ready(&world.api)?;
    world.condition("shop", "Reconciling", "False Done")?;
    let before = generations(world)?;

    let gone = world.api.core("secrets", "shop-internal")?;
    let back = deleted(world, "shop-internal")?;
    let key = |secret: &Json| secret["data"]["key"].as_str().map(str::to_owned);
    let (old, new) = (key(&gone), key(&back));
    ensure!(
        old.is_some() && new.is_some() && old != new,
        "{old:?}, {new:?}"
    );
    world.condition("shop", "Reconciling", "True Reloading")?;
    world.condition("shop", "Ready", "True Serving")?;
    let wanted = world.api.revision("shop")?;
    ensure!(wanted != revision, "it is the revision of the former key");
    let config = world.api.core("configmaps", "shop-balancer-config")?;
    let yaml = config["data"]["balancer.yaml"].to_string();
    ensure!(yaml.contains(&wanted), "balancers are told {yaml}");
    // The kubelet of each is to bring it at once.
    world.eventually("every Pod to be told", || {
        let pods = world
            .api
            .list("/api/v1", "pods", "app.kubernetes.io/instance=shop");
        pods.is_ok_and(|pods| {
            pods.len() == 5
                && pods.iter().all(|pod| {
                    pod["metadata"]["annotations"]["poolkeeper.dev/config-revision"] == wanted
                })
        })
    })?;
    balancer.says(&pods, "Up", &wanted);
    world.condition("shop", "Reconciling", "False Done")?;
    ensure!(generations(world)? == before, "Pods are replaced");
    Ok(())
}

/// Deletes a Secret, and waits for another one of its name.
fn deleted(world: &World, name: &str) -> Result<Json> {
    let uid = world.api.core("secrets", name)?["metadata"]["uid"].clone();
    world.control_plane.kubectl(&["delete", "secret", name])?;
    let mut back = json!(null);
    world.eventually("the Secret to be back", || {
        back = world.api.core("secrets", name).unwrap_or_default();
        back["metadata"]["uid"].is_string() && back["metadata"]["uid"] != uid
    })?;
    Ok(back)
}

/// Those of the Deployments, which change with every wish.
fn generations(world: &World) -> Result<[Json; 2]> {
    let of = |name: &str| -> Result<Json> {
        Ok(world.api.deployment(name)?["metadata"]["generation"].clone())
    };
    Ok([of("shop-pooler")?, of("shop-balancer")?])
}
