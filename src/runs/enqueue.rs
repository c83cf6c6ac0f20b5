//! The one way to enqueue. Every request ends in the SQL functions of migration 0003, which make the run and its delivery
//! in one transaction.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;
use utoipa::ToSchema;
use uuid::Uuid;

use super::RunStatus;
use crate::{
    ids::{OrgId, RunId},
    postgres::Transaction,
    telemetry::traces,
};

/// For the transaction of a request that somebody waits for: it waits no longer for another one of the same organization.
pub const ANSWER_SOON: &str = "SET LOCAL lock_timeout = '1500ms'";

/// What became of a request to purge.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Enqueued {
    /// The run: a new one, or the live one that the request met.
    pub run_id: RunId,
    /// Whose run.
    pub org_id: OrgId,
    /// The run's status: `queued`, or the status of the live one.
    #[schema(value_type = String)]
    pub status: RunStatus,
    /// Whether the request met a live run.
    pub coalesced: bool,
}

/// Why nothing was enqueued.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// No such organization.
    #[error("organization {0} does not exist: nothing was enqueued; check the id")]
    NoOrganization(OrgId),
    /// Another transaction that asks for a purge of the same organization has not ended.
    #[error(
        "another transaction is asking for a purge of organization {0}: nothing was enqueued; try again in a moment"
    )]
    Busy(OrgId),
    /// The text is too long, or steers terminals.
    #[error("{0}; nothing was enqueued")]
    BadText(String),
    /// The database failed.
    #[error("cannot enqueue the purge")]
    Database(#[from] sqlx::Error),
}

/// Asks for a purge of `org` now, in the caller's transaction.
///
/// # Errors
/// When the organization does not exist or the database fails.
#[tracing::instrument(name = "enqueue", skip_all, fields(org_id = %org))]
pub async fn enqueue_purge(
    tx: &mut Transaction<'_>,
    org: OrgId,
    requested_by: &str,
    reason: Option<&str>,
) -> Result<Enqueued, EnqueueError> {
    carry_trace(tx).await?;
    let made = sqlx::query!(
        r#"-- runs.enqueue_purge
        SELECT run_id AS "run_id!", status AS "status!: RunStatus", coalesced AS "coalesced!"
        FROM retention.enqueue_purge($1, $2, $3)"#,
        org.0,
        requested_by,
        reason
    )
    .fetch_one(tx)
    .await
    .map_err(|error| no_organization(org, error))?;
    Ok(Enqueued {
        run_id: RunId(made.run_id),
        org_id: org,
        status: made.status,
        coalesced: made.coalesced,
    })
}

/// Lets the runs that this transaction makes belong to the current trace, if there is one.
pub(super) async fn carry_trace(tx: &mut Transaction<'_>) -> sqlx::Result<()> {
    if let Some(traceparent) = traces::traceparent() {
        sqlx::query_scalar!(
            "-- runs.carry_trace
             SELECT set_config('retention.traceparent', $1, true)",
            traceparent
        )
        .fetch_one(tx)
        .await?;
    }
    Ok(())
}

/// Asks for a purge of `org` on somebody's behalf, and records that they asked. A request that comes again under
/// the same `key` is answered with the run that the first one led to.
///
/// # Errors
/// When the organization does not exist or the database fails.
pub async fn request_purge(
    tx: &mut Transaction<'_>,
    org: OrgId,
    requested_by: &str,
    reason: Option<&str>,
    key: Option<&str>,
) -> Result<Enqueued, EnqueueError> {
    if let Some(key) = key
        && let Some(first) = claim_key(tx, org, key).await?
    {
        return Ok(first);
    }
    let made = enqueue_purge(tx, org, requested_by, reason).await?;
    if made.coalesced {
        // One after the other: of two at once neither would see the other's record.
        sqlx::query!(
            "-- runs.lock_request
             SELECT pg_advisory_xact_lock(hashtextextended('drift-retention request ' || $1::text, 0))",
            made.run_id.0.to_string()
        )
        .fetch_one(&mut *tx)
        .await?;
    }
    // Records stay. Somebody who asks again and again for the same run leaves one a minute.
    sqlx::query!(
        "-- runs.record_request
         WITH keyed AS (
             UPDATE retention.idempotency_keys SET run_id = $1, coalesced = $2 WHERE org_id = $3 AND key = $4
         )
         INSERT INTO retention.operator_actions (actor, action, run_id, org_id, reason, details)
         SELECT $5, 'purge_now', $1, $3, $6, jsonb_build_object('coalesced', $2::boolean)
         WHERE NOT $2::boolean OR NOT EXISTS (
             SELECT FROM retention.operator_actions a
             WHERE a.run_id = $1 AND a.action = 'purge_now' AND a.at > clock_timestamp() - interval '1 minute'
               AND a.details @> '{\"coalesced\": true}')",
        made.run_id.0,
        made.coalesced,
        org.0,
        key,
        requested_by,
        reason
    )
    .execute(tx)
    .await?;
    Ok(made)
}

