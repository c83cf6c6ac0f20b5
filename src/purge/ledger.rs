//! The run's record while it is purged: who owns it, under which policy, and what went. Everything here stands
//! in the transaction of the rows it speaks of.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;

use super::{
    PurgeError,
    datasets::{DATASETS, Progress, Remains},
    pace::Throttle,
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
    /// Whether somebody waited for it at the claim.
    pub urgent: bool,
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
    /// The run that this one repeats.
    pub replay_of: Option<RunId>,
    /// The span that asked for it.
    pub repeated: Option<String>,
}

/// What an attempt goes by. The policy was frozen when the run first started, and has only been lengthened since.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The organization's plan, as read now.
    pub plan: Plan,
    /// The longest windows that the run has seen.
    pub policy: RetentionPolicy,
    /// What is older goes.
    pub cutoffs: Cutoffs,
    /// How far earlier attempts had come, in the datasets' order.
    pub(super) progress: Vec<Progress>,
}

/// An organization's plan as it is written, or why it has none.
fn resolved(org: OrgId, plan: Option<&str>) -> Result<Plan, ResolveError> {
    plan.ok_or(ResolveError::NoOrganization(org))?
        .parse()
        .map_err(|unknown| ResolveError::UnknownPlan(org, unknown))
}

/// What holds for the rest of a transaction.
pub(super) struct Proof {
    /// The organization's plan.
    pub(super) plan: Plan,
    /// Whether somebody waits for the run.
    pub(super) is_urgent: bool,
}

/// Proves, for the rest of the transaction, that `run` is still owned, and reads the organization's plan. The
/// run's row and the organization's are locked against change until the transaction ends.
pub(super) async fn prove(tx: &mut Transaction<'_>, run: &OwnedRun) -> Result<Proof, PurgeError> {
    let proof = sqlx::query!(
        r#"-- purge.prove_ownership
        SELECT r.status = 'running' AND r.token = $2 AS "owned!", r.urgent,
               coalesce(retention.excerpt(main_app.lock_plan(r.org_id)),
                        (SELECT '' FROM main_app.organizations o WHERE o.id = r.org_id)) AS plan
        FROM retention.purge_runs r
        WHERE r.id = $1
        FOR SHARE"#,
        run.id.0,
        run.token
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(proof) = proof.filter(|proof| proof.owned) else {
        return Err(PurgeError::Superseded);
    };
    // Who waited above for the transaction that deletes the organization still sees it there by that statement's snapshot.
    if proof.plan.as_deref() == Some("") && !exists(tx, run.org).await? {
        return Err(PurgeError::OrganizationGone(run.org));
    }
    Ok(Proof {
        plan: resolved(run.org, proof.plan.as_deref())?,
        is_urgent: proof.urgent,
    })
}

/// Whether the organization exists, as of now.
async fn exists(tx: &mut Transaction<'_>, org: OrgId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- purge.organization_exists
        SELECT EXISTS (SELECT FROM main_app.organizations o WHERE o.id = $1) AS "exists!""#,
        org.0
    )
    .fetch_one(tx)
    .await
}

/// Freezes the terms of `run`, whose organization's plan is written as `plan`: of what earlier attempts recorded and
/// that plan, the longer windows. The transaction has claimed the run, or proved its ownership.
///
/// # Errors
/// When the plan is none, or the database fails.
pub async fn settle_terms(
    tx: &mut Transaction<'_>,
    run: &OwnedRun,
    plan: Option<&str>,
) -> Result<Terms, PurgeError> {
    let plan = resolved(run.org, plan)?;
    record_terms(tx, run, plan, run.policy).await
}

/// The same for a plan that is read already, over the windows `so_far`.
pub(super) async fn record_terms(
    tx: &mut Transaction<'_>,
    run: &OwnedRun,
    plan: Plan,
    so_far: Option<RetentionPolicy>,
) -> Result<Terms, PurgeError> {
    let policy = so_far.map_or(plan.policy(), |policy| policy.longer(plan.policy()));
    let cutoffs = policy.cutoffs(run.started_at);
    let (tables, by_table): (Vec<String>, Vec<Option<DateTime<Utc>>>) = DATASETS
        .iter()
        .flat_map(|dataset| {
            let cutoff = cutoffs.get(dataset.name()).map(|cutoff| cutoff.0);
            dataset
                .tables()
                .iter()
                .map(move |table| ((*table).to_owned(), cutoff))
        })
        .unzip();
    let mut steps = sqlx::query!(
        "-- purge.record_terms
         WITH frozen AS (
             UPDATE retention.purge_runs SET plan = $2, policy = $3 WHERE id = $1
         )
         INSERT INTO retention.purge_run_steps (run_id, table_name, cutoff, status)
         SELECT $1, s.table_name, s.cutoff, CASE WHEN s.cutoff IS NULL THEN 'no_rule' ELSE 'pending' END
         FROM unnest($4::text[], $5::timestamptz[]) AS s (table_name, cutoff)
         ON CONFLICT (run_id, table_name) DO UPDATE
         SET cutoff = EXCLUDED.cutoff, status = EXCLUDED.status
         RETURNING table_name, passed_at, passed_key",
        run.id.0,
        plan.name(),
        Json(policy) as _,
        &tables,
        &by_table as _
    )
    .fetch_all(tx)
    .await?;
    let progress = DATASETS.iter().map(|dataset| {
        let own = steps
            .iter_mut()
            .find(|step| step.table_name == dataset.tables()[0]);
        own.map_or_else(Progress::default, |step| {
            Progress::resumed(step.passed_at.take(), step.passed_key.take())
        })
    });
    Ok(Terms {
        plan,
        policy,
        cutoffs,
        progress: progress.collect(),
    })
}

