//! Every example, carried out: what becomes of it is what its golden file says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};

use super::World;

const KINDS: &str = "serviceaccount,secret,configmap,service,poddisruptionbudget,\
                     networkpolicy,deployment";

/// Each in a namespace of its name.
pub(super) fn carried_out(world: &mut World) -> Result<()> {
    let examples = examples()?;
    ensure!(examples.len() >= 6, "only {:?}", examples.keys());
    for (name, text) in &examples {
        let kubectl = |arguments: &[&str]| world.control_plane.kubectl(arguments);
        kubectl(&["create", "namespace", name])?;
        if text.contains("cnpgClusterRef") {
            let service = ["create", "service", "clusterip", "pg-rw", "--tcp=5432"];
            kubectl(&[&service[..], &["--namespace", name]].concat())?;
        }
        world.apply_within(name, text)?;
    }
    let mut kinds = BTreeSet::new();
    for name in examples.keys() {
        is_carried_out(world, name, &mut kinds).with_context(|| format!("example {name}"))?;
    }
    for kind in ["NetworkPolicy", "PodDisruptionBudget"] {
        ensure!(kinds.contains(kind), "no example has a {kind}");
    }
    Ok(())
}

/// The examples that hold a PgPoolCluster, by name.
fn examples() -> Result<BTreeMap<String, String>> {
    let mut examples = BTreeMap::new();
    for file in fs::read_dir(root().join("examples"))? {
        let path = file?.path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let name = path.file_stem().and_then(|name| name.to_str());
        let name = name.context("a name in UTF-8")?.to_owned();
        let text = fs::read_to_string(&path)?;
        if text.contains("kind: PgPoolCluster") {
            examples.insert(name, text);
        }
    }
    Ok(examples)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn is_carried_out(world: &World, name: &str, kinds: &mut BTreeSet<String>) -> Result<()> {
    let api = world.api.within(name);
    api.wait_for_condition("shop", "ConfigValid", "True Valid")?;
    api.wait_for_condition("shop", "Reconciling", "True RollingOut")?;
    api.wait_for_condition("shop", "Stalled", "False NotStalled")?;
    let mut made: BTreeMap<String, Json> = by_title(&world.control_plane.kubectl(&[
        "get",
        KINDS,
        "--namespace",
        name,
        "--selector=app.kubernetes.io/managed-by=poolkeeper-operator",
        "--output=json",
    ])?)?;
    let golden = root().join(format!("operator/tests/golden/{name}/objects.yaml"));
    let read = ["create", "--dry-run=client", "--validate=false"];
    let file = golden.to_string_lossy();
    let read = [&read[..], &["--output=json", "-f", &file]].concat();
    let wanted = by_title(&world.control_plane.kubectl(&read)?)?;
    // What people were told is in no file, nor is what is drawn by lot.
    made.remove("ConfigMap shop-notifier");
    let own = "Secret shop-internal".to_owned();
    let titles: BTreeSet<&String> = wanted.keys().chain([&own]).collect();
    ensure!(
        made.keys().collect::<BTreeSet<_>>() == titles,
        "there are {:?}, and not {titles:?}",
        made.keys()
    );
    for (title, wanted) in &wanted {
        let made = &made[title];
        for part in ["/metadata/labels", "/spec", "/immutable", "/type"] {
            if let Some(wanted) = wanted.pointer(part) {
                holds(made.pointer(part), wanted, &format!("{title}{part}"))?;
            }
        }
        let keys = |object: &Json| -> Vec<String> {
            let data = object["data"].as_object();
            data.into_iter()
                .flat_map(|data| data.keys().cloned())
                .collect()
        };
        ensure!(keys(made) == keys(wanted), "{title} has {:?}", keys(made));
        kinds.insert(title.split(' ').next().unwrap_or_default().to_owned());
    }
    Ok(())
}

/// Objects as kubectl prints them, one after the other or as a list, by kind and
/// name.
fn by_title(printed: &str) -> Result<BTreeMap<String, Json>> {
    let mut objects = BTreeMap::new();
    for document in serde_json::Deserializer::from_str(printed).into_iter::<Json>() {
        let document = document?;
        let listed = document["items"].as_array().cloned();
        for object in listed.unwrap_or_else(|| vec![document]) {
            let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
            let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
            objects.insert(format!("{kind} {name}"), object);
        }
    }
    Ok(objects)
}

/// Whether a value has all that is wanted of it; the API server adds defaults.
fn holds(made: Option<&Json>, wanted: &Json, place: &str) -> Result<()> {
    let found = made.unwrap_or(&Json::Null);
    match (found, wanted) {
        (Json::Object(made), Json::Object(wanted)) => {
            for (key, wanted) in wanted {
                holds(made.get(key), wanted, &format!("{place}/{key}"))?;
            }
            Ok(())
        }
        (Json::Array(made), Json::Array(wanted)) => {
            ensure!(made.len() == wanted.len(), "{place} is {found}");
            for (index, wanted) in wanted.iter().enumerate() {
                holds(made.get(index), wanted, &format!("{place}/{index}"))?;
            }
            Ok(())
        }
        _ => {
            let is_nothing = [json!(null), json!({}), json!([])].contains(wanted);
            let is_left_out = is_nothing && found.is_null();
            ensure!(
                found == wanted || is_left_out,
                "{place}: {found}, not {wanted}"
            );
            Ok(())
        }
    }
}
