//! A purge beside the main app at work: it never waits long for the app, the app never for it, and what the app
//! does in the meantime decides what goes.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    app::App,
    held::{Held, slow_deletes},
    ledger,
    product::{self, Service, eventually, until_status},
    runs::{self, start_purge, succeeds, until_retried},
    trouble,
};

async fn count(db: &TestDatabase, from: &str) -> i64 {
    db.value(&format!("SELECT count(*) FROM {from}")).await
}

/// Waits until a purge of this database is in the middle of a slow delete.
async fn until_deleting(db: &TestDatabase) {
    eventually("a delete is under way", async || {
        count(
            db,
            "pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'",
        )
        .await
            > 0
    })
    .await;
}

/// The environments' checks, oldest first.
async fn checks(db: &TestDatabase, env: Uuid) -> Vec<i64> {
    db.value(&format!(
        "SELECT coalesce(array_agg(id ORDER BY checked_at, id), '{{}}') FROM drift_checks WHERE env_id = '{env}'"
    ))
    .await
}

/// Two environments of one organization; each has expired checks and nothing else.
async fn two_environments(db: &TestDatabase) -> (Uuid, Uuid, Uuid) {
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let (held, free) = (app.env(org).await, app.env(org).await);
    app.many_checks(org, held, 20, "40 days", 1).await;
    app.many_checks(org, free, 20, "40 days", 1).await;
    (org, held, free)
}

/// The app is deleting the `newest` newest checks of an environment while a purge goes over it, which has to come
/// back; returns the open transaction, the purge, the environment and the checks it had.
async fn while_deleting_the(
    db: &TestDatabase,
    newest: usize,
) -> (Held, tokio::process::Child, Uuid, Vec<i64>) {
    let (org, env, free) = two_environments(db).await;
    let before = checks(db, env).await;
    let going = &before[before.len() - newest..];
    let held = Held::by(
        db,
        &format!("DELETE FROM drift_checks WHERE id = ANY (ARRAY{going:?})"),
    )
    .await;
    let purge = start_purge(db, org, 7);
    until_retried(db, org).await;
    let next = before.len() - newest - 1;
    assert_eq!(
        checks(db, env).await,
        before[next..],
        "the newest that is not going stays"
    );
    assert_eq!(checks(db, free).await.len(), 1, "the rest goes");
    (held, purge, env, before)
}

#[tokio::test]
async fn when_the_app_deletes_the_newest_check_the_next_newest_stays() {
    let db = TestDatabase::new().await;
    let (held, purge, env, before) = while_deleting_the(&db, 1).await;

    held.commit().await;

    assert!(succeeds(purge).await);
    assert_eq!(checks(&db, env).await, before[18..19]);
}

#[tokio::test]
async fn when_the_app_rolls_its_deletion_back_the_newest_check_stays() {
    let db = TestDatabase::new().await;
    let (held, purge, env, before) = while_deleting_the(&db, 1).await;

    held.rollback().await;

    assert!(succeeds(purge).await);
    assert_eq!(checks(&db, env).await, before[19..]);
}

#[tokio::test]
async fn when_the_app_deletes_several_of_the_newest_checks_the_newest_of_the_others_stays() {
    let db = TestDatabase::new().await;
    let (held, purge, env, before) = while_deleting_the(&db, 3).await;

    held.commit().await;

    assert!(succeeds(purge).await);
    assert_eq!(checks(&db, env).await, before[16..17]);
}

#[tokio::test]
async fn the_app_cannot_delete_the_newest_check_while_a_batch_relies_on_it() {
    let db = TestDatabase::new().await;
    let (org, env, _) = two_environments(&db).await;
    // After the deletion, before its commit.
    trouble::deletes_take(&db.pool, 0.7).await;
    let newest = *checks(&db, env).await.last().unwrap();
    // A batch of one may take its time: there is no smaller one.
    let purge = start_purge(&db, org, 1);
    until_deleting(&db).await;

    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "SET lock_timeout = '50ms'; DELETE FROM drift_checks WHERE id = {newest}"
    )))
    .execute(&mut db.pool.acquire().await.unwrap().detach())
    .await
    .unwrap_err();

    assert!(refused.to_string().contains("lock timeout"), "{refused}");
    trouble::deletes_take(&db.pool, 0.0).await;
    assert!(succeeds(purge).await);
    assert_eq!(checks(&db, env).await, [newest]);
}

#[tokio::test]
async fn a_newer_check_written_during_a_purge_makes_the_former_newest_expendable() {
    let db = TestDatabase::new().await;
    let (org, env, _) = two_environments(&db).await;
    slow_deletes(&db, "drift_checks", "0.1").await;
    let purge = start_purge(&db, org, 5);
    until_deleting(&db).await;

    let newer = App::on(&db.pool).check(org, env, "0 s", &["wf_1"]).await;

    assert!(succeeds(purge).await);
    assert_eq!(checks(&db, env).await, [newer]);
    let run = runs::newest_run(&db, org).await;
    assert_eq!(runs::purged(&db, run).await, [39, 39, 0, 0]);
}

