//! The crash lab: the product's own processes on a Postgres of the lab's, while everything around them fails.
//!
//! It works in rounds. A round makes a database, lets the main app write and faults strike for a while, makes
//! everything well again, has every organization purged, and then asks an oracle (`oracle`) whether each promise of
//! `docs/promises.md` was kept. What the oracle goes by is a journal that triggers keep in the transactions
//! themselves; it shares no code with the product. The same seed makes the same choices; what the machine makes of
//! them in time differs.
//!
//! Only in builds with the feature `chaos`, never in what is shipped.
#![allow(
    clippy::disallowed_methods,
    reason = "a lab: its tables do not exist when it is compiled, and it is no part of the product"
)]

mod faults;
mod oracle;
mod processes;
mod proxy;
mod round;
mod server;
#[cfg(test)]
mod tests;
mod writers;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::oracle::Violation;
use self::{processes::faketime, server::Server};
use crate::postgres::{
    local::{LocalServerError, StopMode},
    migrations::SchemaError,
};

/// What to do, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// No round begins after this.
    pub duration: Duration,
    /// No more rounds than this.
    pub rounds: Option<u32>,
    /// The first round's seed; the next one has the next.
    pub seed: u64,
    /// Worker processes.
    pub workers: usize,
    /// Organizations.
    pub organizations: u32,
    /// Where the server's data and the processes' logs are.
    pub dir: PathBuf,
    /// Where the server's programs are, if not in the usual places.
    pub bin_dir: Option<PathBuf>,
}

/// What a round came to.
#[derive(Debug, Clone, Default)]
pub struct RoundReport {
    /// The seed that repeats it.
    pub seed: u64,
    /// How often each kind of fault was made.
    pub faults: BTreeMap<&'static str, u32>,
    /// Processes of the product that were started, and those that ended without being told to.
    pub processes: u32,
    /// Those of them that ended although nobody told them to.
    pub ended_on_their_own: u32,
    /// Transactions of the main app that committed.
    pub writes: u64,
    /// Rows purged, by table.
    pub purged: BTreeMap<String, i64>,
    /// Runs, by how they ended.
    pub runs: BTreeMap<String, i64>,
    /// From everything being well again until every run was final.
    pub settled: Duration,
    /// What was waited for, where that took long.
    pub slow: Vec<String>,
    /// From the round's beginning to its end.
    pub took: Duration,
    /// What was not kept.
    pub violations: Vec<Violation>,
}

/// Why the lab could not go on: nothing is known then.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// The lab's own server.
    #[error("the lab's Postgres cannot be had")]
    Server(#[from] LocalServerError),
    /// It is stopped.
    #[error("the lab's Postgres is stopped")]
    NoServer,
    /// The schema.
    #[error("the lab's database cannot be made")]
    Schema(#[from] SchemaError),
    /// The lab's own SQL.
    #[error("the lab's own SQL failed")]
    Database(#[from] sqlx::Error),
    /// Processes, ports and files.
    #[error("the lab cannot work on this machine")]
    Io(#[from] std::io::Error),
}

/// Whether processes can be given another time here (libfaketime).
#[must_use]
pub fn clocks_can_jump() -> bool {
    faketime().is_some()
}

/// Runs rounds until the time is over, `stop`, or a violation; tells of each.
///
/// # Errors
/// When the lab itself fails.
pub async fn run(
    options: &Options,
    stop: &CancellationToken,
    mut tell: impl FnMut(&RoundReport),
) -> Result<(), ChaosError> {
    let mut server =
        Server::start(&options.dir.join("postgres"), options.bin_dir.as_deref()).await?;
    let outcome = rounds(options, &mut server, stop, &mut tell).await;
    server.stop(StopMode::Fast).await?;
    outcome
}

async fn rounds(
    options: &Options,
    server: &mut Server,
    stop: &CancellationToken,
    tell: &mut impl FnMut(&RoundReport),
) -> Result<(), ChaosError> {
    let began = Instant::now();
    for number in 0..options.rounds.unwrap_or(u32::MAX) {
        if began.elapsed() >= options.duration || stop.is_cancelled() {
            return Ok(());
        }
        let seed = options.seed.wrapping_add(u64::from(number));
        let Some(report) = round::run(options, server, seed, stop).await? else {
            return Ok(());
        };
        tell(&report);
        if !report.violations.is_empty() {
            // Everything stays for whoever looks into it.
            return Ok(());
        }
        server.drop(&round::database(seed)).await?;
        remove(&options.dir.join("logs"))?;
    }
    Ok(())
}

fn remove(dir: &Path) -> std::io::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}
