//! Routes for operators: runs of all organizations, replay and cancel.

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{MAX_REASON_CHARS, organization::page};
use crate::{
    http::{
        ApiState, Identity, Problem,
        extract::{OptionalJson, Path, Query, bounded_text, bounded_time},
    },
    ids::{OrgId, RunId},
    runs::{
        self, EnqueueError, MAX_REPLAYED, OperateError, Operator, Page, Replayed, Run, RunFilter,
        RunStatus,
    },
};

/// The filter and the page of a list of runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only runs in this status.
    #[param(inline)]
    status: Option<RunStatus>,
    /// Only runs of this error kind.
    #[param(
        max_length = 100,
        pattern = "^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$"
    )]
    error_kind: Option<String>,
    /// Only runs of this organization.
    org_id: Option<Uuid>,
    /// Only runs created at this time or after it.
    since: Option<DateTime<Utc>>,
    /// Only runs created before this time.
    until: Option<DateTime<Utc>>,
    /// The most runs to return.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: u32,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[0-9]{1,16}_[0-9a-f]{32}$")]
    cursor: Option<String>,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            status: None,
            error_kind: None,
            org_id: None,
            since: None,
            until: None,
            limit: 50,
            cursor: None,
        }
    }
}

/// Runs of all organizations, newest first.
#[utoipa::path(get, path = "/retention/runs", tag = "operators", operation_id = "list_runs", params(ListQuery),
    responses((status = 200, body = Page), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(state): State<ApiState>,
    identity: Identity,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page>, Problem> {
    identity.may_operate()?;
    let (cursor, limit) = page(query.limit, query.cursor.as_deref())?;
    let filter = RunFilter {
        org: query.org_id.map(OrgId),
        status: query.status,
        error_kind: bounded_text("error_kind", query.error_kind, 100)?,
        since: bounded_time("since", query.since)?,
        until: bounded_time("until", query.until)?,
        ids: None,
    };
    let page = runs::list(&state.database, &filter, cursor, limit).await?;
    Ok(Json(super::fitting_page(page)))
}

/// One run with its steps.
#[utoipa::path(get, path = "/retention/runs/{runId}", tag = "operators", operation_id = "show_run", params(("runId" = Uuid, Path)),
    responses((status = 200, body = Run), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(state): State<ApiState>,
    identity: Identity,
    Path(run): Path<Uuid>,
) -> Result<Json<Run>, Problem> {
    identity.may_operate()?;
    let run = runs::get(&state.database, RunId(run)).await?;
    run.map(Json).ok_or_else(Problem::not_found)
}

/// The operator's reason.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ActionReason {
    /// Why, for the record.
    #[schema(
        max_length = 1000,
        pattern = "^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$"
    )]
    reason: Option<String>,
}

/// Replays a failed or cancelled run as a new run.
#[utoipa::path(post, path = "/retention/runs/{runId}/replay", tag = "operators", params(("runId" = Uuid, Path)),
    request_body(content = Option<ActionReason>, content_type = "application/json"),
    responses((status = 202, body = Replayed), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn replay(
    State(state): State<ApiState>,
    identity: Identity,
    Path(run): Path<Uuid>,
    OptionalJson(because): OptionalJson<ActionReason>,
) -> Result<(StatusCode, Json<Replayed>), Problem> {
    identity.may_operate()?;
    let by = operator(identity, because.reason)?;
    let replayed = runs::replay(&state.database, RunId(run), &by).await?;
    Ok((StatusCode::ACCEPTED, Json(replayed)))
}

/// The final states from which a run can be replayed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReplayableStatus {
    /// The run failed.
    Failed,
    /// The run was cancelled.
    Cancelled,
}

/// The filter of a replay. It selects the latest matching run of each organization, unless a later run succeeded.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReplayRequest {
    /// The status of the runs; the default is `failed`.
    status: Option<ReplayableStatus>,
    /// Only runs of this error kind.
    #[schema(
        max_length = 100,
        pattern = "^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$"
    )]
    error_kind: Option<String>,
    /// Only runs of this organization.
    org_id: Option<Uuid>,
    /// Only runs created at this time or after it.
    since: Option<DateTime<Utc>>,
    /// Only runs created before this time.
    until: Option<DateTime<Utc>>,
    /// Return the runs that would be replayed, and change nothing.
    dry_run: bool,
    /// Why, for the record.
    #[schema(
        max_length = 1000,
        pattern = "^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$"
    )]
    reason: Option<String>,
}

