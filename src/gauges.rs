//! How the whole database stands: read in the background at a fixed interval, by one process for all of them, never by a
//! scrape or a page. The metrics' gauges and the console's overview show the same reading. What cannot be read stays as it
//! was, and holds up nothing else.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use strum::IntoEnumIterator;
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use crate::{
    postgres::{self, Database, Reading},
    purge::{self, Overdue},
    runs::{self, PurgedOnDay, RunStatus, Slot},
    telemetry::{logs::chain, metrics::Metrics},
};

/// How often a process looks for a new reading.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// How long after its start a process looks first: it has enough to do until then.
const STARTUP_DELAY: Duration = Duration::from_secs(2);
/// How old a reading is before another is made. A little less, so that a process that is alone makes one every time.
const MAX_SNAPSHOT_AGE: Duration = Duration::from_secs(25);
/// The pause between two parts of a reading, so that it is felt nowhere.
const PART_PAUSE: Duration = Duration::from_millis(50);
/// How many days of purged rows a reading has.
const PURGED_DAYS: i32 = 14;

/// How the database stood at one moment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was read, by Postgres's clock.
    pub taken_at: DateTime<Utc>,
    /// How far behind the promises it is.
    pub overdue: Overdue,
    /// Rows purged per day and table, oldest first.
    pub purged_per_day: Vec<PurgedOnDay>,
    /// The latest slot.
    pub last_slot: Option<Slot>,
    /// The parts that could not be read, in words: they are as they were before.
    #[serde(default)]
    pub not_read: Vec<String>,
    runs: HashMap<RunStatus, i64>,
}

impl Snapshot {
    /// How many runs there are in this status.
    #[must_use]
    pub fn runs(&self, status: RunStatus) -> i64 {
        self.runs.get(&status).copied().unwrap_or(0)
    }
}

/// The latest reading, and what makes the next.
#[derive(Debug)]
pub struct Gauges {
    /// Where readings are kept.
    database: Database,
    /// Where they are made: on a replica, if there is one.
    reading: Reading,
    metrics: Arc<Metrics>,
    latest: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Gauges {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(database: Database, reading: Reading, metrics: Arc<Metrics>) -> Self {
        Self {
            database,
            reading,
            metrics,
            latest: Mutex::new(None),
        }
    }

    /// Sets every gauge by the reading that the processes before this one have left: the first scrape shows it, and no 0, which
    /// an alert would take for an all-clear.
    pub async fn show_last(&self) {
        match load(&self.database).await {
            Ok(last) => last.iter().for_each(|snapshot| self.show(snapshot)),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "cannot take over the last reading of the gauges; they begin as unknown"
            ),
        }
    }

    /// Reads at the interval until dropped.
    pub async fn keep_fresh(&self) {
        let mut ticks = interval_at(Instant::now() + STARTUP_DELAY, REFRESH_EVERY);
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

    /// The latest reading; the first one, or one in place of an old one, is fetched here, by one caller for all who wait.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn snapshot(&self) -> sqlx::Result<Arc<Snapshot>> {
        let mut latest = self.latest.lock().await;
        if let Some((fetched_at, snapshot)) = &*latest
            && fetched_at.elapsed() < REFRESH_EVERY * 2
        {
            return Ok(snapshot.clone());
        }
        let snapshot = match self.fetch().await? {
            Some(snapshot) => snapshot,
            // The very first one is being made elsewhere.
            None => read(&self.reading, None).await?,
        };
        let snapshot = Arc::new(snapshot);
        *latest = Some((Instant::now(), snapshot.clone()));
        Ok(snapshot)
    }

    /// Fetches once, and sets every gauge; the lock is held only to hand the reading over.
    async fn refresh(&self) -> sqlx::Result<()> {
        if let Some(snapshot) = self.fetch().await? {
            let snapshot = Arc::new(snapshot);
            self.show(&snapshot);
            *self.latest.lock().await = Some((Instant::now(), snapshot));
        }
        Ok(())
    }

    /// The reading that all processes share. Whose turn it is makes a new one; a process that dies over it has had its
    /// turn, and the next is another's.
    async fn fetch(&self) -> sqlx::Result<Option<Snapshot>> {
        if !claim(&self.database).await? {
            return load(&self.database).await;
        }
        // A reading that an older version left, in another form, is as good as none.
        let before = load(&self.database).await.unwrap_or_default();
        let snapshot = read(&self.reading, before).await?;
        store(&self.database, &snapshot).await?;
        Ok(Some(snapshot))
    }

