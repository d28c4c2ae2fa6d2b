//! The pooler's configuration: pgbouncer.ini and userlist.txt, read and checked.

mod check;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use super::{
    AuthType, Database, Global, Peer, PoolMode, Problem, User, Userlist, excerpt,
    ini::{self, Item, Place},
    settings::{SETTINGS, Setting, Support},
    userlist,
};

/// The console's name: no database may have it.
pub const CONSOLE: &str = "pgbouncer";

/// The entry for databases that have none of their own.
const FALLBACK: &str = "*";

/// Largest number of a peer: a cancel key has 14 bits for it.
const PEER_ID_MAX: u16 = 16_383;

/// Everything the pooler is told, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolerConfig {
    /// Section `[pgbouncer]`.
    pub global: Global,
    /// Section `[databases]`, by the name clients use; `*` is the fallback.
    pub databases: BTreeMap<String, Database>,
    /// Section `[users]`.
    pub users: BTreeMap<String, User>,
    /// Section `[peers]`, by peer id.
    pub peers: BTreeMap<u16, Peer>,
    /// `auth_file`.
    pub userlist: Userlist,
    /// What is accepted and yet worth a look, in the order of the files.
    pub warnings: Vec<Problem>,
}

/// How a database was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By its own entry.
    Name,
    /// By the entry `*`.
    Fallback,
}

/// What holds for one pool and its clients, inheritance done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// When a server goes back to the pool.
    pub pool_mode: PoolMode,
    /// Servers of the pool.
    pub pool_size: u32,
    /// Servers kept open, at most `pool_size`.
    pub min_pool_size: u32,
    /// Servers beyond `pool_size` after a long wait.
    pub reserve_pool_size: u32,
    /// Servers of the database, 0 for no limit.
    pub max_db_connections: u32,
    /// Clients of the database, 0 for no limit.
    pub max_db_client_connections: u32,
    /// Servers of the pool's user, 0 for no limit.
    pub max_user_connections: u32,
    /// Clients of the client's user, 0 for no limit.
    pub max_user_client_connections: u32,
    /// Age at which an unused server is closed.
    pub server_lifetime: Duration,
    /// Longest query, zero for no limit.
    pub query_timeout: Duration,
    /// Longest wait for a server, zero for no limit.
    pub query_wait_timeout: Duration,
    /// Longest idleness outside a transaction, zero for no limit.
    pub client_idle_timeout: Duration,
    /// Longest idleness inside a transaction, zero for no limit.
    pub idle_transaction_timeout: Duration,
    /// Longest transaction, zero for no limit.
    pub transaction_timeout: Duration,
}

impl PoolerConfig {
    /// The entry that serves clients of database `name`, by name or by `*`.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<(&Database, Via)> {
        match self.databases.get(name) {
            Some(database) => Some((database, Via::Name)),
            None => Some((self.databases.get(FALLBACK)?, Via::Fallback)),
        }
    }

    /// What holds for clients of `user` in `database`.
    ///
    /// A user's own setting comes before the database's, the database's before
    /// section `[pgbouncer]`'s. Limits of servers are those of the user who logs
    /// in to PostgreSQL, which a database may force; limits of clients are those
    /// of the client's user.
    #[must_use]
    pub fn pool(&self, database: &Database, user: &str) -> PoolSettings {
        let global = &self.global;
        let none = User::default();
        let client = self.users.get(user).unwrap_or(&none);
        let server = match &database.user {
            Some(forced) => self.users.get(forced).unwrap_or(&none),
            None => client,
        };
        let pool_size = server
            .pool_size
            .or(database.pool_size)
            .unwrap_or(global.default_pool_size);
        PoolSettings {
            pool_mode: server
                .pool_mode
                .or(database.pool_mode)
                .unwrap_or(global.pool_mode),
            pool_size,
            min_pool_size: database
                .min_pool_size
                .unwrap_or(global.min_pool_size)
                .min(pool_size),
            reserve_pool_size: server
                .reserve_pool_size
                .or(database.reserve_pool_size)
                .unwrap_or(global.reserve_pool_size),
            max_db_connections: database
                .max_db_connections
                .unwrap_or(global.max_db_connections),
            max_db_client_connections: database
                .max_db_client_connections
                .unwrap_or(global.max_db_client_connections),
            max_user_connections: server
                .max_user_connections
                .unwrap_or(global.max_user_connections),
            max_user_client_connections: client
                .max_user_client_connections
                .unwrap_or(global.max_user_client_connections),
            server_lifetime: database.server_lifetime.unwrap_or(global.server_lifetime),
            query_timeout: client.query_timeout.unwrap_or(global.query_timeout),
            query_wait_timeout: client
                .query_wait_timeout
                .or(database.query_wait_timeout)
                .unwrap_or(global.query_wait_timeout),
            client_idle_timeout: client
                .client_idle_timeout
                .unwrap_or(global.client_idle_timeout),
            idle_transaction_timeout: client
                .idle_transaction_timeout
                .unwrap_or(global.idle_transaction_timeout),
            transaction_timeout: client
                .transaction_timeout
                .unwrap_or(global.transaction_timeout),
        }
    }

    /// Keys whose new value only a restart applies.
    #[must_use]
    pub fn changes_needing_restart(&self, newer: &Self) -> Vec<&'static str> {
        self.global
            .changes(&newer.global)
            .into_iter()
            .filter(|setting| !setting.changeable)
            .map(|setting| setting.name)
            .collect()
    }
}

