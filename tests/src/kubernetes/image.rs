//! A container image made by hand: one static program and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;

use super::{Program, isolation::finish};
use crate::Scratch;

/// An image as a file, in the layout that `docker save` writes.
#[derive(Debug)]
pub struct Image {
    dir: Scratch,
}

impl Image {
    /// What runs when a pod names no command; see `tests/kubernetes/pod`.
    pub const NAME: &'static str = "poolkeeper.dev/pod:1";

    /// Makes [`Self::NAME`] of [`Program::Pod`]: what holds a pod's namespaces
    /// (its `pause`), and an HTTP server and client for tests.
    ///
    /// # Errors
    /// When the program cannot be built, or `tar` fails.
    pub fn of_pod() -> Result<Self> {
        let image = Self {
            dir: Scratch::new()?,
        };
        let root = image.path_of("root");
        fs::create_dir(&root)?;
        fs::copy(Program::Pod.find()?, root.join("pod"))?;
        tar(&root, "pod", &image.path_of("layer.tar"))?;
        let layer = sha256(&image.path_of("layer.tar"))?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": ["/pod"], "Cmd": ["pause"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        });
        image.dir.write("config.json", &config.to_string())?;
        let manifest = json!([{
            "Config": "config.json",
            "RepoTags": [Self::NAME],
            "Layers": ["layer.tar"],
        }]);
        image.dir.write("manifest.json", &manifest.to_string())?;
        finish(
            "tar",
            Command::new("tar")
                .arg("-cf")
                .arg(image.path())
                .arg("-C")
                .arg(image.dir.path())
                .args(["manifest.json", "config.json", "layer.tar"]),
        )?;
        Ok(image)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path_of("image.tar")
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn tar(root: &Path, what: &str, to: &Path) -> Result<()> {
    finish(
        "tar",
        Command::new("tar")
            .args(["--owner=0", "--group=0", "--mode=0755", "-cf"])
            .arg(to)
            .arg("-C")
            .arg(root)
            .arg(what),
    )
}

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = text.split_whitespace().next();
    Ok(digest.context("sha256sum printed nothing")?.to_owned())
}

/// What Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
