//! `completions`: a script for the shell.

use std::{io, process::ExitCode};

use clap::CommandFactory;
use clap_complete::{Shell, generate};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    generate(
        args.shell,
        &mut super::Args::command(),
        "drift-retention",
        &mut io::stdout(),
    );
    ExitCode::SUCCESS
}
