//! `operator status` against a real API server: what people see, and the exit
//! status that scripts go by.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tests::{
    ControlPlane, Scratch, binaries,
    kubernetes::{ClusterOperator, Program},
    wait,
};

/// Ample for a machine that is busy.
const LIMIT: Duration = Duration::from_secs(90);
const QUICKSTART: &str = include_str!("../../examples/quickstart.yaml");

#[test]
fn a_tier_is_shown_as_it_is() -> Result<()> {
    let control_plane = ControlPlane::builder().start()?;
    let kubeconfig = control_plane.kubeconfig();
    let ask = |arguments: &[&str]| status(&kubeconfig, arguments);

    let answer = ask(&["shop"])?;
    answer.expect(2, "install Poolkeeper in it")?;
    control_plane.install_crds()?;
    wait::until("the kind to be served", LIMIT, || {
        let answer = ask(&["shop"]).map_err(|error| error.to_string())?;
        let there = answer.err.contains("there is none");
        there.then_some(()).ok_or(answer.err)
    })?;
    ask(&[])?.expect(2, "say which PgPoolCluster")?;

    control_plane.apply(QUICKSTART)?;
    ask(&[])?.expect(1, "PgPoolCluster default/shop: not looked at yet")?;
    ask(&["shpo"])?.expect(2, "there are: shop")?;
    ask(&["shop", "-n", "kube-system"])?
        .expect(2, "no PgPoolCluster shop in namespace kube-system")?;

    // What an operator would write.
    let serving = json!({"status": {
        "observedGeneration": 1,
        "configRevision": "r1",
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving",
            "message": "applications are served", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "poolers": {"replicas": 1, "updated": 1, "ready": 1, "summary": "1/1"},
        "balancer": {"replicas": 0, "updated": 0, "ready": 0, "summary": "0/0"},
        "endpoints": [{"name": "shop-pooler-x", "component": "pooler", "state": "Up",
            "since": "2026-01-01T00:00:00Z", "reason": "checks pass", "configRevision": "r1"}],
        "binding": {"name": "shop-binding-app"},
    }});
    let patch = serving.to_string();
    control_plane.kubectl(&[
        "patch",
        "pgpc",
        "shop",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ])?;
    let answer = ask(&["shop"])?;
    answer.expect(0, "default/shop: ready")?;
    answer.expect(0, "in force")?;
    answer.expect(0, "binding:   Secret shop-binding-app")?;
    let object: Json = serde_json::from_str(&ask(&["--output", "json"])?.out)?;
    ensure!(object["ready"] == true, "{object}");
    ensure!(object["endpoints"][0]["upToDate"] == true, "{object}");
    as_a_plugin(&kubeconfig)
}

#[test]
fn what_is_in_the_way_is_named_with_advice() -> Result<()> {
    let control_plane = ControlPlane::builder().start()?;
    control_plane.install_crds()?;
    control_plane.kubectl(&["create", "service", "clusterip", "shop", "--tcp=1:1"])?;
    control_plane.apply(QUICKSTART)?;
    let kubeconfig = control_plane.kubeconfig();
    let operator = ClusterOperator::start(&kubeconfig, &[])?;
    let flow = || -> Result<()> {
        let answer = wait::until("the conflict and its Event", LIMIT, || {
            let answer = status(&kubeconfig, &["shop"]).map_err(|error| error.to_string())?;
            let lines = answer.out.lines();
            let named = lines.filter(|line| line.contains("NameConflict")).count();
            match named >= 2 {
                true => Ok(answer),
                false => Err(answer.out),
            }
        })?;
        answer.expect(1, "- delete or rename the object that Stalled names")
    };
    flow().with_context(|| format!("the operator says:\n{}", operator.log()))
}

/// kubectl finds its plugins by their name on the PATH.
fn as_a_plugin(kubeconfig: &Path) -> Result<()> {
    let dir = Scratch::new()?;
    let plugin = dir.path().join("kubectl-pgpc");
    std::os::unix::fs::symlink(binaries::ours("operator")?, plugin)?;
    let output = Command::new(Program::Kubectl.find()?)
        .args(["pgpc", "status", "shop"])
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", "/proc/none")
        .env("PATH", dir.path())
        .output()?;
    Answer::from(output).expect(0, "default/shop: ready")
}

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    /// Where it could be asked it says so on standard output, else on standard error.
    fn expect(&self, code: i32, text: &str) -> Result<()> {
        let Self { out, err, .. } = self;
        let said = if code == 2 { err } else { out };
        ensure!(
            self.code == Some(code) && said.contains(text),
            "wanted {code} and {text:?}, got {:?}:\n{out}{err}",
            self.code
        );
        Ok(())
    }
}

fn status(kubeconfig: &Path, arguments: &[&str]) -> Result<Answer> {
    let output = Command::new(binaries::ours("operator")?)
        .arg("status")
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", "/proc/none")
        .output()?;
    Ok(output.into())
}
