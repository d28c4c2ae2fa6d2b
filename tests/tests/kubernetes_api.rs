//! What a real API server makes of our CRD and of every example.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tests::{ControlPlane, Scratch, kubernetes};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One control plane for all of them: a start takes longer than any check.
#[test]
fn the_crd_serves_its_users() -> Result<()> {
    let control_plane = ControlPlane::start()?;
    for (name, check) in CHECKS {
        check(&control_plane).with_context(|| format!("check: {name}"))?;
    }
    Ok(())
}

type Check = fn(&ControlPlane) -> Result<()>;

/// In this order: later ones need what earlier ones made.
const CHECKS: &[(&str, Check)] = &[
    ("the CRD is accepted and established", establish),
    ("kubectl explain shows the documentation", explain),
    ("every example passes a server-side dry run", dry_run),
    ("the quickstart applies", apply),
    ("kubectl get has the columns", columns),
    ("kubectl scale sets the poolers", scale),
    ("helm lints, renders and installs a chart", charts),
    (
        "a bad value is refused with its field and its limits",
        refuse,
    ),
];

fn establish(cluster: &ControlPlane) -> Result<()> {
    cluster.install_crds()?;
    // What the structural schema could not be would be said here.
    let complaint = cluster.kubectl(&[
        "get",
        "crd/pgpoolclusters.poolkeeper.dev",
        "-o",
        r#"jsonpath={.status.conditions[?(@.type=="NonStructuralSchema")].message}"#,
    ])?;
    ensure!(complaint.is_empty(), "not structural: {complaint}");
    Ok(())
}

fn explain(cluster: &ControlPlane) -> Result<()> {
    let text = cluster.kubectl(&["explain", "pgpc.spec.pool"])?;
    for words in [
        "KIND:       PgPoolCluster",
        "VERSION:    v1alpha1",
        "defaultPoolSize",
    ] {
        ensure!(text.contains(words), "no {words:?} in:\n{text}");
    }
    let field = cluster.kubectl(&["explain", "pgpc.spec.pool.mode"])?;
    ensure!(
        field.contains("DESCRIPTION:") && field.contains("transaction"),
        "nothing about the mode in:\n{field}"
    );
    Ok(())
}

fn dry_run(cluster: &ControlPlane) -> Result<()> {
    let mut examples = 0;
    for entry in fs::read_dir(root().join("examples"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        examples += 1;
        let file = path.to_string_lossy();
        // Strict: a misspelt field would be dropped with a warning otherwise.
        cluster.kubectl(&[
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &file,
        ])?;
    }
    ensure!(examples > 0, "there are no examples");
    Ok(())
}

fn apply(cluster: &ControlPlane) -> Result<()> {
    let printed = cluster.apply(&fs::read_to_string(
        root().join("examples/quickstart.yaml"),
    )?)?;
    ensure!(
        printed.contains("pgpoolcluster.poolkeeper.dev/shop created"),
        "it said:\n{printed}"
    );
    Ok(())
}

fn columns(cluster: &ControlPlane) -> Result<()> {
    let status = r#"{"status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "poolers": {"summary": "3/3"}, "balancer": {"summary": "2/2"}}}"#;
    cluster.kubectl(&[
        "patch",
        "pgpc",
        "shop",
        "--subresource=status",
        "--type=merge",
        "--patch",
        status,
    ])?;
    let table = cluster.kubectl(&["get", "pgpc"])?;
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure!(
        lines.len() == 2
            && lines[0] == ["NAME", "READY", "POOLERS", "BALANCERS", "MODE", "AGE"]
            && lines[1][..5] == ["shop", "True", "3/3", "2/2", "transaction"],
        "kubectl get pgpc printed:\n{table}"
    );
    Ok(())
}

fn scale(cluster: &ControlPlane) -> Result<()> {
    cluster.kubectl(&["scale", "pgpc", "shop", "--replicas=5"])?;
    let replicas = cluster.kubectl(&[
        "get",
        "pgpc",
        "shop",
        "-o",
        "jsonpath={.spec.poolers.replicas}",
    ])?;
    ensure!(replicas == "5", "spec.poolers.replicas is {replicas:?}");
    Ok(())
}

fn refuse(cluster: &ControlPlane) -> Result<()> {
    let patch = r#"{"spec": {"pool": {"mode": "sometimes"}}}"#;
    let refused = cluster
        .kubectl(&["patch", "pgpc", "shop", "--type=merge", "--patch", patch])
        .err()
        .context("mode sometimes was accepted")?
        .to_string();
    for words in ["spec.pool.mode", "sometimes", "session"] {
        ensure!(refused.contains(words), "no {words:?} in: {refused}");
    }
    Ok(())
}

/// A chart passes through helm as it would anywhere: alone, and into a cluster.
fn charts(cluster: &ControlPlane) -> Result<()> {
    let dir = Scratch::new()?;
    let chart = dir.path().join("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(
        chart.join("Chart.yaml"),
        "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
    )?;
    fs::write(chart.join("values.yaml"), "word: open\n")?;
    fs::write(
        chart.join("templates/sign.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: sign}\ndata: {word: {{ .Values.word }}}\n",
    )?;
    let chart = chart.to_string_lossy();
    kubernetes::helm(None, &["lint", "--strict", &chart])?;
    let rendered = kubernetes::helm(None, &["template", "mine", &chart, "--set=word=shut"])?;
    ensure!(rendered.contains("word: shut"), "rendered:\n{rendered}");
    cluster.helm(&["install", "mine", &chart])?;
    let word = cluster.kubectl(&["get", "configmap", "sign", "-o", "jsonpath={.data.word}"])?;
    ensure!(word == "open", "the chart installed {word:?}");
    Ok(())
}

/// kube reads our kubeconfigs, trusts our certificate and is let through as whom they say.
fn the_operators_client_is_the_same_user(kubeconfig: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
        pods.list(&ListParams::default()).await?;
        let secrets: Api<Secret> = Api::namespaced(client, "shop");
        let refused = secrets.list(&ListParams::default()).await;
        ensure!(
            matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403),
            "listing secrets gave {refused:?}"
        );
        Ok(())
    })
}