#[tokio::test]
async fn an_incident_reopened_while_the_purge_runs_is_untouched() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let mut incidents = Vec::new();
    for _ in 0..2 {
        let incident = app.incident(org, env, "closed", Some("200 days")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "200 days").await;
        incidents.push(incident);
    }
    let reopened = incidents[0];
    let held = Held::by(
        &db,
        &format!("UPDATE incidents SET status = 'acknowledged' WHERE id = '{reopened}'"),
    )
    .await;
    let purge = start_purge(&db, org, 10);
    eventually("the purge has been over the approvals", async || {
        runs::counts(&db, org).await == [0, 0, 1, 1]
    })
    .await;

    held.commit().await;

    assert!(succeeds(purge).await);
    let untouched = format!(
        "incidents i JOIN incident_payloads p ON p.incident_id = i.id JOIN approvals a ON a.incident_id = i.id
         WHERE i.id = '{reopened}' AND payload_purged_at IS NULL AND closed_at IS NOT NULL"
    );
    assert_eq!(count(&db, &untouched).await, 1);
    let run = runs::newest_run(&db, org).await;
    assert_eq!(runs::purged(&db, run).await, [0, 0, 1, 1]);
    assert_eq!(runs::step(&db, run, "approvals").await["rows_kept"], 1);
}

#[tokio::test]
async fn a_payload_written_while_its_incident_is_being_purged_goes_too_and_the_first_stamp_stays() {
    let db = TestDatabase::new().await;
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    let incident = app.incident(org, env, "closed", Some("200 days")).await;
    slow_deletes(&db, "incident_payloads", "0.7").await;
    let stamp = "SELECT payload_purged_at::text FROM incidents WHERE payload_purged_at IS NOT NULL";
    // A batch of one may take its time: there is no smaller one.
    let purge = start_purge(&db, org, 1);
    until_deleting(&db).await;

    // Waits for the purge's row lock, and is then a payload written after a purge.
    app.payload(incident).await;
    let first: String = db.value(stamp).await;
    assert!(succeeds(purge).await);
    runs::purge_in_batches(&db, org, 10).await;

    assert_eq!(count(&db, "incident_payloads").await, 0);
    assert_eq!(db.value::<String>(stamp).await, first);
    let purged: i64 = db
        .value("SELECT sum(rows_purged)::bigint FROM retention.purge_run_steps")
        .await;
    assert_eq!(purged, 1);
}

/// The run's record names the table, and that one of its rows is waited for.
fn says_what_is_held(run: &Value, table: &str) {
    assert_eq!(run["error_kind"], "contention", "{run}");
    let error = run["error"].as_str().unwrap();
    assert!(
        error.contains(&format!("1 expired rows of {table} are still there")),
        "{error}"
    );
}

