//! Incidents. A purge removes only the payload. A missing payload is reported as a state, never as an error.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{MISSING_NOTICE, PURGED_NOTICE, TOO_LARGE_NOTICE};
use crate::{ids::OrgId, postgres::Database};

/// Whether the payload is available, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayloadState {
    /// The payload is available.
    Available,
    /// The payload exists but is too large for an answer: more than 256 KiB, as stored or as JSON. A list does not
    /// check the size.
    TooLarge,
    /// The payload was purged per retention policy.
    Purged,
    /// The payload does not exist, and no purge removed it.
    Missing,
}

impl PayloadState {
    fn of(available: bool, purged_at: Option<DateTime<Utc>>) -> Self {
        match (available, purged_at) {
            (true, _) => Self::Available,
            (false, Some(_)) => Self::Purged,
            (false, None) => Self::Missing,
        }
    }

    /// The text that is shown in place of the payload.
    #[must_use]
    pub fn notice(self) -> Option<&'static str> {
        match self {
            Self::Available => None,
            Self::TooLarge => Some(TOO_LARGE_NOTICE),
            Self::Purged => Some(PURGED_NOTICE),
            Self::Missing => Some(MISSING_NOTICE),
        }
    }
}

/// An incident without its payload. All of this stays after a purge.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[allow(missing_docs, reason = "the columns of main_app.incidents")]
pub struct Incident {
    pub id: Uuid,
    pub env_id: Uuid,
    pub title: String,
    pub severity: Option<String>,
    pub status: String,
    pub owner: Option<String>,
    pub detected_at: DateTime<Utc>,
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub stabilized_at: Option<DateTime<Utc>>,
    pub reconciled_at: Option<DateTime<Utc>>,
    pub closed_at: Option<DateTime<Utc>>,
    /// Whether the details are available.
    pub payload_available: bool,
    /// Whether the details are available, too large, purged, or missing.
    pub payload_state: PayloadState,
    /// When the details were purged, if they were.
    pub payload_purged_at: Option<DateTime<Utc>>,
    /// The text to show in place of the details.
    pub notice: Option<&'static str>,
}

/// An approval of an incident.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[allow(missing_docs, reason = "the columns of main_app.approvals")]
pub struct Approval {
    pub id: Uuid,
    pub action: String,
    pub status: String,
    pub requested_by: String,
    pub decided_by: Option<String>,
    pub notes: Option<String>,
    pub created_at: DateTime<Utc>,
    pub decided_at: Option<DateTime<Utc>>,
}

/// Which incidents to list.
#[derive(Debug, Clone, Default)]
pub struct IncidentFilter {
    /// Only incidents in this status.
    pub status: Option<String>,
    /// Only incidents of this severity.
    pub severity: Option<String>,
    /// Only incidents of this environment.
    pub env: Option<Uuid>,
}

