//! Most organizations have nothing to purge on most nights. Their runs are closed here, many in one transaction, without
//! an attempt of their own: each is verified like any other, and has the same record.
//!
//! A lap goes over the waiting runs by id. Every process begins its own somewhere else, and passes over what another
//! has locked, so any number of them share the work. Runs with something to purge are left to their deliveries.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    faults::{self, Point},
    ids::{OrgId, RunId},
    postgres::{Database, Patience, Transaction},
    purge::{self, AtRest},
};

/// A run that was closed because there was nothing to purge.
#[derive(Debug, Clone)]
pub struct ClosedRun {
    /// The run.
    pub id: RunId,
    /// Whose.
    pub org: OrgId,
    /// Who had asked for it.
    pub trigger: String,
    /// The span that asked for it, as W3C Trace Context.
    pub traceparent: Option<String>,
}

/// What one look came to.
#[derive(Debug, Default)]
pub struct Look {
    /// The last run looked at; none: the lap is over.
    pub last: Option<Uuid>,
    /// What was closed.
    pub closed: Vec<ClosedRun>,
}

/// A run that waits for its first attempt.
struct Waiting {
    id: Uuid,
    org_id: Uuid,
    trigger: String,
    delivery_id: Option<String>,
    plan: Option<String>,
    traceparent: Option<String>,
    now: DateTime<Utc>,
}

/// Looks at up to `limit` waiting runs after `after`, by id, and closes those with nothing to purge on behalf of
/// `worker`.
///
/// # Errors
/// When the database fails, or it takes too long; then nothing was closed.
pub async fn close_idle(
    database: &Database,
    worker: &str,
    max_attempts: i32,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Look> {
    let mut tx = database.begin_yielding(Patience::Short).await?;
    let waiting = lock_waiting(&mut tx, after, limit).await?;
    let Some(last) = waiting.last() else {
        tx.rollback().await?;
        return Ok(Look::default());
    };
    let (last, now) = (last.id, last.now);
    let organizations = waiting
        .iter()
        .map(|run| (OrgId(run.org_id), run.plan.as_deref()));
    let at_rest = purge::at_rest(&mut tx, organizations.collect(), now).await?;
    let idle: Vec<_> = waiting
        .into_iter()
        .zip(at_rest)
        .filter_map(|(run, rest)| Some((run, rest?)))
        .collect();
    if idle.is_empty() {
        tx.rollback().await?;
    } else {
        tx.keep_brief()?;
        close(&mut tx, &idle, worker, max_attempts).await?;
        faults::pass(Point::BeforeBulkClose);
        tx.commit().await?;
        faults::pass(Point::AfterBulkClose);
    }
    let closed = idle.into_iter().map(|(run, _)| ClosedRun {
        id: RunId(run.id),
        org: OrgId(run.org_id),
        trigger: run.trigger,
        traceparent: run.traceparent,
    });
    Ok(Look {
        last: Some(last),
        closed: closed.collect(),
    })
}

/// Runs that have never been started. Whoever claims one now waits for us, or is passed over.
async fn lock_waiting(
    tx: &mut Transaction<'_>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<Waiting>> {
    sqlx::query_as!(
        Waiting,
        r#"-- queue.lock_waiting
        SELECT r.id, r.org_id, r.trigger, r.delivery_id, r.traceparent,
               (SELECT o.plan FROM public.organizations o WHERE o.id = r.org_id) AS plan, now() AS "now!"
        FROM retention.purge_runs r
        WHERE r.status = 'queued' AND r.attempts = 0 AND r.policy IS NULL
          AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= now()) AND r.id > $1
        ORDER BY r.id LIMIT $2
        FOR UPDATE OF r SKIP LOCKED"#,
        after,
        limit
    )
    .fetch_all(tx)
    .await
}

/// Writes what an attempt that finds nothing would have written, and takes back the deliveries that nobody fetched yet.
async fn close(
    tx: &mut Transaction<'_>,
    idle: &[(Waiting, AtRest)],
    worker: &str,
    max_attempts: i32,
) -> sqlx::Result<()> {
    let (mut runs, mut plans, mut policies, mut deliveries) = (vec![], vec![], vec![], vec![]);
    let (mut of_run, mut tables, mut cutoffs, mut kept) = (vec![], vec![], vec![], vec![]);
    for (run, rest) in idle {
        runs.push(run.id);
        plans.push(rest.plan.name().to_owned());
        policies.push(Json(rest.plan.policy()));
        deliveries.extend(run.delivery_id.clone());
        for (table, cutoff, rows) in rest.by_table() {
            of_run.push(run.id);
            tables.push(table.to_owned());
            cutoffs.push(cutoff.map(|cutoff| cutoff.0));
            kept.push(i64::try_from(rows).unwrap_or(i64::MAX));
        }
    }
    // The steps first: once a run is final its steps are, too.
    sqlx::query!(
        "-- queue.close_idle_steps
         INSERT INTO retention.purge_run_steps
             (run_id, table_name, cutoff, status, rows_kept, started_at, finished_at)
         SELECT s.run_id, s.table_name, s.cutoff, CASE WHEN s.cutoff IS NULL THEN 'no_rule' ELSE 'succeeded' END,
                s.kept, now(), now()
         FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[]) AS s (run_id, table_name, cutoff, kept)",
        &of_run,
        &tables,
        &cutoffs as _,
        &kept
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "-- queue.close_idle
         WITH closed AS (
             UPDATE retention.purge_runs r
             SET status = 'succeeded', token = r.token + 1, attempts = 1, max_attempts = $5, worker = $4,
                 plan = c.plan, policy = c.policy, started_at = now(), verified_at = now(), finished_at = now(),
                 next_attempt_at = NULL
             FROM unnest($1::uuid[], $2::text[], $3::jsonb[]) AS c (id, plan, policy)
             WHERE r.id = c.id
         )
         DELETE FROM apalis.jobs WHERE id = ANY ($6) AND status = 'Pending'",
        &runs,
        &plans,
        &policies as _,
        worker,
        max_attempts,
        &deliveries
    )
    .execute(tx)
    .await?;
    Ok(())
}