/// What a transaction did to one dataset.
pub(super) struct Part<'a> {
    /// The dataset's tables, its own first.
    pub(super) tables: &'static [&'static str],
    /// Rows deleted, by table.
    pub(super) purged: &'a [u64],
    /// How far it has come in the dataset.
    pub(super) progress: &'a Progress,
    /// Rows of other tables that went along, by table.
    pub(super) cascaded: Option<&'a Value>,
}

/// Adds a transaction's counts to the run's steps, and to the first of them what it had waited for. Must commit with the
/// deletions.
pub(super) async fn record_batch(
    tx: &mut Transaction<'_>,
    run: &OwnedRun,
    parts: &[Part<'_>],
    throttled: Option<(Throttle, Duration)>,
) -> sqlx::Result<()> {
    let (mut tables, mut purged, mut at, mut key) = (vec![], vec![], vec![], vec![]);
    let mut cascaded = vec![];
    for part in parts {
        for (table, rows) in part.tables.iter().zip(part.purged) {
            let last = part.progress.last().filter(|_| *table == part.tables[0]);
            tables.push((*table).to_owned());
            purged.push(i64::try_from(*rows).unwrap_or(i64::MAX));
            at.push(last.map(|(at, _)| at.to_owned()));
            key.push(last.map(|(_, key)| key.to_owned()));
            cascaded.push(part.cascaded.filter(|_| *table == part.tables[0]));
        }
    }
    sqlx::query!(
        "-- purge.record_batch
         UPDATE retention.purge_run_steps s
         SET rows_purged = s.rows_purged + b.purged, batches = s.batches + 1, status = 'running',
             started_at = coalesce(s.started_at, now()), passed_at = b.at, passed_key = b.key,
             throttle_reason = CASE WHEN b.table_name = ($2::text[])[1] THEN $6 ELSE s.throttle_reason END,
             throttled_ms = s.throttled_ms + CASE WHEN b.table_name = ($2::text[])[1] THEN $7::bigint ELSE 0 END,
             -- A count that is unknown once (null) stays unknown.
             cascaded = CASE WHEN b.cascaded IS NULL THEN s.cascaded ELSE (
                 SELECT jsonb_object_agg(t.key, t.rows)
                 FROM (SELECT e.key, CASE WHEN bool_and(e.value <> 'null') THEN sum(nullif(e.value, 'null')::bigint) END AS rows
                       FROM (SELECT * FROM jsonb_each(s.cascaded) UNION ALL SELECT * FROM jsonb_each(b.cascaded)) e
                       GROUP BY e.key) t) END
         FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $8::jsonb[]) AS b (table_name, purged, at, key, cascaded)
         WHERE s.run_id = $1 AND s.table_name = b.table_name",
        run.id.0,
        &tables,
        &purged,
        &at as _,
        &key as _,
        throttled.map(|(reason, _)| reason.name()),
        throttled.map_or(0, |(_, waited)| {
            i64::try_from(waited.as_millis()).unwrap_or(i64::MAX)
        }),
        &cascaded as _
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

/// Closes the steps of a verified run, with what its rules kept. Must commit with the run's own closing. None are closed where
/// somebody else owns the run by now, or it is final.
///
/// # Errors
/// When Postgres fails.
pub async fn close_steps(
    tx: &mut Transaction<'_>,
    run: &OwnedRun,
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
           AND EXISTS (SELECT FROM retention.purge_runs r WHERE r.id = $1 AND r.token = $4 AND r.status = 'running')
         RETURNING s.table_name, s.cutoff, s.rows_purged, s.rows_kept",
        run.id.0,
        &tables,
        &kept,
        run.token
    )
    .fetch_all(tx)
    .await
}

/// The steps of a closed run.
///
/// # Errors
/// When Postgres fails.
pub async fn closed_steps(tx: &mut Transaction<'_>, run: RunId) -> sqlx::Result<Vec<ClosedStep>> {
    sqlx::query_as!(
        ClosedStep,
        "-- purge.closed_steps
         SELECT table_name, cutoff, rows_purged, rows_kept FROM retention.purge_run_steps WHERE run_id = $1",
        run.0
    )
    .fetch_all(tx)
    .await
}
