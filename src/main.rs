//! Parse, and run the command.

use std::process::ExitCode;

use clap::Parser;
use drift_retention::cli;

fn main() -> ExitCode {
    cli::run(cli::Args::parse())
}
