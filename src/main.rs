//! Parse, start logging, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use drift_retention::{cli, telemetry::logs};

fn main() -> ExitCode {
    let args = cli::Args::parse();
    logs::init(args.default_log_level());
    cli::run(args)
}
