//! Directories that vanish with their owner, and with them every process that
//! was started on files in them.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::child;

const PREFIX: &str = "poolkeeper-test-";
const LOCK: &str = ".owner";

/// A temporary directory.
///
/// Dropping it kills what still runs on it (grandchildren too: a process whose
/// command line names the directory) and removes it. One whose owner was killed
/// is recognised by its free lock, and goes the same way when the next is made.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes a directory that other users may enter (PostgreSQL runs as its own).
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn new() -> Result<Self> {
        let above = above();
        // Sweeping and making exclude each other, or a directory that another
        // process has made, but not locked yet, would look abandoned.
        let gate = File::create(above.join(format!("{PREFIX}gate-{}", uid())))
            .context("the temporary directory cannot be written")?;
        gate.lock()?;
        sweep(&above);
        let path = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&above)?
            .keep();
        let lock = File::create(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it that everybody may read, and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Free space below which a memory file system is left to others.
const ROOM_MIN: u64 = 2 * 1024 * 1024 * 1024;

/// Memory where there is plenty, else the temporary directory: a cluster is a
/// thousand files, and a disk takes a second to forget those of the last test.
fn above() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |room| room.f_bavail * room.f_frsize);
    if std::env::var_os("TMPDIR").is_none() && room >= ROOM_MIN {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// Users do not get into each other's way.
pub(crate) fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn sweep(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX) && path.is_dir();
        let abandoned =
            ours && File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if abandoned {
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    child::kill_all_that_name(path);
    // A process that is just ending may still write: once more then.
    if fs::remove_dir_all(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_directory_goes_and_one_in_use_stays() {
        let kept = Scratch::new().unwrap();
        let abandoned = above().join(format!("{PREFIX}abandoned-{}", std::process::id()));
        fs::create_dir_all(&abandoned).unwrap();
        fs::write(abandoned.join(LOCK), "").unwrap();
        let _next = Scratch::new().unwrap();
        assert!(!abandoned.exists());
        assert!(kept.path().exists());
    }
}
