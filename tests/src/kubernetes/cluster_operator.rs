//! `operator run`: a replica that looks after an API server's PgPoolClusters.

use std::{ffi::OsStr, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    Child, Scratch, Signal, binaries,
    child::{self, As},
    http, wait,
};

/// Ample for a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the Pods of a tier run where its spec does not say it.
#[derive(Clone, Copy, Debug)]
pub struct TierImages<'a> {
    /// Of poolers.
    pub pooler: &'a str,
    /// Of balancers.
    pub balancer: &'a str,
}

impl TierImages<'static> {
    /// Images that nobody has, for where no Pod runs.
    pub const NOWHERE: Self = Self {
        pooler: "example.org/pooler:1",
        balancer: "example.org/balancer:1",
    };
}

/// A running replica. It ends when it is dropped.
#[derive(Debug)]
pub struct ClusterOperator {
    child: Child,
    http: SocketAddr,
    _dir: Scratch,
}

impl ClusterOperator {
    /// Starts one as whom the kubeconfig names; it has begun when this returns,
    /// and may not lead yet.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub fn start(kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_in(kubeconfig, arguments, &[])
    }

    /// The same, with images for the Pods, in an environment that has these
    /// variables too.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        kubeconfig: &Path,
        images: TierImages<'_>,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Self> {
        let program = binaries::ours("operator")?;
        Self::start_program(&program, kubeconfig, images, arguments, environment)
    }

    /// The same, with images that nobody has, in an environment that has these
    /// variables too.
    ///
    /// # Errors
    /// As there.
    pub fn start_in(
        kubeconfig: &Path,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Self> {
        let (program, images) = (binaries::ours("operator")?, TierImages::NOWHERE);
        Self::start_program(&program, kubeconfig, images, arguments, environment)
    }

    /// The same, with the program `operator` of a folder.
    ///
    /// # Errors
    /// As there.
    pub fn start_of(folder: &Path, kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let (program, images) = (folder.join("operator"), TierImages::NOWHERE);
        Self::start_program(&program, kubeconfig, images, arguments, &[])
    }

    fn start_program(
        program: &Path,
        kubeconfig: &Path,
        images: TierImages<'_>,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Self> {
        let dir = Scratch::new()?;
        let mut command = child::command(program, As::Ourselves);
        command
            .env("KUBECONFIG", kubeconfig)
            .envs(environment.iter().copied())
            .arg("run")
            .args(["--pooler-image", images.pooler])
            .args(["--balancer-image", images.balancer])
            .args(["--http", "127.0.0.1:0", "--log-format", "json"])
            .args(["--lease-namespace", "default"])
            .args(arguments);
        let mut child = Child::start(command, &dir.path().join("operator.log"))?;
        let http = wait::until("the operator to serve HTTP", START_LIMIT, || {
            if let Err(ended) = child.check_runs("operator run") {
                return Ok(Err(ended));
            }
            address(&child.log())
                .map(Ok)
                .ok_or_else(|| "not yet".to_owned())
        })
        .with_context(|| format!("it says:\n{}", child.log_tail()))??;
        Ok(Self {
            child,
            http,
            _dir: dir,
        })
    }

    /// A value of its `/metrics`, by the beginning of its line; 0 if there is none.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let page = http::get(self.http, "/metrics")?.body;
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        Ok(line
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0.0))
    }

    /// The sum of a series over those of its labels that `counts` takes, in one
    /// look at `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sum(&self, series: &str, counts: impl Fn(&str) -> bool) -> Result<f64> {
        let page = http::get(self.http, "/metrics")?.body;
        let lines = page.lines().filter_map(|line| line.strip_prefix(series));
        let values = lines.filter_map(|line| {
            let (labels, value) = line.strip_prefix('{')?.rsplit_once("} ")?;
            counts(labels).then(|| value.trim().parse::<f64>().ok())?
        });
        Ok(values.sum())
    }

    /// Whether it acts.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.metric("poolkeeper_operator_leading ")
            .is_ok_and(|leads| leads > 0.0)
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// The last lines that it has logged.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.child.log_tail()
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn freeze(&mut self, frozen: bool) {
        self.child
            .signal(if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        self.child.kill9();
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.child.terminate(START_LIMIT)?;
        anyhow::ensure!(
            status.success(),
            "it ended with {status}:\n{}",
            self.child.log_tail()
        );
        Ok(())
    }
}

/// The address in the log line that says that HTTP is served.
fn address(log: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let fields = &line["fields"];
        (fields["message"] == "serving HTTP").then(|| fields["address"].as_str()?.parse().ok())?
    })
}
