//! The state folder: what is remembered across operators, and that only one
//! operator at a time uses it.
//!
//! ```text
//! STATE/
//!   lock         held by the operator that runs
//!   state.json   what is remembered; secret, for it holds a key
//!   conf/        what the children are told: pooler-0.ini, balancer-0.yaml, userlist.txt, …
//!   logs/        what they say: pooler-0.log, …
//! ```
//!
//! `state.json` is replaced as a whole or not at all, and begins with a hash of
//! what follows: what a disk made of it is not taken for what was written.
//! Damaged, it becomes `state.json.damaged`.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::process::Identity;
use crate::{endpoints::Endpoints, notify::Notifier, random};

/// Version of the file's format.
const VERSION: u32 = 1;
/// How the file begins; a hash of all after its line follows. Those of earlier
/// operators, and those that people wrote, have none.
const SUM: &str = "{\n  \"sum\": \"";
const SUM_END: &str = "\",\n";
/// In hexadecimal digits.
const SUM_LENGTH: usize = 32;

/// What is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    version: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// 32 random bytes in hexadecimal: key of the hashes that are shown.
    pub key: String,
    /// The last operator ended in order, its children before it.
    pub stopped: bool,
    /// The processes that run, by the name of the endpoint.
    pub children: BTreeMap<String, Identity>,
    /// What is true of the endpoints.
    pub endpoints: Endpoints,
    /// Who was told what.
    pub notifier: Notifier,
    /// Who was told what before is forgotten: all are to be told how things are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgot: bool,
}

impl State {
    /// Nothing to remember yet.
    #[must_use]
    pub const fn new(
        cluster: String,
        key: String,
        endpoints: Endpoints,
        notifier: Notifier,
    ) -> Self {
        Self {
            version: VERSION,
            cluster,
            key,
            stopped: true,
            children: BTreeMap::new(),
            endpoints,
            notifier,
            forgot: false,
        }
    }
}

/// What was found in the state folder.
#[derive(Debug)]
pub enum Remembered {
    /// Nothing: no operator ran here yet.
    Nothing,
    /// What the last one left.
    State(Box<State>),
    /// Something that cannot be read.
    Damaged {
        /// What is wrong with it.
        reason: String,
        /// Where it is kept.
        moved: PathBuf,
    },
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another operator uses it.
    #[error(
        "another operator runs with the state folder {0}; stop it, or name another folder with --state-dir"
    )]
    InUse(PathBuf),
    /// It is from another version.
    #[error(
        "{file} is of version {found}, this operator knows version {VERSION}; use the operator that wrote it, or name another folder with --state-dir"
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// The version in it.
        found: u64,
    },
    /// The folder or a file in it cannot be used.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The state folder, locked.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Holds the lock as long as it lives.
    _lock: File,
}

impl Store {
    /// Makes the folder where there is none, and locks it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another operator runs with it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| StoreError::Io { path, error }
        };
        let private = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(at(path))
        };
        private(folder)?;
        let folder = fs::canonicalize(folder).map_err(at(folder))?;
        private(&folder.join("conf"))?;
        private(&folder.join("logs"))?;
        let path = folder.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                folder,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder)),
            Err(TryLockError::Error(error)) => Err(StoreError::Io { path, error }),
        }
    }

    /// The folder, absolute.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of what the children are told.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.folder.join("conf")
    }

    /// A child's log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// Reads what is remembered. What cannot be read is moved away first.
    ///
    /// # Errors
    /// If the file cannot be had, or is of another version.
    pub fn load(&self) -> Result<Remembered, StoreError> {
        let file = self.folder.join("state.json");
        let moved = self.folder.join("state.json.damaged");
        let text = match fs::read(&file) {
            Ok(text) => text,
            // Whoever moved it away did not come to write another.
            Err(error) if error.kind() == ErrorKind::NotFound && moved.exists() => {
                let reason = "as the operator before found".to_owned();
                return Ok(Remembered::Damaged { reason, moved });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Remembered::Nothing),
            Err(error) => return Err(StoreError::Io { path: file, error }),
        };
        match understand(&text) {
            Ok(Ok(state)) => Ok(Remembered::State(state)),
            Ok(Err(found)) => Err(StoreError::Version { file, found }),
            Err(reason) => match fs::rename(&file, &moved) {
                Ok(()) => Ok(Remembered::Damaged { reason, moved }),
                Err(error) => Err(StoreError::Io { path: file, error }),
            },
        }
    }

    /// Remembers. When it returns, the state is on disk, whole.
    ///
    /// # Errors
    /// If the disk does not take it; what was remembered before still is.
    pub fn save(&self, state: &State) -> io::Result<()> {
        self.write("state.json", text(state).as_bytes())
    }

    /// Writes a file of `conf/`, if it is not so already.
    ///
    /// # Errors
    /// If the disk does not take it; the file is as before then.
    pub fn write_conf(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let name = format!("conf/{name}");
        if fs::read(self.folder.join(&name)).is_ok_and(|present| present == content) {
            return Ok(());
        }
        self.write(&name, content)
    }

    /// Replaces a file as a whole or not at all.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        let folder = path.parent().unwrap_or(&self.folder);
        File::open(folder)?.sync_all()
    }
}

/// The file's text.
fn text(state: &State) -> String {
    let json = serde_json::to_string_pretty(state).expect("plain data serialises");
    let rest = json.strip_prefix("{\n").expect("it has fields");
    format!("{SUM}{}{SUM_END}{rest}", sum(rest.as_bytes()))
}

fn sum(rest: &[u8]) -> String {
    random::hex(&Sha256::digest(rest)[..SUM_LENGTH / 2])
}

