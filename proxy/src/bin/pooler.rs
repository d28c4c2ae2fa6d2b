//! `pooler`: flags, configuration, run.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use proxy::{pooler, telemetry};
use proxy_core::config::LogFormat;

/// A PostgreSQL connection pooler that reads pgbouncer.ini.
#[derive(Debug, Parser)]
#[command(name = "pooler", disable_version_flag = true)]
struct Flags {
    /// Log warnings and errors only
    #[arg(short, long)]
    quiet: bool,
    /// Log more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print the version and exit
    #[arg(short = 'V', long)]
    version: bool,
    /// Check the configuration, print every problem, and exit without serving
    #[arg(long)]
    check: bool,
    /// The configuration file
    #[arg(required_unless_present = "version")]
    file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.version {
        println!("pooler (Poolkeeper) {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let Some(file) = flags.file else {
        return ExitCode::FAILURE;
    };
    let config = match pooler::check(&file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if flags.check {
        for warning in &config.warnings {
            eprintln!("{warning}");
        }
        println!("{}: configuration is valid", file.display());
        return ExitCode::SUCCESS;
    }
    let options = telemetry::Options {
        quiet: flags.quiet,
        verbosity: flags
            .verbose
            .max(u8::try_from(config.global.verbose).unwrap_or(u8::MAX)),
        format: match config.global.log_format {
            LogFormat::Text => telemetry::Format::Text,
            LogFormat::Json => telemetry::Format::Json,
        },
        logfile: config
            .global
            .logfile
            .clone()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
    };
    let _telemetry = match telemetry::init(&options) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    match pooler::run(&file, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "pooler not started");
            ExitCode::FAILURE
        }
    }
}
