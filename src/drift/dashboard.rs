//! The drift dashboard. Its figures use only data that a purge keeps, so they are the same before and after a purge.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{MAX_NAMED_GROUPS, environments};
use crate::{
    ids::OrgId,
    postgres::{Database, Transaction},
};

/// How many weeks back the weekly figures go.
const WEEKS: i32 = 12;

/// The figures of one organization.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Dashboard {
    /// Incidents that are not closed, by status. If there are more than fifty statuses, the rare ones are counted as
    /// `other`.
    pub open_incidents_by_status: BTreeMap<String, i64>,
    /// Incidents that are not closed, by severity: `none` if it is not set, `other` as above.
    pub open_incidents_by_severity: BTreeMap<String, i64>,
    /// Incidents opened and closed in each of the last twelve weeks, oldest first.
    pub weeks: Vec<Week>,
    /// Mean time from detection to closing of all closed incidents, in seconds. Absent if no incident is closed.
    pub mean_seconds_to_close: Option<f64>,
    /// Environments by drift status.
    pub environments_by_status: BTreeMap<String, i64>,
    /// How much detail has been purged.
    pub purged: Purged,
}

/// One week, from Monday 00:00 UTC.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Week {
    /// The Monday.
    pub week: DateTime<Utc>,
    /// Incidents detected in this week.
    pub opened: i64,
    /// Incidents closed in this week.
    pub closed: i64,
}

/// The purged data of an organization.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Purged {
    /// Incidents whose details were purged.
    pub incidents: i64,
    /// Rows purged by all recorded runs, by table.
    pub rows: BTreeMap<String, i64>,
    /// When a purge was last verified. Absent if never.
    pub last_verified_at: Option<DateTime<Utc>>,
}

/// The figures of `org` now.
///
/// # Errors
/// When the database fails.
pub async fn dashboard(database: &Database, org: OrgId) -> sqlx::Result<Dashboard> {
    let mut tx = database.begin_reading().await?;
    let dashboard = read(&mut tx, org).await?;
    tx.rollback().await?;
    Ok(dashboard)
}

async fn read(tx: &mut Transaction<'_>, org: OrgId) -> sqlx::Result<Dashboard> {
    let (by_status, by_severity) = open_incidents(tx, org).await?;
    let closed = sqlx::query!(
        r#"-- drift.closed_incidents
        SELECT (avg(extract(epoch FROM closed_at - detected_at)) FILTER (
                   WHERE status = 'closed' AND isfinite(closed_at) AND isfinite(detected_at)))::float8 AS mean,
               count(*) FILTER (WHERE payload_purged_at IS NOT NULL) AS "purged!"
        FROM main_app.incidents WHERE org_id = $1 AND NOT is_deleted"#,
        org.0
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(Dashboard {
        open_incidents_by_status: by_status,
        open_incidents_by_severity: by_severity,
        weeks: weeks(tx, org).await?,
        mean_seconds_to_close: closed.mean,
        environments_by_status: environments::count_by_status(&mut *tx, org)
            .await?
            .into_iter()
            .collect(),
        purged: purged(tx, org, closed.purged).await?,
    })
}

type Counts = BTreeMap<String, i64>;

async fn open_incidents(tx: &mut Transaction<'_>, org: OrgId) -> sqlx::Result<(Counts, Counts)> {
    let rows = sqlx::query!(
        r#"-- drift.open_incidents
        SELECT CASE WHEN place <= $2 THEN status ELSE 'other' END AS "status!",
               CASE WHEN place <= $2 THEN severity ELSE 'other' END AS "severity!", sum(incidents)::bigint AS "count!"
        FROM (SELECT status, severity, count(*) AS incidents, row_number() OVER (ORDER BY count(*) DESC, status, severity) AS place
              FROM (SELECT retention.excerpt(status) AS status, retention.excerpt(coalesce(severity, 'none')) AS severity
                    FROM main_app.incidents WHERE org_id = $1 AND NOT is_deleted AND status <> 'closed') open
              GROUP BY status, severity) words
        GROUP BY 1, 2"#,
        org.0,
        MAX_NAMED_GROUPS
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut by_status, mut by_severity) = (Counts::new(), Counts::new());
    for row in rows {
        *by_status.entry(row.status).or_default() += row.count;
        *by_severity.entry(row.severity).or_default() += row.count;
    }
    Ok((by_status, by_severity))
}

async fn weeks(tx: &mut Transaction<'_>, org: OrgId) -> sqlx::Result<Vec<Week>> {
    // Read each incident once, not once per week.
    sqlx::query_as!(
        Week,
        r#"-- drift.incidents_per_week
        WITH weeks AS (
            SELECT (date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC') - n * interval '7 days' AS week
            FROM generate_series(0, $2::int - 1) AS n
        ), opened AS (
            SELECT date_trunc('week', i.detected_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS week, count(*) AS incidents
            FROM main_app.incidents i
            WHERE i.org_id = $1 AND NOT i.is_deleted AND i.detected_at >= (SELECT min(week) FROM weeks)
              AND isfinite(i.detected_at)
            GROUP BY 1
        ), closed AS (
            SELECT date_trunc('week', i.closed_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS week, count(*) AS incidents
            FROM main_app.incidents i
            WHERE i.org_id = $1 AND NOT i.is_deleted AND i.status = 'closed' AND i.closed_at >= (SELECT min(week) FROM weeks)
              AND isfinite(i.closed_at)
            GROUP BY 1
        )
        SELECT w.week AS "week!", coalesce(o.incidents, 0) AS "opened!", coalesce(c.incidents, 0) AS "closed!"
        FROM weeks w LEFT JOIN opened o USING (week) LEFT JOIN closed c USING (week)
        ORDER BY w.week"#,
        org.0,
        WEEKS
    )
    .fetch_all(tx)
    .await
}

async fn purged(tx: &mut Transaction<'_>, org: OrgId, incidents: i64) -> sqlx::Result<Purged> {
    let rows = sqlx::query!(
        r#"-- drift.purged_rows
        SELECT retention.excerpt(s.table_name) AS "table_name!", sum(s.rows_purged)::bigint AS "rows!",
               max(r.verified_at) AS verified_at
        FROM retention.purge_runs r JOIN retention.purge_run_steps s ON s.run_id = r.id
        WHERE r.org_id = $1 GROUP BY s.table_name ORDER BY 2 DESC LIMIT $2"#,
        org.0,
        MAX_NAMED_GROUPS
    )
    .fetch_all(tx)
    .await?;
    let last_verified_at = rows.iter().filter_map(|row| row.verified_at).max();
    let rows = rows
        .into_iter()
        .map(|row| (row.table_name, row.rows))
        .collect();
    Ok(Purged {
        incidents,
        rows,
        last_verified_at,
    })
}
