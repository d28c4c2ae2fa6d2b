//! `operator local`: a whole tier on this machine.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Child, Inbox, Postgres, Scratch, Signal, binaries,
    child::{self, As},
    http,
    ports::Offset,
    wait,
};

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running `operator local`, its children, and its state directory, which
/// outlives the process so that the next one can adopt the children.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    builder: OperatorBuilder,
    files: Vec<PathBuf>,
    offset: Offset,
    dir: Scratch,
}

/// What a tier should be like.
#[derive(Clone, Debug)]
pub struct OperatorBuilder {
    manifest: String,
    secrets: String,
    arguments: Vec<String>,
    ports: Ports,
}

/// Which ports a tier gets.
#[derive(Clone, Copy, Debug)]
enum Ports {
    /// Some that no other process of ours has.
    Own,
    /// The well-known ones, if they are free.
    WellKnown,
    /// Those of another tier.
    Same(u16),
}

/// A child of the operator, found by its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Process id.
    pub pid: u32,
}

impl Operator {
    /// Runs this manifest; see [`OperatorBuilder`] for the Secrets it needs.
    #[must_use]
    pub fn builder(manifest: &str) -> OperatorBuilder {
        OperatorBuilder {
            manifest: manifest.to_owned(),
            secrets: String::new(),
            arguments: Vec::new(),
            ports: Ports::Own,
        }
    }

    /// Where applications connect.
    #[must_use]
    pub fn service(&self) -> SocketAddr {
        self.moved(5432)
    }

    /// The first balancer's dashboard.
    #[must_use]
    pub fn dashboard(&self) -> SocketAddr {
        self.moved(8404)
    }

    /// The second balancer's dashboard.
    #[must_use]
    pub fn second_dashboard(&self) -> SocketAddr {
        self.moved(8405)
    }

    /// The operator's own endpoints.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.moved(8080)
    }

    fn moved(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port + self.offset.ports))
    }

    /// What was added to the well-known ports.
    #[must_use]
    pub fn port_offset(&self) -> u16 {
        self.offset.ports
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What it remembers, as the file of its state directory says.
    ///
    /// # Errors
    /// When there is none.
    pub fn state(&self) -> Result<serde_json::Value> {
        let file = self.state_dir().join("state.json");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Everything that this operator and those before it printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// The lines of JSON it has printed, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(serde_json::Value::is_object)
            .collect()
    }

    /// Waits for a line of JSON of which `wanted` is true.
    ///
    /// # Errors
    /// After `limit`, or when the operator ends.
    pub fn wait_for_event(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        wait::until(what, limit, || {
            if let Some(event) = self.events().into_iter().find(&mut wanted) {
                return Ok(event);
            }
            self.child
                .check_runs("the operator")
                .map_err(|error| error.to_string())?;
            Err(format!("so far it printed:\n{}", self.log()))
        })
    }

    /// Processes of this tier that run `program`, in the order of their start.
    #[must_use]
    pub fn parts(&self, program: &str) -> Vec<Part> {
        let mut parts: Vec<(u64, Part)> = child::that_name(self.dir.path())
            .filter(|&pid| {
                fs::read_link(format!("/proc/{pid}/exe"))
                    .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program))
            })
            .map(|pid| (child::started_ticks(pid).unwrap_or(0), Part { pid }))
            .collect();
        parts.sort_by_key(|(started, part)| (*started, part.pid));
        parts.into_iter().map(|(_, part)| part).collect()
    }

    /// The process that runs an endpoint such as `pooler-0`, as last told.
    ///
    /// # Errors
    /// When none was told.
    pub fn part(&self, name: &str) -> Result<Part> {
        self.events()
            .iter()
            .rev()
            .filter(|event| event["event"] == "started" || event["event"] == "restarted")
            .find(|event| event["name"] == name)
            .and_then(|event| u32::try_from(event["pid"].as_u64()?).ok())
            .map(|pid| Part { pid })
            .with_context(|| format!("no process of {name} in:\n{}", self.log()))
    }

    /// The process that runs an endpoint now, whether an operator runs or not.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<Part> {
        let config = self.state_dir().join("conf").join(format!("{name}."));
        let mut running = child::that_name(&config).map(|pid| Part { pid });
        running.find(|part| part.runs())
    }

    /// What it says of itself and of the tier.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        http::get_within(self.http(), "/status", Duration::from_secs(1))?.json()
    }

    /// Waits until every endpoint is up, as the operator says.
    ///
    /// # Errors
    /// When it does not say so within twenty seconds, or ends.
    pub fn wait_until_ready(&mut self) -> Result<serde_json::Value> {
        self.wait_for_event("the tier to be ready", START_LIMIT, |event| {
            event["event"] == "ready"
        })
    }

    /// SIGKILL to the operator alone; its children go on.
    pub fn kill9(&mut self) {
        self.child.kill9();
    }

    /// Starts the operator again on the same files and state.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.child.kill9();
        self.child = self
            .builder
            .spawn(self.dir.path(), &self.files, self.offset.ports)?;
        Ok(())
    }

    /// SIGTERM, then waits for the end of it and of all its children.
    ///
    /// # Errors
    /// When something is left after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = self.child.terminate(limit)?;
        let left: Vec<Part> = ["pooler", "balancer"]
            .into_iter()
            .flat_map(|program| self.parts(program))
            .collect();
        ensure!(left.is_empty(), "the operator left {left:?} behind");
        Ok(status)
    }

    /// Waits until the service answers queries.
    ///
    /// # Errors
    /// When it does not within twenty seconds, or the operator ends.
    pub fn wait_until_it_serves(&mut self) -> Result<()> {
        let service = self.service();
        wait::until("the tier to serve", START_LIMIT, || {
            self.child
                .check_runs("the operator")
                .map_err(|error| error.to_string())?;
            crate::psql::run(service, "app", "shop", "password=secret", "SELECT 1")
                .map(drop)
                .map_err(|error| error.to_string())
        })
    }
}

