//! Which crates are in a program: CycloneDX 1.5, from what cargo knows.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::calls::cargo;

/// A list of what a program is made of.
pub(super) struct List {
    /// The document.
    pub(super) text: String,
    /// How many crates it names.
    pub(super) crates: usize,
}

/// Lists the crates that are linked into a program: what only builds or tests it,
/// macros too, is in no program.
///
/// # Errors
/// If cargo does not say which they are.
pub(super) fn of(program: &str, package: &str, target: &str) -> Result<List> {
    let output = cargo(&["tree", "--locked", "--package", package, "--target", target])
        .args(["--edges", "normal,no-proc-macro", "--no-dedupe"])
        .args(["--prefix", "none", "--format", "{p}|{l}"])
        .output()
        .context("cargo does not start")?;
    ensure!(
        output.status.success(),
        "cargo tree failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8_lossy(&output.stdout);
    document(program, package, &tree)
}

/// `tree` has a line for each crate, `name v1.0.0|MIT`; those of the workspace say
/// where they are, too.
fn document(program: &str, package: &str, tree: &str) -> Result<List> {
    let mut components = Vec::new();
    let mut itself = json!({"type": "application", "name": program, "bom-ref": program});
    for line in tree.lines().collect::<BTreeSet<_>>() {
        let (name, version, license) = parts(line)
            .with_context(|| format!("cargo tree printed {line:?}, not NAME vVERSION|LICENCE"))?;
        if name == package {
            itself["version"] = json!(version);
            itself["licenses"] = licenses(license);
            continue;
        }
        let purl = format!("pkg:cargo/{name}@{version}");
        components.push(json!({
            "type": "library",
            "name": name,
            "version": version,
            "purl": purl,
            "bom-ref": purl,
            "licenses": licenses(license),
        }));
    }
    let crates = components.len();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": itself},
        "components": components,
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&document)?);
    Ok(List { text, crates })
}

fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let (crate_, license) = line.split_once('|')?;
    let mut words = crate_.split(' ');
    let name = words.next()?;
    Some((name, words.next()?.strip_prefix('v')?, license))
}

/// Old crates write MIT/Apache-2.0; some name no licence but a file.
fn licenses(license: &str) -> Value {
    if license.is_empty() {
        return json!([]);
    }
    json!([{ "expression": license.replace('/', " OR ") }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_listed_once_with_its_licence() {
        let tree = "proxy v0.1.0 (/somewhere/proxy)|Apache-2.0\n\
                    below v1.0.0|MIT/Apache-2.0\n\
                    above v2.0.0|ISC\n\
                    below v1.0.0|MIT/Apache-2.0\n";
        let list = document("pooler", "proxy", tree).unwrap();
        assert_eq!(list.crates, 2);
        assert!(!list.text.contains("somewhere"), "a path of one machine");
        let document: Value = serde_json::from_str(&list.text).unwrap();
        assert_eq!(document["metadata"]["component"]["version"], "0.1.0");
        assert_eq!(document["components"][0]["purl"], "pkg:cargo/above@2.0.0");
        assert_eq!(
            document["components"][1]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
    }

    #[test]
    fn what_cargo_may_print_some_day_is_an_error() {
        assert!(document("pooler", "proxy", "proxy 0.1.0|MIT").is_err());
    }
}
