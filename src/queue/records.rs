//! Reading runs: one, or a page of them, newest first, each with its steps.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    cursor::Cursor,
    step::{Document, Step},
};
use crate::{
    ids::{OrgId, RunId},
    postgres::Database,
    purge::{PurgeError, datasets::tables},
};

/// A run's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the contract's own words")]
pub enum RunStatus {
    Queued,
    Running,
    Retrying,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunStatus {
    /// How many succeeded runs are counted. More say nothing that an operator acts on, and counting a year of them would
    /// take longer every night; a million entries of an index are read in a fraction of a second.
    pub const MOST_SUCCEEDED: i64 = 1_000_000;

    /// Every status, in the order of a run's life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Its name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One purge of one organization, as recorded.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[allow(
    missing_docs,
    reason = "the columns of retention.purge_runs, documented in the contract and the migration"
)]
pub struct Run {
    pub id: RunId,
    pub org_id: OrgId,
    pub trigger: String,
    pub requested_by: String,
    pub reason: Option<String>,
    pub scheduled_for: Option<DateTime<Utc>>,
    pub replay_of: Option<Uuid>,
    pub status: String,
    pub plan: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub policy: Document,
    pub attempts: i32,
    pub max_attempts: i32,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub verified_at: Option<DateTime<Utc>>,
    pub error_kind: Option<String>,
    pub error: Option<String>,
    #[schema(value_type = Vec<Step>)]
    pub steps: Json<Vec<Step>>,
}

impl Run {
    /// Rows purged in all tables.
    #[must_use]
    pub fn rows_purged(&self) -> i64 {
        self.steps.iter().map(|step| step.rows_purged).sum()
    }

    /// What its batches wait for, or have waited for, and how long in all; none: they have not.
    #[must_use]
    pub fn throttled(&self) -> Option<String> {
        let waited: i64 = self.steps.iter().map(|step| step.throttled_ms).sum();
        let reason = self
            .steps
            .iter()
            .rev()
            .find_map(|step| step.throttle_reason.as_deref());
        (waited > 0).then(|| {
            let seconds = Duration::from_millis(waited.unsigned_abs()).as_secs_f64();
            reason.map_or_else(
                || format!("{seconds:.1} s in all"),
                |reason| format!("{seconds:.1} s in all, lately for {reason}"),
            )
        })
    }

    /// The record as its organization's own people see it.
    #[must_use]
    pub fn for_tenants(self) -> Self {
        let kind = self.error_kind.as_deref().unwrap_or_default();
        let error = self
            .error
            .as_ref()
            .map(|_| PurgeError::words_for_tenants(kind).to_owned());
        Self { error, ..self }
    }

    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "cancelled")
    }
}

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
    let tables: Vec<String> = tables().map(str::to_owned).collect();
    let (created_at, after_id) = cursor.map(Cursor::place).unzip();
    sqlx::query_as!(
        Run,
        r#"-- queue.select_runs
        SELECT r.id AS "id: RunId", r.org_id AS "org_id: OrgId", r.trigger,
               retention.excerpt(r.requested_by) AS "requested_by!", retention.long_excerpt(r.reason) AS reason,
               r.scheduled_for, r.replay_of, r.status, retention.excerpt(r.plan) AS plan, left(r.policy::text, 2000) AS policy,
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
    .await
}

/// Those of `ids` that are not final yet.
///
/// # Errors
/// When the database fails.
pub async fn unfinished(database: &Database, ids: &[Uuid]) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "-- queue.unfinished
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
        r#"-- queue.totals
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
    pub status: String,
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
        "-- queue.unsuccessful
         SELECT id, org_id, status, retention.excerpt(error_kind) AS error_kind, retention.long_excerpt(error) AS error
         FROM retention.purge_runs
         WHERE id = ANY ($1) AND status IN ('failed', 'cancelled') ORDER BY created_at, id",
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
        "-- queue.live_since
         SELECT id FROM retention.purge_runs
         WHERE status IN ('queued', 'running', 'retrying') AND created_at >= $1 ORDER BY id",
        since
    )
    .fetch_all(database)
    .await
}
