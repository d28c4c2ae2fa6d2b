//! Calls of kubectl and helm, with a limit, and with nothing of their caller's
//! own set-up.

use std::{
    env,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    process::{self, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::Program;
use crate::Scratch;

/// Runs `kubectl` with a kubeconfig, and `input` as what it reads.
///
/// # Errors
/// When it fails, with what it complained of; or after two minutes.
pub fn kubectl(kubeconfig: &Path, arguments: &[&str], input: Option<&str>) -> Result<String> {
    run(Program::Kubectl, Some(kubeconfig), arguments, input)
}

/// Runs `helm`, with a cluster or (to lint, to print what a chart renders) with none.
///
/// # Errors
/// As [`kubectl`].
pub fn helm(kubeconfig: Option<&Path>, arguments: &[&str]) -> Result<String> {
    run(Program::Helm, kubeconfig, arguments, None)
}

/// Runs lines of shell as somebody would who sits in the folder of this project
/// and has helm, kubectl and a cluster, and returns what they printed. The first
/// that fails is the last.
///
/// # Errors
/// When one fails, with everything that was printed; or after ten minutes.
pub fn shell(kubeconfig: &Path, lines: &str) -> Result<String> {
    let home = Scratch::new()?;
    let mut path = home.path().as_os_str().to_owned();
    for program in [Program::Helm, Program::Kubectl] {
        symlink(program.find()?, home.path().join(program.name()))?;
    }
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let output = Command::new("timeout")
        .args(["--kill-after=1", "600", "sh", "-exc", lines])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("PATH", path)
        .env("HOME", home.path())
        .env("KUBECONFIG", kubeconfig)
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .stdin(Stdio::null())
        .output()
        .context("no shell starts")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    ensure!(
        output.status.success(),
        "it ended with {}:\n{said}{complaint}",
        output.status
    );
    Ok(said)
}

fn run(
    program: Program,
    kubeconfig: Option<&Path>,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String> {
    let what = format!("{} {}", program.name(), arguments.join(" "));
    let mut command = call(program, kubeconfig)?;
    command.args(arguments);
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("{what} does not start"))?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        // One that ends before it has read all says why on standard error.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    printed(&what, &output)
}

/// Longer than any call of ours takes on a busy machine.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// A command that runs a program for at most two minutes, with the cluster that
/// `kubeconfig` describes, or none, and nothing of the caller's own set-up.
fn call(program: Program, kubeconfig: Option<&Path>) -> Result<Command> {
    let kubeconfig = kubeconfig.unwrap_or(Path::new("/dev/null"));
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=1", &CALL_LIMIT.as_secs().to_string()])
        .arg(program.find()?)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", "/proc/none")
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        // What the server offers is asked anew each time: a resource that was
        // made a moment ago would not be in what kubectl remembers.
        .env("KUBECACHEDIR", "/proc/none")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// What a finished call printed, or an error with what it complained of.
fn printed(what: &str, output: &process::Output) -> Result<String> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() != Some(124),
        "{what} had not ended after {CALL_LIMIT:?}: {}",
        complaint.trim()
    );
    ensure!(
        output.status.success(),
        "{what} ended with {}: {}",
        output.status,
        complaint.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
