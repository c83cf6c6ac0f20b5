//! What a run recorded against what is really gone.

use sqlx::PgPool;
use uuid::Uuid;

use super::value;

/// Rows in approvals, drift checks, incident payloads and workflow flags.
pub async fn rows(pool: &PgPool) -> Vec<i64> {
    value(
        pool,
        "SELECT ARRAY[(SELECT count(*) FROM approvals), (SELECT count(*) FROM drift_checks),
                      (SELECT count(*) FROM incident_payloads), (SELECT count(*) FROM workflow_drift_flags)]",
    )
    .await
}

/// What all runs together have recorded as purged, in the same order.
pub async fn recorded(pool: &PgPool) -> Vec<i64> {
    value(
        pool,
        "SELECT array_agg(coalesce(rows, 0)::bigint ORDER BY t)
         FROM unnest(ARRAY['approvals', 'drift_checks', 'incident_payloads', 'workflow_drift_flags']) AS t
         LEFT JOIN (SELECT table_name, sum(rows_purged) AS rows FROM retention.purge_run_steps
                    GROUP BY table_name) s ON s.table_name = t",
    )
    .await
}

/// Fails unless the records hold exactly the rows that went since `before`, table by table.
pub async fn assert_exact(pool: &PgPool, before: &[i64]) {
    let (now, recorded) = (rows(pool).await, recorded(pool).await);
    let gone: Vec<i64> = before.iter().zip(&now).map(|(b, n)| b - n).collect();
    assert_eq!(recorded, gone, "recorded, and really gone");
}

/// Rows that the records hold so far.
pub async fn progress(pool: &PgPool, run: Uuid) -> i64 {
    let sql = format!(
        "SELECT coalesce(sum(rows_purged), 0)::bigint FROM retention.purge_run_steps WHERE run_id = '{run}'"
    );
    value(pool, &sql).await
}

/// One column of a run, as text.
pub async fn run_column(pool: &PgPool, run: Uuid, column: &str) -> String {
    let sql =
        format!("SELECT coalesce({column}::text, '') FROM retention.purge_runs WHERE id = '{run}'");
    value(pool, &sql).await
}

/// How many attempts a run has spent.
pub async fn attempts(pool: &PgPool, run: Uuid) -> i32 {
    run_column(pool, run, "attempts").await.parse().unwrap()
}