    fn show(&self, snapshot: &Snapshot) {
        let metrics = &self.metrics;
        for status in RunStatus::iter() {
            let gauge = metrics.queue_runs.with_label_values(&[status.name()]);
            gauge.set(snapshot.runs(status));
        }
        self.show_overdue(snapshot);
        // Shown by every process: the scheduler's own view of it is gone with the scheduler.
        if let Some(slot) = &snapshot.last_slot
            && slot.completed_at.is_some()
        {
            metrics.last_slot.set(slot.slot.timestamp());
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "no database has that many organizations"
    )]
    fn show_overdue(&self, snapshot: &Snapshot) {
        let (metrics, overdue) = (&self.metrics, &snapshot.overdue);
        if overdue.seconds.is_empty() {
            return; // it was never read: the gauges say so from the start
        }
        for (table, seconds) in &overdue.seconds {
            metrics.overdue.with_label_values(&[table]).set(*seconds);
        }
        metrics
            .organizations_overdue
            .set(overdue.organizations as f64);
        metrics
            .organizations_unresolved
            .set(overdue.unresolved() as f64);
    }
}

/// Reads all parts. One that fails, or takes longer than a statement may, is what it was `before`.
async fn read(reading: &Reading, before: Option<Snapshot>) -> sqlx::Result<Snapshot> {
    let mut snapshot = before.unwrap_or_default();
    let mut turn = reading.begin();
    loop {
        match read_on(turn.database(), &mut snapshot).await {
            Err(error) | Ok(Some(error)) if turn.goes_on_after(&error) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(snapshot),
        }
    }
}

/// Reads part after part, with pauses; returns the first error of one.
async fn read_on(
    database: &Database,
    snapshot: &mut Snapshot,
) -> sqlx::Result<Option<sqlx::Error>> {
    // Where not even this is answered, nothing is.
    snapshot.taken_at = postgres::now(database).await?;
    let runs = runs::count_by_status(database).await;
    sleep(PART_PAUSE).await;
    let overdue = purge::overdue(database, PART_PAUSE).await;
    sleep(PART_PAUSE).await;
    let purged_per_day = runs::purged_per_day(database, PURGED_DAYS).await;
    let last_slot = runs::last_slot(database).await;
    let failed: Vec<_> = [
        renew("runs by status", &mut snapshot.runs, runs),
        renew("overdue rows", &mut snapshot.overdue, overdue),
        renew(
            "rows purged per day",
            &mut snapshot.purged_per_day,
            purged_per_day,
        ),
        renew("the last slot", &mut snapshot.last_slot, last_slot),
    ]
    .into_iter()
    .flatten()
    .collect();
    snapshot.not_read = failed.iter().map(|(part, _)| (*part).to_owned()).collect();
    Ok(failed.into_iter().next().map(|(_, error)| error))
}

/// Puts what was read in its place; returns the part's name where it was not, and why.
fn renew<T>(
    part: &'static str,
    place: &mut T,
    read: sqlx::Result<T>,
) -> Option<(&'static str, sqlx::Error)> {
    match read {
        Ok(read) => {
            *place = read;
            None
        }
        Err(error) => {
            tracing::warn!(
                part,
                error = chain(&error),
                "cannot read a part of the gauges; it keeps its last value"
            );
            Some((part, error))
        }
    }
}

/// Whether it is this process's turn to read.
async fn claim(database: &Database) -> sqlx::Result<bool> {
    let claimed = sqlx::query!(
        "-- gauges.claim
         UPDATE retention.standing SET claimed_at = now() WHERE claimed_at <= now() - make_interval(secs => $1)",
        MAX_SNAPSHOT_AGE.as_secs_f64()
    )
    .execute(database)
    .await?;
    Ok(claimed.rows_affected() > 0)
}

async fn store(database: &Database, snapshot: &Snapshot) -> sqlx::Result<()> {
    sqlx::query!(
        "-- gauges.store
         UPDATE retention.standing SET reading = $1",
        Json(snapshot) as _
    )
    .execute(database)
    .await?;
    Ok(())
}

async fn load(database: &Database) -> sqlx::Result<Option<Snapshot>> {
    let reading = sqlx::query_scalar!(
        r#"-- gauges.load
        SELECT reading AS "reading: Json<Snapshot>" FROM retention.standing"#
    )
    .fetch_one(database)
    .await?;
    Ok(reading.map(|Json(snapshot)| snapshot))
}
