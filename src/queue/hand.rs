//! From hand to hand: a worker that is done with a delivery takes the next one itself. Through apalis each would cost
//! three commits that wait for the disk; here one does for both, and need not wait: what a crash takes back is delivered
//! again, and the claim decides.

use serde_json::Value;
use sqlx::PgExecutor;

use super::{Delivery, QUEUE, Verdict, consume::run_of};
use crate::postgres::{Database, Transaction};

/// Acknowledges `done`, and takes the delivery that is due next for the apalis worker `worker`: first what that worker
/// has fetched and not begun, which would otherwise wait for us.
///
/// # Errors
/// When the database fails; then both are as they were.
pub async fn next_delivery(
    database: &Database,
    worker: &str,
    done: Option<(&Delivery, Verdict)>,
) -> sqlx::Result<Option<Delivery>> {
    let mut tx = database
        .begin_with(&["SET LOCAL synchronous_commit = off"])
        .await?;
    if let Some((delivery, verdict)) = done {
        acknowledge(&mut tx, delivery, verdict).await?;
    }
    let next = sqlx::query!(
        "-- queue.next_delivery
         WITH fetched AS MATERIALIZED (
             SELECT id FROM apalis.jobs
             WHERE lock_by = $2 AND status = 'Queued' AND job_type = $1
             LIMIT 1 FOR UPDATE SKIP LOCKED
         ), due AS MATERIALIZED (
             SELECT id FROM apalis.jobs
             WHERE job_type = $1 AND status = 'Pending' AND run_at <= now()
             ORDER BY priority DESC, run_at LIMIT 1 FOR UPDATE SKIP LOCKED
         )
         UPDATE apalis.jobs SET status = 'Running', lock_by = $2, lock_at = now()
         WHERE id = coalesce((SELECT id FROM fetched), (SELECT id FROM due))
         RETURNING id, job",
        QUEUE,
        worker
    )
    .fetch_optional(&mut tx)
    .await?;
    let next = match next {
        Some(job) => received(&mut tx, job.id, &job.job, worker).await?,
        None => None,
    };
    tx.commit().await?;
    Ok(next)
}

/// The delivery that a job is. One that is none is dropped, as it is when apalis hands it out.
async fn received(
    tx: &mut Transaction<'_>,
    job: String,
    payload: &[u8],
    worker: &str,
) -> sqlx::Result<Option<Delivery>> {
    let payload: Value = serde_json::from_slice(payload).unwrap_or_default();
    if let Some(run) = run_of(&payload, &job) {
        return Ok(Some(Delivery {
            id: job,
            worker: worker.to_owned(),
            run,
        }));
    }
    sqlx::query!(
        "-- queue.drop_job
         UPDATE apalis.jobs SET status = 'Killed', done_at = now() WHERE id = $1",
        job
    )
    .execute(tx)
    .await?;
    Ok(None)
}

/// Acknowledges a delivery.
///
/// # Errors
/// When the database fails; then it is delivered again once its worker is gone, and finds nothing to do.
pub async fn acknowledge(
    on: impl PgExecutor<'_>,
    delivery: &Delivery,
    verdict: Verdict,
) -> sqlx::Result<()> {
    let status = match verdict {
        Verdict::Done => "Done",
        Verdict::Killed => "Killed",
    };
    sqlx::query!(
        "-- queue.acknowledge
         UPDATE apalis.jobs SET status = $3, attempts = attempts + 1, done_at = now() WHERE id = $1 AND lock_by = $2",
        delivery.id,
        delivery.worker,
        status
    )
    .execute(on)
    .await?;
    Ok(())
}
