//! Tools that come from crates.io, at a pinned version, kept in `target/tools`.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};

use crate::calls::{cargo, root, succeeds};

/// The version in use; raise it together with `deny.toml` when its format moves.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Where cargo-deny is, built first if it is not there yet.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let at = root().join(format!("target/tools/cargo-deny-{CARGO_DENY_VERSION}"));
    let binary = at.join("bin/cargo-deny");
    if binary.exists() {
        return Ok(binary);
    }
    println!("  building cargo-deny {CARGO_DENY_VERSION}, once");
    fs::create_dir_all(&at)?;
    // Unoptimised, and for no debugger: it is built more often than it runs.
    let built = succeeds(
        cargo(&["install", "cargo-deny", "--quiet", "--locked", "--debug"])
            .args([
                "--version".as_ref(),
                CARGO_DENY_VERSION.as_ref(),
                "--root".as_ref(),
                at.as_os_str(),
                "--target-dir".as_ref(),
                root().join("target/tools/build").as_os_str(),
            ])
            .env("CARGO_PROFILE_DEV_DEBUG", "false"),
    )?;
    ensure!(built && binary.exists(), "cargo-deny could not be built");
    // Three hundred crates' worth of intermediate files that nothing reads again.
    fs::remove_dir_all(root().join("target/tools/build"))?;
    Ok(binary)
}
