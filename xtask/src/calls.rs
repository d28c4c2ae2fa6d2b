//! How cargo and other programs are called, and how what tests say is read.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::stage::Tally;

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
    test_run(command, |line| println!("{line}"))
}

/// As [`cargo_test`], where another speaks at the same time: what a test process
/// says is passed on when it has said all.
pub(crate) fn cargo_test_by_blocks(command: &mut Command) -> Result<Tally> {
    let mut said = String::new();
    let tally = test_run(command, |line| {
        said.push_str(line);
        said.push('\n');
        if line.starts_with(RESULT) {
            println!("{}", std::mem::take(&mut said));
        }
    });
    print!("{said}");
    tally
}

fn test_run(command: &mut Command, mut say: impl FnMut(&str)) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        say(&line);
        add_result(&line, &mut tally);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        say(&format!("  cargo test ended with {status}"));
        tally.failed = 1;
    }
    Ok(tally)
}

/// How libtest begins its last line.
const RESULT: &str = "test result: ";

/// Adds libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …` to `tally`.
fn add_result(line: &str, tally: &mut Tally) {
    let Some((_, counts)) = line
        .strip_prefix(RESULT)
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
