//! Reading runs: one, or a page of them, newest first, each with its steps.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    cursor::Cursor,
    record::{Run, RunStatus, Step, Trigger},
};
use crate::{
    ids::{OrgId, RunId},
    postgres::Database,
    retention::DatasetName,
};

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only this organization's.
    pub org: Option<OrgId>,
    /// Only those in this status.
    pub status: Option<RunStatus>,
    /// Only those of this error kind.
    pub error_kind: Option<String>,
    /// Only those created at this time or after it.
    pub since: Option<DateTime<Utc>>,
    /// Only those created before this time.
    pub until: Option<DateTime<Utc>>,
    /// Only these.
    pub ids: Option<Vec<Uuid>>,
}

/// A page of runs.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = RunPage)]
pub struct Page {
    /// Newest first. A page ends early where it would be longer than an answer may be.
    pub items: Vec<Run>,
    /// Where to go on; none: this was the last page.
    #[schema(value_type = Option<String>)]
    pub next_cursor: Option<Cursor>,
}

impl Page {
    /// Ends the page after `most` runs, if it has more.
    pub fn end_after(&mut self, most: usize) {
        if self.items.len() <= most {
            return;
        }
        self.items.truncate(most);
        let last = self.items.last();
        self.next_cursor = last.map(|run| Cursor::after(run.created_at, run.id.0));
    }
}

/// One run with its steps.
///
/// # Errors
/// When the database fails.
pub async fn get(database: &Database, id: RunId) -> sqlx::Result<Option<Run>> {
    Ok(select(database, Some(id), &RunFilter::default(), None, 1)
        .await?
        .pop())
}

/// At most `limit` runs, newest first, after `cursor`.
///
/// # Errors
/// When the database fails.
pub async fn list(
    database: &Database,
    filter: &RunFilter,
    cursor: Option<Cursor>,
    limit: u32,
) -> sqlx::Result<Page> {
    // One more than asked for tells whether there is a next page.
    let items = select(database, None, filter, cursor, i64::from(limit) + 1).await?;
    let mut page = Page {
        items,
        next_cursor: None,
    };
    page.end_after(limit as usize);
    Ok(page)
}

/// The one query behind every view of runs.
async fn select(
    database: &Database,
    id: Option<RunId>,
    filter: &RunFilter,
    cursor: Option<Cursor>,
    limit: i64,
) -> sqlx::Result<Vec<Run>> {
    let tables: Vec<String> = DatasetName::ALL
        .iter()
        .flat_map(|dataset| dataset.tables())
        .map(|table| (*table).to_owned())
        .collect();
    let (created_at, after_id) = cursor.map(Cursor::place).unzip();
    let mut runs = sqlx::query_as!(
        Run,
        r#"-- runs.select_runs
        SELECT r.id AS "id: RunId", r.org_id AS "org_id: OrgId", r.trigger AS "trigger: Trigger",
               retention.excerpt(r.requested_by) AS "requested_by!", retention.long_excerpt(r.reason) AS reason,
               r.scheduled_for, r.replay_of, r.status AS "status: RunStatus", retention.excerpt(r.plan) AS plan, left(r.policy::text, 2000) AS policy,
               r.attempts, r.max_attempts,
               r.next_attempt_at, r.created_at, r.started_at, r.finished_at, r.verified_at,
               retention.excerpt(r.error_kind) AS error_kind, retention.long_excerpt(r.error) AS error,
               coalesce((SELECT json_agg(s) FROM (
                             SELECT retention.excerpt(s.table_name) AS table_name, s.cutoff, s.status, s.rows_purged, s.rows_kept,
                                    s.batches, s.started_at, s.finished_at,
                                    retention.excerpt(s.throttle_reason) AS throttle_reason, s.throttled_ms,
                                    left(s.cascaded::text, 20000) AS cascaded
                             FROM retention.purge_run_steps s WHERE s.run_id = r.id
                             ORDER BY array_position($7::text[], s.table_name) LIMIT 20) s), '[]') AS "steps!: Json<Vec<Step>>"
        FROM retention.purge_runs r
        WHERE ($1::uuid IS NULL OR r.id = $1)
          AND ($2::uuid IS NULL OR r.org_id = $2)
          AND ($3::text IS NULL OR r.status = $3)
          AND ($4::timestamptz IS NULL OR (r.created_at, r.id) < ($4, $5::uuid))
          AND ($8::text IS NULL OR r.error_kind = $8)
          AND ($9::timestamptz IS NULL OR r.created_at >= $9)
          AND ($10::timestamptz IS NULL OR r.created_at < $10)
          AND ($11::uuid[] IS NULL OR r.id = ANY ($11))
        ORDER BY r.created_at DESC, r.id DESC
        LIMIT $6"#,
        id.map(|id| id.0),
        filter.org.map(|org| org.0),
        filter.status.map(RunStatus::name),
        created_at,
        after_id,
        limit,
        &tables,
        filter.error_kind.as_deref(),
        filter.since,
        filter.until,
        filter.ids.as_deref()
    )
    .fetch_all(database)
    .await?;
    runs.iter_mut().for_each(Run::add_pending_steps);
    Ok(runs)
}

