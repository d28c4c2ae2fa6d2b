//! `cargo xtask images`: static programs, each in an image of its own with
//! nothing beside it, as archives that any container runtime loads.

mod builder;
mod elf;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    calls::{cargo, check, root},
    stage::{Stages, Tally},
};
use builder::{Builder, Image};

/// A program that gets an image.
struct Program {
    name: &'static str,
    package: &'static str,
    /// As image labels tell it.
    description: &'static str,
    /// Promised in SPECIFICATION.md.
    size_max_mib: u64,
}

const PROGRAMS: [Program; 3] = [
    Program {
        name: "pooler",
        package: "proxy",
        description: "Shares PostgreSQL servers among clients",
        size_max_mib: 16,
    },
    Program {
        name: "balancer",
        package: "proxy",
        description: "Spreads PostgreSQL connections over poolers",
        size_max_mib: 16,
    },
    Program {
        name: "operator",
        package: "operator",
        description: "Runs connection tiers as PgPoolCluster objects describe them",
        size_max_mib: 40,
    },
];

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Where archives and lists of contents go.
    #[arg(long, value_name = "DIR", default_value = "target/images")]
    output: PathBuf,
    /// In front of the images' names, as images.registry of the chart.
    #[arg(long, value_name = "REGISTRY", default_value = "poolkeeper.dev")]
    registry: String,
    /// Their tag.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// release is what we ship; quick is built in minutes, for tests.
    #[arg(long, value_parser = ["release", "quick"], default_value = "release")]
    profile: String,
    /// For which machines: x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu.
    /// Another than this one's needs its Rust target and a linker for it.
    #[arg(long, value_name = "TRIPLE", default_value_t = host())]
    target: String,
}

fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// As images call it.
fn architecture(target: &str) -> Result<&'static str> {
    match target {
        "x86_64-unknown-linux-gnu" => Ok("amd64"),
        "aarch64-unknown-linux-gnu" => Ok("arm64"),
        _ => anyhow::bail!(
            "images are made for x86_64-unknown-linux-gnu and aarch64-unknown-linux-gnu, not for {target}"
        ),
    }
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let architecture = architecture(&flags.target)?;
    let output = root().join(&flags.output);
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    let mut stages = Stages::new();
    let mut builder = None;
    stages.run("what builds images", || {
        let found = Builder::find()?;
        println!("  {}", found.name());
        builder = Some(found);
        Ok(Tally::ONE)
    });
    let built = stages.run("static programs", || {
        check(&mut build(&flags.profile, &flags.target))?;
        measure(&flags.profile, &flags.target)
    });
    if let Some(builder) = builder
        && built
    {
        stages.run("images", || images(flags, architecture, &builder, &output));
        stages.run("lists of contents", || lists(flags, &output));
    }
    let sum = stages.finish();
    ensure!(sum.failed == 0, "not everything was made");
    Ok(())
}

/// Builds the programs of images for tests, where they are not current: of the
/// profile quick, for this machine. Finds what builds the images, too.
pub(crate) fn quick_programs() -> Result<Tally> {
    Builder::find()?;
    let target = host();
    check(build("quick", &target).arg("--quiet"))?;
    measure("quick", &target)
}

/// A folder of its own: static programs are of other flags, and nothing that is
/// built for tests can be used again.
fn target_dir() -> PathBuf {
    root().join("target/static")
}

fn program(profile: &str, target: &str, name: &str) -> PathBuf {
    target_dir().join(target).join(profile).join(name)
}

fn build(profile: &str, target: &str) -> Command {
    let mut build = cargo(&[
        "build",
        "--locked",
        "--package",
        "proxy",
        "--package",
        "operator",
    ]);
    build
        .args(["--bins", "--profile", profile, "--target", target])
        .env("CARGO_TARGET_DIR", target_dir())
        // With a target named, build scripts and macros do not get these.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Names stay for back traces; lines, which are most of the file, do not.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    build
}

/// Whether the programs are static, and no larger than promised.
fn measure(profile: &str, target: &str) -> Result<Tally> {
    for Program {
        name, size_max_mib, ..
    } in PROGRAMS
    {
        let path = program(profile, target, name);
        let bytes = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
        ensure!(
            elf::is_static(&bytes).context(name)?,
            "{name} asks for an interpreter, which an image from scratch has not"
        );
        let size = mebibytes(bytes.len() as u64);
        // What is built for tests is neither small nor shipped.
        ensure!(
            profile != "release" || bytes.len() as u64 <= size_max_mib << 20,
            "{name} has {size}, more than the {size_max_mib} MiB of SPECIFICATION.md"
        );
        println!("  {name}: static, {size}");
    }
    Ok(Tally::ONE)
}

fn images(flags: &Flags, architecture: &str, builder: &Builder, output: &Path) -> Result<Tally> {
    let context = tempfile::tempdir()?;
    for Program { name, .. } in PROGRAMS {
        let program = program(&flags.profile, &flags.target, name);
        fs::copy(program, context.path().join(name))?;
    }
    let (revision, time) = (
        git(&["rev-parse", "HEAD"])?,
        git(&["log", "-1", "--format=%ct"])?,
    );
    for Program {
        name, description, ..
    } in PROGRAMS
    {
        let image = Image {
            program: name,
            name: format!("{}/{name}:{}", flags.registry, flags.tag),
            platform: format!("linux/{architecture}"),
            labels: vec![
                ("title", format!("poolkeeper {name}")),
                ("description", description.to_owned()),
                ("version", flags.tag.clone()),
                ("revision", revision.clone()),
                ("licenses", "Apache-2.0".to_owned()),
                ("url", "https://poolkeeper.dev".to_owned()),
            ],
            time: time.clone(),
        };
        let archive = output.join(format!("{name}-{}-{architecture}.tar", flags.tag));
        builder.build(
            &image,
            &root().join("images/Dockerfile"),
            context.path(),
            &archive,
        )?;
        let size = fs::metadata(&archive)?.len();
        println!(
            "  {}: {}, {}",
            image.name,
            archive.display(),
            mebibytes(size)
        );
    }
    Ok(Tally::ONE)
}

fn lists(flags: &Flags, output: &Path) -> Result<Tally> {
    for Program { name, package, .. } in PROGRAMS {
        let list = sbom::of(name, package, &flags.target)?;
        let path = output.join(format!("{name}-{}.cdx.json", flags.tag));
        fs::write(&path, list.text)?;
        println!("  {}: {} crates", path.display(), list.crates);
    }
    Ok(Tally::ONE)
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root())
        .output()
        .context("git does not start")?;
    ensure!(
        output.status.success(),
        "git {} failed",
        arguments.join(" ")
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
