//! Child processes: started so that they end with us, measured, and signalled.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::wait;

/// A process of ours, killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
}

/// As whom a child runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// As whoever we are.
    Ourselves,
    /// As `postgres` when we are root: PostgreSQL and PgBouncer refuse to be root.
    Postgres,
}

/// A command that runs `program` as `user` and ends when we do.
///
/// `setpriv` does both without any unsafe code of ours between fork and exec.
#[must_use]
pub fn command(program: &Path, user: As) -> Command {
    let mut command = Command::new("setpriv");
    // QUIT is PostgreSQL's and PgBouncer's word for "at once": killed outright,
    // PostgreSQL would leave shared memory behind, of which a machine has 4,096.
    let farewell = match user {
        As::Ourselves => "KILL",
        As::Postgres => "QUIT",
    };
    command.args(["--pdeathsig", farewell]);
    if user == As::Postgres && rustix::process::geteuid().is_root() {
        command.args([
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--init-groups",
        ]);
    }
    command.arg("--").arg(program).stdin(Stdio::null());
    command
}

impl Child {
    /// Starts a command made by [`command`], its output appended to `log`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(output.try_clone()?).stderr(output);
        Ok(Self {
            process: spawn(command)?,
            ended: None,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has written.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines that it has written, twenty at most.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Sends a signal; nothing happens if it has ended.
    pub fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so the id cannot have passed to another process.
        if self.exited().is_none() {
            let _ = kill_process(pid(self.process.id()), signal);
        }
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// After `limit`; it goes on running then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until("the process to end", limit, || {
            self.exited().ok_or_else(|| "it runs".to_owned())
        })
    }

    /// SIGTERM, then waits.
    ///
    /// # Errors
    /// After `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// SIGKILL, then waits.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        if let Ok(status) = self.process.wait() {
            self.ended = Some(status);
        }
    }

    /// Fails, with the end of its log, if it has ended.
    ///
    /// # Errors
    /// Then.
    pub fn check_runs(&mut self, what: &str) -> Result<()> {
        let Some(status) = self.exited() else {
            return Ok(());
        };
        let tail = self.log_tail();
        match status.signal() {
            Some(signal) => bail!("{what} died of signal {signal}:\n{tail}"),
            None => bail!("{what} ended with {status}:\n{tail}"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill9();
        if thread::panicking() {
            // What the process said is half of why the test failed.
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

type Job = (Command, mpsc::Sender<std::io::Result<process::Child>>);

/// Starts `command` from a thread that lives as long as we do.
///
/// The signal on our death is tied to the *thread* that forked, and a test's
/// thread ends with the test, while a server shared by several tests must not.
fn spawn(command: Command) -> Result<process::Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let program = command
        .get_args()
        .skip_while(|argument| *argument != "--")
        .nth(1)
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in jobs {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    spawner
        .send((command, reply))
        .expect("the spawner never ends");
    answer
        .recv()
        .expect("the spawner always answers")
        .with_context(|| format!("{program} does not start"))
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed()).expect("a process id is positive")
}

/// Processor time used by a process, in all its threads that still live.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTime {
    /// In user mode.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

impl CpuTime {
    /// Both together.
    #[must_use]
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// Reads a process's processor time.
///
/// The total is the scheduler's, to the nanosecond, where the kernel keeps it;
/// `stat` counts in ticks of 10 ms and gives the proportion of user and system.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(process: u32) -> Result<CpuTime> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name may hold blanks and brackets; fields are counted after it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("stat has no name")?
        .1
        .split_whitespace()
        .collect();
    let ticks =
        |index: usize| -> Result<u64> { Ok(fields.get(index).context("stat is short")?.parse()?) };
    let (user, system) = (ticks(11)?, ticks(12)?);
    let (ticked, total) = (user + system, scheduled(process)?);
    let Some(total) = total else {
        return Ok(CpuTime {
            user: Duration::from_millis(user * 10),
            system: Duration::from_millis(system * 10),
        });
    };
    let user_share = if ticked == 0 {
        0.0
    } else {
        user as f64 / ticked as f64
    };
    let user = total.mul_f64(user_share);
    Ok(CpuTime {
        user,
        system: total.saturating_sub(user),
    })
}

/// Time on a processor, summed over the threads.
fn scheduled(process: u32) -> Result<Option<Duration>> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            return Ok(None);
        };
        let nanoseconds = text.split_whitespace().next().unwrap_or("0").parse()?;
        total += Duration::from_nanos(nanoseconds);
    }
    Ok(Some(total))
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages counted in full.
    pub resident: u64,
    /// Resident, shared pages counted by share.
    pub proportional: u64,
    /// Written by this process alone.
    pub private_dirty: u64,
}

/// Reads a process's memory.
///
/// # Errors
/// When the process is gone.
pub fn memory(process: u32) -> Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let field = |name: &str| -> Result<u64> {
        let line = rollup
            .lines()
            .find(|line| line.starts_with(name))
            .with_context(|| format!("smaps_rollup has no {name}"))?;
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .context("no number")?
            .parse()?;
        Ok(kib * 1024)
    };
    Ok(Memory {
        resident: field("Rss:")?,
        proportional: field("Pss:")?,
        private_dirty: field("Private_Dirty:")?,
    })
}

/// File descriptors that a process has open.
///
/// # Errors
/// When the process is gone.
pub fn descriptors(process: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// Kills every process whose command line names `path`: our own children's
/// children, which nothing else leads to.
pub(crate) fn kill_all_that_name(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut any = false;
        for process in that_name(path) {
            any = true;
            kill(process, Signal::KILL);
        }
        if !any || Instant::now() > deadline {
            return;
        }
        thread::yield_now();
    }
}

/// Processes whose command line names `path`, but for our own.
pub(crate) fn that_name(path: &Path) -> impl Iterator<Item = u32> {
    let needle = path.as_os_str().as_encoded_bytes();
    processes().filter(move |&process| {
        process != process::id()
            && fs::read(format!("/proc/{process}/cmdline"))
                .is_ok_and(|line| line.windows(needle.len()).any(|part| part == needle))
    })
}

/// When a process started, in ticks since the machine did; `None` if it is gone
/// or has ended and waits to be reaped.
pub(crate) fn started_ticks(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let parent_of = |process: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    processes()
        .filter(|&process| parent_of(process) == Some(parent))
        .collect()
}

/// Kills a process that is not our own child; nothing if it is gone.
pub(crate) fn kill(process: u32, signal: Signal) {
    let _ = kill_process(pid(process), signal);
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
