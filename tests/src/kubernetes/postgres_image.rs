//! An image of the PostgreSQL that this machine has: base images are out of reach.
//!
//! It does of the official image's what `examples/postgres.yaml` relies on: a
//! first start makes a cluster for POSTGRES_USER and POSTGRES_PASSWORD in PGDATA,
//! and a database of the user's name; arguments are the server's, and it runs as 999.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Image;
use crate::{Scratch, binaries};

const SERVER: [&str; 5] = ["postgres", "initdb", "psql", "pgbench", "pg_isready"];
/// What initdb loads to make a cluster.
const MODULES: [&str; 2] = ["plpgsql.so", "dict_snowball.so"];
/// What initdb and the entrypoint call, and what waits.
const TOOLS: [&str; 3] = ["/bin/sh", "/bin/chmod", "/bin/sleep"];

const ENTRYPOINT: &str = r#"#!/bin/sh
set -e
[ "${1#-}" = "$1" ] || set -- postgres "$@"
if [ "$1" = postgres ]; then
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        secret=/var/run/postgresql/secret
        printf '%s\n' "${POSTGRES_PASSWORD:?is not set}" > $secret
        initdb --username="${POSTGRES_USER:-postgres}" --pwfile=$secret --auth-local=trust \
            --auth-host=scram-sha-256 --encoding=UTF8 --locale=C --no-sync --no-instructions
        : > $secret
        if [ "${POSTGRES_USER:-postgres}" != postgres ]; then
            echo "CREATE DATABASE \"$POSTGRES_USER\"" | postgres --single -j postgres
        fi
        echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
        echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    fi
    # kubelet gives a volume's files to the Pod's group, which the server refuses.
    chmod 0700 "$PGDATA"
fi
exec "$@"
"#;

impl Image {
    /// Makes an image of `name` with the PostgreSQL that tests use, psql and
    /// pgbench among it.
    ///
    /// # Errors
    /// When it is not where Debian puts it, or `tar` fails.
    pub fn of_postgres(name: &str) -> Result<Self> {
        let bin = binaries::postgresql("initdb")?;
        let bin = bin.parent().context("a program is in a folder")?.to_owned();
        let version = bin.parent().context("bin is in a folder")?.to_owned();
        let number = version.file_name().context("the folder has a name")?;
        let share = Path::new("/usr/share/postgresql").join(number);
        ensure!(
            share.join("postgres.bki").exists(),
            "{} is not there; Debian has it in the package postgresql",
            share.display()
        );
        let mut files: Vec<PathBuf> = SERVER.map(|name| bin.join(name)).into();
        files.extend(MODULES.map(|name| version.join("lib").join(name)));
        files.extend(TOOLS.map(PathBuf::from));
        files.extend(libraries(&files)?);
        files.extend([share, PathBuf::from("/usr/share/zoneinfo/Etc")]);

        let dir = Scratch::new()?;
        let own = dir.path().join("root");
        fs::create_dir_all(own.join("etc"))?;
        fs::write(own.join("etc/passwd"), "postgres:x:999:999::/:/bin/sh\n")?;
        fs::write(own.join("etc/group"), "postgres:x:999:\n")?;
        fs::write(own.join("entrypoint"), ENTRYPOINT)?;
        let mut content = vec!["-C".into(), own.into(), "etc".into(), "entrypoint".into()];
        content.extend(["-C".into(), "/".into()]);
        let relative = |file: &PathBuf| file.strip_prefix("/").map(|file| file.as_os_str().into());
        for file in &files {
            content.push(relative(file)?);
        }
        let config = json!({
            "Entrypoint": ["/entrypoint"],
            "Cmd": ["postgres"],
            "User": "999:999",
            "Env": [format!("PATH={}:/bin", bin.display()), "TZ=Etc/UTC"],
            // The server's "fast": it does not wait for clients to go.
            "StopSignal": "SIGINT",
        });
        Self::write(dir, &[name], &content, &config)
    }
}

/// What the loader says that `programs` need, the loader itself included.
fn libraries(programs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").args(programs).output()?;
    ensure!(
        output.status.success(),
        "ldd: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter(|line| !line.ends_with(':'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