/// The result of a replay by filter, or of its dry run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayAnswer {
    /// Whether this was a dry run.
    dry_run: bool,
    /// How many runs match. A request replays at most 1,000 of them; repeat it for the rest.
    matching: usize,
    /// The replayed runs and their new runs. `run_id` is null in a dry run.
    runs: Vec<ReplayedRun>,
}

/// One run of a replay by filter.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayedRun {
    /// The replayed run, which does not change.
    replay_of: Uuid,
    /// The run's organization.
    org_id: Uuid,
    /// The new run, or the organization's live run that the replay joined.
    run_id: Option<Uuid>,
    /// Whether the replay joined a live run.
    coalesced: bool,
}

/// Replays all matching runs. With `dry_run`, returns exactly the runs that would be replayed.
#[utoipa::path(post, path = "/retention/runs/replay", tag = "operators",
    request_body(content = Option<ReplayRequest>, content_type = "application/json"),
    responses((status = 200, body = ReplayAnswer), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn replay_many(
    State(state): State<ApiState>,
    identity: Identity,
    OptionalJson(request): OptionalJson<ReplayRequest>,
) -> Result<Json<ReplayAnswer>, Problem> {
    identity.may_operate()?;
    let status = match request.status {
        Some(ReplayableStatus::Cancelled) => RunStatus::Cancelled,
        Some(ReplayableStatus::Failed) | None => RunStatus::Failed,
    };
    let filter = RunFilter {
        org: request.org_id.map(OrgId),
        status: Some(status),
        error_kind: bounded_text("error_kind", request.error_kind, 100)?,
        since: bounded_time("since", request.since)?,
        until: bounded_time("until", request.until)?,
        ids: None,
    };
    let by = operator(identity, request.reason)?;
    let (runs, matching) = if request.dry_run {
        let (found, all) = runs::replayable(&state.database, &filter, Some(MAX_REPLAYED)).await?;
        let would = |run: runs::Replayable| ReplayedRun {
            replay_of: run.id.0,
            org_id: run.org_id.0,
            run_id: None,
            coalesced: run.has_live_run,
        };
        (found.into_iter().map(would).collect(), all)
    } else {
        let (replayed, all) =
            runs::replay_matching(&state.database, &filter, &by, Some(MAX_REPLAYED)).await?;
        let did = |replayed: Replayed| ReplayedRun {
            replay_of: replayed.replay_of.0,
            org_id: replayed.enqueued.org_id.0,
            run_id: Some(replayed.enqueued.run_id.0),
            coalesced: replayed.enqueued.coalesced,
        };
        (replayed.into_iter().map(did).collect(), all)
    };
    Ok(Json(ReplayAnswer {
        dry_run: request.dry_run,
        matching,
        runs,
    }))
}

/// Cancels a live run; a running one stops at its next batch.
#[utoipa::path(post, path = "/retention/runs/{runId}/cancel", tag = "operators", params(("runId" = Uuid, Path)),
    request_body(content = Option<ActionReason>, content_type = "application/json"),
    responses((status = 200, body = Run), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn cancel(
    State(state): State<ApiState>,
    identity: Identity,
    Path(run): Path<Uuid>,
    OptionalJson(because): OptionalJson<ActionReason>,
) -> Result<Json<Run>, Problem> {
    identity.may_operate()?;
    let by = operator(identity, because.reason)?;
    runs::cancel(&state.database, RunId(run), &by).await?;
    let run = runs::get(&state.database, RunId(run)).await?;
    run.map(Json).ok_or_else(Problem::not_found)
}

fn operator(identity: Identity, reason: Option<String>) -> Result<Operator, Problem> {
    Ok(Operator {
        name: identity.subject,
        reason: bounded_text("reason", reason, MAX_REASON_CHARS)?,
    })
}

impl From<OperateError> for Problem {
    fn from(error: OperateError) -> Self {
        match error {
            OperateError::NoRun(_) => Self::not_found(),
            OperateError::NotReplayable(..) | OperateError::NotLive(..) => {
                Self::conflict(error.to_string())
            }
            OperateError::Enqueue(EnqueueError::NoOrganization(_)) => {
                Self::conflict("the run's organization does not exist any more")
            }
            OperateError::Enqueue(error) => error.into(),
            OperateError::Database(error) => error.into(),
        }
    }
}
