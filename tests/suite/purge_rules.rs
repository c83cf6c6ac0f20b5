//! What goes and what stays: one sentence a test, on a real Postgres, by the product's own binary.

use crate::support::{TestDatabase, app::App, product};

#[tokio::test]
async fn old_checks_go_with_their_flags_and_recent_ones_stay() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let old = app.check(org, env, "31 days", &["wf_1", "wf_2"]).await;
    let recent = app.check(org, env, "29 days", &["wf_1"]).await;

    let run = product::purge(&db.url, org).await;

    assert_eq!(
        db.value::<Vec<i64>>("SELECT array_agg(id) FROM drift_checks")
            .await,
        [recent]
    );
    assert_eq!(
        db.value::<i64>(&format!(
            "SELECT count(*) FROM workflow_drift_flags WHERE check_id = {old}"
        ))
        .await,
        0
    );
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM workflow_drift_flags")
            .await,
        1
    );
    let recorded = format!(
        "SELECT array_agg(rows_purged ORDER BY table_name) FROM retention.purge_run_steps WHERE run_id = '{run}'"
    );
    assert_eq!(db.value::<Vec<i64>>(&recorded).await, [0, 1, 0, 2]);
}
