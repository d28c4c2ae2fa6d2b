//! Container images made by hand: what is in them is on this machine.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Program, isolation::finish};
use crate::Scratch;

/// An image as a file, in the layout that `docker save` writes.
#[derive(Debug)]
pub struct Image {
    dir: Scratch,
}

/// What is in an image: arguments of `tar`, each a path or an option that says
/// where the paths after it are from.
pub(super) type Content = Vec<OsString>;

impl Image {
    /// What runs when a pod names no command; see `tests/kubernetes/pod`.
    pub const NAME: &'static str = "poolkeeper.dev/pod:1";

    /// Makes [`Self::NAME`] of [`Program::Pod`]: what holds a pod's namespaces
    /// (its `pause`), and an HTTP server and client for tests.
    ///
    /// # Errors
    /// When the program cannot be built, or `tar` fails.
    pub fn of_pod() -> Result<Self> {
        let config = json!({ "Entrypoint": ["/pod"], "Cmd": ["pause"] });
        Self::of_one(&[Self::NAME], "pod", &Program::Pod.find()?, &config)
    }

    fn of_one(names: &[&str], name: &str, program: &Path, config: &Value) -> Result<Self> {
        let dir = Scratch::new()?;
        let root = dir.path().join("root");
        fs::create_dir(&root)?;
        fs::copy(program, root.join(name))
            .with_context(|| format!("no program {}", program.display()))?;
        let content = vec!["-C".into(), root.into(), name.into()];
        Self::write(dir, names, &content, config)
    }

    /// Writes the file into `dir`; `config` is the image's, as Docker's API has it.
    pub(super) fn write(
        dir: Scratch,
        names: &[&str],
        content: &Content,
        config: &Value,
    ) -> Result<Self> {
        let image = Self { dir };
        let layer = image.path_of("layer.tar");
        finish(
            "tar",
            Command::new("tar")
                .args([
                    "--owner=0",
                    "--group=0",
                    "--mode=0755",
                    "--dereference",
                    "-cf",
                ])
                .arg(&layer)
                .args(content),
        )?;
        let described = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)] },
        });
        image.dir.write("config.json", &described.to_string())?;
        let manifest = json!([{
            "Config": "config.json",
            "RepoTags": names,
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

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = text.split_whitespace().next();
    Ok(digest.context("sha256sum printed nothing")?.to_owned())
}

/// What Go calls it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
