//! The drift dashboard's figures.

use axum::{Json, extract::State};
use uuid::Uuid;

use super::organization::exists;
use crate::{
    drift::dashboard::{self, Dashboard},
    http::{ApiState, Identity, Problem, extract::Path},
    ids::OrgId,
};

/// Figures that stay right after a purge.
#[utoipa::path(get, path = "/orgs/{orgId}/drift/dashboard", tag = "drift", operation_id = "drift_dashboard",
    params(("orgId" = Uuid, Path)),
    responses((status = 200, body = Dashboard), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(state): State<ApiState>,
    identity: Identity,
    Path(org): Path<Uuid>,
) -> Result<Json<Dashboard>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    exists(&state, org).await?;
    Ok(Json(figures(&state, &identity, org).await?))
}

/// The figures, when it is the organization's turn to count: every incident of it is looked at.
pub(in crate::http) async fn figures(
    state: &ApiState,
    identity: &Identity,
    org: OrgId,
) -> Result<Dashboard, Problem> {
    let _may_count = state.limits.count(identity, org).await?;
    Ok(dashboard::dashboard(&state.counting, org).await?)
}
