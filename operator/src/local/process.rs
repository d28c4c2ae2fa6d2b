//! Child processes: started so that they outlive us, found again, watched,
//! signalled, and never mistaken for another.
//!
//! A process is held by a pidfd: unlike a number it cannot come to mean another
//! process. What survives us is its [`Identity`]: the number, when it started
//! and in which boot of the machine; all three must fit before it is touched.
//! An environment variable marks each child, so that one whose number could
//! not be written down any more is found too.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::sleep};

/// Marks our children: the state folder and the endpoint's name.
const MARK: &str = "POOLKEEPER_CHILD";
/// How often a process that is not our child is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Which process is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub start_ticks: u64,
    /// Which boot of the machine.
    pub machine_boot: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Not known: only a parent is told, and its parent is gone.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match signal_name(number) {
                Some(name) => write!(f, "killed by signal {number} ({name})"),
                None => write!(f, "killed by signal {number}"),
            },
            Self::Unknown => {
                f.write_str("ended, how is not known: an earlier operator had started it")
            }
        }
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

const fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The binary.
    pub binary: PathBuf,
    /// Its only argument.
    pub config: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// The state folder and the endpoint's name, unique on the machine.
    pub mark: String,
}

/// A running process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which one.
    pub identity: Identity,
    pidfd: Arc<OwnedFd>,
}

/// Waits for the end of a process.
#[derive(Debug)]
pub enum Waiter {
    /// We are its parent.
    Child(tokio::process::Child),
    /// An earlier operator was.
    Adopted(Arc<OwnedFd>),
}

impl Waiter {
    /// Waits until it ended. Cancel safe: a later call still learns of the end.
    pub async fn wait(&mut self) -> Ending {
        match self {
            Self::Child(child) => child.wait().await.map_or(Ending::Unknown, Ending::from),
            Self::Adopted(pidfd) => {
                while !has_ended(pidfd) {
                    sleep(LOOK_AGAIN).await;
                }
                Ending::Unknown
            }
        }
    }
}

/// A pidfd becomes readable when its process has ended.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut look = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut look, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

impl Process {
    /// Starts a process in a group of its own, so that Ctrl-C at our terminal
    /// does not reach it, with its output in a file, so that it outlives us.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(launch: &Launch) -> io::Result<(Self, Waiter)> {
        let log = super::logs::open(&launch.log)?;
        let mut child = Command::new(&launch.binary)
            .arg(&launch.config)
            .env(MARK, &launch.mark)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        // As long as we have not waited for it, the number cannot be another's.
        let process = pid
            .ok_or_else(|| io::Error::other("it ended at once"))
            .and_then(Self::hold);
        match process {
            // One that has ended by now is told by its waiter.
            Ok((process, _)) => Ok((process, Waiter::Child(child))),
            Err(error) => {
                let _ = child.start_kill();
                Err(error)
            }
        }
    }

    /// Takes over a process that an earlier operator started with this mark, if
    /// it still runs.
    #[must_use]
    pub fn adopt(identity: &Identity, mark: &str) -> Option<(Self, Waiter)> {
        // First the pidfd, then the looks: what was looked at is what is held.
        let (process, ended) = Self::hold(identity.pid).ok()?;
        // Clock ticks are coarse; where the mark can be read it must fit too.
        let marked = mark_of(identity.pid).is_none_or(|found| found.as_deref() == Some(mark));
        let runs = !ended && marked && process.identity == *identity;
        runs.then(|| {
            let waiter = Waiter::Adopted(process.pidfd.clone());
            (process, waiter)
        })
    }

    /// Gets hold of a process, and says whether it has ended.
    fn hold(pid: i32) -> io::Result<(Self, bool)> {
        let number = Pid::from_raw(pid).ok_or(ErrorKind::InvalidInput)?;
        let pidfd = Arc::new(pidfd_open(number, PidfdFlags::empty())?);
        let stat = Stat::read(pid)?;
        let identity = Identity {
            pid,
            start_ticks: stat.start_ticks,
            machine_boot: machine_boot()?,
        };
        Ok((Self { identity, pidfd }, stat.ended))
    }

    /// Asks it to end in order.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks it to read its configuration anew.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        // The only failure is that it has ended, which its waiter tells.
        let _ = pidfd_send_signal(&*self.pidfd, signal);
    }
}

/// Running processes whose mark begins with `prefix`, by the rest of the mark.
#[must_use]
pub fn marked(prefix: &str) -> BTreeMap<String, Identity> {
    let Ok(machine_boot) = machine_boot() else {
        return BTreeMap::new();
    };
    let found: Vec<(String, i32, Stat)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            // Processes of others cannot be read; they are not ours either.
            let mark = mark_of(pid)??;
            let name = mark.strip_prefix(prefix)?.to_owned();
            let stat = Stat::read(pid).ok().filter(|stat| !stat.ended)?;
            Some((name, pid, stat))
        })
        .collect();
    // A child's own children inherit the mark.
    let pids: Vec<i32> = found.iter().map(|(_, pid, _)| *pid).collect();
    found
        .into_iter()
        .filter(|(.., stat)| !pids.contains(&stat.parent))
        .map(|(name, pid, stat)| {
            let identity = Identity {
                pid,
                start_ticks: stat.start_ticks,
                machine_boot: machine_boot.clone(),
            };
            (name, identity)
        })
        .collect()
}

