//! Stages: what is being done, how long it took, how it ended.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// What a stage found: how many checks held and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// A stage that is one check.
    pub(crate) const ONE: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
}

struct Done {
    name: String,
    tally: Tally,
    took: Duration,
}

/// Runs stages one after the other and keeps account.
pub(crate) struct Stages {
    started: Instant,
    done: Vec<Done>,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Runs one stage; an error is one failed check, told at once.
    ///
    /// Returns whether everything in it held.
    pub(crate) fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<Tally>) -> bool {
        println!("\n=== {name}");
        let started = Instant::now();
        let tally = stage().unwrap_or_else(|error| {
            println!("  error: {error:#}");
            Tally {
                failed: 1,
                ..Tally::default()
            }
        });
        let took = started.elapsed();
        let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
        println!("--- {name}: {verdict} in {}", seconds(took));
        self.done.push(Done {
            name: name.to_owned(),
            tally,
            took,
        });
        tally.failed == 0
    }

    /// Prints the account; its last line is the one that CI reads.
    pub(crate) fn finish(self) -> Tally {
        println!();
        let mut sum = Tally::default();
        for Done { name, tally, took } in &self.done {
            let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
            println!(
                "{verdict:<7}{:>7}  {name} ({} passed, {} failed)",
                seconds(*took),
                tally.passed,
                tally.failed
            );
            sum.passed += tally.passed;
            sum.failed += tally.failed;
            sum.skipped += tally.skipped;
        }
        println!("{:>14}  in all\n", seconds(self.started.elapsed()));
        match sum.skipped {
            0 => println!("{} passed, {} failed", sum.passed, sum.failed),
            skipped => println!(
                "{} passed, {} failed, {skipped} skipped",
                sum.passed, sum.failed
            ),
        }
        sum
    }
}

/// `12.3 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in the repository's root")
        .to_owned()
}

/// `cargo`, the one that runs us, in the repository's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    // What cargo told us of ourselves is not for other crates: ring's build
    // script would see it change, and everything above ring be built anew each
    // time somebody alternates between cargo and cargo xtask.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ];
        if ours.iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command whose output goes to the terminal; false if it fails.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{} does not start", command.get_program().to_string_lossy()))?;
    Ok(status.success())
}

/// Runs a command that is one check.
pub(crate) fn check(command: &mut Command) -> Result<Tally> {
    anyhow::ensure!(
        succeeds(command)?,
        "{} {} failed",
        command.get_program().to_string_lossy(),
        command
            .get_args()
            .map(|argument| argument.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    );
    Ok(Tally::ONE)
}

/// Runs `cargo test …`, passes its output on, and adds up its result lines.
///
/// A run that ends badly without a failed test (it does not compile, a test
/// process died) is one failure.
pub(crate) fn cargo_test(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || forward(stdout, &sender));
    let mut tally = Tally::default();
    for line in lines {
        println!("{line}");
        add_result(&line, &mut tally);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!("  cargo test ended with {status}");
        tally.failed = 1;
    }
    Ok(tally)
}

fn forward(output: impl Read, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// Adds libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …` to `tally`.
fn add_result(line: &str, tally: &mut Tally) {
    let Some((_, counts)) = line
        .strip_prefix("test result: ")
        .and_then(|rest| rest.split_once(". "))
    else {
        return;
    };
    for part in counts.split("; ") {
        let Some((number, what)) = part.split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match what {
            "passed" => tally.passed += number,
            "failed" => tally.failed += number,
            "ignored" => tally.skipped += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.1s",
            "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2s",
        ] {
            add_result(line, &mut tally);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 8,
                failed: 2,
                skipped: 1
            }
        );
    }

    #[test]
    fn a_run_that_dies_without_a_result_is_a_failure() {
        let mut command = Command::new("false");
        assert_eq!(cargo_test(&mut command).unwrap().failed, 1);
    }
}
