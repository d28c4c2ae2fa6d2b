//! What helm makes of the chart, with no cluster: golden files, refusals, and the
//! manifests for people without helm.
//!
//! `cargo xtask generate` has this file write what it would otherwise compare.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tests::kubernetes::helm;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn chart() -> String {
    root().join("charts/poolkeeper").display().to_string()
}

/// `helm template` as `poolkeeper` in `poolkeeper-system`.
fn render(arguments: &[&str]) -> Result<String> {
    let chart = chart();
    let template = ["template", "poolkeeper", &chart];
    let namespace = ["--namespace", "poolkeeper-system"];
    let rendered = helm(None, &[&template[..], &namespace, arguments].concat())?;
    // Helm leaves blanks where an action stood; they mean nothing.
    Ok(rendered
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect())
}

/// Compares with a committed file, or writes it when `POOLKEEPER_UPDATE=1` is set.
fn compare(file: &str, actual: &str) -> Result<()> {
    let path = root().join(file);
    if std::env::var_os("POOLKEEPER_UPDATE").is_some_and(|value| value == "1") {
        return fs::write(&path, actual).with_context(|| format!("cannot write {file}"));
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differs = expected
        .lines()
        .zip(actual.lines())
        .position(|(expected, actual)| expected != actual);
    let line = differs.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
    ensure!(
        expected == actual,
        "{file} is out of date at line {}:\n  committed: {}\n  generated: {}\n\
         run `cargo xtask generate` and commit what it writes",
        line + 1,
        expected.lines().nth(line).unwrap_or("(end)"),
        actual.lines().nth(line).unwrap_or("(end)"),
    );
    Ok(())
}

/// (name, path) of each file of values.
fn values() -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join("charts/tests/values"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a file has a name")?;
        files.push((
            name.to_string_lossy().into_owned(),
            path.display().to_string(),
        ));
    }
    ensure!(!files.is_empty(), "there are no values");
    files.sort();
    Ok(files)
}

#[test]
fn every_file_of_values_renders_as_committed() -> Result<()> {
    for (name, file) in values()? {
        helm(
            None,
            &["lint", "--strict", "--quiet", "--values", &file, &chart()],
        )
        .with_context(|| format!("values {name}"))?;
        // The CRD is compared by itself.
        let rendered = render(&["--values", &file, "--set", "crds.install=false"])?;
        compare(&format!("charts/tests/golden/{name}.yaml"), &rendered)?;
    }
    Ok(())
}

