//! Runs that wait longer, though nobody has attempted them: the worker stops, or its maintenance window is closed.

use chrono::{DateTime, Utc};

use super::{
    claim::{Delivery, Lease, side_by_side},
    finish::deliver,
};
use crate::{ids::RunId, postgres::Database};

/// Hands on deliveries whose runs nobody has claimed: the worker is stopping, or another run goes first. Their attempts stay
/// untouched. The run of an owner that has been silent for longer than `lease` is handed on, too: nobody works on it.
///
/// # Errors
/// When the database fails. Then the runs are found stranded, and rescued.
pub async fn redeliver(
    database: &Database,
    deliveries: &[Delivery],
    lease: Lease,
) -> sqlx::Result<()> {
    let (runs, _) = side_by_side(deliveries);
    let mut tx = database.begin_by_key(&[]).await?;
    let waiting = sqlx::query_scalar!(
        "-- runs.redeliver
         SELECT id FROM retention.purge_runs
         WHERE id = ANY ($1)
           AND CASE status
                 WHEN 'queued' THEN true
                 WHEN 'retrying' THEN true
                 WHEN 'running' THEN retention.worker_is_silent(worker, $2)
                 ELSE false
               END
         ORDER BY id FOR UPDATE",
        &runs,
        lease.interval()
    )
    .fetch_all(&mut tx)
    .await?;
    if !waiting.is_empty() {
        deliver(&mut tx, &waiting).await?;
    }
    tx.commit().await
}

/// Puts waiting runs off until `until`, attempts untouched, and returns which. A run whose owner has been silent for longer
/// than `lease` waits, too: nobody works on it. A delivery that is not the run's own any more puts nothing off, and neither
/// does the delivery of a run that somebody waits for.
///
/// # Errors
/// When the database fails. Then the runs are found stranded, and rescued.
pub async fn snooze_until(
    database: &Database,
    deliveries: &[Delivery],
    until: DateTime<Utc>,
    lease: Lease,
) -> sqlx::Result<Vec<RunId>> {
    let (runs, jobs) = side_by_side(deliveries);
    let mut tx = database.begin_by_key(&[]).await?;
    // The token: an owner that is only paused commits nothing more.
    let snoozed = sqlx::query_scalar!(
        "-- runs.snooze_until
         UPDATE retention.purge_runs r
         SET next_attempt_at = greatest(r.next_attempt_at, $3),
             token = r.token + CASE r.status WHEN 'running' THEN 1 ELSE 0 END,
             status = CASE r.status WHEN 'running' THEN 'retrying' ELSE r.status END
         FROM unnest($1::uuid[], $2::text[]) AS d (run_id, job)
         WHERE r.id = d.run_id AND r.id = ANY ($1) AND r.delivery_id = d.job AND NOT r.urgent
           AND CASE r.status
                 WHEN 'queued' THEN true
                 WHEN 'retrying' THEN true
                 WHEN 'running' THEN retention.worker_is_silent(r.worker, $4)
                 ELSE false
               END
         RETURNING r.id",
        &runs,
        &jobs,
        until,
        lease.interval()
    )
    .fetch_all(&mut tx)
    .await?;
    if !snoozed.is_empty() {
        deliver(&mut tx, &snoozed).await?;
    }
    tx.commit().await?;
    Ok(snoozed.into_iter().map(RunId).collect())
}
