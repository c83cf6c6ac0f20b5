//! Fetching: a worker that is done with its deliveries acknowledges them and takes the next ones itself. Through apalis each
//! delivery would cost three commits that wait for the disk. Here one statement serves a hundred deliveries, and need not
//! wait: what a crash undoes is delivered again, and the claim decides.

use serde_json::Value;

use super::{QUEUE, Verdict, consume::run_of};
use crate::{postgres::Database, runs::Delivery};

/// Acknowledges `done`, and takes up to `limit` deliveries that are due for the apalis worker `worker`. It takes the
/// deliveries first that this worker has fetched and not begun: they would otherwise wait for us. All that it takes from the
/// queue have the priority of the first, so that nobody's *purge now* shares the pace of a slot. The delivery of a run that was
/// attempted before comes alone.
///
/// # Errors
/// When the database fails. Then `done` may be acknowledged or not: to acknowledge again does no harm. Deliveries that were
/// taken are rescued.
pub async fn ack_and_fetch(
    database: &Database,
    worker: &str,
    done: &[(Delivery, Verdict)],
    limit: usize,
) -> sqlx::Result<Vec<Delivery>> {
    let (mut jobs, mut statuses) = (vec![], vec![]);
    for (delivery, verdict) in done {
        jobs.push(delivery.id.clone());
        statuses.push(verdict.status().to_owned());
    }
    // Its commit does not wait for the disk.
    let mut tx = database
        .begin_by_key(&["SET LOCAL synchronous_commit = off"])
        .await?;
    let taken = sqlx::query!(
        "-- jobs.ack_and_fetch
         WITH acknowledged AS (
             UPDATE apalis.jobs j SET status = d.status, attempts = j.attempts + 1, done_at = now()
             FROM unnest($3::text[], $4::text[]) AS d (id, status)
             WHERE j.id = d.id AND j.id = ANY ($3) AND j.lock_by = $2
         ), fetched AS MATERIALIZED (
             SELECT id FROM apalis.jobs
             WHERE lock_by = $2 AND status = 'Queued' AND job_type = $1
             LIMIT $5 FOR UPDATE SKIP LOCKED
         ), due AS MATERIALIZED (
             SELECT id, priority, run_at, attempts FROM apalis.jobs
             WHERE job_type = $1 AND status = 'Pending' AND run_at <= now()
             ORDER BY priority DESC, run_at LIMIT $5 FOR UPDATE SKIP LOCKED
         ), first AS MATERIALIZED (
             SELECT id, priority, attempts FROM due ORDER BY priority DESC, run_at LIMIT 1
         ), taken AS MATERIALIZED (
             SELECT id FROM fetched
             UNION ALL
             SELECT due.id FROM due, first
             WHERE NOT EXISTS (SELECT FROM fetched)
               AND (due.id = first.id OR due.priority = first.priority AND due.attempts = 0 AND first.attempts = 0)
         )
         UPDATE apalis.jobs SET status = 'Running', lock_by = $2, lock_at = now()
         WHERE id = ANY (ARRAY (SELECT id FROM taken))
         RETURNING id, job",
        QUEUE,
        worker,
        &jobs,
        &statuses,
        i64::try_from(limit).unwrap_or(i64::MAX)
    )
    .fetch_all(&mut tx)
    .await?;
    tx.commit().await?;
    let mut deliveries = Vec::with_capacity(taken.len());
    for job in taken {
        let payload: Value = serde_json::from_slice(&job.job).unwrap_or_default();
        match run_of(&payload, &job.id) {
            Some(run) => deliveries.push(Delivery {
                id: job.id,
                worker: worker.to_owned(),
                run,
            }),
            None => drop_job(database, &job.id).await?,
        }
    }
    Ok(deliveries)
}

/// Acknowledges deliveries.
///
/// # Errors
/// When the database fails. Then they are delivered again once their worker is gone, and find nothing to do.
pub async fn acknowledge(
    database: &Database,
    worker: &str,
    done: &[(Delivery, Verdict)],
) -> sqlx::Result<()> {
    ack_and_fetch(database, worker, done, 0).await?;
    Ok(())
}

/// A job that is no delivery of a run is dropped, as it is when apalis hands it out.
async fn drop_job(database: &Database, job: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "-- jobs.drop
         UPDATE apalis.jobs SET status = 'Killed', done_at = now() WHERE id = $1",
        job
    )
    .execute(database)
    .await?;
    Ok(())
}

/// Whether a delivery of at least this priority is due that no worker has taken.
///
/// # Errors
/// When the database fails.
pub async fn others_wait(database: &Database, min_priority: i32) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- jobs.others_wait
        SELECT EXISTS (SELECT FROM apalis.jobs
                       WHERE job_type = $1 AND status = 'Pending' AND run_at <= now() AND priority >= $2) AS "others!""#,
        QUEUE,
        min_priority
    )
    .fetch_one(database)
    .await
}
