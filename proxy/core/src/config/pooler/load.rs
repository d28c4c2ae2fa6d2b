//! Files to configuration: each line to its section, each key to its setting.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use super::{CONSOLE, PoolerConfig, check};
use crate::config::{
    Database, Global, Peer, Problem, User, Userlist, excerpt,
    ini::{self, Item, Place},
    settings::{DATABASE_KEYS, SETTINGS},
    userlist,
};
use crate::{peer::PEER_ID_MAX, shared_key::SharedKey};

/// Reads and checks the file at `path`, what it includes, and its `auth_file`;
/// `read` gives a file's text.
///
/// # Errors
/// Every problem found, by file and line.
pub fn load(
    path: &Path,
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<PoolerConfig, Vec<Problem>> {
    let start = Place {
        file: path.display().to_string().into(),
        line: 1,
    };
    let mut loader = Loader {
        config: PoolerConfig {
            global: Global {
                conffile: Some(path.display().to_string()),
                ..Global::default()
            },
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            peers: BTreeMap::new(),
            userlist: Userlist::default(),
            shared_key: None,
            warnings: Vec::new(),
            places: BTreeMap::new(),
            start: start.clone(),
        },
        findings: Findings::default(),
        section: Section::None,
        places: Places {
            start,
            keys: BTreeMap::new(),
            entries: BTreeMap::new(),
            wrong: BTreeSet::new(),
        },
        has_main_section: false,
    };
    for line in ini::read(path, read) {
        match line {
            Ok(Item::Section { name, place }) => loader.section(&name, &place),
            Ok(Item::Entry { key, value, place }) => loader.entry(key, &value, place),
            Err(problem) => loader.findings.problems.push(problem),
        }
    }
    if loader.has_main_section {
        loader.auth_file(read);
        loader.shared_key_file(read);
        check::check(&loader.config, &loader.places, &mut loader.findings);
    } else {
        let place = &loader.places.start;
        loader
            .findings
            .problem(place, "section [pgbouncer] is missing");
    }
    let Findings { problems, warnings } = loader.findings;
    if problems.is_empty() {
        Ok(PoolerConfig {
            warnings: in_order(warnings),
            places: loader.places.keys,
            ..loader.config
        })
    } else {
        Err(in_order(problems))
    }
}

/// Sorts by file, in the order the files came up, and line.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    let mut files: Vec<String> = Vec::new();
    for problem in &problems {
        if !files.contains(&problem.file) {
            files.push(problem.file.clone());
        }
    }
    let position = |file: &String| files.iter().position(|known| known == file);
    problems.sort_by_key(|problem| (position(&problem.file), problem.line));
    problems
}

/// The section that entries belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    /// Before the first.
    None,
    Main,
    Databases,
    Users,
    Peers,
    /// One that is not known; its entries are not looked at.
    Unknown,
}

/// What was found wrong, and what is only worth a look.
#[derive(Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Findings {
    pub(super) fn problem(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push(place.problem(message));
    }

    pub(super) fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push(place.problem(message));
    }
}

/// Where things were said.
pub(super) struct Places {
    /// The file's first line, for what is not said at all.
    pub(super) start: Place,
    /// Keys of section `[pgbouncer]`.
    keys: BTreeMap<&'static str, Place>,
    /// Entries of the other sections.
    entries: BTreeMap<(Section, String), Place>,
    /// Keys of section `[pgbouncer]` whose value was refused and is not in force.
    wrong: BTreeSet<&'static str>,
}

impl Places {
    /// Whether the values of all these keys are what the file says.
    pub(super) fn right(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.wrong.contains(key))
    }

    pub(super) fn key(&self, key: &str) -> &Place {
        self.keys.get(key).unwrap_or(&self.start)
    }

    pub(super) fn entry(&self, section: Section, name: &str) -> &Place {
        self.entries
            .get(&(section, name.to_owned()))
            .unwrap_or(&self.start)
    }
}

struct Loader {
    config: PoolerConfig,
    findings: Findings,
    section: Section,
    places: Places,
    has_main_section: bool,
}

impl Loader {
    fn section(&mut self, name: &str, place: &Place) {
        self.section = match name {
            "pgbouncer" => Section::Main,
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            _ => {
                self.findings.problem(
                    place,
                    format!(
                        "unknown section [{}], expected [pgbouncer], [databases], [users] or [peers]",
                        excerpt(name)
                    ),
                );
                Section::Unknown
            }
        };
        if self.section == Section::Main {
            self.begin_main_section(place);
        }
    }

    /// PgBouncer sets every key to its default where the section begins, also the
    /// second time.
    fn begin_main_section(&mut self, place: &Place) {
        self.has_main_section = true;
        let lost: Vec<&str> = std::mem::take(&mut self.places.keys).into_keys().collect();
        self.places.wrong.clear();
        if !lost.is_empty() {
            self.findings.warn(
                place,
                format!(
                    "[pgbouncer] begins again, which sets to their defaults: {}",
                    lost.join(", ")
                ),
            );
        }
        self.config.global = Global {
            conffile: self.config.global.conffile.take(),
            ..Global::default()
        };
    }

