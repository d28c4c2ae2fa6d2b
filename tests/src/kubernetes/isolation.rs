//! Where a node runs: process, mount and network namespaces of its own.
//!
//! One process holds them. When it ends, also because we were killed, the
//! kernel ends every process in them (containers and their shims too), and with
//! the last one go all mounts, network devices and packet filter rules. So
//! nothing of a node can be left on the machine but empty control groups, which
//! [`Cgroup`] removes; and two nodes have no name in common.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Child, Scratch, Signal, binaries,
    child::{self, As},
    wait,
};

const LIMIT: Duration = Duration::from_secs(30);
const CGROUPS: &str = "/sys/fs/cgroup";

/// Namespaces, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Isolation {
    /// Its only child is the first process in the namespaces.
    holder: Child,
    init: u32,
}

impl Isolation {
    /// Makes them, with folders of their own for all that a node writes.
    pub(crate) fn start(log: &Path) -> Result<Self> {
        let unshare = binaries::on_path("unshare").context("unshare is not installed")?;
        let mut command = child::command(&unshare, As::Ourselves);
        command
            .args(["--mount", "--net", "--pid", "--fork", "--mount-proc"])
            .arg("--kill-child=KILL")
            // A shell that waits reaps whatever loses its parent.
            .args(["--", "sh", "-c", "sleep infinity & wait"]);
        let mut holder = Child::start(command, log)?;
        let init = wait::until("the namespaces", LIMIT, || {
            if let Err(ended) = holder.check_runs("unshare") {
                return Ok(Err(ended));
            }
            child::children(holder.pid())
                .into_iter()
                .find(|init| {
                    fs::read_to_string(format!("/proc/{init}/comm"))
                        .is_ok_and(|name| name.trim() == "sh")
                })
                .map(Ok)
                .ok_or_else(|| "they are not there".to_owned())
        })??;
        let isolation = Self { holder, init };
        isolation.shell(
            "for folder in /run /var/lib /var/log; do \
             mount -t tmpfs -o mode=755 tmpfs $folder; done; \
             ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward",
        )?;
        Ok(isolation)
    }

    /// The process id of the first process in them.
    pub(crate) fn init(&self) -> u32 {
        self.init
    }

    /// A command for [`Child::start`] that runs `program` in them.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
        let nsenter = binaries::on_path("nsenter").context("nsenter is not installed")?;
        let mut command = child::command(&nsenter, As::Ourselves);
        command.args(entering(self.init)).arg(program);
        Ok(command)
    }

    /// Runs lines of shell in them, of which the first that fails is the last.
    pub(crate) fn shell(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.args(entering(self.init)).args(["sh", "-ec", lines]);
        finish(lines, &mut command)
    }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        // The kernel lets the first process go when all others are gone, and
        // its parent, which reaps it, ends then too.
        child::kill(self.init, Signal::KILL);
        if !wait::uninterrupted(LIMIT, || self.holder.exited().is_some()) {
            self.holder.kill9();
        }
    }
}

fn entering(init: u32) -> [String; 6] {
    [
        "--target".to_owned(),
        init.to_string(),
        "--mount".to_owned(),
        "--net".to_owned(),
        "--pid".to_owned(),
        "--".to_owned(),
    ]
}

/// Gives an image, a file as `docker save` and buildah's `docker-archive:` make
/// it, to the node whose first process is `init`.
///
/// # Errors
/// When the file cannot be read, or containerd does not take it.
pub fn load(init: u32, image: &Path) -> Result<()> {
    let file = File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    let mut command = Command::new("nsenter");
    command
        .args(entering(init))
        .args(["ctr", "--address", super::settings::CONTAINERD_SOCKET])
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .stdin(Stdio::from(file));
    finish(&format!("loading {}", image.display()), &mut command)
}

/// Runs a command to its end.
pub(crate) fn finish(what: &str, command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{} does not start", command.get_program().to_string_lossy()))?;
    ensure!(
        output.status.success(),
        "{what}: {}{}",
        String::from_utf8_lossy(&output.stderr).trim(),
        String::from_utf8_lossy(&output.stdout).trim()
    );
    Ok(())
}

/// Removes what nodes leave whose owner was killed: folders, and control groups
/// without a process.
///
/// # Errors
/// When the temporary directory cannot be written.
pub fn sweep() -> Result<()> {
    Scratch::new()?;
    for name in super::network::names() {
        if !Path::new("/sys/class/net").join(&name).exists() {
            drop(Cgroup { name });
        }
    }
    Ok(())
}

/// A control group in every hierarchy, below which kubelet puts its pods.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
}

impl Cgroup {
    /// Makes it, without what a node that was killed has left of it.
    pub(crate) fn make(name: &str) -> Result<Self> {
        let cgroup = Self {
            name: name.to_owned(),
        };
        cgroup.remove();
        for hierarchy in hierarchies() {
            let path = hierarchy.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(cgroup)
    }

    fn remove(&self) -> bool {
        hierarchies()
            .iter()
            .all(|hierarchy| remove_group(&hierarchy.join(&self.name)))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        wait::uninterrupted(LIMIT, || self.remove());
    }
}

/// Version 2 has one, version 1 one for each controller.
fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new(CGROUPS);
    if top.join("cgroup.procs").exists() {
        return vec![top.to_owned()];
    }
    fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists() && !path.is_symlink())
        .collect()
}

/// Groups are folders that can only be removed one by one; their files are not ours.
fn remove_group(path: &Path) -> bool {
    if !path.exists() {
        return true;
    }
    for below in fs::read_dir(path).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove_group(&below.path());
        }
    }
    fs::remove_dir(path).is_ok()
}
