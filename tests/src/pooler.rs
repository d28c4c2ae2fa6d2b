//! A pooler: ours, or a PgBouncer in its place.

use std::{
    net::TcpStream,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    Certificate, Daemon, Postgres, Raw, Signal, binaries,
    child::{self, As},
    daemon::{self, Place},
    psql,
};

/// A running pooler.
#[derive(Debug)]
pub struct Pooler {
    daemon: Daemon,
    program: Program,
    builder: PoolerBuilder,
}

impl Deref for Pooler {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Pooler {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// What is run: `POOLER=/usr/sbin/pgbouncer` puts the original in our pooler's
/// place, to see that a scenario asks for what users of the original rely on.
#[derive(Clone, Debug)]
struct Program {
    path: PathBuf,
    original: bool,
}

impl Program {
    fn named(path: PathBuf) -> Self {
        let original = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains("pgbouncer"));
        Self { path, original }
    }

    fn find() -> Result<Self> {
        let path = match std::env::var_os("POOLER") {
            Some(path) => PathBuf::from(path),
            None => binaries::ours("pooler")?,
        };
        Ok(Self::named(path))
    }

    /// Runs it on the `pooler.ini` in its place, behind the words of `wrapper`.
    fn command(&self, wrapper: &[String], place: &Place) -> Command {
        let user = if self.original {
            As::Postgres
        } else {
            As::Ourselves
        };
        let mut command = match wrapper.split_first() {
            None => child::command(&self.path, user),
            Some((first, rest)) => {
                let mut command = child::command(Path::new(first), user);
                command.args(rest).arg(&self.path);
                command
            }
        };
        command.arg(place.dir.path().join("pooler.ini"));
        command
    }
}

/// Whether scenarios run against a PgBouncer in our pooler's place: for the few
/// assertions on which the two differ on purpose.
#[must_use]
pub fn is_original() -> bool {
    Program::find().is_ok_and(|program| program.original)
}

/// What a pooler should be like.
#[derive(Clone, Debug)]
pub struct PoolerBuilder {
    databases: Vec<(String, String)>,
    users: Vec<String>,
    userlist: Vec<String>,
    settings: Vec<(String, String)>,
    program: Option<PathBuf>,
    wrapper: Vec<String>,
}

impl Pooler {
    /// Transaction mode, clients trusted, no database yet.
    #[must_use]
    pub fn builder() -> PoolerBuilder {
        PoolerBuilder {
            databases: Vec::new(),
            users: Vec::new(),
            userlist: Vec::new(),
            settings: [
                ("auth_type", "trust"),
                ("pool_mode", "transaction"),
                ("max_client_conn", "1000"),
                ("default_pool_size", "20"),
                ("admin_users", "admin"),
                ("stats_users", "stats"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            program: None,
            wrapper: Vec::new(),
        }
    }

    /// One in front of `postgres` with the builder's defaults: database `shop`,
    /// user `app`.
    #[must_use]
    pub fn in_front_of(postgres: &Postgres) -> PoolerBuilder {
        Self::builder()
            .database("shop", postgres)
            .user("app", "secret")
            .user("admin", "secret")
            .user("stats", "secret")
    }

    /// A client of `app` on `shop`, where clients are trusted.
    ///
    /// # Errors
    /// When it is refused.
    pub fn client(&self) -> Result<Raw> {
        Raw::connect(self.address(), "app", "shop")
    }

    /// A session of `admin` on the console.
    ///
    /// # Errors
    /// When it is refused.
    pub fn console(&self) -> Result<Raw> {
        Raw::connect(self.address(), "admin", "pgbouncer")
    }

    /// Runs SQL with psql as `app` on `shop`; `options` as in [`psql::run`].
    ///
    /// # Errors
    /// With psql's own words.
    pub fn psql(&self, options: &str, sql: &str) -> Result<String> {
        psql::run(self.address(), "app", "shop", options, sql)
    }

    /// Starts it again on the same ports.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        let command = self
            .program
            .command(&self.builder.wrapper, self.daemon.place());
        self.daemon.replace(command)?;
        self.wait_until_ready()
    }

    /// Writes the ini anew with `change` made, and tells the pooler by SIGHUP.
    /// Returns before it has read it.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn reload(&mut self, change: impl FnOnce(PoolerBuilder) -> PoolerBuilder) -> Result<()> {
        self.builder = change(self.builder.clone());
        self.builder
            .write(self.daemon.place(), self.program.original)?;
        self.signal(Signal::HUP);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let original = self.program.original;
        self.daemon.wait_until_ready(|daemon| {
            if original {
                TcpStream::connect(daemon.address())?;
                return Ok(());
            }
            daemon.is_ready()
        })
    }
}

impl PoolerBuilder {
    /// A database of this name on `postgres`.
    #[must_use]
    pub fn database(self, name: &str, postgres: &Postgres) -> Self {
        let value = format!("host=127.0.0.1 port={}", postgres.port());
        self.database_line(name, &value)
    }

