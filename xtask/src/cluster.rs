//! `cargo xtask cluster`: a Kubernetes cluster of one node, for people.
//!
//! `up` leaves behind one process, the keeper, that owns the node as a test
//! would: everything ends with it, even when it is killed. A lock that it holds
//! says that it lives, so no process id is believed after its owner's end.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ::tests::{
    binaries,
    kubernetes::{self, Node, Program},
    wait,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    demo::stop_when_told,
    packages::{self, For},
    stage::seconds,
};

/// More than any step of the keeper's own.
const LIMIT: Duration = Duration::from_secs(300);
/// How often the keeper looks whether the node's programs run.
const LOOK: Duration = Duration::from_secs(5);

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Start it, and say how to reach it.
    Up,
    /// Stop it; nothing of it is left.
    Down,
    /// Give it images: files as `docker save` or buildah's `docker-archive:` make them.
    Load {
        #[arg(required = true, value_name = "IMAGE.tar")]
        images: Vec<PathBuf>,
    },
    /// Say whether it runs, and what runs in it.
    Status,
    /// What `up` leaves running.
    #[command(hide = true)]
    Keep,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let home = Home::open()?;
    match command {
        Command::Up => up(&home),
        Command::Down => down(&home),
        Command::Load { images } => load(&home, images),
        Command::Status => status(&home),
        Command::Keep => keep(&home),
    }
}

/// The folder in which commands and keeper meet.
struct Home {
    dir: PathBuf,
}

impl Home {
    /// `$XDG_STATE_HOME/poolkeeper/cluster`, or below `~/.local/state`.
    fn open() -> Result<Self> {
        let absolute = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let dir = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .context("neither XDG_STATE_HOME nor HOME is set")?
            .join("poolkeeper/cluster");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// The keeper's lock; `None` if a keeper has it.
    fn lock(&self) -> Result<Option<File>> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(self.path("lock"))?;
        Ok(file.try_lock().is_ok().then_some(file))
    }

    fn is_kept(&self) -> Result<bool> {
        Ok(self.lock()?.is_none())
    }

