//! A balancer.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};

use crate::{
    Child, Pooler, Scratch, Signal, binaries,
    child::{self, As},
    http, ports, wait,
};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running balancer on 127.0.0.1.
#[derive(Debug)]
pub struct Balancer {
    child: Child,
    address: SocketAddr,
    http: SocketAddr,
    _dir: Scratch,
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

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where dashboard, metrics and status are.
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

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn rss(&self) -> Result<u64> {
        Ok(child::memory(self.pid())?.resident)
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Its `/status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        http::get(self.http, "/status")?.json()
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
        let csv = http::get(self.http, "/stats;csv")?.body;
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
    /// When it ends, or is not ready after ten seconds.
    pub fn start(self) -> Result<Balancer> {
        let dir = Scratch::new()?;
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, http) = (loopback(ports::free()?), loopback(ports::free()?));
        let file = dir.write("balancer.yaml", &self.yaml(address, http))?;
        let mut command = child::command(&binaries::ours("balancer")?, As::Ourselves);
        command.arg(file);
        let mut balancer = Balancer {
            child: Child::start(command, &dir.path().join("balancer.log"))?,
            address,
            http,
            _dir: dir,
        };
        wait::until("the balancer to be ready", START_LIMIT, || {
            balancer
                .child
                .check_runs("the balancer")
                .map_err(|error| error.to_string())?;
            let answer = http::get(http, "/readyz").map_err(|error| error.to_string())?;
            if answer.status != 200 {
                return Err(format!("/readyz says {}", answer.status));
            }
            let status = balancer.status().map_err(|error| error.to_string())?;
            let unknown = status["targets"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|target| target["state"] == "Unknown");
            if unknown {
                return Err(format!("targets not checked yet: {status}"));
            }
            Ok(())
        })?;
        Ok(balancer)
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
    let dir = Scratch::new()?;
    let file = dir.write("balancer.yaml", yaml)?;
    let output = std::process::Command::new(binaries::ours("balancer")?)
        .arg("--check")
        .arg(&file)
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code().context("died of a signal")?,
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
