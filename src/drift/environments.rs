//! Environments with their badges. A badge comes from the newest retained check that is not dated in the future.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;
use utoipa::ToSchema;
use uuid::Uuid;

use super::MAX_NAMED_GROUPS;
use crate::{ids::OrgId, postgres::Database};

/// An environment and its badge.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Environment {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// `in_sync`, `drift`, `unknown`, or `never_checked`.
    pub drift_status: String,
    /// When the newest check was made. Absent if there is none.
    pub last_checked_at: Option<DateTime<Utc>>,
    /// Workflows that differ from git.
    pub modified_count: i32,
    /// Workflows that are not in git.
    pub not_in_git_count: i32,
    /// Workflows that could not be compared.
    pub unknown_count: i32,
    /// The newest check.
    #[serde(skip)]
    pub check_id: Option<String>,
}

/// A workflow that the newest check flagged.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkflowFlag {
    /// The workflow.
    pub workflow_id: String,
    /// Its name.
    pub workflow_name: Option<String>,
    /// `modified`, `not_in_git` or `unknown`.
    pub flag: String,
}

/// At most `limit` environments of `org` by name, after the environment `cursor`.
///
/// # Errors
/// When the database fails.
pub async fn list(
    database: &Database,
    org: OrgId,
    cursor: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Environment>> {
    select(database, org, None, cursor, limit).await
}

/// One environment of `org`.
///
/// # Errors
/// When the database fails.
pub async fn get(database: &Database, org: OrgId, id: Uuid) -> sqlx::Result<Option<Environment>> {
    Ok(select(database, org, Some(id), None, 1).await?.pop())
}

async fn select(
    database: &Database,
    org: OrgId,
    id: Option<Uuid>,
    cursor: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Environment>> {
    sqlx::query_as!(
        Environment,
        r#"-- drift.select_environments
        SELECT e.id AS "id!", retention.excerpt(coalesce(e.name, '')) AS "name!",
               retention.excerpt(coalesce(c.status, 'never_checked')) AS "drift_status!",
               CASE WHEN c.checked_at >= '0001-01-01Z' THEN c.checked_at END AS "last_checked_at?",
               coalesce(c.modified_count, 0) AS "modified_count!",
               coalesce(c.not_in_git_count, 0) AS "not_in_git_count!",
               coalesce(c.unknown_count, 0) AS "unknown_count!",
               c.id::text AS check_id
        FROM main_app.environments e
        LEFT JOIN LATERAL (
            SELECT c.id, c.checked_at, c.status, c.modified_count, c.not_in_git_count, c.unknown_count
            FROM main_app.drift_checks c
            WHERE c.env_id = e.id AND c.checked_at <= now() AND isfinite(c.checked_at)
            ORDER BY c.checked_at DESC, c.id DESC LIMIT 1) c ON true
        WHERE e.org_id = $1 AND ($2::uuid IS NULL OR e.id = $2)
          AND ($3::uuid IS NULL OR (e.name, e.id) >
               (SELECT l.name, l.id FROM main_app.environments l WHERE l.id = $3 AND l.org_id = $1))
        ORDER BY e.name, e.id LIMIT $4"#,
        org.0,
        id,
        cursor,
        limit
    )
    .fetch_all(database)
    .await
}

/// The flags of a check: at most a thousand, by workflow.
///
/// # Errors
/// When the database fails.
pub async fn flags(database: &Database, check: &str) -> sqlx::Result<Vec<WorkflowFlag>> {
    sqlx::query_as!(
        WorkflowFlag,
        r#"-- drift.check_flags
        SELECT retention.excerpt(workflow_id) AS "workflow_id!", retention.excerpt(workflow_name) AS workflow_name,
               retention.excerpt(coalesce(flag, 'unknown')) AS "flag!"
        FROM main_app.workflow_drift_flags
        WHERE check_id = $1::text::main_app.check_key ORDER BY workflow_id LIMIT 1000"#,
        check
    )
    .fetch_all(database)
    .await
}

/// The number of environments per drift status. If there are more than fifty statuses, the rare ones are counted as
/// `other`.
///
/// # Errors
/// When the database fails.
pub async fn count_by_status(
    on: impl PgExecutor<'_>,
    org: OrgId,
) -> sqlx::Result<Vec<(String, i64)>> {
    let counts = sqlx::query!(
        r#"-- drift.environments_by_status
        SELECT CASE WHEN s.place <= $2 THEN s.status ELSE 'other' END AS "status!", sum(s.environments)::bigint AS "count!"
        FROM (SELECT e.status, count(*) AS environments, row_number() OVER (ORDER BY count(*) DESC, e.status) AS place
              FROM (SELECT retention.excerpt(coalesce((
                        SELECT c.status FROM main_app.drift_checks c
                        WHERE c.env_id = e.id AND c.checked_at <= now() AND isfinite(c.checked_at)
                        ORDER BY c.checked_at DESC, c.id DESC LIMIT 1), 'never_checked')) AS status
                    FROM main_app.environments e WHERE e.org_id = $1) e
              GROUP BY e.status) s
        GROUP BY 1"#,
        org.0,
        MAX_NAMED_GROUPS
    )
    .fetch_all(on)
    .await?;
    Ok(counts
        .into_iter()
        .map(|row| (row.status, row.count))
        .collect())
}
