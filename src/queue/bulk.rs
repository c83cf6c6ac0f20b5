//! Many runs closed by one transaction. Each is verified, and has the record that an attempt of its own would have left.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use tracing::{Span, field};
use uuid::Uuid;

use crate::{
    faults::{self, Point},
    ids::{OrgId, RunId},
    postgres::{Database, Transaction},
    purge::{AtRest, Throttle},
    telemetry::traces,
};

/// A run that waits for its first attempt, locked by this transaction.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: Uuid,
    pub(super) org_id: Uuid,
    pub(super) trigger: String,
    pub(super) delivery_id: Option<String>,
    pub(super) plan: Option<String>,
    pub(super) traceparent: Option<String>,
    /// When the transaction began.
    pub(super) now: DateTime<Utc>,
}

impl Waiting {
    /// The run's span.
    pub(super) fn span(&self) -> Span {
        let span = tracing::info_span!("purge run", otel.kind = "consumer", run_id = %self.id, org_id = %self.org_id,
            attempt = 1, trigger = self.trigger, trace_id = field::Empty);
        traces::set_parent(&span, self.traceparent.as_deref());
        span
    }
}

/// A run that was closed together with others.
#[derive(Debug, Clone)]
pub struct ClosedRun {
    /// The run.
    pub id: RunId,
    /// Whose.
    pub org: OrgId,
    /// Who had asked for it.
    pub trigger: String,
    /// Its span.
    pub span: Span,
    /// What its record says.
    pub rest: AtRest,
}

/// A run that is about to be closed.
pub(super) struct Closing {
    pub(super) run: Waiting,
    pub(super) span: Span,
    pub(super) rest: AtRest,
}

impl From<Closing> for ClosedRun {
    fn from(closing: Closing) -> Self {
        Self {
            id: RunId(closing.run.id),
            org: OrgId(closing.run.org_id),
            trigger: closing.run.trigger,
            span: closing.span,
            rest: closing.rest,
        }
    }
}

/// On whose behalf runs are closed, and after what.
#[derive(Debug, Clone, Copy)]
pub struct Behalf<'a> {
    /// The worker.
    pub worker: &'a str,
    /// How many attempts each may have had.
    pub max_attempts: i32,
    /// What was waited for, and how long, before anything was purged.
    pub throttled: Option<(Throttle, Duration)>,
}

/// Writes what attempts that come to this end would have written, and takes back the deliveries that nobody fetched yet.
pub(super) async fn close(
    tx: &mut Transaction<'_>,
    closing: &[Closing],
    behalf: Behalf<'_>,
) -> sqlx::Result<()> {
    tx.keep_brief()?;
    // The steps first: once a run is final its steps are, too.
    insert_steps(tx, closing, behalf).await?;
    let (mut runs, mut plans, mut policies, mut deliveries) = (vec![], vec![], vec![], vec![]);
    for Closing { run, rest, .. } in closing {
        runs.push(run.id);
        plans.push(rest.plan().name().to_owned());
        policies.push(Json(rest.plan().policy()));
        deliveries.extend(run.delivery_id.clone());
    }
    tx.keep_brief()?;
    sqlx::query!(
        "-- queue.close_together
         WITH closed AS (
             UPDATE retention.purge_runs r
             SET status = 'succeeded', token = r.token + 1, attempts = 1, max_attempts = $5, worker = $4,
                 plan = c.plan, policy = c.policy, started_at = now(), verified_at = statement_timestamp(),
                 finished_at = statement_timestamp(), next_attempt_at = NULL
             FROM unnest($1::uuid[], $2::text[], $3::jsonb[]) AS c (id, plan, policy)
             -- By their keys: the first condition alone leaves room for reading all of them in order.
             WHERE r.id = c.id AND r.id = ANY ($1)
         )
         -- `IS TRUE`: by their keys, too. By the index of what is pending this would read the whole queue.
         DELETE FROM apalis.jobs WHERE id = ANY ($6) AND (status = 'Pending') IS TRUE",
        &runs,
        &plans,
        &policies as _,
        behalf.worker,
        behalf.max_attempts,
        &deliveries
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Commits what [`close`] wrote: then the runs are closed. Where the reply is lost, the runs' records tell.
pub(super) async fn commit(
    database: &Database,
    tx: Transaction<'_>,
    mut closing: Vec<Closing>,
    behalf: Behalf<'_>,
) -> sqlx::Result<Vec<ClosedRun>> {
    faults::pass(Point::BeforeBulkClose);
    if let Err(error) = tx.commit().await {
        let runs: Vec<_> = closing.iter().map(|closing| closing.run.id).collect();
        let closed = closed_by(database, &runs, behalf.worker).await?;
        if closed.is_empty() {
            return Err(error);
        }
        closing.retain(|closing| closed.contains(&closing.run.id));
    }
    faults::pass(Point::AfterBulkClose);
    Ok(closing.into_iter().map(ClosedRun::from).collect())
}

/// Which of the runs this process has closed, by their records.
async fn closed_by(database: &Database, runs: &[Uuid], worker: &str) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "-- queue.closed_by
         SELECT id FROM retention.purge_runs WHERE id = ANY ($1) AND worker = $2 AND status = 'succeeded'",
        runs,
        worker
    )
    .fetch_all(database)
    .await
}

