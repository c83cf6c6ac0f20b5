//! How the whole database stands: read in the background at a fixed interval, never by a scrape or a page. The metrics'
//! gauges and the console's overview show the same reading. A failure keeps the last one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    postgres::{self, Database},
    purge::{self, Overdue},
    queue::{self, PurgedOnDay, Slot},
    telemetry::{
        logs::chain,
        metrics::{Metrics, STATUSES},
    },
};

/// How old a reading can be.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// How many days of purged rows a reading has.
const DAYS: i32 = 14;

/// How the database stood at one moment.
#[derive(Debug)]
pub struct Standing {
    /// When it was read, by Postgres's clock.
    pub taken_at: DateTime<Utc>,
    /// How far behind the promises it is.
    pub overdue: Overdue,
    /// Rows purged per day and table, oldest first.
    pub purged_per_day: Vec<PurgedOnDay>,
    /// The latest slot.
    pub last_slot: Option<Slot>,
    runs: HashMap<String, i64>,
}

impl Standing {
    /// How many runs there are in this status.
    #[must_use]
    pub fn runs(&self, status: &str) -> i64 {
        self.runs.get(status).copied().unwrap_or(0)
    }
}

/// The latest reading, and what makes the next.
#[derive(Debug)]
pub struct Gauges {
    database: Database,
    metrics: Arc<Metrics>,
    latest: Mutex<Option<(Instant, Arc<Standing>)>>,
}

impl Gauges {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(database: Database, metrics: Arc<Metrics>) -> Self {
        Self {
            database,
            metrics,
            latest: Mutex::new(None),
        }
    }

    /// Reads at the interval until dropped.
    pub async fn keep_fresh(&self) {
        let mut ticks = interval(REFRESH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.refresh().await {
                tracing::warn!(
                    error = chain(&error),
                    "cannot refresh the gauges; they keep their last values"
                );
            }
        }
    }

    /// The latest reading; a first one, or one in place of an old one, is made here, by one caller for all who wait.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn standing(&self) -> sqlx::Result<Arc<Standing>> {
        let mut latest = self.latest.lock().await;
        if let Some((read_at, standing)) = &*latest
            && read_at.elapsed() < REFRESH_EVERY * 2
        {
            return Ok(standing.clone());
        }
        let standing = Arc::new(read(&self.database).await?);
        *latest = Some((Instant::now(), standing.clone()));
        Ok(standing)
    }

    /// Reads once, and sets every gauge; the lock is held only to hand the reading over.
    async fn refresh(&self) -> sqlx::Result<()> {
        let standing = Arc::new(read(&self.database).await?);
        self.show(&standing);
        *self.latest.lock().await = Some((Instant::now(), standing));
        Ok(())
    }

    #[allow(
        clippy::cast_possible_wrap,
        reason = "a count of organizations fits in 63 bits"
    )]
    fn show(&self, standing: &Standing) {
        let metrics = &self.metrics;
        for status in STATUSES {
            let gauge = metrics.queue_runs.with_label_values(&[status]);
            gauge.set(standing.runs(status));
        }
        let overdue = &standing.overdue;
        for (table, seconds) in &overdue.seconds {
            metrics.overdue.with_label_values(&[table]).set(*seconds);
        }
        metrics
            .organizations_overdue
            .set(overdue.organizations.len() as i64);
        metrics.organizations_unresolved.set(overdue.unresolved());
        // Shown by every process: the scheduler's own view of it is gone with the scheduler.
        if let Some(slot) = &standing.last_slot
            && slot.completed_at.is_some()
        {
            metrics.last_slot.set(slot.slot.timestamp());
        }
    }
}

async fn read(database: &Database) -> sqlx::Result<Standing> {
    Ok(Standing {
        taken_at: postgres::now(database).await?,
        runs: queue::count_by_status(database).await?,
        overdue: purge::overdue(database).await?,
        purged_per_day: queue::purged_per_day(database, DAYS).await?,
        last_slot: queue::last_slot(database).await?,
    })
}
