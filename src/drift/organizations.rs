//! Reads the main app's organizations.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{ids::OrgId, postgres::Database};

/// Every organization's id, in order.
///
/// # Errors
/// When the database fails.
pub async fn ids(database: &Database) -> sqlx::Result<Vec<OrgId>> {
    sqlx::query_scalar!(
        r#"-- drift.organization_ids
        SELECT id AS "id!: OrgId" FROM main_app.organizations ORDER BY id"#
    )
    .fetch_all(database)
    .await
}

/// Whether the organization exists.
///
/// # Errors
/// When the database fails.
pub async fn exists(database: &Database, org: OrgId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- drift.organization_exists
        SELECT EXISTS (SELECT FROM main_app.organizations WHERE id = $1) AS "exists!""#,
        org.0
    )
    .fetch_one(database)
    .await
}

/// An organization.
#[derive(Debug, Clone)]
pub struct Organization {
    /// Its id.
    pub id: OrgId,
    /// Its name, shortened if it is long.
    pub name: String,
    /// Its plan as the main app wrote it, shortened if it is long. Empty if it has none.
    pub plan: String,
}

/// One organization.
///
/// # Errors
/// When the database fails.
pub async fn get(database: &Database, org: OrgId) -> sqlx::Result<Option<Organization>> {
    sqlx::query_as!(
        Organization,
        r#"-- drift.get_organization
        SELECT id AS "id!: OrgId", retention.excerpt(coalesce(name, '')) AS "name!", retention.excerpt(coalesce(plan, '')) AS "plan!"
        FROM main_app.organizations WHERE id = $1"#,
        org.0
    )
    .fetch_optional(database)
    .await
}

/// Which organizations to list.
#[derive(Debug, Clone, Default)]
pub struct OrganizationFilter {
    /// Only organizations whose name contains this text or whose id begins with it.
    pub search: Option<String>,
    /// Only organizations whose plan is one of these spellings, or begins with one.
    pub plans: Option<Vec<String>>,
}

/// At most `limit` organizations by name, after the organization `cursor`.
///
/// # Errors
/// When the database fails.
pub async fn list(
    database: &Database,
    filter: &OrganizationFilter,
    cursor: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Organization>> {
    sqlx::query_as!(
        Organization,
        r#"-- drift.list_organizations
        SELECT id AS "id!: OrgId", retention.excerpt(coalesce(name, '')) AS "name!", retention.excerpt(coalesce(plan, '')) AS "plan!"
        FROM main_app.organizations
        WHERE ($1::text IS NULL OR position(lower($1) IN lower(name)) > 0 OR starts_with(id::text, lower($1)))
          AND ($2::text[] IS NULL OR retention.excerpt(coalesce(plan, '')) = ANY ($2))
          AND ($3::uuid IS NULL OR (name, id) > (SELECT l.name, l.id FROM main_app.organizations l WHERE l.id = $3))
        ORDER BY name, id LIMIT $4"#,
        filter.search.as_deref(),
        filter.plans.as_deref(),
        cursor,
        limit
    )
    .fetch_all(database)
    .await
}

/// The names of those of these organizations that exist.
///
/// # Errors
/// When the database fails.
pub async fn names(database: &Database, ids: &[Uuid]) -> sqlx::Result<HashMap<OrgId, String>> {
    let found = sqlx::query!(
        r#"-- drift.organization_names
        SELECT id AS "id!: OrgId", retention.excerpt(coalesce(name, '')) AS "name!"
        FROM main_app.organizations WHERE id = ANY ($1)"#,
        ids
    )
    .fetch_all(database)
    .await?;
    Ok(found.into_iter().map(|row| (row.id, row.name)).collect())
}
