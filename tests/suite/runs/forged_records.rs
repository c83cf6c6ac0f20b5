//! The worker's role cannot rewrite history: not by deleting what is live, lowering a count, or choosing ids and times.

use crate::support::{
    TestDatabase,
    app::App,
    product,
    roles::{self, assert_refused, pool_of},
    runs,
};

#[tokio::test]
async fn workers_role_forges_no_record_and_lowers_no_count() {
    let db = TestDatabase::new().await;
    roles::apply(&db).await;
    let url = roles::user_in(&db, "drift_retention_worker").await;
    let org = App::on(&db.pool).org_with_expired(20).await;
    let done = product::purge(&url, org).await;
    let live = product::enqueue(&db.pool, org).await;
    db.execute(&format!(
        "INSERT INTO retention.purge_run_steps (run_id, table_name, rows_purged, batches, status)
         VALUES ('{live}', 'drift_checks', 7, 1, 'running')"
    ))
    .await;
    let pool = pool_of(&url);
    assert_refused(
        &pool,
        &[
            &format!("DELETE FROM retention.purge_runs WHERE id = '{live}'"),
            &format!("DELETE FROM retention.purge_runs WHERE id = '{done}'"),
            &format!("UPDATE retention.purge_runs SET created_at = now() - interval '400 days' WHERE id = '{live}'"),
            &format!("UPDATE retention.purge_runs SET id = gen_random_uuid() WHERE id = '{live}'"),
            &format!("UPDATE retention.purge_runs SET org_id = gen_random_uuid() WHERE id = '{live}'"),
            &format!("UPDATE retention.purge_runs SET requested_by = 'sam' WHERE id = '{live}'"),
            &format!("UPDATE retention.purge_run_steps SET rows_purged = 0 WHERE run_id = '{live}'"),
            &format!("UPDATE retention.purge_run_steps SET batches = 0 WHERE run_id = '{live}'"),
            &format!(
                "INSERT INTO retention.purge_runs (org_id, trigger, requested_by, created_at)
                 VALUES ('{org}', 'purge_now', 'sam', now() - interval '1 year')"
            ),
            "INSERT INTO retention.operator_actions (actor, action, at) VALUES ('sam', 'cancel', now() - interval '1 year')",
            "INSERT INTO retention.operator_actions (id, actor, action) OVERRIDING SYSTEM VALUE VALUES (1000000, 'sam', 'cancel')",
        ],
    )
    .await;
    // The owner of the schema cannot lower a count either, nor delete what is live.
    assert_refused(
        &db.pool,
        &[
            &format!("DELETE FROM retention.purge_runs WHERE id = '{live}'"),
            &format!(
                "UPDATE retention.purge_run_steps SET rows_purged = 6 WHERE run_id = '{live}'"
            ),
        ],
    )
    .await;
    let step = runs::step(&db, live, "drift_checks").await;
    assert_eq!(step["rows_purged"], 7);
}

#[tokio::test]
async fn no_function_of_ours_can_be_called_by_everybody() {
    let db = TestDatabase::new().await;
    roles::apply(&db).await;
    let public: Vec<String> = db
        .value(
            "SELECT ARRAY (
                 SELECT p.oid::regprocedure::text FROM pg_proc p
                 WHERE p.pronamespace IN ('retention'::regnamespace, 'apalis'::regnamespace, 'main_app'::regnamespace)
                   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
                   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
                 ORDER BY 1)",
        )
        .await;
    assert_eq!(public, [""; 0]);
}

/// What each role may call: a new function shows up here.
#[tokio::test]
async fn each_role_may_call_exactly_these_functions() {
    let db = TestDatabase::new().await;
    roles::apply(&db).await;
    let callable = async |role: &str| -> Vec<String> {
        db.value(&format!(
            "SELECT ARRAY (
                 SELECT p.proname::text FROM pg_proc p
                 WHERE p.pronamespace IN ('retention'::regnamespace, 'main_app'::regnamespace)
                   AND has_function_privilege('{role}', p.oid, 'EXECUTE')
                 ORDER BY 1)"
        ))
        .await
    };
    assert_eq!(
        callable("drift_retention_worker").await,
        [
            "acknowledge_cancelled",
            "check_request",
            "deliver",
            "enqueue_purge",
            "enqueue_purges",
            "enqueue_run",
            "enqueue_slot",
            "erase_payloads",
            "erase_payloads",
            "excerpt",
            "first_check_key",
            "lock_plan",
            "long_excerpt",
            "mapping_fingerprint",
            "payload_tables_state",
            "payloads_in_doubt",
            "pressure",
            "urge_running",
            "worker_is_silent",
        ]
    );
    assert_eq!(callable("drift_retention_app").await, ["enqueue_purge"]);
    assert_eq!(callable("drift_retention_reader").await, [""; 0]);
}
