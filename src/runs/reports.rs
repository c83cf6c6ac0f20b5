//! Summaries of runs for the gauges and the console: runs by status, failures by kind, operators' actions, rows purged by day.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::RunStatus;
use crate::{
    ids::{OrgId, RunId},
    postgres::Database,
};

/// How many runs there are in each status; of those that succeeded no more than
/// [`RunStatus::MAX_SUCCEEDED_COUNTED`] are counted. Statuses without runs may be left out.
///
/// # Errors
/// When the database fails.
pub async fn count_by_status(database: &Database) -> sqlx::Result<HashMap<RunStatus, i64>> {
    // Whatever did not succeed is counted by an index of its status. What succeeded needs none, which every run would
    // have to be written into: it is the rest of all runs. The oldest first, because the index alone tells of those.
    let counts = sqlx::query!(
        r#"-- runs.count_by_status
        WITH others AS (
            SELECT status, count(*) AS runs FROM retention.purge_runs
            WHERE status IN ('queued', 'running', 'retrying') GROUP BY status
            UNION ALL SELECT 'failed', count(*) FROM retention.purge_runs WHERE status = 'failed'
            UNION ALL SELECT 'cancelled', count(*) FROM retention.purge_runs WHERE status = 'cancelled'),
        together AS (SELECT sum(runs)::bigint AS runs FROM others)
        SELECT status AS "status!: RunStatus", runs AS "runs!" FROM others
        UNION ALL
        SELECT 'succeeded', (SELECT count(*) FROM (SELECT FROM retention.purge_runs ORDER BY created_at, id
                                                   LIMIT $1 + together.runs) counted) - together.runs
        FROM together"#,
        RunStatus::MAX_SUCCEEDED_COUNTED
    )
    .fetch_all(database)
    .await?;
    Ok(counts
        .into_iter()
        .map(|row| (row.status, row.runs))
        .collect())
}

/// Failed runs of one error kind.
#[derive(Debug, Clone)]
pub struct Failures {
    /// The error kind.
    pub error_kind: Option<String>,
    /// How many runs.
    pub runs: i64,
    /// Of how many organizations.
    pub organizations: i64,
    /// When the latest of them was created.
    pub latest: DateTime<Utc>,
}

/// Failed runs by error kind, the latest first: at most fifty kinds.
///
/// # Errors
/// When the database fails.
pub async fn failures(database: &Database) -> sqlx::Result<Vec<Failures>> {
    // Per organization first: that is one pass over the index, in its order.
    sqlx::query_as!(
        Failures,
        r#"-- runs.failures
        SELECT retention.excerpt(f.error_kind) AS error_kind, sum(f.runs)::bigint AS "runs!", count(*) AS "organizations!",
               max(f.latest) AS "latest!"
        FROM (SELECT error_kind, org_id, count(*) AS runs, max(created_at) AS latest
              FROM retention.purge_runs WHERE status = 'failed' GROUP BY error_kind, org_id) f
        GROUP BY f.error_kind ORDER BY 4 DESC LIMIT 50"#
    )
    .fetch_all(database)
    .await
}

/// Something that was done by hand, as recorded.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the columns of retention.operator_actions")]
pub struct Action {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: String,
    pub run_id: Option<Uuid>,
    pub org_id: Option<Uuid>,
    pub reason: Option<String>,
    /// The run that the action made or met.
    pub led_to: Option<String>,
    /// Whose session it ended.
    pub of_subject: Option<String>,
}

