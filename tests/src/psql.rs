//! `psql`, for one statement at a time.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::binaries;

/// Runs `sql` on `address` and returns what `psql -At` prints.
///
/// `options` are those of a connection string: `password=secret sslmode=require`.
///
/// # Errors
/// With psql's own words, when connecting or the SQL fails; or after two minutes.
pub fn run(
    address: SocketAddr,
    user: &str,
    database: &str,
    options: &str,
    sql: &str,
) -> Result<String> {
    let connection = format!(
        "host={} port={} user={user} dbname={database} connect_timeout=10 {options}",
        address.ip(),
        address.port()
    );
    words(psql(&connection)?.args(["-c", sql]))
}

pub(crate) fn superuser(sockets: &Path, port: u16, database: &str, sql: &str) -> Result<String> {
    let connection = format!(
        "host={} port={port} user=postgres dbname={database} connect_timeout=10",
        sockets.display()
    );
    words(psql(&connection)?.args(["-c", sql]))
}

/// Longer than any statement of ours takes on a busy machine.
const LIMIT_S: &str = "120";

fn psql(connection: &str) -> Result<Command> {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=1", LIMIT_S])
        .arg(binaries::postgresql("psql")?)
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", connection])
        .stdin(Stdio::null());
    Ok(command)
}

fn words(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().context("psql does not start")?;
    if status.code() == Some(124) {
        bail!("psql had no answer after {LIMIT_S} s");
    }
    if !status.success() {
        bail!("{}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).trim_end().to_owned())
}