    fn entry(&mut self, key: String, value: &str, place: Place) {
        match self.section {
            Section::None => self.findings.problem(
                &place,
                format!("{} stands before any section", excerpt(&key)),
            ),
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
        let result = self.config.global.set(key, value);
        let setting = SETTINGS.iter().find(|setting| setting.name == key);
        if let Err(message) = &result {
            self.findings.problem(&place, message);
        }
        let Some(setting) = setting else {
            return;
        };
        if result.is_err() {
            self.places.wrong.insert(setting.name);
        }
        if let Some(earlier) = self.places.keys.get(setting.name) {
            self.findings.warn(&place, again(key, earlier));
        }
        self.places.keys.insert(setting.name, place);
    }

    /// Remembers where an entry is; warns where it was already.
    fn note_entry(&mut self, name: &str, place: Place) {
        let key = (self.section, name.to_owned());
        if let Some(earlier) = self.places.entries.get(&key) {
            self.findings.warn(&place, again(name, earlier));
        }
        self.places.entries.insert(key, place);
    }

    /// Sets the pairs of a connection string one by one.
    fn pairs(
        &mut self,
        name: &str,
        value: &str,
        place: &Place,
        mut set: impl FnMut(&str, &str) -> Result<(), String>,
    ) {
        let mut wrong = |message| {
            self.findings
                .problem(place, format!("{}: {message}", excerpt(name)));
        };
        match ini::pairs(value) {
            Ok(pairs) => pairs
                .iter()
                .filter_map(|(key, value)| set(key, value).err())
                .for_each(wrong),
            Err(message) => wrong(message),
        }
    }

    fn database(&mut self, name: String, value: &str, place: Place) {
        if name == CONSOLE {
            self.findings.problem(
                &place,
                format!("database name {CONSOLE} is taken by the console"),
            );
            return;
        }
        let mut database = Database::default();
        let mut after_password = false;
        self.pairs(&name, value, &place, |key, value| {
            let known =
                key == "reserve_pool" || DATABASE_KEYS.iter().any(|known| known.name == key);
            if std::mem::replace(&mut after_password, key == "password") && !known {
                // Perhaps a part of the password, so it is not repeated.
                return Err(
                    "unknown key after password (not shown); quote a password with spaces as 'a b'"
                        .to_owned(),
                );
            }
            match key {
                // An older name, which PgBouncer keeps too.
                "reserve_pool" => database.set("reserve_pool_size", value),
                "host" if value.contains(',') => Err(format!(
                    "host = {} is a list, which is not supported yet; name one host",
                    excerpt(value)
                )),
                _ => database.set(key, value),
            }
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
        let known_id = |id: &u16| (1..=PEER_ID_MAX).contains(id);
        let Some(id) = name.parse().ok().filter(known_id) else {
            self.findings.problem(
                &place,
                format!(
                    "invalid peer id {}, expected a whole number from 1 to {PEER_ID_MAX}",
                    excerpt(name)
                ),
            );
            return;
        };
        match &peer.host {
            None => self
                .findings
                .problem(&place, format!("peer {id} has no host")),
            // Nothing else begins like this: it would be asked of name servers.
            Some(host) if host.starts_with(['/', '@']) => self.findings.problem(
                &place,
                format!(
                    "{id}: host = {} is the directory of a Unix socket, which is not supported yet; name the peer's host or address",
                    excerpt(host)
                ),
            ),
            Some(_) => {}
        }
        self.note_entry(&id.to_string(), place);
        self.config.peers.insert(id, peer);
    }

    fn auth_file(&mut self, read: &mut dyn FnMut(&Path) -> io::Result<String>) {
        let Some(file) = &self.config.global.auth_file else {
            return;
        };
        match read(Path::new(file)) {
            Ok(text) => match userlist::parse(file, &text) {
                Ok(list) => self.config.userlist = list,
                Err(problems) => self.findings.problems.extend(problems),
            },
            Err(error) => self.findings.problem(
                self.places.key("auth_file"),
                format!("cannot read auth_file {file}: {error}"),
            ),
        }
    }

    fn shared_key_file(&mut self, read: &mut dyn FnMut(&Path) -> io::Result<String>) {
        let Some(file) = &self.config.global.shared_key_file else {
            return;
        };
        let key = read(Path::new(file)).map_err(|error| error.to_string());
        match key.and_then(|text| SharedKey::parse(&text)) {
            Ok(key) => self.config.shared_key = Some(key),
            Err(error) => self.findings.problem(
                self.places.key("shared_key_file"),
                format!("shared_key_file {file}: {error}"),
            ),
        }
    }
}

fn again(name: &str, earlier: &Place) -> String {
    format!(
        "{} is set again, after {}:{}; the last one counts",
        excerpt(name),
        earlier.file,
        earlier.line
    )
}