/// Reads and checks the file at `path`, what it includes, and its `auth_file`;
/// `read` gives a file's text.
///
/// # Errors
/// Every problem found, in the order of the files.
pub fn load(
    path: &Path,
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<PoolerConfig, Vec<Problem>> {
    let (items, problems) = ini::read(path, read);
    let file: Rc<str> = path.display().to_string().into();
    let mut loader = Loader {
        config: PoolerConfig {
            global: Global::default(),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            peers: BTreeMap::new(),
            userlist: Userlist::default(),
            warnings: Vec::new(),
        },
        problems,
        section: Section::None,
        start: Place { file, line: 1 },
        places: BTreeMap::new(),
        entry_places: BTreeMap::new(),
        has_main_section: false,
    };
    loader.config.global.conffile = Some(path.display().to_string());
    for item in items {
        match item {
            Item::Section { name, place } => loader.section(&name, &place),
            Item::Entry { key, value, place } => loader.entry(key, &value, place),
        }
    }
    loader.auth_file(read);
    check::check(&mut loader);
    if loader.problems.is_empty() {
        Ok(loader.config)
    } else {
        Err(loader.problems)
    }
}

/// The section that entries belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    /// Before the first.
    None,
    Main,
    Databases,
    Users,
    Peers,
    /// One that is not known; its entries are not looked at.
    Unknown,
}

struct Loader {
    config: PoolerConfig,
    problems: Vec<Problem>,
    section: Section,
    /// The file's first line, for what is missing altogether.
    start: Place,
    /// Where the keys of section `[pgbouncer]` were set.
    places: BTreeMap<&'static str, Place>,
    /// Where the entries of the other sections are.
    entry_places: BTreeMap<(Section, String), Place>,
    has_main_section: bool,
}

impl Loader {
    fn warn(&mut self, place: &Place, message: String) {
        self.config.warnings.push(place.problem(message));
    }

    fn problem(&mut self, place: &Place, message: String) {
        self.problems.push(place.problem(message));
    }

    /// Where a key of section `[pgbouncer]` was set, or else the file's start.
    fn place(&self, key: &str) -> Place {
        self.places.get(key).unwrap_or(&self.start).clone()
    }

    /// Where an entry of another section is.
    fn entry_place(&self, section: Section, name: &str) -> Place {
        self.entry_places
            .get(&(section, name.to_owned()))
            .unwrap_or(&self.start)
            .clone()
    }

    fn section(&mut self, name: &str, place: &Place) {
        self.section = match name {
            "pgbouncer" => Section::Main,
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            _ => {
                let message = format!(
                    "unknown section [{}], expected [pgbouncer], [databases], [users] or [peers]",
                    excerpt(name)
                );
                self.problem(place, message);
                Section::Unknown
            }
        };
        if self.section == Section::Main {
            self.restart_main_section(place);
        }
    }

    /// PgBouncer sets every key to its default where the section begins, also the
    /// second time.
    fn restart_main_section(&mut self, place: &Place) {
        self.has_main_section = true;
        let lost: Vec<&str> = std::mem::take(&mut self.places).into_keys().collect();
        if !lost.is_empty() {
            let message = format!(
                "[pgbouncer] begins again, which sets what was set before to its default: {}",
                lost.join(", ")
            );
            self.warn(place, message);
        }
        self.config.global = Global {
            conffile: self.config.global.conffile.take(),
            ..Global::default()
        };
    }

