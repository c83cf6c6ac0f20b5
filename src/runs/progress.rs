//! The progress of runs at work: the proof of ownership, and the counts of each batch. All of it stands in the transaction of
//! the rows that it speaks of.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;

use super::{
    claim::{FrozenPolicy, OwnedRun, resolve},
    record::{StepStatus, ThrottleReason},
};
use crate::{
    ids::RunId,
    postgres::{Database, Transaction},
    retention::{Cutoff, Plan, ResolveError},
};

/// How far a sweep has come in a dataset: the timestamp and key of the last row it looked at, oldest first.
///
/// Both are Postgres's own text, so that every value that a column can hold (`-infinity` too) survives the way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowCursor {
    /// The timestamp.
    pub at: String,
    /// The key.
    pub key: String,
}

/// What holds for one run until the transaction ends.
#[derive(Debug)]
pub struct Fence {
    /// The plan of its organization, or the reason why it has none.
    pub plan: Result<Plan, ResolveError>,
    /// Whether somebody waits for the run.
    pub is_urgent: bool,
}

/// Proves that each of `runs` is still owned, and reads the plan of its organization. The rows of the run and of the
/// organization stay locked against change until the transaction ends. `None`: the run is not ours any more.
///
/// # Errors
/// When the database fails.
pub async fn check_fence(
    tx: &mut Transaction<'_>,
    runs: &[&OwnedRun],
) -> sqlx::Result<Vec<Option<Fence>>> {
    let (ids, tokens): (Vec<_>, Vec<_>) = runs.iter().map(|run| (run.id.0, run.token)).unzip();
    let found = sqlx::query!(
        r#"-- runs.check_fence
        SELECT r.id, r.urgent, r.plan
        FROM unnest($1::uuid[], $2::bigint[]) AS f (id, token)
        CROSS JOIN LATERAL (
            SELECT r.id, r.status, r.token, r.urgent,
                   coalesce(retention.excerpt(main_app.lock_plan(r.org_id)),
                            (SELECT '' FROM main_app.organizations o WHERE o.id = r.org_id)) AS plan
            FROM retention.purge_runs r WHERE r.id = f.id
            FOR SHARE) r
        WHERE r.status = 'running' AND r.token = f.token"#,
        &ids,
        &tokens
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut fences = Vec::with_capacity(runs.len());
    for run in runs {
        let Some(found) = found.iter().find(|found| found.id == run.id.0) else {
            fences.push(None);
            continue;
        };
        // A transaction that deletes the organization may have held us up. Our statement's snapshot still sees it.
        let is_gone = found.plan.as_deref() == Some("") && !organization_exists(tx, run).await?;
        fences.push(Some(Fence {
            plan: if is_gone {
                Err(ResolveError::NoOrganization(run.org))
            } else {
                resolve(run.org, found.plan.as_deref())
            },
            is_urgent: found.urgent,
        }));
    }
    Ok(fences)
}

async fn organization_exists(tx: &mut Transaction<'_>, run: &OwnedRun) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- runs.organization_exists
        SELECT EXISTS (SELECT FROM main_app.organizations o WHERE o.id = $1) AS "exists!""#,
        run.org.0
    )
    .fetch_one(tx)
    .await
}

/// Records a policy that has become longer since the claim. `false`: the run is not ours any more.
///
/// # Errors
/// When the database fails.
pub async fn freeze_policy(
    tx: &mut Transaction<'_>,
    run: &OwnedRun,
    policy: &FrozenPolicy,
) -> sqlx::Result<bool> {
    let frozen = sqlx::query!(
        "-- runs.freeze_policy
         UPDATE retention.purge_runs SET plan = $3, policy = $4 WHERE id = $1 AND token = $2 AND status = 'running'",
        run.id.0,
        run.token,
        policy.plan.name(),
        Json(policy.windows) as _
    )
    .execute(tx)
    .await?;
    Ok(frozen.rows_affected() > 0)
}

/// Writes the rows of runs once more as they are, and waits until that is on the disk, and with it everything that was committed
/// before. Batches in low-impact mode wait for no flush: without this, a crash of Postgres could undo deletions that a run has
/// already verified.
///
/// # Errors
/// When the database fails.
pub async fn flush(database: &Database, runs: &[RunId]) -> sqlx::Result<()> {
    let runs: Vec<_> = runs.iter().map(|run| run.0).collect();
    let mut tx = database
        .begin_by_key(&["SET LOCAL synchronous_commit = on"])
        .await?;
    sqlx::query!(
        "-- runs.flush
         UPDATE retention.purge_runs SET worker = worker WHERE id = ANY ($1) AND (status = 'running') IS TRUE",
        &runs
    )
    .execute(&mut tx)
    .await?;
    tx.commit().await
}

/// What has happened to one table since the record of the run was last written.
#[derive(Debug, Clone)]
pub struct StepDelta {
    /// The run.
    pub run: RunId,
    /// The table.
    pub table: &'static str,
    /// Rows strictly older are expired; none: no rule.
    pub cutoff: Option<Cutoff>,
    /// The step's status from now on. [`StepStatus::Pending`] leaves it as it is.
    pub status: StepStatus,
    /// Rows deleted.
    pub purged: u64,
    /// Batches that deleted them.
    pub batches: i32,
    /// Expired rows that a rule protects; none: unknown yet.
    pub kept: Option<u64>,
    /// How far the sweep has come; none: no further.
    pub cursor: Option<RowCursor>,
    /// Why batches had to wait, and how long.
    pub throttled: Option<(ThrottleReason, Duration)>,
    /// Rows of other tables that a foreign key deleted along, by table.
    pub cascaded: Option<Value>,
}

