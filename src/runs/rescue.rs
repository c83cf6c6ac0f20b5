//! Runs that nobody works on any more: their worker died, their delivery was lost, or the end of an attempt could not be
//! recorded. Also the end of old records.

use std::time::Duration;

use uuid::Uuid;

use super::{
    Backoff,
    claim::{Delivery, side_by_side},
    finish::deliver,
};
use crate::{
    ids::RunId,
    postgres::{self, Database},
};

/// How many rows of a kind one round touches.
const MAX_ROWS_PER_ROUND: i64 = 5_000;

/// A run that this process holds by the records.
#[derive(Debug, Clone, Copy)]
pub struct HeldRun {
    /// The run.
    pub id: RunId,
    token: i64,
    attempts: i32,
    is_running: bool,
}

/// The runs that the workers whose names begin with `prefix` hold by the records: those that they have claimed, and those of
/// `taken`, whose deliveries they took without claiming them.
///
/// # Errors
/// When the database fails.
pub async fn held_runs(
    database: &Database,
    prefix: &str,
    taken: &[Delivery],
) -> sqlx::Result<Vec<HeldRun>> {
    let (runs, deliveries) = side_by_side(taken);
    let held = sqlx::query!(
        r#"-- runs.held_runs
        SELECT r.id AS "id!", r.token AS "token!", r.attempts AS "attempts!", true AS "is_running!"
        FROM retention.purge_runs r
        WHERE r.status = 'running' AND starts_with(r.worker, $1)
        UNION ALL
        SELECT r.id, r.token, r.attempts, false FROM retention.purge_runs r
        WHERE r.id = ANY ($2) AND r.delivery_id = ANY ($3) AND r.status IN ('queued', 'retrying')"#,
        prefix,
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

/// Delivers `run` again: at once if it was never claimed, after the backoff if the end of an attempt was not recorded. `false`:
/// its record has changed meanwhile, and nothing was done.
///
/// # Errors
/// When the database fails. Then nothing was done.
pub async fn rescue(database: &Database, run: HeldRun, backoff: Backoff) -> sqlx::Result<bool> {
    let wait = if run.is_running {
        backoff.wait(run.attempts)
    } else {
        Duration::ZERO
    };
    let mut tx = database.begin().await?;
    let rescued: Option<Uuid> = sqlx::query_scalar!(
        "-- runs.rescue
         UPDATE retention.purge_runs
         SET token = token + 1, worker = NULL,
             status = CASE WHEN status = 'running' THEN 'retrying' ELSE status END,
             next_attempt_at = CASE WHEN status = 'running' THEN now() + $3 ELSE next_attempt_at END
         WHERE id = $1 AND token = $2 AND (status = 'running') = $4 AND status IN ('queued', 'running', 'retrying')
         RETURNING id",
        run.id.0,
        run.token,
        postgres::interval(wait),
        run.is_running
    )
    .fetch_optional(&mut tx)
    .await?;
    if let Some(rescued) = rescued {
        deliver(&mut tx, &[rescued]).await?;
    }
    tx.commit().await?;
    Ok(rescued.is_some())
}

/// Deletes final runs that are older than `keep`, and idempotency keys that are older than a day.
///
/// # Errors
/// When the database fails. The next round tries again.
pub async fn prune(database: &Database, keep: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "-- runs.prune
         DELETE FROM retention.purge_runs
         WHERE id IN (SELECT id FROM retention.purge_runs
                      WHERE created_at < now() - $1::interval AND status IN ('succeeded', 'failed', 'cancelled')
                      ORDER BY created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED)",
        postgres::interval(keep),
        MAX_ROWS_PER_ROUND
    )
    .execute(database)
    .await?;
    sqlx::query!(
        "-- runs.prune_keys
         DELETE FROM retention.idempotency_keys
         WHERE (org_id, key) IN (SELECT org_id, key FROM retention.idempotency_keys
                                 WHERE created_at < now() - interval '1 day'
                                 ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        MAX_ROWS_PER_ROUND
    )
    .execute(database)
    .await?;
    Ok(())
}
