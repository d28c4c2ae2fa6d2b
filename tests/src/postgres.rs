//! A throwaway PostgreSQL.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use proxy_core::wire::{self, ErrorFields};

use crate::{
    Certificate, Child, Scratch, Signal, binaries,
    child::{self, As},
    ports, psql, wait,
};

const TLS_CERT: &str = "server.crt";
const TLS_KEY: &str = "server.key";

const START_LIMIT: Duration = Duration::from_secs(30);

/// A running server on 127.0.0.1 and on a Unix socket in its own directory.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    port: u16,
    data: PathBuf,
    sockets: PathBuf,
    dir: Scratch,
}

/// What a server should be like.
#[derive(Clone, Debug)]
pub struct PostgresBuilder {
    max_connections: u32,
    auth: String,
    settings: Vec<(String, String)>,
    roles: Vec<(String, String)>,
    databases: Vec<(String, String)>,
    data: Option<PathBuf>,
    hba: Option<String>,
    tls: Option<(PathBuf, PathBuf)>,
}

impl Postgres {
    /// 300 connections, scram-sha-256, role `app` with password `secret`, who
    /// owns the database `shop`.
    #[must_use]
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder {
            max_connections: 300,
            auth: "scram-sha-256".to_owned(),
            settings: Vec::new(),
            roles: vec![("app".to_owned(), "secret".to_owned())],
            databases: vec![("shop".to_owned(), "app".to_owned())],
            data: None,
            hba: None,
            tls: None,
        }
    }

    /// The builder's defaults, started.
    ///
    /// # Errors
    /// See [`PostgresBuilder::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket, where `postgres` is trusted.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.sockets
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

    /// Runs SQL as superuser and returns what `psql -At` prints.
    ///
    /// # Errors
    /// When the SQL fails.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        psql::superuser(&self.sockets, self.port, database, sql)
    }

    /// Connections of `users` together at one moment, as the server sees them.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn connections_of(&self, users: &[&str]) -> Result<usize> {
        let count = self.sql(
            "postgres",
            &format!(
                "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('{}')",
                users.join("','")
            ),
        )?;
        Ok(count.trim().parse()?)
    }

    /// Kills it and every backend, as a crash of the machine would.
    pub fn kill9(&mut self) {
        let backends = child::children(self.child.pid());
        self.child.kill9();
        for backend in &backends {
            child::kill(*backend, Signal::KILL);
        }
    }

    /// Starts it again on the same port and data, and waits until it accepts.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        self.spawn_again()?;
        self.wait_until_it_accepts()
    }

    /// Starts it again and returns at once.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn spawn_again(&mut self) -> Result<()> {
        self.child.kill9();
        self.child = spawn(&self.data, self.dir.path())?;
        Ok(())
    }

    /// Waits until it answers a start-up packet with an authentication request.
    ///
    /// # Errors
    /// When it does not within half a minute, or ends.
    pub fn wait_until_it_accepts(&mut self) -> Result<()> {
        let address = self.address();
        wait::until("PostgreSQL to accept", START_LIMIT, || {
            if let Err(error) = self.child.check_runs("PostgreSQL") {
                // After a kill the old backends may still hold the shared memory.
                if !self.child.log().contains("shared memory block") {
                    return Err(error.to_string());
                }
                self.spawn_again().map_err(|error| error.to_string())?;
            }
            if accepts(address) {
                Ok(())
            } else {
                Err("no".to_owned())
            }
        })
        .or_else(|error| {
            self.child.check_runs("PostgreSQL")?;
            Err(error)
        })
    }

    /// Shows another certificate from now on.
    ///
    /// # Errors
    /// When it cannot be installed, or the server does not read it.
    pub fn change_certificate(&self, certificate: &Certificate) -> Result<()> {
        install(&self.data, &certificate.cert, &certificate.key)?;
        let reloads = || self.log().matches("reloading configuration").count();
        let before = reloads();
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        wait::until_true("PostgreSQL to reload", START_LIMIT, || reloads() > before)?;
        Ok(())
    }

    /// Stops it with SIGINT (fast shutdown).
    ///
    /// # Errors
    /// When it does not end within half a minute.
    pub fn stop(&mut self) -> Result<()> {
        self.child.signal(Signal::INT);
        self.child.wait(START_LIMIT)?;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown, which still gives its shared memory back.
        self.child.signal(Signal::QUIT);
        let ended = || self.child.exited().is_some();
        if !wait::uninterrupted(Duration::from_secs(10), ended) {
            self.kill9();
        }
    }
}

