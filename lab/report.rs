//! The report of a round, and what the lab prints about it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use drift_retention::humanize;

use crate::{oracle::Violation, rounds::Options};

/// Prints a line, and returns an error where `println!` panics: the lab must still stop its server.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::report::line(&format!($($text)*))
    };
}
pub(crate) use say;

pub(crate) fn line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// The result of one round.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoundReport {
    /// The seed that repeats the round.
    pub(crate) seed: u64,
    /// The number of faults, by kind.
    pub(crate) faults: BTreeMap<&'static str, u32>,
    /// Processes of the product that the lab started.
    pub(crate) processes: u32,
    /// Processes that ended although the lab had not stopped them.
    pub(crate) ended_by_themselves: u32,
    /// Transactions of the main app that committed.
    pub(crate) writes: u64,
    /// Purged rows, by table.
    pub(crate) purged: BTreeMap<String, i64>,
    /// Runs, by how they ended.
    pub(crate) runs: BTreeMap<String, i64>,
    /// Time from the end of the last fault until every run was final.
    pub(crate) settled: Duration,
    /// The runs for which the lab waited long.
    pub(crate) slow: Vec<String>,
    /// Time from the round's start to its end.
    pub(crate) took: Duration,
    /// The promises that the product broke.
    pub(crate) violations: Vec<Violation>,
}

pub(crate) fn print_round(number: usize, round: &RoundReport) -> io::Result<()> {
    say!("{}", heading(number, round))?;
    say!("  {}", faults(round))?;
    for slow in &round.slow {
        say!("  waited for {slow}")?;
    }
    Ok(())
}

fn heading(number: usize, round: &RoundReport) -> String {
    format!(
        "round {number} (seed {}): {:.0} s, {} faults, {} processes ({} ended by themselves), {} writes, {} runs, {} rows \
         purged, settled in {:.1} s, {} violations",
        round.seed,
        round.took.as_secs_f64(),
        round.faults.values().sum::<u32>(),
        round.processes,
        round.ended_by_themselves,
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

/// Prints the sums over all rounds: faults, rows and runs by kind.
pub(crate) fn print_summary(rounds: &[RoundReport]) -> io::Result<()> {
    let faults = rounds.iter().flat_map(|round| &round.faults);
    let purged = rounds.iter().flat_map(|round| &round.purged);
    let runs = rounds.iter().flat_map(|round| &round.runs);
    let total = |number: fn(&RoundReport) -> u64| rounds.iter().map(number).sum();
    let totals = [
        ("rounds", rounds.len() as u64),
        ("processes", total(|round| u64::from(round.processes))),
        ("writes", total(|round| round.writes)),
        ("violations", total(|round| round.violations.len() as u64)),
    ];
    let groups = [
        (
            "fault",
            add(faults.map(|(kind, times)| (kind.to_string(), u64::from(*times)))),
        ),
        (
            "rows purged",
            add(purged.map(|(table, rows)| (table.clone(), rows.unsigned_abs()))),
        ),
        (
            "runs",
            add(runs.map(|(ending, runs)| (ending.clone(), runs.unsigned_abs()))),
        ),
        (
            "total",
            totals.map(|(kind, times)| (kind.to_owned(), times)).into(),
        ),
    ];
    say!("")?;
    for (group, counts) in groups {
        for (kind, times) in counts {
            say!("{group:<12} {kind:<34} {:>12}", humanize::number(times))?;
        }
    }
    Ok(())
}

fn add(counts: impl Iterator<Item = (String, u64)>) -> BTreeMap<String, u64> {
    counts.fold(BTreeMap::new(), |mut sums, (kind, times)| {
        *sums.entry(kind).or_default() += times;
        sums
    })
}

/// Prints what the oracle found in a round, and how to repeat the round.
pub(crate) fn print_violations(round: &RoundReport, options: &Options) -> io::Result<()> {
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
        "\nRepeat this round: {} --seed {} --rounds 1 --workers {} --orgs {}",
        options.program.with_file_name("lab").display(),
        round.seed,
        options.workers,
        options.organizations
    )
}
