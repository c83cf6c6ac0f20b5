//! The retention of one organization: purge now, policy, preview, runs.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    http::{
        ApiState, Identity, Problem,
        extract::{OptionalJson, Path, Query, bounded_text},
    },
    ids::OrgId,
    postgres,
    purge::{self, Counting, Preview},
    retention::{self, Cutoffs, RetentionPolicy},
    runs::{self, Cursor, EnqueueError, Enqueued, Page, RunFilter, RunStatus},
};

/// The longest `Idempotency-Key`, in characters.
const MAX_KEY_CHARS: usize = 200;

/// The body of a request for a purge.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PurgeRequest {
    /// Why, for the record.
    #[schema(
        max_length = 1000,
        pattern = "^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$"
    )]
    reason: Option<String>,
}

/// The answer to a request for a purge.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PurgeAccepted {
    /// The new run, or the live run that the request joined.
    run_id: Uuid,
    /// Its status.
    #[schema(value_type = String)]
    status: RunStatus,
    /// Whether the request joined a live run.
    coalesced: bool,
}

/// Requests a purge now. The answer comes before anything is purged.
#[utoipa::path(post, path = "/orgs/{orgId}/retention/purge", tag = "retention",
    params(("orgId" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 200, pattern = "^[!-~]+$", description = "A repeated request with the same key returns the same run")),
    request_body(content = Option<PurgeRequest>, content_type = "application/json"),
    responses((status = 202, body = PurgeAccepted), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn purge(
    State(state): State<ApiState>,
    identity: Identity,
    Path(org): Path<Uuid>,
    headers: HeaderMap,
    OptionalJson(request): OptionalJson<PurgeRequest>,
) -> Result<(StatusCode, Json<PurgeAccepted>), Problem> {
    let org = OrgId(org);
    identity.may_purge(org)?;
    let reason = bounded_text("reason", request.reason, super::MAX_REASON_CHARS)?;
    let key = idempotency_key(&headers)?;
    let run = request_purge(&state, &identity, org, reason.as_deref(), key.as_deref()).await?;
    let accepted = PurgeAccepted {
        run_id: run.run_id.0,
        status: run.status,
        coalesced: run.coalesced,
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// Enqueues a purge that was requested through the API or the console.
pub(in crate::http) async fn request_purge(
    state: &ApiState,
    identity: &Identity,
    org: OrgId,
    reason: Option<&str>,
    key: Option<&str>,
) -> Result<Enqueued, Problem> {
    if let Err(refused) = state.limits.admit_purge(identity, org) {
        // Repeat the answer to a request with the same key.
        let first = match key {
            Some(key) => runs::answered(&state.database, org, key).await?,
            None => None,
        };
        return first.ok_or(refused);
    }
    let permit = state.limits.enqueue_permit(org).await;
    let permit = permit.ok_or(EnqueueError::Busy(org))?;
    let enqueued = enqueue(state, identity, org, reason, key).await;
    if matches!(enqueued, Err(EnqueueError::Busy(_))) {
        permit.refuse_waiting();
    }
    Ok(enqueued?)
}

async fn enqueue(
    state: &ApiState,
    identity: &Identity,
    org: OrgId,
    reason: Option<&str>,
    key: Option<&str>,
) -> Result<Enqueued, EnqueueError> {
    let mut tx = state.database.begin_with(&[runs::ANSWER_SOON]).await?;
    let run = runs::request_purge(&mut tx, org, &identity.subject, reason, key).await?;
    tx.commit().await?;
    Ok(run)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    if !(1..=MAX_KEY_CHARS).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(Problem::bad_request(format!(
            "Idempotency-Key must be 1 to {MAX_KEY_CHARS} visible ASCII characters without blanks"
        )));
    }
    Ok(Some(key.to_owned()))
}

/// The retention windows of an organization's plan and the present cutoffs. Null: no rule.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Policy {
    /// The plan.
    plan: &'static str,
    /// Days by dataset. Null: no rule, nothing is purged.
    #[schema(inline)]
    windows_days: RetentionPolicy,
    /// The cutoffs of a run that started now.
    #[schema(inline)]
    cutoffs: Cutoffs,
}

/// The plan, its windows in days, and the present cutoffs.
#[utoipa::path(get, path = "/orgs/{orgId}/retention/policy", tag = "retention", params(("orgId" = Uuid, Path)),
    responses((status = 200, body = Policy), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn policy(
    State(state): State<ApiState>,
    identity: Identity,
    Path(org): Path<Uuid>,
) -> Result<Json<Policy>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    let plan = retention::resolve(&state.database, org).await?;
    let policy = plan.policy();
    let cutoffs = policy.cutoffs(postgres::now(&state.database).await?);
    Ok(Json(Policy {
        plan: plan.name(),
        windows_days: policy,
        cutoffs,
    }))
}

/// How far a preview counts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct PreviewQuery {
    /// Count every row. Otherwise the count stops at 100,000 rows of a table, and `at_least` names that table.
    exact: bool,
}

