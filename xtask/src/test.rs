//! `cargo xtask test`: every check, one after the other, with its time.

use std::process::Command;

use ::tests::kubernetes::Program;
use anyhow::{Context, Result, bail, ensure};

use crate::{
    generate, images, links,
    packages::{self, For},
    stage::{Stages, Tally, cargo, cargo_test, check, root},
    tools,
};

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Leave out what takes long: scenarios against real servers, documentation,
    /// licences, regeneration. For the inner loop; CI refuses it.
    #[arg(long)]
    fast: bool,
    /// Run only the scenarios (`tests/tests/NAME.rs`) of these names, after building.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let partial = flags.fast || !flags.only.is_empty();
    ensure!(
        !(partial && std::env::var("CI").is_ok_and(|value| value == "true")),
        "--fast and --only leave checks out, and with CI=true nothing is left out"
    );
    let mut stages = Stages::new();
    let only = !flags.only.is_empty();
    if !only {
        stages.run("formatting", || {
            check(&mut cargo(&["fmt", "--all", "--check"]))
        });
        stages.run("lints", lints);
    }
    let built = stages.run("build", || {
        check(&mut cargo(&[
            "build",
            "--workspace",
            "--bins",
            "--keep-going",
        ]))
    });
    let targets = Targets::read()?;
    if !only {
        stages.run("tests beside the code", || beside_the_code(&targets));
        stages.run("links in the documentation", || links::check(&root()));
    }
    if !flags.fast {
        let installed = stages.run("system packages", || {
            packages::install(For::Test)?;
            Ok(Tally::ONE)
        });
        let programs = installed && stages.run("Kubernetes programs", kubernetes_programs);
        let images = needs_images(&flags.only);
        let images = !images || stages.run("static programs", images::quick_programs);
        if built && programs && images {
            stages.run("scenarios", || scenarios(&targets, &flags.only));
        } else {
            stages.run("scenarios", || {
                bail!("not run: they need what failed above")
            });
        }
    }
    if !partial {
        stages.run("reference documentation", documentation);
        stages.run("examples in the documentation", || {
            cargo_test(&mut cargo(&["test", "--workspace", "--doc", "--quiet"]))
        });
        stages.run("generated files are current", || generated(&targets));
        stages.run("licences, sources, bans", licences);
    }
    let sum = stages.finish();
    // The closing line stays the last on standard output.
    ensure!(sum.failed == 0, "{} of the checks above failed", sum.failed);
    Ok(())
}

fn lints() -> Result<Tally> {
    check(
        cargo(&["clippy", "--workspace", "--all-targets", "--keep-going"])
            .args(["--", "--deny", "warnings"]),
    )
}

fn beside_the_code(targets: &Targets) -> Result<Tally> {
    cargo_test(
        cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins"])
            .args(targets.beside_the_code()),
    )
}

/// Builds those that are missing, which takes minutes once for each version.
fn kubernetes_programs() -> Result<Tally> {
    for program in Program::ALL {
        println!("  {}", program.find()?.display());
    }
    Ok(Tally::ONE)
}

/// The scenario whose Pods run images of what is built here. To build it takes
/// minutes: by itself, so that it is seen, and not within a test that others wait for.
const ON_A_NODE: &str = "kubernetes_end_to_end";

fn needs_images(only: &[String]) -> bool {
    let given = std::env::var_os("POOLKEEPER_IMAGES_DIR").is_some();
    !given && (only.is_empty() || only.iter().any(|name| name == ON_A_NODE))
}

/// One file after the other, and within each one test after the other where it
/// measures time: the file says so itself, by taking the machine for itself.
fn scenarios(targets: &Targets, only: &[String]) -> Result<Tally> {
    for name in only {
        ensure!(
            targets.scenarios.contains(name),
            "no scenario is called {name}; there are: {}",
            targets.scenarios.join(", ")
        );
    }
    let chosen = targets
        .scenarios
        .iter()
        .filter(|name| only.is_empty() || only.contains(name));
    cargo_test(
        cargo(&["test", "--workspace", "--no-fail-fast"])
            .args(chosen.flat_map(|name| ["--test", name])),
    )
}