/// Takes the key for this transaction, or finds what the first request under it led to.
async fn claim_key(
    tx: &mut Transaction<'_>,
    org: OrgId,
    key: &str,
) -> Result<Option<Enqueued>, EnqueueError> {
    let claimed = sqlx::query!(
        "-- runs.claim_key
         INSERT INTO retention.idempotency_keys (org_id, key) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        org.0,
        key
    )
    .execute(&mut *tx)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(None);
    }
    Ok(answered(tx, org, key).await?)
}

/// What the request under this key led to; none: no request under it was answered.
///
/// # Errors
/// When the database fails.
pub async fn answered(
    on: impl PgExecutor<'_>,
    org: OrgId,
    key: &str,
) -> sqlx::Result<Option<Enqueued>> {
    let first = sqlx::query!(
        r#"-- runs.find_key
        SELECT r.id, r.status AS "status: RunStatus", k.coalesced AS "coalesced!"
        FROM retention.idempotency_keys k JOIN retention.purge_runs r ON r.id = k.run_id
        WHERE k.org_id = $1 AND k.key = $2"#,
        org.0,
        key
    )
    .fetch_optional(on)
    .await?;
    Ok(first.map(|first| Enqueued {
        run_id: RunId(first.id),
        org_id: org,
        status: first.status,
        coalesced: first.coalesced,
    }))
}

/// Asks for a purge of each of `orgs` now, in the caller's transaction, and passes over those that are gone.
///
/// # Errors
/// When the database fails, or an organization goes in that moment; then none was enqueued.
#[tracing::instrument(name = "enqueue", skip_all, fields(organizations = orgs.len()))]
pub async fn enqueue_purges(
    tx: &mut Transaction<'_>,
    orgs: &[Uuid],
    requested_by: &str,
    reason: Option<&str>,
) -> sqlx::Result<Vec<Enqueued>> {
    carry_trace(tx).await?;
    let made = sqlx::query!(
        r#"-- runs.enqueue_purges
        SELECT org_id AS "org_id!", run_id AS "run_id!", status AS "status!: RunStatus", coalesced AS "coalesced!"
        FROM retention.enqueue_purges($1, $2, $3)"#,
        orgs,
        requested_by,
        reason
    )
    .fetch_all(tx)
    .await?;
    Ok(made
        .into_iter()
        .map(|row| Enqueued {
            run_id: RunId(row.run_id),
            org_id: OrgId(row.org_id),
            status: row.status,
            coalesced: row.coalesced,
        })
        .collect())
}

/// The function raises a foreign-key violation for an organization that does not exist.
pub(super) fn no_organization(org: OrgId, error: sqlx::Error) -> EnqueueError {
    match error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .as_deref()
    {
        Some("23503") => EnqueueError::NoOrganization(org),
        Some("55P03") => EnqueueError::Busy(org),
        Some("22001" | "22023") => {
            let said = error
                .as_database_error()
                .map(|error| error.message().to_owned());
            EnqueueError::BadText(said.unwrap_or_default())
        }
        _ => EnqueueError::Database(error),
    }
}

/// Makes the slot's runs for these organizations; returns how many are new, and how many had a live run already.
///
/// # Errors
/// When the database fails; then none was made.
#[tracing::instrument(name = "enqueue", skip_all, fields(%slot, organizations = orgs.len()))]
pub async fn enqueue_slot(
    tx: &mut Transaction<'_>,
    slot: DateTime<Utc>,
    orgs: &[Uuid],
) -> sqlx::Result<(i64, i64)> {
    carry_trace(tx).await?;
    let made = sqlx::query!(
        r#"-- runs.enqueue_slot
        SELECT enqueued AS "enqueued!", coalesced AS "coalesced!" FROM retention.enqueue_slot($1, $2)"#,
        slot,
        orgs
    )
    .fetch_one(tx)
    .await?;
    Ok((made.enqueued, made.coalesced))
}
