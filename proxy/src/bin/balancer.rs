//! `balancer`: spreads PostgreSQL connections over poolers.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use proxy::{balancer, telemetry};
use proxy_core::config::{
    Problem,
    balancer::{BalancerConfig, parse},
};

/// Spreads PostgreSQL connections over poolers, checks them, and shows how they are.
///
/// SIGTERM closes the port and waits up to 60 s for the sessions to end; a
/// second one, or SIGINT, ends at once. SIGHUP reloads targets, discovery, check,
/// algorithm, max_connections, reload_on_change and revision.
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

fn read(path: &std::path::Path) -> Result<BalancerConfig, Vec<Problem>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![Problem {
            file: file.clone(),
            line: 1,
            message: format!("cannot be read: {error}"),
        }]
    })?;
    parse(&file, &text)
}
