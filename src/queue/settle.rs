//! How an attempt ends: each ending is one transaction that only the run's owner can commit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;

use super::{Backoff, Delivery, Lease, priority};
use crate::{
    faults::{self, Point},
    ids::RunId,
    postgres::{Database, Transaction},
    purge::{ClosedStep, OwnedRun, PurgeError, Report, close_steps},
    telemetry::logs,
};

/// What an ending came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Recorded.
    Done,
    /// The run waits for another attempt.
    Retrying(Duration),
    /// The run is `failed`.
    Failed,
    /// The run is `cancelled`: its organization is gone.
    Cancelled,
    /// Somebody else owns the run by now: nothing was recorded.
    Superseded,
}

/// Closes a verified run; returns its steps, or nothing where somebody else owns the run by now.
///
/// # Errors
/// When the database fails; then nothing was recorded.
pub async fn succeed(
    database: &Database,
    run: &OwnedRun,
    report: &Report,
) -> sqlx::Result<Option<Vec<ClosedStep>>> {
    let mut tx = database.begin().await?;
    // The steps first: once the run is final its steps are, too.
    let steps = close_steps(&mut tx, run.id, &report.remains).await?;
    let closed = sqlx::query!(
        "-- queue.succeed
         UPDATE retention.purge_runs
         SET status = 'succeeded', verified_at = now(), finished_at = now(), error_kind = NULL, error = NULL
         WHERE id = $1 AND token = $2 AND status = 'running'",
        run.id.0,
        run.token
    )
    .execute(&mut tx)
    .await?;
    if closed.rows_affected() == 0 {
        return Ok(None);
    }
    faults::pass(Point::BeforeFinish);
    tx.commit().await?;
    faults::pass(Point::AfterFinish);
    Ok(Some(steps))
}

/// Records a failed attempt: a new delivery after a wait, or the end of the run, which is `cancelled` where its
/// organization is gone. The one place that decides.
///
/// # Errors
/// When the database fails; then nothing was recorded.
pub async fn fail_or_retry(
    database: &Database,
    run: &OwnedRun,
    error: &PurgeError,
    backoff: Backoff,
) -> sqlx::Result<Settled> {
    let retry = !error.is_permanent() && run.attempt < run.max_attempts;
    let wait = retry.then(|| backoff.wait(run.attempt));
    let interval = wait.map(|wait| PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(wait.as_micros()).unwrap_or(i64::MAX),
    });
    let (end, ended) = if error.cancels() {
        ("cancelled", Settled::Cancelled)
    } else {
        ("failed", Settled::Failed)
    };
    let mut tx = database.begin().await?;
    let recorded = sqlx::query!(
        "-- queue.fail_or_retry
         UPDATE retention.purge_runs
         SET status = CASE WHEN $3::interval IS NULL THEN $6 ELSE 'retrying' END,
             finished_at = CASE WHEN $3::interval IS NULL THEN now() END,
             next_attempt_at = now() + $3::interval, error_kind = $4, error = $5
         WHERE id = $1 AND token = $2 AND status = 'running'",
        run.id.0,
        run.token,
        interval as _,
        error.kind(),
        logs::chain(error),
        end
    )
    .execute(&mut tx)
    .await?;
    if recorded.rows_affected() == 0 {
        return Ok(Settled::Superseded);
    }
    if retry {
        deliver(&mut tx, run.id, &run.trigger).await?;
    }
    if ended == Settled::Cancelled {
        acknowledge_cancelled(&mut tx, run.id).await?;
    }
    faults::pass(Point::BeforeRetry);
    tx.commit().await?;
    faults::pass(Point::AfterRetry);
    Ok(wait.map_or(ended, Settled::Retrying))
}