/// Without what only helm has a use for, and with the namespace that helm would make.
#[test]
fn manifests_for_people_without_helm_are_current() -> Result<()> {
    let rendered = render(&["--no-hooks"])?;
    let of_helm = [
        "app.kubernetes.io/managed-by: Helm",
        "helm.sh/chart:",
        "# Source: ",
    ];
    let kept: String = rendered
        .lines()
        .filter(|line| {
            !of_helm
                .iter()
                .any(|start| line.trim_start().starts_with(start))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let head = "# Generated from charts/poolkeeper by `cargo xtask generate`; do not edit.\n\
                # kubectl apply --server-side -f FILE\n\
                apiVersion: v1\n\
                kind: Namespace\n\
                metadata:\n  name: poolkeeper-system\n  labels:\n    \
                pod-security.kubernetes.io/enforce: restricted\n";
    compare("deploy/poolkeeper.yaml", &format!("{head}{kept}"))
}

#[test]
fn the_crd_comes_out_of_the_template_as_it_went_in() -> Result<()> {
    let rendered = render(&["--show-only", "templates/crd.yaml"])?;
    let committed = fs::read_to_string(root().join("crds/poolkeeper.dev_pgpoolclusters.yaml"))?;
    let kept = "  annotations:\n    helm.sh/resource-policy: keep\n";
    ensure!(
        rendered.contains(kept),
        "helm would delete it, and every PgPoolCluster"
    );
    let (_, body) = rendered
        .split_once("\napiVersion:")
        .context("no object was rendered")?;
    let (_, expected) = committed
        .split_once("\napiVersion:")
        .context("no object is committed")?;
    ensure!(
        body.replacen(kept, "", 1).trim_end() == expected.trim_end(),
        "they differ"
    );
    Ok(())
}

#[test]
fn the_dashboard_comes_out_of_the_template_as_it_went_in() -> Result<()> {
    let one = ["--show-only", "templates/dashboard.yaml"];
    let rendered = render(&[&one[..], &["--set", "monitoring.dashboard.enabled=true"]].concat())?;
    let (_, text) = rendered
        .split_once("  poolkeeper.json: |\n")
        .context("no dashboard was rendered")?;
    let rendered: serde_json::Value = serde_json::from_str(text)?;
    let file = fs::read_to_string(root().join("charts/poolkeeper/files/dashboard.json"))?;
    ensure!(
        rendered == serde_json::from_str::<serde_json::Value>(&file)?,
        "they differ"
    );
    Ok(())
}

/// (what is set, what the message must hold).
const REFUSED: &[(&str, &[&str])] = &[
    ("replicsa=3", &["replicsa", "not allowed"]),
    ("replicas=many", &["/replicas", "got string, want integer"]),
    (
        "lease.durationSeconds=1",
        &["/lease/durationSeconds", "minimum"],
    ),
    ("log.format=xml", &["/log/format", "'text', 'json'"]),
    (
        "namespaces={Shop}",
        &["/namespaces/0", "does not match pattern"],
    ),
    ("namespaces={shop,shop}", &["/namespaces", "equal"]),
    (
        "webhookHosts={https://hooks.slack.com}",
        &["/webhookHosts/0", "pattern"],
    ),
    (
        "images.pooler.digest=sha256:12",
        &["/images/pooler/digest", "pattern"],
    ),
    ("images.pooler.tga=v1", &["/images/pooler", "tga"]),
    (
        "terminationGracePeriodSeconds=5",
        &["/terminationGracePeriodSeconds", "minimum"],
    ),
    (
        "serviceAccount.create=false",
        &["serviceAccount.name must name an existing one"],
    ),
];

#[test]
fn values_that_cannot_be_are_refused_by_name() -> Result<()> {
    for (set, words) in REFUSED {
        let refused = render(&["--set", set])
            .err()
            .with_context(|| format!("{set} was accepted"))?
            .to_string();
        for word in *words {
            ensure!(
                refused.contains(word),
                "--set {set}: no {word:?} in: {refused}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_chart_is_of_the_workspaces_version() -> Result<()> {
    let text = fs::read_to_string(root().join("charts/poolkeeper/Chart.yaml"))?;
    for key in ["version", "appVersion"] {
        let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
        ensure!(
            text.lines().any(|found| found == line),
            "Chart.yaml has no line {line:?}"
        );
    }
    Ok(())
}

/// Alerts and dashboard that ask for what nobody serves would be silent for ever.
#[test]
fn every_series_that_is_asked_for_is_served() -> Result<()> {
    let metrics = fs::read_to_string(root().join("docs/metrics.md"))?;
    let served = series(&metrics);
    for file in ["alerts.yaml", "dashboard.json"] {
        let path = Path::new("charts/poolkeeper/files").join(file);
        let text = fs::read_to_string(root().join(&path))?;
        let asked = series(&text);
        ensure!(!asked.is_empty(), "{} asks for nothing", path.display());
        let missing: Vec<_> = asked.difference(&served).collect();
        ensure!(
            missing.is_empty(),
            "{}: no such series: {missing:?}",
            path.display()
        );
    }
    Ok(())
}

fn series(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| {
            [
                "poolkeeper_pooler_",
                "poolkeeper_balancer_",
                "poolkeeper_operator_",
            ]
            .iter()
            .any(|start| word.starts_with(start))
        })
        .collect()
}
