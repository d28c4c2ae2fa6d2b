//! `balancer`: spreads PostgreSQL connections over poolers.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use proxy::{balancer, telemetry};
use proxy_core::config::{
    Problem,
    balancer::{BalancerConfig, load},
};

/// Spreads PostgreSQL connections over poolers, checks them, and shows how they are.
///
/// SIGTERM closes the port and waits up to drain_timeout for the sessions to end; a
/// second one, or SIGINT, ends at once. SIGHUP reloads all but frontends, http and
/// threads.
#[derive(Debug, Parser)]
#[command(name = "balancer", version, disable_version_flag = true)]
struct Flags {
    /// Log nothing to stderr.
    #[arg(short, long)]
    quiet: bool,
    /// Log more: -v what happens to connections and checks, -vv everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print the version.
    #[arg(short = 'V', long = "version", action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Validate the configuration, print every problem as FILE:LINE: message, and end.
    #[arg(long)]
    check: bool,
    /// The configuration, YAML.
    #[arg(value_name = "FILE.yaml")]
    file: PathBuf,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match read(&flags.file) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return ExitCode::FAILURE;
        }
    };
    if flags.check {
        return ExitCode::SUCCESS;
    }
    match serve(&flags, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("balancer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(flags: &Flags, config: BalancerConfig) -> anyhow::Result<()> {
    let _telemetry = telemetry::init(&telemetry::Options {
        quiet: flags.quiet,
        verbosity: flags.verbose,
        ..telemetry::Options::default()
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(balancer::run(config, &flags.file, || read(&flags.file)));
    // Not a thread that is stuck may keep the process.
    runtime.shutdown_background();
    ended.map_err(|error| match error.hint() {
        "" => error.into(),
        hint => anyhow::anyhow!("{error}. {hint}"),
    })
}

fn read(path: &Path) -> Result<BalancerConfig, Vec<Problem>> {
    load(path, &mut |path| std::fs::read_to_string(path))
}
