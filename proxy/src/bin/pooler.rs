//! `pooler`: flags, configuration, run.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

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
    /// Become this system user after start-up, instead of the one of the setting `user`
    #[arg(short, long)]
    user: Option<String>,
    /// Not supported: run it under a supervisor instead (systemd, a container)
    #[arg(short, long)]
    daemon: bool,
    /// Not supported: start another pooler on the same port with so_reuseport = 1, then
    /// send SIGTERM to the old one
    #[arg(short = 'R', long)]
    reboot: bool,
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
    if flags.daemon {
        eprintln!(
            "-d is not supported: the pooler stays in the foreground. \
             Run it under a supervisor (systemd, a container), or as `setsid pooler FILE &`."
        );
        return ExitCode::FAILURE;
    }
    if flags.reboot {
        eprintln!(
            "-R is not supported: sessions do not move to another process. \
             Set so_reuseport = 1, start the new pooler beside the old one, and send SIGTERM to \
             the old one: it ends its sessions between transactions."
        );
        return ExitCode::FAILURE;
    }
    let Some(file) = flags.file else {
        return ExitCode::FAILURE;
    };
    let config = match pooler::check(&file, flags.user.as_deref()) {
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
    // Before the first thread, which the log is. Whoever is not listened to yet
    // has to be told on standard error.
    let user = flags.user.or(config.global.user.clone());
    if let Some(user) = user.filter(|user| !user.is_empty())
        && let Err(error) = pooler::become_user(&user)
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
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
    let telemetry = match telemetry::init(&options) {
        Ok(telemetry) => Arc::new(telemetry),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    match pooler::run(&file, config, Arc::downgrade(&telemetry)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "pooler not started");
            ExitCode::FAILURE
        }
    }
}
