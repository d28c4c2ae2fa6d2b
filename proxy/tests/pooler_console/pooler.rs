//! A pooler process.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{PATIENCE, client::Client, postgres::Postgres, wait_for};

/// Starts that may fail because somebody else took the HTTP port.
const ATTEMPTS: usize = 5;

/// Its configuration: users ann (of nothing), admin, stats and app, trusted.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    databases: Vec<(String, String)>,
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
        text.push_str("[pgbouncer]\n");
        writeln!(text, "http_port = {http_port}").unwrap();
        let directory = directory.to_str().unwrap();
        for (key, value) in &self.settings {
            writeln!(text, "{key} = {}", value.replace("{dir}", directory)).unwrap();
        }
        text
    }
}

/// The binary.
pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pooler"))
}

/// A running pooler; killed when dropped.
#[derive(Debug)]
pub(crate) struct Pooler {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where HTTP is served.
    pub(crate) web: SocketAddr,
    pub(crate) file: PathBuf,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    directory: tempfile::TempDir,
}

impl Pooler {
    #[track_caller]
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_by(config, |_| command())
    }

    /// Starts it by the command that `command` makes for its directory.
    #[track_caller]
    pub(crate) fn start_by(config: &Config, command: impl Fn(&Path) -> Command) -> Self {
        for _ in 0..ATTEMPTS {
            let pooler = Self::spawn(config, &command);
            let log = pooler.log();
            if !log.contains("Another process listens there") {
                return pooler;
            }
        }
        panic!("no free port for HTTP in {ATTEMPTS} attempts");
    }

    #[track_caller]
    fn spawn(config: &Config, command: &impl Fn(&Path) -> Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pooler.ini");
        let users = "\"ann\" \"\"\n\"admin\" \"\"\n\"stats\" \"\"\n\"app\" \"\"\n";
        std::fs::write(directory.path().join("userlist.txt"), users).unwrap();
        // Another process may take it before the pooler does.
        let web = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        std::fs::write(&file, config.ini(directory.path(), web.port())).unwrap();
        let mut child = command(directory.path())
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = {
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let log = log.clone();
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            })
        };
        let address = wait_for("the pooler", || {
            let log = log.lock().unwrap();
            if log.contains("Another process listens there") {
                return Some(web);
            }
            let line = log.lines().find(|line| line.contains("pooler ready"))?;
            let (_, rest) = line.split_once("listen=\"")?;
            rest.split('"').next()?.parse().ok()
        });
        Self {
            address,
            web,
            file,
            child,
            log,
            reader: Some(reader),
            directory,
        }
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

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the pooler's end", || child.try_wait().unwrap())
    }

    /// GETs `path`: status and body.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.web).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("--- pooler's log\n{}", self.log.lock().unwrap());
        }
    }
}
