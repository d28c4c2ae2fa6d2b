//! What a pooler and a balancer have in common: a process that serves clients
//! at one address, HTTP at another, and says when it is ready.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{Child, Scratch, Signal, binaries, child, http, ports, wait};

/// Ample, because under valgrind everything takes fifty times as long.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Where a daemon is going to be: its configuration names the addresses.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) dir: Scratch,
}

impl Place {
    /// Free ports on 127.0.0.1 and a folder of its own.
    pub(crate) fn reserve() -> Result<Self> {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self {
            address: loopback(ports::free()?),
            http: loopback(ports::free()?),
            dir: Scratch::new()?,
        })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }
}

/// A running process of ours on 127.0.0.1.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
    place: Place,
}

impl Daemon {
    /// Starts it by a command made by [`child::command`].
    pub(crate) fn start(name: &'static str, command: Command, place: Place) -> Result<Self> {
        Ok(Self {
            name,
            child: Child::start(command, &place.log(name))?,
            place,
        })
    }

    /// Ends it and starts it by another command in the same place.
    pub(crate) fn replace(&mut self, command: Command) -> Result<()> {
        self.child.kill9();
        self.child = Child::start(command, &self.place.log(self.name))?;
        Ok(())
    }

    /// Waits until `ready` finds nothing missing.
    ///
    /// # Errors
    /// When the process ends, or is not ready after twenty seconds.
    pub(crate) fn wait_until_ready(&mut self, ready: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let what = format!("the {} to be ready", self.name);
        wait::until(&what, START_LIMIT, || {
            if let Err(ended) = self.child.check_runs(self.name) {
                return Ok(Err(ended));
            }
            ready(self).map(Ok).map_err(|error| error.to_string())
        })?
    }

    /// Whether its `/readyz` says yes.
    pub(crate) fn is_ready(&self) -> Result<()> {
        let answer = http::get(self.http(), "/readyz")?;
        ensure!(answer.status == 200, "/readyz says {}", answer.status);
        Ok(())
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.place.address
    }

    /// Where status, metrics and, of a balancer, the dashboard are.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.place.http
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

    /// Its `/status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        http::get(self.http(), "/status")?.json()
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.child.signal(signal);
    }

    /// SIGKILL, then waits.
    pub fn kill9(&mut self) {
        self.child.kill9();
    }
}

/// Runs `program --check` on `text`, written to `file`: exit code and what it
/// printed.
///
/// # Errors
/// When the binary is not there.
pub(crate) fn check(program: &str, file: &str, text: &str) -> Result<(i32, String)> {
    let dir = Scratch::new()?;
    let output = Command::new(binaries::ours(program)?)
        .arg("--check")
        .arg(dir.write(file, text)?)
        .output()?;
    let printed = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code().context("died of a signal")?,
        String::from_utf8_lossy(&printed).into_owned(),
    ))
}
