//! Environments with their badges.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::organization::exists;
use crate::{
    drift::environments::{self, Environment, WorkflowFlag},
    http::{
        ApiState, Identity, Problem,
        extract::{Path, Query},
    },
    ids::OrgId,
};

/// The start and the size of a page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The most items to return.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: u32,
    /// `next_cursor` of the previous page.
    cursor: Option<Uuid>,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            limit: 50,
            cursor: None,
        }
    }
}

/// A page of environments, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EnvironmentPage {
    items: Vec<Environment>,
    next_cursor: Option<Uuid>,
}

/// An environment and the workflow flags of its newest check.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EnvironmentDetail {
    #[serde(flatten)]
    environment: Environment,
    /// The workflows that the newest check flagged, as many as fit in an answer.
    flags: Vec<WorkflowFlag>,
}

/// The organization's environments with their badges.
#[utoipa::path(get, path = "/orgs/{orgId}/environments", tag = "drift", params(("orgId" = Uuid, Path), ListQuery),
    operation_id = "list_environments",
    responses((status = 200, body = EnvironmentPage), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(state): State<ApiState>,
    identity: Identity,
    Path(org): Path<Uuid>,
    Query(query): Query<ListQuery>,
) -> Result<Json<EnvironmentPage>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    let limit = super::limit(query.limit)?;
    exists(&state, org).await?;
    let items = environments::list(&state.database, org, query.cursor, limit + 1).await?;
    let (items, next_cursor) = super::page_of(items, limit, |environment| environment.id);
    Ok(Json(EnvironmentPage { items, next_cursor }))
}

/// One environment, with the workflow flags of its newest check.
#[utoipa::path(get, path = "/orgs/{orgId}/environments/{environmentId}", tag = "drift",
    operation_id = "show_environment", params(("orgId" = Uuid, Path), ("environmentId" = Uuid, Path)),
    responses((status = 200, body = EnvironmentDetail), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(state): State<ApiState>,
    identity: Identity,
    Path((org, id)): Path<(Uuid, Uuid)>,
) -> Result<Json<EnvironmentDetail>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    let environment = environments::get(&state.database, org, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let flags = match &environment.check_id {
        Some(check) => environments::flags(&state.database, check).await?,
        None => Vec::new(),
    };
    Ok(Json(EnvironmentDetail {
        environment,
        flags: super::fitting(flags, super::MAX_LIST_BYTES),
    }))
}
