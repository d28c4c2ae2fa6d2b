//! buildah or docker: whichever the machine has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{calls::root, packages};

/// What builds.
pub(super) enum Builder {
    /// Needs no daemon; with stores of its own, so that nothing of ours is left
    /// among the images of the machine.
    Buildah {
        /// Images and layers.
        store: PathBuf,
    },
    /// A daemon answers.
    Docker,
}

/// An image to be.
pub(super) struct Image<'a> {
    /// The stage of the Dockerfile, and the program in it.
    pub(super) program: &'a str,
    /// Registry, name and tag.
    pub(super) name: String,
    /// linux/amd64.
    pub(super) platform: String,
    /// Labels of org.opencontainers.image, without that.
    pub(super) labels: Vec<(&'static str, String)>,
    /// When it is said to have been made, in Unix seconds: with the commit's time,
    /// the same programs make the same image.
    pub(super) time: String,
}

impl Builder {
    /// Finds one; installs buildah if there is none and we may.
    pub(super) fn find() -> Result<Self> {
        if docker_serves() && !buildah_runs() {
            return Ok(Self::Docker);
        }
        if !buildah_runs() {
            packages::install(packages::For::Images)?;
        }
        ensure!(buildah_runs(), "neither docker nor buildah runs here");
        Ok(Self::Buildah {
            store: root().join("target/images-store"),
        })
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Buildah { .. } => "buildah",
            Self::Docker => "docker",
        }
    }

    /// Builds an image and writes it to an archive of docker's format.
    pub(super) fn build(
        &self,
        image: &Image<'_>,
        dockerfile: &Path,
        context: &Path,
        archive: &Path,
    ) -> Result<()> {
        // An archive that is there would get a second image.
        match fs::remove_file(archive) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("cannot replace {}: {error}", archive.display())
            }
            _ => {}
        }
        let mut build = self.command();
        match self {
            Self::Buildah { .. } => build
                .args(["build", "--isolation", "chroot", "--layers=false"])
                .args(["--timestamp", &image.time]),
            Self::Docker => build
                .arg("build")
                // BuildKit, also where it is not yet what builds; no second image
                // that says how the first was made.
                .env("DOCKER_BUILDKIT", "1")
                .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
                .env("SOURCE_DATE_EPOCH", &image.time),
        };
        build.args(["--target", image.program, "--platform", &image.platform]);
        for (key, value) in &image.labels {
            build.arg("--label");
            build.arg(format!("org.opencontainers.image.{key}={value}"));
        }
        build.args(["--tag", &image.name, "--file"]);
        run(build.arg(dockerfile).arg(context))?;
        let mut save = self.command();
        match self {
            Self::Buildah { .. } => save.args(["push", &image.name]).arg(format!(
                "docker-archive:{}:{}",
                archive.display(),
                image.name
            )),
            Self::Docker => save
                .arg("save")
                .arg("--output")
                .arg(archive)
                .arg(&image.name),
        };
        run(&mut save)
    }

    fn command(&self) -> Command {
        match self {
            Self::Buildah { store } => {
                let mut command = Command::new("buildah");
                command.args(["--storage-driver", "vfs", "--root"]);
                command.arg(store.join("root")).arg("--runroot");
                command.arg(store.join("run"));
                command
            }
            Self::Docker => Command::new("docker"),
        }
    }
}

impl Drop for Builder {
    /// The archives have everything.
    fn drop(&mut self) {
        if let Self::Buildah { store } = self {
            let _ = fs::remove_dir_all(store);
        }
    }
}

/// Says something only if it fails.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} does not start"))?;
    ensure!(
        output.status.success(),
        "{program} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn answers(program: &str, argument: &str) -> bool {
    let quiet = Stdio::null;
    Command::new(program)
        .arg(argument)
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .status()
        .is_ok_and(|status| status.success())
}

fn buildah_runs() -> bool {
    answers("buildah", "--version")
}

/// The client alone builds nothing.
fn docker_serves() -> bool {
    answers("docker", "info")
}