impl PostgresBuilder {
    /// `max_connections`.
    #[must_use]
    pub fn max_connections(mut self, count: u32) -> Self {
        self.max_connections = count;
        self
    }

    /// The method of every TCP line in pg_hba.conf, and the kind of secret kept.
    #[must_use]
    pub fn auth(mut self, method: &str) -> Self {
        method.clone_into(&mut self.auth);
        self
    }

    /// Any setting of postgresql.conf.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A role that may log in.
    #[must_use]
    pub fn role(mut self, name: &str, password: &str) -> Self {
        self.roles.push((name.to_owned(), password.to_owned()));
        self
    }

    /// A database and its owner.
    #[must_use]
    pub fn database(mut self, name: &str, owner: &str) -> Self {
        self.databases.push((name.to_owned(), owner.to_owned()));
        self
    }

    /// TLS for who asks for it, with this certificate.
    #[must_use]
    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.tls = Some((certificate.cert.clone(), certificate.key.clone()));
        self.set("ssl", "on")
            .set("ssl_cert_file", TLS_CERT)
            .set("ssl_key_file", TLS_KEY)
    }

    /// The line of pg_hba.conf for TCP, instead of one that lets everybody in
    /// by the method of [`PostgresBuilder::auth`].
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba = Some(line.to_owned());
        self
    }

    /// Keeps the data here after the end, and uses what is there already.
    #[must_use]
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data = Some(dir.to_owned());
        self
    }

    /// Starts it and makes roles and databases.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not come up.
    pub fn start(self) -> Result<Postgres> {
        let dir = Scratch::new()?;
        let data = self.data.clone().unwrap_or_else(|| dir.path().join("data"));
        let fresh = !data.join("PG_VERSION").exists();
        if fresh {
            copy(&template()?, &data)?;
        }
        let sockets = dir.path().join("socket");
        fs::create_dir(&sockets)?;
        fs::set_permissions(&sockets, fs::Permissions::from_mode(0o777))?;
        let port = ports::free()?;
        fs::write(
            data.join("postgresql.conf"),
            self.settings_file(port, &sockets),
        )?;
        fs::write(data.join("pg_hba.conf"), self.hba_file())?;
        if let Some((cert, key)) = &self.tls {
            install(&data, cert, key)?;
        }
        let mut postgres = Postgres {
            child: spawn(&data, dir.path())?,
            port,
            data,
            sockets,
            dir,
        };
        postgres.wait_until_it_accepts()?;
        if fresh {
            self.populate(&postgres)?;
        }
        Ok(postgres)
    }

    fn settings_file(&self, port: u16, sockets: &Path) -> String {
        let mut text = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
             max_connections = {}\nshared_buffers = 64MB\n\
             dynamic_shared_memory_type = mmap\nfsync = off\nfull_page_writes = off\nautovacuum = off\n\
             password_encryption = '{}'\nlog_line_prefix = '%m [%p] %u@%d '\n\
             timezone = 'UTC'\nmax_wal_size = 256MB\nmin_wal_size = 32MB\n",
            sockets.display(),
            self.max_connections,
            if self.auth == "md5" {
                "md5"
            } else {
                "scram-sha-256"
            },
        );
        for (name, value) in &self.settings {
            text.push_str(&format!("{name} = '{value}'\n"));
        }
        text
    }

    fn hba_file(&self) -> String {
        let auth = &self.auth;
        let tcp = match &self.hba {
            Some(line) => line.clone(),
            None => format!("host all all 127.0.0.1/32 {auth}"),
        };
        format!("local all postgres trust\nlocal all all {auth}\n{tcp}\n")
    }

    fn populate(&self, postgres: &Postgres) -> Result<()> {
        for (role, password) in &self.roles {
            postgres.sql(
                "postgres",
                &format!("CREATE ROLE \"{role}\" LOGIN PASSWORD '{password}'"),
            )?;
        }
        for (database, owner) in &self.databases {
            postgres.sql(
                "postgres",
                &format!("CREATE DATABASE \"{database}\" OWNER \"{owner}\""),
            )?;
        }
        Ok(())
    }
}