/// Those of `ids` that are not final yet.
///
/// # Errors
/// When the database fails.
pub async fn unfinished(database: &Database, ids: &[Uuid]) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "-- runs.unfinished
         SELECT id FROM retention.purge_runs WHERE id = ANY ($1) AND status IN ('queued', 'running', 'retrying')",
        ids
    )
    .fetch_all(database)
    .await
}

/// What a set of runs purged.
#[derive(Debug, Clone)]
pub struct Total {
    /// The plan they ran under.
    pub plan: String,
    /// The table.
    pub table: String,
    /// Rows purged.
    pub rows_purged: i64,
    /// Expired rows that a rule protects.
    pub rows_kept: i64,
}

/// What the runs `ids` purged, by plan and table.
///
/// # Errors
/// When the database fails.
pub async fn totals(database: &Database, ids: &[Uuid]) -> sqlx::Result<Vec<Total>> {
    sqlx::query_as!(
        Total,
        r#"-- runs.totals
        SELECT retention.excerpt(r.plan) AS "plan!", s.table_name AS "table!", sum(s.rows_purged)::bigint AS "rows_purged!",
               sum(s.rows_kept)::bigint AS "rows_kept!"
        FROM retention.purge_runs r JOIN retention.purge_run_steps s ON s.run_id = r.id
        WHERE r.id = ANY ($1) AND r.plan IS NOT NULL
        GROUP BY 1, s.table_name"#,
        ids
    )
    .fetch_all(database)
    .await
}

/// A run that did not succeed.
#[derive(Debug, Clone)]
pub struct Unsuccessful {
    /// The run.
    pub id: Uuid,
    /// Whose run.
    pub org_id: Uuid,
    /// `failed` or `cancelled`.
    pub status: RunStatus,
    /// Its error kind.
    pub error_kind: Option<String>,
    /// What failed, why, and what to do.
    pub error: Option<String>,
}

/// Those of `ids` that ended other than well.
///
/// # Errors
/// When the database fails.
pub async fn unsuccessful(database: &Database, ids: &[Uuid]) -> sqlx::Result<Vec<Unsuccessful>> {
    sqlx::query_as!(
        Unsuccessful,
        r#"-- runs.unsuccessful
         SELECT id, org_id, status AS "status: RunStatus", retention.excerpt(error_kind) AS error_kind, retention.long_excerpt(error) AS error
         FROM retention.purge_runs
         WHERE id = ANY ($1) AND status IN ('failed', 'cancelled') ORDER BY created_at, id"#,
        ids
    )
    .fetch_all(database)
    .await
}

/// The runs of the schedule that are live, and were made or woken since `since`.
///
/// # Errors
/// When the database fails.
pub async fn live_since(database: &Database, since: DateTime<Utc>) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "-- runs.live_since
         SELECT id FROM retention.purge_runs
         WHERE status IN ('queued', 'running', 'retrying') AND created_at >= $1 ORDER BY id",
        since
    )
    .fetch_all(database)
    .await
}
