//! `completions`: prints a completion script for a shell.

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
    // Write to memory first, because `generate` panics if it cannot write.
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
