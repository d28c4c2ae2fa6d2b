//! The images that we ship, but for the profile: `cargo xtask images` makes them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use super::{image::architecture, isolation::finish};
use crate::Scratch;

/// An archive for each of them.
#[derive(Debug)]
pub struct ShippedImages {
    folder: PathBuf,
}

/// What an archive holds.
#[derive(Debug)]
pub struct ShippedImage {
    /// Its one entry in manifest.json.
    pub manifest: Json,
    /// The image's configuration, as Docker's API has it.
    pub config: Json,
    /// What is in its layers: `-r-xr-xr-x 0/0 ... pooler`, as `tar` lists it.
    pub files: Vec<String>,
}

impl ShippedImages {
    /// The programs that have an image.
    pub const PROGRAMS: [&'static str; 3] = ["pooler", "balancer", "operator"];

    /// Makes them of the profile quick. `POOLKEEPER_IMAGES_DIR` names a folder with
    /// others, from the root of this project: those of a release, for example. Then
    /// nothing is built.
    ///
    /// # Errors
    /// When they cannot be built, with what was said.
    pub fn make() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        if let Some(folder) = env::var_os("POOLKEEPER_IMAGES_DIR") {
            let folder = root.join(folder);
            return Ok(Self { folder });
        }
        let folder = root.join("target/images/quick");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["xtask", "images", "--profile", "quick", "--output"])
            .arg(&folder)
            .current_dir(&root)
            .stdin(Stdio::null());
        finish("cargo xtask images", &mut command)?;
        Ok(Self { folder })
    }

    /// What the chart takes for a program.
    #[must_use]
    pub fn name(program: &str) -> String {
        format!("poolkeeper.dev/{program}:{}", env!("CARGO_PKG_VERSION"))
    }

    /// The file of a program's image.
    #[must_use]
    pub fn archive(&self, program: &str) -> PathBuf {
        let version = env!("CARGO_PKG_VERSION");
        self.folder
            .join(format!("{program}-{version}-{}.tar", architecture()))
    }

    /// Looks into the archive of a program's image.
    ///
    /// # Errors
    /// When it is not there, or not in the layout of `docker save`.
    pub fn read(&self, program: &str) -> Result<ShippedImage> {
        let dir = Scratch::new()?;
        let archive = self.archive(program);
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(&archive).arg("-C").arg(dir.path());
        finish(&format!("reading {}", archive.display()), &mut unpack)?;
        let read = |name: &str| -> Result<Json> {
            let text = fs::read(dir.path().join(name)).with_context(|| format!("no {name}"))?;
            Ok(serde_json::from_slice(&text)?)
        };
        let images = read("manifest.json")?;
        let images = images.as_array().context("manifest.json is no list")?;
        ensure!(images.len() == 1, "images: {images:?}");
        let manifest = images[0].clone();
        let config = manifest["Config"].as_str().context("it has no Config")?;
        let mut files = Vec::new();
        for layer in manifest["Layers"].as_array().into_iter().flatten() {
            let layer = layer.as_str().context("a layer has no name")?;
            let list = Command::new("tar")
                .args(["--numeric-owner", "-tvf"])
                .arg(dir.path().join(layer))
                .output()?;
            ensure!(list.status.success(), "tar cannot read layer {layer}");
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            files.extend(list.lines().map(str::to_owned));
        }
        Ok(ShippedImage {
            config: read(config)?,
            manifest,
            files,
        })
    }
}
