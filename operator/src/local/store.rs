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

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::process::Identity;
use crate::{endpoints::Endpoints, notify::Notifier};

/// Version of the file's format.
const VERSION: u32 = 1;

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
        }
    }
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another operator uses it.
    #[error(
        "another operator runs with the state folder {0}; stop it, or name another folder with --state-dir"
    )]
    InUse(PathBuf),
    /// What is remembered cannot be read.
    #[error(
        "{file} is damaged ({reason}); it was moved to {moved}. Start again to go on without it: children that still run are found and kept, but who was told what is forgotten"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Where it is now.
        moved: PathBuf,
    },
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

    /// Reads what is remembered; nothing where there is no file.
    ///
    /// # Errors
    /// If the file cannot be understood. It is moved away first.
    pub fn load(&self) -> Result<Option<State>, StoreError> {
        let file = self.folder.join("state.json");
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::Io { path: file, error }),
        };
        let read = serde_json::from_slice::<serde_json::Value>(&text).and_then(|json| {
            let version = json["version"].as_u64();
            match version {
                Some(found) if found != u64::from(VERSION) => Ok(Err(found)),
                _ => serde_json::from_value(json).map(Ok),
            }
        });
        match read {
            Ok(Ok(state)) => Ok(Some(state)),
            Ok(Err(found)) => Err(StoreError::Version { file, found }),
            Err(error) => {
                let moved = self.folder.join("state.json.damaged");
                match fs::rename(&file, &moved) {
                    Ok(()) => Err(StoreError::Damaged {
                        file,
                        reason: error.to_string(),
                        moved,
                    }),
                    Err(error) => Err(StoreError::Io { path: file, error }),
                }
            }
        }
    }

    /// Remembers. When it returns, the state is on disk, whole.
    ///
    /// # Errors
    /// If the disk does not take it; what was remembered before still is.
    pub fn save(&self, state: &State) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(state).expect("plain data serialises");
        self.write("state.json", &json)
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

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("a/b")).unwrap();
        assert!(store.load().unwrap().is_none());
        store.save(&state()).unwrap();
        assert_eq!(store.load().unwrap().unwrap().cluster, "shop");
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

    #[test]
    fn damaged_state_is_said_and_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.save(&state()).unwrap();
        let file = folder.path().join("state.json");
        let whole = fs::read(&file).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"[]", b"\xff"] {
            fs::write(&file, damaged).unwrap();
            let error = store.load().unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert_eq!(
                fs::read(folder.path().join("state.json.damaged")).unwrap(),
                damaged
            );
            assert!(store.load().unwrap().is_none(), "the next start goes on");
        }
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