impl Part {
    /// Sends a signal.
    pub fn signal(self, signal: Signal) {
        child::kill(self.pid, signal);
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(self) -> bool {
        child::started_ticks(self.pid).is_some()
    }
}

impl OperatorBuilder {
    /// The Secrets of `examples/quickstart.yaml`: PostgreSQL's user, and the
    /// inbox: the keys `url` of its webhook and `token` of its API.
    #[must_use]
    pub fn secrets(mut self, inbox: &Inbox) -> Self {
        self.secrets = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-users}}\n\
             stringData:\n  userlist.txt: |\n    \"app\" \"secret\"\n    \"admin\" \"secret\"\n\
             ---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: slack}}\n\
             stringData: {{url: \"{}\", token: \"{}\"}}\n",
            inbox.url(),
            inbox.secret()
        );
        self
    }

    /// `--resolve postgres.default.svc=…` to this server.
    #[must_use]
    pub fn upstream(self, postgres: &Postgres) -> Self {
        let resolve = format!("postgres.default.svc={}", postgres.address());
        self.argument("--resolve").argument(&resolve)
    }

    /// Any other argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The well-known ports themselves, or with an offset if one is taken.
    #[must_use]
    pub fn well_known_ports_if_free(mut self) -> Self {
        self.ports = Ports::WellKnown;
        self
    }

    /// The same ports as another, which must lead to a refusal.
    #[must_use]
    pub fn at_offset_of(mut self, other: &Operator) -> Self {
        self.ports = Ports::Same(other.offset.ports);
        self
    }

    /// Starts it; [`Operator::wait_until_it_serves`] waits.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn start(self) -> Result<Operator> {
        let dir = Scratch::new()?;
        let files = vec![
            dir.write("manifest.yaml", &self.manifest)?,
            dir.write("secrets.yaml", &self.secrets)?,
        ];
        let offset = match self.ports {
            Ports::Own => Offset::free()?,
            Ports::WellKnown => Offset::zero_or_free()?,
            Ports::Same(ports) => Offset::shared(ports),
        };
        let child = self.spawn(dir.path(), &files, offset.ports)?;
        Ok(Operator {
            child,
            builder: self,
            files,
            offset,
            dir,
        })
    }

    fn spawn(&self, dir: &Path, files: &[PathBuf], offset: u16) -> Result<Child> {
        let operator = binaries::ours("operator")?;
        let mut command = child::command(&operator, As::Ourselves);
        command.arg("local");
        for file in files {
            command.arg("-f").arg(file);
        }
        command
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--bin-dir")
            .arg(operator.parent().context("a binary lies in a directory")?)
            .args(["--bind", "127.0.0.1", "--output", "json", "--port-offset"])
            .arg(offset.to_string())
            .args(&self.arguments)
            .current_dir(dir);
        Child::start(command, &dir.join("operator.log"))
    }
}
