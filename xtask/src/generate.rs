//! `cargo xtask generate`: golden files and reference pages are written by the
//! same tests that compare them.

use anyhow::{Result, ensure};

use crate::{
    stage::{cargo, cargo_test},
    test::Targets,
};

/// Tells tests to write what they would otherwise compare with.
pub(crate) const UPDATE: &str = "POOLKEEPER_UPDATE";

pub(crate) fn run() -> Result<()> {
    let targets = Targets::read()?;
    let tally = cargo_test(
        cargo(&["test", "--quiet", "--workspace", "--lib", "--bins"])
            .args(targets.beside_the_code())
            .env(UPDATE, "1"),
    )?;
    ensure!(tally.failed == 0, "some of it could not be generated");
    println!("generated; review the difference with: git diff");
    Ok(())
}