fn documentation() -> Result<Tally> {
    check(
        cargo(&[
            "doc",
            "--workspace",
            "--no-deps",
            "--quiet",
            "--document-private-items",
        ])
        .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

/// Writes everything generated and sees whether that changed the working tree.
fn generated(targets: &Targets) -> Result<Tally> {
    let before = working_tree()?;
    let tally = generate::write(targets)?;
    ensure!(tally.failed == 0, "some of it could not be generated");
    let after = working_tree()?;
    let changed: Vec<&str> = after
        .lines()
        .filter(|line| !before.lines().any(|old| old == *line))
        .collect();
    ensure!(
        changed.is_empty(),
        "these were not current and have been rewritten (what `cargo xtask generate` does); \
         review and commit them:\n{}",
        changed.join("\n")
    );
    Ok(Tally::ONE)
}

/// One line for each file that differs from the index, with its content's hash.
fn working_tree() -> Result<String> {
    let git = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(root())
            .output()
            .context("git does not start")?;
        ensure!(
            output.status.success(),
            "git {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut lines = String::new();
    for file in git(&["ls-files", "--modified", "--others", "--exclude-standard"])?.lines() {
        let hash = match root().join(file).exists() {
            true => git(&["hash-object", "--", file])?,
            false => "deleted\n".to_owned(),
        };
        lines.push_str(&format!("  {file} {hash}"));
    }
    Ok(lines)
}

fn licences() -> Result<Tally> {
    let deny = tools::cargo_deny()?;
    check(
        Command::new(deny)
            .args([
                "--log-level",
                "error",
                "check",
                "bans",
                "licenses",
                "sources",
            ])
            .current_dir(root()),
    )
}

/// The workspace's integration test targets, told apart by where they lie.
pub(crate) struct Targets {
    /// `NAME` of each `tests/tests/NAME.rs`: real servers, real sockets.
    scenarios: Vec<String>,
    /// `NAME` of each `tests/NAME.rs` of another crate: golden files, simulation.
    others: Vec<String>,
}

impl Targets {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self> {
        let output = cargo(&["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("cargo does not start")?;
        ensure!(
            output.status.success(),
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(Self::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &serde_json::Value) -> Self {
        let mut targets = Self {
            scenarios: Vec::new(),
            others: Vec::new(),
        };
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let names = package["targets"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|target| target["kind"][0] == "test")
                .filter_map(|target| target["name"].as_str().map(str::to_owned));
            match package["name"].as_str() {
                Some("tests") => targets.scenarios.extend(names),
                _ => targets.others.extend(names),
            }
        }
        targets
    }

    /// Arguments that add the tests of every crate that compare with golden files.
    pub(crate) fn golden(&self) -> Vec<&str> {
        let golden = self.others.iter().filter(|name| *name == "golden");
        golden.flat_map(|name| ["--test", name]).collect()
    }

    /// Arguments that add the integration tests of every crate but `tests`.
    pub(crate) fn beside_the_code(&self) -> Vec<&str> {
        self.others
            .iter()
            .flat_map(|name| ["--test", name])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_the_test_targets_of_the_crate_tests() {
        let targets = Targets::read().unwrap();
        for entry in std::fs::read_dir(root().join("tests/tests")).unwrap() {
            let path = entry.unwrap().path();
            let Some(name) = path.file_stem().and_then(|name| name.to_str()) else {
                continue;
            };
            // A scenario may have modules in a folder of its name.
            assert_eq!(
                targets.scenarios.iter().any(|scenario| scenario == name),
                path.with_extension("rs").is_file(),
                "{name}"
            );
        }
    }

    /// `--test NAME` chooses by name alone, in all crates.
    #[test]
    fn no_scenario_shares_its_name() {
        let targets = Targets::read().unwrap();
        for name in &targets.scenarios {
            assert!(
                !targets.others.contains(name),
                "{name} is also another crate's"
            );
        }
    }
}
