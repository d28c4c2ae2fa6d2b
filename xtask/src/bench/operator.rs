//! `cargo xtask bench operator`: what a thousand PgPoolClusters cost the operator,
//! against a real API server.
//!
//! There is no node: the program `fleet` says of Pods what kubelets would, and
//! answers for every balancer. The API server's audit log says what was written.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use ::tests::{
    As, Child, ControlPlane, Scratch, binaries, command, cpu_time,
    kubernetes::{ClusterOperator, Program},
    memory, wait,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    calls::{cargo, root, succeeds},
    packages::{self, For},
    stage::seconds,
};

/// As whom the operator writes, in the audit log.
const WRITER: &str = "bench:operator";
/// Longest that a step may take; far beyond what is promised.
const LIMIT: Duration = Duration::from_secs(1800);
/// Without a write for so long it counts as at rest.
const QUIET: Duration = Duration::from_secs(10);
/// Endpoints of each cluster: 3 poolers and 2 balancers.
const ENDPOINTS: u64 = 5;

const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: Metadata
  verbs: [create, update, patch, delete]
- level: None
";

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// PgPoolClusters, each with three poolers and two balancers.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    clusters: u64,
    /// Seconds of each measurement at rest.
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// Take the operator from this folder instead of building the release profile.
    #[arg(long, value_name = "FOLDER")]
    bin_dir: Option<PathBuf>,
}

/// What was measured from one start of the operator on.
struct Account {
    /// Until every cluster was seen, every balancer asked and nothing more was written.
    sync: Duration,
    sync_cpu: Duration,
    sync_writes: usize,
    /// Of one core, at rest.
    share: f64,
    resident: u64,
    writes: usize,
    requests_per_s: f64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    packages::install(For::Bench)?;
    Program::ApiServer.find()?;
    let folder = match &flags.bin_dir {
        Some(folder) => folder.clone(),
        None => build(&[
            "build",
            "--release",
            "--quiet",
            "--package",
            "operator",
            "--bins",
        ])
        .map(|()| root().join("target/release"))?,
    };
    build(&["build", "--workspace", "--example", "fleet", "--quiet"])?;
    let dir = Scratch::new()?;
    let audit = dir.path().join("audit.log");
    let policy = dir.write("policy.yaml", POLICY)?;
    let control_plane = ControlPlane::builder()
        .flag(&format!("--audit-policy-file={}", policy.display()))
        .flag(&format!("--audit-log-path={}", audit.display()))
        .start()?;
    control_plane.install_crds()?;
    let mut fleet = Child::start(
        {
            let mut fleet = command(
                &binaries::target_dir()?.join("debug/examples/fleet"),
                As::Ourselves,
            );
            fleet
                .env("KUBECONFIG", control_plane.kubeconfig())
                .arg(flags.clusters.to_string());
            fleet
        },
        &dir.path().join("fleet.log"),
    )?;
    let bench = Bench {
        clusters: flags.clusters,
        rest: Duration::from_secs(flags.seconds),
        kubeconfig: control_plane.kubeconfig_for(WRITER, &["system:masters"])?,
        folder,
        audit,
    };
    bench.wait_for(&mut fleet, "the clusters to be made", |told| {
        told["created"].as_u64() == Some(bench.clusters)
    })?;
    println!(
        "{} PgPoolClusters made; the operator starts",
        bench.clusters
    );
    let first = bench.measure(&mut fleet, true)?;
    println!("{}", first.text("first start, nothing made yet"));
    let again = bench.measure(&mut fleet, false)?;
    println!("{}", again.text("started again, everything there"));
    let json = root().join("target/bench-operator.json");
    let result = json!({"clusters": bench.clusters, "first": first.json(), "again": again.json()});
    fs::write(&json, serde_json::to_string_pretty(&result)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    println!("as JSON: {}", json.display());
    Ok(())
}

fn build(arguments: &[&str]) -> Result<()> {
    let begin = Instant::now();
    ensure!(succeeds(&mut cargo(arguments))?, "it does not build");
    println!(
        "cargo {}: {}",
        arguments.join(" "),
        seconds(begin.elapsed())
    );
    Ok(())
}

struct Bench {
    clusters: u64,
    rest: Duration,
    kubeconfig: PathBuf,
    folder: PathBuf,
    audit: PathBuf,
}

impl Bench {
    /// Starts the operator, waits until it rests, measures, ends it.
    fn measure(&self, fleet: &mut Child, first: bool) -> Result<Account> {
        let writes_before = self.writes();
        let fresh_before = last(fleet)?["fresh"].as_u64().unwrap_or_default();
        let begin = Instant::now();
        let mut operator = ClusterOperator::start_of(&self.folder, &self.kubeconfig, &[])?;
        let said =
            |operator: &ClusterOperator| format!("the operator says:\n{}", operator.log_tail());
        self.wait_for(
            fleet,
            "every cluster to be ready and every balancer asked",
            |told| {
                let number = |key: &str| told[key].as_u64().unwrap_or_default();
                number("ready") == self.clusters
                    && number("pods") == self.clusters * ENDPOINTS
                    && number("fresh") - fresh_before >= self.clusters * 2
                    && (first
                        || operator
                            .sum("poolkeeper_operator_reconciles_total", is_well)
                            .is_ok_and(|looks| looks >= self.clusters as f64))
            },
        )
        .with_context(|| said(&operator))?;
        let seen = Instant::now();
        let mut quiet = (self.audited(), seen);
        wait::until("the last write", LIMIT, || {
            pause();
            let now = self.audited();
            if now != quiet.0 {
                quiet = (now, Instant::now());
            }
            let rests = quiet.1.elapsed() >= QUIET;
            rests.then_some(()).ok_or_else(|| "it writes".to_owned())
        })?;
        let end = quiet.1;
        let sync_cpu = cpu_time(operator.pid())?.total();
        let (told, writes, cpu, rest) = (last(fleet)?, self.writes(), sync_cpu, Instant::now());
        wait::holds_for("the operator", self.rest, || true)?;
        let took = rest.elapsed().as_secs_f64();
        let used = cpu_time(operator.pid())?
            .total()
            .saturating_sub(cpu)
            .as_secs_f64();
        let requests = |told: &Value| told["requests"].as_f64().unwrap_or_default();
        let account = Account {
            sync: end - begin,
            sync_cpu,
            sync_writes: writes - writes_before,
            share: used / took,
            resident: memory(operator.pid())?.resident,
            writes: self.writes() - writes,
            requests_per_s: (requests(&last(fleet)?) - requests(&told)) / took,
        };
        operator.terminate()?;
        Ok(account)
    }

