//! Runs that a process holds and nobody in it works on: the reply to a fetch was lost, or the end of an attempt could not be
//! recorded. Its heartbeat is fresh, so nobody else may take them.

use serde_json::Value;
use uuid::Uuid;

use super::{Backoff, Lease, QUEUE, WorkerIdentity, consume::run_of, settle::deliver};
use crate::{ids::RunId, postgres::Database};

/// A run that this process seems to hold.
#[derive(Debug, Clone, Copy)]
pub struct HeldRun {
    /// The run.
    pub id: RunId,
    token: i64,
    attempts: i32,
    is_running: bool,
}

/// The runs that the process `identity` holds, by the records: those it has claimed, and those whose delivery it took longer
/// than `lease` ago without claiming them.
///
/// # Errors
/// When the database fails.
pub async fn held_runs(
    database: &Database,
    identity: &WorkerIdentity,
    lease: Lease,
) -> sqlx::Result<Vec<HeldRun>> {
    let taken = sqlx::query!(
        "-- queue.deliveries_taken
         SELECT id, job FROM apalis.jobs
         WHERE job_type = $2 AND status = 'Running' AND starts_with(lock_by, $1) AND lock_at < now() - $3::interval",
        identity.prefix(),
        QUEUE,
        lease.interval()
    )
    .fetch_all(database)
    .await?;
    let (mut deliveries, mut runs) = (Vec::new(), Vec::new());
    for job in taken {
        let payload: Value = serde_json::from_slice(&job.job).unwrap_or_default();
        if let Some(run) = run_of(&payload, &job.id) {
            deliveries.push(job.id);
            runs.push(run.0);
        }
    }
    let held = sqlx::query!(
        r#"-- queue.held_runs
        SELECT r.id AS "id!", r.token AS "token!", r.attempts AS "attempts!", true AS "is_running!"
        FROM retention.purge_runs r
        WHERE r.status = 'running' AND starts_with(r.worker, $1)
        UNION ALL
        SELECT r.id, r.token, r.attempts, false FROM retention.purge_runs r
        WHERE r.id = ANY ($2) AND r.delivery_id = ANY ($3) AND r.status IN ('queued', 'retrying')"#,
        identity.prefix(),
        &runs,
        &deliveries
    )
    .fetch_all(database)
    .await?;
    let held = held.into_iter().map(|run| HeldRun {
        id: RunId(run.id),
        token: run.token,
        attempts: run.attempts,
        is_running: run.is_running,
    });
    Ok(held.collect())
}

/// Delivers `run` again: at once where it was never claimed, after the backoff where an attempt has ended unrecorded. `false`:
/// its record has changed meanwhile, and nothing was done.
///
/// # Errors
/// When the database fails; then nothing was done.
pub async fn rescue(database: &Database, run: HeldRun, backoff: Backoff) -> sqlx::Result<bool> {
    let wait = if run.is_running {
        backoff.wait(run.attempts).as_secs_f64()
    } else {
        0.0
    };
    let mut tx = database.begin().await?;
    let rescued: Option<Uuid> = sqlx::query_scalar!(
        "-- queue.rescue
         UPDATE retention.purge_runs
         SET token = token + 1, worker = NULL,
             status = CASE WHEN status = 'running' THEN 'retrying' ELSE status END,
             next_attempt_at = CASE WHEN status = 'running' THEN now() + make_interval(secs => $3) ELSE next_attempt_at END
         WHERE id = $1 AND token = $2 AND (status = 'running') = $4 AND status IN ('queued', 'running', 'retrying')
         RETURNING id",
        run.id.0,
        run.token,
        wait,
        run.is_running
    )
    .fetch_optional(&mut tx)
    .await?;
    if rescued.is_some() {
        deliver(&mut tx, run.id).await?;
    }
    tx.commit().await?;
    Ok(rescued.is_some())
}
