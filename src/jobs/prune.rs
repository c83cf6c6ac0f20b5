//! Puts right what a crash leaves in the queue: live runs without a live delivery, and jobs and workers that nobody needs any
//! more. Each round is bounded, skips locked rows, and is safe to run everywhere at once.

use serde_json::Value;

use super::{QUEUE, WorkerIdentity, consume::run_of};
use crate::{
    postgres::Database,
    runs::{self, Delivery, Lease},
};

/// How many rows of a kind one round touches.
const MAX_ROWS_PER_ROUND: i64 = 5_000;

/// Delivers stranded runs again, and returns how many. A run is stranded when its job is gone, final, or held by a dead worker,
/// and no live worker owns the run.
///
/// # Errors
/// When the database fails. The next round tries again.
pub async fn rescue_stranded(database: &Database, lease: Lease) -> sqlx::Result<usize> {
    let mut tx = database.begin().await?;
    let stranded = sqlx::query_scalar!(
        "-- jobs.find_stranded
         SELECT r.id
         FROM retention.purge_runs r LEFT JOIN apalis.jobs j ON j.id = r.delivery_id
         WHERE r.status IN ('queued', 'running', 'retrying')
           AND (j.id IS NULL OR j.status IN ('Done', 'Failed', 'Killed')
                OR (j.status IN ('Queued', 'Running') AND retention.worker_is_silent(j.lock_by, $1)))
           AND (r.status <> 'running' OR retention.worker_is_silent(r.worker, $1))
         LIMIT $2
         FOR UPDATE OF r SKIP LOCKED",
        lease.interval(),
        MAX_ROWS_PER_ROUND
    )
    .fetch_all(&mut tx)
    .await?;
    if !stranded.is_empty() {
        runs::deliver(&mut tx, &stranded).await?;
    }
    tx.commit().await?;
    Ok(stranded.len())
}

/// Delivers again, at once, the runs whose deliveries dead workers hold, and returns how many. apalis puts back one of these
/// deliveries at a time, and a worker takes many.
///
/// # Errors
/// When the database fails. The next round tries again.
pub async fn rescue_orphans(database: &Database, lease: Lease) -> sqlx::Result<usize> {
    let orphans = sqlx::query!(
        "-- jobs.find_orphans
         SELECT id, job FROM apalis.jobs
         WHERE job_type = $1 AND status IN ('Queued', 'Running') AND retention.worker_is_silent(lock_by, $2) LIMIT $3",
        QUEUE,
        lease.interval(),
        MAX_ROWS_PER_ROUND
    )
    .fetch_all(database)
    .await?;
    if orphans.is_empty() {
        return Ok(0);
    }
    let (mut jobs, mut run_ids) = (vec![], vec![]);
    for job in orphans {
        let payload: Value = serde_json::from_slice(&job.job).unwrap_or_default();
        if let Some(run) = run_of(&payload, &job.id) {
            jobs.push(job.id);
            run_ids.push(run.0);
        }
    }
    let mut tx = database.begin_by_key(&[]).await?;
    let stranded = sqlx::query_scalar!(
        "-- jobs.lock_orphaned_runs
         SELECT r.id FROM retention.purge_runs r
         WHERE r.id = ANY ($1) AND r.delivery_id = ANY ($2) AND (r.status IN ('queued', 'running', 'retrying')) IS TRUE
           AND (r.status <> 'running' OR retention.worker_is_silent(r.worker, $3))
         FOR UPDATE OF r SKIP LOCKED",
        &run_ids,
        &jobs,
        lease.interval()
    )
    .fetch_all(&mut tx)
    .await?;
    if !stranded.is_empty() {
        runs::deliver(&mut tx, &stranded).await?;
    }
    tx.commit().await?;
    Ok(stranded.len())
}

