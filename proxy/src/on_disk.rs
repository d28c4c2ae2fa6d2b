//! Whether files have changed on disk, by looks at what the system says of them.
//!
//! Looks, not inotify: Kubernetes mounts a directory whose `..data` link it
//! swaps, editors rename over a file or write in place, and network file systems
//! tell nothing. A look once a second sees all of these, and costs a `stat` per
//! file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Time between two looks. What changed is acted upon when two looks in a row
/// see the same: several files are seldom written at once.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Some files, and what they looked like.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Last acted upon; `None` if that is not known.
    acted_upon: Option<Prints>,
    seen: Prints,
}

type Prints = BTreeMap<PathBuf, Option<Print>>;

/// What tells one content from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

impl Watch {
    /// What `files` look like now is what is in force. Take it before reading
    /// them, or a change in between is missed.
    #[must_use]
    pub fn new(files: &BTreeSet<PathBuf>) -> Self {
        let seen = prints(files);
        Self {
            acted_upon: Some(seen.clone()),
            seen,
        }
    }

    /// What is in force is something else: the next look that finds `files`
    /// settled asks to act.
    pub fn distrust(&mut self) {
        self.acted_upon = None;
    }

    /// Looks at `files`, and says whether to act now: they differ from what was
    /// acted upon last, and have not changed since the look before. True once
    /// per change, whatever the action comes to.
    #[must_use]
    pub fn look(&mut self, files: &BTreeSet<PathBuf>) -> bool {
        let now = prints(files);
        let settled = now == self.seen;
        self.seen = now;
        let act = settled && self.acted_upon.as_ref() != Some(&self.seen);
        if act {
            self.acted_upon = Some(self.seen.clone());
        }
        act
    }
}

/// Links are followed, so that a swapped one shows another file.
fn prints(files: &BTreeSet<PathBuf>) -> Prints {
    let print = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some(Print {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            length: metadata.len(),
        })
    };
    files
        .iter()
        .map(|path| (path.clone(), print(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn files<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> BTreeSet<PathBuf> {
        paths.into_iter().cloned().collect()
    }

    #[test]
    fn a_change_is_acted_upon_once_when_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        fs::write(&one, "1").unwrap();
        let all = files([&one, &other]);
        let mut watch = Watch::new(&all);
        assert!(!watch.look(&all));
        // In place, and then a file that was not there.
        fs::write(&one, "12").unwrap();
        assert!(!watch.look(&all), "it may not be complete");
        fs::write(&other, "x").unwrap();
        assert!(!watch.look(&all), "nor now");
        assert!(watch.look(&all));
        assert!(!watch.look(&all), "once");
        fs::remove_file(&other).unwrap();
        assert!(!watch.look(&all));
        assert!(watch.look(&all));
    }

    #[test]
    fn renaming_over_and_swapping_a_link_are_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("file"), "same length").unwrap();
        }
        symlink("v1", path("..data")).unwrap();
        symlink("..data/file", path("file")).unwrap();
        let all = files([&path("file")]);
        let mut watch = Watch::new(&all);
        symlink("v2", path("next")).unwrap();
        fs::rename(path("next"), path("..data")).unwrap();
        assert!(!watch.look(&all));
        assert!(watch.look(&all));
        fs::write(path("edited"), "same length").unwrap();
        fs::rename(path("edited"), path("v2").join("file")).unwrap();
        assert!(!watch.look(&all));
        assert!(watch.look(&all));
    }

    #[test]
    fn other_files_to_watch_and_distrust_are_changes() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        let mut watch = Watch::new(&files([&one]));
        let both = files([&one, &other]);
        assert!(!watch.look(&both));
        assert!(watch.look(&both));
        watch.distrust();
        assert!(watch.look(&both));
        assert!(!watch.look(&both));
    }
}
