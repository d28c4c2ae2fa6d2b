//! Which crates are in a program: CycloneDX 1.5, from what cargo knows.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::stage::cargo;

/// A list of what a program is made of.
pub(super) struct List {
    /// The document.
    pub(super) text: String,
    /// How many crates it names.
    pub(super) crates: usize,
}

/// Lists the crates that are linked into a program.
///
/// # Errors
/// If cargo does not say which they are.
pub(super) fn of(program: &str, package: &str, target: &str) -> Result<List> {
    let output = cargo(&["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", target])
        .output()
        .context("cargo does not start")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    document(program, package, &metadata)
}

fn document(program: &str, package: &str, metadata: &Value) -> Result<List> {
    let packages: BTreeMap<&str, &Value> = (metadata["packages"].as_array().into_iter().flatten())
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = (metadata["resolve"]["nodes"].as_array().into_iter())
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let root = packages
        .iter()
        .find(|(_, one)| one["name"] == package && one["source"].is_null())
        .map(|(id, _)| *id)
        .with_context(|| format!("no package {package} in the workspace"))?;
    let linked = linked(root, &nodes);
    let mut components: Vec<Value> = linked
        .iter()
        .filter(|id| **id != root)
        .filter_map(|id| packages.get(id))
        .map(|package| component(package))
        .collect();
    components.sort_by_key(|one| one["bom-ref"].to_string());
    let crates = components.len();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": program,
            "version": packages[root]["version"],
            "bom-ref": program,
            "licenses": [{"expression": packages[root]["license"]}],
        }},
        "components": components,
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&document)?);
    Ok(List { text, crates })
}

/// A package and all that it depends on to run; what only builds or tests it is
/// in no program.
fn linked<'a>(root: &'a str, nodes: &BTreeMap<&str, &'a Value>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from([root]);
    let mut left = vec![root];
    while let Some(id) = left.pop() {
        let dependencies = nodes.get(id).and_then(|node| node["deps"].as_array());
        for dependency in dependencies.into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array();
            let runs = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()));
            if let Some(id) = dependency["pkg"].as_str()
                && runs
                && found.insert(id)
            {
                left.push(id);
            }
        }
    }
    found
}

fn component(package: &Value) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let purl = format!("pkg:cargo/{}@{}", text("name"), text("version"));
    let mut component = json!({
        "type": "library",
        "name": package["name"],
        "version": package["version"],
        "purl": purl,
        "bom-ref": purl,
    });
    if !package["license"].is_null() {
        // Old crates write MIT/Apache-2.0.
        let license = text("license").replace('/', " OR ");
        component["licenses"] = json!([{ "expression": license }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_linked_is_listed() {
        let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let package = |name: &str, source: Value| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source});
        let metadata = json!({
            "packages": [
                package("proxy", json!(null)), package("linked", json!("registry")),
                package("below", json!("registry")), package("tester", json!("registry")),
            ],
            "resolve": {"nodes": [
                {"id": "proxy", "deps": [dependency("linked", json!(null)), dependency("tester", json!("dev"))]},
                {"id": "linked", "deps": [dependency("below", json!(null)), dependency("tester", json!("build"))]},
                {"id": "below", "deps": []},
            ]},
        });
        let list = document("pooler", "proxy", &metadata).unwrap();
        assert_eq!(list.crates, 2);
        let document: Value = serde_json::from_str(&list.text).unwrap();
        assert_eq!(document["components"][0]["purl"], "pkg:cargo/below@1.0.0");
        assert_eq!(
            document["components"][1]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
    }
}
