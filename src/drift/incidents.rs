//! Incidents: everything but the payload outlives a purge, and whatever is gone is said, never an error.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{MISSING_NOTICE, PURGED_NOTICE, TOO_LARGE_NOTICE};
use crate::{ids::OrgId, postgres::Database};

/// Whether the payload is there, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayloadState {
    /// It is there.
    Available,
    /// It is there, and too large for an answer: more than 256 KiB, as it is stored or as JSON. A list does not look at that.
    TooLarge,
    /// It was purged per retention policy.
    Purged,
    /// It is not there, and no purge took it.
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

    /// What is shown in the payload's place.
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

/// An incident without its payload: what stays after a purge.
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
    /// Whether the details are there.
    pub payload_available: bool,
    /// Whether they are there, are too large, were purged, or are missing.
    pub payload_state: PayloadState,
    /// When they were purged, if they were.
    pub payload_purged_at: Option<DateTime<Utc>>,
    /// What to show in their place.
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
    /// Only those in this status.
    pub status: Option<String>,
    /// Only those of this severity.
    pub severity: Option<String>,
    /// Only those of this environment.
    pub env: Option<Uuid>,
}

/// At most `limit` incidents of `org`, newest first, after the incident `cursor`. Deleted ones are left out.
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

/// Postgres can hold times that no JSON can (infinite, or of a year beyond four digits): where a time may be absent
/// they are, the others are moved to the nearest that can be written.
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

/// The largest payload that is read, in bytes: as it is stored, and as JSON. A page and an answer have room for it, and what is
/// stored compressed takes a hundred times that at most, for a moment, in Postgres.
const LARGEST_PAYLOAD: i32 = 256 * 1024;

/// An incident's payload as it can be shown.
#[derive(Debug, Clone)]
pub enum Payload {
    /// It is JSON as programs read it.
    Json(Value),
    /// `jsonb` holds more than programs read: a number beyond all limits, a nesting of hundreds. This is its text.
    Text(String),
    /// It is larger than an answer may be, and is not read.
    TooLarge,
}

impl Payload {
    fn of(text: Option<String>) -> Self {
        let largest = usize::try_from(LARGEST_PAYLOAD).unwrap_or(usize::MAX);
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
    // Its stored size is known without reading it. Only its text tells how large it is without compression.
    let text = sqlx::query_scalar!(
        "-- drift.incident_payload
         SELECT CASE WHEN pg_column_size(p.payload_json) <= $2 THEN left(p.payload_json::text, $2 + 1)
                     WHEN p.payload_json IS NULL THEN 'null' END
         FROM main_app.incident_payloads p WHERE p.incident_id = $1 LIMIT 1",
        incident,
        LARGEST_PAYLOAD
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
