//! Sample data for the quick start: forty customers of `WorkflowOps` with years of history on both sides of every
//! plan's windows. Every load creates the same rows, dated back from the time of loading.

use sqlx::PgPool;

/// The scripts in order. Later scripts use the rows and temporary tables of earlier ones.
const SCRIPTS: [&str; 3] = [
    include_str!("sample_data/organizations.sql"),
    include_str!("sample_data/drift_checks.sql"),
    include_str!("sample_data/incidents.sql"),
];

/// Whether there is any organization. Then the database is in use or already loaded.
///
/// # Errors
/// When the database cannot be reached or is not migrated.
pub async fn is_loaded(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let row = sqlx::raw_sql(
        "-- demo.sample_data.is_loaded\nSELECT EXISTS (SELECT FROM main_app.organizations)",
    )
    .fetch_one(pool)
    .await?;
    sqlx::Row::try_get(&row, 0)
}

/// Fills an empty, migrated database in one transaction.
///
/// # Errors
/// When the database cannot be reached, is not migrated, or holds sample data already.
pub async fn load(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    for script in SCRIPTS {
        sqlx::raw_sql(script).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    // The query plans of the first purge need current table statistics.
    sqlx::raw_sql(
        "-- demo.sample_data.analyze\n\
         ANALYZE public.organizations, public.environments, public.drift_checks, public.workflow_drift_flags, \
         public.incidents, public.incident_payloads, public.approvals",
    )
    .execute(pool)
    .await?;
    Ok(())
}
