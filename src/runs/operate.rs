//! What operators do to runs: replay and cancel. Each writes who did what, and why, in the same transaction.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    EnqueueError, RunFilter, RunStatus,
    enqueue::{ANSWER_SOON, Enqueued, carry_trace, no_organization},
};
use crate::{
    ids::{OrgId, RunId},
    postgres::{Database, Transaction},
};

/// Who acts, and why.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Their name, as it stands in the records.
    pub name: String,
    /// Their reason, if they gave one.
    pub reason: Option<String>,
}

/// A run and the one that repeats it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Replayed {
    /// The run that is repeated; it stays as it was.
    pub replay_of: RunId,
    /// The run that repeats it, or the organization's live run that the replay met.
    #[serde(flatten)]
    pub enqueued: Enqueued,
}

/// Why an operator's action did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// No such run.
    #[error("there is no run {0}; `drift-retention runs list` shows them")]
    NoRun(RunId),
    /// Only what failed or was cancelled can be replayed.
    #[error(
        "run {0} is {1}: only a failed or cancelled run can be replayed; to purge again use `drift-retention purge --org`"
    )]
    NotReplayable(RunId, &'static str),
    /// Only a live run can be cancelled.
    #[error("run {0} is {1} already: only a queued, running or retrying run can be cancelled")]
    NotLive(RunId, &'static str),
    /// The new run could not be enqueued.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    /// The database failed.
    #[error("the database failed; nothing was changed")]
    Database(#[from] sqlx::Error),
}

/// Repeats one failed or cancelled run as a new run.
///
/// # Errors
/// When the run cannot be replayed; then nothing changed.
pub async fn replay(
    database: &Database,
    run: RunId,
    by: &Operator,
) -> Result<Replayed, OperateError> {
    let mut tx = database.begin_with(&[ANSWER_SOON]).await?;
    let replayed = replay_in(&mut tx, run, by).await?;
    tx.commit().await?;
    Ok(replayed)
}

/// How many runs one request replays at most: the rest is for the next.
pub const MAX_REPLAYED: usize = 1_000;

/// A run that a replay by filter takes.
#[derive(Debug, Clone)]
pub struct Replayable {
    /// The run.
    pub id: RunId,
    /// Whose run.
    pub org_id: OrgId,
    /// `failed` or `cancelled`.
    pub status: RunStatus,
    /// Why it failed.
    pub error_kind: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Whether the organization has a live run: the replay would join it.
    pub has_live_run: bool,
}

/// The runs that a replay by `filter` takes, and how many match in all: of each organization that still exists the
/// latest that matches, if nothing succeeded since. The status is `failed` unless the filter says otherwise or names
/// the runs. At most `limit`, those without a live run first, so that repeating it comes to the end.
///
/// # Errors
/// When the database fails.
pub async fn replayable(
    database: &Database,
    filter: &RunFilter,
    limit: Option<usize>,
) -> sqlx::Result<(Vec<Replayable>, usize)> {
    let statuses = match (filter.status, &filter.ids) {
        (Some(status), _) => vec![status],
        (None, Some(_)) => vec![RunStatus::Failed, RunStatus::Cancelled],
        (None, None) => vec![RunStatus::Failed],
    };
    let statuses: Vec<String> = statuses
        .iter()
        .map(|status| status.name().to_owned())
        .collect();
    let limit = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let found = sqlx::query!(
        r#"-- runs.replayable
        SELECT l.id AS "id: RunId", l.org_id AS "org_id: OrgId", l.status AS "status: RunStatus", retention.excerpt(l.error_kind) AS error_kind, l.created_at,
               l.has_live_run AS "has_live_run!", count(*) OVER () AS "all!"
        FROM (SELECT DISTINCT ON (r.org_id) r.id, r.org_id, r.status, r.error_kind, r.created_at,
                     EXISTS (SELECT FROM retention.purge_runs live
                             WHERE live.org_id = r.org_id AND live.status IN ('queued', 'running', 'retrying')) AS has_live_run
              FROM retention.purge_runs r
              WHERE r.status = ANY ($1) AND r.status IN ('failed', 'cancelled')
                AND ($2::text IS NULL OR r.error_kind = $2)
                AND ($3::uuid IS NULL OR r.org_id = $3)
                AND ($4::timestamptz IS NULL OR r.created_at >= $4)
                AND ($5::timestamptz IS NULL OR r.created_at < $5)
                AND ($6::uuid[] IS NULL OR r.id = ANY ($6))
                AND EXISTS (SELECT FROM main_app.organizations o WHERE o.id = r.org_id)
                AND NOT EXISTS (SELECT FROM retention.purge_runs later
                                WHERE later.org_id = r.org_id AND later.status = 'succeeded'
                                  AND later.created_at > r.created_at)
              ORDER BY r.org_id, r.created_at DESC, r.id DESC) l
        ORDER BY l.has_live_run, l.org_id LIMIT $7"#,
        &statuses,
        filter.error_kind.as_deref(),
        filter.org.map(|org| org.0),
        filter.since,
        filter.until,
        filter.ids.as_deref(),
        limit
    )
    .fetch_all(database)
    .await?;
    let all = found.first().map_or(0, |row| row.all);
    let runs = found.into_iter().map(|row| Replayable {
        id: row.id,
        org_id: row.org_id,
        status: row.status,
        error_kind: row.error_kind,
        created_at: row.created_at,
        has_live_run: row.has_live_run,
    });
    Ok((runs.collect(), usize::try_from(all).unwrap_or_default()))
}

/// Repeats the runs that [`replayable`] finds, each in a transaction of its own; also tells how many match in all.
///
/// # Errors
/// At the first run that cannot be replayed; those before it are.
pub async fn replay_matching(
    database: &Database,
    filter: &RunFilter,
    by: &Operator,
    limit: Option<usize>,
) -> Result<(Vec<Replayed>, usize), OperateError> {
    let (runs, all) = replayable(database, filter, limit).await?;
    let mut replayed = Vec::new();
    for run in runs {
        replayed.push(replay(database, run.id, by).await?);
    }
    Ok((replayed, all))
}

/// Cancels a live run. A running one stops at its next batch; what it has purged by then stays purged.
///
/// # Errors
/// When the run does not exist or is final; then nothing changed.
pub async fn cancel(database: &Database, run: RunId, by: &Operator) -> Result<OrgId, OperateError> {
    let mut tx = database.begin_with(&[ANSWER_SOON]).await?;
    let org = sqlx::query_scalar!(
        "-- runs.cancel
         UPDATE retention.purge_runs
         SET status = 'cancelled', token = token + 1, finished_at = now(), next_attempt_at = NULL
         WHERE id = $1 AND status IN ('queued', 'running', 'retrying')
         RETURNING org_id",
        run.0
    )
    .fetch_optional(&mut tx)
    .await?;
    let Some(org) = org else {
        let (_, status) = find(&mut tx, run).await?;
        return Err(OperateError::NotLive(run, status.name()));
    };
    record(&mut tx, "cancel", run, org, by, None).await?;
    tx.commit().await?;
    Ok(OrgId(org))
}

#[tracing::instrument(name = "enqueue", skip_all, fields(replay_of = %run))]
async fn replay_in(
    tx: &mut Transaction<'_>,
    run: RunId,
    by: &Operator,
) -> Result<Replayed, OperateError> {
    let (org, status) = find(tx, run).await?;
    if !matches!(status, RunStatus::Failed | RunStatus::Cancelled) {
        return Err(OperateError::NotReplayable(run, status.name()));
    }
    carry_trace(tx).await?;
    let made = sqlx::query!(
        r#"-- runs.replay
        SELECT run_id AS "run_id!", status AS "status!: RunStatus", coalesced AS "coalesced!"
        FROM retention.enqueue_run($1, 'replay', $2, $3, $4)"#,
        org.0,
        by.name,
        by.reason,
        run.0
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(|error| no_organization(org, error))?;
    let enqueued = Enqueued {
        run_id: RunId(made.run_id),
        org_id: org,
        status: made.status,
        coalesced: made.coalesced,
    };
    record(tx, "replay", run, org.0, by, Some(&enqueued)).await?;
    Ok(Replayed {
        replay_of: run,
        enqueued,
    })
}

async fn find(tx: &mut Transaction<'_>, run: RunId) -> Result<(OrgId, RunStatus), OperateError> {
    let found = sqlx::query!(
        r#"-- runs.find_run
        SELECT org_id, status AS "status: RunStatus" FROM retention.purge_runs WHERE id = $1"#,
        run.0
    )
    .fetch_optional(tx)
    .await?
    .ok_or(OperateError::NoRun(run))?;
    Ok((OrgId(found.org_id), found.status))
}

async fn record(
    tx: &mut Transaction<'_>,
    action: &str,
    run: RunId,
    org: Uuid,
    by: &Operator,
    led_to: Option<&Enqueued>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "-- runs.record_action
         INSERT INTO retention.operator_actions (actor, action, run_id, org_id, reason, details)
         VALUES ($1, $2, $3, $4, $5, $6)",
        by.name,
        action,
        run.0,
        org,
        by.reason,
        led_to.map(|led_to| serde_json::json!(led_to))
    )
    .execute(tx)
    .await?;
    Ok(())
}
