//! Which plan an organization is on: the one query of this module, and the one place for overrides to come.

use super::{Plan, UnknownPlan};
use crate::ids::OrgId;
use sqlx::PgExecutor;

/// Why an organization has no policy. Whatever the reason, nothing of it is purged.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No such organization.
    #[error("organization {0} does not exist")]
    NoOrganization(OrgId),
    /// Its plan stands in no table.
    #[error("the plan of organization {0} cannot be resolved")]
    UnknownPlan(OrgId, #[source] UnknownPlan),
    /// The lookup itself failed.
    #[error("cannot look up the plan")]
    Database(#[from] sqlx::Error),
}

/// The plan of `org`, read now.
///
/// # Errors
/// When the organization is gone, its plan is unknown, or the lookup fails. Never falls back to a plan.
pub async fn resolve(on: impl PgExecutor<'_>, org: OrgId) -> Result<Plan, ResolveError> {
    let plan = sqlx::query_scalar!(
        r#"-- retention.resolve_plan
        SELECT retention.excerpt(coalesce(plan, '')) AS "plan!" FROM main_app.organizations WHERE id = $1"#,
        org.0
    )
    .fetch_optional(on)
    .await?
    .ok_or(ResolveError::NoOrganization(org))?;
    plan.parse()
        .map_err(|unknown| ResolveError::UnknownPlan(org, unknown))
}