    /// What the keeper has written of itself: its process id first, the rest
    /// once the node is ready.
    fn about(&self) -> Result<Value> {
        let text = fs::read_to_string(self.path("about.json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn describe(&self, about: &Value) -> Result<()> {
        let half = self.path("about.json.half");
        fs::write(&half, about.to_string())?;
        fs::rename(&half, self.path("about.json"))?;
        Ok(())
    }

    /// As [`Self::about`], of a node that is ready.
    fn ready(&self) -> Result<Value> {
        ensure!(
            self.is_kept()?,
            "no cluster runs; start one: cargo xtask cluster up"
        );
        let about = self.about()?;
        ensure!(
            about["init"].is_u64(),
            "the cluster is not ready yet; its keeper says: {}",
            self.path("keeper.log").display()
        );
        Ok(about)
    }

    /// Removes what an earlier keeper has left here.
    fn clear(&self) {
        for name in ["about.json", "about.json.half", "kubeconfig"] {
            let _ = fs::remove_file(self.path(name));
        }
    }
}

fn up(home: &Home) -> Result<()> {
    stop_when_told()?;
    ensure!(
        !home.is_kept()?,
        "a cluster runs already: export KUBECONFIG={}; `cargo xtask cluster down` stops it",
        home.kubeconfig().display()
    );
    let installed = packages::install(For::Cluster)?;
    if !installed.is_empty() {
        println!("  installed {}", installed.join(", "));
    }
    for program in Program::ALL {
        program.find()?;
    }
    let started = Instant::now();
    home.clear();
    let mut keeper = start_keeper(home)?;
    let ready = wait::until("the cluster", LIMIT, || {
        if let Ok(Some(status)) = keeper.try_wait() {
            return Ok(Err(anyhow::anyhow!("its keeper ended with {status}")));
        }
        match home.about() {
            Ok(about) if about["init"].is_u64() => Ok(Ok(())),
            _ => Err("it is not ready".to_owned()),
        }
    });
    if let Err(error) = ready.and_then(|inner| inner) {
        end(keeper.id(), home)?;
        if wait::is_interrupted() {
            bail!("interrupted; nothing is left running");
        }
        let log = fs::read_to_string(home.path("keeper.log")).unwrap_or_default();
        return Err(error.context(log.trim().to_owned()));
    }
    println!(
        "  one node, ready after {}; pods reach this machine at {}\n\n{}",
        seconds(started.elapsed()),
        home.about()?["machine"].as_str().unwrap_or_default(),
        exports(home)?
    );
    Ok(())
}

/// What a shell needs to have: the cluster, and the programs that talk to it where
/// they are on no path.
fn exports(home: &Home) -> Result<String> {
    let mut lines = format!("export KUBECONFIG={}", home.kubeconfig().display());
    for program in [Program::Kubectl, Program::Helm] {
        if binaries::on_path(program.name()).is_none()
            && let Some(folder) = program.find()?.parent()
        {
            lines.push_str(&format!("\nexport PATH=$PATH:{}", folder.display()));
        }
    }
    Ok(lines)
}

/// Ourselves again, with no tie to the terminal.
fn start_keeper(home: &Home) -> Result<Child> {
    let log = File::create(home.path("keeper.log"))?;
    Process::new("setsid")
        .arg(std::env::current_exe()?)
        .args(["cluster", "keep"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("setsid does not start")
}

fn keep(home: &Home) -> Result<()> {
    let stop = stop_when_signalled()?;
    let Some(_lock) = home.lock()? else {
        bail!("a cluster runs already");
    };
    let mut about = json!({ "pid": std::process::id() });
    home.describe(&about)?;
    let kept = Node::start().and_then(|mut node| {
        fs::copy(node.kubeconfig(), home.kubeconfig())?;
        about["init"] = node.init().into();
        about["machine"] = node.machine().to_string().into();
        about["logs"] = node.logs().to_string_lossy().into();
        home.describe(&about)?;
        watch(&mut node, &stop)
    });
    home.clear();
    kept
}

/// A start that is under way ends at the first signal, and so does the watch after it.
fn stop_when_signalled() -> Result<mpsc::Receiver<()>> {
    let (told, stop) = mpsc::channel();
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            wait::interrupt();
            let _ = told.send(());
        }
    });
    Ok(stop)
}

/// Until we are told to stop, or one of the node's programs ends.
fn watch(node: &mut Node, stop: &mpsc::Receiver<()>) -> Result<()> {
    while stop.recv_timeout(LOOK).is_err() {
        node.check_runs()?;
    }
    Ok(())
}

fn down(home: &Home) -> Result<()> {
    if home.is_kept()? {
        let keeper = wait::until("the keeper's process id", Duration::from_secs(10), || {
            let about = home.about().map_err(|error| error.to_string())?;
            let id = about["pid"].as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| "it has not written it".to_owned())
        })?;
        end(keeper, home)?;
        println!("  stopped");
    } else {
        println!("  no cluster runs");
    }
    // Of keepers that were killed.
    home.clear();
    kubernetes::sweep()
}

/// Ends the keeper, with patience first. The lock says that the id is still its own.
fn end(keeper: u32, home: &Home) -> Result<()> {
    for (signal, limit) in [("TERM", 60), ("KILL", 30)] {
        if !home.is_kept()? {
            return Ok(());
        }
        Process::new("kill")
            .args(["-s", signal, &keeper.to_string()])
            .stderr(Stdio::null())
            .status()?;
        if wait::uninterrupted(Duration::from_secs(limit), || {
            matches!(home.is_kept(), Ok(false))
        }) {
            return Ok(());
        }
    }
    bail!("process {keeper}, the cluster's keeper, does not end")
}

fn load(home: &Home, images: &[PathBuf]) -> Result<()> {
    let about = home.ready()?;
    let init = about["init"].as_u64().and_then(|id| u32::try_from(id).ok());
    let init = init.context("the keeper has written no process id")?;
    for image in images {
        kubernetes::load(init, image)?;
        println!("  loaded {}", image.display());
    }
    Ok(())
}

fn status(home: &Home) -> Result<()> {
    let about = home.ready()?;
    let kubeconfig = home.kubeconfig();
    println!(
        "  runs; pods reach this machine at {}; logs are in {}\n\n{}\n",
        about["machine"].as_str().unwrap_or_default(),
        about["logs"].as_str().unwrap_or_default(),
        exports(home)?
    );
    print!("{}", kubectl(&kubeconfig, &["get", "nodes", "-o", "wide"])?);
    print!(
        "\n{}",
        kubectl(&kubeconfig, &["get", "pods", "--all-namespaces"])?
    );
    Ok(())
}

fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
    kubernetes::kubectl(kubeconfig, arguments, None)
}
