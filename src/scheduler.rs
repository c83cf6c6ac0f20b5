//! The scheduler's loop: a slot of the cron expression becomes one run per organization.
//!
//! Slots are ours, kept in `retention.schedule_slots`, and the clock is Postgres's: however many schedulers run
//! and however their own clocks jump, each (organization, slot) is enqueued once. Only the latest slot that is
//! due counts, so slots missed while everything was down become one run. A scheduler that dies in the middle of
//! a slot leaves its progress in the table, and the next one goes on from there.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    faults::{self, Point},
    postgres::{self, Database, Transaction},
    runs,
    schedule::Schedule,
    telemetry::{logs::chain, metrics::Metrics},
};

/// Organizations per transaction.
const ORGANIZATIONS_PER_TRANSACTION: i64 = 2_000;
/// The longest sleep: how late a change of Postgres's clock, or another scheduler's death, can be noticed.
const MAX_SLEEP: Duration = Duration::from_secs(15);
/// The pause after a failure, and before organizations that could not be enqueued are tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What a tick came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// The latest slot is enqueued already, or another scheduler is at it.
    Idle,
    /// The very first tick: earlier slots are not caught up. The next slot is the first.
    Baseline,
    /// This scheduler worked on the slot.
    Worked {
        /// The slot.
        slot: DateTime<Utc>,
        /// Runs that are new.
        enqueued: i64,
        /// Organizations that had a live run already.
        coalesced: i64,
        /// Whether every organization has its run.
        complete: bool,
    },
}

/// A scheduler process.
#[derive(Debug, Clone)]
pub struct Scheduler {
    /// The database.
    pub database: Database,
    /// When slots are.
    pub schedule: Schedule,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// What one transaction of a slot did.
#[derive(Debug, Default)]
struct Chunk {
    enqueued: i64,
    coalesced: i64,
    /// An organization whose run another transaction is enqueueing just now, and has not committed.
    blocked: Option<Uuid>,
}

impl Scheduler {
    /// Ticks until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let pause = match self.tick_and_pause(stop).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "cannot enqueue the schedule; trying again"
                    );
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Ticks once, and returns how long to sleep before the next tick.
    async fn tick_and_pause(&self, stop: &CancellationToken) -> sqlx::Result<Duration> {
        match self.tick(stop).await? {
            Tick::Worked {
                slot,
                enqueued,
                coalesced,
                complete,
            } => {
                tracing::info!(%slot, enqueued, coalesced, complete, "enqueued {enqueued} runs for slot {slot}");
                if !complete {
                    return Ok(RETRY_PAUSE);
                }
            }
            Tick::Baseline => tracing::info!("the schedule begins: the next slot is the first"),
            Tick::Idle => {}
        }
        let now = postgres::now(&self.database).await?;
        let until = self
            .schedule
            .next(now)
            .and_then(|next| (next - now).to_std().ok());
        Ok(until
            .unwrap_or(MAX_SLEEP)
            .clamp(Duration::from_millis(10), MAX_SLEEP))
    }

    /// Enqueues the latest due slot, unless that is done.
    ///
    /// # Errors
    /// When the database fails; what was enqueued stays, and the next tick goes on from there.
    pub async fn tick(&self, stop: &CancellationToken) -> sqlx::Result<Tick> {
        let Some(newest) = self.open_slot().await? else {
            return Ok(Tick::Idle);
        };
        if newest.complete {
            self.metrics.last_slot.set(newest.slot.timestamp());
            return Ok(if newest.is_baseline {
                Tick::Baseline
            } else {
                Tick::Idle
            });
        }
        let slot = newest.slot;
        let (mut enqueued, mut coalesced, mut complete) = (0, 0, false);
        while !stop.is_cancelled() && !complete {
            let Some(chunk) = self.chunk(slot, &mut complete).await? else {
                break;
            };
            enqueued += chunk.enqueued;
            coalesced += chunk.coalesced;
            if chunk.blocked.is_some() && chunk.enqueued + chunk.coalesced == 0 {
                break;
            }
        }
        if complete {
            self.metrics.last_slot.set(slot.timestamp());
        }
        Ok(Tick::Worked {
            slot,
            enqueued,
            coalesced,
            complete,
        })
    }

