//! An upstream of CloudNativePG, named by its Cluster, where CloudNativePG is not
//! installed: what it would make comes, changes and goes.

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::World;

const EXAMPLE: &str = include_str!("../../../examples/cnpg.yaml");

pub(super) fn followed(world: &mut World) -> Result<()> {
    let (cluster, secrets) = EXAMPLE
        .split_once("\n---\n")
        .context("the example is of several documents")?;
    let own = cluster.replacen("\n  name: shop\n", "\n  name: by-name\n", 1);
    ensure!(own != cluster, "the example has changed");

    world.control_plane.apply(&own)?;
    let valid = |wanted: &str| world.condition("by-name", "ConfigValid", wanted);
    valid("False ReferenceNotFound")?;
    for name in ["pg-rw", "pg-app", "pg-ca"] {
        names(world, name)?;
    }
    let kubectl = |arguments: &[&str]| world.control_plane.kubectl(arguments);
    kubectl(&["create", "service", "clusterip", "pg-rw", "--tcp=5432"])?;
    // Of the Secrets the operator hears.
    world.control_plane.apply(secrets)?;
    valid("True Valid")?;
    world.eventually("its poolers", || {
        world.api.deployment("by-name-pooler").is_ok()
    })?;
    let made = world.api.deployment("by-name-pooler")?["spec"].clone();
    ensure!(
        file(world, "pooler.ini")?.contains("host=pg-rw"),
        "its host"
    );

    let password = json!({"stringData": {"password": "rotated"}}).to_string();
    kubectl(&["patch", "secret", "pg-app", "--type=merge", "-p", &password])?;
    world.eventually("the new password", || {
        file(world, "userlist.txt").is_ok_and(|list| list == "\"app\" \"rotated\"\n")
    })?;
    world.eventually("applications to find it", || {
        let secret = world.api.core("secrets", "by-name-binding-app");
        let uri = secret
            .map(|secret| secret["data"]["uri"].clone())
            .unwrap_or_default();
        let uri = STANDARD.decode(uri.as_str().unwrap_or_default());
        uri.is_ok_and(|uri| uri == b"postgresql://app:rotated@by-name.default.svc:5432/app")
    })?;
    let authority = file(world, "server-ca.crt")?;
    ensure!(authority.contains("BEGIN CERTIFICATE"), "{authority}");
    ensure!(spec(world)? == made, "Pods are replaced");

    kubectl(&["delete", "secret", "pg-ca"])?;
    valid("False ReferenceNotFound")?;
    names(world, "pg-ca")?;
    ensure!(file(world, "server-ca.crt")? == authority, "it is gone");
    ensure!(spec(world)? == made, "what runs is changed");
    world.control_plane.apply(secrets)?;
    valid("True Valid")?;
    kubectl(&["delete", "pgpc", "by-name"])?;
    kubectl(&["delete", "secret", "pg-app", "pg-ca"])?;
    kubectl(&["delete", "service", "pg-rw"])?;
    Ok(())
}

/// Whether it is said what is missing.
fn names(world: &World, name: &str) -> Result<()> {
    let condition = world.api.condition("by-name", "ConfigValid")?;
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(message.contains(name), "no {name} in: {message}");
    Ok(())
}

fn spec(world: &World) -> Result<Json> {
    Ok(world.api.deployment("by-name-pooler")?["spec"].clone())
}

/// A file that the poolers read.
fn file(world: &World, name: &str) -> Result<String> {
    let secret = world.api.core("secrets", "by-name-pooler-config")?;
    let text = secret["data"][name].as_str().context(name.to_owned())?;
    Ok(String::from_utf8(STANDARD.decode(text)?)?)
}
