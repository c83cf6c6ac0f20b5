//! The run's record while it is purged: who owns it, under which policy, and what went. Everything here stands
//! in the transaction of the rows it speaks of.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::{
    PurgeError,
    datasets::{DATASETS, Remains},
};
use crate::{
    ids::{OrgId, RunId},
    postgres::Transaction,
    retention::{Cutoffs, Plan, ResolveError, RetentionPolicy},
};

/// A run that this process has claimed: the right to purge, for as long as its token is the run's.
#[derive(Debug, Clone)]
pub struct OwnedRun {
    /// The run.
    pub id: RunId,
    /// Whose rows.
    pub org: OrgId,
    /// The ownership (fencing) token of this claim.
    pub token: i64,
    /// Who asked: `schedule`, `purge_now` or `replay`.
    pub trigger: String,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// How many there may be.
    pub max_attempts: i32,
    /// When the run first started, by Postgres's clock: what its cutoffs are counted from.
    pub started_at: DateTime<Utc>,
    /// The policy that earlier attempts recorded.
    pub policy: Option<RetentionPolicy>,
    /// The span that asked for it, as W3C Trace Context.
    pub traceparent: Option<String>,
    /// The span that asked for the run that this one repeats.
    pub repeated: Option<String>,
}

/// Proves, for the rest of the transaction, that `run` is still owned, and reads the organization's plan. The
/// run's row and the organization's are locked against change until the transaction ends.
pub(super) async fn prove(tx: &mut Transaction<'_>, run: &OwnedRun) -> Result<Plan, PurgeError> {
    let proof = sqlx::query!(
        r#"-- purge.prove_ownership
        SELECT r.status = 'running' AND r.token = $2 AS "owned!", retention.hold_plan(r.org_id) AS plan
        FROM retention.purge_runs r
        WHERE r.id = $1
        FOR SHARE"#,
        run.id.0,
        run.token
    )
    .fetch_optional(tx)
    .await?;
    let Some(proof) = proof.filter(|proof| proof.owned) else {
        return Err(PurgeError::Superseded);
    };
    let plan = proof.plan.ok_or(ResolveError::NoOrganization(run.org))?;
    Ok(plan
        .parse()
        .map_err(|unknown| ResolveError::UnknownPlan(run.org, unknown))?)
}

/// Freezes the plan and policy on the run, and the cutoffs on its steps. The transaction has proved ownership.
pub(super) async fn record_policy(
    tx: &mut Transaction<'_>,
    run: &OwnedRun,
    plan: Plan,
    policy: RetentionPolicy,
    cutoffs: &Cutoffs,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- purge.record_policy
         UPDATE retention.purge_runs SET plan = $2, policy = $3 WHERE id = $1",
        run.id.0,
        plan.name(),
        Json(policy) as _
    )
    .execute(&mut *tx)
    .await?;
    let (tables, cutoffs): (Vec<String>, Vec<Option<DateTime<Utc>>>) = DATASETS
        .iter()
        .flat_map(|dataset| {
            let cutoff = cutoffs.get(dataset.name()).map(|cutoff| cutoff.0);
            dataset
                .tables()
                .iter()
                .map(move |table| ((*table).to_owned(), cutoff))
        })
        .unzip();
    sqlx::query!(
        "-- purge.record_cutoffs
         INSERT INTO retention.purge_run_steps (run_id, table_name, cutoff, status)
         SELECT $1, s.table_name, s.cutoff, CASE WHEN s.cutoff IS NULL THEN 'no_rule' ELSE 'pending' END
         FROM unnest($2::text[], $3::timestamptz[]) AS s (table_name, cutoff)
         ON CONFLICT (run_id, table_name) DO UPDATE
         SET cutoff = EXCLUDED.cutoff, status = EXCLUDED.status",
        run.id.0,
        &tables,
        &cutoffs as _
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Adds one batch's counts to the run's steps. Must commit with the deletions.
pub(super) async fn record_batch(
    tx: &mut Transaction<'_>,
    run: &OwnedRun,
    tables: &[&str],
    purged: &[u64],
) -> sqlx::Result<()> {
    let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
    let purged: Vec<i64> = purged
        .iter()
        .map(|rows| i64::try_from(*rows).unwrap_or(i64::MAX))
        .collect();
    sqlx::query!(
        "-- purge.record_batch
         UPDATE retention.purge_run_steps s
         SET rows_purged = s.rows_purged + b.purged, batches = s.batches + 1, status = 'running',
             started_at = coalesce(s.started_at, now())
         FROM unnest($2::text[], $3::bigint[]) AS b (table_name, purged)
         WHERE s.run_id = $1 AND s.table_name = b.table_name",
        run.id.0,
        &tables,
        &purged
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// One table's part of a closed run, all attempts together.
#[derive(Debug, Clone)]
pub struct ClosedStep {
    /// The table.
    pub table_name: String,
    /// Rows strictly older went; none: no rule.
    pub cutoff: Option<DateTime<Utc>>,
    /// Rows purged.
    pub rows_purged: i64,
    /// Expired rows that a rule protects.
    pub rows_kept: i64,
}

/// Closes the steps of a verified run, with what its rules kept. Must commit with the run's own closing.
///
/// # Errors
/// When Postgres fails.
pub async fn close_steps(
    tx: &mut Transaction<'_>,
    run: RunId,
    remains: &[Remains],
) -> sqlx::Result<Vec<ClosedStep>> {
    let (tables, kept): (Vec<String>, Vec<i64>) = DATASETS
        .iter()
        .zip(remains)
        .flat_map(|(dataset, remains)| dataset.tables().iter().zip(&remains.kept))
        .map(|(table, kept)| {
            (
                (*table).to_owned(),
                i64::try_from(*kept).unwrap_or(i64::MAX),
            )
        })
        .unzip();
    sqlx::query_as!(
        ClosedStep,
        "-- purge.close_steps
         UPDATE retention.purge_run_steps s
         SET rows_kept = k.kept, status = CASE WHEN s.cutoff IS NULL THEN 'no_rule' ELSE 'succeeded' END,
             started_at = coalesce(s.started_at, now()), finished_at = now()
         FROM unnest($2::text[], $3::bigint[]) AS k (table_name, kept)
         WHERE s.run_id = $1 AND s.table_name = k.table_name
         RETURNING s.table_name, s.cutoff, s.rows_purged, s.rows_kept",
        run.0,
        &tables,
        &kept
    )
    .fetch_all(tx)
    .await
}
