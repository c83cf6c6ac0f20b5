//! Round after round, on one server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use drift_retention::postgres::{
    local::{LocalServerError, StopMode},
    migrations::SchemaError,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{report::RoundReport, round, server::Server};

/// How many rounds to run, and how.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The product's program.
    pub(crate) program: PathBuf,
    /// No round starts after this time.
    pub(crate) duration: Duration,
    /// The highest number of rounds.
    pub(crate) rounds: Option<u32>,
    /// The first round's seed. Each round adds one.
    pub(crate) seed: u64,
    /// The number of worker processes.
    pub(crate) workers: usize,
    /// The number of organizations.
    pub(crate) organizations: u32,
    /// The directory of the server's data and of the processes' logs.
    pub(crate) dir: PathBuf,
    /// The directory of the server's programs, if they are not in the usual places.
    pub(crate) bin_dir: Option<PathBuf>,
}

/// The lab itself failed. The round then proves nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    #[error("the lab's Postgres does not start or stop")]
    Server(#[from] LocalServerError),
    #[error("the lab's Postgres is stopped")]
    NoServer,
    #[error("the lab cannot create the schema of its database")]
    Schema(#[from] SchemaError),
    #[error("the lab's own SQL failed")]
    Database(#[from] sqlx::Error),
    #[error("the lab cannot use processes, ports or files of this machine")]
    Io(#[from] std::io::Error),
}

/// Runs rounds until the time is over, `stop` is cancelled, or a promise is broken. Passes each report to `report`.
///
/// # Errors
/// When the lab itself fails.
pub(crate) async fn run(
    options: &Options,
    stop: &CancellationToken,
    mut report: impl FnMut(&RoundReport),
) -> Result<(), LabError> {
    let mut server =
        Server::start(&options.dir.join("postgres"), options.bin_dir.as_deref()).await?;
    let outcome = rounds(options, &mut server, stop, &mut report).await;
    server.stop(StopMode::Fast).await?;
    outcome
}

async fn rounds(
    options: &Options,
    server: &mut Server,
    stop: &CancellationToken,
    report: &mut impl FnMut(&RoundReport),
) -> Result<(), LabError> {
    let began = Instant::now();
    for number in 0..options.rounds.unwrap_or(u32::MAX) {
        if began.elapsed() >= options.duration || stop.is_cancelled() {
            return Ok(());
        }
        let seed = options.seed.wrapping_add(u64::from(number));
        let Some(round) = round::run(options, server, seed, stop).await? else {
            return Ok(());
        };
        report(&round);
        if !round.violations.is_empty() {
            // The database and the logs stay for the investigation.
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
