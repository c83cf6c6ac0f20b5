//! Who purges: the product, the set-based bound, the plain loop; and what is measured of each.

mod bound;
mod looped;
mod ours;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

pub(crate) use self::ours::{POLL, Worker, enqueue};
use crate::{measures::float, server::Copy, sql};

/// One of those that purge the same data.
#[derive(Debug, Clone)]
pub(crate) enum Contestant {
    /// The product, as it is delivered: its worker, settings as they are by default.
    Ours(PathBuf),
    /// The product as somebody asks for it: `purge --all --work`, which enqueues and purges in one process.
    OursAll(PathBuf),
    /// By hand, one set-based DELETE per table over the whole database.
    Bound,
    /// Plain SQL per organization, in batches; no queue, no records.
    Loop,
    /// The same on two connections at once: what two cores make of it.
    TwoLoops,
}

/// What one of them took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// From its start until nothing is left to do.
    pub(crate) wall: Duration,
    /// Ours alone: making the runs, as the scheduler does it.
    pub(crate) enqueue: Option<Duration>,
    /// Ours alone: the most memory that the worker held.
    pub(crate) memory_kib: Option<u64>,
    /// Ours alone: the worker's own CPU time.
    pub(crate) cpu: Option<Duration>,
    /// Written to the log meanwhile.
    pub(crate) wal_bytes: u64,
}

impl Contestant {
    /// How it is called in the report.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::OursAll(_) => "ours, purge --all",
            Self::Bound => "set-based bound",
            Self::Loop => "plain loop",
            Self::TwoLoops => "two plain loops",
        }
    }

    /// Purges the copy, and measures that.
    pub(crate) async fn purge(&self, copy: &Copy) -> Result<Outcome> {
        let enqueue = self.prepare(copy).await?;
        let outcome = self.work(copy).await?;
        Ok(Outcome { enqueue, ..outcome })
    }

    /// Ours alone: its runs are made.
    pub(crate) async fn prepare(&self, copy: &Copy) -> Result<Option<Duration>> {
        let Self::Ours(_) = self else {
            return Ok(None);
        };
        let began = Instant::now();
        enqueue(&copy.pool, None).await?;
        Ok(Some(began.elapsed()))
    }

    /// What comes after that.
    pub(crate) async fn work(&self, copy: &Copy) -> Result<Outcome> {
        let before = wal(copy).await?;
        let mut outcome = match self {
            Self::Ours(binary) => ours::purge(copy, binary).await?,
            Self::OursAll(binary) => ours::purge_all(copy, binary).await?,
            Self::Bound => bound::purge(&copy.url).await?,
            Self::Loop => looped::purge(&copy.url, 1).await?,
            Self::TwoLoops => looped::purge(&copy.url, 2).await?,
        };
        outcome.wal_bytes = wal(copy).await? - before;
        Ok(outcome)
    }
}

impl Outcome {
    /// Of something that takes time alone.
    fn taking(wall: Duration) -> Self {
        Self {
            wall,
            ..Self::default()
        }
    }

    /// The log in megabytes.
    pub(crate) fn wal_mib(&self) -> f64 {
        float(self.wal_bytes) / 1024.0 / 1024.0
    }
}

async fn wal(copy: &Copy) -> Result<u64> {
    let bytes: i64 = sql::value(
        &copy.pool,
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint",
    )
    .await?;
    Ok(u64::try_from(bytes)?)
}
