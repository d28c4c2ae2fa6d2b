//! From two manifests to an answer.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{kubernetes::ShippedImages, readme};

use crate::world::{SYSTEM, World};

/// What is loaded is what is promised of the images that we ship.
pub(crate) fn look_at_images(world: &mut World) -> Result<()> {
    for program in ShippedImages::PROGRAMS {
        let image = world.images.read(program)?;
        let name = ShippedImages::name(program);
        ensure!(
            image.manifest["RepoTags"] == json!([name]),
            "{}",
            image.manifest
        );
        ensure!(image.files.len() == 1, "{name} holds {:?}", image.files);
        let words: Vec<&str> = image.files[0].split_whitespace().collect();
        ensure!(
            words.starts_with(&["-r-xr-xr-x", "0/0"]) && words.last() == Some(&program),
            "{name} holds {words:?}"
        );
        let config = &image.config["config"];
        // As the Pods' securityContext.
        ensure!(config["User"] == "65532:65532", "{name}: {config}");
        ensure!(
            config["Entrypoint"] == json!([format!("/{program}")]) && config["Cmd"].is_null(),
            "{name}: {config}"
        );
        let label = |key: &str| {
            let label = &config["Labels"][format!("org.opencontainers.image.{key}")];
            label.as_str().unwrap_or_default().to_owned()
        };
        let told = ["title", "version", "licenses"].map(label);
        let title = format!("poolkeeper {program}");
        ensure!(
            told == [title.as_str(), env!("CARGO_PKG_VERSION"), "Apache-2.0"],
            "{name}: {config}"
        );
        let revision = label("revision");
        ensure!(
            revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{name} is of revision {revision:?}"
        );
    }
    Ok(())
}

/// What the README says, typed as it stands, where only the restricted standard
/// may run.
pub(crate) fn follow_the_readme(world: &mut World) -> Result<()> {
    world.kubectl(&format!("create namespace {SYSTEM}"))?;
    world.kubectl(&format!(
        "label namespace {SYSTEM} pod-security.kubernetes.io/enforce=restricted"
    ))?;
    let said = world.shell(&readme::commands("On Kubernetes")?.join("\n"))?;
    for wanted in [
        "STATUS: deployed",
        "pgpoolcluster.poolkeeper.dev/shop condition met",
    ] {
        ensure!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
    // The channel that it names leads out of the cluster, and nothing does.
    let events = world.until("what came of the test message to be told", || {
        let events = world.kubectl("describe pgpc shop")?;
        ensure!(events.contains("TestMessageNotDelivered"), "{events}");
        Ok(events)
    })?;
    ensure!(events.contains("ops (slackWebhook): failed: "), "{events}");
    Ok(())
}

/// The chart's own test passes, and what it says when it is installed leads on.
pub(crate) fn look_at_the_release(world: &mut World) -> Result<()> {
    let of_release = ["poolkeeper", "--namespace", SYSTEM];
    let test = [&["test"], &of_release[..], &["--logs"]].concat();
    let said = world.node.helm(&test)?;
    let (result, log) = said
        .split_once("POD LOGS: poolkeeper-test")
        .with_context(|| format!("no log:\n{said}"))?;
    ensure!(result.contains("Succeeded"), "{said}");
    ensure!(log.contains("PgPoolCluster test is valid"), "{said}");
    let notes = [&["get", "notes"], &of_release[..]].concat();
    let notes = world.node.helm(&notes)?;
    let steps: Vec<&str> = notes
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .collect();
    ensure!(
        steps
            .iter()
            .any(|step| step.starts_with("kubectl get pgpc")),
        "{notes}"
    );
    let said = world.shell(&steps.join("\n"))?;
    for wanted in ["successfully rolled out", "default     shop"] {
        ensure!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
    Ok(())
}

pub(crate) fn serve(world: &mut World) -> Result<()> {
    // kube-proxy learns of ready Pods a moment after we do.
    world.until("an answer through the Service", || {
        world.sql("change-me", "SELECT 1")
    })?;
    let server = world.sql("change-me", "SELECT inet_server_addr()")?;
    let postgres = world.api.core("pods", "postgres-0")?;
    ensure!(
        postgres["status"]["podIP"] == server.as_str(),
        "{server} answered, which is not PostgreSQL's Pod"
    );
    world.start_application()?;
    world.until("the application", || world.sql_in_pod("SELECT 1"))?;
    let there = world.sql_in_pod("SELECT inet_server_addr()")?;
    ensure!(there == server, "a Pod is answered by {there}");
    world.check_refused("wrong")?;
    world.settled(3)
}

pub(crate) fn tell(world: &mut World) -> Result<()> {
    for pod in world.all_pods()? {
        let log = world.kubectl(&format!("logs {}", pod.name))?;
        ensure!(!log.is_empty(), "{} says nothing", pod.name);
    }
    for type_ in ["PoolersAvailable", "BalancersAvailable"] {
        world.condition(type_, "True AllUp")?;
    }
    // PostgreSQL may have begun to answer later than the poolers to ask.
    world.condition("Ready", "True Serving")?;
    let table = world.kubectl("get pgpc")?;
    let words: Vec<&str> = table.split_whitespace().collect();
    let columns = ["NAME", "READY", "POOLERS", "BALANCERS", "MODE", "AGE"];
    let values = ["shop", "True", "3/3", "2/2", "transaction"];
    ensure!(
        words.starts_with(&[&columns[..], &values].concat()),
        "{table}"
    );
    Ok(())
}
