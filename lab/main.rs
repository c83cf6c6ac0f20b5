//! The crash lab runs the product's processes on a Postgres of its own while everything around them fails.
//!
//! The lab works in rounds (`round`). A round creates a database, lets the main app write while faults strike, repairs
//! everything and has every organization purged. Then it asks the oracle (`oracle`) whether the product kept each
//! promise of `docs/promises.md`. The oracle reads a journal that triggers write in the transactions they record. It
//! shares no code with the product. The same seed makes the same choices, but the machine may time them differently.
//!
//! The lab is for development and is never shipped: cargo builds it only with the feature `chaos`.
#![allow(
    clippy::disallowed_methods,
    reason = "the lab's tables do not exist when it is compiled, and no rule of the product's code depends on it"
)]

mod faults;
mod oracle;
mod processes;
mod program;
mod proxy;
mod report;
mod round;
mod rounds;
mod server;
#[cfg(test)]
mod tests;
mod writers;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Parser;
use drift_retention::{cli::stopping, telemetry::logs};

use crate::{processes::faketime, report::say, rounds::Options};

/// Runs the product while everything around it fails, and checks that it keeps its promises.
#[derive(Debug, Parser)]
#[command(name = "lab", version, max_term_width = 80)]
struct Args {
    /// Start no round after this time
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Run at most this many rounds
    #[arg(long)]
    rounds: Option<u32>,
    /// The first round's seed; random by default
    #[arg(long)]
    seed: Option<u64>,
    /// Number of worker processes
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Number of organizations
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    orgs: u32,
    /// Refuse to start where libfaketime is not installed and no clock can jump
    #[arg(long)]
    need_clocks: bool,
    /// Directory of the lab's Postgres and of the logs; a new one is removed when no promise was broken
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logs::init("off", None);
    run(args).await.unwrap_or_else(|error| {
        // If stderr is closed, nobody can be told.
        let _ = writeln!(io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(args: Args) -> Result<ExitCode> {
    ensure!(
        !args.need_clocks || faketime().is_some(),
        "libfaketime is not installed, so no clock can jump: run `make faketime`, or leave out --need-clocks"
    );
    let dir = args.data_dir.unwrap_or_else(|| {
        std::env::temp_dir().join(format!("drift-retention-lab-{}", std::process::id()))
    });
    let is_new = !dir.exists();
    let options = Options {
        program: program::find()?,
        duration: args.duration,
        rounds: args.rounds,
        seed: args
            .seed
            .unwrap_or_else(|| u64::from(rand::random::<u32>())),
        workers: args.workers,
        organizations: args.orgs,
        dir: dir.clone(),
        bin_dir: bin_dir(),
    };
    say!("Seed {}, in {}", options.seed, dir.display())?;
    if faketime().is_none() {
        say!("libfaketime is not installed: no clock will jump.")?;
    }
    let stop = stopping::on_signal()?;
    let (mut rounds, mut printed) = (Vec::new(), Ok(()));
    rounds::run(&options, &stop, |round| {
        if printed.is_ok() {
            printed = report::print_round(rounds.len() + 1, round);
        }
        rounds.push(round.clone());
    })
    .await?;
    printed?;
    report::print_summary(&rounds)?;
    let mut is_kept = true;
    for round in rounds.iter().filter(|round| !round.violations.is_empty()) {
        report::print_violations(round, &options)?;
        is_kept = false;
    }
    if !is_kept {
        say!("\nThe database and the logs are in {}", dir.display())?;
        return Ok(ExitCode::FAILURE);
    }
    if is_new {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The directory of the server's programs, if `PG_BIN_DIR` names one.
fn bin_dir() -> Option<PathBuf> {
    std::env::var_os("PG_BIN_DIR")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod documented {
    use super::Args;
    use clap::Parser;

    #[test]
    fn options_in_the_documents_and_the_makefile_are_the_labs() {
        let texts = [
            include_str!("../docs/operations.md"),
            &include_str!("../Makefile").replace("\t$(LAB) ", "--bin lab -- "),
        ];
        let lines = texts.iter().flat_map(|text| text.lines());
        let options = lines.filter_map(|line| line.split_once("--bin lab -- "));
        let mut tried = 0;
        for (_, options) in options {
            let words = options.split(' ').filter(|word| !word.starts_with('$'));
            let parsed = Args::try_parse_from(std::iter::once("lab").chain(words));
            assert!(parsed.is_ok(), "{options}: {}", parsed.unwrap_err());
            tried += 1;
        }
        assert!(tried >= 4, "only {tried} commands were found");
    }
}
