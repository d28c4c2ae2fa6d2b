//! A balancer.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Daemon, Pooler, binaries,
    child::{self, As},
    daemon::{self, Place},
    http, wait,
};

/// A running balancer.
#[derive(Debug)]
pub struct Balancer(Daemon);

impl Deref for Balancer {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.0
    }
}

impl DerefMut for Balancer {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.0
    }
}

/// What a balancer should be like.
#[derive(Clone, Debug)]
pub struct BalancerBuilder {
    targets: Vec<(String, SocketAddr)>,
    check: String,
    lines: Vec<String>,
}

impl Balancer {
    /// leastconn, checks every 200 ms with rise 2 and fall 3, no target yet.
    #[must_use]
    pub fn builder() -> BalancerBuilder {
        BalancerBuilder {
            targets: Vec::new(),
            check: "{type: postgres, interval: 200ms, rise: 2, fall: 3, timeout: 150ms}".to_owned(),
            lines: Vec::new(),
        }
    }

    /// State of the target of this name, as `/status` says it.
    ///
    /// # Errors
    /// When it does not answer or knows no such target.
    pub fn state(&self, target: &str) -> Result<String> {
        let status = self.status()?;
        status["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == target)
            .and_then(|entry| entry["state"].as_str())
            .map(str::to_owned)
            .with_context(|| format!("no target {target} in {status}"))
    }

    /// Waits until a target is in a state, and returns how long that took.
    ///
    /// # Errors
    /// After `limit`.
    pub fn wait_for_state(&self, target: &str, state: &str, limit: Duration) -> Result<Duration> {
        wait::until_true(&format!("{target} to be {state}"), limit, || {
            self.state(target).is_ok_and(|now| now == state)
        })
    }

    /// The row of the CSV for a target, as (column, value).
    ///
    /// # Errors
    /// When there is no such row.
    pub fn csv_row(&self, svname: &str) -> Result<Vec<(String, String)>> {
        let csv = http::get(self.http(), "/stats;csv")?.body;
        let mut lines = csv.lines();
        let header = lines
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .context("the CSV has no header")?;
        let row = lines
            .find(|line| line.split(',').nth(1) == Some(svname))
            .with_context(|| format!("no row {svname} in {csv}"))?;
        Ok(header
            .split(',')
            .zip(row.split(','))
            .map(|(column, value)| (column.to_owned(), value.to_owned()))
            .collect())
    }
}

impl BalancerBuilder {
    /// A target.
    #[must_use]
    pub fn target(mut self, name: &str, address: SocketAddr) -> Self {
        self.targets.push((name.to_owned(), address));
        self
    }

    /// A target for each pooler: `pooler-0` and so on.
    #[must_use]
    pub fn poolers(mut self, poolers: &[Pooler]) -> Self {
        for (index, pooler) in poolers.iter().enumerate() {
            self = self.target(&format!("pooler-{index}"), pooler.address());
        }
        self
    }

    /// The value of `check`.
    #[must_use]
    pub fn check(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.check);
        self
    }

    /// A further line of the YAML.
    #[must_use]
    pub fn line(mut self, yaml: &str) -> Self {
        self.lines.push(yaml.to_owned());
        self
    }

    /// Starts it, and waits until it is ready and every target's first check is in.
    ///
    /// # Errors
    /// When it ends, or is not ready after twenty seconds.
    pub fn start(self) -> Result<Balancer> {
        let place = Place::reserve()?;
        let yaml = self.yaml(place.address, place.http);
        let file = place.dir.write("balancer.yaml", &yaml)?;
        let mut command = child::command(&binaries::ours("balancer")?, As::Ourselves);
        command.arg(file);
        let mut daemon = Daemon::start("balancer", command, place)?;
        daemon.wait_until_ready(|daemon| {
            daemon.is_ready()?;
            let status = daemon.status()?;
            let targets = status["targets"].as_array();
            let mut states = targets.into_iter().flatten().map(|target| &target["state"]);
            ensure!(
                states.all(|state| state != "Unknown"),
                "targets not checked yet: {status}"
            );
            Ok(())
        })?;
        Ok(Balancer(daemon))
    }

    fn yaml(&self, address: SocketAddr, http: SocketAddr) -> String {
        let mut yaml = format!("frontends: [{{name: postgres, bind: \"{address}\"}}]\ntargets:\n");
        for (name, target) in &self.targets {
            yaml.push_str(&format!("  - {{name: {name}, address: \"{target}\"}}\n"));
        }
        yaml.push_str(&format!(
            "check: {}\nhttp: {{bind: \"{http}\"}}\n",
            self.check
        ));
        for line in &self.lines {
            yaml.push_str(line);
            yaml.push('\n');
        }
        yaml
    }
}

/// Runs `balancer --check` on `yaml`, written to a file `balancer.yaml`: exit
/// code and what it printed.
///
/// # Errors
/// When the binary is not there.
pub fn check(yaml: &str) -> Result<(i32, String)> {
    daemon::check("balancer", "balancer.yaml", yaml)
}