/// At most `limit` incidents of `org`, newest first, after the incident `cursor`, without deleted ones.
///
/// # Errors
/// When the database fails.
pub async fn list(
    database: &Database,
    org: OrgId,
    filter: &IncidentFilter,
    cursor: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Incident>> {
    select(database, org, None, filter, cursor, limit).await
}

/// One incident of `org`.
///
/// # Errors
/// When the database fails.
pub async fn get(database: &Database, org: OrgId, id: Uuid) -> sqlx::Result<Option<Incident>> {
    let any = IncidentFilter::default();
    Ok(select(database, org, Some(id), &any, None, 1).await?.pop())
}

/// Reads incidents. Postgres can hold times that JSON cannot (infinite ones, or years beyond four digits). Optional
/// times of this kind become absent; the others become the nearest time that JSON can hold.
async fn select(
    database: &Database,
    org: OrgId,
    id: Option<Uuid>,
    filter: &IncidentFilter,
    cursor: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Incident>> {
    let rows = sqlx::query!(
        r#"-- drift.select_incidents
        SELECT i.id AS "id!", i.env_id AS "env_id!", retention.excerpt(coalesce(i.title, '')) AS "title!",
               retention.excerpt(i.severity) AS severity, retention.excerpt(i.status) AS "status!",
               retention.excerpt(i.owner) AS owner,
               least(greatest(i.detected_at, '0001-01-01Z'), '9999-12-31Z') AS "detected_at!",
               CASE WHEN i.acknowledged_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN i.acknowledged_at END AS acknowledged_at,
               CASE WHEN i.stabilized_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN i.stabilized_at END AS stabilized_at,
               CASE WHEN i.reconciled_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN i.reconciled_at END AS reconciled_at,
               CASE WHEN i.closed_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN i.closed_at END AS closed_at,
               CASE WHEN i.payload_purged_at IS NOT NULL
                    THEN least(greatest(i.payload_purged_at, '0001-01-01Z'), '9999-12-31Z') END AS payload_purged_at,
               EXISTS (SELECT FROM main_app.incident_payloads p WHERE p.incident_id = i.id) AS "available!"
        FROM main_app.incidents i
        WHERE i.org_id = $1 AND NOT i.is_deleted
          AND ($2::uuid IS NULL OR i.id = $2)
          AND ($3::text IS NULL OR i.status = $3)
          AND ($6::text IS NULL OR i.severity = $6)
          AND ($7::uuid IS NULL OR i.env_id = $7)
          AND ($4::uuid IS NULL OR (i.detected_at, i.id) <
               (SELECT l.detected_at, l.id FROM main_app.incidents l WHERE l.id = $4 AND l.org_id = $1))
        ORDER BY i.detected_at DESC, i.id DESC LIMIT $5"#,
        org.0,
        id,
        filter.status.as_deref(),
        cursor,
        limit,
        filter.severity.as_deref(),
        filter.env
    )
    .fetch_all(database)
    .await?;
    let incidents = rows.into_iter().map(|row| {
        let payload_state = PayloadState::of(row.available, row.payload_purged_at);
        Incident {
            id: row.id,
            env_id: row.env_id,
            title: row.title,
            severity: row.severity,
            status: row.status,
            owner: row.owner,
            detected_at: row.detected_at,
            acknowledged_at: row.acknowledged_at,
            stabilized_at: row.stabilized_at,
            reconciled_at: row.reconciled_at,
            closed_at: row.closed_at,
            payload_available: row.available,
            payload_state,
            payload_purged_at: row.payload_purged_at,
            notice: payload_state.notice(),
        }
    });
    Ok(incidents.collect())
}

/// The largest payload that is read, in bytes, as stored and as JSON. It fits on a page and in an answer. Decompressing
/// it takes at most a hundred times as much memory in Postgres, briefly.
const MAX_PAYLOAD_BYTES: i32 = 256 * 1024;

/// An incident's payload in a form that can be shown.
#[derive(Debug, Clone)]
pub enum Payload {
    /// JSON that parsers can read.
    Json(Value),
    /// The text of a `jsonb` that parsers cannot read, because of a very large number or very deep nesting.
    Text(String),
    /// Larger than an answer may be, so it was not read.
    TooLarge,
}

impl Payload {
    fn of(text: Option<String>) -> Self {
        let largest = usize::try_from(MAX_PAYLOAD_BYTES).unwrap_or(usize::MAX);
        match text.filter(|text| text.len() <= largest) {
            None => Self::TooLarge,
            Some(text) => serde_json::from_str(&text).map_or(Self::Text(text), Self::Json),
        }
    }
}

/// An incident's payload, if it is there.
///
/// # Errors
/// When the database fails.
pub async fn payload(database: &Database, incident: Uuid) -> sqlx::Result<Option<Payload>> {
    // The stored size is known without reading the payload. Its uncompressed size is known only from its text.
    let text = sqlx::query_scalar!(
        "-- drift.incident_payload
         SELECT CASE WHEN pg_column_size(p.payload_json) <= $2 THEN left(p.payload_json::text, $2 + 1)
                     WHEN p.payload_json IS NULL THEN 'null' END
         FROM main_app.incident_payloads p WHERE p.incident_id = $1 LIMIT 1",
        incident,
        MAX_PAYLOAD_BYTES
    )
    .fetch_optional(database)
    .await?;
    Ok(text.map(Payload::of))
}

/// An incident's approvals, oldest first: at most a thousand.
///
/// # Errors
/// When the database fails.
pub async fn approvals(database: &Database, incident: Uuid) -> sqlx::Result<Vec<Approval>> {
    sqlx::query_as!(
        Approval,
        r#"-- drift.incident_approvals
        SELECT a.id AS "id!", retention.excerpt(coalesce(a.action, '')) AS "action!", retention.excerpt(a.status) AS "status!",
               retention.excerpt(coalesce(a.requested_by, '')) AS "requested_by!",
               retention.excerpt(a.decided_by) AS decided_by, retention.long_excerpt(a.notes) AS notes,
               least(greatest(a.created_at, '0001-01-01Z'), '9999-12-31Z') AS "created_at!",
               CASE WHEN a.decided_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN a.decided_at END AS decided_at
        FROM main_app.approvals a WHERE a.incident_id = $1 ORDER BY a.created_at, a.id LIMIT 1000"#,
        incident
    )
    .fetch_all(database)
    .await
}
