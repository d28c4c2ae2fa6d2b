//! Runs the true operator with stand-ins for pooler and balancer: supervision
//! is what is tested here, not what they do.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::offset::Offset;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs until it is killed.
pub(crate) const STEADY: &str = "#!/bin/sh\nexec sleep 3600\n";

/// A state folder, stand-ins, manifests, and ports that nobody else uses.
pub(crate) struct Bench {
    folder: TempDir,
    pub(crate) offset: Offset,
}

impl Bench {
    /// One pooler and one balancer, both of which do what `stand_in` says.
    pub(crate) fn new(stand_in: &str) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            offset: Offset::free(),
        };
        fs::create_dir(bench.path("bin")).unwrap();
        for name in ["pooler", "balancer"] {
            bench.stand_in(name, stand_in);
        }
        bench.write("tier.yaml", &manifest());
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn stand_in(&self, name: &str, script: &str) {
        // Replaced, not rewritten: one that runs keeps its text.
        let path = self.path(&format!("bin/{name}"));
        let new = self.path(&format!("bin/{name}.new"));
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
        command
            .arg("local")
            .arg("-f")
            .arg(self.path("tier.yaml"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--bin-dir")
            .arg(self.path("bin"))
            .args(["--output", "json", "--port-offset"])
            .arg(self.offset.ports.to_string())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts the operator.
    pub(crate) fn start(&self) -> Operator {
        self.start_command(self.command())
    }

    pub(crate) fn start_command(&self, mut command: Command) -> Operator {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Operator {
            child,
            events,
            seen: Vec::new(),
        }
    }

    /// Runs an operator that is expected not to start.
    pub(crate) fn refused(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(text(&output.stdout), "", "something was started");
        text(&output.stderr)
    }

    /// Asks the operator's own HTTP.
    /// A connection to the operator's own HTTP.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", 8080 + self.offset.ports)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = self.connect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, body.to_owned())
    }
}

impl Drop for Bench {
    /// Whatever a test left running ends with it.
    fn drop(&mut self) {
        let prefix = format!("{}/", self.path("state").display());
        for identity in operator::local::process::marked(&prefix).values() {
            signal(identity.pid, Signal::KILL);
        }
    }
}

/// A running operator; killed when dropped, without its children.
pub(crate) struct Operator {
    child: Child,
    events: Receiver<Value>,
    /// Everything it has printed.
    pub(crate) seen: Vec<Value>,
}

impl Operator {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Waits for the next event of which `wanted` is true.
    pub(crate) fn event(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if wanted(&event) {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {what} within {LIMIT:?}; {:#?}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let mut errors = String::new();
                    let _ = self
                        .child
                        .stderr
                        .take()
                        .unwrap()
                        .read_to_string(&mut errors);
                    panic!("ended before {what}: {errors}{:#?}", self.seen)
                }
            }
        }
    }

    /// Waits for an event of this kind about this endpoint.
    pub(crate) fn of(&mut self, kind: &str, name: &str) -> Value {
        self.event(&format!("{kind} of {name}"), |event| {
            event["event"] == kind && event["name"] == name
        })
    }

    /// Waits until both children have been started; their processes.
    pub(crate) fn children(&mut self) -> [i32; 2] {
        let pids = ["pooler-0", "balancer-0"].map(|name| self.of("started", name)["pid"].as_i64());
        pids.map(|pid| i32::try_from(pid.unwrap()).unwrap())
    }

    pub(crate) fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    /// SIGKILL: it can do nothing any more.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.event("stopped", |event| event["event"] == "stopped");
        self.child.wait().unwrap()
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// Whether a process runs; one that ended and was not asked how does not.
pub(crate) fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Waits until a process that is not our child has ended.
pub(crate) fn wait_for_end(pid: i32) {
    let deadline = Instant::now() + LIMIT;
    while runs(pid) {
        assert!(Instant::now() < deadline, "process {pid} goes on");
        thread::yield_now();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn operator(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml")
}

/// A small tier. Nobody answers checks here, so they are far apart.
fn manifest() -> String {
    let secrets = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: users}\n\
                   stringData: {userlist.txt: '\"app\" \"hunter2\"'}\n";
    "apiVersion: poolkeeper.dev/v1alpha1\nkind: PgPoolCluster\nmetadata: {name: shop}\nspec:\n  \
       upstream: {address: {host: db.example}}\n  \
       auth: {userlistSecretRef: {name: users}}\n  \
       poolers: {replicas: 1, drainTimeout: 0s}\n  \
       balancer: {replicas: 1, check: {interval: 1h, timeout: 1h}}\n"
        .to_owned()
        + secrets
}
