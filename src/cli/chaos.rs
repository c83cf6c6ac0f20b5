//! `chaos`: the crash lab, in builds with the feature of that name only.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};

use super::{
    demo::bin_dir,
    output::{self, say},
    stopping,
};
use crate::{
    chaos::{self, Options, RoundReport},
    humanize,
};

#[derive(Debug, clap::Args)]
pub(super) struct ChaosArgs {
    /// No round begins after this
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// No more rounds than this
    #[arg(long)]
    rounds: Option<u32>,
    /// The first round's seed; random unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Worker processes
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Organizations
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    orgs: u32,
    /// Do not start where no clock can be made to jump, for want of libfaketime
    #[arg(long)]
    need_clocks: bool,
    /// Where its Postgres and the logs are; one that does not exist is made, and removed when all went well
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn run(args: ChaosArgs) -> Result<ExitCode> {
    ensure!(
        !args.need_clocks || chaos::clocks_can_jump(),
        "libfaketime is not installed, and no clock can jump without it: `make faketime`, or leave --need-clocks out"
    );
    let dir = args.data_dir.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("drift-retention-chaos-{}", std::process::id()))
    });
    let is_new = !dir.exists();
    let options = Options {
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
    if !chaos::clocks_can_jump() {
        say!("libfaketime is not installed: no clock will jump.")?;
    }
    let stop = stopping::on_signal()?;
    let (mut rounds, mut printed) = (Vec::new(), Ok(()));
    chaos::run(&options, &stop, |round| {
        if printed.is_ok() {
            printed = print_round(rounds.len() + 1, round);
        }
        rounds.push(round.clone());
    })
    .await?;
    printed?;
    say!("\n{}", summary(&rounds))?;
    let broken: Vec<&RoundReport> = rounds
        .iter()
        .filter(|round| !round.violations.is_empty())
        .collect();
    for round in &broken {
        print_violations(round, &args)?;
    }
    if !broken.is_empty() {
        say!("\nThe database and the logs are in {}", dir.display())?;
        return Ok(ExitCode::FAILURE);
    }
    if is_new {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_round(number: usize, round: &RoundReport) -> Result<()> {
    say!("{}", line(number, round))?;
    say!("  {}", faults(round))?;
    for slow in &round.slow {
        say!("  waited for {slow}")?;
    }
    Ok(())
}

fn line(number: usize, round: &RoundReport) -> String {
    format!(
        "round {number} (seed {}): {:.0} s, {} faults, {} processes ({} ended by themselves), {} writes, {} runs, {} rows \
         purged, settled in {:.1} s, {} violations",
        round.seed,
        round.took.as_secs_f64(),
        round.faults.values().sum::<u32>(),
        round.processes,
        round.ended_on_their_own,
        round.writes,
        round.runs.values().sum::<i64>(),
        round.purged.values().sum::<i64>(),
        round.settled.as_secs_f64(),
        round.violations.len()
    )
}

fn faults(round: &RoundReport) -> String {
    let counts = round.faults.iter();
    let counts: Vec<String> = counts
        .map(|(kind, times)| format!("{times} × {kind}"))
        .collect();
    counts.join(", ")
}

/// All rounds together: faults, rows and runs by kind.
fn summary(rounds: &[RoundReport]) -> output::Table {
    let mut table = output::table(&["", "", "times"], 2);
    let faults = rounds.iter().flat_map(|round| &round.faults);
    let purged = rounds.iter().flat_map(|round| &round.purged);
    let runs = rounds.iter().flat_map(|round| &round.runs);
    let kinds = [
        (
            "fault",
            add(faults.map(|(kind, times)| (kind.to_string(), u64::from(*times)))),
        ),
        (
            "rows purged",
            add(purged.map(|(kind, rows)| (kind.clone(), rows.unsigned_abs()))),
        ),
        (
            "runs",
            add(runs.map(|(kind, runs)| (kind.clone(), runs.unsigned_abs()))),
        ),
    ];
    for (heading, counts) in kinds {
        for (kind, times) in counts {
            table.add_row([heading, &kind, &humanize::number(times)]);
        }
    }
    for (kind, times) in [
        ("rounds", rounds.len() as u64),
        (
            "processes",
            rounds.iter().map(|round| u64::from(round.processes)).sum(),
        ),
        ("writes", rounds.iter().map(|round| round.writes).sum()),
        (
            "violations",
            rounds
                .iter()
                .map(|round| round.violations.len() as u64)
                .sum(),
        ),
    ] {
        table.add_row(["in all", kind, &humanize::number(times)]);
    }
    table
}

fn add(counts: impl Iterator<Item = (String, u64)>) -> BTreeMap<String, u64> {
    counts.fold(BTreeMap::new(), |mut sums, (kind, times)| {
        *sums.entry(kind).or_default() += times;
        sums
    })
}

fn print_violations(round: &RoundReport, args: &ChaosArgs) -> Result<()> {
    for violation in &round.violations {
        say!(
            "\nVIOLATION {} ({} times)",
            violation.check,
            violation.times
        )?;
        for found in &violation.found {
            say!("  {found}")?;
        }
    }
    say!(
        "\nThis round again: drift-retention chaos --seed {} --rounds 1 --workers {} --orgs {}",
        round.seed,
        args.workers,
        args.orgs
    )?;
    Ok(())
}
