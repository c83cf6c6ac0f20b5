//! Sample organizations for the quick start: forty customers of `WorkflowOps` with years of history on both sides of
//! every plan's windows. The same rows every time, dated back from the moment of loading.

use sqlx::PgPool;

/// In order: later files refer to the rows of earlier ones, and to their temporary tables.
const SCRIPTS: [&str; 3] = [
    include_str!("sample_data/organizations.sql"),
    include_str!("sample_data/drift_checks.sql"),
    include_str!("sample_data/incidents.sql"),
];

/// Whether there is any organization: then the database is somebody's, or loaded already.
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

/// Fills an empty, migrated database: all of it or, on an error, nothing.
///
/// # Errors
/// When the database cannot be reached, is not migrated, or holds sample data already.
pub async fn load(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    for script in SCRIPTS {
        sqlx::raw_sql(script).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    // Plans for the first purge should know how large the tables have become.
    sqlx::raw_sql(
        "-- demo.sample_data.analyze\n\
         ANALYZE public.organizations, public.environments, public.drift_checks, public.workflow_drift_flags, \
         public.incidents, public.incident_payloads, public.approvals",
    )
    .execute(pool)
    .await?;
    Ok(())
}
