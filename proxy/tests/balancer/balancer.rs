//! A balancer.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    ops::Deref,
    path::PathBuf,
    process::{Command, ExitStatus},
};

use proxy_core::status::BalancerStatus;

use crate::{
    client::Client,
    support::{http, process::Process, wait_for},
    target::Target,
};

/// Checks that no busy machine fails.
pub const STEADY: &str = "{interval: 2s, timeout: 2s, rise: 2, fall: 3}";
/// Checks that see a change soon.
pub const QUICK: &str = "{interval: 250ms, timeout: 250ms, rise: 2, fall: 3}";

/// The configuration of a balancer, checking by [`STEADY`] unless told otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    pub targets: Vec<(String, SocketAddr)>,
    pub check: String,
    /// Where both ports are.
    pub bind: String,
    pub more: String,
}

impl Config {
    /// Over `targets`, which are named by themselves.
    pub fn over<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Self {
        Self {
            targets: targets
                .into_iter()
                .map(|target| (target.name.clone(), target.address))
                .collect(),
            check: STEADY.to_owned(),
            bind: "127.0.0.1:0".to_owned(),
            more: String::new(),
        }
    }

    /// Checks by this instead.
    pub fn check(mut self, check: &str) -> Self {
        check.clone_into(&mut self.check);
        self
    }

    /// Listens here instead.
    pub fn bind(mut self, bind: &str) -> Self {
        bind.clone_into(&mut self.bind);
        self
    }

    /// Adds a line.
    pub fn with(mut self, line: &str) -> Self {
        writeln!(self.more, "{line}").unwrap();
        self
    }

    pub fn yaml(&self) -> String {
        let bind = &self.bind;
        let mut yaml = format!("frontends: [{{name: postgres, bind: \"{bind}\"}}]\n");
        writeln!(yaml, "http: {{bind: \"{bind}\"}}").unwrap();
        if !self.targets.is_empty() {
            yaml.push_str("targets:\n");
        }
        for (name, address) in &self.targets {
            writeln!(yaml, "- {{name: {name}, address: \"{address}\"}}").unwrap();
        }
        writeln!(yaml, "check: {}", self.check).unwrap();
        yaml + &self.more
    }
}

/// A running balancer.
pub struct Balancer {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where HTTP is served.
    pub web: SocketAddr,
    pub file: PathBuf,
    process: Process,
    _directory: tempfile::TempDir,
}

impl Deref for Balancer {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The binary.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_balancer"))
}

/// GETs `/status` with `query`, such as `?since=…`.
#[track_caller]
pub fn status(address: SocketAddr, query: &str) -> BalancerStatus {
    let answer = http::get(address, &format!("/status{query}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

impl Balancer {
    /// Starts one and waits until its port is bound.
    #[track_caller]
    pub fn start(config: &Config) -> Self {
        Self::start_by(config, command())
    }

    /// Starts one by a command that takes the arguments of [`command`].
    #[track_caller]
    pub fn start_by(config: &Config, mut command: Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("balancer.yaml");
        std::fs::write(&file, config.yaml()).unwrap();
        let process = Process::start(command.arg("-v").arg(&file));
        let address = |event: &str| wait_for(event, || process.logged(event, "address"));
        Self {
            address: address("listening, checking targets"),
            web: address("serving HTTP"),
            file,
            process,
            _directory: directory,
        }
    }

    /// Starts one and waits until it accepts.
    #[track_caller]
    pub fn serving(config: &Config) -> Self {
        let balancer = Self::start(config);
        wait_for("readiness", || {
            (http::get(balancer.web, "/readyz").status == 200).then_some(())
        });
        balancer
    }

    /// A session through it.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// `/status` now.
    #[track_caller]
    pub fn status(&self) -> BalancerStatus {
        status(self.web, "")
    }

    /// The value of `column` in the CSV row `row`.
    #[track_caller]
    pub fn csv(&self, row: &str, column: &str) -> String {
        let csv = http::get(self.web, "/stats;csv").body;
        let mut lines = csv.lines();
        let header = lines.next().unwrap().trim_start_matches("# ");
        let index = header.split(',').position(|name| name == column).unwrap();
        let row = lines
            .find(|line| line.split(',').nth(1) == Some(row))
            .unwrap_or_else(|| panic!("no row {row} in {csv}"));
        row.split(',').nth(index).unwrap().to_owned()
    }

    /// Waits for its end; gives its status and all it logged.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        self.process.wait()
    }
}