/// Puts certificate and key where PostgreSQL finds them, the key as it wants it.
fn install(data: &Path, cert: &Path, key: &Path) -> Result<()> {
    fs::copy(cert, data.join(TLS_CERT))?;
    let to = data.join(TLS_KEY);
    fs::copy(key, &to)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
    own(&to)
}

fn spawn(data: &Path, dir: &Path) -> Result<Child> {
    let mut command = child::command(&binaries::postgresql("postgres")?, As::Postgres);
    command.arg("-D").arg(data).current_dir(dir);
    Child::start(command, &dir.join("postgres.log"))
}

fn accepts(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&wire::startup(&[
            ("user", "postgres"),
            ("database", "postgres"),
        ]))?;
        let mut answer = vec![0; 1_024];
        let length = stream.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    };
    // An error is an answer too while it starts up, but not that it accepts;
    // unless it is that pg_hba.conf lets nobody in without TLS.
    ask().is_ok_and(|answer| match answer.first() {
        Some(&wire::backend::AUTHENTICATION) => true,
        Some(&wire::backend::ERROR_RESPONSE) => {
            ErrorFields::read(answer.get(5..).unwrap_or_default()).code == b"28000"
        }
        _ => false,
    })
}

/// A cluster as initdb leaves it, made once for each version and kept in the
/// target directory, because initdb takes longer than most tests.
fn template() -> Result<PathBuf> {
    let initdb = binaries::postgresql("initdb")?;
    let version = initdb
        .ancestors()
        .nth(2)
        .and_then(Path::file_name)
        .map_or_else(
            || "unknown".into(),
            |name| name.to_string_lossy().into_owned(),
        );
    let above = binaries::target_dir()?.join("harness");
    fs::create_dir_all(&above)?;
    let template = above.join(format!("postgresql-{version}"));
    let lock = fs::File::create(above.join("lock"))?;
    lock.lock()?;
    if template.join("PG_VERSION").exists() {
        return Ok(template);
    }
    // Made elsewhere first: its user may not be allowed into the target directory.
    let dir = Scratch::new()?;
    let data = dir.path().join("data");
    fs::create_dir(&data)?;
    own(&data)?;
    let output = child::command(&initdb, As::Postgres)
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
        .args([
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
            "--wal-segsize=1",
        ])
        .arg("-D")
        .arg(&data)
        .current_dir(dir.path())
        .output()
        .context("initdb does not start")?;
    ensure!(
        output.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let half = above.join(format!("postgresql-{version}.half"));
    if half.exists() {
        // Left by one that was killed here.
        fs::remove_dir_all(&half)?;
    }
    copy(&data, &half)?;
    fs::rename(&half, &template)?;
    Ok(template)
}

/// Copies a cluster, owner and modes included, to a directory that is new or empty.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let output = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(from.join("."))
        .arg(to)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "cp failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Gives a directory or file to whoever PostgreSQL will run as.
fn own(dir: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let status = Command::new("chown").arg("postgres:").arg(dir).status()?;
    ensure!(status.success(), "chown failed");
    Ok(())
}
