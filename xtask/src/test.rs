//! `cargo xtask test`: every check, with its time. What scenarios need is made
//! beside those that come before them.

use std::process::Command;

use ::tests::kubernetes::Program;
use anyhow::{Context, Result, ensure};

use crate::{
    calls::{cargo, cargo_test, cargo_test_by_blocks, check, root},
    generate, images, links,
    packages::{self, For},
    stage::{Beside, Stages, Tally},
    tools,
};

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Leave out what takes long: scenarios against real servers, documentation,
    /// licences, regeneration. For the inner loop; CI refuses it.
    #[arg(long, conflicts_with = "only")]
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
    let targets = Targets::read()?;
    let scenarios = match flags.fast {
        true => Scenarios::default(),
        false => targets.scenarios(&flags.only)?,
    };
    if scenarios.need_kubernetes() {
        Program::check_tools()?;
    }
    let mut stages = Stages::new();

    // What scenarios need is made while other stages wait for something.
    let beside = Beside::with_what_is_left();
    let packages = (!flags.fast).then(|| beside.begin("system packages", packages));
    let cargo_deny = (!partial).then(|| beside.begin("cargo-deny", cargo_deny));
    // Last what Pods run of: while they do, nothing is built. Theirs is another
    // control group, to which low priority means nothing.
    let programs = scenarios
        .need_kubernetes()
        .then(|| beside.begin("Kubernetes programs", kubernetes_programs));
    let images = scenarios
        .need_images()
        .then(|| beside.begin("static programs", images::quick_programs));

    let only = !flags.only.is_empty();
    if !only {
        stages.run("formatting", || {
            check(&mut cargo(&["fmt", "--all", "--check"]))
        });
        stages.run("lints", lints);
    }
    let mut ready = stages.run("build", || build(&targets, &scenarios, only));
    if !only {
        stages.run("tests beside the code", || beside_the_code(&targets));
        stages.run("links in the documentation", || links::check(&root()));
    }
    ready &= packages.is_none_or(|packages| stages.wait(packages));
    if !scenarios.plain.is_empty() {
        stages.run("scenarios", || {
            cargo_test(&mut run_of(&scenarios.plain, ready)?)
        });
    }
    ready &= programs.is_none_or(|programs| stages.wait(programs));
    let of_kubernetes = (!scenarios.of_kubernetes.is_empty()).then(|| {
        let run = run_of(&scenarios.of_kubernetes, ready);
        Beside::as_equals().begin("scenarios of Kubernetes", || {
            cargo_test_by_blocks(&mut run?)
        })
    });
    ready &= images.is_none_or(|images| stages.wait(images));
    if !scenarios.with_images.is_empty() {
        stages.run("scenarios with images", || {
            cargo_test_by_blocks(&mut run_of(&scenarios.with_images, ready)?)
        });
    }
    if let Some(of_kubernetes) = of_kubernetes {
        stages.wait(of_kubernetes);
    }
    if !partial {
        stages.run("reference documentation", documentation);
        stages.run("examples in the documentation", || {
            cargo_test(&mut cargo(&["test", "--workspace", "--doc", "--quiet"]))
        });
        stages.run("generated files are current", || generated(&targets));
    }
    if let Some(cargo_deny) = cargo_deny
        && stages.wait(cargo_deny)
    {
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

/// The programs, and the tests that later stages run: at once, so that they are
/// built with the same features.
fn build(targets: &Targets, scenarios: &Scenarios, only: bool) -> Result<Tally> {
    let mut build = cargo(&["build", "--workspace", "--keep-going", "--bins"]);
    build.args(named(scenarios.all()));
    if !only {
        build.args(targets.beside_the_code());
    }
    check(&mut build)
}

fn beside_the_code(targets: &Targets) -> Result<Tally> {
    cargo_test(
        cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins"])
            .args(targets.beside_the_code()),
    )
}

fn packages() -> Result<Tally> {
    packages::install(For::Test)?;
    Ok(Tally::ONE)
}

/// Builds those that are missing, which takes minutes once for each version.
fn kubernetes_programs() -> Result<Tally> {
    for program in Program::ALL {
        println!("  {}", program.find()?.display());
    }
    Ok(Tally::ONE)
}

fn cargo_deny() -> Result<Tally> {
    tools::cargo_deny()?;
    Ok(Tally::ONE)
}

/// One file after the other.
fn run_of(scenarios: &[String], ready: bool) -> Result<Command> {
    ensure!(ready, "not run: they need what failed above");
    let mut run = cargo(&["test", "--workspace", "--no-fail-fast"]);
    run.args(named(scenarios));
    Ok(run)
}

/// `--test NAME` for each.
fn named<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    let names = names.into_iter();
    names.flat_map(|name| ["--test", name.as_str()]).collect()
}