/// What the tests of the operator's behaviour under faults stand on.
#[test]
fn the_control_plane_can_fail_and_come_back() -> Result<()> {
    let mut control_plane = ControlPlane::builder().with_controller_manager().start()?;
    control_plane.kubectl(&["create", "configmap", "kept"])?;
    let get = ["get", "configmap", "kept", "--request-timeout=2s"];

    control_plane.freeze();
    let frozen = control_plane.kubectl(&get);
    control_plane.thaw();
    ensure!(frozen.is_err(), "a frozen API server answered: {frozen:?}");
    control_plane.kubectl(&["get", "configmap", "kept"])?;

    let address = control_plane.address();
    control_plane.kill_api_server();
    let killed = control_plane.kubectl(&get);
    ensure!(killed.is_err(), "a killed API server answered: {killed:?}");
    control_plane.restart_api_server()?;
    ensure!(control_plane.address() == address, "it moved");
    control_plane.kubectl(&["get", "configmap", "kept"])?;

    a_user_may_do_what_rbac_says(&control_plane)?;
    // The controller manager has found the new API server: it empties and
    // removes the namespace.
    control_plane.kubectl(&["delete", "namespace", "shop", "--timeout=60s"])?;
    Ok(())
}

fn a_user_may_do_what_rbac_says(control_plane: &ControlPlane) -> Result<()> {
    control_plane.kubectl(&["create", "namespace", "shop"])?;
    control_plane.kubectl(&["create", "serviceaccount", "watcher", "--namespace=shop"])?;
    control_plane.kubectl(&[
        "create",
        "rolebinding",
        "watchers",
        "--namespace=shop",
        "--clusterrole=view",
        "--serviceaccount=shop:watcher",
        "--group=watchers",
    ])?;
    let account = control_plane.kubeconfig_for_service_account("shop", "watcher")?;
    let user = control_plane.kubeconfig_for("jane", &["watchers"])?;
    for kubeconfig in [account, user] {
        let try_to = |verb: &str, what: &str| {
            kubernetes::kubectl(
                &kubeconfig,
                &["auth", "can-i", verb, what, "-n", "shop"],
                None,
            )
        };
        ensure!(try_to("list", "pods")?.trim() == "yes", "cannot list pods");
        ensure!(try_to("delete", "pods").is_err(), "may delete pods");
        the_operators_client_is_the_same_user(&kubeconfig)?;
    }
    Ok(())
}
