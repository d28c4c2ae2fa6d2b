//! What a real API server says of manifests that are wrong: the same as
//! `operator check`, which judges them with no cluster.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use tests::{ControlPlane, kubernetes::kubectl};

/// Each says on its first lines what `operator check` answers (`# wants: `),
/// which a test of the operator looks at, and what the API server does
/// (`# server: `), unless only the operator can see what is wrong.
fn bad_manifests() -> Result<BTreeMap<PathBuf, String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/tests/manifests/bad");
    let mut manifests = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        manifests.insert(path, text);
    }
    ensure!(manifests.len() > 50, "only {} manifests", manifests.len());
    Ok(manifests)
}

#[test]
fn the_api_server_refuses_what_check_refuses() -> Result<()> {
    let cluster = ControlPlane::start()?;
    cluster.install_crds()?;
    let mut wrong = Vec::new();
    for (path, text) in bad_manifests()? {
        let answer = dry_run(&cluster, &text);
        let expected = text
            .lines()
            .find_map(|line| line.strip_prefix("# server: "));
        match (expected, answer) {
            (Some(expected), Err(answer)) if answer.contains(expected) => {}
            (None, Ok(_)) => {}
            (expected, answer) => wrong.push(format!(
                "{}: expected {expected:?}, got {answer:?}",
                path.display()
            )),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    what_is_just_within_its_bounds_is_accepted(&cluster)?;
    a_load_balancer_class_stays(&cluster).context("changes")
}

/// A test of the operator sees that every bound is among them.
fn what_is_just_within_its_bounds_is_accepted(cluster: &ControlPlane) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/tests/manifests/bounds");
    let mut manifests = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let answer = dry_run(cluster, &fs::read_to_string(&path)?);
        answer.map_err(|answer| anyhow::anyhow!("{}: {answer}", path.display()))?;
        manifests += 1;
    }
    ensure!(manifests >= 4, "only {manifests} manifests");
    Ok(())
}

/// Strict: an unknown field is an error, not a warning.
fn dry_run(cluster: &ControlPlane, manifest: &str) -> Result<String, String> {
    let arguments = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    kubectl(&cluster.kubeconfig(), &arguments, Some(manifest)).map_err(|error| format!("{error:#}"))
}

fn a_load_balancer_class_stays(cluster: &ControlPlane) -> Result<()> {
    let manifest = |service: &str| {
        format!(
            "apiVersion: poolkeeper.dev/v1alpha1\nkind: PgPoolCluster\nmetadata: {{name: changes}}\nspec:\n  upstream: {{address: {{host: db}}}}\n  auth: {{userlistSecretRef: {{name: users}}}}\n  service: {service}\n"
        )
    };
    cluster.apply(&manifest(
        "{type: LoadBalancer, loadBalancerClass: a.example/x}",
    ))?;
    let changed = manifest("{type: LoadBalancer, loadBalancerClass: b.example/x}");
    let refused = dry_run(cluster, &changed).err().unwrap_or_default();
    ensure!(
        refused.contains("cannot be changed while type is LoadBalancer"),
        "{refused}"
    );
    let other = manifest("{type: ClusterIP}");
    dry_run(cluster, &other).map_err(anyhow::Error::msg)?;
    Ok(())
}
