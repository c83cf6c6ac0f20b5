//! How fast the purge is, how much it costs where nothing is due, and what the main app feels of it: `make bench`.
//!
//! A Postgres of its own, seeded databases, contestants that take turns on copies of them, and a report with tables and
//! plots. `cargo bench --bench retention -- --help` lists what can be chosen.
#![allow(clippy::print_stdout, reason = "a bench says how far it is")]

mod compare;
mod contestants;
mod machine;
mod main_app;
mod measures;
mod plot;
mod profiles;
mod report;
mod seed;
mod server;
mod sql;
mod verify;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    contestants::Contestant,
    machine::Machine,
    measures::float,
    profiles::{cold, foreground, growth, huge, idle, loaded, nights, processes, usual},
    report::{Circumstances, Section},
    server::Server,
};

/// Measures the purge.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Profile::value_variants().to_vec())]
    profile: Vec<Profile>,
    /// Sizes, relative to the full ones
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The size of growth's ×1, relative to the scale
    #[arg(long, default_value_t = 0.1)]
    pub(crate) growth_scale: f64,
    /// How often each contestant purges [default: 3; 5 where one round differs from the next by more than what is measured]
    #[arg(long)]
    rounds: Option<usize>,
    /// Where the report and its plots go
    #[arg(long, default_value = "docs")]
    out: PathBuf,
    /// Where the server's data goes, below; it must be reachable by the user `postgres` [default: a temporary directory]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Another build of the product
    #[arg(long, default_value = env!("CARGO_BIN_EXE_drift-retention"))]
    binary: PathBuf,
    /// Keep the server's data
    #[arg(long)]
    pub(crate) keep: bool,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How often each contestant purges, …
const ROUNDS: usize = 3;
/// … and how often where one round differs from the next by more than what is measured.
const MANY_ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Half of everything is expired
    Loaded,
    /// The data of loaded, on a copy that nobody has read
    Cold,
    /// Nothing is due
    Idle,
    /// A day's rows are due of nearly everybody
    Usual,
    /// One huge organization beside small ones
    Huge,
    /// Loaded and idle at ×1, ×4 and ×16
    Growth,
    /// What the main app feels meanwhile
    Foreground,
    /// Sizes of tables and indexes over thirty nights
    Nights,
    /// Several worker processes on one Postgres
    Processes,
}

/// What every profile needs.
pub(crate) struct Bench {
    pub(crate) args: Arguments,
    pub(crate) server: Server,
    /// The machine's.
    pub(crate) cores: usize,
}

impl Bench {
    /// A size at this scale.
    pub(crate) fn scaled(&self, full: u64) -> u64 {
        scaled(full, self.args.scale)
    }

    /// How often each contestant purges.
    pub(crate) fn rounds(&self) -> usize {
        self.args.rounds.unwrap_or(ROUNDS)
    }

    /// The same in the profiles that one round says little of.
    pub(crate) fn many_rounds(&self) -> usize {
        self.args.rounds.unwrap_or(MANY_ROUNDS)
    }

    /// The product.
    pub(crate) fn ours(&self) -> Contestant {
        Contestant::Ours(self.args.binary.clone())
    }

    /// The product, as somebody asks for a purge of all organizations.
    pub(crate) fn ours_all(&self) -> Contestant {
        Contestant::OursAll(self.args.binary.clone())
    }

    async fn profile(&self, profile: Profile) -> Result<Section> {
        match profile {
            Profile::Loaded => loaded::measure(self).await,
            Profile::Cold => cold::measure(self).await,
            Profile::Idle => idle::measure(self).await,
            Profile::Usual => usual::measure(self).await,
            Profile::Huge => huge::measure(self).await,
            Profile::Growth => growth::measure(self).await,
            Profile::Foreground => foreground::measure(self).await,
            Profile::Nights => nights::measure(self).await,
            Profile::Processes => processes::measure(self).await,
        }
    }
}

/// A part of a full size, at least one.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are small and positive"
)]
pub(crate) fn scaled(full: u64, scale: f64) -> u64 {
    ((float(full) * scale).round() as u64).max(1)
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Arguments::parse();
    let began = Instant::now();
    let machine = Machine::look()?;
    // Listened for before there is a server: no signal may end us and leave it behind.
    let mut terminated = signal(SignalKind::terminate())?;
    let server = Server::start(args.data_dir.as_deref(), &machine).await?;
    let bench = Bench {
        args,
        server,
        cores: machine.cores,
    };
    let sections = tokio::select! {
        sections = measure(&bench) => sections,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminated.recv() => Err(anyhow::anyhow!("terminated")),
    };
    let written = match sections {
        Ok(sections) => write(&bench, &machine, &sections, began).await,
        Err(error) => Err(error),
    };
    // Stopped and removed however it went.
    let keep = bench.args.keep;
    bench.server.stop(keep).await?;
    written?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(bench: &Bench) -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    for profile in &bench.args.profile {
        let section = bench.profile(*profile).await?;
        println!("\n{}\n", section.markdown("benchmarks"));
        sections.push(section);
    }
    Ok(sections)
}

async fn write(
    bench: &Bench,
    machine: &Machine,
    sections: &[Section],
    began: Instant,
) -> Result<()> {
    let postgres = sql::pool(&bench.server.url("postgres"))?;
    let about = Circumstances {
        machine,
        postgres: bench.server.version().await?,
        settings: &bench.server.settings,
        date: sql::value(&postgres, "SELECT now()::date::text").await?,
        command: command(),
        rounds: bench.rounds(),
        took: began.elapsed(),
    };
    postgres.close().await;
    report::write(&bench.args.out, &about, sections).context("cannot write the report")?;
    println!(
        "written: {}",
        bench.args.out.join("benchmarks.md").display()
    );
    Ok(())
}

/// What was asked for; where things are on this machine is nobody's business.
fn command() -> String {
    let mut asked = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" | "--keep" => {}
            "--out" | "--data-dir" | "--binary" => drop(arguments.next()),
            _ => asked.push(argument),
        }
    }
    if asked.is_empty() {
        return "make bench".to_owned();
    }
    format!("cargo bench --bench retention -- {}", asked.join(" "))
}