/// The app holds one row for as long as the purge tries, and goes on with its work: the rest goes, and the row
/// that was held goes after its release.
async fn one_held_row_delays_only_itself(
    db: &TestDatabase,
    row: &str,
    table: &str,
    left: [i64; 4],
) {
    let app = App::on(&db.pool);
    let org = app.org("pro").await;
    let env = app.env(org).await;
    app.many_checks(org, env, 30, "40 days", 2).await;
    app.check(org, env, "1 hour", &[]).await;
    for _ in 0..10 {
        let incident = app.incident(org, env, "closed", Some("200 days")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "200 days").await;
    }
    let mut held = Held::by(db, row).await;
    let purge = start_purge(db, org, 7);

    until_retried(db, org).await;
    assert_eq!(runs::counts(db, org).await, left);
    let run = runs::newest_run(db, org).await;
    says_what_is_held(&runs::run(db, run).await, table);
    held.also(&format!(
        "SET LOCAL statement_timeout = '2s';
         INSERT INTO drift_checks (org_id, env_id, checked_at, status) VALUES ('{org}', '{env}', now(), 'drift');
         UPDATE workflow_drift_flags SET workflow_name = 'renamed';
         UPDATE incidents SET updated_at = now();
         UPDATE incident_payloads SET payload_json = '{{}}'"
    ))
    .await;
    held.commit().await;

    assert!(succeeds(purge).await);
    assert_eq!(runs::counts(db, org).await, [2, 0, 0, 0]);
    assert_eq!(runs::purged(db, run).await, [30, 60, 10, 10]);
    let record = runs::run(db, run).await;
    assert_eq!(record["status"], "succeeded");
    assert_eq!(
        (&record["error_kind"], &record["error"]),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn one_flag_held_by_the_app_delays_only_its_own_check() {
    let db = TestDatabase::new().await;
    let row = "SELECT FROM workflow_drift_flags WHERE workflow_id = 'wf_1' AND check_id =
                    (SELECT id FROM drift_checks ORDER BY checked_at OFFSET 11 LIMIT 1) FOR UPDATE";
    one_held_row_delays_only_itself(&db, row, "drift_checks", [2, 2, 0, 0]).await;
}

#[tokio::test]
async fn one_payload_held_by_the_app_delays_only_itself() {
    let db = TestDatabase::new().await;
    let row = "SELECT FROM incident_payloads WHERE incident_id =
                    (SELECT incident_id FROM incident_payloads ORDER BY incident_id OFFSET 4 LIMIT 1) FOR UPDATE";
    one_held_row_delays_only_itself(&db, row, "incident_payloads", [1, 0, 1, 0]).await;
}

#[tokio::test]
async fn one_check_held_by_the_app_delays_only_itself() {
    let db = TestDatabase::new().await;
    let row = "SELECT FROM drift_checks WHERE id =
                    (SELECT id FROM drift_checks ORDER BY checked_at OFFSET 11 LIMIT 1) FOR UPDATE";
    one_held_row_delays_only_itself(&db, row, "drift_checks", [2, 2, 0, 0]).await;
}

#[tokio::test]
async fn one_approval_held_by_the_app_delays_only_itself() {
    let db = TestDatabase::new().await;
    let row = "SELECT FROM approvals WHERE id =
                    (SELECT id FROM approvals ORDER BY id OFFSET 4 LIMIT 1) FOR UPDATE";
    one_held_row_delays_only_itself(&db, row, "approvals", [1, 0, 0, 1]).await;
}

/// An organization of which the app holds one payload, and a run of it by a worker with so many attempts.
async fn payload_held_during_a_run(
    db: &TestDatabase,
    max_attempts: &str,
) -> (Held, Service, Uuid, Uuid) {
    let app = App::on(&db.pool);
    let org = app.org_with_expired(30).await;
    let env = app.env(org).await;
    for _ in 0..10 {
        let incident = app.incident(org, env, "closed", Some("200 days")).await;
        app.payload(incident).await;
        app.approval(org, incident, "approved", "200 days").await;
    }
    let held = Held::by(db, "SELECT FROM incident_payloads LIMIT 1 FOR UPDATE").await;
    let settings = [
        ("DRIFT_RETENTION_WORKER__MAX_ATTEMPTS", max_attempts),
        ("DRIFT_RETENTION_WORKER__BACKOFF_MAX", "300ms"),
    ];
    let worker = Service::start(&db.url, "worker", &settings);
    let run = product::enqueue(&db.pool, org).await;
    (held, worker, org, run)
}

#[tokio::test]
async fn a_row_held_over_three_attempts_goes_once_it_is_let_go_and_is_counted_once() {
    let db = TestDatabase::new().await;
    let (held, _worker, org, run) = payload_held_during_a_run(&db, "50").await;
    eventually(
        "the third attempt has ended without being done",
        async || {
            ledger::attempts(&db.pool, run).await > 3
                || (ledger::attempts(&db.pool, run).await == 3
                    && product::status(&db.pool, run).await == "retrying")
        },
    )
    .await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 1, 0]);
    says_what_is_held(&runs::run(&db, run).await, "incident_payloads");

    held.rollback().await;

    until_status(&db.pool, run, "succeeded").await;
    assert!(ledger::attempts(&db.pool, run).await > 3);
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0]);
    assert_eq!(runs::purged(&db, run).await, [29, 58, 10, 10]);
    let stamped = "incidents WHERE payload_purged_at IS NOT NULL";
    assert_eq!(count(&db, stamped).await, 10);
}

#[tokio::test]
async fn a_row_held_over_every_attempt_fails_the_run_and_a_replay_takes_it() {
    let db = TestDatabase::new().await;
    let (held, _worker, org, run) = payload_held_during_a_run(&db, "2").await;
    until_status(&db.pool, run, "failed").await;
    let failed = runs::run(&db, run).await;
    assert_eq!(failed["attempts"], 2);
    says_what_is_held(&failed, "incident_payloads");
    assert_eq!(
        runs::counts(&db, org).await,
        [1, 2, 1, 0],
        "everything else is gone"
    );
    assert_eq!(runs::purged(&db, run).await, [29, 58, 9, 10]);

    held.rollback().await;
    product::json(&db.url, &["runs", "replay", &run.to_string(), "--json"]).await;

    let made = format!("SELECT id FROM retention.purge_runs WHERE replay_of = '{run}'");
    let replay: Uuid = db.value(&made).await;
    until_status(&db.pool, replay, "succeeded").await;
    assert_eq!(runs::counts(&db, org).await, [1, 2, 0, 0]);
    assert_eq!(runs::purged(&db, replay).await, [0, 0, 1, 0]);
    assert_eq!(runs::run(&db, run).await, failed, "as it was");
}