/// Reads the file's text: the state, or the other version that it is of.
fn understand(text: &[u8]) -> Result<Result<Box<State>, u64>, String> {
    let sealed = text.strip_prefix(SUM.as_bytes());
    if let Some(sealed) = sealed {
        let fits = sealed
            .split_at_checked(SUM_LENGTH)
            .is_some_and(|(said, rest)| {
                let rest = rest.strip_prefix(SUM_END.as_bytes());
                rest.is_some_and(|rest| said == sum(rest).as_bytes())
            });
        if !fits {
            return Err("it is not as it was written: its sum does not fit".to_owned());
        }
    }
    let wrong = |error: serde_json::Error| error.to_string();
    let json: serde_json::Value = serde_json::from_slice(text).map_err(wrong)?;
    if sealed.is_none() && json.get("sum").is_some() {
        return Err("it is not as it was written: its sum is not where it was".to_owned());
    }
    match json["version"].as_u64() {
        Some(found) if found != u64::from(VERSION) => Ok(Err(found)),
        _ => serde_json::from_value(json).map(Ok).map_err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;

    use super::*;

    fn state() -> State {
        let endpoints = Endpoints::new(2, 1, Timestamp::UNIX_EPOCH);
        State::new(
            "shop".to_owned(),
            "00".to_owned(),
            endpoints,
            Notifier::default(),
        )
    }

    fn loaded(store: &Store) -> Box<State> {
        match store.load().unwrap() {
            Remembered::State(state) => state,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("a/b")).unwrap();
        assert!(matches!(store.load().unwrap(), Remembered::Nothing));
        store.save(&state()).unwrap();
        assert_eq!(loaded(&store).cluster, "shop");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.folder().join("state.json")), 0o600);
        assert_eq!(mode(store.folder().to_owned()), 0o700);
    }

    #[test]
    fn second_operator_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        assert!(matches!(
            Store::open(folder.path()),
            Err(StoreError::InUse(_))
        ));
        drop(first);
        assert!(Store::open(folder.path()).is_ok());
    }

    /// One of a tier that runs, in which somebody is down.
    fn lived_in() -> State {
        let mut state = state();
        let identity = Identity {
            pid: 4711,
            start_ticks: 12_345,
            machine_boot: "b".repeat(36),
        };
        state.children.insert("pooler-0".to_owned(), identity);
        state.notifier.configure(&[crate::notify::ChannelConfig {
            name: "ops".to_owned(),
            configured: true,
            ..crate::notify::ChannelConfig::default()
        }]);
        let key = crate::notify::Key::new(crate::api::NotificationEvent::EndpointDown, "pooler-0");
        let at = Timestamp::UNIX_EPOCH;
        let alert = crate::notify::Alert::new(key, at, "killed \"by\" signal 9", None);
        state.notifier.observe(&[alert], &[], at);
        state
    }

    #[test]
    fn a_file_cut_at_any_byte_is_said_and_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let file = folder.path().join("state.json");
        let whole = text(&lived_in());
        let damaged = (0..whole.len()).map(|length| &whole.as_bytes()[..length]);
        for damaged in damaged.chain([&b"[]"[..], b"{}", b"\xff", &[0; 4096]]) {
            fs::write(&file, damaged).unwrap();
            let found = store.load().unwrap();
            let Remembered::Damaged { reason, moved } = found else {
                panic!("{} bytes are {found:?}", damaged.len());
            };
            assert!(!reason.is_empty());
            assert_eq!(fs::read(moved).unwrap(), damaged);
            // Whoever did not come to write another finds the same.
            assert!(matches!(store.load().unwrap(), Remembered::Damaged { .. }));
        }
    }

    /// A crash while it is written leaves a piece of the new one beside the old.
    #[test]
    fn a_write_cut_at_any_byte_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.save(&lived_in()).unwrap();
        let whole = text(&state());
        for length in (0..whole.len()).step_by(7) {
            fs::write(folder.path().join("state.json.new"), &whole[..length]).unwrap();
            assert_eq!(text(&loaded(&store)), text(&lived_in()));
        }
        store.save(&state()).unwrap();
        assert_eq!(text(&loaded(&store)), whole);
    }

    #[test]
    fn a_changed_byte_is_noticed_or_harmless() {
        let whole = text(&lived_in());
        let mut harmless = 0;
        for at in 0..whole.len() {
            for change in [0x01, 0x02, 0x10, 0x20, 0x80, 0xff] {
                let mut changed = whole.clone().into_bytes();
                changed[at] ^= change;
                match understand(&changed) {
                    // The name of the sum alone: then there is none to compare.
                    Ok(Ok(state)) => {
                        assert_eq!(text(&state), whole, "byte {at}");
                        harmless += 1;
                    }
                    Ok(Err(version)) => panic!("byte {at}: version {version}"),
                    Err(reason) => assert!(!reason.is_empty()),
                }
            }
        }
        assert!(harmless < 20, "{harmless}");
    }

    /// Earlier operators wrote none.
    #[test]
    fn a_file_without_a_sum_is_read() {
        let json = serde_json::to_vec(&lived_in()).unwrap();
        let read = understand(&json).unwrap().unwrap();
        assert_eq!(text(&read), text(&lived_in()));
    }

    #[test]
    fn state_of_another_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::write(folder.path().join("state.json"), r#"{"version": 2}"#).unwrap();
        let error = store.load().unwrap_err();
        assert!(
            matches!(error, StoreError::Version { found: 2, .. }),
            "{error}"
        );
        assert!(folder.path().join("state.json").exists());
    }
}