/// The scenarios to run, told apart by what they need.
#[derive(Default)]
struct Scenarios {
    /// Need packages of the system at most.
    plain: Vec<String>,
    /// `kubernetes_*`: need the programs of Kubernetes.
    of_kubernetes: Vec<String>,
    /// Its Pods run our images. It takes as long as all those together, and waits
    /// most of the time, as they do: so they run at the same time.
    with_images: Vec<String>,
}

impl Scenarios {
    fn of(names: impl IntoIterator<Item = String>) -> Self {
        let mut scenarios = Self::default();
        for name in names {
            let group = match name.as_str() {
                "kubernetes_end_to_end" => &mut scenarios.with_images,
                name if name.starts_with("kubernetes_") => &mut scenarios.of_kubernetes,
                _ => &mut scenarios.plain,
            };
            group.push(name);
        }
        scenarios
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.plain
            .iter()
            .chain(&self.of_kubernetes)
            .chain(&self.with_images)
    }

    fn need_kubernetes(&self) -> bool {
        !(self.of_kubernetes.is_empty() && self.with_images.is_empty())
    }

    /// To build what is in the images takes minutes: by itself, so that it is
    /// seen, and not within a test that others wait for.
    fn need_images(&self) -> bool {
        !self.with_images.is_empty() && std::env::var_os("POOLKEEPER_IMAGES_DIR").is_none()
    }
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
    /// `NAME` of each `tests/NAME.rs` of another crate: golden files, and programs
    /// driven from outside.
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

    /// The scenarios called so; all of them if none is.
    fn scenarios(&self, only: &[String]) -> Result<Scenarios> {
        for name in only {
            ensure!(
                self.scenarios.contains(name),
                "no scenario is called {name}; there are: {}",
                self.scenarios.join(", ")
            );
        }
        let chosen = match only.is_empty() {
            true => &self.scenarios,
            false => only,
        };
        Ok(Scenarios::of(chosen.iter().cloned()))
    }

    /// Arguments that add the tests of every crate that compare with golden files.
    pub(crate) fn golden(&self) -> Vec<&str> {
        named(self.others.iter().filter(|name| *name == "golden"))
    }

    /// Arguments that add the integration tests of every crate but `tests`.
    pub(crate) fn beside_the_code(&self) -> Vec<&str> {
        named(&self.others)
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

    #[test]
    fn every_scenario_is_run_once_and_those_of_kubernetes_wait_for_its_programs() {
        let targets = Targets::read().unwrap();
        let scenarios = targets.scenarios(&[]).unwrap();
        let mut names: Vec<&String> = scenarios.all().collect();
        names.sort();
        assert_eq!(names, targets.scenarios.iter().collect::<Vec<_>>());
        for name in &scenarios.plain {
            let path = root().join(format!("tests/tests/{name}"));
            let modules = std::fs::read_dir(&path).into_iter().flatten();
            let files = modules.map(|entry| entry.unwrap().path());
            let files = files.chain([path.with_extension("rs")]);
            let text: String = files
                .map(|file| std::fs::read_to_string(file).unwrap())
                .collect();
            assert!(
                !text.contains("ControlPlane") && !text.contains("kubernetes::"),
                "{name} needs programs of Kubernetes: call it kubernetes_{name}"
            );
        }
    }

    #[test]
    fn a_scenario_that_is_chosen_prepares_what_it_needs_and_no_more() {
        let targets = Targets::read().unwrap();
        let chosen = |name: &str| targets.scenarios(&[name.to_owned()]).unwrap();
        assert!(!chosen("protocol").need_kubernetes());
        assert!(chosen("kubernetes_chart").need_kubernetes());
        assert!(!chosen("kubernetes_chart").need_images());
        assert!(chosen("kubernetes_end_to_end").need_kubernetes());
        let error = targets.scenarios(&["protocoll".to_owned()]).err().unwrap();
        assert!(error.to_string().contains("protocoll"), "{error}");
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