impl StepDelta {
    /// Nothing has happened.
    #[must_use]
    pub fn new(
        run: RunId,
        table: &'static str,
        cutoff: Option<Cutoff>,
        status: StepStatus,
    ) -> Self {
        Self {
            run,
            table,
            cutoff,
            status,
            purged: 0,
            batches: 0,
            kept: None,
            cursor: None,
            throttled: None,
            cascaded: None,
        }
    }
}

/// What a run did to one table, all attempts together.
#[derive(Debug, Clone)]
pub struct StepTotal {
    /// The run.
    pub run: RunId,
    /// The table.
    pub table: String,
    /// Rows strictly older are expired; none: no rule.
    pub cutoff: Option<DateTime<Utc>>,
    /// Rows purged.
    pub rows_purged: i64,
    /// Expired rows that a rule protects.
    pub rows_kept: i64,
}

/// Adds `deltas` to the steps of their runs, and returns the new totals. It must stand in the transaction that deletes, or
/// ends the runs, and has proved that it owns them.
///
/// # Errors
/// When the database fails.
pub async fn record(
    tx: &mut Transaction<'_>,
    deltas: &[StepDelta],
) -> sqlx::Result<Vec<StepTotal>> {
    let (mut runs, mut tables, mut cutoffs, mut statuses) = (vec![], vec![], vec![], vec![]);
    let (mut purged, mut kept, mut batches) = (vec![], vec![], vec![]);
    let (mut at, mut key, mut reasons, mut waited) = (vec![], vec![], vec![], vec![]);
    let mut cascaded = vec![];
    let count = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
    for delta in deltas {
        runs.push(delta.run.0);
        tables.push(delta.table.to_owned());
        cutoffs.push(delta.cutoff.map(|cutoff| cutoff.0));
        statuses.push(delta.status.name().to_owned());
        purged.push(count(delta.purged));
        batches.push(delta.batches);
        kept.push(delta.kept.map(count));
        at.push(delta.cursor.as_ref().map(|cursor| cursor.at.clone()));
        key.push(delta.cursor.as_ref().map(|cursor| cursor.key.clone()));
        reasons.push(delta.throttled.map(|(reason, _)| reason.name().to_owned()));
        waited.push(delta.throttled.map_or(0, |(_, waited)| {
            i64::try_from(waited.as_millis()).unwrap_or(i64::MAX)
        }));
        cascaded.push(delta.cascaded.clone());
    }
    let totals = sqlx::query!(
        r#"-- runs.record
        INSERT INTO retention.purge_run_steps AS s
            (run_id, table_name, cutoff, status, rows_purged, rows_kept, batches, cursor_at, cursor_key,
             throttle_reason, throttled_ms, cascaded, started_at, finished_at)
        SELECT d.run_id, d.table_name, d.cutoff, d.status, d.purged, coalesce(d.kept, 0), d.batches, d.at, d.key,
               d.reason, d.waited, d.cascaded,
               CASE WHEN d.status <> 'pending' THEN now() END,
               CASE WHEN d.status IN ('succeeded', 'no_rule') AND d.kept IS NOT NULL THEN statement_timestamp() END
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::bigint[], $6::bigint[], $7::int[], $8::text[],
                    $9::text[], $10::text[], $11::bigint[], $12::jsonb[])
             AS d (run_id, table_name, cutoff, status, purged, kept, batches, at, key, reason, waited, cascaded)
        ON CONFLICT (run_id, table_name) DO UPDATE
        SET cutoff = EXCLUDED.cutoff,
            status = CASE WHEN EXCLUDED.status = 'pending' THEN s.status ELSE EXCLUDED.status END,
            rows_purged = s.rows_purged + EXCLUDED.rows_purged,
            rows_kept = greatest(s.rows_kept, EXCLUDED.rows_kept),
            batches = s.batches + EXCLUDED.batches,
            cursor_at = coalesce(EXCLUDED.cursor_at, s.cursor_at),
            cursor_key = coalesce(EXCLUDED.cursor_key, s.cursor_key),
            throttle_reason = CASE WHEN EXCLUDED.batches > 0 THEN EXCLUDED.throttle_reason
                                   ELSE coalesce(EXCLUDED.throttle_reason, s.throttle_reason) END,
            throttled_ms = s.throttled_ms + EXCLUDED.throttled_ms,
            started_at = coalesce(s.started_at, EXCLUDED.started_at),
            finished_at = coalesce(EXCLUDED.finished_at, s.finished_at),
            -- A count that is unknown once (null) stays unknown.
            cascaded = CASE WHEN EXCLUDED.cascaded IS NULL THEN s.cascaded ELSE (
                SELECT jsonb_object_agg(t.key, t.rows)
                FROM (SELECT e.key, CASE WHEN bool_and(e.value <> 'null') THEN sum(nullif(e.value, 'null')::bigint) END AS rows
                      FROM (SELECT * FROM jsonb_each(s.cascaded) UNION ALL SELECT * FROM jsonb_each(EXCLUDED.cascaded)) e
                      GROUP BY e.key) t) END
        RETURNING run_id, table_name, cutoff, rows_purged, rows_kept"#,
        &runs,
        &tables,
        &cutoffs as _,
        &statuses,
        &purged,
        &kept as _,
        &batches,
        &at as _,
        &key as _,
        &reasons as _,
        &waited,
        &cascaded as _
    )
    .fetch_all(tx)
    .await?;
    let totals = totals.into_iter().map(|step| StepTotal {
        run: RunId(step.run_id),
        table: step.table_name,
        cutoff: step.cutoff,
        rows_purged: step.rows_purged,
        rows_kept: step.rows_kept,
    });
    Ok(totals.collect())
}