/// Rows that a purge would remove now, by table. Changes nothing. Each organization has one preview at a time.
#[utoipa::path(get, path = "/orgs/{orgId}/retention/preview", tag = "retention", params(("orgId" = Uuid, Path), PreviewQuery),
    responses((status = 200, body = Preview), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn preview(
    State(state): State<ApiState>,
    identity: Identity,
    Path(org): Path<Uuid>,
    Query(query): Query<PreviewQuery>,
) -> Result<Json<Preview>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    let counting = Counting::exactly(query.exact);
    Ok(Json(count_expired(&state, &identity, org, counting).await?))
}

/// A preview, after a wait for the count permit.
pub(in crate::http) async fn count_expired(
    state: &ApiState,
    identity: &Identity,
    org: OrgId,
    counting: Counting,
) -> Result<Preview, Problem> {
    let _permit = state.limits.count_permit(identity, org).await?;
    Ok(purge::preview(&state.reading, org, counting).await?)
}

/// The start and the size of a page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// The most items to return.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: u32,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[0-9]{1,16}_[0-9a-f]{32}$")]
    cursor: Option<String>,
}

impl Default for Paging {
    fn default() -> Self {
        Self {
            limit: 50,
            cursor: None,
        }
    }
}

impl Paging {
    /// Checks the limit and the cursor.
    pub(super) fn parse(&self) -> Result<(Option<Cursor>, u32), Problem> {
        page(self.limit, self.cursor.as_deref())
    }
}

/// Checks a page size and a cursor.
pub(super) fn page(limit: u32, cursor: Option<&str>) -> Result<(Option<Cursor>, u32), Problem> {
    super::limit(limit)?;
    let cursor = cursor.map(str::parse).transpose();
    Ok((
        cursor.map_err(|error: runs::BadCursor| Problem::bad_request(error.to_string()))?,
        limit,
    ))
}

/// The organization's runs, newest first.
#[utoipa::path(get, path = "/orgs/{orgId}/retention/runs", tag = "retention", operation_id = "list_organization_runs", params(("orgId" = Uuid, Path), Paging),
    responses((status = 200, body = Page), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn runs(
    State(state): State<ApiState>,
    identity: Identity,
    Path(org): Path<Uuid>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    let (cursor, limit) = paging.parse()?;
    exists(&state, org).await?;
    let filter = RunFilter {
        org: Some(org),
        ..RunFilter::default()
    };
    let mut page = runs::list(&state.database, &filter, cursor, limit).await?;
    page.items = page
        .items
        .into_iter()
        .map(|run| identity.visible_run(run))
        .collect();
    Ok(Json(super::fitting_page(page)))
}

/// 404 for an organization that does not exist. Only operators can get this far with one.
pub(super) async fn exists(state: &ApiState, org: OrgId) -> Result<(), Problem> {
    if crate::drift::organizations::exists(&state.database, org).await? {
        return Ok(());
    }
    Err(Problem::not_found())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_idempotency_key_is_kept_as_it_is_or_refused(
            bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), "[!-~]{0,300}".prop_map(String::into_bytes)],
        ) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", value);
            let fits = (1..=200).contains(&bytes.len()) && bytes.iter().all(|byte| (b'!'..=b'~').contains(byte));
            match idempotency_key(&headers) {
                Ok(key) => prop_assert!(fits && key.map(String::into_bytes) == Some(bytes)),
                Err(_) => prop_assert!(!fits),
            }
        }
    }
}
