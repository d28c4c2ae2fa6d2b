//! A balancer process.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use proxy_core::status::BalancerStatus;
use rustix::process::{Pid, Signal, kill_process};

use super::{Client, http, target::Target, wait_for};

/// Checks that no busy machine fails.
pub const STEADY: &str = "{interval: 2s, timeout: 2s, rise: 2, fall: 3}";
/// Checks that see a change soon.
pub const QUICK: &str = "{interval: 250ms, timeout: 250ms, rise: 2, fall: 3}";

/// The configuration of a balancer, checking by [`STEADY`] unless told otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    pub targets: Vec<(String, SocketAddr)>,
    pub check: String,
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
            more: String::new(),
        }
    }

    /// Checks by this instead.
    pub fn check(mut self, check: &str) -> Self {
        check.clone_into(&mut self.check);
        self
    }

    /// Adds a line.
    pub fn with(mut self, line: &str) -> Self {
        writeln!(self.more, "{line}").unwrap();
        self
    }

    pub fn yaml(&self) -> String {
        let mut yaml = String::from("frontends: [{name: postgres, bind: \"127.0.0.1:0\"}]\n");
        yaml.push_str("http: {bind: \"127.0.0.1:0\"}\ntargets:\n");
        for (name, address) in &self.targets {
            writeln!(yaml, "- {{name: {name}, address: \"{address}\"}}").unwrap();
        }
        writeln!(yaml, "check: {}", self.check).unwrap();
        yaml + &self.more
    }
}

/// A running balancer; killed when dropped.
pub struct Balancer {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where HTTP is served.
    pub web: SocketAddr,
    pub file: PathBuf,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

/// The binary.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_balancer"))
}

impl Balancer {
    /// Starts one and waits until its port is bound.
    #[track_caller]
    pub fn start(config: &Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("balancer.yaml");
        std::fs::write(&file, config.yaml()).unwrap();
        let mut child = command()
            .arg("-v")
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = {
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let log = log.clone();
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            })
        };
        let logged_address = |event: &str| {
            wait_for(event, || {
                let log = log.lock().unwrap();
                let line = log.lines().find(|line| line.contains(event))?;
                let (_, rest) = line.split_once("address=")?;
                rest.split(' ').next()?.parse().ok()
            })
        };
        Self {
            address: logged_address("listening, checking targets"),
            web: logged_address("serving HTTP"),
            file,
            child,
            log,
            reader: Some(reader),
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
        http::status(self.web, "")
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

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; gives its status and all it logged.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = wait_for("the balancer's end", || self.child.try_wait().unwrap());
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("--- balancer's log\n{}", self.log.lock().unwrap());
        }
    }
}