    fn entry(&mut self, key: String, value: &str, place: Place) {
        match self.section {
            Section::None => {
                let message = format!("{} stands before any section", excerpt(&key));
                self.problem(&place, message);
            }
            Section::Unknown => {}
            Section::Main => self.main_entry(&key, value, place),
            Section::Databases => self.database(key, value, place),
            Section::Users => self.user(key, value, place),
            Section::Peers => self.peer(&key, value, place),
        }
    }

    fn main_entry(&mut self, key: &str, value: &str, place: Place) {
        if key == "conffile" && Some(value) == self.config.global.conffile.as_deref() {
            return;
        }
        if let Err(message) = self.config.global.set(key, value) {
            self.problem(&place, message);
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == key) else {
            return;
        };
        if let Some(earlier) = self.places.get(setting.name) {
            let message = format!(
                "{key} is set again, after {}:{}; the last one counts",
                earlier.file, earlier.line
            );
            self.warn(&place, message);
        }
        self.places.insert(setting.name, place);
    }

    /// Remembers where an entry is; warns where it was already.
    fn note_entry(&mut self, name: &str, place: Place) {
        let key = (self.section, name.to_owned());
        if let Some(earlier) = self.entry_places.get(&key) {
            let message = format!(
                "{} is defined again, after {}:{}; the last one counts",
                excerpt(name),
                earlier.file,
                earlier.line
            );
            self.warn(&place, message);
        }
        self.entry_places.insert(key, place);
    }

    /// Sets the pairs of a connection string one by one.
    fn pairs(
        &mut self,
        name: &str,
        value: &str,
        place: &Place,
        mut set: impl FnMut(&str, &str) -> Result<(), String>,
    ) {
        match ini::pairs(value) {
            Ok(pairs) => {
                for (key, value) in pairs {
                    if let Err(message) = set(&key, &value) {
                        self.problem(place, format!("{}: {message}", excerpt(name)));
                    }
                }
            }
            Err(message) => self.problem(place, format!("{}: {message}", excerpt(name))),
        }
    }

    fn database(&mut self, name: String, value: &str, place: Place) {
        if name == CONSOLE {
            self.problem(
                &place,
                format!("database name {CONSOLE} is taken by the console"),
            );
            return;
        }
        let mut database = Database::default();
        self.pairs(&name, value, &place, |key, value| {
            // An older name, which PgBouncer keeps too.
            let key = if key == "reserve_pool" {
                "reserve_pool_size"
            } else {
                key
            };
            if key == "host" && value.contains(',') {
                return Err("host is a list, which is not supported yet; name one host".to_owned());
            }
            database.set(key, value)
        });
        self.note_entry(&name, place);
        self.config.databases.insert(name, database);
    }

    fn user(&mut self, name: String, value: &str, place: Place) {
        let mut user = User::default();
        self.pairs(&name, value, &place, |key, value| user.set(key, value));
        self.note_entry(&name, place);
        self.config.users.insert(name, user);
    }

    fn peer(&mut self, name: &str, value: &str, place: Place) {
        let mut peer = Peer::default();
        self.pairs(name, value, &place, |key, value| peer.set(key, value));
        let Some(id) = name
            .parse()
            .ok()
            .filter(|id| (1..=PEER_ID_MAX).contains(id))
        else {
            let message = format!(
                "invalid peer id {}, expected a whole number from 1 to {PEER_ID_MAX}",
                excerpt(name)
            );
            self.problem(&place, message);
            return;
        };
        if peer.host.is_none() {
            self.problem(&place, format!("peer {id} has no host"));
        }
        self.note_entry(name, place);
        self.config.peers.insert(id, peer);
    }

    fn auth_file(&mut self, read: &mut dyn FnMut(&Path) -> io::Result<String>) {
        let Some(file) = self.config.global.auth_file.clone() else {
            return;
        };
        match read(&PathBuf::from(&file)) {
            Ok(text) => match userlist::parse(&file, &text) {
                Ok(list) => self.config.userlist = list,
                Err(problems) => self.problems.extend(problems),
            },
            Err(error) => {
                let place = self.place("auth_file");
                self.problem(&place, format!("cannot read auth_file {file}: {error}"));
            }
        }
    }
}

/// Whether a setting was written with a value that changes nothing.
fn without_effect(setting: &Setting) -> Option<&'static str> {
    match setting.support {
        Support::NoEffect(reason) => Some(reason),
        _ => None,
    }
}

/// Whether users must be listed to log in.
fn needs_userlist(auth_type: AuthType) -> bool {
    match auth_type {
        AuthType::Trust | AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 => true,
        AuthType::Any | AuthType::Cert | AuthType::Hba | AuthType::Pam | AuthType::Ldap => false,
    }
}
