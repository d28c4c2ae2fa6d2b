//! Where the programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A binary of this workspace, `pooler`, `balancer` or `operator`: in
/// `POOLKEEPER_BIN_DIR`, from the root of this project, or in the profile's
/// directory that we run from.
///
/// # Errors
/// When it has not been built.
pub fn ours(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("POOLKEEPER_BIN_DIR") {
        Some(dir) => Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir),
        None => profile_dir()?,
    };
    let binary = dir.join(name);
    ensure!(
        binary.exists(),
        "{} is not there; run: cargo build --workspace --bins",
        binary.display()
    );
    Ok(binary)
}

/// `target/debug` or its like: tests run from `deps` in it, xtask from itself.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("an executable lies in a directory")?;
    Ok(if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir).to_owned()
    } else {
        dir.to_owned()
    })
}

/// The target directory, where what is dear to make is kept.
///
/// # Errors
/// When we do not run from one.
pub fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    exe.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .map(Path::to_owned)
        .context("not run from a target directory")
}

/// A program of PostgreSQL, of the newest version installed where Debian puts
/// it, else from the path.
///
/// # Errors
/// When there is none.
pub fn postgresql(name: &str) -> Result<PathBuf> {
    let version = |dir: &PathBuf| -> Option<u32> { dir.file_name()?.to_str()?.parse().ok() };
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| dir.join("bin/initdb").exists())
        .collect();
    installed.sort_by_key(version);
    installed
        .pop()
        .map(|dir| dir.join("bin").join(name))
        .filter(|binary| binary.exists())
        .or_else(|| on_path(name))
        .with_context(|| {
            format!("{name} is not installed; Debian has it in the package postgresql")
        })
}

/// The program of this name that a shell would find.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|binary| binary.exists())
}