/// The runs' steps. What was waited for stands on the first that purged anything.
async fn insert_steps(
    tx: &mut Transaction<'_>,
    closing: &[Closing],
    behalf: Behalf<'_>,
) -> sqlx::Result<()> {
    let (mut of_run, mut tables, mut cutoffs) = (vec![], vec![], vec![]);
    let (mut purged, mut kept, mut batches) = (vec![], vec![], vec![]);
    let (mut at, mut key, mut reasons, mut waited) = (vec![], vec![], vec![], vec![]);
    let mut cascaded = vec![];
    let mut throttled = behalf.throttled;
    for Closing { run, rest, .. } in closing {
        for table in rest.by_table() {
            of_run.push(run.id);
            tables.push(table.table.to_owned());
            cutoffs.push(table.cutoff.map(|cutoff| cutoff.0));
            purged.push(i64::try_from(table.purged).unwrap_or(i64::MAX));
            kept.push(i64::try_from(table.kept).unwrap_or(i64::MAX));
            batches.push(i32::from(table.is_swept));
            at.push(table.last.map(|(at, _)| at.to_owned()));
            key.push(table.last.map(|(_, key)| key.to_owned()));
            cascaded.push(table.cascaded.cloned());
            let throttled = throttled.take_if(|_| table.is_swept);
            reasons.push(throttled.map(|(reason, _)| reason.name().to_owned()));
            waited.push(throttled.map_or(0, |(_, waited)| {
                i64::try_from(waited.as_millis()).unwrap_or(i64::MAX)
            }));
        }
    }
    sqlx::query!(
        "-- queue.close_together_steps
         INSERT INTO retention.purge_run_steps
             (run_id, table_name, cutoff, status, rows_purged, rows_kept, batches, passed_at, passed_key,
              throttle_reason, throttled_ms, cascaded, started_at, finished_at)
         SELECT s.run_id, s.table_name, s.cutoff, CASE WHEN s.cutoff IS NULL THEN 'no_rule' ELSE 'succeeded' END,
                s.purged, s.kept, s.batches, s.at, s.key, s.reason, s.waited, s.cascaded, now(), statement_timestamp()
         FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::int[], $7::text[],
                     $8::text[], $9::text[], $10::bigint[], $11::jsonb[])
              AS s (run_id, table_name, cutoff, purged, kept, batches, at, key, reason, waited, cascaded)",
        &of_run,
        &tables,
        &cutoffs as _,
        &purged,
        &kept,
        &batches,
        &at as _,
        &key as _,
        &reasons as _,
        &waited,
        &cascaded as _
    )
    .execute(tx)
    .await?;
    Ok(())
}
