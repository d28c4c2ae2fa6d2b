//! The commands that people and CI both run: `cargo xtask test` and its siblings.

mod bench;
mod calls;
mod cluster;

mod demo;
mod generate;
mod images;
mod links;
mod packages;
mod stage;
mod test;
#[cfg(test)]
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check: formatting, lints, tests, documentation, licences.
    Test(test::Flags),
    /// See the whole tier on this machine: under load, and when a pooler dies.
    Demo(demo::Flags),
    /// Compare the pooler with PgBouncer and the balancer with HAProxy, side by side.
    Bench(bench::Flags),
    /// A Kubernetes cluster of one node on this machine, without Docker.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Build the images: static programs, from scratch, with lists of what is in them.
    Images(images::Flags),
    /// Write everything that is generated: golden files, reference pages, the CRD, the chart's copies.
    Generate,
}

fn main() -> ExitCode {
    let result = match Flags::parse().command {
        Command::Test(flags) => test::run(&flags),
        Command::Demo(flags) => demo::run(&flags),
        Command::Bench(flags) => bench::run(&flags),
        Command::Images(flags) => images::run(&flags),
        Command::Cluster(command) => cluster::run(&command),
        Command::Generate => generate::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
