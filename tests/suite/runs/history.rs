//! History is append-only for everybody, the owner of the tables included.

use crate::support::{
    TestDatabase,
    app::App,
    product,
    roles::{self, assert_refused, pool_of, refusal},
};

/// A database with runs that ended in every way, steps, and an operator's action.
async fn with_history() -> TestDatabase {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org_with_expired(11).await;
    product::purge(&db.url, org).await;
    let unresolved = app.org("legacy").await;
    product::run(
        &db.url,
        &["purge", "--org", &unresolved.to_string(), "--work"],
    )
    .await;
    let waiting = product::enqueue(&db.pool, org).await;
    let done = product::run(&db.url, &["runs", "cancel", &waiting.to_string()]).await;
    assert!(done.status.success(), "{done:?}");
    db
}

const REWRITING: [&str; 13] = [
    "UPDATE retention.purge_runs SET error = 'nothing' WHERE status = 'failed'",
    "UPDATE retention.purge_runs SET status = 'running' WHERE status = 'succeeded'",
    "UPDATE retention.purge_runs SET requested_by = 'nobody' WHERE status = 'cancelled'",
    "UPDATE retention.purge_runs SET created_at = now() - interval '31 days'",
    "DELETE FROM retention.purge_runs WHERE status = 'succeeded'",
    "DELETE FROM retention.purge_runs WHERE status = 'failed'",
    "DELETE FROM retention.purge_runs WHERE status = 'cancelled'",
    "UPDATE retention.purge_run_steps SET rows_purged = 0",
    "DELETE FROM retention.purge_run_steps",
    "UPDATE retention.operator_actions SET actor = 'nobody'",
    "DELETE FROM retention.operator_actions",
    "TRUNCATE retention.operator_actions",
    "TRUNCATE retention.purge_run_steps",
];

#[tokio::test]
async fn nobody_can_rewrite_what_is_final() {
    let db = with_history().await;
    roles::apply(&db).await;
    let worker = pool_of(&roles::user_in(&db, "drift_retention_worker").await);
    let app = pool_of(&roles::user_in(&db, "drift_retention_app").await);
    let history = "SELECT jsonb_build_array(
        (SELECT jsonb_agg(to_jsonb(r) ORDER BY id) FROM retention.purge_runs r),
        (SELECT jsonb_agg(to_jsonb(s) ORDER BY run_id, table_name) FROM retention.purge_run_steps s),
        (SELECT jsonb_agg(to_jsonb(a) ORDER BY id) FROM retention.operator_actions a))";
    let before: serde_json::Value = db.value(history).await;

    for pool in [&db.pool, &worker, &app] {
        assert_refused(pool, &REWRITING).await;
        assert_refused(pool, &["TRUNCATE retention.purge_runs CASCADE"]).await;
    }

    assert_eq!(db.value::<serde_json::Value>(history).await, before);
}

#[tokio::test]
async fn step_cannot_be_added_to_a_final_run_nor_moved_into_one() {
    let db = with_history().await;
    let live = product::enqueue(&db.pool, App::on(&db.pool).org("pro").await).await;
    db.execute(&format!(
        "INSERT INTO retention.purge_run_steps (run_id, table_name) VALUES ('{live}', 'approvals')"
    ))
    .await;

    assert_refused(
        &db.pool,
        &[
            "INSERT INTO retention.purge_run_steps (run_id, table_name, rows_purged)
             SELECT id, 'approvals', 7 FROM retention.purge_runs WHERE status = 'failed'",
            // Beside one that may come.
            "INSERT INTO retention.purge_run_steps (run_id, table_name)
             SELECT id, 'drift_checks' FROM retention.purge_runs WHERE status IN ('queued', 'failed')",
            &format!(
                "UPDATE retention.purge_run_steps
                 SET run_id = (SELECT id FROM retention.purge_runs WHERE status = 'failed')
                 WHERE run_id = '{live}'"
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn final_run_can_be_pruned_once_it_is_thirty_days_old_and_not_before() {
    let db = TestDatabase::new().await;
    for (age, refused) in [("29 days 23 hours", true), ("30 days 1 minute", false)] {
        db.execute(&format!(
            "INSERT INTO retention.purge_runs (org_id, trigger, requested_by, status, created_at)
             VALUES (gen_random_uuid(), 'schedule', 'scheduler', 'queued', now() - interval '{age}');
             INSERT INTO retention.purge_run_steps (run_id, table_name)
             SELECT id, 'approvals' FROM retention.purge_runs WHERE status = 'queued';
             UPDATE retention.purge_runs SET status = 'succeeded' WHERE status = 'queued'"
        ))
        .await;
        let prune = format!(
            "DELETE FROM retention.purge_runs WHERE abs(extract(epoch FROM now() - interval '{age}' - created_at)) < 30"
        );
        let expected = refused.then_some("42501");
        assert_eq!(
            refusal(&db.pool, &prune).await.as_deref(),
            expected,
            "{age}"
        );
    }
    let left: Vec<i64> = db
        .value(
            "SELECT ARRAY[(SELECT count(*) FROM retention.purge_runs), (SELECT count(*) FROM retention.purge_run_steps)]",
        )
        .await;
    assert_eq!(left, [1, 1]);
    assert_refused(&db.pool, &["UPDATE retention.purge_runs SET error = 'x'"]).await;
}
