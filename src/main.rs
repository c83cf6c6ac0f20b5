//! Run the command.

use std::process::ExitCode;

use drift_retention::cli;

fn main() -> ExitCode {
    cli::run()
}
