//! How an attempt ends: each ending is one transaction that only the run's owner can commit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;

use super::{Backoff, Delivery, Lease};
use crate::{
    faults::{self, Point},
    ids::RunId,
    postgres::{Database, Transaction},
    purge::{ClosedStep, OwnedRun, PurgeError, Report, close_steps, closed_steps},
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

/// Closes a verified run; returns its steps, or nothing where somebody else owns the run by now. It may be asked again when
/// the reply was lost.
///
/// # Errors
/// When the database fails; then nothing was recorded, or the reply was lost.
pub async fn succeed(
    database: &Database,
    run: &OwnedRun,
    report: &Report,
) -> sqlx::Result<Option<Vec<ClosedStep>>> {
    let mut tx = database.begin().await?;
    // The steps first: once the run is final its steps are, too.
    let steps = close_steps(&mut tx, run, &report.remains).await?;
    if steps.is_empty() {
        let is_ours = status_under(&mut tx, run).await?.as_deref() == Some("succeeded");
        return Ok(if is_ours {
            Some(closed_steps(&mut tx, run.id).await?)
        } else {
            None
        });
    }
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

/// The status that the run has under this claim's token; none: somebody else has claimed or cancelled it since. An ending
/// whose reply was lost is found by it.
async fn status_under(tx: &mut Transaction<'_>, run: &OwnedRun) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        "-- queue.status_under
         SELECT status FROM retention.purge_runs WHERE id = $1 AND token = $2",
        run.id.0,
        run.token
    )
    .fetch_optional(tx)
    .await
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
    let settled = wait.map_or(ended, Settled::Retrying);
    if recorded.rows_affected() == 0 {
        let status = status_under(&mut tx, run).await?;
        return Ok(match status.as_deref() {
            Some("failed" | "retrying" | "cancelled") => settled, // an earlier try of ours: its reply was lost
            _ => Settled::Superseded,
        });
    }
    if retry {
        deliver(&mut tx, run.id).await?;
    }
    if ended == Settled::Cancelled {
        acknowledge_cancelled(&mut tx, run.id).await?;
    }
    faults::pass(Point::BeforeRetry);
    tx.commit().await?;
    faults::pass(Point::AfterRetry);
    Ok(settled)
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
        let status = status_under(&mut tx, run).await?;
        return Ok(match status.as_deref() {
            Some("queued") => Settled::Done, // an earlier try of ours: its reply was lost
            _ => Settled::Superseded,
        });
    }
    deliver(&mut tx, run.id).await?;
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
         SELECT id FROM retention.purge_runs WHERE id = $1 AND status IN ('queued', 'retrying') FOR UPDATE",
        run.0
    )
    .fetch_optional(&mut tx)
    .await?;
    if waiting.is_some() {
        deliver(&mut tx, run).await?;
    }
    tx.commit().await
}

/// Whether somebody waits for `run`.
///
/// # Errors
/// When the database fails.
pub async fn is_urgent(database: &Database, run: RunId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- queue.is_urgent
        SELECT EXISTS (SELECT FROM retention.purge_runs WHERE id = $1 AND urgent) AS "urgent!""#,
        run.0
    )
    .fetch_one(database)
    .await
}

/// Puts a waiting run off until `due`, attempts untouched. One whose owner has been silent for longer than `lease` waits
/// from now on, too: nobody is at work on it. A delivery that is not the run's own any more puts off nothing, and no run is put
/// off for which somebody waits.
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
         WHERE r.id = $1 AND r.delivery_id = $2 AND NOT r.urgent
           AND CASE r.status
                 WHEN 'queued' THEN true
                 WHEN 'retrying' THEN true
                 WHEN 'running' THEN NOT EXISTS (SELECT FROM apalis.workers w
                                                 WHERE w.id = r.worker AND w.last_seen > now() - $4::interval)
                 ELSE false
               END
         RETURNING r.id",
        delivery.run.0,
        delivery.id,
        due,
        lease.interval()
    )
    .fetch_optional(&mut tx)
    .await?;
    if postponed.is_some() {
        deliver(&mut tx, delivery.run).await?;
    }
    tx.commit().await
}

/// A new delivery of `run`. It must commit with the change that asks for it.
pub(super) async fn deliver(tx: &mut Transaction<'_>, run: RunId) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.deliver
         SELECT retention.deliver(ARRAY[$1::uuid])",
        run.0
    )
    .fetch_one(tx)
    .await?;
    Ok(())
}
