//! The file that tells scripts which process to signal.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use rustix::process::{Pid, test_kill_process};

/// Why it cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process runs by it.
    #[error("pidfile {}: process {pid} is running", path.display())]
    Running {
        /// The file.
        path: PathBuf,
        /// The process named in it.
        pid: i32,
    },
    /// It cannot be read or written.
    #[error("pidfile {}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The file, while the process runs; removed when dropped.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it. What a process that is gone has left is overwritten.
    pub(super) fn create(path: &Path) -> Result<Self, PidFileError> {
        let own = process::id().cast_signed();
        let system = |source| PidFileError::System {
            path: path.to_owned(),
            source,
        };
        match fs::read_to_string(path) {
            Ok(text) => {
                let pid = text.trim().parse().ok().and_then(Pid::from_raw);
                // In a container the one before had our number.
                let other = pid.filter(|pid| pid.as_raw_pid() != own);
                if let Some(pid) = other.filter(|pid| is_running(*pid)) {
                    return Err(PidFileError::Running {
                        path: path.to_owned(),
                        pid: pid.as_raw_pid(),
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(error)),
        }
        fs::write(path, format!("{own}\n")).map_err(system)?;
        Ok(Self(path.to_owned()))
    }
}

/// A process of another user's is running too, although it may not be signalled.
fn is_running(pid: Pid) -> bool {
    test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it, or written another number.
        let is_own =
            fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == process::id().to_string());
        if is_own {
            let _ = fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lives_as_long_as_the_process_and_guards_against_a_second_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pooler.pid");
        let file = PidFile::create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", process::id()));
        drop(file);
        assert!(!path.exists());

        // The process that started this one runs.
        let parent = std::os::unix::process::parent_id();
        fs::write(&path, parent.to_string()).unwrap();
        let error = PidFile::create(&path).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("process {parent} is running")),
            "{error}"
        );

        let mut gone = process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        fs::write(&path, gone.id().to_string()).unwrap();
        PidFile::create(&path).unwrap();
        fs::write(&path, "not a number").unwrap();
        PidFile::create(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let path = Path::new("/nonexistent/pooler.pid");
        let error = PidFile::create(path).unwrap_err().to_string();
        assert!(
            error.starts_with("pidfile /nonexistent/pooler.pid: "),
            "{error}"
        );
    }
}
