//! The children's log files. They write them themselves, so that they can
//! outlive us; we see to it that the files stay small.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A log longer than this is cut, in bytes; one older part is kept.
pub const LENGTH_MAX: u64 = 16 * 1024 * 1024;

/// Opens a log to append to it.
///
/// # Errors
/// If the file cannot be made.
pub fn open(path: &Path) -> io::Result<File> {
    bound(path, LENGTH_MAX)?;
    File::options().create(true).append(true).open(path)
}

/// Cuts a log that is longer than `length_max`: its content goes to `FILE.1`.
///
/// It is copied and emptied rather than renamed, because whoever writes it has
/// it open; what is written between the two is lost.
///
/// # Errors
/// If the file cannot be read or written.
pub fn bound(path: &Path, length_max: u64) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > length_max => {
            fs::copy(path, older(path))?;
            File::options().write(true).open(path)?.set_len(0)
        }
        _ => Ok(()),
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn long_log_is_cut_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = open(&path).unwrap();
        log.write_all(b"0123456789").unwrap();
        bound(&path, 10).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0123456789");
        log.write_all(b"x").unwrap();
        bound(&path, 10).unwrap();
        log.write_all(b"y").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"y");
        assert_eq!(
            fs::read(folder.path().join("log.1")).unwrap(),
            b"0123456789x"
        );
    }
}
