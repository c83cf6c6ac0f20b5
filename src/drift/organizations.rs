//! Organizations.

use sqlx::PgPool;

use crate::ids::OrgId;

/// Every organization's id, in order.
///
/// # Errors
/// When the database fails.
pub async fn ids(pool: &PgPool) -> sqlx::Result<Vec<OrgId>> {
    sqlx::query_scalar!(
        r#"-- drift.organization_ids
        SELECT id AS "id: OrgId" FROM public.organizations ORDER BY id"#
    )
    .fetch_all(pool)
    .await
}

/// Whether there is such an organization.
///
/// # Errors
/// When the database fails.
pub async fn exists(pool: &PgPool, org: OrgId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- drift.organization_exists
        SELECT EXISTS (SELECT FROM public.organizations WHERE id = $1) AS "exists!""#,
        org.0
    )
    .fetch_one(pool)
    .await
}
