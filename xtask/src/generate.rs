//! `cargo xtask generate`: golden files and reference pages are written by the
//! same tests that compare them: those beside the code, test targets that are
//! called `golden`, and the scenario that renders the chart.

use anyhow::{Result, ensure};

use crate::{
    calls::{cargo, cargo_test},
    stage::Tally,
    test::Targets,
};

/// Tells tests to write what they would otherwise compare with.
const UPDATE: &str = "POOLKEEPER_UPDATE";

pub(crate) fn run() -> Result<()> {
    let tally = write(&Targets::read()?)?;
    ensure!(tally.failed == 0, "some of it could not be generated");
    println!("generated; review the difference with: git diff");
    Ok(())
}

/// Runs every test that writes instead of comparing when it is told to.
pub(crate) fn write(targets: &Targets) -> Result<Tally> {
    cargo_test(
        cargo(&["test", "--quiet", "--workspace", "--lib", "--bins"])
            .args(targets.golden())
            // Last: it renders what the others have written.
            .args(["--test", "kubernetes_templates"])
            .env(UPDATE, "1"),
    )
}