/// The mark that a process was started with; `None` if that cannot be read, as
/// of others' processes, and for a moment while one becomes another program.
fn mark_of(pid: i32) -> Option<Option<String>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    if environment.is_empty() {
        return None;
    }
    let mark = environment.split(|byte| *byte == 0).find_map(|variable| {
        let mark = variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(mark.to_vec()).ok()
    });
    Some(mark)
}

/// What /proc/PID/stat says: <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
struct Stat {
    parent: i32,
    start_ticks: u64,
    /// A zombie: ended, and nobody has asked how.
    ended: bool,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other("/proc/PID/stat is not as documented"))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may hold spaces and parentheses itself.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        Some(Self {
            parent: fields.next()?.parse().ok()?,
            start_ticks: fields.nth(17)?.parse().ok()?,
            ended: matches!(state, "Z" | "X" | "x"),
        })
    }
}

fn machine_boot() -> io::Result<String> {
    let boot = fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?;
    Ok(boot.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(folder: &Path, script: &str) -> Launch {
        let config = folder.join("script.sh");
        fs::write(&config, script).unwrap();
        Launch {
            binary: PathBuf::from("/bin/sh"),
            config,
            log: folder.join("log"),
            mark: folder.display().to_string(),
        }
    }

    /// What is started in a test ends with it.
    struct Kill(Process);

    impl Drop for Kill {
        fn drop(&mut self) {
            self.0.kill();
        }
    }

    #[tokio::test]
    async fn endings_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (_, mut waiter) = Process::start(&launch(folder.path(), "echo hello; exit 3")).unwrap();
        assert_eq!(waiter.wait().await, Ending::Code(3));
        assert_eq!(
            fs::read_to_string(folder.path().join("log")).unwrap(),
            "hello\n"
        );
        let (process, mut waiter) =
            Process::start(&launch(folder.path(), "exec sleep 600")).unwrap();
        process.kill();
        let ending = waiter.wait().await;
        assert_eq!(ending.to_string(), "killed by signal 9 (SIGKILL)");
    }

    #[tokio::test]
    async fn running_process_is_found_adopted_and_watched() {
        let folder = tempfile::tempdir().unwrap();
        // With a child of its own, which inherits the mark.
        let launch = launch(folder.path(), "sleep 600 & echo up; wait");
        let (process, mut waiter) = Process::start(&launch).unwrap();
        let process = Kill(process);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while fs::read_to_string(&launch.log).unwrap_or_default() != "up\n" {
            assert!(std::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        let found = marked(&launch.mark[..launch.mark.len() - 3]);
        assert_eq!(found.len(), 1, "its own child is not ours");
        assert_eq!(
            found[&launch.mark[launch.mark.len() - 3..]],
            process.0.identity
        );
        let (adopted, mut adopted_waiter) =
            Process::adopt(&process.0.identity, &launch.mark).unwrap();
        // It lives on, so there is no end yet.
        let early = tokio::time::timeout(Duration::from_millis(50), adopted_waiter.wait()).await;
        assert!(early.is_err());
        let sleeper: Vec<i32> = children(process.0.identity.pid);
        adopted.kill();
        assert_eq!(adopted_waiter.wait().await, Ending::Unknown);
        assert_eq!(waiter.wait().await, Ending::Signal(9));
        assert!(Process::adopt(&process.0.identity, &launch.mark).is_none());
        for pid in sleeper {
            Process::hold(pid).unwrap().0.kill();
        }
    }

    fn children(parent: i32) -> Vec<i32> {
        let pids = fs::read_dir("/proc").unwrap();
        pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| Stat::read(*pid).is_ok_and(|stat| stat.parent == parent))
            .collect()
    }

    #[tokio::test]
    async fn reused_number_is_not_adopted() {
        let folder = tempfile::tempdir().unwrap();
        let launch = Launch {
            binary: PathBuf::from("/bin/sleep"),
            config: PathBuf::from("600"),
            ..launch(folder.path(), "")
        };
        let (process, mut waiter) = Process::start(&launch).unwrap();
        let process = Kill(process);
        let own = process.0.identity.clone();
        assert!(Process::adopt(&own, &launch.mark).is_some());
        // While it becomes `sleep` it has no environment for a moment.
        while mark_of(own.pid).is_none() {
            tokio::task::yield_now().await;
        }
        assert!(Process::adopt(&own, "another mark").is_none());
        let mut earlier = own.clone();
        earlier.start_ticks -= 1;
        assert!(Process::adopt(&earlier, &launch.mark).is_none());
        let mut before_reboot = own;
        before_reboot.machine_boot = "another".to_owned();
        assert!(Process::adopt(&before_reboot, &launch.mark).is_none());
        process.0.kill();
        waiter.wait().await;
    }

    #[test]
    fn stat_with_a_nasty_name_is_read() {
        let text = "42 (a) b (c) Z 7 1 1 0 -1 4 1 1 1 1 1 1 1 1 20 0 1 0 4711 9";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.parent, stat.start_ticks, stat.ended), (7, 4711, true));
    }
}
