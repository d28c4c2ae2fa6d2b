//! A pooler process.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener},
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    client::Client,
    postgres::Postgres,
    support::{http, process::Process, wait_for},
};

/// Starts that may fail because somebody else took the HTTP port.
const ATTEMPTS: usize = 5;

/// Its configuration: users ann (of nothing), admin, stats and app, trusted.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    databases: Vec<(String, String)>,
    users: Vec<(String, String)>,
    peers: Vec<(String, SocketAddr)>,
    settings: Vec<(String, String)>,
}

impl Config {
    pub(crate) fn new() -> Self {
        let settings = [
            ("listen_addr", "127.0.0.1"),
            ("listen_port", "0"),
            ("unix_socket_dir", ""),
            ("auth_type", "trust"),
            ("auth_file", "{dir}/userlist.txt"),
            ("pool_mode", "transaction"),
            ("admin_users", "admin"),
            ("stats_users", "stats"),
            ("http_addr", "127.0.0.1"),
        ];
        Self {
            databases: Vec::new(),
            users: ["ann", "admin", "stats", "app"]
                .map(|name| (name.to_owned(), String::new()))
                .to_vec(),
            peers: Vec::new(),
            settings: settings
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec(),
        }
    }

    /// With the database `shop`.
    pub(crate) fn over(postgres: &Postgres) -> Self {
        Self::new().database("shop", &postgres.entry())
    }

    pub(crate) fn database(mut self, name: &str, entry: &str) -> Self {
        self.databases.push((name.to_owned(), entry.to_owned()));
        self
    }

    /// Another secret of a user.
    pub(crate) fn user(mut self, name: &str, secret: &str) -> Self {
        self.users.retain(|(known, _)| known != name);
        self.users.push((name.to_owned(), secret.to_owned()));
        self
    }

    /// Another pooler, by its `peer_id`.
    pub(crate) fn peer(mut self, id: &str, address: SocketAddr) -> Self {
        self.peers.push((id.to_owned(), address));
        self
    }

    /// Sets a key; `{dir}` in the value is the pooler's own directory.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    fn ini(&self, directory: &Path, http_port: u16) -> String {
        let mut text = String::from("[databases]\n");
        for (name, entry) in &self.databases {
            writeln!(text, "{name} = {entry}").unwrap();
        }
        text.push_str("[peers]\n");
        for (id, address) in &self.peers {
            writeln!(text, "{id} = host={} port={}", address.ip(), address.port()).unwrap();
        }
        text.push_str("[pgbouncer]\n");
        writeln!(text, "http_port = {http_port}").unwrap();
        let directory = directory.to_str().unwrap();
        for (key, value) in &self.settings {
            writeln!(text, "{key} = {}", value.replace("{dir}", directory)).unwrap();
        }
        text
    }

    fn userlist(&self) -> String {
        let users = self.users.iter();
        users
            .map(|(name, secret)| format!("\"{name}\" \"{secret}\"\n"))
            .collect()
    }
}

/// The binary.
pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pooler"))
}

/// A running pooler.
#[derive(Debug)]
pub(crate) struct Pooler {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where HTTP is served.
    pub(crate) web: SocketAddr,
    pub(crate) file: PathBuf,
    process: Process,
    directory: tempfile::TempDir,
}

impl Deref for Pooler {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Pooler {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Pooler {
    #[track_caller]
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_by(config, |_| command())
    }

    /// Starts it by the command that `command` makes for its directory.
    #[track_caller]
    pub(crate) fn start_by(config: &Config, command: impl Fn(&Path) -> Command) -> Self {
        (0..ATTEMPTS)
            .find_map(|_| Self::spawn(config, &command))
            .unwrap_or_else(|| panic!("no free port for HTTP in {ATTEMPTS} attempts"))
    }

    /// `None` if another process took one of its ports before the pooler did.
    #[track_caller]
    pub(crate) fn spawn(config: &Config, command: &impl Fn(&Path) -> Command) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pooler.ini");
        std::fs::write(directory.path().join("userlist.txt"), config.userlist()).unwrap();
        let web = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        std::fs::write(&file, config.ini(directory.path(), web.port())).unwrap();
        let process = Process::start(command(directory.path()).arg(&file));
        let address = wait_for("the pooler", || {
            if process.log().contains("Another process listens there") {
                return Some(None);
            }
            process.logged("pooler ready", "listen").map(Some)
        })?;
        Some(Self {
            address,
            web,
            file,
            process,
            directory,
        })
    }

    /// A client of the database `shop`.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address, "ann", "shop")
    }

    /// A client of the console who may do everything.
    #[track_caller]
    pub(crate) fn console(&self) -> Client {
        Client::connect(self.address, "admin", "pgbouncer")
    }

    /// Writes another configuration, for a reload.
    pub(crate) fn rewrite(&self, config: &Config) {
        let text = config.ini(self.directory.path(), self.web.port());
        std::fs::write(&self.file, text).unwrap();
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// GETs `path`.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> http::Answer {
        http::get(self.web, path)
    }
}