    /// Opens the latest due slot unless it, or a later one, is there; returns the newest slot there is.
    ///
    /// The very first slot is the baseline: it is complete from the start, so that installing the scheduler in
    /// the afternoon does not purge at once.
    async fn open_slot(&self) -> sqlx::Result<Option<Newest>> {
        let now = postgres::now(&self.database).await?;
        let Some(latest) = self.schedule.latest(now) else {
            return Ok(None);
        };
        let is_baseline = sqlx::query_scalar!(
            r#"-- scheduler.open_slot
            INSERT INTO retention.schedule_slots (slot, completed_at)
            SELECT $1, CASE WHEN EXISTS (SELECT FROM retention.schedule_slots) THEN NULL ELSE now() END
            WHERE NOT EXISTS (SELECT FROM retention.schedule_slots WHERE slot >= $1)
            ON CONFLICT DO NOTHING
            RETURNING completed_at IS NOT NULL AS "baseline!""#,
            latest
        )
        .fetch_optional(&self.database)
        .await?;
        let newest = sqlx::query!(
            r#"-- scheduler.newest_slot
            SELECT slot, completed_at IS NOT NULL AS "complete!"
            FROM retention.schedule_slots ORDER BY slot DESC LIMIT 1"#
        )
        .fetch_one(&self.database)
        .await?;
        Ok(Some(Newest {
            slot: newest.slot,
            complete: newest.complete,
            is_baseline: is_baseline.unwrap_or(false),
        }))
    }

    /// The slot's next organizations, in one transaction; `None`: another scheduler is at it.
    async fn chunk(&self, slot: DateTime<Utc>, complete: &mut bool) -> sqlx::Result<Option<Chunk>> {
        let mut tx = self
            .database
            .begin_with(&["SET LOCAL lock_timeout = '1s'"])
            .await?;
        let progress = sqlx::query!(
            "-- scheduler.hold_slot
             SELECT after_org, deferred FROM retention.schedule_slots
             WHERE slot = $1 AND completed_at IS NULL FOR UPDATE SKIP LOCKED",
            slot
        )
        .fetch_optional(&mut tx)
        .await?;
        let Some(progress) = progress else {
            return Ok(None);
        };
        let mut deferred = progress.deferred;
        let mut after_org = progress.after_org;
        let fresh = next_organizations(&mut tx, after_org).await?;
        let is_fresh = !fresh.is_empty();
        // Those that were blocked before are tried again once all others have their run.
        let orgs = if is_fresh {
            fresh
        } else {
            std::mem::take(&mut deferred)
        };
        let mut chunk = Chunk::default();
        let mut rest = orgs.as_slice();
        while !rest.is_empty() {
            let (taken, made) = enqueue_some(&mut tx, slot, rest).await?;
            if let Some((enqueued, coalesced)) = made {
                chunk.enqueued += enqueued;
                chunk.coalesced += coalesced;
            } else {
                deferred.push(rest[0]);
                chunk.blocked = Some(rest[0]);
            }
            rest = &rest[taken..];
        }
        if is_fresh {
            after_org = orgs.last().copied();
        }
        *complete = !is_fresh && deferred.is_empty();
        sqlx::query!(
            "-- scheduler.keep_progress
             UPDATE retention.schedule_slots
             SET after_org = $2, deferred = $3, enqueued = enqueued + $4, coalesced = coalesced + $5,
                 completed_at = CASE WHEN $6 THEN now() END
             WHERE slot = $1",
            slot,
            after_org,
            &deferred,
            chunk.enqueued,
            chunk.coalesced,
            *complete
        )
        .execute(&mut tx)
        .await?;
        faults::reach(Point::BeforeSlotCommit);
        tx.commit().await?;
        faults::reach(Point::AfterSlotCommit);
        Ok(Some(chunk))
    }
}

/// The newest slot in the table.
struct Newest {
    slot: DateTime<Utc>,
    complete: bool,
    is_baseline: bool,
}

async fn next_organizations(
    tx: &mut Transaction<'_>,
    after: Option<Uuid>,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"-- scheduler.next_organizations
        SELECT id AS "id!" FROM main_app.organizations WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2"#,
        after,
        ORGANIZATIONS_PER_TRANSACTION
    )
    .fetch_all(tx)
    .await
}

/// Enqueues as many of `orgs`, from the first on, as no other transaction stands in the way of. Returns how many
/// it took, and what was made; nothing made: the first one alone is blocked.
async fn enqueue_some(
    tx: &mut Transaction<'_>,
    slot: DateTime<Utc>,
    orgs: &[Uuid],
) -> sqlx::Result<(usize, Option<(i64, i64)>)> {
    let mut taken = orgs.len();
    loop {
        tx.savepoint().await?;
        match runs::enqueue_slot(tx, slot, &orgs[..taken]).await {
            Ok(made) => return Ok((taken, Some(made))),
            Err(error) if postgres::is_contention(&error) => {
                tx.rollback_to_savepoint().await?;
                if taken == 1 {
                    return Ok((1, None));
                }
                taken = (taken / 8).max(1);
            }
            Err(error) => return Err(error),
        }
    }
}
