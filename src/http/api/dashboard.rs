//! The figures of the drift dashboard.

use axum::{Json, extract::State};
use uuid::Uuid;

use super::organization::exists;
use crate::{
    drift::dashboard::{self, Dashboard},
    http::{ApiState, Identity, Problem, extract::Path},
    ids::OrgId,
};

/// The dashboard's figures, which a purge does not change.
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

/// The figures, after a wait for the count permit: they read every incident of the organization.
pub(in crate::http) async fn figures(
    state: &ApiState,
    identity: &Identity,
    org: OrgId,
) -> Result<Dashboard, Problem> {
    let _permit = state.limits.count_permit(identity, org).await?;
    Ok(dashboard::dashboard(&state.counting, org).await?)
}