    fn wait_for(
        &self,
        fleet: &mut Child,
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Result<()> {
        wait::until(what, LIMIT, || {
            if let Err(ended) = fleet.check_runs("the fleet") {
                return Ok(Err(ended));
            }
            pause();
            let told = last(fleet).map_err(|error| error.to_string())?;
            holds(&told)
                .then_some(Ok(()))
                .ok_or_else(|| told.to_string())
        })?
    }

    /// Length of the audit log: another one means that something was written.
    fn audited(&self) -> u64 {
        fs::metadata(&self.audit).map_or(0, |log| log.len())
    }

    /// What the operator has written in all, its lease left out.
    fn writes(&self) -> usize {
        let log = fs::read_to_string(&self.audit).unwrap_or_default();
        let acts = format!("\"impersonatedUser\":{{\"username\":\"{WRITER}\"");
        log.lines().filter(|line| line.contains(&acts)).count()
    }
}

/// Looking all the time would take the processors from what is measured.
fn pause() {
    let _ = wait::holds_for("a pause", Duration::from_millis(250), || true);
}

/// Whether the labels are of looks that went well.
fn is_well(labels: &str) -> bool {
    labels.contains("result=\"ok\"")
}

/// What the fleet told last.
fn last(fleet: &Child) -> Result<Value> {
    let log = fleet.log();
    let mut lines = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.next().context("the fleet has said nothing yet")
}

impl Account {
    fn text(&self, title: &str) -> String {
        let Self {
            sync,
            sync_cpu,
            sync_writes,
            share,
            resident,
            writes,
            requests_per_s,
        } = self;
        format!(
            "{title}\n  \
             until all is seen and nothing more is written {} ({} of processor, {sync_writes} writes)\n  \
             at rest {:.2} % of a core, {:.0} MiB resident, {writes} writes, {requests_per_s:.0} requests to balancers a second",
            seconds(*sync),
            seconds(*sync_cpu),
            share * 100.0,
            *resident as f64 / (1024.0 * 1024.0),
        )
    }

    fn json(&self) -> Value {
        json!({
            "syncS": self.sync.as_secs_f64(),
            "syncCpuS": self.sync_cpu.as_secs_f64(),
            "syncWrites": self.sync_writes,
            "restCores": self.share,
            "residentBytes": self.resident,
            "restWrites": self.writes,
            "restRequestsPerS": self.requests_per_s,
        })
    }
}
