//! Scheduled runs that have not begun, purged several at a time: the one of a delivery, and some that are due after it.
//!
//! One transaction locks the runs, purges what is small, verifies it and closes it. A process that dies, a row that is
//! held, anything out of the ordinary: then nothing of it has happened, and each run goes its own way, by its own delivery.

use serde_json::Value;

use super::{
    Delivery, QUEUE,
    bulk::{self, Behalf, ClosedRun, Closing, Waiting},
    consume::run_of,
};
use crate::{
    ids::OrgId,
    postgres::{Database, Flush, Patience, Transaction},
    purge::{self, Limits},
};

/// Purges the run of `delivery` and up to `limits.others` more. Nothing is closed where that run is too large, or has anything in
/// its way: it is to be purged alone. So is one that has begun before, or that somebody asked for: then nothing is tried, and
/// nothing comes back.
///
/// Only what was never tried is taken: a run over which its worker died is claimed, and its attempts are counted.
///
/// `deleting` is what others wait for who want to delete: it is dropped before the commit, which waits for the disk.
///
/// # Errors
/// When the database fails, or it takes too long; then nothing was purged.
pub async fn purge_together(
    database: &Database,
    delivery: &Delivery,
    limits: Limits,
    behalf: Behalf<'_>,
    deleting: impl Send,
) -> sqlx::Result<Option<Vec<ClosedRun>>> {
    let mut tx = database
        .begin_yielding(Patience::Short, Flush::AtOnce)
        .await?;
    let waiting = lock(&mut tx, delivery, limits.others).await?;
    let Some(first) = waiting.first().filter(|first| first.id == delivery.run.0) else {
        tx.rollback().await?;
        return Ok(None);
    };
    let now = first.now;
    let organizations: Vec<_> = waiting
        .iter()
        .map(|run| (OrgId(run.org_id), run.plan.as_deref()))
        .collect();
    let span_of = |n: usize| waiting[n].span();
    let purged = purge::purge_together(&mut tx, &organizations, now, limits, span_of).await?;
    let Some(purged) = purged else {
        tx.rollback().await?;
        return Ok(Some(Vec::new()));
    };
    let closing = waiting.into_iter().zip(purged).filter_map(|(run, purged)| {
        let (span, rest) = purged?;
        Some(Closing { run, span, rest })
    });
    let closing: Vec<_> = closing.collect();
    bulk::close(&mut tx, &closing, behalf).await?;
    drop(deleting);
    bulk::commit(database, tx, closing, behalf).await.map(Some)
}

/// Locks the run of `delivery` and those of up to `others` deliveries that are due next, with their organizations' plans,
/// and passes over what is no scheduled run that has not begun. Nobody else takes those deliveries meanwhile.
async fn lock(
    tx: &mut Transaction<'_>,
    delivery: &Delivery,
    others: i64,
) -> sqlx::Result<Vec<Waiting>> {
    let due = sqlx::query!(
        "-- queue.due_beside
         SELECT id, job FROM apalis.jobs
         WHERE job_type = $1 AND status = 'Pending' AND run_at <= now() AND priority = 0 AND attempts = 0
         ORDER BY priority DESC, run_at LIMIT $2
         FOR UPDATE SKIP LOCKED",
        QUEUE,
        others
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut runs, mut jobs) = (vec![delivery.run.0], vec![delivery.id.clone()]);
    for job in due {
        let payload: Value = serde_json::from_slice(&job.job).unwrap_or_default();
        if let Some(run) = run_of(&payload, &job.id) {
            runs.push(run.0);
            jobs.push(job.id);
        }
    }
    // Run by run, by its key: a join could be planned as a scan of all that wait, since the queue fills faster than statistics
    // follow.
    sqlx::query_as!(
        Waiting,
        r#"-- queue.lock_together
        SELECT r.id, r.org_id, r.trigger, r.delivery_id, r.traceparent, r.plan, now() AS "now!"
        FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS d (run_id, job, n)
        CROSS JOIN LATERAL (
            SELECT r.id, r.org_id, r.trigger, r.delivery_id, r.traceparent,
                   coalesce(retention.excerpt(main_app.lock_plan(r.org_id)),
                            (SELECT '' FROM main_app.organizations o WHERE o.id = r.org_id)) AS plan
            FROM retention.purge_runs r
            WHERE r.id = d.run_id AND r.delivery_id = d.job AND r.status = 'queued' AND r.attempts = 0 AND r.policy IS NULL
              AND r.started_at IS NULL AND NOT r.urgent AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= now())
              AND EXISTS (SELECT FROM apalis.jobs j WHERE j.id = d.job AND j.attempts = 0)
            FOR UPDATE SKIP LOCKED) r
        ORDER BY d.n"#,
        &runs,
        &jobs
    )
    .fetch_all(tx)
    .await
}
