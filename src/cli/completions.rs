//! `completions`: a script for the shell.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::output;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    // First into memory: `generate` panics where it cannot write.
    let mut script = Vec::new();
    generate(
        args.shell,
        &mut super::Args::command(),
        "drift-retention",
        &mut script,
    );
    output::bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