/// Acknowledges the delivery of a run that its own worker has cancelled, and counts: one that comes twice is not to be
/// counted again, as a cancellation that nobody has counted yet.
async fn acknowledge_cancelled(tx: &mut Transaction<'_>, run: RunId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.acknowledge_cancelled
         UPDATE apalis.jobs j SET status = 'Done', done_at = now()
         FROM retention.purge_runs r WHERE r.id = $1 AND j.id = r.delivery_id",
        run.0
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives the run back unfinished, because the worker stops: somebody else goes on at once, and no attempt is spent.
///
/// # Errors
/// When the database fails; then the run is taken over once this worker's heartbeat is old.
pub async fn give_back(database: &Database, run: &OwnedRun) -> sqlx::Result<Settled> {
    let mut tx = database.begin().await?;
    let given = sqlx::query!(
        "-- queue.give_back
         UPDATE retention.purge_runs SET status = 'queued', attempts = attempts - 1, worker = NULL
         WHERE id = $1 AND token = $2 AND status = 'running'",
        run.id.0,
        run.token
    )
    .execute(&mut tx)
    .await?;
    if given.rows_affected() == 0 {
        return Ok(Settled::Superseded);
    }
    deliver(&mut tx, run.id, &run.trigger).await?;
    faults::pass(Point::BeforeGiveBack);
    tx.commit().await?;
    faults::pass(Point::AfterGiveBack);
    Ok(Settled::Done)
}

/// Whether a superseded attempt lost its run to a cancellation rather than to another worker.
///
/// # Errors
/// When the database fails.
pub async fn was_cancelled(database: &Database, run: &OwnedRun) -> sqlx::Result<bool> {
    let cancelled = sqlx::query_scalar!(
        r#"-- queue.was_cancelled
        SELECT EXISTS (SELECT FROM retention.purge_runs
                       WHERE id = $1 AND token = $2::bigint + 1 AND status = 'cancelled') AS "cancelled!""#,
        run.id.0,
        run.token
    )
    .fetch_one(database)
    .await?;
    Ok(cancelled)
}

/// Hands on a delivery that came while the worker was stopping: an unclaimed one, attempts untouched.
///
/// # Errors
/// When the database fails; then the run is found stranded and delivered by the reconciler.
pub async fn redeliver(database: &Database, run: RunId) -> sqlx::Result<()> {
    let mut tx = database.begin().await?;
    let waiting = sqlx::query_scalar!(
        "-- queue.redeliver
         SELECT trigger FROM retention.purge_runs WHERE id = $1 AND status IN ('queued', 'retrying') FOR UPDATE",
        run.0
    )
    .fetch_optional(&mut tx)
    .await?;
    if let Some(trigger) = waiting {
        deliver(&mut tx, run, &trigger).await?;
    }
    tx.commit().await
}

/// Whether nobody waits for what `delivery` delivers: a run of the schedule that no request has met.
///
/// # Errors
/// When the database fails.
pub async fn is_scheduled(database: &Database, delivery: &Delivery) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- queue.is_scheduled
        SELECT EXISTS (SELECT FROM retention.purge_runs WHERE id = $1 AND trigger = 'schedule')
           AND EXISTS (SELECT FROM apalis.jobs WHERE id = $2 AND priority < $3) AS "scheduled!""#,
        delivery.run.0,
        delivery.id,
        priority("purge_now")
    )
    .fetch_one(database)
    .await
}

/// Puts a waiting run off until `due`, attempts untouched. One whose owner has been silent for longer than `lease` waits
/// from now on, too: nobody is at work on it. A delivery that is not the run's own any more puts off nothing.
///
/// # Errors
/// When the database fails; then the run is found stranded and delivered by the reconciler.
pub async fn postpone(
    database: &Database,
    delivery: &Delivery,
    due: DateTime<Utc>,
    lease: Lease,
) -> sqlx::Result<()> {
    let mut tx = database.begin().await?;
    // The token: an owner that is only paused commits nothing more.
    let postponed = sqlx::query_scalar!(
        "-- queue.postpone
         UPDATE retention.purge_runs r
         SET next_attempt_at = greatest(r.next_attempt_at, $3),
             token = r.token + CASE r.status WHEN 'running' THEN 1 ELSE 0 END,
             status = CASE r.status WHEN 'running' THEN 'retrying' ELSE r.status END
         WHERE r.id = $1 AND r.delivery_id = $2
           AND CASE r.status
                 WHEN 'queued' THEN true
                 WHEN 'retrying' THEN true
                 WHEN 'running' THEN NOT EXISTS (SELECT FROM apalis.workers w
                                                 WHERE w.id = r.worker AND w.last_seen > now() - $4::interval)
                 ELSE false
               END
         RETURNING r.trigger",
        delivery.run.0,
        delivery.id,
        due,
        lease.interval()
    )
    .fetch_optional(&mut tx)
    .await?;
    if let Some(trigger) = postponed {
        deliver(&mut tx, delivery.run, &trigger).await?;
    }
    tx.commit().await
}

async fn deliver(tx: &mut Transaction<'_>, run: RunId, trigger: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.deliver
         SELECT retention.deliver(ARRAY[$1::uuid], $2)",
        run.0,
        priority(trigger)
    )
    .fetch_one(tx)
    .await?;
    Ok(())
}