/// At most `limit` actions, newest first, after the action `cursor`.
///
/// # Errors
/// When the database fails.
pub async fn actions(
    database: &Database,
    cursor: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Action>> {
    sqlx::query_as!(
        Action,
        "-- runs.actions
         SELECT id, at, retention.excerpt(actor) AS \"actor!\", retention.excerpt(action) AS \"action!\", run_id, org_id,
                retention.long_excerpt(reason) AS reason, left(details ->> 'run_id', 36) AS led_to,
                retention.excerpt(details ->> 'subject') AS of_subject
         FROM retention.operator_actions
         WHERE $1::bigint IS NULL OR (at, id) < (SELECT l.at, l.id FROM retention.operator_actions l WHERE l.id = $1)
         ORDER BY at DESC, id DESC LIMIT $2",
        cursor,
        limit
    )
    .fetch_all(database)
    .await
}

/// The actions on one run, oldest first: at most a hundred.
///
/// # Errors
/// When the database fails.
pub async fn actions_on(database: &Database, run: RunId) -> sqlx::Result<Vec<Action>> {
    sqlx::query_as!(
        Action,
        "-- runs.actions_on_run
         SELECT id, at, retention.excerpt(actor) AS \"actor!\", retention.excerpt(action) AS \"action!\", run_id, org_id,
                retention.long_excerpt(reason) AS reason, left(details ->> 'run_id', 36) AS led_to,
                retention.excerpt(details ->> 'subject') AS of_subject
         FROM retention.operator_actions
         WHERE run_id = $1 ORDER BY at, id LIMIT 100",
        run.0
    )
    .fetch_all(database)
    .await
}

/// The runs that repeat `run`, oldest first: at most a hundred.
///
/// # Errors
/// When the database fails.
pub async fn replays_of(database: &Database, run: RunId) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "-- runs.replays_of
         SELECT id FROM retention.purge_runs WHERE replay_of = $1 ORDER BY created_at, id LIMIT 100",
        run.0
    )
    .fetch_all(database)
    .await
}

/// The window by which something went.
#[derive(Debug, Clone)]
pub struct AppliedWindow {
    /// The run that took it.
    pub run: Uuid,
    /// The plan it ran under.
    pub plan: Option<String>,
    /// The window's length in days.
    pub days: Option<i64>,
}

/// The window by which `table`'s rows of `org` went at this moment; none where the run's record is pruned.
///
/// # Errors
/// When the database fails.
pub async fn window_applied(
    database: &Database,
    org: OrgId,
    table: &str,
    at: DateTime<Utc>,
) -> sqlx::Result<Option<AppliedWindow>> {
    sqlx::query_as!(
        AppliedWindow,
        "-- runs.window_applied
         SELECT r.id AS run, retention.excerpt(r.plan) AS plan,
                CASE WHEN r.policy ->> $2 ~ '^[0-9]{1,9}$' THEN (r.policy ->> $2)::bigint END AS days
         FROM retention.purge_runs r JOIN retention.purge_run_steps s ON s.run_id = r.id AND s.table_name = $2
         WHERE r.org_id = $1 AND s.rows_purged > 0 AND s.started_at <= $3 AND coalesce(s.finished_at, now()) >= $3
         ORDER BY r.created_at DESC LIMIT 1",
        org.0,
        table,
        at
    )
    .fetch_optional(database)
    .await
}

/// Rows purged on one day from one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PurgedOnDay {
    /// The day, in UTC.
    pub day: NaiveDate,
    /// The table; none where nothing went on that day.
    pub table: Option<String>,
    /// Rows.
    pub rows: i64,
}

/// Rows purged on each of the last `days` days, by the day on which their step began, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn purged_per_day(database: &Database, days: i32) -> sqlx::Result<Vec<PurgedOnDay>> {
    sqlx::query_as!(
        PurgedOnDay,
        r#"-- runs.purged_per_day
        SELECT d.day AS "day!", s.table_name AS "table?", coalesce(s.rows, 0) AS "rows!"
        FROM (SELECT (now() AT TIME ZONE 'UTC')::date - n AS day FROM generate_series(0, $1::int - 1) n) d
        LEFT JOIN (SELECT (started_at AT TIME ZONE 'UTC')::date AS day, retention.excerpt(table_name) AS table_name, sum(rows_purged)::bigint AS rows
                   FROM retention.purge_run_steps
                   WHERE started_at >= ((now() AT TIME ZONE 'UTC')::date - $1::int) AT TIME ZONE 'UTC'
                   GROUP BY 1, 2) s ON s.day = d.day
        ORDER BY d.day"#,
        days
    )
    .fetch_all(database)
    .await
}

/// A slot of the schedule, and how far its enqueueing has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Slot {
    /// When it was due.
    pub slot: DateTime<Utc>,
    /// When every organization had its run.
    pub completed_at: Option<DateTime<Utc>>,
}

/// The latest slot.
///
/// # Errors
/// When the database fails.
pub async fn last_slot(database: &Database) -> sqlx::Result<Option<Slot>> {
    sqlx::query_as!(
        Slot,
        "-- runs.last_slot
         SELECT slot, completed_at FROM retention.schedule_slots ORDER BY slot DESC LIMIT 1"
    )
    .fetch_optional(database)
    .await
}