/// The deliveries that the workers of this process took longer than `lease` ago and have not acknowledged.
///
/// # Errors
/// When the database fails.
pub async fn taken_deliveries(
    database: &Database,
    identity: &WorkerIdentity,
    lease: Lease,
) -> sqlx::Result<Vec<Delivery>> {
    let taken = sqlx::query!(
        r#"-- jobs.taken_deliveries
        SELECT id, job, lock_by AS "worker!" FROM apalis.jobs
        WHERE job_type = $2 AND status = 'Running' AND starts_with(lock_by, $1) AND lock_at < now() - $3::interval"#,
        identity.prefix(),
        QUEUE,
        lease.interval()
    )
    .fetch_all(database)
    .await?;
    let deliveries = taken.into_iter().filter_map(|job| {
        let payload: Value = serde_json::from_slice(&job.job).unwrap_or_default();
        Some(Delivery {
            run: run_of(&payload, &job.id)?,
            id: job.id,
            worker: job.worker,
        })
    });
    Ok(deliveries.collect())
}

/// Deletes final jobs that are older than a day, and dead workers that no job names.
///
/// # Errors
/// When the database fails. The next round tries again.
pub async fn prune(database: &Database) -> sqlx::Result<()> {
    prune_jobs(database).await?;
    prune_workers(database).await
}

/// Kills jobs that apalis cannot read: an id that is no ULID, metadata with a null. One of them would stop every worker, again and
/// again. Returns how many.
///
/// # Errors
/// When the database fails.
pub(super) async fn kill_unreadable(database: &Database) -> sqlx::Result<u64> {
    let killed = sqlx::query!(
        "-- jobs.kill_unreadable
         UPDATE apalis.jobs SET status = 'Killed', done_at = now()
         WHERE job_type = $1 AND status IN ('Pending', 'Queued', 'Running')
           AND (id !~* '^[0-7][0-9A-HJKMNP-TV-Z]{25}$' OR metadata::text ~ '=>NULL')",
        QUEUE
    )
    .execute(database)
    .await?;
    Ok(killed.rows_affected())
}

async fn prune_jobs(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- jobs.prune_jobs
         DELETE FROM apalis.jobs
         WHERE id IN (SELECT id FROM apalis.jobs
                      WHERE status IN ('Done', 'Failed', 'Killed') AND done_at < now() - interval '1 day'
                        AND job_type = $1
                      ORDER BY done_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        QUEUE,
        MAX_ROWS_PER_ROUND
    )
    .execute(database)
    .await?;
    Ok(())
}

async fn prune_workers(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- jobs.prune_workers
         DELETE FROM apalis.workers
         WHERE id IN (SELECT w.id FROM apalis.workers w
                      WHERE w.worker_type = $1 AND w.last_seen < now() - interval '1 hour'
                        AND NOT EXISTS (SELECT FROM apalis.jobs j WHERE j.lock_by = w.id)
                      LIMIT $2 FOR UPDATE OF w SKIP LOCKED)",
        QUEUE,
        MAX_ROWS_PER_ROUND
    )
    .execute(database)
    .await?;
    Ok(())
}

/// Lets go of the workers whose names begin with `prefix`: they have ended, and what they held is free at once.
///
/// # Errors
/// When the database fails; then their heartbeats have to grow old.
pub async fn retire_workers(database: &Database, prefix: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "-- jobs.retire_workers
         UPDATE apalis.workers SET last_seen = 'epoch' WHERE worker_type = $1 AND starts_with(id, $2)",
        QUEUE,
        prefix
    )
    .execute(database)
    .await?;
    Ok(())
}

/// Whether this process's workers have said within the lease that they live.
///
/// # Errors
/// When the database fails.
pub async fn workers_alive(
    database: &Database,
    identity: &WorkerIdentity,
    lease: Lease,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- jobs.workers_alive
        SELECT EXISTS (SELECT FROM apalis.workers
                       WHERE worker_type = $1 AND starts_with(id, $2)
                         AND last_seen > now() - $3::interval) AS "alive!""#,
        QUEUE,
        identity.prefix(),
        lease.interval()
    )
    .fetch_one(database)
    .await
}

/// How many workers anywhere have said within the lease that they live.
///
/// # Errors
/// When the database fails.
pub async fn live_workers(database: &Database, lease: Lease) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"-- jobs.live_workers
        SELECT count(*) AS "count!" FROM apalis.workers
        WHERE worker_type = $1 AND last_seen > now() - $2::interval"#,
        QUEUE,
        lease.interval()
    )
    .fetch_one(database)
    .await
}
