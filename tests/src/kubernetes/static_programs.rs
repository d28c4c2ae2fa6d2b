//! Our programs as images have them: static, built for a machine without anything.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The profile of Cargo.toml for images that are tested.
const PROFILE: &str = "quick";

/// Builds `pooler`, `balancer` and `operator` where `cargo xtask images --profile
/// quick` does, if they are not current, and returns the folder that they are in.
/// The first build takes minutes. `POOLKEEPER_STATIC_DIR` names a folder with
/// others, those of a release for example; then nothing is built.
///
/// # Errors
/// When they cannot be built, with what cargo said.
pub fn static_programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("POOLKEEPER_STATIC_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = root.join("target/static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--package", "proxy", "--package"])
        .args(["operator", "--bins", "--profile", PROFILE, "--target"])
        .arg(&target)
        .current_dir(&root)
        .env("CARGO_TARGET_DIR", &folder)
        // With a target named, build scripts and macros do not get these.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .output()
        .context("cargo does not start")?;
    ensure!(
        output.status.success(),
        "static programs cannot be built: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(folder.join(target).join(PROFILE))
}
