//! What is compared.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use tests::{As, Child, Pooler, Scratch, binaries, ports, wait};

use super::{Bench, row::Row};
use crate::calls::root;

/// A program between clients and PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Column {
    /// A relay without logic: the floor of this machine.
    Relay,
    /// Our pooler.
    Pooler,
    /// PgBouncer, Debian's or the one named by `PGBOUNCER`.
    Pgbouncer,
    /// Our balancer.
    Balancer,
    /// HAProxy in TCP mode, one thread, Debian's or the one named by `HAPROXY`.
    Haproxy,
}

impl Column {
    pub(crate) const ALL: [Self; 5] = [
        Self::Relay,
        Self::Pooler,
        Self::Pgbouncer,
        Self::Balancer,
        Self::Haproxy,
    ];

    /// As whom it runs.
    pub(crate) fn runs_as(self) -> As {
        match self {
            Self::Pgbouncer => As::Postgres,
            _ => As::Ourselves,
        }
    }

    /// Whether it speaks PostgreSQL's protocol itself.
    pub(crate) fn is_pooler(self) -> bool {
        matches!(self, Self::Pooler | Self::Pgbouncer)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Pooler => "pooler",
            Self::Pgbouncer => "pgbouncer",
            Self::Balancer => "balancer",
            Self::Haproxy => "haproxy",
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A started column.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    process: Process,
    /// What it stands in front of, where that is not PostgreSQL itself.
    _behind: Option<Pooler>,
}

enum Process {
    Pooler(Box<Pooler>),
    Plain(Child, Scratch),
}

impl Running {
    /// The end of what it has logged, for when a run fails.
    pub(crate) fn log(&self) -> String {
        match &self.process {
            Process::Pooler(pooler) => pooler.log(),
            Process::Plain(child, dir) => {
                let log = child.log();
                format!("{} in {}", log, dir.path().display())
            }
        }
    }
}

/// Words put in front of the program: valgrind and its arguments.
pub(crate) type Wrapper<'a> = &'a [String];

/// Starts a column for a row.
pub(crate) fn start(
    bench: &Bench,
    column: Column,
    row: Row,
    wrapper: Wrapper<'_>,
) -> Result<Running> {
    if column.is_pooler() {
        let pooler = pooler(bench, column, row, wrapper)?.start()?;
        return Ok(Running {
            address: pooler.address(),
            pid: pooler.pid(),
            process: Process::Pooler(Box::new(pooler)),
            _behind: None,
        });
    }
    // Four thousand idle sessions of PostgreSQL would be another measurement:
    // they end at a PgBouncer, the same one for all.
    let behind = if row.is_idle() {
        Some(pooler(bench, Column::Pgbouncer, row, &[])?.start()?)
    } else {
        None
    };
    let upstream = behind
        .as_ref()
        .map_or(bench.postgres.address(), |pooler| pooler.address());
    let dir = Scratch::new()?;
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let http = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let mut command = match wrapper.split_first() {
        None => tests::command(&program(column)?, As::Ourselves),
        Some((first, rest)) => {
            let mut command = tests::command(Path::new(first), As::Ourselves);
            command.args(rest).arg(program(column)?);
            command
        }
    };
    match column {
        Column::Relay => {
            command.arg(address.to_string()).arg(upstream.to_string());
        }
        Column::Balancer => {
            command.arg(dir.write("balancer.yaml", &balancer_yaml(address, upstream, http))?);
        }
        _ => {
            command.args(["-db", "-f"]);
            command.arg(dir.write("haproxy.cfg", &haproxy_cfg(address, upstream))?);
        }
    }
    let mut child = Child::start(command, &dir.path().join("log"))?;
    wait::until(
        &format!("{column} to relay"),
        Duration::from_secs(60),
        || {
            child
                .check_runs(column.name())
                .map_err(|error| error.to_string())?;
            // Through to the end: a balancer that has not checked its target yet refuses.
            tests::psql::run(address, "app", "shop", "", "SELECT 1")
                .map(drop)
                .map_err(|error| error.to_string())
        },
    )?;
    Ok(Running {
        address,
        pid: child.pid(),
        process: Process::Plain(child, dir),
        _behind: behind,
    })
}

fn pooler(
    bench: &Bench,
    column: Column,
    row: Row,
    wrapper: Wrapper<'_>,
) -> Result<tests::PoolerBuilder> {
    let mut builder = Pooler::in_front_of(&bench.postgres)
        .program(&program(column)?)
        .wrapped_in(wrapper)
        .set("max_client_conn", "5000")
        .set("default_pool_size", "70")
        .set("auth_type", row.auth())
        .set("pool_mode", row.pool_mode())
        .set("listen_backlog", "4096")
        .set("log_connections", "0")
        .set("log_disconnections", "0")
        .set("max_prepared_statements", "200")
        .tls("allow", &bench.certificate);
    if column == Column::Pgbouncer && !bench.pgbouncer_prepares {
        builder = builder.without("max_prepared_statements");
    }
    Ok(builder)
}

fn program(column: Column) -> Result<PathBuf> {
    let release = root().join("target/release");
    match column {
        Column::Relay => Ok(release.join("examples/relay")),
        Column::Pooler => Ok(release.join("pooler")),
        Column::Balancer => Ok(release.join("balancer")),
        Column::Pgbouncer => installed("PGBOUNCER", "pgbouncer"),
        Column::Haproxy => installed("HAPROXY", "haproxy"),
    }
}

fn installed(variable: &str, name: &str) -> Result<PathBuf> {
    match std::env::var_os(variable) {
        Some(path) => Ok(PathBuf::from(path)),
        None => binaries::on_path(name).with_context(|| format!("{name} is not installed")),
    }
}

fn balancer_yaml(address: SocketAddr, upstream: SocketAddr, http: SocketAddr) -> String {
    format!(
        "frontends: [{{name: postgres, bind: \"{address}\"}}]\n\
         targets: [{{name: upstream, address: \"{upstream}\"}}]\n\
         check: {{type: tcp, interval: 2s, rise: 2, fall: 3, timeout: 1s}}\n\
         http: {{bind: \"{http}\"}}\n"
    )
}

/// What the same work needs of HAProxy, and nothing that would cost it more.
fn haproxy_cfg(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global\n  maxconn 6000\n  nbthread 1\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend postgres\n  bind {address}\n  default_backend poolers\n\
         backend poolers\n  balance leastconn\n  \
         server upstream {upstream} check inter 2s fall 3 rise 2\n"
    )
}

/// First line that a program prints of its version.
pub(crate) fn version(column: Column) -> Result<String> {
    let argument = match column {
        Column::Haproxy => "-v",
        Column::Pgbouncer => "--version",
        Column::Relay | Column::Pooler | Column::Balancer => return Ok("this tree".to_owned()),
    };
    let output = Command::new(program(column)?).arg(argument).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("unknown").to_owned())
}

/// Major and minor version.
pub(crate) fn pgbouncer_version() -> Result<(u32, u32)> {
    let text = version(Column::Pgbouncer)?;
    let mut numbers = text
        .split_whitespace()
        .nth(1)
        .unwrap_or("")
        .split('.')
        .map_while(|number| number.parse().ok());
    let major = numbers
        .next()
        .with_context(|| format!("no version in {text:?}"))?;
    Ok((major, numbers.next().unwrap_or(0)))
}