    /// A line of `[databases]`.
    #[must_use]
    pub fn database_line(mut self, name: &str, value: &str) -> Self {
        self.databases.retain(|(key, _)| key != name);
        self.databases.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line of `[users]`.
    #[must_use]
    pub fn user_line(mut self, line: &str) -> Self {
        self.users.push(line.to_owned());
        self
    }

    /// A line of userlist.txt: a plain password, `md5…` or `SCRAM-SHA-256$…`.
    #[must_use]
    pub fn user(mut self, name: &str, secret: &str) -> Self {
        let start = format!("\"{name}\" ");
        self.userlist.retain(|line| !line.starts_with(&start));
        self.userlist.push(format!("{start}\"{secret}\""));
        self
    }

    /// A setting of `[pgbouncer]`; the last one counts.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(key, _)| key != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a setting of `[pgbouncer]` at its default.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.settings.retain(|(key, _)| key != name);
        self
    }

    /// Words put in front of the program: valgrind and its arguments.
    #[must_use]
    pub fn wrapped_in(mut self, words: &[String]) -> Self {
        self.wrapper = words.to_vec();
        self
    }

    /// TLS for clients.
    #[must_use]
    pub fn tls(self, mode: &str, certificate: &Certificate) -> Self {
        self.set("client_tls_sslmode", mode)
            .set(
                "client_tls_cert_file",
                &certificate.cert.display().to_string(),
            )
            .set(
                "client_tls_key_file",
                &certificate.key.display().to_string(),
            )
    }

    /// TLS to PostgreSQL, whose certificate must come from this authority.
    #[must_use]
    pub fn server_tls(self, mode: &str, authority: &Path) -> Self {
        self.set("server_tls_sslmode", mode)
            .set("server_tls_ca_file", &authority.display().to_string())
    }

    /// Another program than the one found: PgBouncer, in a comparison.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready after twenty seconds.
    pub fn start(self) -> Result<Pooler> {
        let place = Place::reserve()?;
        let program = match &self.program {
            Some(path) => Program::named(path.clone()),
            None => Program::find()?,
        };
        self.write(&place, program.original)?;
        let command = program.command(&self.wrapper, &place);
        let mut pooler = Pooler {
            daemon: Daemon::start("pooler", command, place)?,
            program,
            builder: self,
        };
        pooler.wait_until_ready()?;
        Ok(pooler)
    }

    fn write(&self, place: &Place, original: bool) -> Result<()> {
        let userlist = place
            .dir
            .write("userlist.txt", &(self.userlist.join("\n") + "\n"))?;
        let mut ini = String::from("[databases]\n");
        for (name, value) in &self.databases {
            ini.push_str(&format!("{name} = {value}\n"));
        }
        ini.push_str("\n[users]\n");
        for line in &self.users {
            ini.push_str(&format!("{line}\n"));
        }
        ini.push_str(&format!(
            "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_file = {}\n",
            place.address.port(),
            userlist.display()
        ));
        if !original {
            let port = place.http.port();
            ini.push_str(&format!("http_addr = 127.0.0.1\nhttp_port = {port}\n"));
        }
        for (name, value) in &self.settings {
            ini.push_str(&format!("{name} = {value}\n"));
        }
        place.dir.write("pooler.ini", &ini)?;
        Ok(())
    }
}

/// Runs `pooler --check` on `ini`, written to a file `pooler.ini`: exit code
/// and what it printed.
///
/// # Errors
/// When the binary is not there.
pub fn check(ini: &str) -> Result<(i32, String)> {
    daemon::check("pooler", "pooler.ini", ini)
}
