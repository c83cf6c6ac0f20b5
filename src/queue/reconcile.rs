//! Puts right what a crash can leave: live runs without a live delivery, jobs and workers nobody needs any more.
//! Bounded, skips what is locked, and safe to run everywhere at once.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;

use super::{Lease, QUEUE, WorkerIdentity};

use crate::postgres::Database;

/// How many rows of a kind one round touches.
const BOUND: i64 = 5_000;

/// One round: delivers stranded runs again and prunes. Returns how many runs it delivered.
///
/// Final jobs and idempotency keys are kept for a day, dead workers as long as a job names them, final runs for
/// `keep_runs`.
///
/// # Errors
/// When the database fails; the next round takes it up.
pub async fn reconcile(
    database: &Database,
    lease: Lease,
    keep_runs: Duration,
) -> sqlx::Result<u64> {
    let delivered = deliver_stranded(database, lease).await?;
    prune_jobs(database).await?;
    prune_workers(database).await?;
    prune_runs(database, keep_runs).await?;
    prune_keys(database).await?;
    prune_rewritten(database).await?;
    readdress_rewritten(database).await?;
    Ok(delivered)
}

/// Delivers stranded runs again; returns how many. A run is stranded when its job is gone, final, or held by a dead worker, and
/// no live worker owns the run.
///
/// # Errors
/// When the database fails; the next round takes it up.
pub async fn deliver_stranded(database: &Database, lease: Lease) -> sqlx::Result<u64> {
    let mut tx = database.begin().await?;
    let stranded = sqlx::query_scalar!(
        "-- queue.reconcile
         SELECT r.id
         FROM retention.purge_runs r LEFT JOIN apalis.jobs j ON j.id = r.delivery_id
         WHERE r.status IN ('queued', 'running', 'retrying')
           AND (j.id IS NULL OR j.status IN ('Done', 'Failed', 'Killed')
                OR (j.status IN ('Queued', 'Running')
                    AND NOT EXISTS (SELECT FROM apalis.workers w
                                    WHERE w.id = j.lock_by AND w.last_seen > now() - $1::interval)))
           AND (r.status <> 'running'
                OR NOT EXISTS (SELECT FROM apalis.workers w
                               WHERE w.id = r.worker AND w.last_seen > now() - $1::interval))
         LIMIT $2
         FOR UPDATE OF r SKIP LOCKED",
        lease.interval(),
        BOUND
    )
    .fetch_all(&mut tx)
    .await?;
    if !stranded.is_empty() {
        sqlx::query!(
            "-- queue.reconcile_deliver
             SELECT retention.deliver($1)",
            &stranded
        )
        .fetch_one(&mut tx)
        .await?;
    }
    tx.commit().await?;
    Ok(stranded.len() as u64)
}

/// Kills jobs that apalis cannot read: an id that is no ULID, metadata with a null. One of them would stop every worker, again and
/// again. Returns how many.
///
/// # Errors
/// When the database fails.
pub(super) async fn kill_unreadable(database: &Database) -> sqlx::Result<u64> {
    let killed = sqlx::query!(
        "-- queue.kill_unreadable
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
        "-- queue.prune_jobs
         DELETE FROM apalis.jobs
         WHERE id IN (SELECT id FROM apalis.jobs
                      WHERE status IN ('Done', 'Failed', 'Killed') AND done_at < now() - interval '1 day'
                        AND job_type = $1
                      ORDER BY done_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        QUEUE,
        BOUND
    )
    .execute(database)
    .await?;
    Ok(())
}

async fn prune_workers(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.prune_workers
         DELETE FROM apalis.workers
         WHERE id IN (SELECT w.id FROM apalis.workers w
                      WHERE w.worker_type = $1 AND w.last_seen < now() - interval '1 hour'
                        AND NOT EXISTS (SELECT FROM apalis.jobs j WHERE j.lock_by = w.id)
                      LIMIT $2 FOR UPDATE OF w SKIP LOCKED)",
        QUEUE,
        BOUND
    )
    .execute(database)
    .await?;
    Ok(())
}

async fn prune_runs(database: &Database, keep: Duration) -> sqlx::Result<()> {
    let keep = PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(keep.as_micros()).unwrap_or(i64::MAX),
    };
    sqlx::query!(
        "-- queue.prune_runs
         DELETE FROM retention.purge_runs
         WHERE id IN (SELECT id FROM retention.purge_runs
                      WHERE created_at < now() - $1::interval AND status IN ('succeeded', 'failed', 'cancelled')
                      ORDER BY created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED)",
        keep,
        BOUND
    )
    .execute(database)
    .await?;
    Ok(())
}

async fn prune_keys(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.prune_keys
         DELETE FROM retention.idempotency_keys
         WHERE (org_id, key) IN (SELECT org_id, key FROM retention.idempotency_keys
                                 WHERE created_at < now() - interval '1 day'
                                 ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        BOUND
    )
    .execute(database)
    .await?;
    Ok(())
}

/// Notes of incidents that the main app has deleted since. No foreign key does it: nothing of ours stands on its tables.
async fn prune_rewritten(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.prune_rewritten
         DELETE FROM retention.rewritten_payloads
         WHERE incident_id IN (SELECT w.incident_id FROM retention.rewritten_payloads w
                               WHERE NOT EXISTS (SELECT FROM main_app.incidents i WHERE i.id = w.incident_id)
                               LIMIT $1 FOR UPDATE OF w SKIP LOCKED)",
        BOUND
    )
    .execute(database)
    .await?;
    Ok(())
}

/// Notes of incidents that the main app has given to another organization since: its runs are to take them.
async fn readdress_rewritten(database: &Database) -> sqlx::Result<()> {
    sqlx::query!(
        "-- queue.readdress_rewritten
         UPDATE retention.rewritten_payloads w SET org_id = i.org_id
         FROM main_app.incidents i WHERE i.id = w.incident_id AND i.org_id <> w.org_id"
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
        "-- queue.retire_workers
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
        r#"-- queue.workers_alive
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
        r#"-- queue.live_workers
        SELECT count(*) AS "count!" FROM apalis.workers
        WHERE worker_type = $1 AND last_seen > now() - $2::interval"#,
        QUEUE,
        lease.interval()
    )
    .fetch_one(database)
    .await
}
