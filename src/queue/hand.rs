//! From hand to hand: a worker that is done with a delivery takes the next one itself. Through apalis each would cost
//! three commits that wait for the disk; here one does for both, and need not wait: what a crash takes back is delivered
//! again, and the claim decides.

use serde_json::Value;

use super::{Delivery, QUEUE, Verdict, consume::run_of};
use crate::postgres::Database;

/// Acknowledges `done`, and takes the delivery that is due next for the apalis worker `worker`: first what that worker
/// has fetched and not begun, which would otherwise wait for us.
///
/// # Errors
/// When the database fails. Then `done` may be acknowledged or not; to do it again does no harm, and what was taken is
/// delivered again once this worker is gone.
pub async fn next_delivery(
    database: &Database,
    worker: &str,
    done: Option<(&Delivery, Verdict)>,
) -> sqlx::Result<Option<Delivery>> {
    hand_over(database, worker, done, true).await
}

/// Acknowledges a delivery.
///
/// # Errors
/// When the database fails; then it is delivered again once its worker is gone, and finds nothing to do.
pub async fn acknowledge(
    database: &Database,
    delivery: &Delivery,
    verdict: Verdict,
) -> sqlx::Result<()> {
    let done = Some((delivery, verdict));
    hand_over(database, &delivery.worker, done, false).await?;
    Ok(())
}

/// Both in one statement, and so in one round trip. `set_config` holds for its transaction: the commit does not wait for the
/// disk.
async fn hand_over(
    database: &Database,
    worker: &str,
    done: Option<(&Delivery, Verdict)>,
    takes: bool,
) -> sqlx::Result<Option<Delivery>> {
    let job = done.map(|(delivery, _)| delivery.id.as_str());
    let held_by = done.map(|(delivery, _)| delivery.worker.as_str());
    let status = done.map(|(_, verdict)| match verdict {
        Verdict::Done => "Done",
        Verdict::Killed => "Killed",
    });
    let next = sqlx::query!(
        "-- queue.hand_over
         WITH acknowledged AS (
             UPDATE apalis.jobs SET status = $5, attempts = attempts + 1, done_at = now()
             WHERE id = $3 AND lock_by = $4
         ), fetched AS MATERIALIZED (
             SELECT id FROM apalis.jobs
             WHERE lock_by = $2 AND status = 'Queued' AND job_type = $1 AND $6
             LIMIT 1 FOR UPDATE SKIP LOCKED
         ), due AS MATERIALIZED (
             SELECT id FROM apalis.jobs
             WHERE job_type = $1 AND status = 'Pending' AND run_at <= now() AND $6
             ORDER BY priority DESC, run_at LIMIT 1 FOR UPDATE SKIP LOCKED
         )
         UPDATE apalis.jobs SET status = 'Running', lock_by = $2, lock_at = now()
         WHERE (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
           AND id = coalesce((SELECT id FROM fetched), (SELECT id FROM due))
         RETURNING id, job",
        QUEUE,
        worker,
        job,
        held_by,
        status,
        takes
    )
    .fetch_optional(database)
    .await?;
    match next {
        Some(next) => received(database, next.id, &next.job, worker).await,
        None => Ok(None),
    }
}

/// The delivery that a job is. One that is none is dropped, as it is when apalis hands it out.
async fn received(
    database: &Database,
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
    .execute(database)
    .await?;
    Ok(None)
}
